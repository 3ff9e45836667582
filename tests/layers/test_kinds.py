"""The registry of layers: every recurrent layer is in it, by a name that makes it."""

import pytest

from rnn_numpy import layers
from rnn_numpy.engine import Recurrent
from rnn_numpy.layers import KINDS


def test_every_exported_recurrent_layer_is_in_it():
    exported = {kind for kind in map(vars(layers).get, layers.__all__) if isinstance(kind, type)}
    assert {type(make(2, 3)) for make in KINDS.values()} == {kind for kind in exported if issubclass(kind, Recurrent)}


@pytest.mark.parametrize("name", KINDS)
def test_names_make_different_layers_with_options(name):
    layer = KINDS[name](2, 3, num_layers=2, bidirectional=True, rng=0)
    assert layer.params["weight_hh_l1_reverse"].shape[1] == 3
    assert sum(repr(layer) == repr(make(2, 3, num_layers=2, bidirectional=True)) for make in KINDS.values()) == 1
