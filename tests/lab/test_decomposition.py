"""The table of (t, k): its blocks against the lecture's formula and against backward, and every number read off it."""

import inspect
import pickle
from dataclasses import replace

import numpy as np
import pytest
from mgu import mgu_backward, mgu_forward

from rnn_numpy import GRU, LSTM, RNN, Cell, LayerNormLSTM, PeepholeLSTM, Recurrent, pack_padded_sequence
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import decompose, decomposition
from rnn_numpy.layers import gru as gru_module
from rnn_numpy.layers import lstm as lstm_module

EPS = np.finfo(float).eps
T, N, D, H = 7, 3, 3, 5
LENGTHS = (4, 7, 2)
MASKED = {"recurrent_dropout": 0.3, "zoneout": 0.2}
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, **MASKED}


class MGU(Recurrent):
    """A user's cell: without step_partials, one gate's rows act on another array than the state."""

    cell = Cell(("f", "n"), ("h",), mgu_forward, mgu_backward, hidden_inputs={"n": "k_t"}, records={"k": 1})


LAYERS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu", "bias": False}),
    (RNN, EVERYTHING),
    (LSTM, {}),
    (LSTM, {"proj_size": 3}),
    (LSTM, EVERYTHING),
    (LSTM, {"proj_size": 2, **EVERYTHING}),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (GRU, EVERYTHING),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (PeepholeLSTM, EVERYTHING),
    (LayerNormLSTM, {"epsilon": 0.3}),
    (MGU, {}),
    (MGU, EVERYTHING),
]


def recorded(kind, options, lengths=LENGTHS, batch=N, final=True):
    """Return a layer, its trace, and gradients of outputs and of final states."""
    rng = np.random.default_rng(5)
    layer = kind(D, H, rng=1, **options)
    output, finals, trace = layer.forward(rng.normal(size=(T, batch, D)), lengths=lengths)
    dh_n = tuple(rng.normal(size=state.shape) for state in (finals if isinstance(finals, tuple) else (finals,)))
    dh_n = dh_n if len(dh_n) > 1 else dh_n[0]
    return layer, trace, rng.normal(size=output.shape), dh_n if final else None


def taken_apart(kind, options, **others):
    return decompose(*recorded(kind, options, **others))


def blocks(table, name):
    """Return all blocks of a parameter, (T, T, *shape)."""
    shape = table.total(name).shape
    found = np.zeros((T, T, *shape))
    reverse = "reverse" in name
    for t in range(T):
        for k in range(t, T) if reverse else range(t + 1):
            found[t, k] = table.block(name, t, k)
    return found


def close(found, expected, factor=32):
    """Compare to some units of rounding of the largest entry."""
    atol = factor * EPS * np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------ the blocks


def test_the_lectures_double_sum():
    """Term by term, with the product that has t - k factors."""
    layer, trace, doutput, dh_n = recorded(RNN, {}, lengths=None, batch=1)
    h, x, W = trace.h[:, 0], trace.x[:, 0], layer.params["weight_hh_l0"]
    delta = doutput[:, 0].copy()
    delta[-1] += dh_n[0, 0]
    table = decompose(layer, trace, doutput, dh_n)
    slope = 1 - h[1:] ** 2  # row t + 1 of the trace's h is h_t
    for t in range(T):
        for k in range(t + 1):
            P = np.eye(H)
            for j in range(k + 1, t + 1):
                P = (slope[j][:, None] * W) @ P
            da = slope[k] * (P.T @ delta[t])
            close(table.block("weight_hh_l0", t, k), np.outer(da, h[k]))
            close(table.block("weight_ih_l0", t, k), np.outer(da, x[k]))
            close(table.block("bias_hh_l0", t, k), da)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_blocks_add_up_to_the_gradient_of_backward(kind, options, lengths):
    layer, trace, doutput, dh_n = recorded(kind, options, lengths)
    table = decompose(layer, trace, doutput, dh_n)
    grads = layer.backward(trace, doutput, dh_n).grads
    assert table.names == tuple(grads)
    for name in table.names:
        # Layer normalisation subtracts means: a few digits cancel.
        allowed = 1e-12 if kind is LayerNormLSTM else 1e-13
        expected = grads[name]
        np.testing.assert_allclose(table.total(name), expected, rtol=0, atol=allowed * np.abs(expected).max())
        np.testing.assert_array_equal(table.grads[name], expected)
        close(blocks(table, name).sum(axis=(0, 1)), expected, 4000 if kind is LayerNormLSTM else 64)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_table_goes_through_pickle_before_anything_was_asked_and_after(layers):
    layer, trace, doutput, dh_n = recorded(LSTM, {"num_layers": layers}, None)
    table = decompose(layer, trace, doutput, dh_n)
    early = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(early.grads.flat, table.grads.flat)
    late = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(late.grads.flat, table.grads.flat)
    np.testing.assert_array_equal(late.norms("weight_hh_l0"), table.norms("weight_hh_l0"))


