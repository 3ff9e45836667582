"""What-if: `Step.write` in a halted pass. Whatever follows changes by the linear response, and nothing else does."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import AttentionGRU

T, N = 9, 4
LAYERS = {
    "rnn": lambda: RNN(2, 5, rng=0),
    "relu": lambda: RNN(2, 5, nonlinearity="relu", rng=0),
    "lstm": lambda: LSTM(2, 5, rng=0),
    "projection": lambda: LSTM(2, 5, proj_size=3, rng=0),
    "gru": lambda: GRU(2, 5, rng=0),
    "gru before": lambda: GRU(2, 5, reset="before", rng=0),
    "peephole": lambda: PeepholeLSTM(2, 5, rng=0),
    "layer norm": lambda: LayerNormLSTM(2, 5, rng=0),
    "dropout and zoneout": lambda: LSTM(2, 5, recurrent_dropout=0.3, zoneout=(0.3, 0.2), rng=0),
    "gru dropout and zoneout": lambda: GRU(2, 5, recurrent_dropout=0.3, zoneout=0.3, rng=0),
    "attention": lambda: AttentionGRU(2, 5, rng=0),
    "two layers": lambda: GRU(2, 5, 2, dropout=0.4, rng=0),
    "two directions": lambda: LSTM(2, 5, 2, bidirectional=True, rng=0),
}
LENGTHS = {"all": None, "out of order": [3, 9, 7, 8]}


def ready(kind, lengths):
    rng, layer = np.random.default_rng(1), LAYERS[kind]()
    given = {"values": rng.normal(size=(3, N, 5))} if kind == "attention" else None
    output, _, trace = layer.forward(rng.normal(size=(T, N, 2)), lengths=LENGTHS[lengths], given=given)
    return rng, layer, trace, rng.normal(size=output.shape)


def flat(result):
    found = [result.dx, result.dh_0, result.grads.flat]
    return np.concatenate([np.ravel(array) for array in found + ([result.dc_0] if hasattr(result, "dc_0") else [])])


def finished(layer, trace, doutput, edits):
    """Run the pass, writing `edits[name, t]`, (state's gradient, change), at each place; return all that it says."""
    steps = layer.backward_steps(trace, doutput)
    for step in steps:
        where = (f"l{step.layer}" + "_reverse" * step.reverse, step.t)
        if where in edits:
            name, change = edits[where]
            step.write(name, lambda present, change=change: present + change)
    return flat(steps.result)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_what_follows_is_the_linear_response(kind, lengths):
    rng, layer, trace, doutput = ready(kind, lengths)
    top = trace.top
    t = 4
    alive = np.array([length > t for length in LENGTHS[lengths] or [T] * N])[:, None]
    for state in top.states:
        name = f"d{state}_prev"
        change = rng.normal(size=getattr(top[t], state).shape) * alive
        at = {(top.name, t): (name, change)}
        plain = finished(layer, trace, doutput, {})
        response = finished(layer, trace, 0 * doutput, at)  # of the change by itself
        assert np.abs(response).max() > 0
        both = finished(layer, trace, doutput, at)
        scale = np.abs(both).max()
        assert np.abs(both - plain - response).max() <= 1e-14 * scale
        # Twice the change, twice the response: exact, a factor of two rounds nothing.
        twice = finished(layer, trace, 0 * doutput, {(top.name, t): (name, 2 * change)})
        assert twice.tobytes() == (2 * response).tobytes()


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "gru before", "peephole"])
def test_the_response_is_that_of_a_shorter_sequence(kind):
    rng, layer, trace, doutput = ready(kind, "all")
    change = rng.normal(size=(N, 5))
    response = finished(layer, trace, 0 * doutput, {("l0", 5): ("dh_prev", change)})
    # The first five steps by themselves, with the change as the gradient of their final state.
    _, _, short = layer.forward(np.array(trace.x[:5]))
    dh_n = (change[None], 0 * change[None]) if hasattr(trace, "c") else change[None]
    expected = layer.backward(short, None, dh_n)
    found = np.concatenate([np.ravel(expected.dx), np.zeros((T - 5) * N * 2), flat(expected)[expected.dx.size :]])
    assert np.abs(response - found).max() <= 1e-14 * np.abs(found).max()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_writing_what_is_there_changes_no_bit(kind, lengths):
    _, layer, trace, doutput = ready(kind, lengths)
    steps = layer.backward_steps(trace, doutput)
    for step in steps:
        for state in trace.top.states:
            step.write(f"d{state}_prev", getattr(step, f"d{state}_prev"))
    assert flat(steps.result).tobytes() == flat(layer.backward(trace, doutput)).tobytes()


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_pass_that_keeps_states_alone_is_written_to_as_well(kind):
    rng, layer, trace, doutput = ready(kind, "all")
    *_, kept = layer.forward(np.array(trace.x), checkpoint=4)
    change = rng.normal(size=(N, 5))
    for t in range(T):
        edits = {("l0", t): ("dh_prev", change)}
        expected, found = finished(layer, trace, doutput, edits), finished(layer, kept, doutput, edits)
        assert np.abs(found - expected).max() <= 1e-14 * np.abs(expected).max()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "projection", "two layers", "two directions"])
