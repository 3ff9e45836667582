"""No false alarm over 300 random right configurations of all layers and all options, and where numbers end."""

import numpy as np
import pytest
from hard_draws import EVERY, MODELS, hard
from unseen_layers import Spoiled

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM, Recurrent
from rnn_numpy.checks import gradcheck
from rnn_numpy.layers.attention import Attending, AttentionRNN
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.general import FUNCTIONS, Activation, GeneralGRU, GeneralLSTM, GeneralRNN
from rnn_numpy.models import (
    Captioner,
    EncoderDecoder,
    Forecaster,
    LanguageModel,
    Rollout,
    Seq2SeqForecaster,
    SequenceModel,
)
from tests.harder_fuzz import verdict_of

EVERY_MODEL = (Captioner, EncoderDecoder, Forecaster, LanguageModel, Rollout, Seq2SeqForecaster, SequenceModel)

KINDS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (LSTM, {}),
    (LSTM, {"proj_size": 2}),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {}),
]
CONFIGURATIONS, CHUNK = 320, 20
WEIGHTS = ("drawn", "drawn", "lognormal", "gain 3", "tiny", "zero", "contracting", "saturated")
LOSSES = ("left out", "all", "last step", "one entry", "ones")


def drawn(seed):
    """Return (layer, x, arguments) of one configuration."""
    rng = np.random.default_rng([20, seed])
    kind, fixed = KINDS[seed % len(KINDS)]
    H, D, N = int(rng.integers(3 if "proj_size" in fixed else 1, 6)), int(rng.integers(1, 4)), int(rng.integers(4))
    T = 200 if seed % 40 in (5, 10) else int(rng.choice([1, 2, 3, 5, 8, 13]))
    num_layers = 1 if T == 200 else int(rng.integers(1, 4))
    options = {
        **fixed,
        "num_layers": num_layers,
        "bias": bool(rng.random() < 0.7),
        "batch_first": bool(rng.random() < 0.3),
        "bidirectional": bool(rng.random() < 0.4),
        "dropout": 0.4 if num_layers > 1 and rng.random() < 0.4 else 0.0,
        "recurrent_dropout": 0.3 if rng.random() < 0.3 else 0.0,
        "zoneout": 0.2 if rng.random() < 0.3 else 0.0,
        "dtype": np.float32 if rng.random() < 0.1 else np.float64,
    }
    layer = kind(D, H, **options, rng=int(rng.integers(1000)))
    double, normalised = layer.dtype == np.float64, kind is LayerNormLSTM
    weights = str(rng.choice(WEIGHTS[: 8 if double and kind in (RNN, LSTM, GRU) else 7]))
    flat = layer.params.flat
    if weights == "lognormal":
        flat[:] *= np.exp(rng.normal(size=flat.shape))
    elif weights in ("gain 3", "tiny", "zero", "saturated"):
        flat[:] *= {"gain 3": 3, "tiny": 1e-3, "zero": 0, "saturated": 60}[weights]
    elif weights == "contracting":
        for name, array in layer.params.items():
            array[...] *= 0.05 if name.startswith("weight_hh") else 1
    sizes = [1.0, 1.0, 0.0, 1e-8, 1e-100, 1e3, 1e8][: 3 if normalised else 7 if double else 4]
    unbatched = rng.random() < 0.15
    N, time = max(1, N) if unbatched or seed % 16 else N, int(layer.batch_first and not unbatched)
    shape = (T, D) if unbatched else (N, T, D) if layer.batch_first else (T, N, D)
    x = (rng.normal(size=shape) * rng.choice(sizes)).astype(layer.dtype)
    given = {}
    if not unbatched and N and rng.random() < 0.4:
        given["lengths"] = rng.integers(1, T + 1, size=N)
    rows = layer.num_layers * layer.num_directions

    def states():
        widths = [layer.width(state) for state in layer.cell.states]
        arrays = tuple(rng.normal(size=(rows, w) if unbatched else (rows, N, w)).astype(layer.dtype) for w in widths)
        return arrays if len(arrays) > 1 else arrays[0]

    if rng.random() < 0.5:
        given["h_0"] = states()
    loss, size = str(rng.choice(LOSSES)), rng.choice([1.0, 1.0, 0.0, 1e-200, 1e200]) if double else 1.0
    if loss != "left out":
        doutput = rng.normal(size=(*shape[:-1], layer.num_directions * layer.output_width))
        if loss == "last step":
            doutput[(slice(None),) * time + (slice(0, T - 1),)] = 0
        elif loss == "one entry":
            doutput *= np.arange(doutput.size).reshape(doutput.shape) == doutput.size // 2
        elif loss == "ones":
            doutput[...] = 1
        given["doutput"] = doutput * size
        given["dh_n"] = tuple(size * s for s in h) if isinstance(h := states(), tuple) else size * h
    return layer, x, given


