"""Gradient clipping, in place on the flat vector of all gradients.

    by norm         g <- g * min(1, c / ||g||_2)                            keeps the direction
    by value        g_i <- min(max(g_i, -c), c)                             turns it towards the corners of the box
    per layer       by norm, each parameter or layer by itself              keeps it within each, not between them
    adaptive [1]_   row i of a gradient by norm, to l * max(||W_i||, eps)   keeps it within each row

Where torch adds 1e-6 to the norm, so that a clipped gradient ends a little below max_norm, this one ends on it.

A clipping that turns the gradient around, or makes NaN of an infinity, would do so unseen. So a limit must be a finite
number above 0, a gradient that is not finite is an error or, if asked for, an update that is left out, and each
function tells what it did: how much shorter the gradient is, how far it was turned, which parameter made it long.
A `ClipLedger` keeps that over a run.

References
----------
.. [1] A. Brock, S. De, S. L. Smith, K. Simonyan, "High-performance large-scale image recognition without
   normalization", ICML (2021), eq. 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError
from rnn_numpy.training.lags import lag_norms

Array = NDArray[Any]

ON_NONFINITE = ("raise", "skip")
GROUPINGS = ("parameter", "layer")


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
    norm_after : float
        Euclidean norm of all gradients after.
    cosine : float
        Of the angle between the gradient before and after: 1 where only its length changed, as by norm; 1 for a
        gradient of zeros.
    touched, total : int
        How many of the `total` entries (rows, of adaptive clipping) were changed, or belong to a group that was.
    unit : {"entries", "rows"}
        What these two count.
    dominant : str or None
        The parameter whose gradient was the longest before, the first of equals; None where all gradients are 0. Of a
        gradient that is not finite, the first parameter that is not.
    share : float
        Its share of the squared norm before.
    lag : int or None
        Where a trace was handed in: how many steps before the last one the step stands that adds most to dL/dW_hh, as
        `lag_norms` defines it. None without a trace, or where nothing is added.
    skipped : bool
        Whether the gradient was not finite and was set to 0. Its norm, infinite or NaN, says in which way; factor,
        norm_after and cosine are 0.
    """

    norm: float
    factor: float
    engaged: bool
    norm_after: float = math.nan
    cosine: float = 1.0
    touched: int = 0
    total: int = 0
    unit: str = "entries"
    dominant: str | None = None
    share: float = 0.0
    lag: int | None = None
    skipped: bool = False


