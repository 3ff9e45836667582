"""The edge between the oracles and what a user hands in: a loss, named arrays, a function of gradients.

A `Function` is a loss at a point. The oracles move entries of its arrays and ask for its value; what the loss sees are
read-only views, and what it returns is checked at every call. Each way in which a function can be no function of its
arguments has its own message.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, ShapeError

Array = NDArray[Any]
Loss = Callable[[dict[str, Array]], Any]
Index = tuple[int, ...]

EPS = float(np.finfo(np.float64).eps)

# Distances of points, relative to each number, on which the roughness of a loss shows.
ROUGH = (EPS**0.25, EPS**0.25 / 16)

# What to do with a parameter that no derivative can be taken by, told by the kind of its dtype.
DTYPE_ADVICE = {
    "b": "a mask is no parameter: let the function close over it",
    "i": "convert it with .astype(np.float64), or let the function close over it if it is an index",
    "u": "convert it with .astype(np.float64), or let the function close over it if it is an index",
    "f": "convert it with .astype(np.float64)",
    "c": "pass its real and imaginary parts as two arrays",
    "O": "pass one array of numbers for each name",
}


class CheckedParams(NamedTuple):
    """What `checked_params` returns.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Contiguous float64 copies.
    notes : tuple of str
        A sentence for each array that was converted.
    """

    arrays: dict[str, Array]
    notes: tuple[str, ...]


def checked_params(params: Any, *, where: str = "checked_params") -> CheckedParams:
    """Return float64 copies of a user's parameters, or say why they cannot be differentiated by.

    Parameters
    ----------
    params : mapping of str to ndarray
        float64, or float32: taken at its values, in double precision, with a note.
    where : str
        The function that messages name.

    Raises
    ------
    DTypeError
        `params` is no mapping, a name no string, a value no array, or one of another dtype.
    OptionError
        There is no array.
    GradientCheckError
        An entry is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> checked_params({"w": np.ones(2, np.float32)}).notes
    ('w is float32: differentiated at its values in float64',)
    >>> checked_params({"w": np.arange(3)})
    Traceback (most recent call last):
    ...
    rnn_numpy.errors.DTypeError: checked_params: params['w'] must be a float64 or float32 array; got int64: convert it \
