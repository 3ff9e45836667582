"""What a student's pre-activations' gradients were, read off dW_ih, and by which factor each gate is wrong.

Of one step with no more sequences than inputs, dW_ih = da^T x has all of da in it. Where a gate's da differs from the
right one, their quotient says why: each da is a product, and one factor missing, too many, or in place of another is
the quotient of two arrays of the step.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.grading.slips import SIGN, Words, instead, missing

Array = NDArray[Any]

# Of each function of the textbook: its gates, and by which line each one's gradient comes about.
GATES: Mapping[str, Mapping[str, str]] = {
    "rnn_backward": {"t": "B2"},
    "lstm_backward": {"i": "B3", "f": "B3", "g": "B3", "o": "B4"},
    "gru_backward": {"r": "B2", "z": "B4", "n": "B3"},
}


def arrays(function: Any, given: Sequence[Any]) -> dict[str, Array]:
    """Return the arrays that a student may have multiplied by, of the first step, by their names in the lecture."""
    of = dict(zip(inspect.signature(function).parameters, given, strict=True))
    dh, h_prev, h_t = of["doutput"][0] + of["dh_n"], of["h"][0], of["h"][1]
    found = {"dh_t": dh, "h_{t-1}": h_prev, "h_t": h_t, "1 - h_t^2": 1 - h_t**2, "1 - h_t": 1 - h_t}
    found["1 - h_{t-1}^2"] = 1 - h_prev**2
    names = {"lstm_backward": "ifgo", "gru_backward": "rznq"}.get(function.__name__, "")
    for name, gate in zip(names, np.split(of["gates"][0], 4, axis=-1) if names else [], strict=True):
        found |= {name: gate, f"1 - {name}": 1 - gate, f"1 - {name}^2": 1 - gate**2, f"1 + {name}": 1 + gate}
    if "c" in of:
        c_prev, c_t = of["c"]
        tanh_c = np.tanh(c_t)
        found |= {"c_{t-1}": c_prev, "c_t": c_t, "tanh(c_t)": tanh_c, "tanh(c_{t-1})": np.tanh(c_prev)}
        found |= {"1 - tanh(c_t)^2": 1 - tanh_c**2, "1 - tanh(c_t)": 1 - tanh_c}
        found["dL/dc_t"] = of["dc_n"] + dh * found["o"] * (1 - tanh_c**2)
        found["dc_t"] = of["dc_n"]  # as it came from step t+1
    if names == "rznq":
        found["h_{t-1} - n"] = h_prev - found["n"]
        found["da_n"] = dh * found["1 - z"] * found["1 - n^2"]
    return found


def quotient(found: Sequence[Array], right: Sequence[Array], known: Sequence[Mapping[str, Array]]) -> Words | None:
    """Return which factor makes the found arrays of the right ones, at each of some points; None for no simple one."""
    if not all(np.all(one != 0) for one in right):
        return None
    ratios = [one / other for one, other in zip(found, right, strict=True)]
    for words, factors in _factors(known):
        for sign, more in ((1, None), (-1, SIGN)):
            if all(_close(ratio, sign * factor) for ratio, factor in zip(ratios, factors, strict=True)):
                return words if more is None else Words(f"{words.en}; {more.en}", f"{words.es}; {more.es}")
    return None


def _factors(known: Sequence[Mapping[str, Array]]) -> Iterator[tuple[Words, list[Any]]]:
    names = list(known[0])
    with np.errstate(all="ignore"):
        for a in names:
            yield missing(a), [1 / point[a] for point in known]
        for a, b in itertools.combinations(names, 2):
            words = Words(f"{a} and {b} are missing", f"faltan {a} y {b}")
            yield words, [1 / (point[a] * point[b]) for point in known]
        for a in names:
            yield Words(f"{a} is one factor too many", f"sobra un factor {a}"), [point[a] for point in known]
        for a, b in itertools.permutations(names, 2):
            yield instead(a, b), [point[a] / point[b] for point in known]


def _close(found: Array, expected: Any) -> bool:
    expected = np.asarray(expected)
    return bool(np.isfinite(expected).all() and np.all(np.abs(found - expected) <= 1e-7 * np.abs(expected)))


def recovered(dW: Array, source: Array) -> Array | None:
    """Return da, (N, G H), of which dW = da^T source is made; None where it is not of that form.

    >>> x, da = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]), np.array([[5.0], [7.0]])
    >>> recovered(da.T @ x, x).round(9)
    array([[5.],
           [7.]])
    >>> recovered(da.T @ x + [[1.0, 0.0, 0.0]], x)
    """
    if dW.ndim != 2 or dW.shape[1] != source.shape[1] or not np.isfinite(dW).all():
        return None
    da = (dW @ np.linalg.pinv(source)).T
    return da if np.allclose(da.T @ source, dW, rtol=0, atol=1e-9 * np.abs(dW).max(initial=0.0)) else None
