"""Every array of an LSTM's and a GRU's trace against the textbook's loop (twin.py): values as the loop computes them,
gradients as derivatives of the loss by what enters and leaves a step, one complex step for each, and what one line of
the derivation makes of these.
"""

import dataclasses

import numpy as np
import pytest
import twin

from rnn_numpy import GRU, LSTM
from rnn_numpy.checks import assert_grad_close
from strategies import Setup

T, N, D, H = 4, 3, 2, 3

LAYERS = {
    "LSTM": (LSTM, {}),
    "LSTM with projection": (LSTM, {"proj_size": 2}),
    "GRU": (GRU, {}),
    "GRU before": (GRU, {"reset": "before"}),
}

# Of each layer, the arrays of a step and the gradients, under the names that the loop has for what they are.
GATES_OF_LSTM = ("i", "f", "g", "o", "c", "tanh_c", "h")
VALUES = {
    "LSTM": ("x", "h_prev", "c_prev", "a", *GATES_OF_LSTM),
    "LSTM with projection": ("x", "h_prev", "c_prev", "a", *GATES_OF_LSTM, "m"),
    "GRU": ("x", "h_prev", "r", "z", "n", "q", "h"),
    "GRU before": ("x", "h_prev", "r", "z", "n", "k", "h"),
}
GRADIENTS = {
    "LSTM": ("a", "a_i", "a_f", "a_g", "a_o", *GATES_OF_LSTM),
    "LSTM with projection": ("a", "a_i", "a_f", "a_g", "a_o", *GATES_OF_LSTM, "m"),
    "GRU": ("a_ih", "a_hh", "a_r", "a_z", "a_n", "r", "z", "n", "h"),
    "GRU before": ("a_ih", "a_hh", "a_r", "a_z", "a_n", "r", "z", "n", "k", "h"),
}

EACH_LAYER = pytest.mark.parametrize("name", LAYERS)


def made(name, lengths, masked=False, **options):
    """Return a Setup of the layer and its backward pass's trace."""
    kind, own = LAYERS[name]
    rng = np.random.default_rng([sum(map(ord, name)), masked])
    layer = kind(D, H, **own, **options, rng=rng)
    x = rng.normal(size=(T, N, D))
    output, finals = layer(x)
    finals = finals if isinstance(finals, tuple) else (finals,)
    widths, masks = [state.shape[-1] for state in finals], {}
    if masked:
        names = [direction.name for directions in layer.stack for direction in directions]
        masks["recurrent_masks"] = {run: (rng.random((N, widths[0])) >= 0.3) / 0.7 for run in names}
        masks["zoneout_masks"] = {run: [1.0 * (rng.random((T, N, w)) < 0.3) for w in widths] for run in names}
    states, dstates = (tuple(rng.normal(size=state.shape) for state in finals) for _ in range(2))
    setup = Setup(layer, x, states, lengths, rng.normal(size=output.shape), dstates, masks)
    trace = setup.forward()[2]
    setup.backward(trace)
    return setup, trace


BY_COMPLEX_STEPS = ("a_ih", "a_hh", "h_in", "h_new", "h", "m", "c_new", "c")


def gradients_of_a_step(layer, name, values, d):
    """Return the gradients at one place: `d`, the loss's derivatives by what enters and leaves a step, and the rest."""
    gates = "ifgo" if isinstance(layer, LSTM) else "rzn"
    for gate, da in zip(gates, np.split(d["a_ih"], len(gates)), strict=True):
        v = values[gate]
        d |= {f"a_{gate}": da, gate: da / (1 - v**2 if gate in "gn" else v * (1 - v))}
    if isinstance(layer, LSTM):
        m = d["m"] if layer.proj_size else d["h_new"]
        d |= {"a": d["a_ih"], "tanh_c": m * values["o"]}
        # The loop's c_new has left the step: that m comes from it, too, is not in its derivative.
        return {**d, "c_new": d["c_new"] + d["tanh_c"] * (1 - values["tanh_c"] ** 2)}
    return {**d, "k": d["a_n"] @ layer.params[f"weight_hh_{name}"][-layer.hidden_size :]}


