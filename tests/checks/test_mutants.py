"""Classic mistakes, planted one at a time into the engine: each is caught by the checks that should catch it.

A mutant replaces a formula, another field of a cell, or a function of the driver, by a version with one mistake. Where
the replaced function no longer exists, or has other arguments than its replacement, the test fails: a mutant that
cannot be planted proves nothing. Some mistakes make another layer, forward and backward alike, whose gradients are
right: these the textbook catches (twin.py).
"""

import dataclasses
import inspect

import numpy as np
import pytest
import twin
from planting import edited

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import CHECKS, Case, assert_grad_close, conformance_checks, conformance_failures
from rnn_numpy.core import Parameters, arguments, memory
from rnn_numpy.engine import Cell, ExtraParameter, Recurrent, parts
from rnn_numpy.engine.binding import Binding
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.options import Options
from rnn_numpy.errors import GradientCheckError
from rnn_numpy.layers import attention, gru, lstm, rnn
from rnn_numpy.layers.attention import Attending, AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.layers.lstm import lstm_step_partials
from rnn_numpy.layers.rnn import rnn_step_backward, tanh_step_forward, tanh_step_partials

ORIGINAL = {
    (owner, name): getattr(owner, name)
    for owner, name in [
        (Parameters, "state_dict"),
        (Parameters, "load_state_dict"),
        (Cell, "arranged"),
        (Cell, "bias"),
        (Recurrent, "__call__"),
        (Recurrent, "backward_loop"),
        (Recurrent, "bptt"),
        (Recurrent, "close_backward"),
        (Recurrent, "open_backward"),
        (Recurrent, "open_forward"),
        (Options, "drawn_mask"),
        (Options, "directions_of"),
        (Options, "dropout_factors"),
        (Options, "state_masks"),
        (Edge, "like_output"),
        (Edge, "opened"),
        (Edge, "signal_out"),
        (Edge, "states_in"),
        (Edge, "states_out"),
        (Binding, "output"),
        (arguments, "sequence_lengths"),
        (parts, "drop_backward"),
        (parts, "zone_backward_new"),
        (parts, "zone_backward_prev"),
        (memory, "empty"),
        (Attending, "read_of_given"),
        *((attention, name) for name, one in vars(attention).items() if inspect.isfunction(inspect.unwrap(one))),
    ]
}

# The first of them is held by every case of the conformance tests, the others by some.
GRADIENTS = ("check_gradients", "check_gradients_by_complex_step", "check_gradients_by_central_difference")


@dataclasses.dataclass
class Mutant:
    """A mistake: its name, what to replace, and the checks that must fail.

    `formulas` are fields of the cell, `methods` pairs of (owner, function of the same name and arguments), `edit` a
    function of the module of attention, a piece of its text, and what stands there instead.
    """

    name: str
    caught_by: tuple[str, ...]
    formulas: dict = dataclasses.field(default_factory=dict)
    methods: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    kind: type = RNN
    edit: tuple = ()

    def plant(self, monkeypatch):
        owner, name = self.place()
        # A new cell, which looks up the formulas of masks anew. Fails for a field that the cell does not have.
        monkeypatch.setitem(owner, name, dataclasses.replace(owner[name], **self.formulas))
        methods = [
            *self.methods,
            *([(attention, edited(ORIGINAL[attention, self.edit[0]], *self.edit[1:]))] if self.edit else []),
        ]
        for owner, replacement in methods:
            name = replacement.__name__
            original = ORIGINAL[owner, name]
            assert list(inspect.signature(replacement).parameters) == list(inspect.signature(original).parameters), name
            is_class_method = inspect.ismethod(original)
            monkeypatch.setattr(owner, name, staticmethod(replacement) if is_class_method else replacement)

    def place(self):
        """Return the mapping and the key under which the case's layer finds its cell."""
        if issubclass(self.kind, LSTM):
            return vars(lstm), "PROJECTED_CELL" if self.options.get("proj_size") else "CELL"
        if issubclass(self.kind, GRU):
            return gru.CELLS, self.options.get("reset", "after")
        return rnn.CELLS, self.options.get("nonlinearity", "tanh")


# ------------------------------------------------------------------------------------------------ wrong formulas


