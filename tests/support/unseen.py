"""Wrong backward passes that stand in no zoo, each with what may be said of it: where the diagnosis is measured.

Each is (name, layer, data, kinds, where): a layer, keyword arguments of its call, the kinds of `DIAGNOSES` that are
right for it, and what of `Diagnosis.where` is true of it, or the empty dict.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np

from rnn_numpy import GRU, LSTM, RNN, PeepholeLSTM

T, N, D, H = 9, 3, 3, 4


def with_loop(kind, change, before=False):
    """Return a layer that changes its arrays after each step back, or before the loop: change(run, t)."""

    class Wrong(kind):
        def backward_loop(self, run):
            if before:
                change(run, None)
                yield from super().backward_loop(run)
                return
            for t in super().backward_loop(run):
                change(run, t)
                yield t

    return Wrong


def with_sums(kind, change):
    """Return a layer that changes one direction's sums when they are complete: change(run, sums, dx)."""

    class Wrong(kind):
        def close_backward(self, run):
            dx = super().close_backward(run)
            change(run, run.sums, dx)
            return dx

    return Wrong


def with_entry(kind, change):
    """Return a layer that changes what the loss adds, before the loop: change(self, run, doutput, dfinals)."""

    class Wrong(kind):
        def open_backward(self, run, doutput, dfinals):
            doutput, dfinals = change(self, run, doutput, list(dfinals))
            super().open_backward(run, doutput, dfinals)

    return Wrong


def with_formula(kind, name, formula, **options):
    """Return a layer whose cell has another step_backward or step_partials, made from the right one: formula(right)."""

    class Wrong(kind):
        def __init__(self, *args, **given):
            super().__init__(*args, **options, **given)
            self.cell = replace(self.cell, trial=False, **{name: formula(getattr(self.cell, name))})

    return Wrong


def by_hand(kind, change):
    """Return a layer whose backward is its own: no gradients are left in the trace. change(layer, trace, result)."""

    class Wrong(kind):
        def backward(self, trace, doutput, dh_n=None, grads=None, **options):
            result = super().backward(trace, doutput, dh_n, grads, **options)
            for layer in trace.layers.values():
                layer.latest.arrays.clear()
            change(self, trace, result)
            return result

    return Wrong


def rows(gate, kind):
    """Return the rows of a gate in a parameter of H units."""
    gates = {"LSTM": "ifgo", "PeepholeLSTM": "ifgo", "GRU": "rzn"}[kind.__name__]
    return slice(gates.index(gate) * H, (gates.index(gate) + 1) * H)


def product(run, da, source, shift):
    """Return the sum over t and n of da_t source_{t-shift}^T, zeros beyond the ends."""
    left, right = run.binding.aligned(da), run.binding.aligned(source)
    moved = np.zeros_like(right)
    moved[shift:] = right[: len(right) - shift] if shift >= 0 else 0
    if shift < 0:
        moved[:shift] = right[-shift:]
    return np.einsum("tna,tnb->ab", left, moved)


def _after(formula, more):
    """Return a formula with the arguments of both: the right one, then one more."""
    names = list(dict.fromkeys([*inspect.signature(formula).parameters, *inspect.signature(more).parameters]))
    first, second = (list(inspect.signature(each).parameters) for each in (formula, more))

    def both(**given):
        formula(**{name: given[name] for name in first})
        more(**{name: given[name] for name in second})

    namespace = {"both": both}
    exec(f"def changed({', '.join(names)}):\n    both({', '.join(f'{n}={n}' for n in names)})", namespace)
    return namespace["changed"]


def after(more):
    """Return what makes of a formula one after which another runs."""
    return lambda formula: _after(formula, more)


# ------------------------------------------------------------------------------------------------ sums


def _f_takes_h_t(run, sums, dx):
    sums["weight_hh"][rows("f", LSTM)] = product(run, "da_f_t", "h_t", 0)


def _z_takes_x_before(run, sums, dx):
    sums["weight_ih"][rows("z", GRU)] = product(run, "da_z_t", "x_t", 1)


