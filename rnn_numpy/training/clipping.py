"""Gradient clipping, in place on the flat vector of all gradients.

    by norm     g <- g * min(1, max_norm / ||g||_2)          keeps the direction
    by value    g_i <- min(max(g_i, -c), c)                  turns it towards the corners of the box

Where torch adds 1e-6 to the norm, so that a clipped gradient ends a little below max_norm, this one ends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, NonFiniteError


@dataclass(frozen=True)
class ClipResult:
    """What a clipping did.

    Attributes
    ----------
    norm : float
        Euclidean norm of all gradients before; infinite if that is too large for a float, as with entries of 1e308.
    factor : float
        Norm after, divided by norm before; 1 where nothing was done.
    engaged : bool
        Whether any entry was changed.
    """

    norm: float
    factor: float
    engaged: bool


def clip_grad_norm(grads: Parameters, max_norm: float) -> ClipResult:
    """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    max_norm : float
        Greater than 0, finite.

    Returns
    -------
    ClipResult

    Raises
    ------
    OptionError, DTypeError
        `max_norm` is not a finite number above 0 (a negative one would turn the gradients around).
    NonFiniteError
        A gradient is NaN or infinite; the message names the parameter. Nothing is changed then.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,)}, np.float64, np.array([3.0, 4.0]))
    >>> clip_grad_norm(grads, 1.0)
    ClipResult(norm=5.0, factor=0.2, engaged=True)
    >>> grads["w"].round(12)
    array([0.6, 0.8])
    """
    limit = arguments.positive_number("clip_grad_norm", "max_norm", max_norm)
    norm = _norm("clip_grad_norm", grads)
    if norm <= limit:
        return ClipResult(norm, 1.0, False)
    factor = limit / norm
    if factor < np.finfo(grads.dtype).tiny:
        # The factor is too small for a number of this precision, or the norm too large: scale in two steps.
        largest = grads.dtype.type(np.max(np.abs(grads.flat)))
        grads.flat /= largest
        grads.flat *= limit / float(np.linalg.norm(grads.flat))
    else:
        grads.flat *= factor
    return ClipResult(norm, factor, True)


def clip_grad_value(grads: Parameters, clip_value: float) -> ClipResult:
    """Limit every entry to [-clip_value, clip_value].

    Parameters
    ----------
    grads : Parameters
        Changed in place; real.
    clip_value : float
        Greater than 0, finite.

    Returns
    -------
    ClipResult

    Raises
    ------
    OptionError, DTypeError, NonFiniteError
        As in `clip_grad_norm`; also complex gradients, which have no order.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,)}, np.float64, np.array([3.0, -0.25]))
    >>> clip_grad_value(grads, 1.0).engaged
    True
    >>> grads["w"]
    array([ 1.  , -0.25])
    """
    limit = arguments.positive_number("clip_grad_value", "clip_value", clip_value)
    norm = _norm("clip_grad_value", grads)
    if np.iscomplexobj(grads.flat):
        raise DTypeError("clip_grad_value: grads must be real; complex numbers have no order to clip by")
    limit = min(limit, float(np.finfo(grads.dtype).max))
    if not np.any(np.abs(grads.flat) > limit):
        return ClipResult(norm, 1.0, False)
    np.clip(grads.flat, -limit, limit, out=grads.flat)
    return ClipResult(norm, _norm("clip_grad_value", grads) / norm, True)


def _norm(where: str, grads: Parameters) -> float:
    """Return the Euclidean norm; free of overflow and underflow, since it is taken of entries scaled by the largest."""
    if not isinstance(grads, Parameters):
        raise DTypeError(f"{where}: grads must be Parameters, as backward returns them; got {type(grads).__name__}")
    if grads.flat.size == 0:
        return 0.0
    largest = float(np.max(np.abs(grads.flat)))
    if not np.isfinite(largest):
        for name, array in grads.items():
            arguments.finite(
                where, f"the gradient of {name}", array, ", ".join(f"axis {axis}" for axis in range(array.ndim))
            )
        raise NonFiniteError(f"{where}: the gradient has entries too large for {grads.dtype}")
    if largest == 0:
        return 0.0
    return largest * float(np.linalg.norm(grads.flat / grads.dtype.type(largest)))