@pytest.mark.sampled(5)
@EACH_LAYER
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 3, 1], [2, 4, 1]])
def test_every_value_and_gradient_at_every_step(name, masked, lengths):
    setup, trace = made(name, lengths, masked, bidirectional=True)
    problem, point, sight = setup.problem(), setup.point(), twin.Sight()
    twin.run(problem, twin.lifted(point), sight)
    more = ("h_in", *(f"{state}_new" for state in setup.layer.cell.states)) if masked else ()
    for run in trace.layers.values():
        places = [(run.name, t, n) for n in range(N) for t in range(problem.lengths[n])]
        for array in (*VALUES[name], *more):
            found = np.array([getattr(run[t], array)[n] for _, t, n in places])
            expected = np.array([sight.values[(*place, array)][0] for place in places])
            assert_grad_close(f"{array} of {run.name}", found, expected, 1e-13)
        by_steps = [seen for seen in BY_COMPLEX_STEPS if (*places[0], seen) in sight.values]
        inside = [(*place, seen) for place in places for seen in by_steps]
        derivatives = twin.gradients_inside(problem, point, setup.doutput, setup.dstates, inside)
        reference = [
            gradients_of_a_step(
                setup.layer,
                run.name,
                {seen: sight.values[(*place, seen)][0] for seen in VALUES[name]},
                {seen: derivatives[(*place, seen)] for seen in by_steps},
            )
            for place in places
        ]
        for array in (*GRADIENTS[name], *more):
            found = np.array([getattr(run[t], "d" + array)[n] for _, t, n in places])
            # Without zoneout c is the state and what tanh gets, too.
            expected = np.array([at["c_new" if array == "c" and not masked else array] for at in reference])
            assert_grad_close(f"d{array} of {run.name}", found, expected, 1e-13)
            rows = getattr(run, "d" + array)
            shift = (0 if run.reverse else 1) if run.is_state("d" + array) else 0
            whole = np.array([rows[t + shift, n] for _, t, n in places])
            assert_grad_close(f"d{array} of {run.name}, all steps", whole, expected, 1e-13)


@EACH_LAYER
@pytest.mark.parametrize("lengths", [[4, 3, 1], [2, 4, 1]])
def test_padding_holds_zeros(name, lengths):
    setup, trace = made(name, lengths, bidirectional=True)
    back = setup.backward(trace)
    dead = np.arange(T)[:, None] >= np.array(lengths)
    assert not np.any(back.dx[dead])
    for run in trace.layers.values():
        for array in run.names:
            if array != "x" and not run.is_state(array):
                assert not np.any(getattr(run, array)[dead]), array
                assert not any(np.any(getattr(run[t], array)[dead[t]]) for t in range(T)), array


@EACH_LAYER
def test_a_sequence_alone_has_the_trace_of_its_row(name):
    # To 1e-13, not bit for bit: a product with one column goes through another kernel of the BLAS, which sums in
    # another order.
    lengths = [2, 4, 1]
    setup, trace = made(name, lengths, bidirectional=True)
    for n, length in enumerate(lengths):
        alone = dataclasses.replace(
            setup,
            x=setup.x[:length, n : n + 1],
            states=tuple(state[:, n : n + 1] for state in setup.states),
            lengths=None,
            doutput=setup.doutput[:length, n : n + 1],
            dstates=tuple(state[:, n : n + 1] for state in setup.dstates),
        )
        own = alone.forward()[2]
        alone.backward(own)
        for run in own.layers.values():
            for array in run.names:
                rows = getattr(trace.layers[run.name], array)[: length + run.is_state(array), n]
                assert_grad_close(f"{array} of {run.name}", rows, getattr(run, array)[:, 0], 1e-13)


