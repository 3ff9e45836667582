"""
Write a cell of your own
========================

A recurrent cell that this package does not have, in one file: a derivation, two formulas, and the names of their
arrays. It is then a layer like the others, and the checks that hold for these hold for it.

What you will see: the derivation and the two formulas of a minimal gated unit; the layer that they make, with two
directions, sequences of unequal lengths and a step of its backward pass; the table of all checks it passes; and what
the checks say when one line of its backward formula is wrong.
"""

# %%
# The derivation
# --------------
# The minimal gated unit of Zhou et al. (2016, "Minimal gated unit for recurrent neural networks") is a GRU in which one
# gate f does the work of both. With s(u) = 1 / (1 + exp(-u)) = (1 + tanh(u/2)) / 2, for each step t:
#
#     (F1)  a_f = W_f x_t + b_f + U_f h_{t-1}            f_t = s(a_f)
#     (F2)  k_t = f_t * h_{t-1}                          what the gate lets through
#     (F3)  a_n = W_n x_t + b_n + U_n k_t                n_t = tanh(a_n)
#     (F4)  h_t = (1 - f_t) * h_{t-1} + f_t * n_t
#
# Backward, line by line from the last to the first. dX is dL/dX; h_{t-1} stands in F4, F2 and F1, so dh_{t-1} has three
# terms, and f_t stands in F4 and F2, so df has two:
#
#     (B4)  df   = dh_t * (n_t - h_{t-1})       dh_{t-1} += dh_t * (1 - f_t)
#     (B3)  da_n = dh_t * f_t * (1 - n_t^2)     dk = U_n^T da_n
#     (B2)  df  += dk * h_{t-1}                 dh_{t-1} += dk * f_t
#     (B1)  da_f = df * f_t * (1 - f_t)         dh_{t-1} += U_f^T da_f
#
# What is missing here is the same for all cells, and done already: W x_t + b for all steps at once, dW, dU, db and dx_t
# from the da, and all that has to do with time.

import inspect
from dataclasses import replace

import numpy as np

from rnn_numpy import Cell, Recurrent
from rnn_numpy.checks import CHECKS, Case, conformance_checks, conformance_failures, recurrent_cases

# %%
# The formulas
# ------------
# The names of the arguments say what each step is to get; rnn_numpy/engine/cell.py lists them. f_t and n_t come in as
# W x_t + b. W_hf and W_hn are U_f and U_n, rows of the parameter weight_hh. h_in is h_{t-1} where U acts on it, some of
# it hidden by recurrent dropout; h_prev is h_{t-1} where the state is kept. Arrays are (H, N), a sequence a column, so
# that a product reads as above.


def mgu_step_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    f_t += W_hf @ h_in  # F1
    f_t[...] = (1 + np.tanh(f_t / 2)) / 2
    k_t[...] = f_t * h_in  # F2
    n_t[...] = np.tanh(n_t + W_hn @ k_t)  # F3
    h_t[...] = (1 - f_t) * h_prev + f_t * n_t  # F4


def mgu_step_backward(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, da_f_t, da_n_t, dh_prev, dh_in):
    df = dh_t * (n_t - h_prev)  # B4
    dh_prev += dh_t * (1 - f_t)
    da_n_t[...] = dh_t * f_t * (1 - n_t**2)  # B3
    dk = W_hn.T @ da_n_t
    df += dk * h_in  # B2
    dh_in += dk * f_t
    da_f_t[...] = df * f_t * (1 - f_t)  # B1
    dh_in += W_hf.T @ da_f_t


# %%
# The cell
# --------
# Two gates, one state; U_n acts on k_t, an array of width H that forward writes. That is all.


class MGU(Recurrent):
    cell = Cell(
        gate_names=("f", "n"),
        states=("h",),
        step_forward=mgu_step_forward,
        step_backward=mgu_step_backward,
        hidden_inputs={"n": "k_t"},
        records={"k": 1},
    )


# %%
# The layer
# ---------
# Two layers, two directions, three sequences of different lengths. A step of the trace has the arrays of the formulas.

mgu = MGU(4, 8, num_layers=2, bidirectional=True, dropout=0.2, rng=0)
x = np.random.default_rng(1).normal(size=(20, 3, 4))  # (T, N, D)
output, h_n, trace = mgu.forward(x, lengths=[20, 5, 12])
back = mgu.backward(trace, np.ones_like(output))
print(
    f"{mgu}\noutput {output.shape}, h_n {h_n.shape}, dx {back.dx.shape}, {back.grads.flat.size} gradients\n\n{trace[3]}"
)

# %%
# The proof
# ---------
# Every gradient against derivatives of the forward formulas, and what else a recurrent layer must hold, for each kind
# of input. `recurrent_cases(MGU)` has eleven cases, some for each option; here are the first, the last, in which
# several meet, and one between them.

print("\nchecks passed")
for case in recurrent_cases(MGU)[::5]:
    failures, count = conformance_failures(case), len(conformance_checks([case]))
    print(f"  {count - len(failures)} of {count}  {case}", flush=True)
    assert not failures, failures

# %%
# A wrong line
# ------------
# One slip at a time in the backward formula, as they happen: a term forgotten, a sign, a factor of another gate. The
# sharpest check is the one with a single step and a single unit, where row 0 of a parameter is gate f and row 1 gate n.
# A wrong dh_0 alone: the way back, B4, B2 or B1. A wrong row 0 alone: df. A wrong row 1: da_n, and what comes of it.

source = inspect.getsource(mgu_step_backward)
checks = [check for check in CHECKS if check.__name__ in ("check_gradients", "check_gradients_of_one_step")]
for line, slip in [
    ("dh_in += dk * f_t", "pass"),
    ("dh_t * (n_t - h_prev)", "dh_t * (n_t + h_prev)"),
    ("dh_t * f_t * (1 - n_t**2)", "dh_t * f_t * (1 - f_t**2)"),
]:
    wrong = {}
    exec(source.replace(line, slip), {"np": np}, wrong)
    mutant = type("MGU", (MGU,), {"cell": replace(MGU.cell, step_backward=wrong["mgu_step_backward"])})
    failures = conformance_failures(Case(mutant), checks)
    print(f"\n{slip!r} in place of {line!r}: found by {len(failures)} of {len(checks)} gradient checks; one step:")
    print(f"  {failures['check_gradients_of_one_step']}")
