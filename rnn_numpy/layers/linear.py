r"""The readout o = c + V h of the lecture: an affine map of the last axis.

(F1)  y = W x + b                        W is the lecture's V, b its c

(B1)  dx = W^T dy,   dW = sum dy x^T,   db = sum dy          sums over all leading axes (time and batch)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.errors import DTypeError, ShapeError

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearTrace:
    """What the backward pass of `Linear` reads: copies of the input (..., in_features) and of the weight; whether the
    input came in columns.
    """

    x: Array
    weight: Array
    columns: bool = False


class Linear(Parametric):
    """Affine map y = x W^T + b of the last axis, with the names, shapes and initialisation of torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {float32, float64, complex128}
    rng : numpy.random.Generator, int or None
        Draws weight and bias from U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Attributes
    ----------
    params : Parameters
        weight (out_features, in_features), bias (out_features,).

    Examples
    --------
    >>> import numpy as np
    >>> linear = Linear(2, 1)
    >>> linear.load_state_dict({"weight": [[3.0, -1.0]], "bias": [0.5]})
    >>> y, trace = linear.forward(np.array([[1.0, 2.0], [0.0, 1.0]]))
    >>> y.ravel()
    array([ 1.5, -0.5])
    >>> back = linear.backward(trace, np.ones((2, 1)))
    >>> back.grads["weight"]
    array([[1., 3.]])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.in_features = arguments.positive_int("Linear", "in_features", in_features)
        self.out_features = arguments.positive_int("Linear", "out_features", out_features)
        self.bias = arguments.flag("Linear", "bias", bias)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        self.params = Parameters(shapes, arguments.layer_dtype("Linear", dtype))
        self.params.of = type(self).__name__
        bound = 1 / np.sqrt(self.in_features)
        self.params.flat[:] = arguments.generator("Linear", rng).uniform(-bound, bound, self.params.flat.size)

    def __call__(self, x: ArrayLike) -> Array:
        """Return y without a trace; argument and errors as in `forward`."""
        return self._affine(self._checked(x))

    def forward(self, x: ArrayLike) -> tuple[Array, LinearTrace]:
        """Compute y, and record x.

        Parameters
        ----------
        x : ndarray, (..., in_features)
            Copied into the trace, as the weight is: later changes of either do no harm.

        Returns
        -------
        y : ndarray, (..., out_features)
        trace : LinearTrace
        """
        array = self._checked(x)
        kept = memory.empty(array.shape, self.dtype)
        kept[...] = array
        columns = _columns(array)
        return self._affine(array if columns else kept), LinearTrace(kept, self.params["weight"].copy(), columns)

    def backward(self, trace: LinearTrace, dy: ArrayLike, grads: Parameters | None = None) -> Gradients:
        """Return dL/dx and add dL/dW, dL/db, summed over all leading axes, to `grads`.

        Parameters
        ----------
        trace : LinearTrace
            From `forward`.
        dy : ndarray, (..., out_features)
            dL/dy.
        grads : Parameters, optional
            New ones are made where left out.

        Returns
        -------
        Gradients
            dx, of x's shape, and grads.
        """
        where = "Linear.backward"
        if not isinstance(trace, LinearTrace):
            raise DTypeError(f"{where}: trace must be the second result of forward; got {type(trace).__name__}")
        arguments.shaped(where, "the weight in trace", trace.weight, "(out, in)", self.params.shapes["weight"])
        gradient = arguments.array_of(where, "dy", dy, self.dtype)
        arguments.shaped(where, "dy", gradient, "(..., out_features)", (*trace.x.shape[:-1], self.out_features))
        grads = arguments.gradients(where, grads, self.params)
        dy_rows = gradient.reshape(-1, self.out_features)
        if trace.columns:  # as the layer below wants it
            steps, batch, width = trace.x.shape
            dx = memory.empty((steps, width, batch), self.dtype).swapaxes(1, 2)
            np.matmul(gradient, trace.weight, out=dx)
        else:
            dx = memory.empty(trace.x.shape, self.dtype)
            np.matmul(dy_rows, trace.weight, out=dx.reshape(-1, self.in_features))
        grads["weight"][...] += dy_rows.T @ trace.x.reshape(-1, self.in_features)
        if self.bias:
            grads["bias"][...] += np.ones(len(dy_rows), self.dtype).dot(dy_rows)
        return Gradients(dx, {}, grads)

    def _affine(self, x: Array) -> Array:
        y = memory.empty((*x.shape[:-1], self.out_features), self.dtype)
        if _columns(x):
            np.matmul(x, self.params["weight"].T, out=y)
        else:  # one product over all leading axes
            np.matmul(x.reshape(-1, self.in_features), self.params["weight"].T, out=y.reshape(-1, self.out_features))
        if self.bias:
            y += self.params["bias"]
        return y

    def _checked(self, x: ArrayLike) -> Array:
        array = arguments.array_of("Linear.forward", "x", x, self.dtype)
        if array.ndim == 0 or array.shape[-1] != self.in_features:
            raise ShapeError(
                f"Linear.forward: x must have shape (..., in_features) = (..., {self.in_features}); got {array.shape}"
            )
        return array

    def __repr__(self) -> str:
        return (
            f"Linear({self.in_features}, {self.out_features}{'' if self.bias else ', bias=False'}, dtype={self.dtype})"
        )


def _columns(x: Array) -> bool:
    """Whether x is a signal (T, N, K) that lies in memory as (T, K, N), with enough sequences for a product per step to
    be faster than putting it in order.
    """
    return x.ndim == 3 and x.shape[1] >= 16 and not x.flags.c_contiguous and x[0].flags.f_contiguous
