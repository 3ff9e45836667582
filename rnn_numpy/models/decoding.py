r"""How the next token is chosen from logits z, of each row by itself.

    (1)  q = softmax(z / temperature)
    (2)  top_k: the k most probable tokens are kept; of equally probable ones those with the lower ids; q renormalised
    (3)  top_p: in the order of (-q, id), the shortest prefix whose mass is at least p is kept; q renormalised
    (4)  the token is the first one, in the order of ids, at which the sum of q exceeds u, uniform in [0, 1)

All of it in float64, whatever the model computes in. One uniform number decides a row, so that what is drawn for it
does not depend on the other rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def greedy(logits: ArrayLike) -> Ids:
    """Return the most probable token of each row, (...), the lowest id among equals.

    >>> greedy([[0.0, 2.0, 2.0]])
    array([1])
    """
    return np.asarray(_logits("greedy", logits).argmax(axis=-1), np.int64)


def probabilities(
    logits: ArrayLike, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Floats:
    """Return the probabilities that `sample` draws from, 0 for tokens that are left out.

    Parameters
    ----------
    logits : ndarray, (..., V)
        Real, of any dtype; -inf rules a token out.
    temperature : float
        Greater than 0: below 1 the probable becomes more probable, above 1 less.
    top_k : int, optional
        At least 1. More than V is as good as all.
    top_p : float, optional
        In (0, 1]; at least one token is kept.

    Returns
    -------
    q : ndarray, (..., V)
        float64; rows sum to 1.

    Raises
    ------
    OptionError, ShapeError, DTypeError
        An option is out of its range; at temperature 0, take `greedy`. Logits are no real array with a last axis.
    NonFiniteError
        A logit is NaN or infinity, or all of a row are -inf.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log([0.5, 0.25, 0.125, 0.125])
    >>> probabilities(logits, top_k=3).round(3), probabilities(logits, top_p=0.75).round(3)
    (array([0.571, 0.286, 0.143, 0.   ]), array([0.667, 0.333, 0.   , 0.   ]))
    """
    where = "probabilities"
    z = _logits(where, logits)
    temperature, top_k, top_p = _options(where, temperature, top_k, top_p)
    with np.errstate(over="ignore", under="ignore"):  # -inf, of which exp makes the 0 that it is next to the largest
        q: Floats = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    if top_k is not None:
        order = np.argsort(-z, axis=-1, kind="stable")
        np.put_along_axis(q, order[..., top_k:], 0, axis=-1)
    q /= q.sum(axis=-1, keepdims=True)
    if top_p is not None:
        order = np.argsort(-q, axis=-1, kind="stable")
        mass = np.cumsum(np.take_along_axis(q, order, axis=-1), axis=-1)
        before = np.concatenate([np.zeros_like(mass[..., :1]), mass[..., :-1]], axis=-1)
        dropped = np.empty_like(before, dtype=bool)
        np.put_along_axis(dropped, order, before >= top_p, axis=-1)
        q[dropped] = 0
        q /= q.sum(axis=-1, keepdims=True)
    return q


def sample(
    logits: ArrayLike,
    uniform: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Ids:
    """Return one token for each row, drawn by its uniform number.

    Parameters
    ----------
    logits : ndarray, (..., V)
    uniform : ndarray, (...)
        In [0, 1), one for each row: `rng.random(shape)`.
    temperature, top_k, top_p
        As for `probabilities`, which lists the errors.

    Returns
    -------
    ids : int ndarray, (...)

    Examples
    --------
    >>> import numpy as np
    >>> sample(np.log([[0.5, 0.25, 0.25]] * 3), [0.0, 0.5, 0.75])
    array([0, 1, 2])
    """
    where = "sample"
    q = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    u = arguments.as_array(where, "uniform", uniform)
    arguments.shaped(where, "uniform", u, "logits.shape[:-1]", q.shape[:-1])
    if u.dtype.kind != "f" or not ((u >= 0) & (u < 1)).all():
        raise OptionError(f"{where}: uniform must be numbers in [0, 1), as rng.random draws them")
    summed = np.cumsum(q, axis=-1)
    passed = (summed <= u[..., None] * summed[..., -1:]).sum(axis=-1)
    last = q.shape[-1] - 1 - (q[..., ::-1] > 0).argmax(axis=-1)  # where rounding has made u * sum the sum itself
    return np.asarray(np.minimum(passed, last), np.int64)


def check_options(where: str, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise the errors of options before a model has run."""
    _options(where, temperature, top_k, top_p)


def _options(where: str, temperature: Any, top_k: Any, top_p: Any) -> tuple[float, int | None, float | None]:
    number = arguments.real_number(where, "temperature", temperature)
    if number == 0:
        raise OptionError(f"{where}: temperature must be greater than 0; for the most probable token, ask for greedy")
    number = arguments.positive_number(where, "temperature", number)
    if top_k is not None:
        top_k = arguments.positive_int(where, "top_k", top_k)
    if top_p is not None and not 0 < (top_p := arguments.real_number(where, "top_p", top_p)) <= 1:
        raise OptionError(f"{where}: top_p must be in (0, 1]; got {top_p}")
    return number, top_k, top_p


def _logits(where: str, logits: ArrayLike) -> Floats:
    z = arguments.as_array(where, "logits", logits)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ShapeError(f"{where}: logits must have shape (..., V) with V >= 1; got {z.shape}")
    if z.dtype.kind not in "iuf":
        raise DTypeError(f"{where}: logits must be real numbers; got dtype {z.dtype}")
    z = np.ascontiguousarray(z, np.float64)
    if np.isnan(z).any() or not np.isfinite(z.max(axis=-1)).all():
        raise NonFiniteError(f"{where}: logits must be finite, or -inf for some tokens of a row; got NaN or infinity")
    return z
