"""What every clipping does to the gradient, what it says it did, and what it refuses."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from frameworks import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import GRU, LSTM, RNN, Parameters, SequenceModel
from rnn_numpy.core.numbers import norm_of
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.training import (
    ClipResult,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_norm_per_layer,
    clip_grad_value,
    lag_norms,
    layer_of,
)

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = {"rnn.weight_ih_l0": (6, 2), "rnn.bias_ih_l0": (6,), "rnn.weight_ih_l0_reverse": (6, 2), "readout.bias": (3,)}


def some(seed, dtype=np.float64, scale=1.0):
    grads = Parameters(SHAPES, dtype)
    rng = np.random.default_rng(seed)
    # Sizes that differ, so that groups differ.
    for array in grads.values():
        array[...] = scale * rng.normal(size=array.shape) * 10 ** rng.uniform(-2, 2)
    return grads


def adaptive(grads, limit, **options):
    """Adaptive clipping as a function of one limit, beside the others."""
    params = Parameters(grads.shapes, grads.dtype) if isinstance(grads, Parameters) else Parameters({}, np.float64)
    params.flat[:] = 1
    return clip_grad_adaptive(grads, params, limit, **options)


CLIPS = [clip_grad_norm, clip_grad_value, clip_grad_norm_per_layer, adaptive]


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


# What is reported is what was done -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS)
@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_result_says_what_was_done(clip, seed, limit):
    grads = some(seed)
    before = grads.copy()
    result = clip(grads, limit)
    norm = np.linalg.norm(before.flat)
    assert result.norm == pytest.approx(norm, rel=1e-14)
    assert result.norm_after == pytest.approx(np.linalg.norm(grads.flat), rel=1e-14)
    assert result.factor == pytest.approx(np.linalg.norm(grads.flat) / norm, rel=1e-14)
    assert result.cosine == pytest.approx(cosine(before.flat, grads.flat), rel=1e-14)
    assert result.engaged == (not np.array_equal(grads.flat, before.flat)) == (result.touched > 0)
    assert not result.skipped and result.lag is None
    norms = {name: np.linalg.norm(array) for name, array in before.items()}
    assert result.dominant == max(norms, key=norms.get)
    assert result.share == pytest.approx((norms[result.dominant] / norm) ** 2, rel=1e-13)


@given(SEEDS, st.floats(1e-3, 1e3))
def test_norm_clipping_keeps_direction_and_ends_on_the_limit(seed, limit):
    """I12: cosine 1, norm exactly c."""
    grads = some(seed)
    before = grads.flat.copy()
    result = clip_grad_norm(grads, limit)
    assert cosine(before, grads.flat) == pytest.approx(1.0, rel=4e-16)
    assert result.cosine == 1
    if result.engaged:
        assert np.linalg.norm(grads.flat) == pytest.approx(limit, rel=1e-15 * 4)
        assert (result.touched, result.total, result.unit) == (before.size, before.size, "entries")


@given(SEEDS, st.floats(1e-3, 1e3))
def test_value_clipping_stays_within_the_box(seed, limit):
    """I12: exactly within, and untouched where it was within before."""
    grads = some(seed)
    before = grads.flat.copy()
    result = clip_grad_value(grads, limit)
    assert np.abs(grads.flat).max() <= limit
    within = np.abs(before) <= limit
    assert np.array_equal(grads.flat[within], before[within])
    assert result.touched == np.count_nonzero(~within) and result.total == before.size


def test_value_clipping_turns_a_heavy_tailed_gradient_by_the_stated_angles():
    """Student's t with 1.5 degrees of freedom: mean cosines .79, .48, .40 at c = 10, 1, .1 for 300 entries or so.

    The variance of such numbers is infinite, so the cosine falls with their number. It cannot fall below
    ||g||_1 / (sqrt(P) ||g||_2), where it ends for c to 0.
    """
    rng = np.random.default_rng(0)
    found = {10.0: [], 1.0: [], 0.1: [], 1e-9: []}
    limits = []
    for _ in range(2000):
        g = rng.standard_t(1.5, 300)
        limits.append(np.abs(g).sum() / math.sqrt(300) / np.linalg.norm(g))
        for c, cosines in found.items():
            grads = Parameters({"g": (300,)}, np.float64, g.copy())
            cosines.append(clip_grad_value(grads, c).cosine)
    # A mean of 2000 draws with a standard deviation of 0.17 has a standard error of 0.004; the figures have two digits.
    for c, stated in ((10.0, 0.79), (1.0, 0.48), (0.1, 0.40)):
        assert np.mean(found[c]) == pytest.approx(stated, abs=0.02)
    # The few entries below 1e-9 are not yet in a corner, which a cosine does not feel.
    np.testing.assert_allclose(found[1e-9], limits, rtol=1e-7)


@pytest.mark.needs_torch
def test_each_parameter_is_clipped_as_torch_clips_it_alone():
    grads = some(1)
    twins = {name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for name, shape in SHAPES.items()}
    for name, twin in twins.items():
        twin.grad = torch.tensor(grads[name])
        norm = torch.nn.utils.clip_grad_norm_([twin], 0.5).item()
        if norm > 0.5:  # torch divides by norm + 1e-6
            twin.grad *= (norm + 1e-6) / norm
    result = clip_grad_norm_per_layer(grads, 0.5)
    assert 0 < result.cosine < 1
    for name, twin in twins.items():
        np.testing.assert_allclose(grads[name], twin.grad.numpy(), rtol=1e-13)


@given(SEEDS, st.floats(1e-2, 1e2))
def test_clipping_by_layer_takes_both_directions_of_a_layer_together(seed, limit):
    grads = some(seed)
    before = grads.copy()
    result = clip_grad_norm_per_layer(grads, limit, by="layer")
    touched = 0
    for names in ([name for name in SHAPES if name.startswith("rnn")], ["readout.bias"]):
        norm = math.hypot(*(float(np.linalg.norm(before[name])) for name in names))
        for name in names:
            np.testing.assert_allclose(grads[name], before[name] * min(1.0, limit / norm), rtol=1e-14)
        touched += sum(before[name].size for name in names) * (norm > limit)
    assert result.touched == touched


def test_layers_of_names():
    assert layer_of("weight_hr_l12_reverse") == "l12"
    assert layer_of("bias") == layer_of("weight_ih") == "all"
    assert layer_of("encoder.rnn.weight_ih_l3") == "encoder.rnn.l3"


@given(SEEDS, st.floats(1e-3, 10.0))
def test_adaptive_clipping_follows_its_formula_row_by_row(seed, factor):
    grads, params = some(seed), some((seed, 1))
    params["rnn.weight_ih_l0"][2] = 0
    grads["rnn.weight_ih_l0"][3] = 0
    before, kept = grads.copy(), params.flat.copy()
    result = clip_grad_adaptive(grads, params, factor, exclude=["readout.bias"])
    touched = total = 0
    for name in SHAPES:
        if name == "readout.bias":
            assert np.array_equal(grads[name], before[name])
            continue
        pieces = [(before[name], grads[name], params[name])]
        if before[name].ndim == 2:
            pieces = list(zip(before[name], grads[name], params[name], strict=True))
        for old, new, weights in pieces:
            cap = factor * max(np.linalg.norm(weights), 1e-3)
            norm = np.linalg.norm(old)
            np.testing.assert_allclose(new, old * (cap / norm if norm > cap else 1), rtol=2e-15)
            touched, total = touched + (norm > cap), total + 1
    assert (result.touched, result.total, result.unit) == (touched, total, "rows")
    assert np.array_equal(params.flat, kept)


def test_entries_at_the_ends_of_the_range():
    for scale in (1e-250, 1e250):
        for clip in CLIPS:
            grads = some(3, scale=scale)
            before = grads.flat / scale
            result = clip(grads, 1e-2 * scale)
            assert result.engaged and np.isfinite(grads.flat).all()
            assert result.norm == pytest.approx(np.linalg.norm(before) * scale, rel=1e-13)
            if clip is not adaptive:
                assert result.cosine == pytest.approx(cosine(before, grads.flat / scale), rel=1e-13)
    grads = Parameters({"w": (2, 4)}, np.float64, np.full(8, 1e308))
    params = Parameters({"w": (2, 4)}, np.float64, np.full(8, 1.0))
    assert clip_grad_adaptive(grads, params, 1.0).cosine == pytest.approx(1.0, rel=1e-15)
    np.testing.assert_allclose(grads.flat, 1.0, rtol=1e-15)
    grads = Parameters({"w": (4,)}, np.float64, np.full(4, 1e308))
    assert clip_grad_norm_per_layer(grads, 1.0).norm == math.inf
    np.testing.assert_allclose(grads.flat, 0.5, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("limit", [5e-324, 1e-310, 1e-300])
def test_a_limit_below_the_smallest_float_reports_what_is_left(dtype, limit):
    """Entries are rounded there, to 0 or to few digits: the norm after is what was measured, not the limit."""
    grads = some(3, dtype)
    result = clip_grad_norm(grads, limit)
    left = grads.flat.astype(np.longdouble)  # whose squares do not underflow
    assert result.norm_after == pytest.approx(float(np.sqrt(np.sum(left * left))), rel=1e-6, abs=0)
    assert result.engaged and (result.cosine == 0) == (not grads.flat.any())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(SEEDS, st.integers(-300, 300), st.integers(-300, 300))
def test_adaptive_limits_may_leave_the_range_of_the_gradient(dtype, seed, exponent, least):
    """A cap is a product: computed in the gradient's own precision it would be infinite, or 0 for a row of zeros."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-30, 30, size=(2, 3, 1))
    weights, before = (sizes * rng.normal(size=(2, 3, 4))).astype(dtype)
    weights[0] = 0
    shapes = {"w": (3, 4)}
    params, grads = (Parameters(shapes, dtype, array.flatten()) for array in (weights, before))
    clip_grad_adaptive(grads, params, 10.0**exponent, 10.0**least)
    weights, wide = weights.astype(np.longdouble), before.astype(np.longdouble)
    caps = np.longdouble(10.0**exponent) * np.maximum(np.linalg.norm(weights, axis=1), np.longdouble(10.0**least))
    factors = np.minimum(1, caps / np.linalg.norm(wide, axis=1))
    info = np.finfo(dtype)
    error = np.abs(grads["w"] - wide * factors[:, None])
    assert (error <= 4 * info.eps * np.abs(wide * factors[:, None]) + info.smallest_subnormal).all()


