"""The language model: gradients down to the embedding, tied or not, by complex step, gradcheck, torch; generation."""

import copy
import pickle

import numpy as np
import pytest
from frameworks import torch

from rnn_numpy import GRU, LSTM, RNN, Linear, gradcheck
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.checks.report import WRONG
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.layers import KINDS
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.models import LanguageModel, decoding

V = 7


def made(kind=LSTM, tied=False, seed=0, **options):
    own = {name: options.pop(name) for name in ("padding_idx", "loss_options") if name in options}
    return LanguageModel(kind(4, 4, rng=seed, **options), V, tied=tied, rng=seed, **own)


def data(T=5, N=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(V, size=(T, N)), rng.integers(V, size=(T, N))


CASES = {
    "rnn": {"kind": RNN},
    "lstm-tied": {"tied": True},
    "lstm-2-tied": {"tied": True, "num_layers": 2},
    "gru": {"kind": GRU, "padding_idx": 2},
    "gru-tied-padding": {"kind": GRU, "tied": True, "padding_idx": 2},
    "lstm-smoothed": {"loss_options": {"label_smoothing": 0.1, "ignore_index": 3}},
    "projected-tied": {"tied": True, "kind": lambda *_, rng: LSTM(2, 4, proj_size=2, rng=rng)},
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_complex_step(case):
    model = made(**CASES[case])
    ids, targets = data()
    mask = np.random.default_rng(2).random(ids.shape) < 0.7
    value, grads, trace = model.loss_and_grads(ids, targets, mask)
    assert value == pytest.approx(float(model.loss_of(ids, targets, mask)), rel=1e-14)
    assert trace["l0"] is not None and list(grads) == list(model.params)
    twin = model.astype(np.complex128)
    reference = np.empty_like(grads.flat)
    for index in range(grads.flat.size):
        twin.params.flat[:] = model.params.flat
        twin.params.flat[index] += 1e-20j
        reference[index] = twin.loss_of(ids, targets, mask).imag / 1e-20
    theirs = Parameters(grads.shapes, np.float64, reference)
    if model.embedding.padding_idx is not None:
        # By definition the row has no gradient as an embedding, though the loss depends on it; as a readout it has one.
        row = model.embedding.padding_idx
        assert model.tied == bool(grads["embedding.weight"][row].any())
        theirs["embedding.weight"][row] = grads["embedding.weight"][row]
    for name, ours in grads.items():
        np.testing.assert_allclose(ours, theirs[name], rtol=0, atol=2e-14 * np.abs(theirs[name]).max(), err_msg=name)
        assert np.abs(theirs[name]).max() > 0, name


@pytest.mark.parametrize("padding_idx", [None, 2], ids=["no-padding", "padding"])
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("kind", ["rnn-relu", "lstm", "gru"])
def test_gradcheck_goes_to_the_embedding(kind, tied, padding_idx):
    """Of padding, tied, the row has the gradient of the readout alone."""
    model = LanguageModel(KINDS[kind](3, 3, rng=0), V, tied=tied, padding_idx=padding_idx, rng=0)
    ids, targets = data(3, 2)
    ids[0] = 2
    report = gradcheck(model, ids, targets)
    assert report.ok and report["embedding.weight"].error < 1e-12


@pytest.mark.parametrize("lost", ["embedding", "readout"])
def test_a_tied_weight_that_gets_one_of_its_two_gradients_is_found(monkeypatch, lost):
    model = LanguageModel(RNN(3, 3, rng=0), V, tied=True, rng=0)
    ids, targets = data(3, 2)
    assert gradcheck(model, ids, targets).ok
    if lost == "embedding":
        monkeypatch.setattr(Embedding, "backward", lambda self, trace, de, grads=None: None)
    else:
        right = Linear.backward

        def wrong(self, trace, dy, grads=None):
            back = right(self, trace, dy, grads)
            grads["weight"][...] = 0
            return back

        monkeypatch.setattr(Linear, "backward", wrong)
    report = gradcheck(model, ids, targets)
    assert not report.ok and [row.name for row in report.rows if row.verdict == WRONG] == ["embedding.weight"]


# ------------------------------------------------------------------------------------------------------------- torch


def as_torch(model):
    """Return torch's embedding, layer and linear map with the model's parameters."""
    kind = {"RNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}[type(model.rnn).__name__]
    V, E = model.params["embedding.weight"].shape
    padding_idx = model.embedding.padding_idx
    embedding = torch.nn.Embedding(V, E, padding_idx, dtype=torch.float64)
    rnn = kind(E, model.rnn.hidden_size, model.rnn.num_layers, dtype=torch.float64)
    readout = torch.nn.Linear(model.readout.in_features, V, dtype=torch.float64)
    for ours, theirs in ((model.embedding, embedding), (model.rnn, rnn), (model.readout, readout)):
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.params.state_dict().items()})
    if model.tied:
        readout.weight = embedding.weight
    return embedding, rnn, readout


@pytest.mark.needs_torch
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_torch(kind, layers, tied):
    model = LanguageModel(kind(6, 6, layers, rng=0), V, tied=tied, padding_idx=1 if layers == 2 else None, rng=0)
    embedding, rnn, readout = as_torch(model)
    state = None
    for seed in range(2):  # two windows, the second from the state of the first
        ids, targets = data(6, 4, seed)
        logits, h_n = model(ids, state)
        loss, grads, _ = model.loss_and_grads(ids, targets, h_0=state)
        carried = None if state is None else tuple(map(torch.tensor, state)) if kind is LSTM else torch.tensor(state)
        output, _ = rnn(embedding(torch.tensor(ids)), carried)
        expected = readout(output)
        theirs = torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(targets).flatten())
        for part in (embedding, rnn, readout):
            part.zero_grad()
        theirs.backward()
        np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=0, atol=1e-13 * np.abs(logits).max())
        assert float(loss) == pytest.approx(theirs.item(), rel=1e-13)
        assert_grad_close("embedding", grads["embedding.weight"], embedding.weight.grad.numpy(), rtol=1e-13)
        assert_grad_close("bias", grads["readout.bias"], readout.bias.grad.numpy(), rtol=1e-13)
        if not tied:
            assert_grad_close("readout", grads["readout.weight"], readout.weight.grad.numpy(), rtol=1e-13)
        for name, parameter in rnn.named_parameters():
            assert_grad_close(name, grads["rnn." + name], parameter.grad.numpy(), rtol=1e-13)
        state = h_n


