"""Embedding against the complex step, torch, and np.add.at."""

import copy
import pickle

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import Embedding, Linear, cross_entropy_loss, gradcheck
from rnn_numpy.core import Parameters
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.embedding import BLOCK, MOST_ROUNDS, add_rows

SEEDS = st.integers(0, 2**32 - 1)


def assert_close(got, reference, rtol):
    largest = np.abs(reference).max()
    assert largest > 0
    np.testing.assert_allclose(got, reference, rtol=0, atol=rtol * largest)


@given(SEEDS, st.integers(1, 5), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3), st.booleans())
def test_gradients_are_those_of_the_complex_step(seed, V, E, leading, padded):
    rng = np.random.default_rng(seed)
    embedding = Embedding(V, E, V - 1 if padded else None, rng=rng)
    ids, de = rng.integers(0, V, leading), rng.normal(size=(*leading, E))
    e, trace = embedding.forward(ids)
    assert np.array_equal(e, embedding.params["weight"][ids]) and np.array_equal(e, embedding(ids))
    found = embedding.backward(trace, de).grads["weight"]
    twin = embedding.astype(np.complex128)
    expected = np.empty((V, E))
    for index in np.ndindex(V, E):
        twin.load_state_dict(embedding.state_dict())
        twin.params["weight"][index] += 1e-20j
        expected[index] = (de * twin(ids)).sum().imag / 1e-20
    if padded:
        expected[V - 1] = 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * np.abs(de).sum())


@pytest.mark.needs_torch
@pytest.mark.parametrize("padding_idx", [None, 0, 2, -1, -5])
def test_it_equals_torch(padding_idx):
    rng = np.random.default_rng(0)
    embedding = Embedding(5, 3, padding_idx, rng=rng)
    theirs = torch.nn.Embedding(5, 3, padding_idx, dtype=torch.float64)
    assert embedding.padding_idx == theirs.padding_idx
    if padding_idx is not None:
        zero = np.zeros(3).tolist()
        assert embedding.params["weight"][padding_idx].tolist() == theirs.weight[padding_idx].tolist() == zero
    theirs.load_state_dict({name: torch.tensor(value) for name, value in embedding.state_dict().items()})
    ids, de = rng.integers(0, 5, (7, 4)), rng.normal(size=(7, 4, 3))
    expected = theirs(torch.tensor(ids))
    expected.backward(torch.tensor(de))
    e, trace = embedding.forward(ids)
    assert np.array_equal(e, expected.detach().numpy())
    assert_close(embedding.backward(trace, de).grads["weight"], theirs.weight.grad.numpy(), 1e-15)


