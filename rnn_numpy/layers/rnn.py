r"""The Elman RNN: its formulas, forward, backward and in forward mode, and the layer.

Symbols. The lecture writes U, W, b for the weights of the input, of the state, and the bias; torch.nn and this package
write W_ih, W_hh and two biases b_ih + b_hh in place of b, and T for the number of steps:

    lecture        here                     shape
    x^(t)          x_t                      (D,)
    h^(t)          h_t                      (H,)
    a^(t)          a_t                      (H,)     pre-activation
    U              W_ih                     (H, D)
    W              W_hh                     (H, H)
    b              b_ih + b_hh              (H,)
    o^(t)=c+Vh^(t) `rnn_numpy.Linear`       V is its weight, c its bias

Forward
-------
for t = 0 ... T-1, with h_{-1} the initial state (the trace keeps it in row 0 of h, and h_t in row t+1):

    (F1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
    (F2)  h_t = phi(a_t)                             phi = tanh, or relu(a) = max(a, 0)

Backward
--------
Write dX for dL/dX, of X's shape, and h_n, as torch does, for the final state h_{T-1} where it is returned as such. L
depends on h_t through output t directly, which gives doutput_t = dL/doutput_t, and through a_{t+1}. Hence, for
t = T-1 ... 0, beginning with dh_{T-1} = doutput_{T-1} + dh_n:

    (B2)  da_t     = dh_t * phi'(a_t)                undoes F2; tanh: phi' = 1 - h_t^2; relu: phi' = [h_t > 0]
    (B1)  dh_{t-1} = doutput_{t-1} + W_hh^T da_t     undoes F1 for the state; dh_{-1} has no doutput
    (B0)  dx_t     = W_ih^T da_t                     undoes F1 for the input
    (BW)  dW_hh    = sum_t da_t h_{t-1}^T            undoes F1 for the parameters, which all steps share
          dW_ih    = sum_t da_t x_t^T
          db_ih    = db_hh = sum_t da_t

What this section calls dh_{-1}, the gradient of the initial state, `backward` returns under torch's name, `dh_0`.

The double sum
--------------
Unroll B1. Let J_t = dh_t/dh_{t-1} = diag(phi'(a_t)) W_hh, and delta_t the gradient that enters at step t and no other:
doutput_t, plus dh_n where t = T-1. Then

    dh_k = sum_{t >= k} P(t, k)^T delta_t,   P(t, k) = J_t J_{t-1} ... J_{k+1},   P(t, t) = I

and BW becomes the lecture's formula, one loss step t and one step k <= t at which the parameter acts:

    dW_hh = sum_{t=0}^{T-1} sum_{k=0}^{t}  (diag(phi'(a_k)) P(t, k)^T delta_t) h_{k-1}^T

and the same with x_k in place of h_{k-1} for W_ih, with 1 for b_h. Since the step function applies B1 once per step,
the loop sums all (t, k) in T steps, not T^2. Two slips of the lecture's slides are corrected here:

- its product over j = k ... t of dh_{j+1}/dh_j is dh_{t+1}/dh_k, one factor too long: P(t, k) has t - k factors, those
  above. The factor after it, dh_k/dW, is the immediate derivative, with h_{k-1} held fixed;
- its worked neuron prints the bias as -0,3, while its results 0.0399, 0.0917, 0.1464 are those of b = -0.1, cut after
  four digits.

Forward mode
------------
Write vX for the change of X along one direction (vW_ih, vW_hh, vb, vx, vh_{-1}) of what the layer reads: the
differential of each line, in the order of the lines, for t = 0 ... T-1.

    (T1)  va_t = W_ih vx_t + vW_ih x_t + vb_ih + vb_hh + vW_hh h_{t-1} + W_hh vh_{t-1}      the differential of F1
    (T2)  vh_t = va_t * phi'(a_t)                                                           the differential of F2

All of T1 but its last term the driver adds up beforehand (`rnn_numpy.engine.forward_mode`). T1 and T2 together are
vh_t = J_t vh_{t-1} + (what enters at t); B2 and B1 are the transposed maps, so that for every direction and every
gradient sum_t <doutput_t, vh_t> = <dW_ih, vW_ih> + <dW_hh, vW_hh> + ...

Where the largest singular value of every J_t stays below one number smaller than 1, P(t, k) shrinks at least
geometrically with t - k: the gradient vanishes. It can explode only where singular values exceed 1 [3]_.

References
----------
.. [1] J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990): the network.
.. [2] P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proc. IEEE 78 (1990): the backward
   pass.
.. [3] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML (2013): the
   double sum in eq. 3 to 5, the bounds in section 2.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.parts import Formula
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

# In the formulas below, `a.dot(B)` is a @ B: the same product by the same routine, with less overhead per call (0.35 us
# of 0.7 us), which decides the speed of small nets. Arguments that are read stand before those that are written.

# Made once: turning the number 0 into an array at each step takes as long as the maximum itself.
ZERO = {np.dtype(kind): np.zeros((), kind) for kind in (np.float32, np.float64)}


def tanh_step_forward(a_t: Array, h_in: Array, W_hh: Array, h_t: Array) -> None:
    """F1, F2 with phi = tanh. Adds to a_t, writes h_t, both (N, H); they may be one memory.

    a_t comes in holding W_ih x_t + b_ih + b_hh. h_in is h_{t-1}, with recurrent dropout times its mask.
    """
    a_t += h_in.dot(W_hh.T)  # F1
    np.tanh(a_t, out=h_t)  # F2


def relu_step_forward(a_t: Array, h_in: Array, W_hh: Array, h_t: Array) -> None:
    """F1, F2 with phi = relu. Arguments as in `tanh_step_forward`."""
    a_t += h_in.dot(W_hh.T)  # F1
    relu(a_t, h_t)  # F2


def tanh_step_partials(h_t: Array, da_t: Array) -> None:
    """The factor of B2 that needs no gradient, phi'(a_t) = 1 - h_t^2, into da_t; for many steps at once.

    Where h_t is close to 1 the difference has a relative error of eps / (1 - h_t^2), as in torch: it is read off h_t,
    which has no more digits to give. From |a_t| of 19 on (10 in float32) it is exactly 0.
    """
    np.multiply(h_t, h_t, out=da_t)
    np.subtract(1, da_t, out=da_t)


def relu_step_partials(h_t: Array, da_t: Array) -> None:
    """The factor of B2 that needs no gradient, phi'(a_t) = 0 where h_t <= 0, else 1 (also at NaN), into da_t."""
    np.less_equal(h_t.real, 0, out=da_t, casting="unsafe")
    np.subtract(1, da_t, out=da_t)