def test_the_gradient_of_backward_is_that_of_the_call():
    """It is made when it is asked for; arrays of the caller, parameters and the trace's own gradients may change."""
    layer, trace, doutput, dh_n = recorded(LSTM, {}, None)
    grads = layer.backward(trace, doutput, dh_n).grads
    expected, kept = {name: grads[name].copy() for name in grads}, trace.dh.copy()
    table = decompose(layer, trace, doutput, dh_n)
    for array in (doutput, *(dh_n if isinstance(dh_n, tuple) else (dh_n,))):
        array *= 3.0
    layer.params.flat *= 2.0
    for name, gradient in expected.items():
        np.testing.assert_array_equal(table.grads[name], gradient)
    np.testing.assert_array_equal(trace.dh, kept)


ONE_DA = [(kind, options) for kind, options in LAYERS if kind in (RNN, LSTM, PeepholeLSTM)]


@pytest.mark.parametrize(("kind", "options"), ONE_DA, ids=str)
def test_blocks_of_the_last_layer_are_those_of_a_loss_at_one_step(kind, options):
    """With a loss at step t alone, the gradient of step k alone: out of backward's own arrays."""
    layer, trace, doutput, _ = recorded(kind, options)
    table = decompose(layer, trace, doutput)
    top = layer.num_layers - 1
    for title in [name for name in trace.layers if trace.layers[name].layer == top]:
        run = trace[title]
        sides = {"weight_ih": "x", "weight_hh": f"{run.states[0]}_prev"}
        for t in range(T):
            alone = np.zeros_like(doutput)
            alone[t] = doutput[t]
            layer.backward(trace, alone)
            for k in range(t, T) if run.reverse else range(t + 1):
                step = run[k]
                names = step.names
                for short, array in sides.items():
                    acts = step.h_in if short == "weight_hh" and "h_in" in names else getattr(step, array)
                    close(table.block(f"{short}_{title}", t, k), step.da.T @ acts)
                if layer.bias:
                    close(table.block(f"bias_hh_{title}", t, k), step.da.sum(axis=0))
                if "m" in names:
                    dh = step.dh_new if "dh_new" in names else step.dh
                    close(table.block(f"weight_hr_{title}", t, k), dh.T @ step.m)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_blocks_of_a_gru(reset):
    layer, trace, doutput, _ = recorded(GRU, {"reset": reset})
    table = decompose(layer, trace, doutput)
    for t in range(T):
        alone = np.zeros_like(doutput)
        alone[t] = doutput[t]
        layer.backward(trace, alone)
        for k in range(t + 1):
            step = trace[k]
            close(table.block("weight_ih_l0", t, k), step.da_ih.T @ step.x)
            close(table.block("bias_hh_l0", t, k), step.da_hh.sum(axis=0))
            rz, n = step.da_hh[:, : 2 * H], step.da_hh[:, 2 * H :]
            acts = step.k if reset == "before" else step.h_prev
            close(table.block("weight_hh_l0", t, k), np.concatenate([rz.T @ step.h_prev, n.T @ acts]))
            close(table.block("weight_hh_l0.n", t, k), n.T @ acts)


