"""Which of NumPy's functions keep the derivative of a complex step, and which lose it, most of them without a word.

A complex step reads dL/dp off Im L(p + ih) / h, which is right where L is analytic. NumPy's own functions of complex
arguments often are not: their extension to complex numbers was made for signals, where |z|, the conjugate and unitary
matrices are wanted. `ANALYTIC_HAZARDS` lists these with what to write in their place, `ANALYTIC_SAFE` those that were
found right; the tests run every name of both. `analytic_violations` records what a loss uses.

A name does not condemn a loss: a softmax may well subtract `logits.real.max()`, since the result does not depend on
what is subtracted. The verdict is that of `cauchy_riemann` (`rnn_numpy.checks.oracles.complex_step`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.checks.oracles.function import Array, Function, Loss, chosen_names

Effect = Literal["real", "wrong", "raises", "tie"]


class Hazard(NamedTuple):
    """What a function does to the derivative of a complex step.

    Attributes
    ----------
    effect : {"real", "wrong", "raises", "tie"}
        The result is real, the derivative gone; it is complex, its imaginary part wrong; complex arguments raise
        TypeError; only where two numbers have equal real parts, the imaginary ones decide, so that the derivative is
        that of one side.
    instead : str
        What to write.
    """

    effect: Effect
    instead: str


_ONE_SIDE = "keep away from ties, or take the slopes from both sides with one_sided_slopes"
_SUM = "np.sum(z * z), with z = a - np.mean(a)"
_REAL_ONLY = "use it where no derivative passes, or take Ridders' differences"
_HERMITIAN = "NumPy takes the conjugate of half of the matrix; use np.linalg.eig, or Ridders' differences"

_HAZARDS: dict[str, Hazard] = {
    # The absolute value, and what is made of it.
    "absolute": Hazard("real", "np.where(a.real < 0, -a, a)"),
    "linalg.norm": Hazard("real", "np.sqrt(np.sum(a * a))"),
    "linalg.vector_norm": Hazard("real", "np.sqrt(np.sum(a * a))"),
    "linalg.matrix_norm": Hazard("real", "np.sqrt(np.sum(a * a))"),
    "linalg.cond": Hazard("real", _REAL_ONLY),
    "var": Hazard("real", f"the mean in place of the sum in {_SUM}"),
    "std": Hazard("real", f"the root of the mean in place of the sum in {_SUM}"),
    "nanvar": Hazard("real", f"the mean in place of the sum in {_SUM}"),
    "nanstd": Hazard("real", f"the root of the mean in place of the sum in {_SUM}"),
    # The conjugate, and products that take one.
    "conjugate": Hazard("wrong", "a itself: for real numbers the conjugate is nothing"),
    "vdot": Hazard("wrong", "np.sum(a * b)"),
    "vecdot": Hazard("wrong", "np.sum(a * b, axis=-1)"),
    "linalg.vecdot": Hazard("wrong", "np.sum(a * b, axis=-1)"),
    "vecmat": Hazard("wrong", "a[..., None, :] @ B"),
    "correlate": Hazard("wrong", "np.convolve(a, b[::-1])"),
    "cov": Hazard("wrong", "z @ z.T / (n - 1), with z = a - np.mean(a, axis=1, keepdims=True)"),
    "corrcoef": Hazard("wrong", "z @ z.T, scaled by its diagonal, with z = a - np.mean(a, axis=1, keepdims=True)"),
    # The parts of a complex number.
    "real": Hazard("real", "a itself, but where the result does not depend on it, as in a shift of a softmax"),
    "imag": Hazard("real", "nothing: it is 0 for real numbers"),
    "real_if_close": Hazard("real", "a itself"),
    "angle": Hazard("real", "np.where(a.real < 0, np.pi, 0.0)"),
    "sign": Hazard("wrong", "np.sign(a.real), which is constant on both sides of 0"),
    # Factorisations.
    "linalg.svd": Hazard("real", "singular values are roots of eigenvalues: np.sqrt(np.linalg.eigvals(a.T @ a))"),
    "linalg.svdvals": Hazard("real", "np.sqrt(np.linalg.eigvals(a.T @ a))"),
    "linalg.qr": Hazard("wrong", "Gram-Schmidt with np.sum(a * b) as its product"),
    "linalg.eigh": Hazard("real", _HERMITIAN),
    "linalg.eigvalsh": Hazard("real", _HERMITIAN),
    "linalg.cholesky": Hazard("wrong", "the loop of L[i, j] = (A[i, j] - L[i, :j] @ L[j, :j]) / L[j, j]"),
    "linalg.slogdet": Hazard("real", "0.5 * np.log(np.linalg.det(a) ** 2)"),
    # What refuses complex numbers.
    "fabs": Hazard("raises", "np.where(a.real < 0, -a, a)"),
    "logaddexp": Hazard("raises", "m + np.log(np.exp(a - m) + np.exp(b - m)), with m = np.maximum(a.real, b.real)"),
    "logaddexp2": Hazard("raises", "m + np.log2(np.exp2(a - m) + np.exp2(b - m)), with m = np.maximum(a.real, b.real)"),
    "hypot": Hazard("raises", "np.sqrt(a * a + b * b)"),
    "arctan2": Hazard("raises", "np.arctan(a / b), with the quadrant from the signs of the real parts"),
    "cbrt": Hazard("raises", "np.sign(a.real) * (np.sign(a.real) * a) ** (1 / 3)"),
    "copysign": Hazard("raises", "np.where(np.signbit(a.real) == np.signbit(b.real), a, -a)"),
    "heaviside": Hazard("raises", "np.heaviside(a.real, value)"),
    "floor": Hazard("raises", "np.floor(a.real), which is constant between its jumps"),
    "ceil": Hazard("raises", "np.ceil(a.real), which is constant between its jumps"),
    "trunc": Hazard("raises", "np.trunc(a.real), which is constant between its jumps"),
    "fix": Hazard("raises", "np.fix(a.real), which is constant between its jumps"),
    "remainder": Hazard("raises", "a - b * np.floor(a.real / b.real)"),
    "floor_divide": Hazard("raises", "np.floor_divide(a.real, b.real), which is constant between its jumps"),
    "deg2rad": Hazard("raises", "a * (np.pi / 180)"),
    "rad2deg": Hazard("raises", "a * (180 / np.pi)"),
    "interp": Hazard("raises", "the formula of the piece, chosen by np.searchsorted(xp, x.real)"),
    "i0": Hazard("raises", _REAL_ONLY),
    "quantile": Hazard("raises", "the entries that np.argsort(a.real) picks"),
    "percentile": Hazard("raises", "the entries that np.argsort(a.real) picks"),
    # What orders numbers: by the real parts, and where these are equal by the imaginary ones.
    "maximum": Hazard("tie", _ONE_SIDE),
    "minimum": Hazard("tie", _ONE_SIDE),
    "fmax": Hazard("tie", _ONE_SIDE),
    "fmin": Hazard("tie", _ONE_SIDE),
    "greater": Hazard("tie", "a.real > b.real"),
    "greater_equal": Hazard("tie", "a.real >= b.real"),
    "less": Hazard("tie", "a.real < b.real"),
    "less_equal": Hazard("tie", "a.real <= b.real"),
    "clip": Hazard("tie", _ONE_SIDE),
    "max": Hazard("tie", _ONE_SIDE),
    "min": Hazard("tie", _ONE_SIDE),
    "argmax": Hazard("tie", "np.argmax(a.real)"),
    "argmin": Hazard("tie", "np.argmin(a.real)"),
    "sort": Hazard("tie", "a[np.argsort(a.real)]"),
    "argsort": Hazard("tie", "np.argsort(a.real)"),
    "ptp": Hazard("tie", _ONE_SIDE),
    "median": Hazard("tie", _ONE_SIDE),
}

ANALYTIC_HAZARDS: Mapping[str, Hazard] = MappingProxyType(_HAZARDS)
"""What loses the derivative of a complex step, as "sign" or "linalg.norm", and what to write instead."""

ANALYTIC_SAFE: tuple[str, ...] = (
    *("add", "subtract", "multiply", "divide", "negative", "positive", "power", "float_power", "square", "reciprocal"),
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sinc"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh"),
    *("sum", "mean", "average", "prod", "cumsum", "cumprod", "diff", "gradient", "trace", "trapezoid", "nansum"),
    *("dot", "matmul", "matvec", "inner", "outer", "tensordot", "einsum", "kron", "convolve", "cross", "polyval"),
    *("linalg.inv", "linalg.solve", "linalg.det", "linalg.lstsq", "linalg.pinv", "linalg.matrix_power"),
    # Since NumPy 2.5, eigenvalues of real arrays are complex numbers, too: a loss takes their real part there, and
    # there alone.
    *("linalg.multi_dot", "linalg.eig", "linalg.eigvals"),
    *("where", "concatenate", "stack", "roll", "flip", "transpose", "reshape", "take", "diag", "nan_to_num"),
    *("round", "rint"),
)
"""What keeps it, within the real domain of the function. `round` and `rint` have derivative 0, as they should."""

# The largest number that has an exponential, and how one above it is written down.
_LARGEST, _OVERFLOW = float(np.log(np.finfo(np.float64).max)), "exp: overflow"

# Functions of two arrays, and of one, that a tie makes hazardous.
_PAIR_TIES = frozenset(["maximum", "minimum", "fmax", "fmin", "greater", "greater_equal", "less", "less_equal"])
HAZARD_ALIASES = {"abs": "absolute", "amax": "max", "amin": "min", "conj": "conjugate", "mod": "remainder"}


def analytic_violations(
    loss: Loss,
    point: Mapping[str, ArrayLike],
    *,
    names: Iterable[str] | None = None,
    where: str = "analytic_violations",
) -> list[str]:
    """Return the names from `ANALYTIC_HAZARDS` that a loss uses on what depends on the named arrays.

    Parameters
    ----------
    loss : callable
        From a dict of complex128 arrays to a number; called once.
    point : mapping of str to float64 array
        Where to call it.
    names : iterable of str, optional
        The arrays to follow; all where left out.
    where : str
        The function that messages name.

    Returns
    -------
    list of str
        In the order of their first use. Those that lose the derivative only at ties are listed where there was a tie.

    Raises
    ------
    DTypeError, OptionError
        An array is not float64; an unknown name.

    Notes
    -----
    The arrays are of a private subclass of ndarray that hands itself on to all results. `np.asarray`, as a library may
    call on its arguments, takes it off, and what comes after that is not seen. So an empty list is no proof, and a name
    no verdict: that is `cauchy_riemann`'s. Where the loss raises an error, what was used until then is returned.

    Examples
    --------
    >>> import numpy as np
    >>> def loss(p):
    ...     return np.linalg.norm(p["w"]) + np.sum(np.tanh(p["w"]))
    >>> analytic_violations(loss, {"w": np.array([1.0, 2.0])})
    ['linalg.norm']
    >>> ANALYTIC_HAZARDS["linalg.norm"].instead
    'np.sqrt(np.sum(a * a))'
    """
    return [name for name in _recorded(loss, point, names, where) if name in ANALYTIC_HAZARDS]


def overflow(
    loss: Loss, point: Mapping[str, ArrayLike], *, names: Iterable[str] | None = None, where: str = "overflow"
) -> str:
    """Return what to say of a loss that is NaN for complex arrays, and a number for real ones, where an exponential
    overflows in it; empty where none does.

    Examples
    --------
    >>> import numpy as np
    >>> overflow(lambda p: np.sum(1 / (1 + np.exp(-p["w"]))), {"w": np.array([1.0, -800.0])})
    'the exponential of 800 overflows, at [1] of an array of shape (2,): in complex numbers 1 / (1 + exp(-a)) is NaN \
there, where it is 0 in real ones; write (1 + np.tanh(a / 2)) / 2'
    """
    place = _recorded(loss, point, names, where).get(_OVERFLOW)
    if not place:
        return ""
    return (
        f"the exponential of {place}: in complex numbers 1 / (1 + exp(-a)) is NaN there, where it is 0 in real ones; "
        "write (1 + np.tanh(a / 2)) / 2"
    )


def _recorded(loss: Loss, point: Mapping[str, ArrayLike], names: Iterable[str] | None, where: str) -> dict[str, str]:
    """Call a loss on arrays that write down what is done with them; return the names of that."""
    function = Function(where, loss, point, np.complex128)
    seen: dict[str, str] = {}
    for name in chosen_names(where, function.work, names):
        function.work[name] = function.work[name].view(_Recorder)
        function.work[name]._seen = seen  # type: ignore[attr-defined]
    # Whatever it raises, the caller meets it again without the recording, and better told.
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        function.call()
    return seen


def advice(names: Iterable[str]) -> str:
    """Return what to write in place of functions, as a half-sentence for a message; empty where there are none."""
    found = [f"{name} (write {ANALYTIC_HAZARDS[name].instead})" for name in names]
    return "it uses " + "; ".join(found) if found else ""


class _Recorder(np.ndarray[Any, Any]):
    """An array that writes down which functions are applied to it, and makes recorders of their complex results."""

    _seen: dict[str, str] | None

    def __array_finalize__(self, parent: Any) -> None:
        self._seen = getattr(parent, "_seen", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = {"maximum": "max", "minimum": "min"}.get(ufunc.__name__) if method == "reduce" else None
        self._record(name or ufunc.__name__, inputs)
        plain = {key: _plain(value) for key, value in kwargs.items()}
        result = getattr(ufunc, method)(*map(_plain, inputs), **plain)
        out = kwargs.get("out")
        if out is not None and method != "at":
            # In place: the result is the very array that was handed in.
            return out[0] if len(out) == 1 else out
        return self._wrapped(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        module = function.__module__.removeprefix("numpy").strip(".")
        self._record(f"linalg.{function.__name__}" if module == "linalg" else function.__name__, args)
        return self._wrapped(function(*map(_plain, args), **{key: _plain(value) for key, value in kwargs.items()}))

    def __getitem__(self, index: Any) -> Any:
        return self._wrapped(_plain(self)[_plain(index)])

    def _record(self, name: str, inputs: Any) -> None:
        name = HAZARD_ALIASES.get(name, name)
        if name == "exp" and self._seen is not None:
            self._overflows(np.asarray(_plain(inputs[0])))
        hazard = ANALYTIC_HAZARDS.get(name)
        if self._seen is None or hazard is None:
            return
        if hazard.effect == "tie" and not _tied(name, [np.asarray(_plain(value)) for value in inputs[:3]]):
            return
        self._seen.setdefault(name, "")

    def _overflows(self, exponent: Array) -> None:
        over = np.argwhere(exponent.real > _LARGEST)
        if len(over) and self._seen is not None:
            index = tuple(map(int, over[0]))
            place = f", at {list(index)} of an array of shape {exponent.shape}" if index else ""
            self._seen.setdefault(_OVERFLOW, f"{exponent[index].real:.4g} overflows{place}")

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, tuple) and type(result) is tuple:
            return tuple(map(self._wrapped, result))
        if isinstance(result, list):
            return list(map(self._wrapped, result))
        if isinstance(result, (np.ndarray, np.complexfloating)) and np.asarray(result).dtype.kind == "c":
            wrapped = np.asarray(result).view(_Recorder)
            wrapped._seen = self._seen
            return wrapped
        return result


def _plain(value: Any) -> Any:
    """Return a value with all recorders in it turned into what they are views of."""
    if isinstance(value, _Recorder):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return value


def _tied(name: str, inputs: list[Array]) -> bool:
    if name in _PAIR_TIES:
        return bool(np.any(inputs[0].real == inputs[1].real))
    if name == "clip":
        return any(bound.dtype.kind in "fciu" and bool(np.any(inputs[0].real == bound.real)) for bound in inputs[1:])
    return np.unique(inputs[0].real).size < inputs[0].size


# Methods and attributes that do not pass by a ufunc or a function of NumPy's, or not by one of that name.
def _method(name: str) -> Callable[..., Any]:
    def recorded(self: _Recorder, *args: Any, **kwargs: Any) -> Any:
        self._record(name, (self, *args))
        plain = {key: _plain(value) for key, value in kwargs.items()}
        return self._wrapped(getattr(_plain(self), name)(*map(_plain, args), **plain))

    return recorded


def _attribute(name: str) -> property:
    def recorded(self: _Recorder) -> Any:
        self._record(name, (self,))
        return getattr(_plain(self), name)

    return property(recorded)


for _name in ("var", "std", "conjugate", "conj", "max", "min", "argmax", "argmin", "sort", "argsort", "clip"):
    setattr(_Recorder, _name, _method(_name))
for _name in ("real", "imag"):
    setattr(_Recorder, _name, _attribute(_name))