def test_weights_whose_norm_is_too_large_for_a_float_limit_nothing():
    params = Parameters({"w": (1, 2)}, np.float64, np.full(2, 1.7e308))
    grads = Parameters({"w": (1, 2)}, np.float64, np.ones(2))
    assert not clip_grad_adaptive(grads, params, 0.01).engaged


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@pytest.mark.parametrize("clip", CLIPS)
def test_empty_parameters_are_no_obstacle(clip, shape):
    grads = Parameters({"empty": shape, "b": (2,)}, np.float64, np.array([3.0, 4.0]))
    result = clip(grads, 0.1)
    assert result.engaged and (result.norm, result.dominant) == (5.0, "b")
    assert not clip(Parameters({"empty": shape}, np.float64), 0.1).engaged


def test_float32_stays_float32():
    for clip in CLIPS:
        grads = some(4, np.float32)
        clip(grads, 1e-2)
        assert grads.flat.dtype == np.float32
    grads = some(4, np.float32)
    assert clip_grad_value(grads, 1e-60).norm_after == 0  # no float32 is as small, so that nothing is left
    assert clip_grad_value(some(4, np.float32), 1e-60).cosine == 0


@given(SEEDS)
def test_complex_gradients_are_clipped_by_norm(seed):
    rng = np.random.default_rng(seed)
    grads = Parameters({"w": (3,), "b": (2,)}, np.complex128, rng.normal(size=5) + 1j * rng.normal(size=5))
    before = grads.flat.copy()
    result = clip_grad_norm_per_layer(grads, 0.1)
    expected = np.vdot(before, grads.flat).real / np.linalg.norm(before) / np.linalg.norm(grads.flat)
    assert result.cosine == pytest.approx(expected, rel=1e-14)
    with pytest.raises(DTypeError, match="clip_grad_value: grads must be real; complex numbers have no order"):
        clip_grad_value(grads, 1.0)