with .astype(np.float64), or let the function close over it if it is an index
    """
    if not isinstance(params, Mapping):
        raise DTypeError(
            f"{where}: params must be a dict of arrays by name; got {type(params).__name__}. "
            "A single array goes in as {'w': array}"
        )
    if not params:
        raise OptionError(f"{where}: params must have at least one array; got an empty {type(params).__name__}")
    arrays: dict[str, Array] = {}
    notes: list[str] = []
    for name, value in params.items():
        if not isinstance(name, str):
            raise DTypeError(f"{where}: the names in params must be strings; got {type(name).__name__} {name!r}")
        if isinstance(value, np.ma.MaskedArray):
            raise DTypeError(f"{where}: params[{name!r}] must not be a masked array: its mask would be lost; fill it")
        if not isinstance(value, (np.ndarray, np.generic)):
            raise DTypeError(
                f"{where}: params[{name!r}] must be an array; got {type(value).__name__}. Convert it with np.array"
            )
        if value.dtype not in (np.float64, np.float32):
            advice = DTYPE_ADVICE.get(value.dtype.kind, "pass numbers")
            raise DTypeError(
                f"{where}: params[{name!r}] must be a float64 or float32 array; got {value.dtype}: {advice}"
            )
        if value.dtype == np.float32:
            notes.append(f"{name} is float32: differentiated at its values in float64")
        arrays[name] = np.array(value, np.float64, order="C")
        require_finite(where, f"params[{name!r}]", arrays[name])
    return CheckedParams(arrays, tuple(notes))


def checked_gradients(
    grads: Callable[[dict[str, Array]], Any], params: Mapping[str, Array], *, where: str = "checked_gradients"
) -> dict[str, Array]:
    """Call a user's function of gradients, twice, and return its arrays, or say what is wrong with them.

    Parameters
    ----------
    grads : callable
        From a dict of float64 arrays to a mapping with an array of the same shape for each name: float64 or float32.
    params : mapping of str to ndarray
        As for `checked_params`.
    where : str
        The function that messages name.

    Returns
    -------
    dict of str to ndarray
        Copies, in the order of `params`.

    Raises
    ------
    DTypeError
        The result is no mapping, a gradient no array of real floating-point numbers.
    ShapeError
        A gradient has another shape than its parameter.
    GradientCheckError
        Two calls differ, the function modifies its argument, a name is missing or unknown, an entry is NaN or infinite.

    Notes
    -----
    That the gradient is right is not checked here.

    Examples
    --------
    >>> import numpy as np
    >>> checked_gradients(lambda p: {"w": 2 * p["w"]}, {"w": np.array([1.0, 2.0])})
    {'w': array([2., 4.])}
    >>> checked_gradients(lambda p: {"w": 2.0}, {"w": np.array([1.0, 2.0])})
    Traceback (most recent call last):
    ...
    rnn_numpy.errors.DTypeError: checked_gradients: grads must return an array for 'w'; got float
    """
    function = Function(where, grads, checked_params(params, where=where).arrays, argument="grads")
    # Copied between the calls: a function may return the same buffers each time.
    first = _gradient_copies(where, function)
    second = _gradient_copies(where, function)
    for name, array in first.items():
        different = array != second[name]
        if different.any():
            index = first_index(different)
            raise GradientCheckError(
                f"{where}: grads must return the same for the same arrays; two calls differ first in "
                f"{entry_name(name, index)}: {array[index]} and {second[name][index]}. Fix its random numbers, and "
                "zero what it adds to"
            )
    return first


class Function:
    """A loss at a point, as an oracle sees it; errors name `where`, and call the loss `argument`.

    The loss gets views of `work`: an oracle writes there, and puts back what was there, which `kept` holds. `eps` is
    that of the dtype of the last real number returned, `noise` what rounding may do to the loss, once it has been
    measured.
    """

    def __init__(
        self,
        where: str,
        loss: Callable[[dict[str, Array]], Any],
        point: Mapping[str, ArrayLike],
        dtype: type = np.float64,
        argument: str = "loss",
    ) -> None:
        if not callable(loss):
            raise DTypeError(f"{where}: {argument} must be a function of a dict of arrays; got {type(loss).__name__}")
        self.where = where
        self.argument = argument
        self.loss = loss
        self.work = _copies(where, point, dtype)
        self.kept = {name: array.copy() for name, array in self.work.items()}
        self.is_complex = np.dtype(dtype).kind == "c"
        self.eps = EPS
        self.noise = 0.0
        self.moved = ""  # what messages add where the arrays are not those of the point

    def call(self) -> Any:
        """Call the loss on read-only views, in a dict of its own, and return whatever it returns.

        What it raises at the point is the user's own affair. At a point that an oracle chose it may be out of its
        domain, as a logarithm is left of 0; there its warnings are not for the user to see.
        """
        quiet = np.errstate(all="ignore") if self.moved else contextlib.nullcontext()
        try:
            with quiet:
                return self.loss(read_only(self.work))
        except (ValueError, ArithmeticError) as error:
            if "read-only" in str(error):
                raise GradientCheckError(
                    f"{self.where}: {self.argument} must not modify its arrays, which are read-only ({error}); copy an "
                    "array before changing it"
                ) from error
            if not self.moved:
                raise
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return a finite number; it raises {type(error).__name__}"
                f"{self.moved}: {error}"
            ) from error

    def real_value(self) -> float:
        """Return the loss as a finite real number."""
        result = self.call()
        array = self._number(result)
        if array.dtype.kind == "c":
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return a real number for real arrays; got the complex number "
                f"{array}. Return its real part, or its absolute square"
            )
        self.eps = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else EPS
        value = float(array)
        if not np.isfinite(value):
            self._refuse(value)
        return value

    def complex_value(self) -> complex:
        """Return the loss as a finite complex number; NumPy's ComplexWarning is the caller's to turn into an error."""
        array = self._number(self.call())
        if array.dtype.kind != "c":
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return a complex number for complex arrays; got {array.dtype}: "
                "somewhere it drops the imaginary part, which carries the derivative"
            )
        value = complex(array)
        if not np.isfinite(value):
            self._refuse(value)
        return value

    def repeatable(self) -> float:
        """Return the loss at the point, after checking that a second call gives the same and nothing was modified."""
        first = self.real_value()
        self.require_unchanged()
        second = self.real_value()
        self.require_unchanged()
        if first != second:
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return the same number for the same arrays; two calls differ: "
                f"{first!r} and {second!r}. Fix its random numbers, and let it keep no state"
            )
        return first

    def measure_noise(self, middle: float, rough: bool = True) -> None:
        """Find what rounding may do to the loss: by how much it changes with the last digits of its arrays.

        At least eps |L|. Where large terms cancel, or the dynamics are chaotic, it is more, and nothing in L says so.
        Where numbers are rounded to a narrower dtype inside, L does not move at all with the last digits, and is rough
        along a line: `rough` says whether to look for that as well.
        """
        rng = np.random.default_rng(0)
        self.noise = self.eps * abs(middle)
        for _ in range(4):
            for name, array in self.kept.items():
                self.work[name][...] = array * (1 + 2 * EPS * rng.choice((-1.0, 1.0), array.shape))
            self.moved = " at two units in the last place from the point"
            self.noise = max(self.noise, abs(self.number() - middle))
        # Where it does move, by more than its own last digits, it is chaotic: then it is bent at any distance.
        if rough and not self.is_complex and self.noise <= 64 * EPS * abs(middle):
            self.noise = max(self.noise, self._roughness(middle, self.noise, rng))
        for name, array in self.kept.items():
            self.work[name][...] = array
        self.moved = ""

    def _roughness(self, middle: float, least: float, rng: np.random.Generator) -> float:
        """Return what sixth differences along a line say of the errors of L: the least at two distances of its points,
        since what is bent or has a kink shrinks with these, and rounding does not; 0 where it is below 100 `least`.
        """
        signs = {name: rng.choice((-1.0, 1.0), array.shape) for name, array in self.kept.items()}
        found = math.inf
        for distance in ROUGH:
            values = [middle]
            self.moved = f" at up to {8 * distance:.0e} of each number from the point"
            try:
                for k in range(1, 9):
                    for name, array in self.kept.items():
                        self.work[name][...] = array * (1 + k * distance * signs[name])
                    values.append(self.number())
            except GradientCheckError:
                return 0.0  # out of its domain: whoever asks for it there is told
            found = min(found, float(np.abs(np.diff(values, 6)).max()) / math.sqrt(924))
            if found <= 100 * least:
                return 0.0
        return found

    def number(self) -> float:
        """Return the loss as a real number; of a complex one, for complex arrays, the real part."""
        return self.complex_value().real if self.is_complex else self.real_value()

    def require_unchanged(self) -> None:
        """Raise if an array is not what it was: a view can be made writeable again."""
        for name, array in self.work.items():
            # Bit for bit: a NaN put in must show as well.
            if array.tobytes() != self.kept[name].tobytes():
                raise GradientCheckError(
                    f"{self.where}: {self.argument} must not modify its arrays; it has changed {name}. Copy an array "
                    "before changing it"
                )

    def _number(self, result: Any) -> Array:
        if not isinstance(result, (numbers.Number, np.ndarray, np.generic)) or isinstance(result, (bool, np.bool_)):
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return one number; got {type(result).__name__}"
                + (". Does it lack a return?" if result is None else "")
            )
        array = np.asarray(result)
        if array.shape != ():
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return one number; got an array of shape {array.shape}. "
                "Sum it, or take an entry"
            )
        if array.dtype.kind not in "fciu":
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return one number; got a value of dtype {array.dtype}"
            )
        return array

    def _refuse(self, value: complex) -> None:
        if np.isnan(value):
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return a finite number; got nan{self.moved}: look for 0/0, "
                "infinity minus infinity, the logarithm or root of a negative number"
            )
        if not np.isfinite(value):
            raise GradientCheckError(
                f"{self.where}: {self.argument} must return a finite number; got {value}{self.moved}: look for an "
                "overflow, a division by 0 or the logarithm of 0"
            )


class Sample(NamedTuple):
    """A value of a function on a line, and how far along the line it was really taken."""

    step: float
    value: float


class Line:
    """A function of one number: a loss while one entry moves."""

    def __init__(self, function: Function, name: str, index: Index) -> None:
        self.function = function
        self.entries = function.work[name]
        self.index = index
        self.name = name
        self.value = self.entries[index].item()
        self.scale = max(1.0, abs(self.value))

    def __call__(self, step: float) -> Sample:
        """Return the loss with the entry moved by `step`, up to rounding; the step says by how much it really was."""
        moved = self.value + step
        if moved == self.value:
            raise GradientCheckError(
                f"{self.function.where}: step {abs(step)} does not change {entry_name(self.name, self.index)} = "
                f"{self.value}; enlarge it"
            )
        self.entries[self.index] = moved
        self.function.moved = f" where {entry_name(self.name, self.index)} is {moved} in place of {self.value}"
        try:
            return Sample(moved - self.value, self.function.real_value())
        finally:
            self.entries[self.index] = self.value
            self.function.moved = ""


class DirectedLine:
    """A function of one number: the real part of a loss while all arrays move along a direction."""

    def __init__(self, function: Function, direction: Mapping[str, Array]) -> None:
        self.function = function
        self.direction = direction
        self.scale = 1.0

    def __call__(self, step: float) -> Sample:
        """Return the loss at point + step * direction."""
        with moved_along(self.function, self.direction, step):
            return Sample(step, self.function.number())


@contextlib.contextmanager
def moved_along(function: Function, direction: Mapping[str, Array], step: complex) -> Iterator[None]:
    """Put the arrays of a function at point + step * direction for the time of a `with`; the step may be imaginary."""
    for name, array in direction.items():
        function.work[name][...] = function.kept[name] + step * array
    function.moved = f" at {step:.3g} times the direction from the point"
    try:
        yield
    finally:
        for name in direction:
            function.work[name][...] = function.kept[name]
        function.moved = ""


def read_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return views that cannot be written to, in a dict of their own."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def chosen_names(where: str, arrays: Mapping[str, Array], names: Iterable[str] | None) -> list[str]:
    """Return the names to differentiate by: all where none are given; an unknown one is refused."""
    chosen = list(arrays) if names is None else list(names)
    unknown = [name for name in chosen if name not in arrays]
    if unknown:
        raise OptionError(f"{where}: names must be among {list(arrays)}; got {unknown}")
    return chosen


def checked_entry(where: str, arrays: Mapping[str, Array], name: str, index: int | Index) -> Index:
    """Return the index of one entry of a named array as a tuple of integers from 0."""
    if name not in arrays:
        raise OptionError(f"{where}: name must be among {list(arrays)}; got {name!r}")
    shape = arrays[name].shape
    given = (index,) if isinstance(index, (int, np.integer)) else tuple(index)
    if len(given) != len(shape) or not all(-size <= i < size for i, size in zip(given, shape, strict=True)):
        raise OptionError(f"{where}: index must be one of an entry of {name}, of shape {shape}; got {list(given)}")
    return tuple(int(i) % size for i, size in zip(given, shape, strict=True))


def checked_direction(
    where: str, arrays: Mapping[str, Array], direction: Any, what: str = "direction"
) -> dict[str, Array]:
    """Return a direction, or a gradient, as float64 arrays: names of the point, shapes of its arrays, finite."""
    if not isinstance(direction, Mapping):
        raise DTypeError(f"{where}: {what} must be a dict of arrays by name; got {type(direction).__name__}")
    found: dict[str, Array] = {}
    for name in chosen_names(where, arrays, direction):
        array = np.asarray(direction[name])
        if array.dtype.kind not in "fiu":
            raise DTypeError(f"{where}: {what}[{name!r}] must be an array of real numbers; got {array.dtype}")
        if array.shape != arrays[name].shape:
            raise ShapeError(f"{where}: {what}[{name!r}] must have shape {arrays[name].shape}; got {array.shape}")
        found[name] = array.astype(np.float64)
        require_finite(where, f"{what}[{name!r}]", found[name])
    return found


def random_direction(arrays: Mapping[str, Array], names: Iterable[str], rng: np.random.Generator) -> dict[str, Array]:
    """Return signed Gaussian numbers in the shapes of the arrays, together of norm 1."""
    drawn = {name: rng.standard_normal(arrays[name].shape) for name in names}
    norm = np.sqrt(sum(np.sum(array**2) for array in drawn.values()))
    return {name: array / norm for name, array in drawn.items()} if norm else drawn


def inner(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the sum of products over the names that both have."""
    return float(sum(np.sum(array * other[name]) for name, array in one.items() if name in other))


