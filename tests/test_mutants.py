"""Classic mistakes, planted one at a time into the engine: each is caught by the checks that should catch it.

A mutant replaces a formula, or one method of the driver, by a version with one mistake. Where the replaced function no
longer exists, or has other arguments than its replacement, the test fails: a mutant that cannot be planted proves
nothing.
"""

import dataclasses
import inspect

import numpy as np
import pytest

from rnn_numpy import RNN
from rnn_numpy.checks import CHECKS, Case, conformance_checks, conformance_failures
from rnn_numpy.core import Parameters, arguments, memory
from rnn_numpy.layers import Recurrent, rnn
from rnn_numpy.layers.rnn import rnn_step_backward, tanh_step_forward, tanh_step_partials
from rnn_numpy.layers.timeline import Timeline

ORIGINAL = {
    (owner, name): getattr(owner, name)
    for owner, name in [
        (Parameters, "state_dict"),
        (Parameters, "load_state_dict"),
        (Recurrent, "__call__"),
        (Recurrent, "_accumulate"),
        (Recurrent, "_bptt"),
        (Recurrent, "_directions"),
        (Recurrent, "_dropout_factors"),
        (Recurrent, "_forward"),
        (Recurrent, "_gradient_in"),
        (Recurrent, "_inputs"),
        (Recurrent, "_new_gradients"),
        (Recurrent, "_run_backward"),
        (Recurrent, "_states_in"),
        (Recurrent, "_states_to_caller"),
        (Recurrent, "_to_caller"),
        (Timeline, "output"),
        (arguments, "sequence_lengths"),
        (memory, "empty"),
    ]
}

GRADIENTS = ("check_gradients_by_complex_step", "check_gradients_by_central_difference")


@dataclasses.dataclass
class Mutant:
    """A mistake: its name, what to replace, and the checks that must fail.

    `formulas` are fields of the cell, `methods` pairs of (owner, function of the same name and arguments).
    """

    name: str
    caught_by: tuple[str, ...]
    formulas: dict = dataclasses.field(default_factory=dict)
    methods: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)

    def plant(self, monkeypatch):
        nonlinearity = self.options.get("nonlinearity", "tanh")
        if self.formulas:
            # Fails for a field that the cell does not have.
            monkeypatch.setitem(rnn.CELLS, nonlinearity, dataclasses.replace(rnn.CELLS[nonlinearity], **self.formulas))
        for owner, replacement in self.methods:
            name = replacement.__name__
            original = ORIGINAL[owner, name]
            assert list(inspect.signature(replacement).parameters) == list(inspect.signature(original).parameters), name
            monkeypatch.setattr(owner, name, replacement)


# ------------------------------------------------------------------------------------------------ wrong formulas


def transposed_W_hh(dh_t, W_hh, da_t, dh_prev):
    da_t *= dh_t
    dh_prev += da_t.dot(W_hh.T)


def overwritten_dh_prev(dh_t, W_hh, da_t, dh_prev):
    da_t *= dh_t
    dh_prev[...] = da_t.dot(W_hh)


def no_recurrence(dh_t, da_t):
    da_t *= dh_t


def wrong_sign(dh_t, W_hh, da_t, dh_prev):
    da_t *= dh_t
    dh_prev -= da_t.dot(W_hh)


def clipped_in_time(dh_t, W_hh, da_t, dh_prev):
    rnn_step_backward(dh_t, W_hh, da_t, dh_prev)
    if not np.iscomplexobj(dh_prev):
        np.clip(dh_prev, -50, 50, out=dh_prev)


def small_gradients_flushed(dh_t, W_hh, da_t, dh_prev):
    rnn_step_backward(dh_t, W_hh, da_t, dh_prev)
    dh_prev[np.abs(dh_prev) < 1e-12] = 0


def derivative_missing(da_t):
    da_t[...] = 1


def derivative_from_a(a_t, da_t):
    da_t[...] = 1 - a_t * a_t


def derivative_of_the_previous_state(h_prev, da_t):
    da_t[...] = 1 - h_prev * h_prev


def sigmoid_derivative(h_t, da_t):
    da_t[...] = h_t * (1 - h_t)


def derivative_in_the_memory_of_h(h_t, da_t):
    tanh_step_partials(h_t, da_t)
    h_t *= h_t