def test_rows_of_a_table_are_the_gradients_of_single_losses():
    """Also of a lower layer, whose loss step is that at which the layer above hands its gradient down."""
    layer, trace, doutput, _ = recorded(GRU, {"num_layers": 2}, lengths=None)
    table = decompose(layer, trace, doutput)
    grads = layer.backward(trace, doutput).grads
    dx = np.zeros((T, N, H))
    lower = GRU(D, H)
    lower.load_state_dict({name: array for name, array in layer.params.items() if name.endswith("l0")})
    upper = GRU(H, H)
    upper.load_state_dict({name[:-1] + "0": a for name, a in layer.params.items() if name.endswith("l1")})
    hidden, _, below = lower.forward(trace["l0"].x)
    _, _, above = upper.forward(hidden)
    dx = upper.backward(above, doutput).dx
    for t in range(T):
        alone = np.zeros_like(dx)
        alone[t] = dx[t]
        expected = lower.backward(below, alone).grads["weight_hh_l0"]
        close(blocks(table, "weight_hh_l0")[t].sum(axis=0), expected, 64)
    close(table.total("weight_hh_l0"), grads["weight_hh_l0"])


def test_final_states_enter_at_each_sequences_last_step():
    layer, trace, _, dh_n = recorded(LSTM, {"bidirectional": True})
    table = decompose(layer, trace, None, dh_n)
    forward, reverse = (table.norms(f"weight_hh_{title}").any(axis=1) for title in ("l0", "l0_reverse"))
    assert np.flatnonzero(forward).tolist() == sorted(length - 1 for length in LENGTHS)
    assert np.flatnonzero(reverse).tolist() == [0]