def test_a_complex_gradient_whose_absolute_value_is_too_large():
    grads = Parameters({"w": (2,)}, np.complex128, np.array([1.5e308 + 1.5e308j, 0.0]))
    with (
        np.errstate(over="ignore"),
        pytest.raises(NonFiniteError, match="the gradient has entries too large for complex"),
    ):
        clip_grad_norm(grads, 1.0)
    with np.errstate(over="ignore"):
        result = clip_grad_norm(grads, 1.0, on_nonfinite="skip")
    assert result.skipped and result.dominant is None and not grads.flat.any()


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS)
def test_limits_below_or_at_zero_and_not_finite_are_refused(clip):
    for limit in (0.0, -1.0, math.nan, math.inf):
        grads = some(0)
        before = grads.flat.copy()
        with pytest.raises(OptionError, match=r"must be (greater than 0|finite); got"):
            clip(grads, limit)
        assert np.array_equal(grads.flat, before)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_named_or_skipped(clip, bad):
    grads = some(0)
    grads["rnn.bias_ih_l0"][4] = bad
    before = grads.flat.copy()
    with pytest.raises(NonFiniteError, match=rf"the gradient of rnn.bias_ih_l0 is {bad} at axis 0 = 4"):
        clip(grads, 1.0)
    assert np.array_equal(grads.flat, before, equal_nan=True)
    result = clip(grads, 1.0, on_nonfinite="skip")
    assert result.skipped and result.engaged and result.dominant == "rnn.bias_ih_l0"
    assert not grads.flat.any()
    assert (result.factor, result.norm_after, result.cosine) == (0, 0, 0)
    assert result.touched == result.total > 0
    assert math.isnan(result.norm) if math.isnan(bad) else result.norm == math.inf
    with pytest.raises(OptionError, match="on_nonfinite must be one of 'raise', 'skip'; got 'ignore'"):
        clip(grads, 1.0, on_nonfinite="ignore")
    with pytest.raises(DTypeError, match="grads must be Parameters, as backward returns them; got dict"):
        clip({}, 1.0)