def norm(arrays: Mapping[str, Array]) -> float:
    """Return the norm of all arrays together; squares neither overflow nor vanish."""
    largest = max((float(np.max(np.abs(array), initial=0.0)) for array in arrays.values()), default=0.0)
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(sum(np.sum((array / largest) ** 2) for array in arrays.values())))


def entries_of(arrays: Mapping[str, Array], names: Iterable[str]) -> Iterator[tuple[str, Index]]:
    """Yield every entry of the named arrays."""
    for name in names:
        for index in np.ndindex(arrays[name].shape):
            yield name, index


def entry_name(name: str, index: Index) -> str:
    """Return what messages call an entry: "w[0, 1]"."""
    return f"{name}{list(index)}" if index else name


def first_index(flags: Array) -> Index:
    """Return the first index at which a flag is set."""
    return tuple(int(i) for i in np.argwhere(flags)[0])


def gradient_copies(
    where: str,
    source: str,
    result: Any,
    params: Mapping[str, Array],
    dtypes: Sequence[DTypeLike] = (np.float64, np.float32),
) -> dict[str, Array]:
    """Return copies of the gradients in a mapping: one for each parameter and no other, in its shape, real.

    Parameters
    ----------
    where, source : str
        The function that messages name, and what has returned the gradients.
    result : object
        That should be a mapping of names to arrays.
    params : mapping of str to ndarray
    dtypes : sequence
        What a gradient may be of.
    """
    if not isinstance(result, Mapping):
        raise DTypeError(f"{where}: {source} must return a dict of arrays by name; got {type(result).__name__}")
    missing = [name for name in params if name not in result]
    if missing:
        raise GradientCheckError(f"{where}: {source} must return a gradient for each parameter; {missing} are missing")
    unknown = [name for name in result if name not in params]
    if unknown:
        raise GradientCheckError(
            f"{where}: {source} must return a gradient for each parameter and nothing else; {unknown} are no "
            f"parameters, which are {list(params)}"
        )
    return {
        name: gradient_copy(where, source, name, result[name], array.shape, dtypes) for name, array in params.items()
    }