def transposed_W_hh(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_in += da_t.dot(W_hh.T)


def overwritten_dh_prev(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_in[...] = da_t.dot(W_hh)


def no_recurrence(dh_t, da_t):
    da_t *= dh_t


def wrong_sign(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_in -= da_t.dot(W_hh)


def clipped_in_time(dh_t, W_hh, da_t, dh_in):
    rnn_step_backward(dh_t, W_hh, da_t, dh_in)
    if not np.iscomplexobj(dh_in):
        np.clip(dh_in, -50, 50, out=dh_in)


def small_gradients_flushed(dh_t, W_hh, da_t, dh_in):
    rnn_step_backward(dh_t, W_hh, da_t, dh_in)
    dh_in[np.abs(dh_in) < 1e-12] = 0


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


def forward_in_single_precision(a_t, h_in, W_hh, h_t):
    tanh_step_forward(a_t, h_in, W_hh, h_t)
    if h_t.dtype == np.float64:
        h_t[...] = h_t.astype(np.float32)


# ------------------------------------------------------------------------------------------------ wrong drivers


def plain_loop(order, shift=0):
    """Return a `backward_loop` written out plainly, over the steps that `order` leaves of the right ones.

    da is all zero at first, so that what it leaves out counts as zero.
    """

    def backward_loop(self, run):
        binding, batch = run.binding, run.binding.batch
        da, dh, h = (binding.arrays[name] for name in ("da", "dh", "h"))
        da[...] = 0
        for t in order(list(binding.order(True))):
            rows = slice(None) if batch.lengths is None else slice(int(np.sum(batch.lengths > t)))
            tanh_step_partials(h[min(t + binding.after + shift, batch.T), rows], da[t, rows])
            before = dh[t + binding.before, rows]
            rnn_step_backward(dh[t + binding.after, rows], run.trace.weights["W_hh"], da[t, rows], before)
            run.gradients.reached = t
            yield t

    return backward_loop


def accumulating(change):
    """Return a `close_backward` with the factors of each product as `change(binding)` says."""

    def close_backward(self, run):
        dx = ORIGINAL[Recurrent, "close_backward"](self, run)
        da, x, h_prev, db = change(run.binding)
        run.sums["weight_ih"][...] = da.T.dot(x)
        run.sums["weight_hh"][...] = da.T.dot(h_prev)
        if self.bias:
            run.sums["bias_ih"][...] = run.sums["bias_hh"][...] = db
        return dx

    return close_backward


def after_products(change):
    """Return a `close_backward` after which `change(sums, arrays)` has its way."""

    def close_backward(self, run):
        dx = ORIGINAL[Recurrent, "close_backward"](self, run)
        change(run.sums, run.binding.arrays)
        return dx

    return close_backward


def factors(binding):
    da, x, h_prev = (binding.batch.flat(binding.aligned(name)) for name in ("da_t", "x_t", "h_prev"))
    return da, x, h_prev, da.sum(axis=0)


def unshifted_h(binding):
    da, x, _, db = factors(binding)
    return da, x, binding.batch.flat(binding.aligned("h_t")), db


def h_in_place_of_x(binding):
    da, x, h_prev, db = factors(binding)
    return da, h_prev if x.shape == h_prev.shape else x, h_prev, db


def doubled_bias(binding):
    da, x, h_prev, db = factors(binding)
    return da, x, h_prev, 2 * db


def dh_in_place_of_da(binding):
    _, x, h_prev, _ = factors(binding)
    dh = binding.batch.flat(binding.aligned("dh_t"))
    return dh, x, h_prev, dh.sum(axis=0)


def batch_mean(binding):
    da, x, h_prev, db = factors(binding)
    N = max(binding.batch.N, 1)
    return da / N, x, h_prev, db / N


def weighted_by_the_batch(binding):
    da, x, h_prev, db = factors(binding)
    return da * binding.batch.N * (1 / binding.batch.N), x, h_prev, db


def newest_step_only(binding):
    da = binding.arrays["da"].copy()
    da[binding.order(False)[:-1]] = 0
    return factors(binding.on({**binding.arrays, "da": da}, binding.constants))


def grads_overwritten(self, run):
    if run.grads is not None:
        run.grads.flat[:] = 0
    yield from ORIGINAL[Recurrent, "bptt"](self, run)


def noise(sums, arrays):
    sums["weight_hh"][...] *= 1 + 1e-15 * np.random.default_rng().normal(size=sums["weight_hh"].shape)


def bias_summed_in_another_order(sums, arrays):
    # Equal but for rounding.
    if "bias_hh" in sums:
        sums["bias_hh"][...] = arrays["da"].real[::-1].sum(axis=(0, 1))


def one_bias_gradient_for_both_sides(sums, arrays):
    if "bias_hh" in sums:
        sums["bias_hh"][...] = sums["bias_ih"]


def no_final_state_gradient(self, run, doutput, dfinals):
    ORIGINAL[Recurrent, "open_backward"](self, run, doutput, [None for _ in dfinals])


def final_state_gradient_at_the_longest(self, run, doutput, dfinals):
    ORIGINAL[Recurrent, "open_backward"](self, run, doutput, [None for _ in dfinals])
    for state, dfinal in zip(self.cell.states, dfinals, strict=True):
        if dfinal is not None:
            run.binding.arrays["d" + state][0 if run.binding.reverse else run.binding.batch.T] += dfinal


def padding_of_doutput_read(self, run, doutput, dfinals):
    ORIGINAL[Recurrent, "open_backward"](self, run, doutput, dfinals)
    alive = run.binding.batch.alive
    if doutput is not None and alive is not None:
        run.binding.aligned("dh_t")[...] += np.where(alive[:, :, None], 0, doutput)


def doutput_modified(self, run, doutput, dfinals):
    ORIGINAL[Recurrent, "open_backward"](self, run, doutput, dfinals)
    if doutput is not None:
        doutput *= 0.5


def after_bptt(change):
    """Return a `bptt` whose result is changed."""

    def bptt(self, run):
        yield from ORIGINAL[Recurrent, "bptt"](self, run)
        change(self, run.results[0])

    return bptt


def zero_dh_0(self, result):
    result.dh_0 = np.zeros_like(result.dh_0)


def zero_first_dx(self, result):
    (result.dx.swapaxes(0, 1) if self.batch_first and result.dx.ndim == 3 else result.dx)[0] = 0


def clipped_grads(self, result):
    if result.grads.dtype.kind == "f":
        np.clip(result.grads.flat, -20, 20, out=result.grads.flat)


def dx_in_double_precision(self, result):
    result.dx = result.dx.astype(np.float64)


def masks_forgotten(self, run):
    edge = run.trace.edge
    kept, edge.factors = edge.factors, None
    try:
        yield from ORIGINAL[Recurrent, "bptt"](self, run)
    finally:
        edge.factors = kept


def grads_touched_early(self, run):
    before = run.grads.flat.copy()
    for step in ORIGINAL[Recurrent, "bptt"](self, run):
        run.grads.flat[:] = before + 1
        yield step
        run.grads.flat[:] = before


def result_before_the_end(self, run):
    steps = list(ORIGINAL[Recurrent, "bptt"](self, run))
    yield from steps


def reverse_not_reversed(self, layer):
    directions = ORIGINAL[Options, "directions_of"](self, layer)
    return [dataclasses.replace(direction, reverse=False) for direction in directions]


def both_directions_in_one_half(self, layer):
    directions = ORIGINAL[Options, "directions_of"](self, layer)
    return [dataclasses.replace(direction, columns=directions[0].columns) for direction in directions]


def lengths_ignored(where, lengths, steps, batch):
    ORIGINAL[arguments, "sequence_lengths"](where, lengths, steps, batch)


def lengths_taken_for_sorted(where, lengths, steps, batch):
    found = ORIGINAL[arguments, "sequence_lengths"](where, lengths, steps, batch)
    return None if found is None else np.sort(found)[::-1]


def order_of_states_forgotten(self, states):
    return tuple(array[:, 0] if self.unbatched else array for array in states)


def initial_state_ignored(self, where, name, value):
    found = ORIGINAL[Edge, "states_in"](self, where, name, value)
    return [None for _ in found] if name == "h_0" else found


def initial_state_in_the_output(self, states):
    return states[self.after : self.after + self.batch.T]


def batch_normalised(layer, where, x, lengths, copied):
    edge, signal = ORIGINAL[Edge, "opened"](layer, where, x, lengths, copied)
    return edge, signal - signal.mean(axis=1, keepdims=True) if signal.shape[1] else signal


def centred_over_time(layer, where, x, lengths, copied):
    edge, signal = ORIGINAL[Edge, "opened"](layer, where, x, lengths, copied)
    return edge, signal - signal.mean(axis=0)


def empty_sequences_let_through(layer, where, x, lengths, copied):
    array = np.asarray(x)
    time = 1 if layer.batch_first and array.ndim == 3 else 0
    if array.shape[time] == 0:
        x = np.zeros([1 if axis == time else size for axis, size in enumerate(array.shape)], array.dtype)
    return ORIGINAL[Edge, "opened"](layer, where, x, lengths, copied)


def x_kept_in_the_layer(layer, where, x, lengths, copied):
    layer.last_x = x
    return ORIGINAL[Edge, "opened"](layer, where, x, lengths, copied)


def batch_first_for_inputs_only(self, array):
    array = self.batch.unsorted(array, 1)
    return array[:, 0] if self.unbatched else array


def batch_axis_kept(self, array):
    array = self.batch.unsorted(array, 1)
    return array.swapaxes(0, 1) if self.batch_first and not self.unbatched else array


def memory_order_for_axis_order(layer, where, x, lengths, copied):
    return ORIGINAL[Edge, "opened"](layer, where, np.ravel(x, order="K").reshape(np.shape(x)), lengths, copied)


def batch_first_ignored_in_doutput(self, where, name, value):
    found = ORIGINAL[Edge, "like_output"](self, where, name, value)
    if found is None or not self.batch_first or self.unbatched:
        return found
    return found.swapaxes(0, 1).reshape(found.shape)


def dropout_without_training(self, where, given, training, batch):
    return ORIGINAL[Options, "dropout_factors"](self, where, given, True, batch)


def dropout_masks_not_replayed(self, where, given, training, batch):
    return ORIGINAL[Options, "dropout_factors"](self, where, None, training, batch)


def masks_unscaled(self, rate, shape):
    return (ORIGINAL[Options, "drawn_mask"](self, rate, shape) > 0).astype(self.dtype)


def changed_state_masks(**changes):
    """Return a `state_masks` some of whose arguments are others."""

    def state_masks(self, where, recurrent, zoneout, training, batch):
        given = {"recurrent": recurrent, "zoneout": zoneout, "training": training} | changes
        return ORIGINAL[Options, "state_masks"](self, where, **given, batch=batch)

    return state_masks


def zoneout_in_training_only(self, where, recurrent, zoneout, training, batch):
    found = ORIGINAL[Options, "state_masks"](self, where, recurrent, zoneout, training, batch)
    return found if training or zoneout is not None else {}


def zoneout_of_h_alone(self, where, recurrent, zoneout, training, batch):
    found = ORIGINAL[Options, "state_masks"](self, where, recurrent, zoneout, training, batch)
    for chosen in found.values():
        if "c" in chosen.zoneout:
            chosen.zoneout["c"][...] = 0
    return found


def one_state_mask_for_the_batch(self, where, recurrent, zoneout, training, batch):
    found = ORIGINAL[Options, "state_masks"](self, where, recurrent, zoneout, training, batch)
    return {name: parts.Masks(chosen.recurrent[:1], chosen.zoneout) for name, chosen in found.items()}


def another_recurrent_mask_at_each_step(self, direction, edge, x, initial, masks, params, record):
    run = ORIGINAL[Recurrent, "open_forward"](self, direction, edge, x, initial, masks, params, record)
    if "recurrent_mask" in run.binding.arrays:
        changing = run.binding.arrays["recurrent_mask"].copy()
        for t, mask in enumerate(changing):
            mask[...] = np.roll(mask, t, axis=1)
        run.binding.arrays["recurrent_mask"] = changing
        if record:
            run.trace.arrays["recurrent_mask"] = changing
    return run


def drop_backward(dh_in, m, dh_prev):
    dh_prev += dh_in


def zone_backward_new(ds_t, k_t, ds_new):
    ds_new[...] = ds_t


def zone_backward_prev(ds_t, k_t, ds_prev):
    pass


def packed_in_the_order_of_the_engine(self, array):
    if self.packed is not None:
        return self.packed.pack(array)
    return ORIGINAL[Edge, "signal_out"](self, array)


def packed_gradient_taken_for_sorted(self, where, name, value):
    found = ORIGINAL[Edge, "like_output"](self, where, name, value)
    return found if self.packed is None or found is None else self.batch.unsorted(found, 1)


def lengths_of_a_pack_ignored(layer, where, x, lengths, copied):
    if not hasattr(x, "padded"):
        return ORIGINAL[Edge, "opened"](layer, where, x, lengths, copied)
    padded = x.padded(batch_first=layer.batch_first)[0]
    edge, signal = ORIGINAL[Edge, "opened"](layer, where, padded, None, copied)
    edge.packed = x
    return edge, signal


# ------------------------------------------------------------------------------------------------ wrong gates


def lstm_backward_but(mistake=""):
    """Return B4, B3, B1 of the LSTM with one mistake; without, they are right."""

    def step_backward(
        dh_t, f_t, i_t, dm_dc_t, W_hh, dc_t, da_t, da_o_t, da_i_t, da_f_t, da_g_t, dc_prev, dh_in
    ):  # fmt: skip
        if mistake != "no path through tanh c":
            dc_t += dh_t * dm_dc_t
        da_o_t *= dc_t if mistake == "o gets dc" else dh_t
        da_i_t *= dh_t if mistake == "i gets dh" else dc_t
        da_f_t *= dc_t
        da_g_t *= dc_t
        if mistake == "i and f exchanged":
            da_i_t[...], da_f_t[...] = da_f_t.copy(), da_i_t.copy()
        factor = {"dc_prev not times f": 1, "dc_prev times i": i_t}.get(mistake, f_t)
        if mistake != "no path from cell to cell":
            dc_prev[...] = dc_t * factor
        dh_in += W_hh.T.dot(da_t)

    return step_backward


def lstm_partials_but(mistake):
    """Return the LSTM's partial derivatives, one of them wrong."""

    def step_partials(
        oif_t, o_t, i_t, g_t, f_t, c_prev, c_t, tanh_c_t, one, da_oif_t, da_o_t, da_i_t, da_f_t, da_g_t, dm_dc_t
    ):  # fmt: skip
        lstm_step_partials(
            oif_t, o_t, i_t, g_t, c_prev, tanh_c_t, one, da_oif_t, da_o_t, da_i_t, da_f_t, da_g_t, dm_dc_t
        )
        if mistake == "f's from c in place of c_prev":
            da_f_t[...] = f_t * (1 - f_t) * c_t
        elif mistake == "i's from f":
            da_i_t[...] = f_t * (1 - f_t) * g_t
        elif mistake == "g's without 1 - g^2":
            da_g_t[...] = i_t
        elif mistake == "tanh's derivative of c in place of tanh c":
            dm_dc_t[...] = o_t * (1 - c_t * c_t)
        else:
            da_o_t[...] = o_t * tanh_c_t

    return step_partials


def projection_but(mistake=""):
    """Return the part of the projection with a mistake in B5; without, it is right."""

    def project_backward(dh_t, W_hr, dm_t):
        dm_t[...] = abs(W_hr).T.dot(dh_t) if mistake == "sign of W_hr" else W_hr.T.dot(dh_t)

    return (dataclasses.replace(lstm.PROJECTED_CELL.after[0], backward=project_backward),)


def rebound(a_t, h_in, W_hh, h_t):
    a_t += h_in.dot(W_hh.T)
    h_t = np.tanh(a_t)  # noqa: F841  (the mistake)


def scratched_dh(dh_t, W_hh, da_t, dh_in):
    da_t *= dh_t
    dh_t *= 0.5
    dh_in += da_t.dot(W_hh)


def gru_backward_but(mistake=""):
    """Return B4 to B1 of the GRU that resets after the product, with one mistake; without, they are right."""

    def step_backward(
        dh_t, r_t, z_t, n_t, W_hh, da_qrz_t, da_q_t, da_r_t, da_z_t, da_n_t, dh_prev, dh_in
    ):  # fmt: skip
        da_z_t *= -dh_t if mistake == "sign of z" else dh_t
        if mistake != "no leak":
            dh_prev += dh_t * (1 - z_t if mistake == "leak of 1 - z" else z_t)
        da_n_t *= dh_t
        da_q_t[...] = da_n_t * (1 if mistake == "da_q without r" else r_t)
        da_r_t *= dh_t if mistake == "r gets dh" else da_n_t
        dh_in += W_hh.T.dot(da_qrz_t)

    return step_backward


def gru_before_backward_but(mistake=""):
    """Return B4 to B1 of the GRU that resets before the product, with one mistake; without, they are right."""

    def step_backward(
        dh_t, r_t, z_t, W_hrz, W_hn, da_rz_t, da_r_t, da_z_t, da_n_t, dk_t, dh_prev, dh_in
    ):  # fmt: skip
        da_z_t *= dh_t
        dh_prev += dh_t * z_t
        da_n_t *= dh_t
        dk_t[...] = (W_hn if mistake == "W_hn transposed" else W_hn.T).dot(da_n_t)
        da_r_t *= da_n_t if mistake == "r gets da_n" else dk_t
        if mistake != "no path through k":
            dh_in += dk_t * (1 if mistake == "dk without r" else r_t)
        dh_in += W_hrz.T.dot(da_rz_t)

    return step_backward


def halving_forgotten_in_the_bias(self, bias_ih, bias_hh, halved=True):
    return ORIGINAL[Cell, "bias"](self, bias_ih, bias_hh, False)


def bias_of_q_missing(self, bias_ih, bias_hh, halved=True):
    bias = ORIGINAL[Cell, "bias"](self, bias_ih, bias_hh, halved)
    bias[: len(bias) // len(self.slabs)] = 0
    return bias


def halved_for_dx_too(self, kind, weight, halved):
    return ORIGINAL[Cell, "arranged"](self, kind, weight, True)


def memory_order_ignored(self, kind, weight, halved):
    found = ORIGINAL[Cell, "arranged"](self, kind, weight, halved)
    return found if halved else weight


def inference_from_zero(self, x, h_0=None, lengths=None, *, given=None):
    return ORIGINAL[Recurrent, "__call__"](self, x, None, lengths, given=given)


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


def planted(name, caught_by, owner, method, function, kind=RNN, **options):
    return Mutant(name, caught_by, methods=((owner, named(method, function)),), options=options, kind=kind)


def formula(name, caught_by, kind=RNN, options=None, **fields):
    return Mutant(name, caught_by, formulas=fields, options=options or {}, kind=kind)


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
        (*GRADIENTS, "check_direction"),
        formulas={"step_partials": relu_derivative_of_the_previous_state},
        options={"nonlinearity": "relu"},
    ),
    planted(
        "first step missing",
        (*GRADIENTS, "check_first_step", "check_steps"),
        Recurrent,
        "backward_loop",
        plain_loop(lambda steps: steps[:-1]),
    ),
    planted(
        "last step skipped",
        (*GRADIENTS, "check_gradients_of_final_state"),
        Recurrent,
        "backward_loop",
        plain_loop(lambda steps: steps[1:]),
    ),
    planted("steps in the wrong order", GRADIENTS, Recurrent, "backward_loop", plain_loop(lambda steps: steps[::-1])),
    planted("derivative of the next state", GRADIENTS, Recurrent, "backward_loop", plain_loop(list, shift=1)),
    planted("unshifted h", GRADIENTS, Recurrent, "close_backward", accumulating(unshifted_h)),
    planted("dW_ih from h", GRADIENTS, Recurrent, "close_backward", accumulating(h_in_place_of_x), num_layers=2),
    planted("bias doubled", GRADIENTS, Recurrent, "close_backward", accumulating(doubled_bias)),
    planted("dh in place of da", GRADIENTS, Recurrent, "close_backward", accumulating(dh_in_place_of_da)),
    planted(
        "mean over the batch",
        (*GRADIENTS, "check_accumulation"),
        Recurrent,
        "close_backward",
        accumulating(batch_mean),
    ),
    planted(
        "division by the batch size",
        ("check_empty_batch",),
        Recurrent,
        "close_backward",
        accumulating(weighted_by_the_batch),
    ),
    planted(
        "parameter gradients of the newest step only",
        (*GRADIENTS, "check_chunks"),
        Recurrent,
        "close_backward",
        accumulating(newest_step_only),
    ),
    planted("grads overwritten", ("check_accumulation", "check_chunks"), Recurrent, "bptt", grads_overwritten),
    planted("rounding noise", ("check_repeatable",), Recurrent, "close_backward", after_products(noise)),
    planted(
        "final-state gradient ignored",
        (*GRADIENTS, "check_gradients_of_final_state", "check_chunks"),
        Recurrent,
        "open_backward",
        no_final_state_gradient,
    ),
    planted(
        "final-state gradient enters at T",
        (*GRADIENTS, "check_padding"),
        Recurrent,
        "open_backward",
        final_state_gradient_at_the_longest,
    ),
    planted(
        "padding of doutput leaks",
        ("check_padding",),
        Recurrent,
        "open_backward",
        padding_of_doutput_read,
        bidirectional=True,
    ),
    planted("doutput modified", ("check_unchanged",), Recurrent, "open_backward", doutput_modified),
    planted("dh_0 zero", (*GRADIENTS, "check_first_step"), Recurrent, "bptt", after_bptt(zero_dh_0)),
    planted("dx[0] zero", (*GRADIENTS, "check_first_step"), Recurrent, "bptt", after_bptt(zero_first_dx)),
    planted("gradients clipped", ("check_linearity",), Recurrent, "bptt", after_bptt(clipped_grads)),
    planted("dx in float64", ("check_float32",), Recurrent, "bptt", after_bptt(dx_in_double_precision)),
    planted(
        "dropout masks forgotten in backward", GRADIENTS, Recurrent, "bptt", masks_forgotten, num_layers=2, dropout=0.4
    ),
    planted("grads touched before the end", ("check_steps",), Recurrent, "bptt", grads_touched_early),
    planted("result before the end", ("check_steps",), Recurrent, "bptt", result_before_the_end),
    planted(
        "reverse direction not reversed",
        ("check_reversal", "check_steps"),
        Options,
        "directions_of",
        reverse_not_reversed,
        bidirectional=True,
    ),
    planted(
        "both directions read one half of doutput",
        GRADIENTS,
        Options,
        "directions_of",
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
        Edge,
        "states_out",
        order_of_states_forgotten,
    ),
    planted("initial state ignored", (*GRADIENTS, "check_chunks"), Edge, "states_in", initial_state_ignored),
    planted(
        "initial state shows in the output",
        ("check_padding",),
        Binding,
        "output",
        initial_state_in_the_output,
        bidirectional=True,
    ),
    planted("inputs centred over the batch", ("check_batch",), Edge, "opened", batch_normalised),
    planted("inputs centred over time", ("check_causality", "check_chunks"), Edge, "opened", centred_over_time),
    planted("T = 0 let through", ("check_no_steps",), Edge, "opened", empty_sequences_let_through),
    planted("activations kept in the layer", ("check_unchanged",), Edge, "opened", x_kept_in_the_layer),
    planted(
        "batch_first for inputs only",
        ("check_batch_first", "check_gradients_of_output"),
        Edge,
        "signal_out",
        batch_first_for_inputs_only,
        batch_first=True,
    ),
    planted("batch axis kept for one sequence", ("check_unbatched",), Edge, "signal_out", batch_axis_kept),
    planted(
        "order in memory taken for the order of axes",
        ("check_strides",),
        Edge,
        "opened",
        memory_order_for_axis_order,
    ),
    planted(
        "batch_first ignored in doutput",
        (*GRADIENTS, "check_batch_first"),
        Edge,
        "like_output",
        batch_first_ignored_in_doutput,
        batch_first=True,
    ),
    planted(
        "dropout without training",
        ("check_dropout", "check_inference"),
        Options,
        "dropout_factors",
        dropout_without_training,
        num_layers=2,
        dropout=0.4,
    ),
    planted(
        "masks not replayed",
        ("check_dropout",),
        Options,
        "dropout_factors",
        dropout_masks_not_replayed,
        num_layers=2,
        dropout=0.4,
    ),
    planted("inference from zero", ("check_inference",), Recurrent, "__call__", inference_from_zero),
    planted("views in the state dict", ("check_state_dict",), Parameters, "state_dict", views_in_state_dict),
    planted("state dict loaded in part", ("check_state_dict",), Parameters, "load_state_dict", partly_loaded),
    planted("memory handed out while in use", ("check_reentrant",), memory, "empty", two_arrays_for_all_calls()),
    planted(
        "biases summed in two orders",
        ("check_bias_gradients",),
        Recurrent,
        "close_backward",
        after_products(bias_summed_in_another_order),
    ),
]

STATE_MASKS = {"recurrent_dropout": 0.4, "zoneout": 0.3}

MUTANTS += [
    planted(name, (check,), Options, "state_masks", function, kind, **STATE_MASKS)
    for name, check, function, kind in [
        (
            "recurrent masks not replayed",
            "check_recurrent_dropout",
            changed_state_masks(recurrent=None, training=True),
            RNN,
        ),
        ("zoneout masks not replayed", "check_zoneout", changed_state_masks(zoneout=None, training=True), GRU),
        ("recurrent dropout without training", "check_inference", changed_state_masks(training=True), LSTM),
        ("zoneout in training only", "check_zoneout", zoneout_in_training_only, LSTM),
        ("zoneout of h alone", "check_zoneout", zoneout_of_h_alone, LSTM),
        ("one recurrent mask for the batch", "check_recurrent_dropout", one_state_mask_for_the_batch, RNN),
    ]
]
MUTANTS += [
    planted("masks unscaled", ("check_recurrent_dropout",), Options, "drawn_mask", masks_unscaled, GRU, **STATE_MASKS),
    planted(
        "another recurrent mask at each step",
        ("check_recurrent_dropout",),
        Recurrent,
        "open_forward",
        another_recurrent_mask_at_each_step,
        **STATE_MASKS,
    ),
]
MUTANTS += [
    planted(f"{function.__name__} without its mask", GRADIENTS, parts, function.__name__, function, LSTM, **STATE_MASKS)
    for function in (drop_backward, zone_backward_new, zone_backward_prev)
]
MUTANTS += [
    planted(name, ("check_packed",), Edge, method, function, LSTM)
    for name, method, function in [
        ("packed in the order of the engine", "signal_out", packed_in_the_order_of_the_engine),
        ("packed gradient taken for sorted", "like_output", packed_gradient_taken_for_sorted),
        ("lengths of a pack ignored", "opened", lengths_of_a_pack_ignored),
    ]
]
MUTANTS += [
    formula(f"LSTM: {mistake}", GRADIENTS, LSTM, step_backward=lstm_backward_but(mistake))
    for mistake in (
        "no path through tanh c",
        "o gets dc",
        "i gets dh",
        "i and f exchanged",
        "dc_prev not times f",
        "dc_prev times i",
        "no path from cell to cell",
    )
]
MUTANTS += [
    formula(f"LSTM, partial derivatives: {mistake}", GRADIENTS, LSTM, step_partials=lstm_partials_but(mistake))
    for mistake in (
        "f's from c in place of c_prev",
        "i's from f",
        "g's without 1 - g^2",
        "tanh's derivative of c in place of tanh c",
        "o's without 1 - o",
    )
]
PROJECTION = {"proj_size": 2}
MUTANTS += [
    formula("projection: sign of W_hr", GRADIENTS, LSTM, PROJECTION, after=projection_but("sign of W_hr")),
]
MUTANTS += [
    formula(
        f"projection: dW_hr from {source}",
        GRADIENTS,
        LSTM,
        PROJECTION,
        parameters={"weight_hr": ExtraParameter("W_hr", lstm._projection_shape, product=("dh_t", f"{source}_t"))},
    )
    for source in ("tanh_c", "c", "o")
]
MUTANTS += [
    formula(f"GRU: {mistake}", caught_by, GRU, step_backward=gru_backward_but(mistake))
    for mistake, caught_by in [
        ("sign of z", GRADIENTS),
        ("no leak", GRADIENTS),
        ("leak of 1 - z", GRADIENTS),
        ("da_q without r", (*GRADIENTS, "check_bias_gradients")),
        ("r gets dh", GRADIENTS),
    ]
]
MUTANTS += [
    formula("h_t rebound", ("check_writes",), step_forward=rebound),
    formula("dh_t used as scratch", ("check_chunks",), step_backward=scratched_dh),
]
BEFORE = {"reset": "before"}
MUTANTS += [
    formula(f"GRU before: {mistake}", GRADIENTS, GRU, BEFORE, step_backward=gru_before_backward_but(mistake))
    for mistake in ("W_hn transposed", "r gets da_n", "no path through k", "dk without r")
]
MUTANTS += [
    formula("GRU before: dW_hn from h", GRADIENTS, GRU, BEFORE, hidden_inputs={}),
    planted(
        "GRU: one bias gradient for both sides",
        (*GRADIENTS, "check_bias_gradients"),
        Recurrent,
        "close_backward",
        after_products(one_bias_gradient_for_both_sides),
        GRU,
    ),
    planted("GRU: bias of q missing", GRADIENTS, Cell, "bias", bias_of_q_missing, GRU),
    formula("GRU: z not halved", GRADIENTS, GRU, sigmoids=("r",)),
    formula("LSTM: f not halved", GRADIENTS, LSTM, sigmoids=("o", "i")),
    formula("LSTM: g halved", GRADIENTS, LSTM, sigmoids=("o", "i", "f", "g")),
]
MUTANTS += [
    planted(f"{kind.__name__}: {name}", GRADIENTS, Cell, method, function, kind)
    for kind, name, method, function in [
        (LSTM, "halving forgotten in the bias", "bias", halving_forgotten_in_the_bias),
        (GRU, "halving forgotten in the bias", "bias", halving_forgotten_in_the_bias),
        (LSTM, "halved weights in backward", "arranged", halved_for_dx_too),
        (GRU, "halved weights in backward", "arranged", halved_for_dx_too),
        (LSTM, "blocks in backward not in memory order", "arranged", memory_order_ignored),
        (GRU, "blocks in backward not in memory order", "arranged", memory_order_ignored),
    ]
]


# ------------------------------------------------------------------------------------------------ attention


def read_of_given(self, arrays, given):
    """Rows that do not exist are read."""
    return arrays


ADDITIVE, FEEDING = {"score": "additive"}, {"score": "keys", "input_feeding": True}
COVERED, LOCATED = {**ADDITIVE, "coverage": True}, {**ADDITIVE, "location": (2, 3)}
GATED = {"gate": "vector"}
ALONE, ROWS, ORDER = ("check_gradients",), ("check_memory_padding",), ("check_memory_order",)

# Mistake, function, what stands in it, what in its place; in options, caught by.
OF_ATTENTION = {
    # The scores.
    (AttentionRNN, "F1: score doubled", "product_forward"): (
        "np.ascontiguousarray(query)", "2 * np.ascontiguousarray(query)", {}, ALONE),
    (AttentionGRU, "B1: dh_prev overwritten", "product_backward"): ("dquery +=", "dquery[...] =", {}, ALONE),
    (AttentionLSTM, "B1: sign", "product_backward"): ("dquery +=", "dquery -=", {"score": "keys"}, ALONE),
    (AttentionRNN, "F1, additive: no tanh", "hidden_units"): ("np.tanh(units_t, out=units_t)", "pass", ADDITIVE, ALONE),
    (AttentionRNN, "F1, additive: W_q transposed", "hidden_units"): ("W_q.T", "W_q", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: dv_a of one step", "additive_backward"): ("dv_a +=", "dv_a[...] =", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: no derivative of tanh", "additive_backward"): (
        "np.subtract(1, dunits_t, out=dunits_t)", "dunits_t[...] = 1", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: v + 1", "additive_backward"): (
        "*= v_a.ravel()", "*= 1 + v_a.ravel()", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: keys get nothing", "additive_backward"): (
        "dkeys += dunits_t", "pass", ADDITIVE, ALONE),
    (AttentionGRU, "B1, additive: keys get the last step", "additive_backward"): (
        "dkeys += dunits_t", "dkeys[...] = dunits_t", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: the first row alone", "additive_backward"): (
        "np.add.reduce(dunits_t, axis=1, out=dprojected_t)", "dprojected_t[...] = dunits_t[:, 0]", ADDITIVE, ALONE),
    (AttentionLSTM, "B1, additive: W_q transposed", "additive_backward"): (
        "dprojected_t.dot(W_q)", "dprojected_t.dot(W_q.T)", ADDITIVE, ALONE),
    (AttentionLSTM, "B1, additive: state gets nothing", "additive_backward"): (
        "dquery += dprojected_t.dot(W_q)", "pass", ADDITIVE, ALONE),
    (AttentionRNN, "B1, additive: dW_q from h_t", "attending"): (
        'product=("dprojected_t", f"{state}_{when}")', 'product=("dprojected_t", f"{state}_t")', ADDITIVE, ALONE),
    # The weights.
    (AttentionRNN, "F2: mask forgotten", "softmax_forward"): (
        "np.copyto(alpha_t, score_t, where=exists)", "alpha_t[...] = score_t", {}, ROWS),
    (AttentionRNN, "F2: a large number for a mask", "softmax_forward"): (
        "alpha_t.fill(-np.inf)", "alpha_t.fill(-1e9)", {}, ROWS),
    (AttentionRNN, "F2: divided by running sums", "softmax_forward"): (
        "sum_over_s(alpha_t)", "np.add.accumulate(alpha_t, axis=1)", {}, (*ALONE, *ORDER)),
    (AttentionRNN, "F2: divided by the number of rows", "softmax_forward"): (
        "sum_over_s(alpha_t)", "alpha_t.shape[1]", {}, (*ALONE, *ROWS)),
    (AttentionRNN, "rows that do not exist are read", "read_of_given"): (None, read_of_given, {}, ROWS),
    (AttentionRNN, "B2: no Jacobian", "softmax_backward"): (
        "np.subtract(dalpha_t, sum_over_s(alpha_t * dalpha_t), out=dscore_t)", "dscore_t[...] = dalpha_t", {}, ALONE),
    (AttentionGRU, "B2: mean in place of the weighted sum", "softmax_backward"): (
        "sum_over_s(alpha_t * dalpha_t)", "dalpha_t.mean(axis=1, keepdims=True)", {}, ALONE),
    (AttentionLSTM, "B2: weights forgotten", "softmax_backward"): ("dscore_t *= alpha_t", "pass", {}, ALONE),
    (AttentionRNN, "F3: scores in place of weights", "weights_forward"): (
        "alpha_t, values, context_t", "score_t, values, context_t", {}, ALONE),
    (AttentionRNN, "B3: what coverage says overwritten", "weights_backward"): (
        "dalpha_t +=", "dalpha_t[...] =", COVERED, ALONE),
    # Context and memory.
    (AttentionGRU, "F4: x overwritten", "context_forward"): ("input_t +=", "input_t[...] =", {}, ALONE),
    (AttentionRNN, "B4: context at half", "context_backward"): (
        "dinput_t.dot(W_ch)", "0.5 * dinput_t.dot(W_ch)", {}, ALONE),
    (AttentionRNN, "BV: memory by its values alone", "attending"): (
        '{**given["values"].products, **by_weights}', '{**given["values"].products}', {}, ALONE),
    (AttentionLSTM, "BV: memory by its weights alone", "attending"): (
        '{**given["values"].products, **by_weights}', "{**by_weights}", {}, ALONE),
    (AttentionRNN, "BV: keys from h_t", "attending"): (
        'by_weights = {"weights": ("dscore_t", f"{state}_{when}")}',
        'by_weights = {"weights": ("dscore_t", f"{state}_t")}',
        {"score": "keys"}, ALONE),
    (AttentionGRU, "BW: context without its gate", "attending"): (
        'product=("dinput_t", read)', 'product=("dinput_t", "context_t")', GATED, ALONE),
    # Coverage.
    (AttentionRNN, "C1: sign", "coverage_forward"): ("cov_prev[:, :, None]", "-cov_prev[:, :, None]", COVERED, ALONE),
    (AttentionRNN, "C1: the last weights alone", "cover_forward"): ("cov_prev, alpha_t", "0, alpha_t", COVERED, ALONE),
    (AttentionRNN, "D1: w_c gets the last step", "coverage_backward"): ("dw_c +=", "dw_c[...] =", COVERED, ALONE),
    (AttentionGRU, "D1: coverage gets nothing of the scores", "coverage_backward"): (
        "dcov_prev += dunits_t @ w_c.ravel()", "pass", COVERED, ALONE),
    (AttentionRNN, "D2: weights get nothing", "cover_backward"): ("dalpha_t += dcov_t", "pass", COVERED, ALONE),
    (AttentionLSTM, "D2: coverage of one step", "cover_backward"): ("dcov_prev += dcov_t", "pass", COVERED, ALONE),
    # Location.
    (AttentionRNN, "C3: filters flipped", "location_forward"): (
        "F.shape[1]), F)", "F.shape[1]), F[:, ::-1])", LOCATED, ALONE,
    ),
    (AttentionRNN, "D3: dU_f of the last step", "location_backward"): ("dU_f +=", "dU_f[...] =", LOCATED, ALONE),
    (AttentionRNN, "D3: dF without U_f", "location_backward"): (
        'np.einsum("nsc,nsw->cw", df, around)', 'np.einsum("nsc,nsw->cw", dunits_t[:, :, :2], around)', LOCATED, ALONE),
    (AttentionGRU, "D3: focus off by one row", "location_backward"): (
        "padded[:, radius : radius + S]", "padded[:, :S]", LOCATED, ALONE),
    (AttentionRNN, "D3: filters flipped backward", "location_backward"): (
        "df @ F,", "df @ F[:, ::-1],", LOCATED, ALONE),
    (AttentionLSTM, "D4: weights get nothing", "focus_backward"): ("dalpha_t += dfocus_t", "pass", LOCATED, ALONE),
    # The gate.
    (AttentionRNN, "F5: b_g forgotten", "gate_forward"): ("b_g.ravel()", "0 * b_g.ravel()", GATED, ALONE),
    (AttentionRNN, "B5: derivative missing", "gate_backward"): ("dbeta * beta_t * (1 - beta_t)", "dbeta", GATED, ALONE),
    (AttentionRNN, "B5: context without the gate", "gate_backward"): (
        "np.multiply(beta_t, dgated_t, out=dcontext_t)", "dcontext_t[...] = dgated_t", GATED, ALONE),
    (AttentionGRU, "B5: state gets nothing", "gate_backward"): ("dquery += dgate_t.dot(W_g)", "pass", GATED, ALONE),
    (AttentionRNN, "B5: b_g gets the last step", "gate_backward"): ("db_g +=", "db_g[...] =", GATED, ALONE),
    (AttentionLSTM, "B5: one unit in place of the sum", "gate_backward"): (
        "dbeta.sum(axis=1, keepdims=True)", "dbeta[:, :1]", {"gate": "scalar"}, ALONE),
    (AttentionRNN, "B5: dW_g from h_t", "attending"): (
        'product=("dgate_t", f"{state}_{when}")', 'product=("dgate_t", f"{state}_t")', GATED, ALONE),
    # Input feeding.
    (AttentionRNN, "B6: derivative missing", "combine_backward"): (
        "1 - attn_t * attn_t", "np.ones_like(attn_t)", FEEDING, ALONE),
    (AttentionRNN, "B6: context and state exchanged", "combine_backward"): (
        "dcontext_t[...] = djoined[:, :M]\n    dh_t += djoined[:, M:]",
        "dcontext_t[...] = djoined[:, M:]\n    dh_t += djoined[:, :M]", FEEDING, ALONE),
    (AttentionLSTM, "B6: dh_t overwritten", "combine_backward"): ("dh_t +=", "dh_t[...] =", FEEDING, ALONE),
    (AttentionRNN, "B6: dW_c without the derivative", "attending"): (
        'product=("dcombined_t", "joined_t")', 'product=("dattn_t", "joined_t")', FEEDING, ALONE),
    (AttentionGRU, "B7: nothing fed back", "feed_backward"): (
        "dattn_prev += dinput_t.dot(W_if)", "pass", FEEDING, ALONE),
    (AttentionGRU, "B7: overwritten", "feed_backward"): ("dattn_prev +=", "dattn_prev[...] = 2 *", FEEDING, ALONE),
    (AttentionRNN, "B7: dW_if from attn_t", "attending"): (
        'product=("dinput_t", "attn_prev")', 'product=("dinput_t", "attn_t")', FEEDING, ALONE),
}  # fmt: skip

MUTANTS += [
    Mutant(
        f"attention, {name}",
        caught_by,
        methods=((Attending, new),) if old is None else (),
        options=options,
        kind=kind,
        edit=() if old is None else (function, old, new),
    )
    for (kind, name, function), (old, new, options, caught_by) in OF_ATTENTION.items()
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant, monkeypatch):
    case = Case(mutant.kind, mutant.options)
    applicable = {check.__name__ for _, check in conformance_checks([case])}
    assert applicable.issuperset(mutant.caught_by)
    mutant.plant(monkeypatch)
    failures = conformance_failures(case, [check for check in CHECKS if check.__name__ in mutant.caught_by])
    missed = [name for name in mutant.caught_by if name not in failures]
    assert not missed, f"{mutant.name}: not caught by {missed}"


@pytest.mark.parametrize(
    "unmutated",
    [
        Mutant("RNN", (), methods=((Recurrent, plain_loop(list)), (Recurrent, accumulating(factors)))),
        formula("LSTM", (), LSTM, step_backward=lstm_backward_but()),
        formula("projected LSTM", (), LSTM, PROJECTION, after=projection_but()),
        formula("GRU", (), GRU, step_backward=gru_backward_but()),
        formula("GRU before", (), GRU, BEFORE, step_backward=gru_before_backward_but()),
    ],
    ids=lambda mutant: mutant.name,
)
def test_what_mutants_are_made_of_passes_without_a_mistake(unmutated, monkeypatch):
    # So that they are caught for their mistake. What checks other than those of gradients hold, a formula without a
    # mistake holds as the layer does.
    unmutated.plant(monkeypatch)
    checks = [check for check in CHECKS if check.__name__ in GRADIENTS]
    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        assert conformance_failures(Case(unmutated.kind, {**unmutated.options, **options}), checks) == {}


# ------------------------------------------------------------------------------------------------ other layers


def assert_is_the_textbooks(layer):
    """Raise unless the layer, on unsorted sequences, gives what the textbook's loop gives."""
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(4, 3, 2)), [2, 4, 1]
    output, finals = layer(x, lengths=lengths)
    finals = finals if isinstance(finals, tuple) else (finals,)
    point = {**layer.state_dict(), "x": x}
    expected, expected_finals = twin.run(twin.Problem(layer, lengths), twin.lifted(point))
    assert_grad_close("output", output, expected[0], 1e-13)
    for state, reference in zip(finals, expected_finals, strict=True):
        assert_grad_close("final state", state, reference[0], 1e-13)


def gru_with_z_and_1_minus_z_exchanged(rz_t, r_t, z_t, n_t, h_in, h_prev, W_hrz, W_hn, k_t, h_t):
    gru.before_step_forward(rz_t, r_t, z_t, n_t, h_in, h_prev, W_hrz, W_hn, np.array(0.5), k_t, h_t)
    h_t[...] = (1 - z_t) * h_prev + z_t * n_t


OTHER_LAYERS = [
    # Forward and backward agree, and no gradient is wrong: weights of torch would mean something else.
    formula("blocks i, g, f, o", (), LSTM, input_slabs=("i", "g", "f", "o"), hidden_slabs=("i", "g", "f", "o")),
    formula("blocks i, f, o, g", (), LSTM, input_slabs=("i", "f", "o", "g"), hidden_slabs=("i", "f", "o", "g")),
    formula("blocks of W_hh alone", (), LSTM, hidden_slabs=("f", "i", "g", "o")),
    formula("blocks of the projected LSTM", (), LSTM, PROJECTION, hidden_slabs=("f", "i", "g", "o")),
    formula("blocks z, r, n", (), GRU, input_slabs=("z", "r", "n"), hidden_slabs=("z", "r", "q")),
    formula("blocks z, r, n, reset before", (), GRU, BEFORE, input_slabs=("z", "r", "n"), hidden_slabs=("z", "r", "n")),
    formula("z and 1 - z exchanged", (), GRU, BEFORE, step_forward=gru_with_z_and_1_minus_z_exchanged),
    planted(
        "both directions in one order", (), Options, "directions_of", reverse_not_reversed, LSTM, bidirectional=True
    ),
]


@pytest.mark.parametrize("mutant", OTHER_LAYERS, ids=lambda mutant: mutant.name)
def test_another_layer_is_caught_by_the_textbooks_loop(mutant, monkeypatch):
    assert_is_the_textbooks(mutant.kind(2, 3, **mutant.options, rng=0))
    mutant.plant(monkeypatch)
    with pytest.raises(GradientCheckError, match="error .* of the largest reference entry"):
        assert_is_the_textbooks(mutant.kind(2, 3, **mutant.options, rng=0))


def test_every_check_catches_some_mutant():
    meant = {name for mutant in MUTANTS for name in mutant.caught_by}
    assert meant == {check.__name__ for check in CHECKS}


def test_mutants_have_names_of_their_own():
    names = [mutant.name for mutant in (*MUTANTS, *OTHER_LAYERS)]
    assert len(set(names)) == len(names)