def test_adaptive_clipping_refuses_what_does_not_belong_together():
    grads, params = some(0), some(1)
    with pytest.raises(
        DTypeError, match="clip_grad_adaptive: params must be Parameters, such as layer.params; got dict"
    ):
        clip_grad_adaptive(grads, {})
    with pytest.raises(ShapeError, match="clip_grad_adaptive: grads must have the shapes of params"):
        clip_grad_adaptive(grads, Parameters({"w": (1,)}, np.float64))
    with pytest.raises(OptionError, match="clip_grad_adaptive: exclude must be a list of names among"):
        clip_grad_adaptive(grads, params, exclude=["readout.weight"])
    with pytest.raises(OptionError, match="exclude must be a list of names among .*; got 'readout.bias'"):
        clip_grad_adaptive(grads, params, exclude="readout.bias")
    with pytest.raises(OptionError, match="clip_grad_adaptive: eps must be greater than 0; got 0"):
        clip_grad_adaptive(grads, params, eps=0.0)
    params["readout.bias"][1] = math.nan
    with pytest.raises(NonFiniteError, match=r"clip_grad_adaptive: readout.bias is nan at axis 0 = 1"):
        clip_grad_adaptive(grads, params)
    with pytest.raises(OptionError, match="by must be one of 'parameter', 'layer'; got 'gate'"):
        clip_grad_norm_per_layer(grads, 1.0, by="gate")