def relu_derivative_one_everywhere(da_t):
    da_t[...] = 1


def relu_derivative_of_the_previous_state(h_prev, da_t):
    np.greater(h_prev.real, 0, out=da_t, casting="unsafe")


def forward_in_single_precision(a_t, h_prev, W_hh, h_t):
    tanh_step_forward(a_t, h_prev, W_hh, h_t)
    if h_t.dtype == np.float64:
        h_t[...] = h_t.astype(np.float32)


# ------------------------------------------------------------------------------------------------ wrong drivers


def backward_loop(order, shift=0):
    """Return a `_run_backward` written out plainly, over the steps that `order` leaves of the right ones."""

    def _run_backward(self, timeline, plan, arrays, weight_hh):
        da, dh, h = arrays["da"], arrays["dh"], arrays["h"]
        for t in order(list(timeline.order(True))):
            rows = slice(None) if plan.lengths is None else slice(int(np.sum(plan.lengths > t)))
            tanh_step_partials(h[min(t + timeline.new + shift, plan.T), rows], da[t, rows])
            rnn_step_backward(dh[t + timeline.new, rows], weight_hh, da[t, rows], dh[t + timeline.prev, rows])
            yield t

    return _run_backward


def zeroed_first(run_backward):
    """Return `_run_backward` with da all zero at first, so that what a loop leaves out counts as zero."""

    def _run_backward(self, timeline, plan, arrays, weight_hh):
        arrays["da"][...] = 0
        yield from run_backward(self, timeline, plan, arrays, weight_hh)

    return _run_backward


def accumulating(change):
    """Return an `_accumulate` with the factors of each product as `change(arrays, timeline, plan)` says."""

    def _accumulate(self, arrays, timeline, plan, grads):
        da, x, h_prev, db = change(arrays, timeline, plan)
        grads["weight_ih"][...] += da.T.dot(x)
        grads["weight_hh"][...] += da.T.dot(h_prev)
        if self.bias:
            grads["bias_ih"][...] += db
            grads["bias_hh"][...] += db

    return _accumulate


def factors(arrays, timeline, plan):
    da, x = plan.flat(arrays["da"]), plan.flat(arrays["x"])
    return da, x, plan.flat(arrays["h"][timeline.prev :][: plan.T]), da.sum(axis=0)


def unshifted_h(arrays, timeline, plan):
    da, x, _, db = factors(arrays, timeline, plan)
    return da, x, plan.flat(arrays["h"][timeline.new :][: plan.T]), db


def h_in_place_of_x(arrays, timeline, plan):
    da, x, h_prev, db = factors(arrays, timeline, plan)
    return da, h_prev if x.shape == h_prev.shape else x, h_prev, db


def doubled_bias(arrays, timeline, plan):
    da, x, h_prev, db = factors(arrays, timeline, plan)
    return da, x, h_prev, 2 * db


def dh_in_place_of_da(arrays, timeline, plan):
    _, x, h_prev, _ = factors(arrays, timeline, plan)
    dh = plan.flat(arrays["dh"][timeline.new :][: plan.T])
    return dh, x, h_prev, dh.sum(axis=0)


def batch_mean(arrays, timeline, plan):
    da, x, h_prev, db = factors(arrays, timeline, plan)
    return da / max(plan.N, 1), x, h_prev, db / max(plan.N, 1)


def weighted_by_the_batch(arrays, timeline, plan):
    da, x, h_prev, db = factors(arrays, timeline, plan)
    return da * plan.N * (1 / plan.N), x, h_prev, db


def newest_step_only(arrays, timeline, plan):
    da = arrays["da"].copy()
    da[timeline.order(False)[:-1]] = 0
    return factors({**arrays, "da": da}, timeline, plan)


def grads_overwritten(self, arrays, timeline, plan, grads):
    for array in grads.values():
        array[...] = 0
    ORIGINAL[Recurrent, "_accumulate"](self, arrays, timeline, plan, grads)


def noisy_accumulate(self, arrays, timeline, plan, grads):
    ORIGINAL[Recurrent, "_accumulate"](self, arrays, timeline, plan, grads)
    grads["weight_hh"][...] *= 1 + 1e-15 * np.random.default_rng().normal(size=grads["weight_hh"].shape)


