r"""Losses, each returning its value and its gradient.

Mean squared error over the M entries that count:

    (F1)  L = (1/M) sum (y - target)^2                  (B1)  dy = (2/M) (y - target)

Softmax cross-entropy over the M positions that count, with logits z and the index k of the right class:

    (F2)  L = -(1/M) sum log p_k,   p = softmax(z)      (B2)  dz = (1/M) (p - onehot(k))

With a mask, M counts what is unmasked: the loss of a padded batch is the mean over real steps, whatever the padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]


def mse_loss(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> tuple[Any, Array]:
    """Mean squared error and its gradient.

    Parameters
    ----------
    prediction : ndarray, (..., K)
        Float or complex; not modified.
    target : ndarray, (..., K)
        Of the same shape, and a dtype that converts to prediction's without loss.
    mask : bool ndarray, optional
        Of prediction's shape, or of its leading axes (...): True where an entry counts.

    Returns
    -------
    loss : scalar of prediction's dtype
        Mean over the entries that count.
    dprediction : ndarray, like prediction
        Exactly 0 where masked, whatever prediction and target hold there.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Shapes differ; the mask is not boolean; nothing counts.

    Notes
    -----
    For complex predictions the square is (y - target)^2, without conjugation, so that the loss stays analytic for the
    complex step.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dy = mse_loss(np.array([1.0, 4.0]), np.array([0.0, 2.0]))
    >>> float(loss), dy
    (2.5, array([1., 2.]))
    """
    y = _inexact("mse_loss", "prediction", prediction)
    wanted = arguments.as_array("mse_loss", "target", target)
    arguments.shaped("mse_loss", "target", wanted, "prediction.shape", y.shape)
    if not np.can_cast(wanted.dtype, y.dtype, "same_kind"):
        raise DTypeError(f"mse_loss: target must be convertible to {y.dtype}, prediction's dtype; got {wanted.dtype}")
    keep = None if mask is None else _mask("mse_loss", mask, y.shape, "prediction.shape or prediction.shape[:-1]")
    if keep is not None and keep.ndim == y.ndim - 1:
        keep = np.broadcast_to(keep[..., None], y.shape)
    count = _count("mse_loss", y.size if keep is None else int(np.count_nonzero(keep)))
    error = np.subtract(y, wanted, dtype=y.dtype) if keep is None else np.zeros_like(y)
    if keep is not None:
        np.subtract(y, wanted, out=error, where=keep, casting="same_kind")
    loss = (error * error).sum() / count
    return y.dtype.type(loss), np.multiply(error, 2 / count, dtype=y.dtype)


def cross_entropy_loss(logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> tuple[Any, Array]:
    """Softmax cross-entropy against class indices, and its gradient.

    Parameters
    ----------
    logits : ndarray, (..., V)
        Unnormalised log probabilities of V classes; not modified.
    targets : int ndarray, (...)
        Indices in [0, V). Masked ones are not read.
    mask : bool ndarray, (...), optional
        True where a position counts.

    Returns
    -------
    loss : scalar of logits' dtype
        In nats, mean over the positions that count.
    dlogits : ndarray, (..., V)
        Exactly 0 where masked.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Shapes do not match; targets are not integers in range; nothing counts.

    Notes
    -----
    The largest logit (of complex ones, the largest real part) is subtracted first, so that nothing overflows.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dz = cross_entropy_loss(np.zeros((1, 4)), np.array([2]))
    >>> round(float(loss), 6), dz
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    where = "cross_entropy_loss"
    z = _inexact(where, "logits", logits)
    k = arguments.as_array(where, "targets", targets)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ShapeError(f"{where}: logits must have shape (..., V) with V >= 1; got {z.shape}")
    arguments.shaped(where, "targets", k, "logits.shape[:-1]", z.shape[:-1])
    if not np.issubdtype(k.dtype, np.integer):
        raise DTypeError(f"{where}: targets must be integers, indices of classes; got dtype {k.dtype}")
    keep = np.ones(k.shape, bool) if mask is None else _mask(where, mask, k.shape, "targets.shape")
    V, rows, classes = z.shape[-1], z[keep], k[keep]
    count = _count(where, len(rows))
    if classes.min() < 0 or classes.max() >= V:
        raise OptionError(f"{where}: targets must be in [0, V) = [0, {V}); got {classes.min()} to {classes.max()}")
    with np.errstate(over="ignore"):  # the difference of two huge logits may be -inf, whose exponential is a good 0
        rows = rows - rows.real.max(axis=-1, keepdims=True)
    p = np.exp(rows)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    place = np.arange(count), classes
    loss = (np.log(total[:, 0]) - rows[place]).sum() / count
    p[place] -= 1
    dz = np.zeros_like(z)
    dz[keep] = p / count
    return z.dtype.type(loss), dz


def _inexact(where: str, name: str, value: ArrayLike) -> Array:
    array = arguments.as_array(where, name, value)
    if array.dtype not in arguments.LAYER_DTYPES:
        raise DTypeError(f"{where}: {name} must be float32, float64 or complex128; got {array.dtype}")
    return array


def _mask(where: str, mask: ArrayLike, shape: tuple[int, ...], symbols: str) -> Array:
    array = arguments.as_array(where, "mask", mask)
    if array.dtype != np.bool_:
        raise DTypeError(f"{where}: mask must be boolean, True where a position counts; got dtype {array.dtype}")
    if array.shape != shape and not (symbols.endswith("[:-1]") and array.shape == shape[:-1]):
        raise ShapeError(f"{where}: mask must have shape {symbols} with shape = {shape}; got {array.shape}")
    return array


def _count(where: str, count: int) -> int:
    if count == 0:
        raise OptionError(
            f"{where}: nothing counts: there are no entries, or the mask is False everywhere; a mean needs at least one"
        )
    return count