def test_the_old_fields_stand_first_and_suffice():
    result = ClipResult(5.0, 0.2, True)
    assert (result.norm, result.factor, result.engaged) == (5.0, 0.2, True)
    assert [field.name for field in dataclasses.fields(result)][:3] == ["norm", "factor", "engaged"]


def test_the_norm_of_anything():
    assert norm_of(np.array([[3e-200, 4e-200]])) == pytest.approx(5e-200, rel=1e-15)
    assert norm_of(np.array([math.inf, 1.0])) == math.inf
    assert math.isnan(norm_of(np.array([math.nan, 1.0])))


# Lags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
@pytest.mark.parametrize("N", [1, 3])
def test_lag_norms_are_those_of_the_summands_of_dw_hh(layer, N):
    rng = np.random.default_rng(0)
    net = layer(2, 4, bidirectional=True, rng=0)
    output, _, trace = net.forward(rng.normal(size=(7, N, 2)))
    back = net.backward(trace, rng.normal(size=output.shape))
    for name, run in trace.layers.items():
        da = run.da_hh if layer is GRU else run.da
        h_prev = run.h[1:] if run.reverse else run.h[:-1]
        summands = np.einsum("tni,tnj->tij", da, h_prev)
        np.testing.assert_allclose(summands.sum(axis=0), back.grads[f"weight_hh_{name}"], rtol=1e-12, atol=1e-15)
        norms = np.linalg.norm(summands, axis=(1, 2))
        # The sum over pairs of rows may cancel, to a hundredth of its summands here.
        np.testing.assert_allclose(lag_norms(run), norms if run.reverse else norms[::-1], rtol=1e-13, atol=0)
    np.testing.assert_array_equal(lag_norms(trace), lag_norms(trace["l0"]))


def test_lags_count_from_the_end_of_the_longest_sequence():
    rng = np.random.default_rng(1)
    rnn = RNN(2, 3, rng=0)
    x = rng.normal(size=(9, 2, 2))
    doutput = np.zeros((9, 2, 3))
    doutput[5, 1] = 1
    _, _, trace = rnn.forward(x, lengths=[3, 6])
    back = rnn.backward(trace, doutput)
    short = rnn.forward(x[:6, 1:])[2]
    rnn.backward(short, doutput[:6, 1:])
    np.testing.assert_allclose(lag_norms(trace), lag_norms(short), rtol=1e-13)
    result = clip_grad_norm(back.grads, 1e-3, trace=trace)
    assert result.lag == int(lag_norms(short).argmax()) == 0


def test_an_exploding_gradient_adds_most_at_a_long_lag():
    """A state that grows by 1.5 at each step: da_k is 1.5^lag, and h_{k-1} falls by as much, so that all lags add the
    same, but for step 0 without an initial state. Inputs that slow its growth make the longest lag the dominating one.
    """
    rnn = RNN(1, 1, nonlinearity="relu", rng=0)
    rnn.params.flat[:] = 1.0, 1.5, 0.0, 0.0
    _, _, trace = rnn.forward(np.zeros((9, 1, 1)), np.ones((1, 1, 1)))
    rnn.backward(trace, None, np.ones((1, 1, 1)))
    np.testing.assert_allclose(lag_norms(trace), np.full(9, 1.5**8), rtol=1e-15)
    _, _, trace = rnn.forward(1.0 * (np.arange(9) < 1)[:, None, None])
    rnn.backward(trace, None, np.ones((1, 1, 1)))
    np.testing.assert_allclose(lag_norms(trace), [1.5**7] * 8 + [0], rtol=1e-15)
    _, _, trace = rnn.forward((np.arange(9) < 1)[:, None, None] - 0.25 * (np.arange(9) > 0)[:, None, None])
    back = rnn.backward(trace, None, np.ones((1, 1, 1)))
    assert clip_grad_norm(back.grads, 1.0, trace=trace).lag == 7