def _reverse_hh(run, sums, dx):
    if run.direction.reverse:
        sums["weight_hh"][...] = product(run, "da_t", "h_t", 0)


def _projection_before(run, sums, dx):
    sums["weight_hr"][...] = product(run, "dh_t", "m_t", 1)


def _peephole(gate, source, shift=0):
    def change(run, sums, dx):
        left, right = run.binding.aligned(f"da_{gate}_t"), run.binding.aligned(source)
        sums[f"peephole_{gate}"][...] = (left * right).sum(axis=(0, 1))

    return change


def _n_without_r(run, sums, dx):
    sums["weight_hh"][rows("n", GRU)] = product(run, "da_n_t", "h_in", 0) if "h_in" in run.binding.arrays else product(
        run, "da_n_t", "h_prev", 0
    )  # fmt: skip


def _n_with_r_twice(run, sums, dx):
    left = run.binding.aligned("da_q_t") * run.binding.aligned("r_t")
    sums["weight_hh"][rows("n", GRU)] = np.einsum("tna,tnb->ab", left, run.binding.aligned("h_prev"))


def _bias_n_without_r(run, sums, dx):
    sums["bias_hh"][rows("n", GRU)] = sums["bias_ih"][rows("n", GRU)]


def _last_alone(run, sums, dx):
    sums["weight_hh"][...] = np.einsum("na,nb->ab", run.binding.aligned("da_t")[0], run.binding.aligned("h_prev")[0])


def _without_first(run, sums, dx):
    sums["bias_hh"][...] -= run.binding.aligned("da_t")[0].sum(axis=0)


def _scaled(name, factor, where=...):
    def change(run, sums, dx):
        sums[name][where] *= factor

    return change


def _time_mean(run, sums, dx):
    for gradient in sums.values():
        gradient /= T


def _transposed_f(run, sums, dx):
    sums["weight_hh"][rows("f", LSTM)] = sums["weight_hh"][rows("f", LSTM)].T.copy()


def _first_sequence(run, sums, dx):
    da, h = run.binding.aligned("da_t")[:, 0], run.binding.aligned("h_prev")[:, 0]
    sums["weight_hh"][...] = np.einsum("ta,tb->ab", da, h)


# ------------------------------------------------------------------------------------------------ inside of time


def _clip(run, t):
    row = run.binding.arrays["dh"][t]
    np.clip(row, -0.3, 0.3, out=row)


def _half(run, t):
    row = run.binding.arrays["dh"][t]
    row[...] = row.astype(np.float16)


def _grid(run, t):
    row = run.binding.arrays["dh"][t]
    row[...] = np.round(row, 2)


def _truncate(steps):
    class Wrong(LSTM):
        def backward_loop(self, run):
            kept = run.binding.arrays["dh"].copy()
            for t in super().backward_loop(run):
                if t % steps == 0 and t:
                    run.binding.arrays["dh"][t] = kept[t]
                    run.binding.arrays["dc"][t] = 0
                yield t

    return Wrong


def _loss_twice(kind):
    class Wrong(kind):
        def backward_loop(self, run):
            kept = run.binding.arrays["dh"].copy()
            for t in super().backward_loop(run):
                run.binding.arrays["dh"][t] += kept[t]
                yield t

    return Wrong


def _doubled_dc(run, t):
    run.binding.arrays["dc"][t] *= 2


# ------------------------------------------------------------------------------------------------ entry


def _final_twice(self, run, doutput, dfinals):
    return doutput, [2 * each for each in dfinals]


def _final_other_state(self, run, doutput, dfinals):
    return doutput, dfinals[::-1]


def _final_to_wrong_step(kind):
    class Wrong(kind):
        def open_backward(self, run, doutput, dfinals):
            super().open_backward(run, doutput, dfinals)
            if dfinals[0] is not None:
                dh = run.binding.arrays["dh"]
                dh[run.binding.exit] -= dfinals[0]
                dh[run.binding.batch.T - 1] += dfinals[0]

    return Wrong