# ------------------------------------------------------------------------------------------------------ one vector


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_copies_and_pickles_are_whole_and_on_their_own(tied):
    model = made(tied=tied)
    ids, targets = data()
    loss = model.loss_of(ids, targets)
    assert list(model.params)[:2] == ["embedding.weight", "readout.bias" if tied else "readout.weight"]
    assert np.shares_memory(model.readout.params["weight"], model.embedding.params["weight"]) == tied
    twins = [copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float64)]
    for twin in [*twins, twins[0].astype(np.float32).astype(np.float64)]:
        twin.load_state_dict(model.state_dict())
        assert twin.loss_of(ids, targets) == loss and twin.tied == tied
        assert np.shares_memory(twin.readout.params["weight"], twin.embedding.params["weight"]) == tied
        twin.params.flat[:] = 0
        assert not any(layer.params.flat.any() for layer in (twin.embedding, twin.rnn, twin.readout))
        assert model.loss_of(ids, targets) == loss
    assert repr(model).startswith("LanguageModel(Embedding(7, 4")


def test_a_tied_weight_is_drawn_between_that_of_an_embedding_and_that_of_a_readout():
    model = LanguageModel(GRU(16, 16, rng=0), V, tied=True, padding_idx=3, rng=0)
    apart = LanguageModel(GRU(16, 16, rng=0), V, padding_idx=3, rng=0)
    assert np.array_equal(model.params["embedding.weight"], apart.params["embedding.weight"] / 2)
    assert not model.params["embedding.weight"][3].any()


def test_what_a_mean_counts():
    ids, targets = data()
    mask = np.random.default_rng(2).random(ids.shape) < 0.5
    options = {"ignore_index": 3, "weight": np.arange(1.0, 8.0)}
    for own in ({}, options, {"reduction": "sum"}, {"reduction": "sentence"}, {"weight": options["weight"]}):
        model = made(loss_options=own)
        summed = made(loss_options={**own, "reduction": "sum"})
        for m in (None, mask):
            whole = model.count(ids, targets, m) * model.loss_of(ids, targets, m)
            assert whole == pytest.approx(float(summed.loss_of(ids, targets, m)), rel=1e-13)
    assert made().count(ids, targets) == 15 and made().count(ids, targets, mask) == mask.sum()