def no_final_state_gradient(self, timeline, plan, doutput, dfinals):
    return ORIGINAL[Recurrent, "_new_gradients"](self, timeline, plan, doutput, [None for _ in dfinals])


def final_state_gradient_at_the_longest(self, timeline, plan, doutput, dfinals):
    gradients = ORIGINAL[Recurrent, "_new_gradients"](self, timeline, plan, doutput, [None for _ in dfinals])
    for array, dfinal in zip(gradients.values(), dfinals, strict=False):
        if dfinal is not None:
            array[0 if timeline.reverse else plan.T] += dfinal
    return gradients


def padding_of_doutput_read(self, timeline, plan, doutput, dfinals):
    gradients = ORIGINAL[Recurrent, "_new_gradients"](self, timeline, plan, doutput, dfinals)
    if doutput is not None and plan.alive is not None:
        gradients["dh"][timeline.new :][: plan.T] += np.where(plan.alive[:, :, None], 0, doutput)
    return gradients


def doutput_modified(self, timeline, plan, doutput, dfinals):
    gradients = ORIGINAL[Recurrent, "_new_gradients"](self, timeline, plan, doutput, dfinals)
    if doutput is not None:
        doutput *= 0.5
    return gradients


def after_bptt(change):
    """Return a `_bptt` whose result is changed."""

    def _bptt(self, trace, doutput, dfinals, grads, results):
        yield from ORIGINAL[Recurrent, "_bptt"](self, trace, doutput, dfinals, grads, results)
        change(self, results[0])

    return _bptt


def zero_dh_0(self, result):
    result.dh_0 = np.zeros_like(result.dh_0)


def zero_first_dx(self, result):
    (result.dx.swapaxes(0, 1) if self.batch_first and result.dx.ndim == 3 else result.dx)[0] = 0


def clipped_grads(self, result):
    if result.grads.dtype.kind == "f":
        np.clip(result.grads.flat, -20, 20, out=result.grads.flat)


def dx_in_double_precision(self, result):
    result.dx = result.dx.astype(np.float64)


def masks_forgotten(self, trace, doutput, dfinals, grads, results):
    kept, trace.context.factors = trace.context.factors, None
    try:
        yield from ORIGINAL[Recurrent, "_bptt"](self, trace, doutput, dfinals, grads, results)
    finally:
        trace.context.factors = kept


def grads_touched_early(self, trace, doutput, dfinals, grads, results):
    before = grads.flat.copy()
    for step in ORIGINAL[Recurrent, "_bptt"](self, trace, doutput, dfinals, grads, results):
        grads.flat[:] = before + 1
        yield step
        grads.flat[:] = before


def result_before_the_end(self, trace, doutput, dfinals, grads, results):
    steps = list(ORIGINAL[Recurrent, "_bptt"](self, trace, doutput, dfinals, grads, results))
    yield from steps


def reverse_not_reversed(self, layer):
    directions = ORIGINAL[Recurrent, "_directions"](self, layer)
    return [dataclasses.replace(direction, reverse=False) for direction in directions]


def both_directions_in_one_half(self, layer):
    directions = ORIGINAL[Recurrent, "_directions"](self, layer)
    return [dataclasses.replace(direction, columns=directions[0].columns) for direction in directions]


def lengths_ignored(where, lengths, steps, batch):
    ORIGINAL[arguments, "sequence_lengths"](where, lengths, steps, batch)


def lengths_taken_for_sorted(where, lengths, steps, batch):
    found = ORIGINAL[arguments, "sequence_lengths"](where, lengths, steps, batch)
    return None if found is None else np.sort(found)[::-1]


def order_of_states_forgotten(self, states, context):
    return tuple(array[:, 0] if context.unbatched else array for array in states)


def initial_state_ignored(self, where, name, value, context):
    found = ORIGINAL[Recurrent, "_states_in"](self, where, name, value, context)
    return [None for _ in found] if name == "h_0" else found


def initial_state_in_the_output(self, states, plan):
    return states[self.new : self.new + plan.T]