def _other_layer(kind):
    class Wrong(kind):
        def bptt(self, run):
            run.dfinals[:] = [each[::-1].copy() if each is not None else None for each in run.dfinals]
            yield from super().bptt(run)

    return Wrong


# ------------------------------------------------------------------------------------------------ between layers


def with_factors(kind, change):
    """Return a layer whose dropout masks are others on the way back."""

    class Wrong(kind):
        def bptt(self, run):
            kept = run.trace.edge.factors
            run.trace.edge.factors = [change(factor) for factor in kept]
            try:
                yield from super().bptt(run)
            finally:
                run.trace.edge.factors = kept

    return Wrong


def _hand_down(change):
    def changed(run, sums, dx):
        if run.direction.layer > 0:
            change(dx)

    return changed


def _with_other_zoneout(kind, change):
    class Wrong(kind):
        def backward_loop(self, run):
            name = next(name for name in run.binding.arrays if name.endswith("kept"))
            run.binding.arrays[name] = change(run.binding.arrays[name])
            yield from super().backward_loop(run)

    return Wrong


# ------------------------------------------------------------------------------------------------ formulas


def _o_reads_tanh_before(da_o_t, tanh_c_t, c_prev):
    da_o_t *= np.tanh(c_prev) / tanh_c_t


def _i_reads_f(da_i_t, i_t, f_t):
    da_i_t *= f_t / i_t


def _g_times_o(da_g_t, o_t):
    da_g_t *= o_t


def _f_as_sigmoid_of_gate(da_f_t, f_t):
    s = 1 / (1 + np.exp(-f_t))
    da_f_t *= s * (1 - s) / (f_t * (1 - f_t))


def _dm_dc_of_c_prev(dm_dc_t, o_t, c_prev):
    dm_dc_t[...] = o_t * (1 - np.tanh(c_prev) ** 2)


def _dm_dc_without_o(dm_dc_t, o_t):
    dm_dc_t /= o_t


def _dm_dc_not_squared(dm_dc_t, o_t, tanh_c_t):
    dm_dc_t[...] = o_t * (1 - tanh_c_t)


def _dc_prev_with_i(dc_t, i_t, dc_prev):
    dc_prev[...] = dc_t * i_t


def _dc_prev_not_gated(dc_t, dc_prev):
    dc_prev[...] = dc_t


def _dh_doubled(dh_in, W_hh, da_t):
    dh_in += W_hh.T.dot(da_t)


def _dh_of_o_missing(dh_in, W_hh, da_o_t):
    dh_in -= W_hh[: len(da_o_t)].T.dot(da_o_t)


def _gru_keeps_dh(dh_t, z_t, dh_prev):
    dh_prev += dh_t * (1 - 2 * z_t)  # right: dh_t * z_t


def _gru_whole_dh(dh_t, z_t, dh_prev):
    dh_prev += dh_t * (1 - z_t)


def _z_sum(da_z_t, h_prev, n_t):
    da_z_t *= (h_prev + n_t) / (h_prev - n_t)


def _n_gets_z(da_n_t, da_q_t, da_r_t, z_t):
    for each in (da_n_t, da_q_t, da_r_t):
        each *= z_t / (1 - z_t)


# ------------------------------------------------------------------------------------------------ by hand


def _bias_by_hand(layer, trace, result):
    result.grads["bias_ih_l0"][...] *= 0.5


def _zero_start(layer, trace, result):
    result.dh_0[...] = 0


def _dx_turned(layer, trace, result):
    result.dx[...] = result.dx[::-1].copy()


def _dx_shifted(layer, trace, result):
    result.dx[1:] = result.dx[:-1].copy()
    result.dx[0] = 0


def _n_of(gate):
    def change(layer, trace, result):
        result.grads["weight_hh_l0"][rows(gate, LSTM)] *= -1

    return change


# ------------------------------------------------------------------------------------------------ written later


