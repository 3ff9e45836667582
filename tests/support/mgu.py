"""The formulas of a user's cell: the minimal gated unit, whose gate n acts on k_t = f_t * h_in, not on the state."""

import numpy as np


def mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
    f_t += W_hf @ h_in
    f_t[...] = (1 + np.tanh(f_t / 2)) / 2
    k_t[...] = f_t * h_in
    n_t[...] = np.tanh(n_t + W_hn @ k_t)
    h_t[...] = (1 - f_t) * h_prev + f_t * n_t


def mgu_backward(dh_t, f_t, n_t, h_prev, h_in, W_hf, W_hn, da_f_t, da_n_t, dh_prev, dh_in):
    df = dh_t * (n_t - h_prev)
    dh_prev += dh_t * (1 - f_t)
    da_n_t[...] = dh_t * f_t * (1 - n_t**2)
    dk = W_hn.T @ da_n_t
    df += dk * h_in
    dh_in += dk * f_t
    da_f_t[...] = df * f_t * (1 - f_t)
    dh_in += W_hf.T @ da_f_t


def mgu_tangent(va_f_t, va_n_t, vh_prev, vh_in, f_t, n_t, h_prev, h_in, W_hf, W_hn, vh_t):
    va_f_t += W_hf @ vh_in
    vf = va_f_t * f_t * (1 - f_t)
    va_n_t += W_hn @ (vf * h_in + f_t * vh_in)
    vn = va_n_t * (1 - n_t**2)
    vh_t[...] = (1 - f_t) * vh_prev + f_t * vn + vf * (n_t - h_prev)