def test_initial_values_are_normal():
    weight = Embedding(1000, 100, rng=0).params["weight"]
    assert abs(weight.mean()) < 0.02 and abs(weight.std() - 1) < 0.02
    assert np.array_equal(weight, Embedding(1000, 100, rng=0).params["weight"])
    assert not np.array_equal(weight, Embedding(1000, 100, rng=1).params["weight"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize(
    ("V", "E", "positions"),
    [(1, 3, 50), (2, 1, 7), (103, 5, 4000), (300, 3, 5000), (70000, 2, 300), (40, BLOCK // 64, 100), (5, 4, 0)],
)
def test_rows_add_up_as_those_of_add_at(V, E, positions, dtype):
    """Few ids and many, fewer rounds than MOST_ROUNDS and more, several blocks."""
    rng = np.random.default_rng(V)
    share = 1 / np.arange(1, V + 1)
    ids = rng.choice(V, size=positions, p=share / share.sum())
    de = rng.integers(-9, 10, (positions, E)).astype(dtype)  # of which every sum is exact
    dW = rng.integers(-9, 10, (V, E)).astype(dtype)
    for padding in (None, 0):
        expected, found = dW.copy(), dW.copy()
        keep = ids != padding
        np.add.at(expected, ids[keep], de[keep])
        add_rows(found, ids, de, padding)
        assert np.array_equal(found, expected)


def test_the_cases_above_reach_all_ways():
    rng = np.random.default_rng(103)
    share = 1 / np.arange(1, 104)
    counts = np.bincount(rng.choice(103, size=4000, p=share / share.sum()), minlength=103)
    assert counts.max() > MOST_ROUNDS > counts.min() > 1


@given(SEEDS, st.integers(1, 40), st.integers(1, 200))
def test_sums_have_no_order_but_that_of_the_ids(seed, V, positions):
    """Bit for bit the same twice, and whatever other sequences are in the batch."""
    rng = np.random.default_rng(seed)
    ids, de = rng.integers(0, V, positions), rng.normal(size=(positions, 3))
    first, again, wider = (np.zeros((size, 3)) for size in (V, V, V + 9))
    add_rows(first, ids, de, None)
    add_rows(again, ids.copy(), np.asfortranarray(de), None)
    others = np.concatenate([ids, V + rng.integers(0, 9, 50)])
    add_rows(wider, others, np.concatenate([de, rng.normal(size=(50, 3))]), None)
    assert first.tobytes() == again.tobytes() == wider[:V].tobytes()


def test_gradients_add_up_and_ids_may_change_after_forward():
    embedding = Embedding(4, 2, rng=0)
    ids, de = np.array([[1, 3], [1, 1]]), np.ones((2, 2, 2))
    _, trace = embedding.forward(ids)
    once = embedding.backward(trace, de).grads
    assert once["weight"][:, 0].tolist() == [0, 3, 0, 1]
    ids[:] = 0
    grads = once.copy()
    assert embedding.backward(trace, de, grads).grads is grads
    assert np.array_equal(grads.flat, 2 * once.flat)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int32, np.intp])
def test_ids_of_any_integer_dtype(dtype):
    embedding = Embedding(100, 2, rng=0)
    ids = np.array([99, 0, 5], dtype)
    e, trace = embedding.forward(ids)
    assert np.array_equal(e, embedding.params["weight"][[99, 0, 5]]) and trace.ids.dtype == np.intp
    assert embedding.backward(trace, np.ones((3, 2))).grads["weight"][[99, 0, 5]].all()
    assert np.array_equal(embedding([99, 0, 5]), e)


def test_no_ids_at_all():
    embedding = Embedding(3, 2, rng=0)
    e, trace = embedding.forward(np.zeros((0, 4), int))
    assert e.shape == (0, 4, 2)
    assert not embedding.backward(trace, np.zeros((0, 4, 2))).grads.flat.any()


def test_copies_dtypes_and_names():
    embedding = Embedding(4, 3, -1, dtype=np.float32, rng=0)
    assert repr(embedding) == "Embedding(4, 3, padding_idx=3, dtype=float32)"
    assert repr(Embedding(4, 3)) == "Embedding(4, 3, dtype=float64)"
    twin = embedding.astype(np.float64)
    assert twin.dtype == np.float64 and twin.padding_idx == 3 and embedding([1]).dtype == np.float32
    twin.params.flat[:] = 0
    for other in (copy.deepcopy(embedding), pickle.loads(pickle.dumps(embedding))):
        assert np.array_equal(other([0, 1]), embedding([0, 1])) and embedding.params.flat.any()


def test_it_shares_the_vector_of_a_model():
    embedding, readout = Embedding(4, 3, rng=0), Linear(3, 4, rng=0)
    params = Parameters.join({"embedding": embedding.params, "readout": readout.params})
    params.flat[:] = 2
    assert (embedding([1]) == 2).all()


class Bigrams:
    """The smallest language model: embedding, readout."""

    def __init__(self, embedding, readout):
        self.embedding, self.readout = embedding, readout
        self.params = Parameters.join({"embedding": embedding.params, "readout": readout.params})

    def astype(self, dtype):
        return Bigrams(self.embedding.astype(dtype), self.readout.astype(dtype))

    def freeze_padding(self):
        self.embedding.freeze_padding()

    def loss_and_grads(self, ids, targets):
        grads = self.params.zeros_like()
        e, looked_up = self.embedding.forward(ids)
        logits, read = self.readout.forward(e)
        loss, dlogits = cross_entropy_loss(logits, targets, ignore_index=0)
        de = self.readout.backward(read, dlogits, grads.part("readout")).dx
        self.embedding.backward(looked_up, de, grads.part("embedding"))
        return loss, grads


IDS = np.array([[1, 3, 0], [3, 3, 2], [0, 1, 3]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradcheck_of_an_embedding(dtype):
    report = gradcheck(Embedding(5, 2, dtype=dtype, rng=0), IDS)
    report.raise_if_failed()
    assert {row.name for row in report.rows} == {"weight"} and report.error < 1e-6


def test_gradcheck_takes_the_row_of_padding_for_a_constant():
    report = gradcheck(Embedding(5, 2, 0, rng=0), IDS)
    report.raise_if_failed()
    model = Bigrams(Embedding(5, 3, 3, rng=0), Linear(3, 5, rng=1))
    gradcheck(model, IDS, np.roll(IDS, -1, axis=0)).raise_if_failed()


# The backward pass of an embedding as it should not be: what goes into dW (V, E).
MISTAKES = {
    "rows that occur twice are overwritten": lambda dW, ids, de, _: dW.__setitem__(ids, de),
    "rows that occur twice are added once": lambda dW, ids, de, _: dW.__setitem__(ids, dW[ids] + de),
    "padding gets a gradient": lambda dW, ids, de, _: np.add.at(dW, ids, de),
    "another row is left out": lambda dW, ids, de, _: np.add.at(dW, ids[ids != 3], de[ids != 3]),
    "positions are taken in another order": lambda dW, ids, de, padding: add_rows(dW, ids[::-1], de, padding),
    "the mean over positions of an id": lambda dW, ids, de, padding: add_rows(
        dW, ids, de / np.bincount(ids)[ids][:, None], padding
    ),
}


@pytest.mark.parametrize("target", ["layer", "model"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_gradcheck_catches_wrong_sums(monkeypatch, mistake, target):
    monkeypatch.setattr("rnn_numpy.layers.embedding.add_rows", MISTAKES[mistake])
    ids = np.array([[1, 3, 0], [3, 2, 2], [0, 4, 3], [4, 3, 3]])
    embedding = Embedding(5, 3, 0, rng=0)
    if target == "layer":
        report, name = gradcheck(embedding, ids), "weight"
    else:
        model = Bigrams(embedding, Linear(3, 5, rng=1))
        report, name = gradcheck(model, ids, np.roll(ids, -1, axis=0)), "embedding.weight"
    assert not report.ok and [row.name for row in report.rows if row.verdict == "WRONG"] == [name]


def test_gradcheck_of_a_model_with_an_embedding():
    model = Bigrams(Embedding(4, 3, rng=0), Linear(3, 4, rng=1))
    report = gradcheck(model, IDS, np.roll(IDS, -1, axis=0))
    report.raise_if_failed()
    assert {row.name for row in report.rows} == {"embedding.weight", "readout.weight", "readout.bias"}


def test_gradcheck_of_functions_of_the_weight():
    embedding = Embedding(4, 2, rng=0)
    de = np.random.default_rng(0).normal(size=(3, 3, 2))

    def loss(at):
        other = embedding.astype(at["weight"].dtype)
        other.load_state_dict(at)
        return np.sum(de * np.sin(other(IDS)))

    def grads(at):
        other = embedding.astype(np.float64)
        other.load_state_dict(at)
        e, trace = other.forward(IDS)
        return other.backward(trace, de * np.cos(e)).grads

    gradcheck(loss, embedding.state_dict(), grads=grads).raise_if_failed()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Embedding(0, 1), OptionError, "Embedding: num_embeddings must be at least 1; got 0"),
        (lambda: Embedding(2, 1.0), DTypeError, "Embedding: embedding_dim must be an integer; got float 1.0"),
        (
            lambda: Embedding(3, 1, 3),
            OptionError,
            "Embedding: padding_idx must be in [-V, V) = [-3, 3); got 3",
        ),
        (
            lambda: Embedding(3, 1)(np.array([[0, 1], [1, -2]])),
            OptionError,
            "Embedding.forward: ids must be in [0, num_embeddings) = [0, 3); got -2 at t = 1, n = 1",
        ),
        (
            lambda: Embedding(3, 1)(np.array([0, 1, 3], np.uint8)),
            OptionError,
            "Embedding.forward: ids must be in [0, num_embeddings) = [0, 3); got 3 at t = 2",
        ),
        (
            lambda: Embedding(3, 1)(np.array(7)),
            OptionError,
            "Embedding.forward: ids must be in [0, num_embeddings) = [0, 3); got 7",
        ),
        (
            lambda: Embedding(3, 1)(np.array([[[5]]])),
            OptionError,
            "Embedding.forward: ids must be in [0, num_embeddings) = [0, 3); got 5 at axis 0 = 0, axis 1 = 0, "
            "axis 2 = 0",
        ),
        (
            lambda: Embedding(3, 1)(np.array([[1.5]])),
            DTypeError,
            "Embedding.forward: ids must be integers; got dtype float64, 1.5 at t = 0, n = 0",
        ),
        (
            lambda: Embedding(3, 1)(np.array([True, False])),
            DTypeError,
            "Embedding.forward: ids must be integers; got dtype bool, True at t = 0",
        ),
        (
            lambda: Embedding(3, 1)(np.array([1j])),
            DTypeError,
            "Embedding.forward: ids must be integers; got dtype complex128, 1j at t = 0",
        ),
        (
            lambda: Embedding(3, 1)(["a"]),
            DTypeError,
            "Embedding.forward: ids must be integers; got dtype <U1, a at t = 0",
        ),
        (
            lambda: Embedding(3, 2).backward(Embedding(3, 2).forward([1, 2])[1], np.ones((2, 3))),
            ShapeError,
            "Embedding.backward: de must have shape (..., embedding_dim) = (2, 2); got (2, 3)",
        ),
        (
            lambda: Embedding(3, 2).backward(Embedding(4, 2).forward([3])[1], np.ones((1, 2))),
            OptionError,
            "Embedding.backward: trace must be of 3 embeddings, as this layer; got 4",
        ),
        (
            lambda: Embedding(3, 2).backward(np.ones(3), np.ones((1, 2))),
            DTypeError,
            "Embedding.backward: trace must be the second result of forward; got ndarray",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