def batch_normalised(self, where, x, lengths, copied):
    context, signal = ORIGINAL[Recurrent, "_inputs"](self, where, x, lengths, copied)
    return context, signal - signal.mean(axis=1, keepdims=True) if signal.shape[1] else signal


def centred_over_time(self, where, x, lengths, copied):
    context, signal = ORIGINAL[Recurrent, "_inputs"](self, where, x, lengths, copied)
    return context, signal - signal.mean(axis=0)


def empty_sequences_let_through(self, where, x, lengths, copied):
    array = np.asarray(x)
    time = 1 if self.batch_first and array.ndim == 3 else 0
    if array.shape[time] == 0:
        x = np.zeros([1 if axis == time else size for axis, size in enumerate(array.shape)], array.dtype)
    return ORIGINAL[Recurrent, "_inputs"](self, where, x, lengths, copied)


def x_kept_in_the_layer(self, where, x, lengths, copied):
    self.last_x = x
    return ORIGINAL[Recurrent, "_inputs"](self, where, x, lengths, copied)


def batch_first_for_inputs_only(self, array, context):
    array = context.plan.unsorted(array, 1)
    return array[:, 0] if context.unbatched else array


def batch_axis_kept(self, array, context):
    array = context.plan.unsorted(array, 1)
    return array.swapaxes(0, 1) if self.batch_first and not context.unbatched else array


def memory_order_for_axis_order(self, where, x, lengths, copied):
    return ORIGINAL[Recurrent, "_inputs"](self, where, np.ravel(x, order="K").reshape(np.shape(x)), lengths, copied)


def batch_first_ignored_in_doutput(self, where, doutput, context):
    found = ORIGINAL[Recurrent, "_gradient_in"](self, where, doutput, context)
    if found is None or not self.batch_first or context.unbatched:
        return found
    return found.swapaxes(0, 1).reshape(found.shape)


def dropout_without_training(self, where, masks, training, plan):
    return ORIGINAL[Recurrent, "_dropout_factors"](self, where, masks, True, plan)


def dropout_masks_not_replayed(self, where, masks, training, plan):
    return ORIGINAL[Recurrent, "_dropout_factors"](self, where, None, training, plan)


def inference_from_zero(self, x, h_0=None, lengths=None):
    return ORIGINAL[Recurrent, "__call__"](self, x, None, lengths)


def views_in_state_dict(self):
    return dict(self)


def partly_loaded(self, mapping):
    for name in self:
        self[name][...] = mapping.get(name, self[name])
    ORIGINAL[Parameters, "load_state_dict"](self, mapping)


def two_arrays_for_all_calls():
    """Return an `empty` that knows two arrays of each shape and hands them out in turn, used or not."""
    pool = {}

    def empty(shape, dtype):
        arrays = pool.setdefault((shape, dtype), [])
        if len(arrays) < 2:
            arrays.append(np.empty(shape, dtype))
        else:
            arrays.append(arrays.pop(0))
        return arrays[-1]

    return empty


def named(name, function):
    """Return the function under the name of what it replaces."""
    function.__name__ = name
    return function


def planted(name, caught_by, owner, method, function, **options):
    return Mutant(name, caught_by, methods=((owner, named(method, function)),), options=options)


def formula(name, caught_by, **fields):
    return Mutant(name, caught_by, formulas=fields)


def loop(order, shift=0):
    return zeroed_first(backward_loop(order, shift))