# ----------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_what_is_generated_is_what_the_model_says_step_by_step(kind):
    model = LanguageModel(kind(4, 8, 2, rng=0), V, rng=0)
    model.params.flat *= 3
    prompt = np.array([1, 2, 3])
    found = model.generate(prompt, 6, greedy=True)
    text = list(prompt)
    for _ in range(6):
        text.append(int(model(np.array(text))[0][-1].argmax()))
    assert found.tolist() == text[3:]
    assert np.array_equal(model.generate(prompt, 6, rng=3), model.generate(prompt, 6, rng=np.random.default_rng(3)))
    assert np.array_equal(model.generate(prompt, 6, top_k=1, rng=3), found)
    assert np.array_equal(model.generate(prompt, 6, top_p=1e-9, rng=3), found)
    drawn = model.generate(prompt, 200, temperature=3.0, rng=3)
    assert set(drawn) == set(range(V)) and len(set(model.generate(prompt, 200, temperature=3.0, top_k=2, rng=3))) < V
    # A prompt may come in two parts.
    _, state = model(prompt[:2])
    assert np.array_equal(model.generate(prompt[2:], 6, h_0=state, rng=3), model.generate(prompt, 6, rng=3))


class CalledGRU(GRU):
    """A layer with a call of its own, which a stream would not run."""

    def __call__(self, *arguments, **options):
        return super().__call__(*arguments, **options)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 5)])
def test_each_id_is_read_with_the_bits_of_a_call(shape, monkeypatch):
    seen = []
    greedy = decoding.greedy
    monkeypatch.setattr(decoding, "greedy", lambda logits: seen.append(logits) or greedy(logits))
    for dtype in (np.float32, np.float64):
        for options in ({}, {"batch_first": True}):
            prompt, found = np.random.default_rng(0).integers(V, size=shape), []
            for kind in (GRU, CalledGRU):
                model = LanguageModel(kind(4, 33, 2, **options, dtype=dtype, rng=0), V, rng=0)
                seen.clear()
                ids = model.generate(prompt.T if options else prompt, 6, greedy=True)
                found.append([ids, *seen])
            assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_a_batch_is_its_sequences():
    model = LanguageModel(GRU(4, 8, rng=0), V, rng=0)
    prompts = np.random.default_rng(0).integers(V, size=(4, 5))
    together = model.generate(prompts, 30, rng=7)
    assert together.shape == (30, 5)
    for size in range(1, 5):
        assert np.array_equal(model.generate(prompts[:, :size], 30, rng=7), together[:, :size])
    assert np.array_equal(model.generate(prompts[:, 0], 30, rng=7), together[:, 0])
    alike = model.generate(prompts, 30, greedy=True)
    for n in range(5):
        assert np.array_equal(model.generate(prompts[:, n], 30, greedy=True), alike[:, n])
    first = LanguageModel(GRU(4, 8, batch_first=True, rng=0), V, rng=0)
    assert np.array_equal(first.generate(prompts.T, 30, rng=7), together.T)
    assert model.generate(prompts, 0, rng=0).shape == (0, 5) and first.generate(prompts.T, 0, rng=0).shape == (5, 0)
    loss = model.loss_of(prompts, prompts)
    assert first.loss_of(prompts.T, prompts.T) == pytest.approx(float(loss), rel=1e-14)


def test_refusals():
    with pytest.raises(DTypeError, match="LanguageModel: rnn must be a recurrent layer: RNN, LSTM or GRU; got Linear"):
        LanguageModel(Linear(1, 1), V)
    with pytest.raises(OptionError, match="rnn must not be bidirectional"):
        LanguageModel(GRU(2, 2, bidirectional=True), V)
    with pytest.raises(OptionError, match="tied = True needs a layer whose output is as wide.* E = 2 and output 3"):
        LanguageModel(GRU(2, 3), V, tied=True)
    with pytest.raises(OptionError, match="vocabulary_size must be at least 1"):
        LanguageModel(GRU(2, 3), 0)
    with pytest.raises(DTypeError, match="tied must be True or False"):
        LanguageModel(GRU(2, 2), V, tied=1)
    model = made()
    ids, targets = data()
    with pytest.raises(OptionError, match=r"Embedding.forward: ids.* 7\); got 7"):
        model(np.array([[7]]))
    with pytest.raises(DTypeError, match=r"Embedding.forward: ids must be integers"):
        model(np.array([[0.0]]))
    with pytest.raises(ShapeError, match=r"cross_entropy_loss: targets must have shape"):
        model.loss_and_grads(ids, targets[:2])
    with pytest.raises(OptionError, match="LanguageModel.generate: temperature must be greater than 0; .* greedy"):
        model.generate([0], 1, temperature=0)
    with pytest.raises(ShapeError, match=r"prompt must have shape \(T0,\) or \(T0, N\) with T0 >= 1; got \(0,\)"):
        model.generate([], 1)
    with pytest.raises(OptionError, match="steps must be at least 0"):
        model.generate([0], -1)
    model.params.flat[:] = np.nan
    with pytest.raises(NonFiniteError, match="logits must be finite"):
        model.generate([0], 1, rng=0)