def gradient_copy(
    where: str, source: str, name: str, value: Any, shape: tuple[int, ...], dtypes: Sequence[DTypeLike]
) -> Array:
    """Return a copy of one gradient: an array of the shape and of one of the dtypes."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise DTypeError(f"{where}: {source} must return an array for {name!r}; got {type(value).__name__}")
    if value.dtype not in dtypes:
        advice = {
            "c": ": a real loss has a real gradient; take the real part, if the imaginary part is 0",
            "i": ": a gradient of integers is cut off; compute it in floating point",
            "u": ": a gradient of integers is cut off; compute it in floating point",
            "f": ": somewhere digits are lost",
            "O": ": the array holds Python objects; give it a dtype of floating point",
        }.get(value.dtype.kind, "")
        allowed = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        raise DTypeError(f"{where}: {source} must return a {allowed} array for {name!r}; got {value.dtype}{advice}")
    if value.shape != shape:
        raise ShapeError(
            f"{where}: the gradient of {name!r} must have the shape of the parameter, {shape}; got {value.shape}"
        )
    return np.array(value)


def _copies(where: str, point: Mapping[str, ArrayLike], dtype: type) -> dict[str, Array]:
    if not isinstance(point, Mapping):
        raise DTypeError(f"{where}: point must be a dict of arrays by name; got {type(point).__name__}")
    work: dict[str, Array] = {}
    for name, value in point.items():
        array = np.asarray(value)
        if array.dtype != np.float64:
            raise DTypeError(f"{where}: {name} must be a float64 array; got {array.dtype}. Convert the point first")
        work[name] = array.astype(dtype, order="C")
    return work


def _gradient_copies(where: str, function: Function) -> dict[str, Array]:
    result = function.call()
    function.require_unchanged()
    copies = gradient_copies(where, "grads", result, function.work)
    for name, array in copies.items():
        require_finite(where, f"the gradient of {name!r}", array)
    return copies


def require_finite(where: str, what: str, array: Array) -> None:
    """Raise where an entry is NaN or infinite, and say which."""
    bad = ~np.isfinite(array)
    if bad.any():
        index = first_index(bad)
        place = f" at {list(index)}" if index else ""
        raise GradientCheckError(f"{where}: {what} must be finite; got {array[index]}{place}")
