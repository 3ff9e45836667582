"""The stepwise gradient: against the complex step of whole runs, against backward; rounding, kappa, variations."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.checks import complex_step
from rnn_numpy.checks.chain_rule import ChainRule, Variation
from rnn_numpy.checks.rounding import tolerances

EPS = np.finfo(float).eps
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}
LAYERS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (RNN, EVERYTHING),
    (LSTM, {"batch_first": True}),
    (LSTM, {"proj_size": 3, "num_layers": 2}),
    (LSTM, EVERYTHING),
    (GRU, {"bias": False}),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {"epsilon": 0.3}),
]


def several(states):
    return states if isinstance(states, tuple) else (states,)


def single(states):
    return states if len(states) > 1 else states[0]


class Run:
    """A layer, what it was given, and a random loss on all that it returns."""

    def __init__(self, kind, options, T=6, N=3, lengths=(4, 6, 2), masks=None):
        self.rng = rng = np.random.default_rng(5)
        self.layer = layer = kind(3, 4, rng=1, **options)
        self.lengths, self.masks = lengths, masks or {}
        shape = (N, T, 3) if layer.batch_first else (T, N, 3)
        self.x = rng.normal(size=shape)
        rows = layer.num_layers * layer.num_directions
        widths = [layer.width(state) for state in layer.cell.states]
        self.h_0 = single(tuple(rng.normal(size=(rows, N, width)) for width in widths))
        output, h_n, self.trace = layer.forward(self.x, self.h_0, lengths, **self.masks)
        self.doutput = rng.normal(size=output.shape)
        self.dh_n = single(tuple(rng.normal(size=state.shape) for state in several(h_n)))
        self.chain = ChainRule(layer, self.trace, self.doutput, self.dh_n)

    def backward(self):
        back = self.layer.backward(self.trace, self.doutput, self.dh_n)
        return {**back.grads, "x": back.dx, **{f"{s}_0": getattr(back, f"d{s}_0") for s in self.layer.cell.states}}


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_forced_is_backward_within_a_small_part_of_what_rounding_allows(kind, options):
    run = Run(kind, options)
    allowed = tolerances(run.chain)
    for name, gradient in run.backward().items():
        exact = run.chain.exact.tensors[name]
        assert np.all(np.abs(gradient - exact) <= 0.5 * allowed.tensors[name])
        if kind is not LayerNormLSTM:  # its sums cancel
            assert np.abs(gradient - exact).max() <= 64 * EPS * np.abs(exact).max()
            # Tight: of most entries the twelfth digit is looked at.
            assert np.median(allowed.tensors[name][exact != 0] / np.abs(exact[exact != 0])) < 1e-12


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k, o in LAYERS if "dropout" not in o], ids=str)
def test_forced_is_the_complex_step_of_the_whole_run(kind, options):
    run = Run(kind, options, T=4, N=2, lengths=(4, 2))
    names = [f"{state}_0" for state in run.layer.cell.states]
    point = {**run.layer.state_dict(), "x": run.x, **dict(zip(names, several(run.h_0), strict=True))}

    def loss(at):
        twin = run.layer.astype(np.complex128)
        twin.load_state_dict({name: at[name] for name in twin.params})
        output, h_n = twin(at["x"], single(tuple(at[name] for name in names)), run.lengths)
        finals = zip(several(h_n), several(run.dh_n), strict=True)
        return np.sum(output * run.doutput) + sum(np.sum(state * gradient) for state, gradient in finals)

    for name, expected in complex_step(loss, point).items():
        found = run.chain.exact.tensors[name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=200 * EPS * np.abs(expected).max())


def test_the_loss_scales_and_so_do_gradient_and_bound():
    run = Run(LSTM, {})
    other = run.chain.of_loss(run.doutput * 2.0**-300, tuple(d * 2.0**-300 for d in run.dh_n))
    allowed, smaller = tolerances(run.chain), tolerances(other)
    for name, exact in run.chain.exact.tensors.items():
        assert (other.exact.tensors[name] * 2.0**300).tobytes() == exact.tobytes()
        # What stands past the end of a sequence is 0, and allowed what underflow may do.
        found, expected = smaller.tensors[name][exact != 0], allowed.tensors[name][exact != 0]
        np.testing.assert_allclose(found * 2.0**300, expected, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------------ kappa


@pytest.mark.parametrize(
    ("kind", "options"),
    [(RNN, {}), (LSTM, {}), (LSTM, {"proj_size": 2}), (GRU, {}), (GRU, {"reset": "before"}), (LSTM, {"zoneout": 0.3})],
    ids=str,
)
def test_absolute_sums_are_those_of_one_loss_step_at_a_time(kind, options):
    run = Run(kind, options)
    chain, maps = run.chain, run.chain.maps["l0"]
    absolute = tolerances(chain).absolute
    expected = {name: np.zeros_like(absolute[f"{name}_l0"]) for name in maps.additive if maps.additive[name]}
    losses = [(run.doutput * (np.arange(6) == t)[:, None, None], None) for t in range(6)]
    losses.append((np.zeros_like(run.doutput), run.dh_n))
    for doutput, dh_n in losses:
        da = np.abs(chain.of_loss(doutput, dh_n).exact.runs["l0"].da)
        for name, total in expected.items():
            for rows, columns, source in maps.steps.products("input" if "ih" in name else "hidden"):
                if total.ndim == 1:
                    total[rows] += da[..., columns].sum(axis=(0, 1))
                else:
                    total[rows] += np.einsum("tna,tnd->ad", da[..., columns], np.abs(source))
    assert set(expected) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    for name, total in expected.items():
        np.testing.assert_allclose(absolute[f"{name}_l0"], total, rtol=1e-12, atol=0)


def test_what_cancels_is_allowed_the_error_that_it_brings():
    # Two sequences that are alike, with losses that cancel but for a millionth.
    layer = RNN(2, 3, rng=0)
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 1, 2)), 2, axis=1)
    _, _, trace = layer.forward(x)
    d = np.random.default_rng(1).normal(size=(5, 1, 3))
    chain = ChainRule(layer, trace, np.concatenate([d, -d * (1 - 1e-6)], axis=1))
    alone = ChainRule(layer, trace, np.concatenate([d, 0 * d], axis=1))
    share = tolerances(chain).tensors["bias_ih_l0"] / np.abs(chain.exact.tensors["bias_ih_l0"])
    alone_share = tolerances(alone).tensors["bias_ih_l0"] / np.abs(alone.exact.tensors["bias_ih_l0"])
    assert np.all((5e5 < share / alone_share) & (share / alone_share < 8e6))


# ------------------------------------------------------------------------------------------------ variations


def without_recurrence(steps, matrix):
    return np.zeros_like(matrix)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_recurrence_dropped_is_the_sum_of_windows_of_one_step(kind):
    run = Run(kind, {}, lengths=None)
    found = run.chain.gradient(Variation(state=without_recurrence)).tensors
    layer, states = run.layer, run.trace
    expected = layer.params.zeros_like()
    for t in range(6):
        before = single(tuple(states.layers["l0"].arrays[state][t][None] for state in layer.cell.states))
        _, _, trace = layer.forward(run.x[t : t + 1], before)
        layer.backward(trace, run.doutput[t : t + 1], run.dh_n if t == 5 else None, expected)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=64 * EPS * np.abs(gradient).max())
    assert not found["h_0"].any()


def test_final_ignored_is_backward_without_it():
    run = Run(LSTM, EVERYTHING)
    found = run.chain.gradient(Variation(final=without_recurrence)).tensors
    expected = run.layer.backward(run.trace, run.doutput)
    np.testing.assert_allclose(found["x"], expected.dx, rtol=0, atol=64 * EPS * np.abs(expected.dx).max())


def test_a_step_left_out_of_the_sums():
    run = Run(GRU, {}, lengths=None)
    run.layer.backward(run.trace, run.doutput, run.dh_n)
    da = run.chain.exact.runs["l0"].da

    def skipped(steps, array):
        return array * (np.arange(len(array)) > 0)[:, None, None]

    whole, found = run.chain.exact.tensors, run.chain.gradient(Variation(summed=skipped)).tensors
    columns = [columns for _, columns, _ in run.chain.maps["l0"].steps.products("input")]
    rows = [rows for rows, _, _ in run.chain.maps["l0"].steps.products("input")]
    for row, column in zip(rows, columns, strict=True):
        difference = (whole["bias_ih_l0"] - found["bias_ih_l0"])[row]
        np.testing.assert_allclose(difference, da[0][:, column].sum(axis=0), rtol=1e-12, atol=1e-14)
    assert found["x"].tobytes() == whole["x"].tobytes()


def test_jacobians_in_forward_order():
    # Three steps, loss at the last: ds_0 is J_1^T J_2^T dL/ds_2, and in the wrong order J_2^T J_1^T dL/ds_2.
    run = Run(RNN, {}, T=3, N=1, lengths=None)
    chain = run.chain.of_loss(run.doutput * np.array([0, 0, 1])[:, None, None])
    J, loss = chain.maps["l0"].jacobians.state[:, 0], run.doutput[2, 0]
    right, wrong = chain.exact.runs["l0"], chain.gradient(Variation(forward_order=True)).runs["l0"]
    np.testing.assert_allclose(right.dstates[0, 0], J[1].T @ J[2].T @ loss, rtol=1e-12)
    np.testing.assert_allclose(wrong.dstates[0, 0], J[2].T @ J[1].T @ loss, rtol=1e-12)
    assert not np.allclose(right.dstates[0], wrong.dstates[0], rtol=1e-3)


def test_of_loss_shares_the_matrices_and_not_the_gradient():
    run = Run(RNN, {})
    first = run.chain.exact.tensors["x"].copy()
    other = run.chain.of_loss(2 * run.doutput, 2 * run.dh_n)
    assert other.maps is run.chain.maps
    assert (other.exact.tensors["x"] / 2).tobytes() == first.tobytes() == run.chain.exact.tensors["x"].tobytes()


def test_parameters_that_do_not_act_through_a():
    assert all(Run(LSTM, {}).chain.maps["l0"].additive.values())
    maps = Run(PeepholeLSTM, {}).chain.maps["l0"]
    assert [name for name, additive in maps.additive.items() if not additive] == [
        "peephole_i",
        "peephole_f",
        "peephole_o",
    ]
    assert not Run(LayerNormLSTM, {}).chain.maps["l0"].additive["weight_hh"]


def test_layer_normalisation_of_nearly_nothing_is_not_taken_for_none():
    # Gains of 1e-3 and sums far below epsilon: W_hh acts as if through a_t but for 1e-11.
    layer, rng = LayerNormLSTM(1, 4, num_layers=2, bidirectional=True, rng=4), np.random.default_rng(0)
    layer.params.flat[:] *= 1e-3
    output, _, trace = layer.forward(rng.normal(size=(5, 1, 1)))
    doutput = rng.normal(size=output.shape)
    exact, back = ChainRule(layer, trace, doutput).exact.tensors, layer.backward(trace, doutput)
    for name, gradient in back.grads.items():
        assert np.abs(gradient - exact[name]).max() <= 1e-13 * np.abs(exact[name]).max()