def _f_of_the_next_step(kind):
    class Wrong(kind):
        def backward_loop(self, run):
            f = run.binding.aligned("f_t").copy()
            after = np.concatenate([f[1:], f[-1:]])
            for t in super().backward_loop(run):
                run.binding.arrays["dc"][t] *= after[t] / f[t]
                yield t

    return Wrong


def _window(steps):
    """Return an LSTM whose loss at each step goes back so many steps: a pass for each."""

    class Wrong(LSTM):
        cut = None

        def backward(self, trace, doutput, dh_n=None, grads=None, **options):
            total, last = None, len(doutput) - 1
            for t in range(len(doutput) + (dh_n is not None)):
                alone = np.zeros_like(doutput)
                if t <= last:
                    alone[t] = doutput[t]
                self.cut = min(t, last)
                back = super().backward(trace, alone, dh_n if t > last else None, None, **options)
                if total is None:
                    total = back
                    continue
                for name in ("dx", "dh_0", "dc_0"):
                    getattr(total, name)[...] += getattr(back, name)
                total.grads.flat[:] += back.grads.flat
            self.cut = None
            return total

        def backward_loop(self, run):
            for t in super().backward_loop(run):
                if self.cut is not None and self.cut - t >= steps - 1:
                    run.binding.arrays["dh"][t] = run.binding.arrays["dc"][t] = 0
                yield t

    return Wrong


def _turned_reverse(run, sums, dx):
    if run.direction.reverse and run.direction.layer == 1:
        da = run.binding.aligned("da_t")[::-1]
        sums["weight_ih"][...] = np.einsum("tna,tnb->ab", da, run.binding.aligned("x_t"))


def _leaky(right):
    def backward(dh_t, h_t, W_hh, da_t, dh_in):
        da_t[...] = dh_t * np.where(h_t > 0, 1, 0.1)
        dh_in += da_t.dot(W_hh)

    return backward


def _no_peephole_back(dc_prev, da_i_t, p_i):
    dc_prev -= p_i * da_i_t


def _two_gates_missing(dh_in, W_hh, da_t, da_o_t):
    half = 2 * len(da_o_t)
    dh_in -= W_hh[:half].T.dot(da_t[:half])


def _absolute(layer, trace, result):
    np.abs(result.grads["weight_hh_l0"], out=result.grads["weight_hh_l0"])


STACK, BOTH, MASKED = {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "dropout": 0.4}
OFF, SCALE = ("off by one step",), ("constant factor", "missing 1/N")
DERIVATIVE = ("wrong derivative",)

