"""The registry of layers: every recurrent layer is in it, by a name that makes it."""

import json

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM, layers
from rnn_numpy.engine import Recurrent
from rnn_numpy.layers import KINDS


def test_every_exported_recurrent_layer_is_in_it():
    exported = {kind for kind in map(vars(layers).get, layers.__all__) if isinstance(kind, type)}
    exported -= {layers.Attending}  # stands in front of one
    assert {type(make(2, 3)) for make in KINDS.values()} == {kind for kind in exported if issubclass(kind, Recurrent)}


@pytest.mark.parametrize("name", KINDS)
def test_names_make_different_layers_with_options(name):
    layer = KINDS[name](2, 3, num_layers=2, bidirectional=True, rng=0)
    assert layer.params["weight_hh_l1_reverse"].shape[1] == 3
    assert sum(repr(layer) == repr(make(2, 3, num_layers=2, bidirectional=True)) for make in KINDS.values()) == 1


CONFIGURED = [
    RNN(2, 3),
    RNN(2, 3, nonlinearity="relu", bias=False, dtype=np.float32),
    LSTM(2, 3, 2, proj_size=2, dropout=0.25, zoneout=(0.1, 0.2), forget_bias=1.0),
    GRU(2, 3, reset="before", batch_first=True, bidirectional=True, recurrent_dropout=0.5, zoneout=0.5),
    PeepholeLSTM(2, 3, forget_bias=1.0),
    LayerNormLSTM(2, 3, epsilon=1e-3, dtype=np.complex128),
]


@pytest.mark.parametrize("layer", CONFIGURED, ids=repr)
def test_its_configuration_makes_a_layer_again(layer):
    config = json.loads(json.dumps(layer.config()))
    twin = type(layer)(**config)
    twin.load_state_dict(layer.state_dict())
    assert repr(twin) == repr(layer) and twin.config() == layer.config()
    x = np.ones((4, 1, 2), layer.dtype)
    assert twin(x)[0].tobytes() == layer(x)[0].tobytes()


def test_a_configuration_has_every_option():
    assert LSTM(2, 3, proj_size=1, rng=0).config() == {
        "input_size": 2,
        "hidden_size": 3,
        "proj_size": 1,
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "recurrent_dropout": 0.0,
        "zoneout": 0.0,
        "dtype": "float64",
    }
    assert repr(RNN(2, 3, 2, "relu")) == "RNN(2, 3, nonlinearity='relu', num_layers=2, dtype=float64)"


def test_a_layer_of_ones_own_has_its_options_too():
    class Own(RNN):
        def __init__(self, input_size, hidden_size, leak=0.5, **options):
            self.leak = leak
            super().__init__(input_size, hidden_size, **options)

    layer = Own(2, 3, leak=0.25, nonlinearity="relu", num_layers=2)
    assert repr(layer) == "Own(2, 3, nonlinearity='relu', leak=0.25, num_layers=2, dtype=float64)"
    assert Own(**layer.config()).config() == layer.config()