def rnn_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
    """B2, then B1: undoes F2, then F1. Writes da_t, adds to dh_in.

    dh_t, (N, H), is the total gradient at h_t, from the loss and from step t+1. da_t comes in holding phi'(a_t). dh_in
    is the memory of dh_{t-1}, unless there is recurrent dropout, and comes in holding doutput_{t-1}.
    """
    da_t *= dh_t  # B2
    dh_in += da_t.dot(W_hh)  # B1


def tanh_step_tangent(va_t: Array, vh_in: Array, h_t: Array, W_hh: Array, vh_t: Array) -> None:
    """T1, T2 with phi = tanh. Adds to va_t, writes vh_t.

    va_t, (N, H), comes in holding the other terms of T1. vh_in is vh_{t-1}; with recurrent dropout, times its mask.
    """
    va_t += vh_in.dot(W_hh.T)  # T1
    vh_t[...] = va_t * (1 - h_t * h_t)  # T2


def relu_step_tangent(va_t: Array, vh_in: Array, h_t: Array, W_hh: Array, vh_t: Array) -> None:
    """T1, T2 with phi = relu, phi' = 0 where h_t <= 0, else 1. Arguments as in `tanh_step_tangent`."""
    va_t += vh_in.dot(W_hh.T)  # T1
    vh_t[...] = np.where(h_t.real <= 0, 0, va_t)  # T2


def relu(a: Array, out: Array) -> None:
    """Write max(a, 0) into out, element by element; of complex numbers, 0 where the real part is not positive.

    NumPy orders complex numbers by their real, then by their imaginary part, so that its maximum gives a derivative of
    1 at a = 0, where torch's and ours is 0.
    """
    zero = ZERO.get(a.dtype)
    if zero is None:
        np.copyto(out, np.where(a.real <= 0, 0, a))
    else:
        np.maximum(a, zero, out=out)