def clip_grad_norm(
    grads: Parameters,
    max_norm: float,
    *,
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    max_norm : float
        Greater than 0, finite.
    trace : Trace or LayerTrace, optional
        Whose backward pass has computed `grads`: the result then names the lag that adds most. That takes up to a half
        of the time of a training step; `lag_norms` says why.
    on_nonfinite : {"raise", "skip"}
        What to do with a gradient that has a NaN or an infinity. "skip" sets all gradients to 0 and says so in the
        result. An optimiser with momentum moves all the same, so leave its step out:
        `if not result.skipped: optimizer.step(grads)`.

    Returns
    -------
    ClipResult

    Raises
    ------
    OptionError, DTypeError
        `max_norm` is not a finite number above 0 (a negative one would turn the gradients around); another
        `on_nonfinite`; a trace without gradients.
    NonFiniteError
        A gradient is NaN or infinite, and is not to be skipped; the message names the parameter. Nothing is changed
        then.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,), "b": (1,)}, np.float64, np.array([3.0, 0.0, 4.0]))
    >>> result = clip_grad_norm(grads, 1.0)
    >>> result.norm, result.norm_after, result.factor, result.cosine
    (5.0, 1.0, 0.2, 1.0)
    >>> result.dominant, result.share
    ('b', 0.64)
    >>> grads["w"].round(12)
    array([0.6, 0. ])
    """
    where = "clip_grad_norm"
    limit = arguments.positive_number(where, "max_norm", max_norm)
    found = _untouched(where, grads, trace, on_nonfinite)
    if found.skipped or found.norm <= limit:
        return found
    before = grads.flat.copy() if limit < _least_exact(grads.flat) else None
    _shorten([grads.flat], found.norm, limit)
    if before is not None:  # entries may have been rounded to 0
        return _compared(found, before, grads, found.total)
    return replace(found, factor=limit / found.norm, engaged=True, norm_after=limit, touched=found.total)


def clip_grad_value(
    grads: Parameters,
    clip_value: float,
    *,
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Limit every entry to [-clip_value, clip_value].

    Parameters
    ----------
    grads : Parameters
        Changed in place; real.
    clip_value : float
        Greater than 0, finite.
    trace, on_nonfinite
        As in `clip_grad_norm`.

    Returns
    -------
    ClipResult

    Raises
    ------
    OptionError, DTypeError, NonFiniteError
        As in `clip_grad_norm`; also complex gradients, which have no order.

    Notes
    -----
    The smaller the limit, the more entries stand in a corner of the box: the cosine to the unclipped gradient then
    falls to ||g||_1 / (sqrt(P) ||g||_2), for P entries, its value for the sign of g. With heavy tails that is far below
    1.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,)}, np.float64, np.array([3.0, -0.25]))
    >>> result = clip_grad_value(grads, 1.0)
    >>> result.engaged, result.touched, result.total, round(result.cosine, 4)
    (True, 1, 2, 0.9869)
    >>> grads["w"]
    array([ 1.  , -0.25])
    """
    where = "clip_grad_value"
    limit = arguments.positive_number(where, "clip_value", clip_value)
    if isinstance(grads, Parameters) and np.iscomplexobj(grads.flat):
        raise DTypeError(f"{where}: grads must be real; complex numbers have no order to clip by")
    found = _untouched(where, grads, trace, on_nonfinite)
    limit = min(limit, float(np.finfo(grads.dtype).max))
    outside = np.abs(grads.flat) > limit
    if found.skipped or not outside.any():
        return found
    before = grads.flat.copy()
    np.clip(grads.flat, -limit, limit, out=grads.flat)
    return _compared(found, before, grads, int(np.count_nonzero(outside)))