@pytest.mark.parametrize(("kind", "options"), [(LSTM, {}), (GRU, {"reset": "before"}), (RNN, {"bidirectional": True})])
def test_the_batch_is_the_sum_of_its_sequences(kind, options):
    layer, trace, doutput, dh_n = recorded(kind, options)
    whole = decompose(layer, trace, doutput, dh_n)
    x = trace["l0"].x
    states = dh_n if isinstance(dh_n, tuple) else (dh_n,)
    singles = []
    for n, length in enumerate(LENGTHS):
        own = layer.forward(x[:length, n : n + 1])[2]
        finals = tuple(state[:, n : n + 1] for state in states)
        singles.append(decompose(layer, own, doutput[:length, n : n + 1], finals if len(finals) > 1 else finals[0]))
    for name in whole.names:
        close(sum(single.total(name) for single in singles), whole.total(name))
        for t, k in ((0, 0), (1, 1), (3, 3)) if "reverse" in name else ((0, 0), (3, 1), (6, 2), (1, 0)):
            parts = [single.block(name, t, k) for single in singles if max(t, k) < single.T]
            close(sum(parts), whole.block(name, t, k))


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(("batch", "lengths"), [(1, None), (N, LENGTHS)], ids=["one sequence", "a batch"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_what_is_read_off_the_table(kind, options, batch, lengths):
    table = taken_apart(kind, options, batch=batch, lengths=lengths)
    lags = np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
    for name in table.names:
        G = blocks(table, name)
        rows = {name: slice(None)}
        if name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
            rows |= {f"{name}.{gate}": slice(i * H, (i + 1) * H) for i, gate in enumerate(table.gates)}
        for full, chosen in rows.items():
            part = G[:, :, chosen]
            flat = part.reshape(T, T, -1)
            total = flat.sum(axis=(0, 1))
            digits = 400 if kind is LayerNormLSTM else 32
            assert table.block(full, 1, 1).shape == part[0, 0].shape
            close(table.total(full).ravel(), total, digits)
            close(table.norms(full), np.sqrt((flat**2).sum(axis=2)), digits)
            close(table.share(full), flat @ total / (total @ total), digits)
            assert abs(table.share(full).sum() - 1) < 32 * EPS
            expected = [np.sqrt((flat[lags == lag].sum(axis=0) ** 2).sum()) for lag in range(T)]
            close(table.lag_profile(full), expected, digits)
            close(table.lag_block(full, 2), part[lags == 2].sum(axis=0), digits)
            kappa = table.kappa(full)
            sizes, sums = np.abs(part).sum(axis=(0, 1)), np.abs(part.sum(axis=(0, 1)))
            # Multiplied out: where a sum cancels, kappa itself has no digits left.
            seen = np.isfinite(kappa)
            close((kappa * np.abs(table.total(full)))[seen], sizes[seen], digits)
            assert (kappa[seen] >= 1 - digits * EPS).all()
            assert (sums[~seen] == 0).all()


def test_norms_of_sequences_that_cancel():
    """Two sequences whose blocks cancel to 1e-9 of each: the Gram matrix itself would have lost all of it."""
    layer = RNN(D, H, rng=0)
    x = np.repeat(np.random.default_rng(0).normal(size=(T, 1, D)), 2, axis=1)
    output, _, trace = layer.forward(x)
    doutput = np.ones_like(output)
    doutput[:, 1] = -1 + 1e-9
    table = decompose(layer, trace, doutput)
    G = blocks(table, "weight_ih_l0")
    expected = np.sqrt((G**2).sum(axis=(2, 3)))
    single = decompose(layer, layer.forward(x[:, :1])[2], doutput[:, :1]).norms("weight_ih_l0")
    assert expected.max() < 2e-9 * single.max()
    np.testing.assert_allclose(table.norms("weight_ih_l0"), expected, rtol=0, atol=8 * EPS * single.max())
    np.testing.assert_allclose(table.norms("weight_ih_l0"), 1e-9 * single, rtol=0, atol=32 * EPS * single.max())


def test_gradients_that_vanish_and_explode_beyond_the_range_of_squares():
    steps = 120
    for weight in (1e-2, 1e2):
        layer = RNN(1, 1, nonlinearity="relu", rng=0)
        layer.params["weight_ih_l0"][...] = 1.0
        layer.params["weight_hh_l0"][...] = weight
        layer.params["bias_ih_l0"][...] = layer.params["bias_hh_l0"][...] = 0.0
        output, _, trace = layer.forward(np.ones((steps, 1, 1)))
        doutput = np.zeros_like(output)
        doutput[-1] = 1.0
        norms = decompose(layer, trace, doutput).norms("weight_ih_l0")[-1]
        expected = np.log10(weight) * np.arange(steps)[::-1]
        np.testing.assert_allclose(np.log10(norms), expected, rtol=1e-13, atol=1e-13)
        assert abs(expected[0]) > 200


def test_kappa_of_nothing():
    layer = RNN(1, 2, rng=0)
    output, _, trace = layer.forward(np.array([[[1.0]], [[0.0]]]))
    doutput = np.zeros_like(output)
    table = decompose(layer, trace, doutput)
    assert np.isnan(table.kappa("bias_ih_l0")).all()
    assert np.isnan(table.share("bias_ih_l0")).all()
    assert np.isnan(table.by_path().shares("direct", "bias_ih_l0")).all()
    assert np.isnan(table.by_path().share("direct", "bias_ih_l0"))
    assert np.isnan(table.truncated(1).bias()) and np.isnan(table.truncated(1).cosine())


@pytest.mark.parametrize(("kind", "options"), [(LSTM, EVERYTHING), (PeepholeLSTM, {})], ids=str)
def test_lags_in_several_passes_are_the_same(kind, options, monkeypatch):
    table = taken_apart(kind, options)
    whole = {name: table.lag_profile(name) for name in table.names}
    sizes = {name: table.kappa(name) for name in table.names}
    monkeypatch.setattr(decomposition, "BUDGET", 1)
    for name in table.names:
        np.testing.assert_array_equal(table.lag_profile(name), whole[name])
        np.testing.assert_allclose(table.kappa(name), sizes[name], rtol=1e-13)


# ------------------------------------------------------------------------------------------------ truncation


@pytest.mark.parametrize("scheme", ["window", "chunk"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_truncation_is_a_mask(kind, options, scheme):
    table = taken_apart(kind, options)
    t, parts = np.arange(T), {name: blocks(table, name) for name in table.names}
    for K in (1, 3, T, T + 5):
        cut = table.truncated(K, scheme)
        mask = np.abs(t[:, None] - t) < K if scheme == "window" else t[:, None] // K == t // K
        np.testing.assert_array_equal(cut.mask, mask)
        kept, whole = [], []
        for name in table.names:
            G, total = cut.gradient(name), table.total(name)
            digits = 400 if kind is LayerNormLSTM else 32
            close(G, parts[name][mask].sum(axis=0), digits)
            if K >= T:
                np.testing.assert_array_equal(G, total)
                assert cut.bias(name) == 0 and abs(cut.cosine(name) - 1) < 4 * EPS
            else:
                bias = np.linalg.norm(G - total) / np.linalg.norm(total)
                np.testing.assert_allclose(cut.bias(name), bias, rtol=1e-13)
                cosine = np.sum(G * total) / np.linalg.norm(G) / np.linalg.norm(total)
                np.testing.assert_allclose(cut.cosine(name), cosine, rtol=0, atol=8 * EPS)
            kept.append(G.ravel())
            whole.append(total.ravel())
        kept, whole = np.concatenate(kept), np.concatenate(whole)
        np.testing.assert_allclose(cut.bias(), np.linalg.norm(kept - whole) / np.linalg.norm(whole), rtol=1e-13)


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize(("kind", "options"), [(RNN, {}), (LSTM, {}), (LSTM, {"proj_size": 2}), (GRU, {})], ids=str)
def test_chunks_are_what_training_in_chunks_computes(kind, options, K):
    """The sequence cut into pieces, states carried from one to the next, gradients not."""
    layer, trace, doutput, _ = recorded(kind, options, lengths=None)
    grads, state = layer.params.zeros_like(), None
    for start in range(0, T, K):
        piece = slice(start, start + K)
        _, state, own = layer.forward(trace.x[piece], state)
        layer.backward(own, doutput[piece], grads=grads)
    cut = decompose(layer, trace, doutput).truncated(K, "chunk")
    for name in grads:
        close(cut.gradient(name), grads[name])


def test_a_wider_window_of_this_network_is_closer():
    layer = RNN(D, H, rng=0)
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(40, 2, D)))
    table = decompose(layer, trace, np.ones_like(output))
    biases = [table.truncated(K).bias("weight_hh_l0") for K in (1, 5, 10, 20)]
    assert biases == sorted(biases, reverse=True) and biases[-1] < 1e-3 < 0.05 < biases[0]
    assert repr(table.truncated(20)).startswith("Truncation(K=20, scheme='window'): bias ")


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(("batch", "lengths"), [(1, None), (N, LENGTHS)], ids=["one sequence", "a batch"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_routes_add_up(kind, options, batch, lengths):
    table = taken_apart(kind, options, batch=batch, lengths=lengths)
    split = table.by_path()
    assert table.by_path() is split
    digits = 400 if kind is LayerNormLSTM else 64
    for name in table.names:
        close(sum(split.gradient(route, name) for route in split.routes), table.total(name), digits)
        tables = [split.shares(route, name) for route in split.routes]
        close(sum(tables), table.share(name), digits)
        shares = [split.share(route, name) for route in split.routes]
        close(shares, [part.sum() for part in tables], digits)
        np.testing.assert_allclose(sum(shares), 1, rtol=digits * EPS)
        # "direct" is the diagonal, and nothing else is on it.
        assert not (tables[0] * (1 - np.eye(T))).any()
        assert not any(np.diagonal(part).any() for part in tables[1:])
    gate = f"weight_hh_l0.{table.gates[-1]}"
    close(sum(split.gradient(route, gate) for route in split.routes), table.total(gate), digits)
    close(sum(split.shares(route, gate) for route in split.routes), table.share(gate), digits)
    np.testing.assert_allclose(sum(split.share(route, gate) for route in split.routes), 1, rtol=digits * EPS)


def test_names_of_paths():
    assert taken_apart(LSTM, {}).by_path().paths == ("h", "c")
    assert taken_apart(LSTM, {}).by_path().routes == ("direct", "only h", "only c", "mixed")
    for reset in ("after", "before"):
        assert set(taken_apart(GRU, {"reset": reset}).by_path().paths) == {"leak", "reset", "update", "candidate"}
    assert taken_apart(MGU, {}).by_path().paths == ("leak", "f", "n")
    assert taken_apart(RNN, {}).by_path().paths[0] == "leak"


# A line of a formula, and what it becomes where a way is cut.
CUTS = [
    (LSTM, {}, "h", lstm_module.lstm_step_backward, "dh_in += W_hh.T.dot(da_t)", "pass"),
    (LSTM, {}, "c", lstm_module.lstm_step_backward, "np.multiply(dc_t, f_t, out=dc_prev)", "dc_prev[...] = 0"),
    (GRU, {}, "leak", gru_module.after_step_backward, "dh_prev += scratch_t", "pass"),
    (GRU, {}, "candidate", gru_module.after_step_backward, "W_hh.T.dot(da_qrz_t)", "W_hh[5:].T.dot(da_qrz_t[5:])"),
    (
        GRU,
        {},
        "reset",
        gru_module.after_step_backward,
        "W_hh.T.dot(da_qrz_t)",
        "W_hh[:5].T.dot(da_qrz_t[:5]) + W_hh[10:].T.dot(da_qrz_t[10:])",
    ),
    (GRU, {}, "update", gru_module.after_step_backward, "W_hh.T.dot(da_qrz_t)", "W_hh[:10].T.dot(da_qrz_t[:10])"),
    (GRU, {"reset": "before"}, "leak", gru_module.before_step_backward, "dh_prev += scratch_t", "pass"),
    (GRU, {"reset": "before"}, "candidate", gru_module.before_step_backward, "dh_in += scratch_t", "pass"),
    (
        GRU,
        {"reset": "before"},
        "reset",
        gru_module.before_step_backward,
        "W_hrz.T.dot(da_rz_t)",
        "W_hrz[5:].T.dot(da_rz_t[5:])",
    ),
    (
        GRU,
        {"reset": "before"},
        "update",
        gru_module.before_step_backward,
        "W_hrz.T.dot(da_rz_t)",
        "W_hrz[:5].T.dot(da_rz_t[:5])",
    ),
]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize(
    ("kind", "options", "path", "formula", "line", "becomes"), CUTS, ids=lambda value: str(value)[:12]
)
def test_a_way_that_is_cut(kind, options, path, formula, line, becomes, lengths):
    """Against backward itself, run with the line that is this way taken out of the cell's formula."""
    layer, trace, doutput, dh_n = recorded(kind, options, lengths)
    split = decompose(layer, trace, doutput, dh_n).by_path()
    source = inspect.getsource(formula)
    assert source.count(line) == 1
    namespace = dict(vars(inspect.getmodule(formula)))
    exec(source.replace(line, becomes), namespace)
    layer.cell = replace(layer.cell, step_backward=namespace[formula.__name__])
    grads = layer.backward(trace, doutput, dh_n).grads
    for name in grads:
        close(split.without(path, name), grads[name])


def test_the_constant_error_carousel():
    """With c alone, the gradient of c_k is that of c_t times all forget gates between."""
    layer, trace, doutput, _ = recorded(LSTM, {}, lengths=None, batch=1)
    split = decompose(layer, trace, doutput).by_path()
    found = split.gradient("only c", "bias_ih_l0.f")
    dm_dc = trace.o * (1 - trace.tanh_c**2)
    expected = np.zeros(H)
    for t in range(T):
        dc = doutput[t, 0] * dm_dc[t, 0]
        for k in range(t - 1, -1, -1):
            dc = dc * trace.f[k + 1, 0]
            expected += dc * trace.c[k, 0] * (trace.f * (1 - trace.f))[k, 0]
    close(found, expected)
    # Two ways: without one is what goes by the other alone.
    close(split.without("h", "bias_ih_l0.f"), split.gradient("direct", "bias_ih_l0.f") + found)


# ------------------------------------------------------------------------------------------------ the edge


def test_all_forms_of_input():
    rng = np.random.default_rng(3)
    x, doutput = rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))
    layer = GRU(D, H, rng=0)
    expected = decompose(layer, layer.forward(x, lengths=LENGTHS)[2], doutput)
    first = GRU(D, H, batch_first=True, rng=0)
    swapped = decompose(first, first.forward(x.swapaxes(0, 1), lengths=LENGTHS)[2], doutput.swapaxes(0, 1))
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    dpacked = pack_padded_sequence(doutput, LENGTHS, enforce_sorted=False)
    in_rows = decompose(layer, layer.forward(packed)[2], dpacked)
    for found in (swapped, in_rows):
        np.testing.assert_array_equal(found.norms("weight_hh_l0"), expected.norms("weight_hh_l0"))
    alone = decompose(layer, layer.forward(x[:, 1])[2], doutput[:, 1])
    batch = decompose(layer, layer.forward(x[:, 1:2])[2], doutput[:, 1:2])
    np.testing.assert_array_equal(alone.share("weight_ih_l0"), batch.share("weight_ih_l0"))


@pytest.mark.parametrize(("kind", "options"), [(RNN, {}), (LSTM, EVERYTHING), (GRU, {"reset": "before"})], ids=str)
def test_a_batch_of_none(kind, options):
    layer = kind(D, H, **options)
    output, _, trace = layer.forward(np.zeros((T, 0, D)))
    table = decompose(layer, trace, output)
    for name in table.names:
        for found in (table.total(name), table.norms(name), table.lag_profile(name), table.truncated(2).gradient(name)):
            assert not found.any()
        assert not table.by_path().gradient("mixed", name).any()
        assert np.isnan(table.share(name)).all() and np.isnan(table.kappa(name)).all()


def test_sequences_that_all_end_before_the_last_step():
    layer, trace, doutput, _ = recorded(LSTM, {"bidirectional": True}, lengths=(4, 5, 2))
    table = decompose(layer, trace, doutput)
    x, shorter = trace.x[:5], doutput[:5]
    expected = decompose(layer, layer.forward(x, lengths=(4, 5, 2))[2], shorter)
    for name in table.names:
        for found, short in ((table.norms(name), expected.norms(name)), (table.share(name), expected.share(name))):
            close(found[:5, :5], short)
            assert not found[5:].any() and not found[:, 5:].any()
        close(table.lag_profile(name)[:5], expected.lag_profile(name))


def test_single_precision():
    layer, trace, doutput, dh_n = recorded(LSTM, {})
    single = layer.astype(np.float32)
    own = single.forward(trace.x.astype(np.float32), lengths=LENGTHS)[2]
    table = decompose(single, own, doutput.astype(np.float32), tuple(d.astype(np.float32) for d in dh_n))
    exact = decompose(layer, trace, doutput, dh_n)
    for name in table.names:
        largest = np.abs(exact.total(name)).max()
        np.testing.assert_allclose(table.total(name), exact.total(name), rtol=0, atol=1e-5 * largest)
        np.testing.assert_allclose(table.norms(name), exact.norms(name), rtol=0, atol=1e-5 * exact.norms(name).max())


def test_nothing_is_modified():
    layer, trace, doutput, dh_n = recorded(LSTM, EVERYTHING)
    layer.backward(trace, doutput)
    latest, h, dh, flat = trace.top.latest, trace.h.copy(), trace.dh.copy(), layer.params.flat.copy()
    given = doutput.copy()
    table = decompose(layer, trace, doutput, dh_n)
    for name in table.names:
        table.norms(name), table.share(name), table.kappa(name), table.lag_profile(name)
        table.by_path().shares("mixed", name)
    assert trace.top.latest is latest
    for found, expected in ((trace.h, h), (trace.dh, dh), (layer.params.flat, flat), (doutput, given)):
        np.testing.assert_array_equal(found, expected)


def test_the_trace_has_the_weights():
    layer, trace, doutput, dh_n = recorded(GRU, {})
    expected = decompose(layer, trace, doutput, dh_n).norms("weight_hh_l0")
    layer.params.flat[:] = 0
    np.testing.assert_array_equal(decompose(layer, trace, doutput, dh_n).norms("weight_hh_l0"), expected)


def test_one_direction():
    layer, trace, doutput, _ = recorded(LSTM, EVERYTHING)
    table = decompose(layer, trace, doutput, name="l1_reverse")
    assert table.names == tuple(f"{name}_l1_reverse" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    assert repr(table) == f"Decomposition(T=7, {', '.join(table.names)})"
    everything = decompose(layer, trace, doutput)
    np.testing.assert_array_equal(table.norms("weight_hh_l1_reverse"), everything.norms("weight_hh_l1_reverse"))


def test_what_is_refused():
    layer, trace, doutput, _ = recorded(LSTM, {})
    table = decompose(layer, trace, doutput)
    peephole, own, dpeephole, _ = recorded(PeepholeLSTM, {})
    other = decompose(peephole, own, dpeephole)
    reverse = taken_apart(RNN, {"bidirectional": True})
    names = "'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0'"
    for error, message, call in [
        (OptionError, f"Decomposition.norms: name must be one of {names}; got 'W'", lambda: table.norms("W")),
        (OptionError, f"Decomposition.share: name must be one of {names}; got 3", lambda: table.share(3)),
        (
            OptionError,
            "Decomposition.total: the gates of bias_ih_l0 are 'i', 'f', 'g', 'o'; got 'bias_ih_l0.z'",
            lambda: table.total("bias_ih_l0.z"),
        ),
        (
            OptionError,
            "Decomposition.kappa: peephole_i_l0 has no gates; got 'peephole_i_l0.i'",
            lambda: other.kappa("peephole_i_l0.i"),
        ),
        (
            OptionError,
            "Decomposition.block: k must be in [0, 2] (at most t: no loss looks at later steps); got 3",
            lambda: table.block("bias_ih_l0", 2, 3),
        ),
        (
            OptionError,
            "Decomposition.block: k must be in [3, 6] (at least t, the direction being reverse); got 2",
            lambda: reverse.block("bias_ih_l0_reverse", 3, 2),
        ),
        (
            OptionError,
            "Decomposition.block: t must be in [0, 6] (T - 1 the last); got 7",
            lambda: table.block("bias_ih_l0", 7, 3),
        ),
        (
            OptionError,
            "Decomposition.block: k must be in [0, 6] (at most t: no loss looks at later steps); got -1",
            lambda: table.block("bias_ih_l0", 6, -1),
        ),
        (
            DTypeError,
            "Decomposition.block: t must be an integer; got float 1.0",
            lambda: table.block("bias_ih_l0", 1.0, 0),
        ),
        (
            OptionError,
            "Decomposition.lag_block: lag must be in [0, 6] (T - 1 the longest); got 7",
            lambda: table.lag_block("bias_ih_l0", 7),
        ),
        (OptionError, "Decomposition.truncated: K must be at least 1; got 0", lambda: table.truncated(0)),
        (
            OptionError,
            "Decomposition.truncated: scheme must be one of 'window', 'chunk'; got 'both'",
            lambda: table.truncated(1, "both"),
        ),
        (
            OptionError,
            "PathSplit.gradient: route must be one of 'direct', 'only h', 'only c', 'mixed'; got 'h'",
            lambda: table.by_path().gradient("h", "bias_ih_l0"),
        ),
        (
            OptionError,
            "PathSplit.without: path must be one of 'h', 'c'; got 'leak'",
            lambda: table.by_path().without("leak", "bias_ih_l0"),
        ),
        (
            OptionError,
            "decompose: name must be one of 'l0'; got 'l1'",
            lambda: decompose(layer, trace, doutput, name="l1"),
        ),
        (
            ShapeError,
            f"decompose: trace was recorded by a layer with other options, not by this {peephole!r}",
            lambda: decompose(peephole, trace, doutput),
        ),
        (
            ShapeError,
            "decompose: doutput must have shape (T, N, directions * H) = (7, 3, 5); got (7, 3, 4). It must have the "
            "shape of output",
            lambda: decompose(layer, trace, doutput[:, :, 1:]),
        ),
        (
            DTypeError,
            "decompose: trace must be the third result of forward; got ndarray",
            lambda: decompose(layer, doutput, doutput),
        ),
        (DTypeError, "decompose: layer must be a recurrent layer; got str", lambda: decompose("rnn", trace, doutput)),
        (
            DTypeError,
            "decompose: layer must be real; got dtype complex128",
            lambda: decompose(layer.astype(np.complex128), trace, doutput),
        ),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message