@pytest.mark.collection
@pytest.mark.parametrize("start", range(0, CONFIGURATIONS, CHUNK))
def test_right_gradients_pass(start):
    for seed in range(start, start + CHUNK):
        layer, x, given = drawn(seed)
        # What every check has is run for all, what "trials" adds to a passed one for a quarter, of every kind.
        report = gradcheck(layer, x, **given, trials=seed // len(KINDS) % 4 == 0)
        assert report.ok, f"configuration {seed}: {sorted(given)}\n{report}"


def test_the_draw_covers_every_option():
    drawings = [drawn(seed) for seed in range(CONFIGURATIONS)]
    layers = [layer for layer, _, _ in drawings]
    assert CONFIGURATIONS >= 300
    for option in ("bias", "batch_first", "bidirectional"):
        assert {getattr(layer, option) for layer in layers} == {True, False}
    for option in ("dropout", "recurrent_dropout", "zoneout"):
        assert sum(np.any(getattr(layer, option)) for layer in layers) >= 20
    assert {layer.num_layers for layer in layers} == {1, 2, 3}
    assert {layer.dtype.name for layer in layers} == {"float32", "float64"}
    assert {x.ndim for _, x, _ in drawings} == {2, 3}
    assert any(not x.size for _, x, _ in drawings)
    assert any(200 in x.shape for _, x, _ in drawings)
    for name in ("lengths", "h_0", "doutput"):
        assert 20 <= sum(name in given for _, _, given in drawings) < CONFIGURATIONS


# ------------------------------------------------------------------------------------------------ where numbers end

# Of 2 000 draws none is called wrong (`python -m tests.harder_fuzz`); these are some of each kind.
HARDER = 3 * len(EVERY)


@pytest.mark.parametrize("start", range(0, HARDER, len(EVERY)))
def test_no_right_gradient_is_called_wrong_where_numbers_end(start):
    verdicts = [verdict_of(seed) for seed in range(start, start + len(EVERY))]
    assert {verdict for verdict, _ in verdicts} <= {"ok", "undecided", "refused"}, verdicts
    assert [verdict for verdict, _ in verdicts].count("ok") >= 11  # nor is it an excuse for all


def test_the_harder_draw_covers_every_layer_and_model():
    draws = [hard(seed) for seed in range(len(EVERY) * len(MODELS) * 4)]
    targets = [target for target, _, _ in draws]
    layers = [target for target in targets if isinstance(target, Recurrent)]
    for kind in (RNN, LSTM, GRU, PeepholeLSTM, LayerNormLSTM, GeneralRNN, GeneralLSTM, GeneralGRU, Attending):
        assert sum(isinstance(layer, kind) for layer in layers) >= 20
    for kind in (*EVERY_MODEL, Embedding):
        assert any(isinstance(target, kind) for target in targets), kind
    for option in ("dropout", "recurrent_dropout", "zoneout", "bidirectional", "batch_first", "bias"):
        assert sum(np.any(getattr(layer, option)) for layer in layers) >= 20, option
    assert {activation.name for layer in layers for activation in getattr(layer, "functions", ())[:3]} == set(FUNCTIONS)
    for name in ("score", "gate", "coverage", "location", "input_feeding"):
        assert len({getattr(layer, name) for layer in layers if isinstance(layer, Attending)}) > 1, name
    assert {target.params.flat.dtype.name for target in targets} == {"float32", "float64"}
    for name in ("lengths", "h_0", "doutput", "dh_n", "given"):
        assert sum(name in named for _, _, named in draws) >= 20, name


def shut(model, factor=60):
    """Return a model with weights so large that its gates are shut."""
    model.params.flat[:] *= factor
    return model


def language_model(seed=1, dtype=np.float64):
    return shut(LanguageModel(GeneralLSTM(2, 3, peepholes=True, dtype=dtype, rng=seed), 6, rng=seed), 100)


IDS, NEXT = np.array([[4], [5], [3]]), np.array([[5], [3], [4]])


class Unheard(LanguageModel):
    """The gradient of the embedding is not there."""

    def loss_and_grads(self, *batch, **options):
        loss, grads, trace = super().loss_and_grads(*batch, **options)
        grads["embedding.weight"][...] = 0
        return loss, grads, trace


class Unread(Spoiled, AttentionRNN):
    """The memory's gradient is not there."""

    def spoil(self, result, trace):
        result.dgiven["values"] = np.zeros_like(result.dgiven["values"])


def attentive(kind, dtype=np.float64):
    layer = shut(kind(2, 5, batch_first=True, dtype=dtype, rng=2), 100)
    x, values = np.zeros((2, 8, 2)), 20 * np.random.default_rng(3).normal(size=(2, 1, 5))
    return gradcheck(layer, x.astype(dtype), given={"values": values.astype(dtype)})


def test_a_mistake_behind_shut_gates_is_one_where_they_are_open():
    """What can be said of a gradient of 1e-18 beside others of 1 is said of the same one at smaller weights."""
    assert [gradcheck(language_model(seed), IDS, NEXT).verdict for seed in (1, 3)] == ["ok", "undecided"]
    for seed in (1, 3):
        model = language_model(seed)
        model.__class__ = Unheard
        assert gradcheck(model, IDS, NEXT).verdict == "FAILED"


@pytest.mark.parametrize(("factor", "verdict"), [(1, "undecided"), (0, "FAILED")])
def test_a_sigmoid_that_is_shut_in_a_function(factor, verdict):
    def sigmoid(p):
        return 1 / (1 + np.exp(-p["s"]))

    def grads(p):
        return {"s": factor * sigmoid(p) * (1 - sigmoid(p))}

    report = gradcheck(lambda p: np.sum(sigmoid(p)), {"s": np.array([45.0, 60.0])}, grads=grads)
    assert report.verdict == verdict


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_memory_is_judged_step_by_step(dtype):
    with np.errstate(all="ignore"):
        assert attentive(AttentionRNN, dtype).verdict != "FAILED"
        report = attentive(Unread, dtype)
    assert report.verdict == "FAILED"


@pytest.mark.parametrize(("T", "N", "S"), [(5, 0, 4), (1, 2, 1), (4, 2, 3)])
def test_any_size_of_a_memory(T, N, S):
    given = {"values": np.ones((S, N, 3)), "exists": np.zeros((N, S), bool)}
    assert gradcheck(AttentionRNN(2, 3, rng=0), np.ones((T, N, 2)), given=given).ok


def test_a_state_of_zeros_at_the_kink_of_a_relu():
    layer = GeneralLSTM(2, 4, activations=["relu"] * 3, peepholes=True, rng=0)
    x = np.random.default_rng(0).normal(size=(6, 2, 2))
    assert gradcheck(layer, x).verdict != "FAILED"


def at_kinks(kind):
    """A state of exactly 0 at the kink of the function that it goes through."""
    layer = kind(1, 4, activations=["relu", Activation("thresholded_relu", 0.5), "leaky_relu"], coupled=True,
                 peepholes=True, rng=0)  # fmt: skip
    layer.params.flat[:] *= 1e-3
    return gradcheck(layer, 1e-9 * np.ones((5, 1, 1)))


class Doubled(Spoiled, GeneralLSTM):
    def spoil(self, result, trace):
        result.dc_0 = 2 * result.dc_0


def test_at_a_kink_both_slopes_are_right_and_no_third_one():
    assert at_kinks(GeneralLSTM).verdict == "undecided"
    assert at_kinks(Doubled).verdict == "FAILED"


def test_what_leaves_the_range_of_numbers_is_not_decided():
    layer = shut(GeneralRNN(2, 3, activations=["softplus"], rng=0), 1e3)
    with np.errstate(all="ignore"):
        report = gradcheck(layer, np.ones((200, 1, 2)))
    assert report.verdict == "undecided" and "leaves the range of numbers" in str(report)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-40])