def clip_grad_norm_per_layer(
    grads: Parameters,
    max_norm: float,
    by: str = "parameter",
    *,
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Scale the gradient of each parameter, or of each layer, so that its own Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    max_norm : float
        Greater than 0, finite; the same for every group.
    by : {"parameter", "layer"}
        What has a norm of its own: each named array, or what belongs together by `layer_of`.
    trace, on_nonfinite
        As in `clip_grad_norm`.

    Returns
    -------
    ClipResult
        `touched` counts the entries of the groups that were scaled.

    Raises
    ------
    OptionError, DTypeError, NonFiniteError
        As in `clip_grad_norm`; also another `by`.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,), "b": (1,)}, np.float64, np.array([3.0, 4.0, 0.5]))
    >>> result = clip_grad_norm_per_layer(grads, 1.0)
    >>> grads.flat.round(12), result.touched
    (array([0.6, 0.8, 0.5]), 2)
    >>> round(result.cosine, 4)  # b is now half of w, and was a tenth
    0.9345
    """
    where = "clip_grad_norm_per_layer"
    limit = arguments.positive_number(where, "max_norm", max_norm)
    if by not in GROUPINGS:
        raise OptionError(f"{where}: by must be one of {', '.join(map(repr, GROUPINGS))}; got {by!r}")
    found = _untouched(where, grads, trace, on_nonfinite)
    if found.skipped:
        return found
    groups: dict[str, list[Array]] = {}
    for name, array in grads.items():
        groups.setdefault(name if by == "parameter" else layer_of(name), []).append(array)
    norms = {group: scaled_norm(np.array([scaled_norm(array) for array in arrays])) for group, arrays in groups.items()}
    clipped = [group for group, norm in norms.items() if norm > limit]
    if not clipped:
        return found
    before = grads.flat.copy()
    for group in clipped:
        _shorten(groups[group], norms[group], limit)
    return _compared(found, before, grads, sum(array.size for group in clipped for array in groups[group]))


def clip_grad_adaptive(
    grads: Parameters,
    params: Parameters,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    exclude: Collection[str] = (),
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Scale each row of each gradient so that its norm is at most clip_factor * max(norm of the parameter's row, eps).

    Row i of a matrix holds what one unit (or gate of a unit) reads. A vector, a bias, counts as one row. The cap
    follows the weights: no update by plain gradient descent changes a row by more than lr * clip_factor of itself.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    params : Parameters
        The parameters that `grads` belong to; only read.
    clip_factor : float
        lambda; greater than 0, finite.
    eps : float
        What the norm of a row of parameters counts at least: otherwise a row of zeros could never learn. Greater than
        0, finite.
    exclude : collection of str
        Parameters to leave as they are. The paper leaves out the last linear layer.
    trace, on_nonfinite
        As in `clip_grad_norm`.

    Returns
    -------
    ClipResult
        `touched` and `total` count rows.

    Raises
    ------
    OptionError, DTypeError, ShapeError, NonFiniteError
        As in `clip_grad_norm`; also where `grads` are not those of `params`, a name to exclude is none of theirs, or a
        parameter is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"w": (2, 2)}, np.float64, np.array([3.0, 4.0, 0.0, 0.0]))
    >>> grads = Parameters({"w": (2, 2)}, np.float64, np.array([0.6, 0.8, 3e-6, 4e-6]))
    >>> result = clip_grad_adaptive(grads, params)
    >>> result.touched, result.total
    (1, 2)
    >>> grads["w"]
    array([[3.e-02, 4.e-02],
           [3.e-06, 4.e-06]])
    """
    where = "clip_grad_adaptive"
    factor = arguments.positive_number(where, "clip_factor", clip_factor)
    least = arguments.positive_number(where, "eps", eps)
    if not isinstance(params, Parameters):
        raise DTypeError(f"{where}: params must be Parameters, such as layer.params; got {type(params).__name__}")
    if isinstance(grads, Parameters):
        arguments.gradients(where, grads, params)
    unknown = [name for name in exclude if name not in params.shapes]
    if unknown or isinstance(exclude, str):
        raise OptionError(f"{where}: exclude must be a list of names among {list(params)}; got {exclude!r}")
    found = _untouched(where, grads, trace, on_nonfinite)
    chosen = [name for name in params if name not in exclude]
    found = replace(found, unit="rows", total=sum(len(_rows(params[name])) for name in chosen))
    if found.skipped:
        return replace(found, touched=found.total)
    before = grads.flat.copy()
    touched = 0
    for name in chosen:
        arguments.finite(where, name, params[name], _axes(params[name]))
        weights, rows = _rows(params[name]), _rows(grads[name])
        largest, lengths = _scaled_lengths(rows)
        weight_largest, weight_lengths = _scaled_lengths(weights)
        # In double precision: the two factors, and their product, may leave the range of the gradient's own. Where even
        # this one is too small, nothing needs clipping.
        wide = np.result_type(weight_largest.dtype, np.float64)
        with np.errstate(over="ignore"):
            cap = factor * np.maximum(weight_largest.astype(wide) * weight_lengths, least)
        # Where the norm itself, largest * lengths, may be too large for a float.
        over = largest > cap / lengths
        rows[over] /= largest[over, None]
        rows[over] *= (cap / lengths)[over, None]
        touched += int(np.count_nonzero(over))
    return _compared(found, before, grads, touched) if touched else found


def layer_of(name: str) -> str:
    """Return the layer to which a parameter belongs: what stands before the last dot, and the layer's number.

    Both directions of a layer are one layer. A name that tells neither gives "all".

    Examples
    --------
    >>> layer_of("rnn.weight_ih_l0"), layer_of("rnn.bias_hh_l1_reverse"), layer_of("readout.weight"), layer_of("weight")
    ('rnn.l0', 'rnn.l1', 'readout', 'all')
    """
    prefix, _, last = name.rpartition(".")
    number = re.search(r"_(l\d+)(_reverse)?$", last)
    return ".".join(part for part in (prefix, number[1] if number else "") if part) or "all"