MUTANTS = [
    formula("W_hh transposed", GRADIENTS, step_backward=transposed_W_hh),
    formula(
        "dh_prev overwritten, a dropped +=",
        (*GRADIENTS, "check_gradients_of_output"),
        step_backward=overwritten_dh_prev,
    ),
    formula("recurrence dropped", (*GRADIENTS, "check_first_step"), step_backward=no_recurrence),
    formula("sign of the recurrence", GRADIENTS, step_backward=wrong_sign),
    formula("clipping inside of time", ("check_linearity",), step_backward=clipped_in_time),
    formula("small gradients flushed to zero", ("check_linearity",), step_backward=small_gradients_flushed),
    formula("derivative missing", (*GRADIENTS, "check_gradients_of_one_step"), step_partials=derivative_missing),
    formula("derivative of a in place of h", GRADIENTS, step_partials=derivative_from_a),
    formula("derivative one step late", GRADIENTS, step_partials=derivative_of_the_previous_state),
    formula("derivative of the sigmoid", GRADIENTS, step_partials=sigmoid_derivative),
    formula(
        "trace modified by backward",
        ("check_accumulation", "check_reentrant"),
        step_partials=derivative_in_the_memory_of_h,
    ),
    formula("float64 rounded to float32", (*GRADIENTS, "check_direction"), step_forward=forward_in_single_precision),
    Mutant(
        "relu without derivative",
        GRADIENTS,
        formulas={"step_partials": relu_derivative_one_everywhere},
        options={"nonlinearity": "relu"},
    ),
    Mutant(
        "relu's derivative one step late",
        GRADIENTS,
        formulas={"step_partials": relu_derivative_of_the_previous_state},
        options={"nonlinearity": "relu"},
    ),
    planted(
        "first step missing",
        (*GRADIENTS, "check_first_step", "check_steps"),
        Recurrent,
        "_run_backward",
        loop(lambda steps: steps[:-1]),
    ),
    planted(
        "last step skipped",
        (*GRADIENTS, "check_gradients_of_final_state"),
        Recurrent,
        "_run_backward",
        loop(lambda steps: steps[1:]),
    ),
    planted("steps in the wrong order", GRADIENTS, Recurrent, "_run_backward", loop(lambda steps: steps[::-1])),
    planted("derivative of the next state", GRADIENTS, Recurrent, "_run_backward", loop(list, shift=1)),
    planted("unshifted h", GRADIENTS, Recurrent, "_accumulate", accumulating(unshifted_h)),
    planted("dW_ih from h", GRADIENTS, Recurrent, "_accumulate", accumulating(h_in_place_of_x), num_layers=2),
    planted("bias doubled", GRADIENTS, Recurrent, "_accumulate", accumulating(doubled_bias)),
    planted("dh in place of da", GRADIENTS, Recurrent, "_accumulate", accumulating(dh_in_place_of_da)),
    planted(
        "mean over the batch", (*GRADIENTS, "check_accumulation"), Recurrent, "_accumulate", accumulating(batch_mean)
    ),
    planted(
        "division by the batch size",
        ("check_empty_batch",),
        Recurrent,
        "_accumulate",
        accumulating(weighted_by_the_batch),
    ),
    planted(
        "parameter gradients of the newest step only",
        (*GRADIENTS, "check_chunks"),
        Recurrent,
        "_accumulate",
        accumulating(newest_step_only),
    ),
    planted("grads overwritten", ("check_accumulation", "check_chunks"), Recurrent, "_accumulate", grads_overwritten),
    planted("rounding noise", ("check_repeatable",), Recurrent, "_accumulate", noisy_accumulate),
    planted(
        "final-state gradient ignored",
        (*GRADIENTS, "check_gradients_of_final_state", "check_chunks"),
        Recurrent,
        "_new_gradients",
        no_final_state_gradient,
    ),
    planted(
        "final-state gradient enters at T",
        (*GRADIENTS, "check_padding"),
        Recurrent,
        "_new_gradients",
        final_state_gradient_at_the_longest,
    ),
    planted(
        "padding of doutput leaks",
        ("check_padding",),
        Recurrent,
        "_new_gradients",
        padding_of_doutput_read,
        bidirectional=True,
    ),
    planted("doutput modified", ("check_unchanged",), Recurrent, "_new_gradients", doutput_modified),
    planted("dh_0 zero", (*GRADIENTS, "check_first_step"), Recurrent, "_bptt", after_bptt(zero_dh_0)),
    planted("dx[0] zero", (*GRADIENTS, "check_first_step"), Recurrent, "_bptt", after_bptt(zero_first_dx)),
    planted("gradients clipped", ("check_linearity",), Recurrent, "_bptt", after_bptt(clipped_grads)),
    planted("dx in float64", ("check_float32",), Recurrent, "_bptt", after_bptt(dx_in_double_precision)),
    planted(
        "dropout masks forgotten in backward", GRADIENTS, Recurrent, "_bptt", masks_forgotten, num_layers=2, dropout=0.4
    ),
    planted("grads touched before the end", ("check_steps",), Recurrent, "_bptt", grads_touched_early),
    planted("result before the end", ("check_steps",), Recurrent, "_bptt", result_before_the_end),
    planted(
        "reverse direction not reversed",
        ("check_reversal", "check_steps"),
        Recurrent,
        "_directions",
        reverse_not_reversed,
        bidirectional=True,
    ),
    planted(
        "both directions read one half of doutput",
        GRADIENTS,
        Recurrent,
        "_directions",
        both_directions_in_one_half,
        bidirectional=True,
    ),
    planted("lengths ignored", ("check_padding",), arguments, "sequence_lengths", lengths_ignored),
    planted(
        "lengths taken for sorted",
        ("check_padding", "check_batch"),
        arguments,
        "sequence_lengths",
        lengths_taken_for_sorted,
    ),
    planted(
        "order of final states forgotten",
        (*GRADIENTS, "check_padding"),
        Recurrent,
        "_states_to_caller",
        order_of_states_forgotten,
    ),
    planted("initial state ignored", (*GRADIENTS, "check_chunks"), Recurrent, "_states_in", initial_state_ignored),
    planted(
        "initial state shows in the output",
        ("check_padding",),
        Timeline,
        "output",
        initial_state_in_the_output,
        bidirectional=True,
    ),
    planted("inputs centred over the batch", ("check_batch",), Recurrent, "_inputs", batch_normalised),
    planted("inputs centred over time", ("check_causality", "check_chunks"), Recurrent, "_inputs", centred_over_time),
    planted("T = 0 let through", ("check_no_steps",), Recurrent, "_inputs", empty_sequences_let_through),
    planted("activations kept in the layer", ("check_unchanged",), Recurrent, "_inputs", x_kept_in_the_layer),
    planted(
        "batch_first for inputs only",
        ("check_batch_first", "check_gradients_of_output"),
        Recurrent,
        "_to_caller",
        batch_first_for_inputs_only,
        batch_first=True,
    ),
    planted("batch axis kept for one sequence", ("check_unbatched",), Recurrent, "_to_caller", batch_axis_kept),
    planted(
        "order in memory taken for the order of axes",
        ("check_strides",),
        Recurrent,
        "_inputs",
        memory_order_for_axis_order,
    ),
    planted(
        "batch_first ignored in doutput",
        (*GRADIENTS, "check_batch_first"),
        Recurrent,
        "_gradient_in",
        batch_first_ignored_in_doutput,
        batch_first=True,
    ),
    planted(
        "dropout without training",
        ("check_dropout", "check_inference"),
        Recurrent,
        "_dropout_factors",
        dropout_without_training,
        num_layers=2,
        dropout=0.4,
    ),
    planted(
        "masks not replayed",
        ("check_dropout",),
        Recurrent,
        "_dropout_factors",
        dropout_masks_not_replayed,
        num_layers=2,
        dropout=0.4,
    ),
    planted("inference from zero", ("check_inference",), Recurrent, "__call__", inference_from_zero),
    planted("views in the state dict", ("check_state_dict",), Parameters, "state_dict", views_in_state_dict),
    planted("state dict loaded in part", ("check_state_dict",), Parameters, "load_state_dict", partly_loaded),
    planted("memory handed out while in use", ("check_reentrant",), memory, "empty", two_arrays_for_all_calls()),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant, monkeypatch):
    case = Case(RNN, mutant.options)
    applicable = {check.__name__ for _, check in conformance_checks([case])}
    assert applicable.issuperset(mutant.caught_by)
    mutant.plant(monkeypatch)
    failures = conformance_failures(case)
    missed = [name for name in mutant.caught_by if name not in failures]
    assert not missed, f"{mutant.name}: not caught by {missed}, though by {list(failures)}"


def test_the_plain_backward_loop_without_a_mistake_passes(monkeypatch):
    # So that mutants of it are caught for their mistake.
    Mutant("none", (), methods=((Recurrent, loop(list)), (Recurrent, accumulating(factors)))).plant(monkeypatch)
    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        assert conformance_failures(Case(RNN, options)) == {}


def test_every_check_catches_some_mutant():
    meant = {name for mutant in MUTANTS for name in mutant.caught_by}
    assert meant == {check.__name__ for check in CHECKS}


def test_mutants_have_names_of_their_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