UNSEEN = [
    ("dW_hh of f takes h_t", with_sums(LSTM, _f_takes_h_t), {}, OFF, {"part": "sums", "gate": "f"}),
    ("dW_ih of z takes x_{t-1}", with_sums(GRU, _z_takes_x_before), {}, OFF, {"part": "sums", "gate": "z"}),
    ("dW_hh of the reverse direction takes h_t", with_sums(RNN, _reverse_hh), BOTH, OFF, {"part": "sums"}),
    ("dW_hr takes m_{t-1}", with_sums(LSTM, _projection_before), {"proj_size": 2}, OFF, {"part": "sums"}),
    ("dp_f takes c_t", with_sums(PeepholeLSTM, _peephole("f", "c_t")), {}, OFF, {"part": "sums"}),
    ("dp_o takes c_{t-1}", with_sums(PeepholeLSTM, _peephole("o", "c_prev")), {}, OFF, {"part": "sums"}),
    ("dW_hn without r", with_sums(GRU, _n_without_r), {}, ("reset on the wrong side",), {"part": "sums"}),
    ("dW_hn with r twice", with_sums(GRU, _n_with_r_twice), {}, ("reset on the wrong side",), {"part": "sums"}),
    ("db_hn without r", with_sums(GRU, _bias_n_without_r), {}, ("reset on the wrong side",), {"part": "sums"}),
    ("dW_hh of the last step alone", with_sums(RNN, _last_alone), {}, ("overwritten, not added",), {"part": "sums"}),
    ("db_hh without t = 0", with_sums(RNN, _without_first), {}, ("first step skipped",), {"part": "sums"}),
    ("dW_hh twice", with_sums(LSTM, _scaled("weight_hh", 2)), {}, SCALE, {"part": "sums"}),
    ("dW_ih of g is off by a half", with_sums(LSTM, _scaled("weight_ih", 0.5, rows("g", LSTM))), {}, SCALE,
     {"part": "sums", "gate": "g"}),
    ("dW_hh over N", with_sums(GRU, _scaled("weight_hh", 1 / N)), {}, SCALE, {"part": "sums"}),
    ("all sums over T", with_sums(RNN, _time_mean), {}, SCALE, {"part": "sums"}),
    ("dW_hh of f transposed", with_sums(LSTM, _transposed_f), {}, ("transposed",), {"part": "sums"}),
    ("dW_hh of the first sequence alone", with_sums(RNN, _first_sequence), {}, ("batch mixed",), {"part": "sums"}),
    ("dh clipped inside of time", with_loop(LSTM, _clip), {}, ("clipped",), {}),
    ("dh in float16 inside of time", with_loop(LSTM, _half), {}, ("lower precision",), {}),
    ("dh on a grid", with_loop(RNN, _grid), {}, ("lower precision", "small gradients flushed"), {}),
    ("cut every 3 steps", _truncate(3), {}, ("recurrence dropped",), {"part": "recurrence"}),
    ("cut every 5 steps", _truncate(5), {}, ("recurrence dropped",), {"part": "recurrence"}),
    ("the loss is added twice", _loss_twice(RNN), {}, ("accumulated twice", "constant factor"), {}),
    ("dc doubled at each step", with_loop(LSTM, _doubled_dc), {}, ("accumulated twice",), {"part": "recurrence"}),
    ("dh_n twice", with_entry(LSTM, _final_twice), {}, ("accumulated twice",), {"part": "entry of the loss"}),
    ("dh_n and dc_n exchanged", with_entry(LSTM, _final_other_state), {}, ("final-state gradient ignored",),
     {"part": "entry of the loss"}),
    ("dh_n one step early", _final_to_wrong_step(RNN), {}, ("off by one step", "final-state gradient ignored"),
     {"part": "entry of the loss"}),
    ("dh_n of the other layer", _other_layer(GRU), STACK, ("final-state gradient ignored",),
     {"part": "entry of the loss"}),
    ("mask without its scale", with_factors(LSTM, lambda f: (f > 0).astype(float)), MASKED, ("dropout mask ignored",),
     {"part": "between layers"}),
    ("mask twice", with_factors(GRU, lambda f: f * f), MASKED, ("dropout mask ignored",), {"part": "between layers"}),
    ("mask turned around", with_factors(RNN, lambda f: f[::-1].copy()), MASKED, ("dropout mask ignored",),
     {"part": "between layers"}),
    ("half of dx handed down", with_sums(LSTM, _hand_down(lambda dx: dx.__imul__(0.5))), STACK, SCALE,
     {"part": "between layers"}),
    ("dx handed down turned around", with_sums(RNN, _hand_down(lambda dx: np.copyto(dx, dx[::-1].copy()))), STACK,
     ("order of Jacobians", "reverse direction not reversed", "off by one step"), {"part": "between layers"}),
    ("zoneout's mask ignored", _with_other_zoneout(RNN, np.zeros_like), {"zoneout": 0.3}, ("dropout mask ignored",),
     {}),
    ("zoneout's mask inverted", _with_other_zoneout(RNN, lambda k: 1 - k), {"zoneout": 0.3}, ("dropout mask ignored",),
     {}),
    ("da_o reads tanh(c_{t-1})", with_formula(LSTM, "step_partials", after(_o_reads_tanh_before)), {}, (*OFF,
     *DERIVATIVE), {"part": "immediate partial", "gate": "o"}),
    ("da_i has f for i", with_formula(LSTM, "step_partials", after(_i_reads_f)), {}, DERIVATIVE,
     {"part": "immediate partial", "gate": "i"}),
    ("da_g is multiplied with o", with_formula(LSTM, "step_partials", after(_g_times_o)), {}, DERIVATIVE,
     {"part": "immediate partial", "gate": "g"}),
    ("s' of the gate, not of its sum", with_formula(LSTM, "step_partials", after(_f_as_sigmoid_of_gate)), {},
     DERIVATIVE, {"part": "immediate partial", "gate": "f"}),
    ("tanh' of c_{t-1}", with_formula(LSTM, "step_partials", after(_dm_dc_of_c_prev)), {}, (*OFF, *DERIVATIVE),
     {"part": "immediate partial"}),
    ("dc without o", with_formula(LSTM, "step_partials", after(_dm_dc_without_o)), {}, DERIVATIVE,
     {"part": "immediate partial"}),
    ("1 - tanh(c)", with_formula(LSTM, "step_partials", after(_dm_dc_not_squared)), {}, DERIVATIVE,
     {"part": "immediate partial"}),
    ("dc_prev has i for f", with_formula(LSTM, "step_backward", after(_dc_prev_with_i)), {}, DERIVATIVE,
     {"part": "recurrence"}),
    ("dc_prev without f", with_formula(LSTM, "step_backward", after(_dc_prev_not_gated)), {}, DERIVATIVE,
     {"part": "recurrence"}),
    ("W_hh^T da twice", with_formula(LSTM, "step_backward", after(_dh_doubled)), {}, ("constant factor",
     "accumulated twice"), {"part": "recurrence"}),
    ("no W_ho^T da_o", with_formula(LSTM, "step_backward", after(_dh_of_o_missing)), {}, ("gate path missing",),
     {"part": "recurrence"}),
    ("dh_prev has 1 - z", with_formula(GRU, "step_backward", after(_gru_keeps_dh)), {}, DERIVATIVE,
     {"part": "recurrence"}),
    ("dh_prev is all of dh", with_formula(GRU, "step_backward", after(_gru_whole_dh)), {}, DERIVATIVE,
     {"part": "recurrence"}),
    ("half of db by hand", by_hand(LSTM, _bias_by_hand), {}, ("constant factor", "bias ignored"), {}),
    ("dh_0 of zeros by hand", by_hand(GRU, _zero_start), {}, ("never accumulated",), {}),
    ("dx turned around by hand", by_hand(RNN, _dx_turned), {}, ("order of Jacobians", "reverse direction not reversed"),
     {}),
    ("dx one step late by hand", by_hand(LSTM, _dx_shifted), {}, OFF, {}),
    ("the sign of f by hand", by_hand(LSTM, _n_of("f")), {}, ("sign",), {"gate": "f"}),
    ("dc_prev has f of the next step", _f_of_the_next_step(LSTM), {}, OFF, {"part": "recurrence"}),
    ("back three steps from each loss", _window(4), {}, ("recurrence dropped",), {"part": "recurrence"}),
    ("dW_ih of l1_reverse turned around", with_sums(RNN, _turned_reverse), {**STACK, **BOTH},
     ("reverse direction not reversed",), {"part": "sums"}),
    ("a relu that leaks", with_formula(RNN, "step_backward", _leaky, nonlinearity="relu"), {}, DERIVATIVE,
     {"part": "immediate partial"}),
    ("no way back through a peephole", with_formula(PeepholeLSTM, "step_backward", after(_no_peephole_back)), {},
     ("gate path missing",), {"part": "recurrence"}),
    ("two gates of W_hh^T missing", with_formula(LSTM, "step_backward", after(_two_gates_missing)), {},
     ("gate path missing",), {"part": "recurrence"}),
    ("mask of other units", with_factors(LSTM, lambda f: np.roll(f, 1, axis=2)), MASKED, ("dropout mask ignored",),
     {"part": "between layers"}),
    ("dW_hh without its signs", by_hand(RNN, _absolute), {}, ("sign",), {}),
]  # fmt: skip
