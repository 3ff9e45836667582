"""The gradients of every recurrent layer against derivatives of the textbook's loop, entry by entry, over drawn sizes
and options.

The loop (twin.py) shares no line with the engine: it runs the textbook's forward functions, sequence by sequence and
step by step, and no backward pass.
"""

import numpy as np
import pytest
import twin
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rnn_numpy.checks import assert_grad_close, central_difference, discrepancy
from strategies import ELMAN, GATED, KINDS, setups

EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_KIND
@settings(max_examples=40)
@given(data=st.data())
def test_forward_is_the_textbooks_loop(kind, data):
    setup = data.draw(setups((kind,)))
    output, states, _ = setup.forward()
    expected, expected_states = twin.run(setup.problem(), twin.lifted(setup.point()))
    assert_grad_close("output", setup.time_major(output), expected[0], 1e-13)
    for name, state, reference in zip(setup.layer.cell.states, setup.batched(states), expected_states, strict=True):
        assert_grad_close(f"{name}_n", state, reference[0], 1e-13)


@pytest.mark.parametrize("kinds", [ELMAN, GATED[:1], GATED[1:2], GATED[2:]], ids=" or ".join)
@settings(max_examples=50)
@given(data=st.data())
def test_gradients_are_those_of_the_complex_step(kinds, data):
    setup = data.draw(setups(kinds, gains=(0.3, 1.0)))
    # Where tanh saturates, 1 - h^2 holds fewer digits: test_rnn_gradients.py looks at that by itself.
    assume(setup.saturation() > 0.05)
    analytic, point = setup.gradients(), setup.point()
    rng = np.random.default_rng(0)
    moved = {name: array * (1 + 2.0**-50 * rng.uniform(-1, 1, array.shape)) for name, array in point.items()}
    shifted = setup.twins_gradients(moved)
    for name, reference in setup.twins_gradients(point).items():
        # 1e-13, but where the terms of a sum cancel, no more than what the last bits of the data decide.
        blur = 4 * discrepancy(shifted[name], reference).error
        assert_grad_close(f"d{name}", analytic[name], reference, 1e-13 + blur)


@settings(max_examples=40)
@given(setups(max_steps=4, max_hidden=3, layers=2))
def test_gradients_are_those_of_central_differences(setup):
    def loss(point):
        doutput, dstates = setup.time_major(setup.doutput), setup.batched(setup.dstates)
        return twin.loss(setup.problem(), twin.lifted(point), doutput, dstates)[0]

    analytic, reference = setup.gradients(), central_difference(loss, setup.point())
    # The rounding error of a central difference, eps |L| / h, is that of the loss and the same for all entries: it is
    # measured against the whole gradient. The complex step judges every tensor by itself.
    ours, theirs = (np.concatenate([part[name].ravel() for name in reference]) for part in (analytic, reference))
    assert_grad_close(f"d({', '.join(reference)})", ours, theirs, 1e-7)


@settings(max_examples=60)
@given(setups(), st.integers(0, 2**32 - 1))
def test_gradients_add_up_over_losses_and_steps_equal_one_shot(setup, seed):
    rng = np.random.default_rng(seed)
    output, states, trace = setup.forward()
    doutput = rng.normal(size=output.shape)
    pair = isinstance(states, tuple)
    dstates = tuple(rng.normal(size=state.shape) for state in states) if pair else rng.normal(size=states.shape)
    both = setup.layer.backward(trace, doutput, dstates)
    grads = setup.layer.params.zeros_like()
    through_output = setup.layer.backward(trace, doutput, grads=grads)
    through_state = setup.layer.backward(trace, None, dstates, grads)
    steps = setup.layer.backward_steps(trace, doutput, dstates)
    for _ in steps:
        pass
    for name in ("dx", *(f"d{state}_0" for state in setup.layer.cell.states)):
        whole = getattr(both, name)
        assert_grad_close(name, getattr(through_output, name) + getattr(through_state, name), whole)
        assert np.array_equal(getattr(steps.result, name), whole)
    assert_grad_close("grads", grads.flat, both.grads.flat)
    assert np.array_equal(steps.result.grads.flat, both.grads.flat)


@given(setups())
def test_both_biases_have_one_gradient_but_for_the_n_block_of_a_gru_with_reset_after(setup):
    grads, H = setup.backward(setup.forward()[2]).grads, setup.layer.hidden_size
    shared = slice(0, 2 * H) if getattr(setup.layer, "reset", None) == "after" else slice(None)
    for name in grads:
        if name.startswith("bias_ih"):
            assert np.array_equal(grads[name][shared], grads[name.replace("_ih", "_hh")][shared])


def test_the_n_blocks_biases_of_a_gru_with_reset_after_differ_by_the_reset_gate():
    layer = KINDS["GRU"][0](2, 3, rng=0)
    output, _, trace = layer.forward(np.random.default_rng(1).normal(size=(4, 2, 2)))
    grads = layer.backward(trace, np.ones_like(output)).grads
    db_ih, db_hh = grads["bias_ih_l0"][6:], grads["bias_hh_l0"][6:]
    assert np.all(np.abs(db_ih - db_hh) > 0.01 * np.abs(db_ih))
    assert_grad_close("db_hn", db_hh, np.sum(trace.da_ih[:, :, 6:] * trace.r, axis=(0, 1)), 1e-13)