def test_inputs_smaller_than_a_complex_step(size):
    """Next to the kink of a relu: the square of the step is larger than what is activated."""
    layer = GRU(2, 4, 2, bias=False, rng=0)
    assert gradcheck(layer, size * np.random.default_rng(0).normal(size=(5, 3, 2))).verdict == "ok"
    layer = RNN(2, 4, 2, nonlinearity="relu", bias=False, rng=0)
    assert gradcheck(layer, size * np.random.default_rng(0).normal(size=(5, 3, 2))).verdict != "FAILED"


@pytest.mark.parametrize("seed", range(8))
def test_saturated_layers_in_single_precision_pass(seed):
    layer = LSTM(3, 4, bidirectional=True, dtype=np.float32, rng=seed)
    layer.params.flat[:] *= 100
    x = (1e-10 * np.random.default_rng(seed).normal(size=(8, 2, 3))).astype(np.float32)
    with np.errstate(all="ignore"):
        assert gradcheck(layer, x).verdict != "FAILED"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 10])
def test_rounding_is_no_excuse_for_a_mistake(scale, dtype):
    class Wrong(LSTM):
        def backward_loop(self, run):
            for t in super().backward_loop(run):
                run.binding.aligned("da_f_t")[t] *= 1.01
                yield t

    layer = Wrong(3, 4, dtype=dtype, rng=0)
    layer.params.flat[:] *= scale
    assert gradcheck(layer, np.random.default_rng(0).normal(size=(8, 2, 3)).astype(dtype)).verdict == "FAILED"