NAMES = {
    "LSTM": (
        "x h_prev c_prev a i f g o tanh_c h c",
        "dh dc da_i da_f da_g da_o dm_dc da di df dg do dtanh_c dh_prev dc_prev",
    ),
    "LSTM with projection": (
        "x h_prev c_prev a i f g o tanh_c m h c",
        "dh dc da_i da_f da_g da_o dm_dc dm da di df dg do dtanh_c dh_prev dc_prev",
    ),
    "GRU": ("x h_prev r z n q h", "dh da_r da_z da_n da_q da_ih da_hh dr dz dn dh_prev"),
    "GRU before": ("x h_prev r z n k h", "dh da_r da_z da_n dk da_ih da_hh dr dz dn dh_prev"),
}


@EACH_LAYER
def test_names_and_tables(name):
    kind, options = LAYERS[name]
    layer = kind(D, H, **options, rng=0)
    output, _, trace = layer.forward(np.ones((T, N, D)))
    forward, backward = (part.split() for part in NAMES[name])
    assert list(trace[0].names) == forward
    layer.backward(trace, np.ones_like(output))
    assert list(trace[0].names) == forward + backward
    lines = repr(trace[1]).splitlines()
    assert lines[0] == "step t = 1 of l0"
    assert [line.split()[0] for line in lines[2:]] == forward + backward
    # One row in the table for each array, with its shape.
    for line in lines[2:]:
        assert f"{getattr(trace[1], line.split()[0]).shape}" in line
    assert repr(trace).splitlines()[1] == "LayerTrace l0: T = 4"
    assert {"dh", forward[-1]} <= set(dir(trace["l0"])) & set(dir(trace[0]))


@EACH_LAYER
@pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
@pytest.mark.parametrize("stop", ["l0", "l0_reverse"])
def test_a_stopped_pass_shows_no_gradient_of_steps_that_it_has_not_done(name, lengths, stop):
    setup, trace = made(name, lengths, bidirectional=True)
    arrays = [array for array in trace[stop].names if array[:1] == "d"]
    complete = {array: getattr(trace[stop], array).copy() for array in arrays}
    for step in setup.layer.backward_steps(
        trace, setup.doutput, setup.dstates if len(setup.dstates) > 1 else setup.dstates[0]
    ):
        if step.recorded.name == stop and step.t == 2:
            break
    done = [0, 1, 2] if stop.endswith("reverse") else [2, 3]
    run = trace[stop]
    for array in arrays:
        for t in range(T):
            if t in done:
                own = complete[array][t + (0 if run.reverse else 1) * run.is_state(array)]
                assert np.array_equal(getattr(run[t], array), own)
            else:
                assert array not in run[t].names
                with pytest.raises(AttributeError, match=f"step {t} has no {array} yet: the backward pass stands at"):
                    getattr(run[t], array)
        if not run.is_state(array):
            assert np.isnan(getattr(run, array)).all(axis=(1, 2)).tolist() == [t not in done for t in range(T)], array


@EACH_LAYER
@pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
def test_steps_are_backward_bit_for_bit(name, lengths):
    setup, trace = made(name, lengths, num_layers=2, bidirectional=True)
    expected = {run.name: {array: getattr(run, array).copy() for array in run.names} for run in trace.layers.values()}
    states = setup.dstates if len(setup.dstates) > 1 else setup.dstates[0]
    for step in setup.layer.backward_steps(trace, setup.doutput, states):
        run, before, after = step.recorded, int(step.reverse), int(not step.reverse)
        alive = np.ones(N, bool) if lengths is None else np.array(lengths) > step.t
        for array in step.names:
            stem = array.removesuffix("_prev")
            shift = 0 if not run.is_state(stem) else before if array.endswith("_prev") else after
            row = expected[run.name][stem][step.t + shift]
            value = getattr(step, array)
            if array == "dc_prev":
                # What goes through h_{t-1} comes to it with the step before.
                value, row = value[alive], (step.dc * step.f)[alive]
            assert np.array_equal(value, row), array
    for run in trace.layers.values():
        for array, whole in expected[run.name].items():
            assert np.array_equal(getattr(run, array), whole), array