def test_a_forward_pass_goes_on_from_the_state_that_was_written(kind, lengths):
    rng, layer, trace, _ = ready(kind, lengths)
    x, top = np.array(trace["l0"].x), trace.top
    masks = {"dropout_masks": trace.masks} if trace.masks is not None else {}
    at = 5 if not top.reverse else 3
    new = {state: rng.normal(size=getattr(top[at], state).shape) for state in top.states}
    steps = layer.forward_steps(x, lengths=LENGTHS[lengths], **masks)
    alive = np.array([length > at for length in LENGTHS[lengths] or [T] * N])[:, None]
    for step in steps:
        if step.t == at and step.layer == top.layer and not step.reverse:
            for state, value in new.items():
                step.write(state, np.where(alive, value, getattr(step, state)))
    written = steps.trace.top
    for state, value in new.items():
        assert (getattr(written[at], state) == np.where(alive, value, getattr(top[at], state))).all()
        # The step after has read it, and its own state is another one; those before are as they were.
        assert (getattr(written[at + 1], f"{state}_prev")[alive[:, 0]] == value[alive[:, 0]]).all()
        assert (getattr(written[at + 1], state) != getattr(top[at + 1], state))[alive[:, 0]].any()
        assert (getattr(written[at - 1], state) == getattr(top[at - 1], state)).all()


def test_rows_are_read_only_and_a_slip_changes_nothing():
    _, layer, trace, doutput = ready("lstm", "all")
    steps = layer.backward_steps(trace, doutput)
    for step in steps:
        for name in step.names:
            with pytest.raises(ValueError, match="read-only"):
                getattr(step, name)[...] = 0
    for name in trace.top.names:
        with pytest.raises(ValueError, match="read-only"):
            getattr(trace, name)[...] = 0
    assert flat(steps.result).tobytes() == flat(layer.backward(trace, doutput)).tobytes()


def test_wrong_arguments():
    _, layer, trace, doutput = ready("lstm", "out of order")
    steps = layer.backward_steps(trace, doutput)
    step = next(steps)
    zeros = np.zeros((N, 5))
    with pytest.raises(
        OptionError, match=r"name must be what a backward pass reads next, 'dh_prev' or 'dc_prev'; got 'da'"
    ):
        step.write("da", zeros)
    with pytest.raises(ShapeError, match=r"value must have shape \(N, dh_prev\) = \(4, 5\); got \(5,\)"):
        step.write("dh_prev", zeros[0])
    with pytest.raises(DTypeError, match="value must have dtype float64"):
        step.write("dh_prev", zeros.astype(np.float32))
    with pytest.raises(OptionError, match="sequence n = 0 has no step 8; leave its row of dh_prev as it is"):
        step.write("dh_prev", zeros + 1)
    later = next(steps)
    with pytest.raises(OptionError, match="step 8 of l0 is not where a pass is halted: the pass stands at t = 7"):
        step.write("dh_prev", zeros)
    for _ in steps:
        pass
    with pytest.raises(OptionError, match="step 7 of l0 is not where a pass is halted: the pass is over"):
        later.write("dh_prev", zeros)
    with pytest.raises(OptionError, match="the pass is over"):
        trace[3].write("h", zeros)


def test_a_step_of_another_pass_is_not_where_this_one_stands():
    _, layer, trace, doutput = ready("rnn", "all")
    first, second = layer.backward_steps(trace, doutput), layer.backward_steps(trace, doutput)
    step = next(first)
    next(second), next(second)
    step.write("dh_prev", np.zeros((N, 5)))  # its own pass is still there
    for steps in (first, second):
        for _ in steps:
            pass
    assert flat(second.result).tobytes() == flat(layer.backward(trace, doutput)).tobytes()
    assert flat(first.result).tobytes() != flat(second.result).tobytes()