def scaled_norm(array: Array) -> float:
    """Return the Euclidean norm of all entries, free of overflow and underflow on the way.

    Examples
    --------
    >>> import numpy as np
    >>> scaled_norm(np.array([3e200, 4e200])), scaled_norm(np.zeros(0))
    (5e+200, 0.0)
    """
    largest = float(np.max(np.abs(array), initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm((array / array.dtype.type(largest)).ravel()))


def _untouched(where: str, grads: Parameters, trace: Trace | LayerTrace | None, on_nonfinite: str) -> ClipResult:
    """Measure the gradients: the result of a clipping that does nothing. Set them to 0 where they are not finite and
    are to be skipped.
    """
    if not isinstance(grads, Parameters):
        raise DTypeError(f"{where}: grads must be Parameters, as backward returns them; got {type(grads).__name__}")
    if on_nonfinite not in ON_NONFINITE:
        options = ", ".join(map(repr, ON_NONFINITE))
        raise OptionError(f"{where}: on_nonfinite must be one of {options}; got {on_nonfinite!r}")
    size = grads.flat.size
    largest = float(np.max(np.abs(grads.flat), initial=0.0))
    if not math.isfinite(largest):
        if on_nonfinite == "skip":
            bad = next((name for name, array in grads.items() if not np.isfinite(array).all()), None)
            grads.flat[:] = 0
            return ClipResult(largest, 0.0, True, 0.0, 0.0, size, size, dominant=bad, skipped=True)
        for name, array in grads.items():
            arguments.finite(where, f"the gradient of {name}", array, _axes(array))
        raise NonFiniteError(f"{where}: the gradient has entries too large for {grads.dtype}")
    lag = None
    if trace is not None:
        by_lag = lag_norms(trace)
        lag = int(by_lag.argmax()) if by_lag.any() else None
    if largest == 0:
        return ClipResult(0.0, 1.0, False, 0.0, total=size, lag=lag)
    scaled = Parameters(grads.shapes, grads.dtype, grads.flat / grads.dtype.type(largest))
    squares = {name: float(np.vdot(array, array).real) for name, array in scaled.items()}
    whole = math.fsum(squares.values())
    norm = largest * math.sqrt(whole)
    dominant = max(squares, key=squares.__getitem__)
    return ClipResult(norm, 1.0, False, norm, total=size, dominant=dominant, share=squares[dominant] / whole, lag=lag)


def _compared(found: ClipResult, before: Array, grads: Parameters, touched: int) -> ClipResult:
    """Return the result of a clipping, with what the gradients have become beside what they were."""
    after = scaled_norm(grads.flat)
    cosine = 0.0
    if after > 0:
        unit = before.dtype.type
        old = before / unit(np.max(np.abs(before)))
        new = grads.flat / unit(np.max(np.abs(grads.flat)))
        lengths = float(np.linalg.norm(old)) * float(np.linalg.norm(new))
        cosine = min(1.0, float(np.vdot(old, new).real) / lengths)
    return replace(found, factor=after / found.norm, engaged=True, norm_after=after, cosine=cosine, touched=touched)


def _shorten(arrays: Iterable[Array], norm: float, limit: float) -> None:
    """Scale arrays of one norm, taken together, to the norm `limit`."""
    arrays = list(arrays)
    factor = limit / norm
    if factor >= np.finfo(arrays[0].dtype).tiny:
        for array in arrays:
            array *= factor
        return
    # The factor is too small for a number of this precision, or the norm too large: scale in two steps.
    largest = max(float(np.max(np.abs(array), initial=0.0)) for array in arrays)
    for array in arrays:
        array /= array.dtype.type(largest)
    rest = math.hypot(*(float(np.linalg.norm(array.ravel())) for array in arrays))
    for array in arrays:
        array *= limit / rest


def _least_exact(array: Array) -> float:
    """Return a norm below which entries may lose digits that count: they come near the smallest float."""
    info = np.finfo(array.dtype)
    return float(info.tiny / info.eps) * math.sqrt(array.size)


def _rows(array: Array) -> Array:
    """Return a matrix (rows, entries) that views `array`; a vector is one row."""
    return array.reshape(1, array.size) if array.ndim < 2 else array.reshape(len(array), math.prod(array.shape[1:]))


def _scaled_lengths(rows: Array) -> tuple[Array, Array]:
    """Return the largest absolute value of each row, and the norm of the row over it; of a row of zeros 0 and 1."""
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    scale = np.where(largest == 0, 1, largest).astype(largest.dtype)
    return largest, np.maximum(np.linalg.norm(rows / scale[:, None], axis=1), 1)


def _axes(array: Array) -> str:
    return ", ".join(f"axis {axis}" for axis in range(array.ndim))