def test_tiny_gradients_have_lags_too():
    rnn = RNN(1, 4, rng=0)
    output, _, trace = rnn.forward(np.ones((6, 2, 1)))
    rnn.backward(trace, np.ones(output.shape))
    plain = lag_norms(trace)
    rnn.backward(trace, np.full(output.shape, 1e-250))
    np.testing.assert_allclose(lag_norms(trace) * 1e250, plain, rtol=1e-12)
    zeros = rnn.backward(trace, None).grads
    assert clip_grad_norm(zeros, 1.0, trace=trace).lag is None


def test_lags_far_below_the_longest_are_not_lost():
    rnn = RNN(1, 1, rng=0)
    rnn.params.flat[:] = 0.0, 1e-3, 1.0, 0.0  # a gradient that falls by a thousand and more at each step
    _, _, trace = rnn.forward(np.zeros((70, 1, 1)))
    rnn.backward(trace, None, np.ones((1, 1, 1)))
    by_lag = lag_norms(trace)
    falls = by_lag[1:-1] / by_lag[:-2]
    np.testing.assert_allclose(falls, falls[20], rtol=1e-2)
    assert 0 < by_lag[68] < 1e-200


OWNERS = {
    "RNN": lambda: RNN(2, 3, rng=0).params,
    "SequenceModel": lambda: SequenceModel(RNN(2, 3, rng=0), 1, rng=0).params,
    "Linear": lambda: SequenceModel(RNN(2, 3, rng=0), 1, rng=0).readout.params,
    "LSTM": lambda: copy.deepcopy(LSTM(2, 3, rng=0)).astype(np.float32).params,
}


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value, clip_grad_norm_per_layer])
@pytest.mark.parametrize("kind", OWNERS)
def test_parameters_are_no_gradients(kind, clip):
    params = OWNERS[kind]()
    before = params.flat.copy()
    with pytest.raises(OptionError, match=f"grads must be gradients, .* got the parameters of {kind} themselves"):
        clip(params, 1e-3)
    assert (params.flat == before).all()
    for fine in (params.zeros_like(), params.copy()):
        clip(fine, 1e-3)


def test_the_result_of_a_backward_pass_has_the_gradients_in_an_attribute():
    rnn = RNN(2, 3, rng=0)
    output, _, trace = rnn.forward(np.ones((4, 1, 2)))
    with pytest.raises(DTypeError, match="grads must be .* got BackwardResult, whose attribute grads they are"):
        clip_grad_norm(rnn.backward(trace, output), 1.0)


def test_a_part_of_a_models_parameters_is_no_gradient():
    model = SequenceModel(RNN(2, 3, rng=0), 1, rng=0)
    with pytest.raises(OptionError, match="got the parameters of SequenceModel themselves"):
        clip_grad_norm(model.params.part("readout"), 1.0)
    clip_grad_norm(model.params.zeros_like().part("readout"), 1.0)


def test_lag_norms_refuse_what_has_none():
    rnn = RNN(1, 2, rng=0)
    output, _, trace = rnn.forward(np.ones((3, 1, 1)))
    with pytest.raises(
        OptionError, match="lag_norms: trace must have the gradients of a whole pass; run backward on it"
    ):
        lag_norms(trace)
    next(rnn.backward_steps(trace, np.ones(output.shape)))
    with pytest.raises(OptionError, match="lag_norms: trace must have the gradients of a whole pass"):
        clip_grad_norm(rnn.params.zeros_like(), 1.0, trace=trace)
    with pytest.raises(DTypeError, match="lag_norms: trace must be the third result of forward; got ndarray"):
        lag_norms(output)
