r"""Losses, each returning its value and its gradient.

Mean squared error over the M entries that count:

    (F1)  L = (1/M) sum (y - target)^2                  (B1)  dy = (2/M) (y - target)

Softmax cross-entropy over the M positions that count, with logits z and the index k of the right class:

    (F2)  L = -(1/M) sum log p_k,   p = softmax(z)      (B2)  dz = (1/M) (p - onehot(k))

With a mask, M counts what is unmasked: the loss of a padded batch is the mean over real steps, whatever the padding.

Smoothing eps moves that share of the wanted distribution from the right class to all V classes alike, and class v may
weigh w_v, 1 without weights. The sum over positions is then divided by D instead of M:

    (F3)  q_v = (1 - eps) w_k [v = k] + (eps/V) w_v     for each position, with its k
    (F4)  L = -(1/D) sum sum_v q_v log p_v              (B4)  dz = (1/D) (Q p - q),  Q = sum_v q_v

since d log p_v / dz_u = [u = v] - p_u. Of the mean over tokens, D is the sum of w_k over the positions that count: M,
without weights. Of the mean over sentences it is N, the sequences of the batch, and of the sum 1. (F2) and (B2) are the
case eps = 0, w = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]

REDUCTIONS = ("token", "sentence", "sum")
NARROW = 16.0  # logits up to here have exponentials, and sums of these, far from the ends of any dtype


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


def cross_entropy_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "token",
) -> tuple[Any, Array]:
    """Softmax cross-entropy against class indices, and its gradient.

    Parameters
    ----------
    logits : ndarray, (..., V)
        Unnormalised log probabilities of V classes; not modified.
    targets : int ndarray, (...)
        Indices in [0, V). Those that do not count are not read.
    mask : bool ndarray, (...), optional
        True where a position counts.
    label_smoothing : float
        In [0, 1]: the share of the wanted distribution that is spread evenly over all V classes.
    ignore_index : int, optional
        Positions with this target do not count; with a mask, those count that neither leaves out.
    weight : ndarray, (V,), optional
        What each class counts, at least 0; 1 where left out.
    reduction : {"token", "sentence", "sum"}
        The mean over all positions that count, with `weight` over the sum of their targets' weights; the sum over each
        sequence's positions, and its mean over the N sequences, of targets (T, N); or the sum.

    Returns
    -------
    loss : scalar of logits' dtype
        In nats.
    dlogits : ndarray, (..., V)
        Exactly 0 where a position does not count.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Shapes do not match; targets are not integers in range; an option has an impossible value; nothing counts, or
        what counts has no weight.

    Notes
    -----
    Where a logit is beyond 16 or -16, each position's largest (of complex ones, the largest real part) is subtracted
    first, so that nothing overflows.

    The options are those of torch.nn.functional.cross_entropy, and so are the numbers: smoothing gives its share to
    every class, classes of weight 0 and padding included. Where nothing counts torch's mean is NaN; here it is refused.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dz = cross_entropy_loss(np.zeros((1, 4)), np.array([2]))
    >>> round(float(loss), 6), dz
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    >>> cross_entropy_loss(np.zeros((1, 4)), np.array([2]), label_smoothing=0.4)[1].round(2)
    array([[ 0.15,  0.15, -0.45,  0.15]])
    """
    where = "cross_entropy_loss"
    z = _inexact(where, "logits", logits)
    k = arguments.as_array(where, "targets", targets)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ShapeError(f"{where}: logits must have shape (..., V) with V >= 1; got {z.shape}")
    V = z.shape[-1]
    arguments.shaped(where, "targets", k, "logits.shape[:-1]", z.shape[:-1])
    if not np.issubdtype(k.dtype, np.integer):
        raise DTypeError(f"{where}: targets must be integers, indices of classes; got dtype {k.dtype}")
    keep = None if mask is None else _mask(where, mask, k.shape, "targets.shape")
    if ignore_index is not None:
        counts = k != arguments.integer(where, "ignore_index", ignore_index)
        keep = counts if keep is None else keep & counts
    eps = arguments.probability(where, "label_smoothing", label_smoothing)
    w = None if weight is None else _weights(where, weight, V, z.real.dtype)
    arguments.one_of(where, "reduction", reduction, REDUCTIONS)
    if reduction == "sentence" and k.ndim != 2:
        raise ShapeError(f"{where}: for reduction = 'sentence' targets must have shape (T, N); got {k.shape}")

    rows, classes = z.reshape(-1, V), k.reshape(-1)
    kept = None if keep is None else np.flatnonzero(keep)
    if kept is not None:
        rows, classes = rows[kept], classes[kept]
    count = _count(where, len(rows), "" if ignore_index is None else f", or all that it leaves is {ignore_index}")
    if classes.min() < 0 or classes.max() >= V:
        raise OptionError(f"{where}: targets must be in [0, V) = [0, {V}); got {classes.min()} to {classes.max()}")
    w_k = None if w is None else w[classes]
    D: Any = count if w_k is None else w_k.sum()
    if D == 0:
        raise OptionError(f"{where}: nothing counts: weight is 0 for the target of every position that is not left out")
    if reduction != "token":
        D = k.shape[1] if reduction == "sentence" else 1

    # From here to the gradient all is written into one array, of which each row is a position.
    dz = memory.empty(z.shape, z.dtype)
    p = dz.reshape(-1, V) if kept is None else memory.empty(rows.shape, z.dtype)
    if not max(-rows.real.min(), rows.real.max()) <= NARROW:
        with np.errstate(over="ignore"):  # the difference of two huge logits may be -inf: its exponential is a good 0
            rows = np.subtract(rows, rows.real.max(axis=-1, keepdims=True), out=p)
    place = np.arange(count), classes
    right = rows[place]
    spread = (rows.sum(axis=-1) if w is None else rows.dot(w)) * (eps / V) if eps else 0
    np.exp(rows, out=p)
    # A product is several times as fast as p.sum(axis=1). In float32 BLAS calls one of positive numbers invalid now and
    # then, beside the right sum: once in dozens of processes. Nothing here can be invalid; a NaN is passed on.
    with np.errstate(invalid="ignore"):
        total = p.dot(np.ones(V, z.dtype))
    q_k: Any = 1 - eps if w_k is None else (1 - eps) * w_k
    Q: Any = 1 if w is None else q_k + eps / V * w.sum()
    losses = Q * np.log(total) - q_k * right - spread  # F4: log p = z - log total
    p *= (Q / (D * total))[:, None]  # B4
    p[place] -= q_k / D
    if eps:
        p -= eps / (V * D) if w is None else eps / (V * D) * w
    if kept is not None:
        dz.fill(0)
        dz.reshape(-1, V)[kept] = p
    return z.dtype.type(losses.sum() / D), dz


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


def _weights(where: str, weight: ArrayLike, classes: int, dtype: np.dtype[Any]) -> Array:
    array = arguments.as_array(where, "weight", weight)
    arguments.shaped(where, "weight", array, "(V,)", (classes,))
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{where}: weight must be real numbers, one for each class; got dtype {array.dtype}")
    wrong = np.flatnonzero(~((array >= 0) & (array <= np.finfo(dtype).max)))
    if wrong.size:
        raise OptionError(f"{where}: weight must be finite and at least 0; got {array[wrong[0]]} for class {wrong[0]}")
    return array.astype(dtype)


def _count(where: str, count: int, or_else: str = "") -> int:
    if count == 0:
        raise OptionError(
            f"{where}: nothing counts: there are no entries, or the mask is False everywhere{or_else}; "
            "a mean needs at least one"
        )
    return count