class RNN(Recurrent):
    """Elman RNN with tanh or relu, with the options, names, shapes and initialisation of torch.nn.RNN.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh); the module `rnn_numpy.layers.rnn` derives its gradients.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    num_layers : int
        Each layer reads the outputs of the one below.
    nonlinearity : {"tanh", "relu"}
    bias : bool
        Without, b_ih and b_hh are left out.
    batch_first : bool
        Inputs and outputs are (N, T, ·) in place of (T, N, ·). States are not affected.
    dropout : float
        Probability with which an entry of a layer's output, not the last layer's, is zeroed in `forward`.
    bidirectional : bool
        A second set of weights reads the sequence from its end; outputs are concatenated.
    recurrent_dropout : float
        Probability with which a unit of the state is hidden from W_hh, throughout a sequence, in `forward`.
    zoneout : float
        Probability with which a unit keeps its old state for a step, in `forward`; without training, the mean of both.
    dtype : {float32, float64, complex128}
        complex128 is for the complex-step derivative.
    rng : numpy.random.Generator, int or None
        Draws the parameters from U(-1/sqrt(H), 1/sqrt(H)), and dropout masks later.

    Attributes
    ----------
    params : Parameters
        weight_ih_l0 (H, D), weight_hh_l0 (H, H), bias_ih_l0, bias_hh_l0 (H,), then those of "l0_reverse", "l1", ...
        Higher layers have weight_ih of shape (H, num_directions * H).

    Raises
    ------
    DTypeError, OptionError
        An option has the wrong type or an impossible value.

    Examples
    --------
    The lecture's neuron, U = 0.2, W = 0.3, b = -0.1:

    >>> import numpy as np
    >>> rnn = RNN(1, 1)
    >>> rnn.params.flat[:] = 0.2, 0.3, -0.1, 0.0  # weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0
    >>> output, h_n, trace = rnn.forward(np.array([[0.7], [0.9], [1.1]]))
    >>> output.ravel().round(5)
    array([0.03998, 0.09173, 0.14646])
    >>> back = rnn.backward(trace, np.array([[0.0], [0.0], [1.0]]))
    >>> back.grads["weight_hh_l0"].round(5)
    array([[0.1014]])

    The whole layer is this loop:

    >>> x, h = np.array([[0.7], [0.9], [1.1]]), np.zeros(1)
    >>> for x_t in x:
    ...     h = np.tanh(0.2 * x_t + 0.3 * h - 0.1)
    >>> bool(abs(h - h_n[0])[0] < 1e-15)
    True
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        recurrent_dropout: float = 0.0, zoneout: float = 0.0, dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(nonlinearity, str) or nonlinearity not in CELLS:
            kind = type(self).__name__
            raise OptionError(
                f"{kind}: nonlinearity must be one of {', '.join(map(repr, CELLS))}; got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity
        self.cell = CELLS[nonlinearity]
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, dtype=dtype, rng=rng,
        )  # fmt: skip


EQUATIONS = """
    F1  a = W_ih @ x + W_hh @ h_in + b
    F2  h = tanh(a)
    B2  da = dh * (1 - h ** 2)
    B1  dh_in += W_hh.T @ da
"""


def _cell(forward: Formula, partials: Formula, tangent: Formula, equations: str) -> Cell:
    # Rows, not columns: with one gate there is no slab to keep together, and rows save turning x and doutput around.
    return Cell(
        ("a",), ("h",), forward, rnn_step_backward, partials, tangent,
        columns=False, in_place=True, equations=equations,
    )  # fmt: skip


CELLS = {
    "tanh": _cell(tanh_step_forward, tanh_step_partials, tanh_step_tangent, EQUATIONS),
    "relu": _cell(
        relu_step_forward,
        relu_step_partials,
        relu_step_tangent,
        EQUATIONS.replace("tanh(a)", "relu(a)").replace("(1 - h ** 2)", "(h > 0)"),
    ),
}
