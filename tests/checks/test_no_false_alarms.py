"""No false alarm over 300 random right configurations of all layers and all options."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.checks import gradcheck

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

# Of 2 000 draws none is called wrong; these are some of each kind.
HARDER = 64


def hard(seed):
    """Return (layer, x, arguments) with weights of 60 or 100 times the usual, next to gains of 10, and tiny inputs."""
    rng = np.random.default_rng([77, seed])
    kind, fixed = KINDS[seed % len(KINDS)]
    H, D, N, L = int(rng.integers(3, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    T, dtype = int(rng.choice([1, 2, 3, 5, 8, 13])), np.float32 if rng.random() < 0.5 else np.float64
    masks = {"dropout": 0.4 if L > 1 and rng.random() < 0.3 else 0.0, "zoneout": 0.2 if rng.random() < 0.2 else 0.0}
    layer = kind(D, H, **fixed, **masks, num_layers=L, bias=bool(rng.random() < 0.7), dtype=dtype,
                 bidirectional=bool(rng.random() < 0.5), rng=int(rng.integers(1000)))  # fmt: skip
    layer.params.flat[:] *= rng.choice([60, 100, 10, 1, 1e-3])
    sizes = [1e-8, 1e-10, 1e-20, *((1e-100, 1e-200, 1e-300) if dtype == np.float64 else (1e-38, 1e-42))]
    x = (rng.normal(size=(T, N, D)) * rng.choice(sizes)).astype(dtype)
    return layer, x, {"lengths": rng.integers(1, T + 1, size=N)} if rng.random() < 0.4 else {}


@pytest.mark.parametrize("start", range(0, HARDER, 16))
def test_no_right_layer_is_called_wrong_where_numbers_end(start):
    verdicts = []
    for seed in range(start, start + 16):
        layer, x, given = hard(seed)
        with np.errstate(all="ignore"):  # float32 overflows under weights of 100
            report = gradcheck(layer, x, **given, trials=seed % 4 == 0)
        assert report.verdict != "FAILED", f"draw {seed}: {layer!r}\n{report}"
        verdicts.append(report.verdict)
    assert verdicts.count("ok") >= 12  # nor is it an excuse for all


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
