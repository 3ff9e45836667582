"""What other libraries have: an error says what there is in its place."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import rnn_numpy
from rnn_numpy import GRU, LSTM, RNN, Adam, Cell, Embedding, Linear, LSTMCell, Parameters, Recurrent, SequenceModel
from rnn_numpy.core import memory, parameters
from rnn_numpy.core.elsewhere import ARGUMENTS, ATTRIBUTES
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.errors import CellError, DTypeError, RNNNumpyError, TooLargeError

THINGS = {
    "RNN": lambda: RNN(2, 3, rng=0),
    "LSTM": lambda: LSTM(2, 3, rng=0),
    "LSTMCell": lambda: LSTMCell(2, 3, rng=0),
    "Linear": lambda: Linear(2, 3, rng=0),
    "Embedding": lambda: Embedding(2, 3, rng=0),
    "SequenceModel": lambda: SequenceModel(RNN(2, 3, rng=0), 1, rng=0),
    "Adam": lambda: Adam(Linear(2, 3, rng=0).params),
}


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
def test_attributes_of_other_libraries(make):
    thing = make()
    missing = [name for name in ATTRIBUTES if not hasattr(thing, name)]
    assert {"eval", "train", "parameters", "to", "zero_grad"} <= set(missing)
    for name in missing:
        with pytest.raises(AttributeError) as caught:
            getattr(thing, name)
        assert str(caught.value) == f"{type(thing).__name__} has no attribute {name!r}: {ATTRIBUTES[name]}"
    with pytest.raises(AttributeError, match=f"^'{type(thing).__name__}' object has no attribute 'weigths'$"):
        _ = thing.weigths
    for twin in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert type(twin) is type(thing)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, LSTMCell, Linear, Embedding, SequenceModel, Adam])
def test_arguments_of_other_libraries(kind):
    with pytest.raises(DTypeError) as caught:
        kind(2, 3, device="cpu")
    assert str(caught.value) == f"{kind.__name__}: there is no argument device: {ARGUMENTS['device']}"
    with pytest.raises(TypeError, match="unexpected keyword argument 'devise'"):
        kind(2, 3, devise="cpu")


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l1_reverse"])
def test_a_parameter_is_no_attribute(name):
    layer = RNN(2, 3, num_layers=2, bidirectional=True, rng=0)
    with pytest.raises(AttributeError) as caught:
        getattr(layer, name)
    assert str(caught.value) == f"RNN has no attribute {name!r}: parameters are in a mapping, layer.params[{name!r}]"
    with pytest.raises(AttributeError, match="object has no attribute 'weight_hh_l7'$"):
        _ = layer.weight_hh_l7
    with pytest.raises(AttributeError, match="object has no attribute 'weight_hh_l0'$"):  # as unpickling asks
        _ = RNN.__new__(RNN).weight_hh_l0


def test_signatures_are_those_of_constructors():
    for kind in (RNN, LSTM, Linear, Adam, LSTMCell):
        own, constructor = inspect.signature(kind), inspect.signature(kind.__init__)
        assert list(own.parameters) == list(constructor.parameters)[1:]
    layer = RNN(2, 3, rng=0)
    assert list(inspect.signature(layer).parameters) == ["x", "h_0", "lengths", "given"]


def test_an_error_within_a_property_is_not_hidden():
    class Half(Parametric):
        @property
        def eval(self):
            return self.nothing

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = Half().eval
    with pytest.raises(AttributeError, match="no attribute 'params'"):
        _ = Half().dtype


def test_a_subclass_without_a_cell():
    class Mine(Recurrent):
        pass

    class Other(Recurrent):
        cell = RNN

    for kind, got in ((Mine, "NoneType"), (Other, "type")):
        with pytest.raises(CellError) as caught:
            kind(2, 3)
        said = (
            f"{kind.__name__}: a subclass of Recurrent says what a step computes: cell = Cell(...) in the class's body"
        )
        assert str(caught.value).startswith(f"{said}; got {got}. examples/run_your_own_cell.py")
    assert isinstance(RNN(2, 3).cell, Cell)


def test_more_parameters_than_memory(monkeypatch):
    for kind, large in ((RNN, 10**6), (LSTM, 10**6), (Linear, 10**12)):
        with pytest.raises(TooLargeError, match=r"would take [\d.]+ TB, and as much again while") as caught:
            kind(3, large)
        assert isinstance(caught.value, MemoryError) and isinstance(caught.value, RNNNumpyError)
    monkeypatch.setattr(parameters, "LARGE", 0)
    monkeypatch.setattr(parameters, "machine_memory", lambda: 200)
    assert Parameters({"w": (3, 4)}, np.float64).flat.size == 12
    with pytest.raises(TooLargeError) as caught:
        Parameters({"w": (3, 4), "b": (1,)}, np.float64)
    assert str(caught.value) == (
        "Parameters: w alone, 3 x 4, would be 12 numbers; all parameters together would take 104 bytes, and as much "
        "again while they are drawn. This machine has 200 bytes of memory: use smaller sizes"
    )
    monkeypatch.setattr(parameters, "machine_memory", lambda: None)
    assert Parameters({"w": (30, 40)}, np.float64).flat.size == 1200


def test_memory_of_the_machine_or_its_control_group(monkeypatch, tmp_path):
    whole = memory.machine_memory()
    assert whole is None or whole > 2**24
    monkeypatch.delattr(memory.os, "sysconf", raising=False)
    assert memory.machine_memory() is None
    assert rnn_numpy.RNN(2, 3).params.flat.size > 0
