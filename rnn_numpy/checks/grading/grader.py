"""Which equation of a student's backward pass is wrong.

The gradients that come back are compared with those of `rnn_numpy.layers.textbook`, at sizes that are all different.
Where they differ, the textbook's text is edited: each mistake of `slips` in place of a right line, one, then two at
once; and whatever then gives the student's numbers at both points, to rounding, is what the student wrote. A result is
explained by itself, so that a mistake in dW_ih is named beside another in dW_hh.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import linecache
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.grading import gates
from rnn_numpy.checks.grading.exercises import EXERCISES, GENERAL, Exercise
from rnn_numpy.checks.grading.slips import SIGN, TRANSPOSED, Slip, Words, instead
from rnn_numpy.core import arguments
from rnn_numpy.layers import textbook

Array = NDArray[Any]

LANGUAGES = ("en", "es", "both")
TOLERANCE = 1e-11  # of a tensor's largest entry: another order of adding up
SINGLE = 1e-5
_SEEDS = (20, 21)


@dataclass(frozen=True)
class Grade:
    """What `grade` returns: print it.

    Attributes
    ----------
    ok : bool
    exercise : str
        Its name; empty where it is not known.
    equations : tuple of str
        The equations that are wrong, "da_t", "dW_hh"; or "call", where there is nothing to compare.
    words : str
        All that is to be said.
    """

    ok: bool
    exercise: str
    equations: tuple[str, ...]
    words: str

    def __str__(self) -> str:
        return self.words

    __repr__ = __str__


@dataclass(frozen=True)
class _Finding:
    label: str
    equation: str
    words: Words


class _CallError(Exception):
    """The function could not be called, or what it returned cannot be compared."""

    def __init__(self, en: str, es: str) -> None:
        super().__init__(en)
        self.words = Words(en, es)


def grade(function: Callable[..., Any], exercise: str | None = None, *, lang: str = "en") -> Grade:
    """Say which equation of a backward pass is wrong.

    The function is one step of a backward pass, or all of it, with the arguments, in their order, and the results of
    its namesake in `rnn_numpy.layers.textbook`. Arrays of a step have a row for each of N sequences, and no axis of
    time:

    =======================  =======================================================  =================================
    exercise                 arguments                                                returns
    =======================  =======================================================  =================================
    rnn_step_backward        dh_t, x_t, h_prev, h_t, W_ih, W_hh                       dx_t, dh_prev, dW_ih, dW_hh,
                                                                                      db_ih, db_hh
    rnn_backward             doutput, dh_n, x, h, W_ih, W_hh                          dx, dh_0, dW_ih, dW_hh, db_ih,
                                                                                      db_hh
    lstm_step_backward       dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih,  dx_t, dh_prev, dc_prev, dW_ih,
                             W_hh                                                     dW_hh, db_ih, db_hh
    lstm_backward            doutput, dh_n, dc_n, x, h, c, gates, W_ih, W_hh          dx, dh_0, dc_0, dW_ih, dW_hh,
                                                                                      db_ih, db_hh
    gru_step_backward        dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh                dx_t, dh_prev, dW_ih, dW_hh,
                                                                                      db_ih, db_hh
    gru_backward             doutput, dh_n, x, h, gates, W_ih, W_hh                   dx, dh_0, dW_ih, dW_hh, db_ih,
                                                                                      db_hh
    attend_backward          dcontext, alpha, query, keys, values                     dquery, dkeys, dvalues
    cross_entropy_backward   logits, target                                           dlogits
    =======================  =======================================================  =================================

    Parameters
    ----------
    function : callable
    exercise : str, optional
        What it is; by default known by the names of its arguments, or by its own.
    lang : {"en", "es", "both"}
        The language of the words: English, Spanish, or Spanish and then English.

    Returns
    -------
    Grade
        `.ok`, `.equations`, `.words`. It raises nothing that the function does: an error in it, None, a wrong shape,
        arguments that it has changed, are what the words tell.

    Raises
    ------
    OptionError
        There is no such exercise or language.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy.checks import grade
    >>> def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    ...     da_t = dh_t * (1 - h_t**2)
    ...     db = da_t.sum(axis=0)
    ...     return da_t @ W_ih, da_t @ W_hh, da_t.T @ x_t, da_t.T @ h_t, db, db
    >>> grade(my_step)
    rnn_step_backward: not yet.
      BW  dW_hh: h_t stands where h_{t-1} belongs
      right: dx_t, dh_prev, dW_ih, db_ih, db_hh
    >>> print(grade(my_step, lang="es"))
    rnn_step_backward: todavía no.
      BW  dW_hh: está h_t donde va h_{t-1}
      bien: dx_t, dh_prev, dW_ih, db_ih, db_hh
    """
    arguments.one_of("grade", "lang", lang, LANGUAGES)
    if exercise is not None:
        arguments.one_of("grade", "exercise", exercise, tuple(EXERCISES))
    languages = ("es", "en") if lang == "both" else (lang,)
    try:
        asked = EXERCISES[exercise] if exercise is not None else _exercise_of(function)
    except _CallError as error:
        return Grade(False, "", ("call",), _told(languages, error.words))
    try:
        _can_be_called(function, asked)
        findings, right, spoilt = _compared(function, asked)
    except _CallError as error:
        words = [Words(f"{asked.name}: not yet. {error.words.en}", f"{asked.name}: todavía no. {error.words.es}")]
        return Grade(False, asked.name, ("call",), _told(languages, *words))
    if not findings:
        count = len(asked.results)
        en = f"all {count} gradients are" if count > 1 else "the gradient is"
        es = f"los {count} gradientes están" if count > 1 else "el gradiente está"
        done = Words(f"{asked.name}: {en} right.", f"{asked.name}: {es} bien.")
        return Grade(True, asked.name, (), _told(languages, done))
    lines = [Words(f"{asked.name}: not yet.", f"{asked.name}: todavía no.")]
    for finding in findings:
        head = f"  {finding.label + '  ' if finding.label else ''}{finding.equation}: "
        lines.append(Words(head + finding.words.en, head + finding.words.es))
    if spoilt:
        names = ", ".join(spoilt)
        lines.append(Words(f"  wrong for that alone: {names}", f"  mal sólo por eso: {names}"))
    if right:
        lines.append(Words(f"  right: {', '.join(right)}", f"  bien: {', '.join(right)}"))
    equations = tuple(dict.fromkeys(name for finding in findings for name in finding.equation.split(", ")))
    return Grade(False, asked.name, equations, _told(languages, *lines))


def _told(languages: Sequence[str], *lines: Words) -> str:
    return "\n".join(getattr(line, language) for language in languages for line in lines)


# ------------------------------------------------------------------------------------------------ the call


def _exercise_of(function: Any) -> Exercise:
    """Return the exercise whose arguments' names a function has, or whose name."""
    _is_function(function)
    names = tuple(_parameters(function) or ())
    for exercise in EXERCISES.values():
        if names == exercise.arguments:
            return exercise
    own = getattr(function, "__name__", "").removeprefix("my_")
    if own in EXERCISES:
        return EXERCISES[own]
    known = "".join(f"\n  {one.name}({', '.join(one.arguments)})" for one in EXERCISES.values())
    raise _CallError(
        "grade does not know which exercise this is; name the arguments as one of these does, or say exercise=:"
        f"{known}",
        f"grade no sabe qué ejercicio es; usá los nombres de argumentos de uno de estos, o indicá exercise=:{known}",
    )


def _is_function(function: Any) -> None:
    if not callable(function):
        kind = type(function).__name__
        raise _CallError(
            f"What came is no function but {kind}: hand in the function itself, without calling it.",
            f"Lo que llegó no es una función sino {kind}: pasá la función misma, sin llamarla.",
        )


def _parameters(function: Any) -> list[str] | None:
    """Return the names of the arguments that must be given."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def _can_be_called(function: Any, exercise: Exercise) -> None:
    wanted = f"{exercise.name}({', '.join(exercise.arguments)})"
    _is_function(function)
    try:
        inspect.signature(function).bind(*exercise.arguments)
    except TypeError as error:
        raise _CallError(
            f"The function must take {wanted}: {error}.", f"La función debe recibir {wanted}: {error}."
        ) from None
    except ValueError:  # no signature: it is seen when it is called
        pass


def _called(function: Callable[..., Any], exercise: Exercise, given: tuple[Any, ...], sizes: Mapping[str, int]) -> Any:
    """Return what the function returns; it must leave its arguments as they are."""
    kept = [np.array(argument) for argument in given]
    handed = [argument.copy() for argument in kept]
    at = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = function(*handed)
    except (Exception, SystemExit) as error:
        where_en, where_es = _line_of(error, function)
        text = f"{type(error).__name__}: {' '.join(str(error).split()) or '-'}"
        raise _CallError(
            f"With {at} it stops with an error{where_en}: {text}", f"Con {at} se detiene con un error{where_es}: {text}"
        ) from None
    for name, before, after in zip(exercise.arguments, kept, handed, strict=True):
        if before.shape != after.shape or not np.array_equal(before, after, equal_nan=after.dtype.kind in "fc"):
            raise _CallError(
                f"It changes its argument {name}: work on a copy, {name} = {name}.copy(), or write {name} = {name} + "
                f"..., not {name} += ...",
                f"Modifica su argumento {name}: trabajá sobre una copia, {name} = {name}.copy(), o escribí {name} = "
                f"{name} + ..., no {name} += ...",
            )
    return found


def _line_of(error: BaseException, function: Any) -> tuple[str, str]:
    """Return where in the function's own file an error was raised."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return "", ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == code.co_filename and frame.lineno is not None:
            text = linecache.getline(frame.filename, frame.lineno).strip()
            shown = f", `{text}`" if text else ""
            number = frame.lineno
            return f" in line {number}{shown}", f" en la línea {number}{shown}"
    return "", ""


def _listed(found: Any, exercise: Exercise) -> list[Array]:
    """Return the results as arrays of numbers, in order."""
    names = tuple(exercise.results)
    wanted = ", ".join(names)
    if found is None:
        raise _CallError(
            f"It returns None: end it with `return {wanted}`.", f"Devuelve None: terminala con `return {wanted}`."
        )
    if isinstance(found, Mapping):
        missing = [name for name in names if name not in found]
        if missing:
            raise _CallError(
                f"The dict it returns lacks {', '.join(missing)}.",
                f"Al dict que devuelve le falta {', '.join(missing)}.",
            )
        found = [found[name] for name in names]
    elif len(names) == 1 and not (isinstance(found, (tuple, list)) and len(found) == 1 and np.ndim(found[0]) == 2):
        found = [found]
    if not isinstance(found, (tuple, list)) or len(found) != len(names):
        count = len(found) if isinstance(found, (tuple, list)) else 1
        raise _CallError(
            f"It must return {len(names)} arrays, {wanted}; it returns {count}.",
            f"Debe devolver {len(names)} arreglos, {wanted}; devuelve {count}.",
        )
    arrays = []
    for name, one in zip(names, found, strict=True):
        if one is None or one is Ellipsis:
            told = "..." if one is Ellipsis else "None"
            raise _CallError(f"{name} is {told}: it is still to be written.", f"{name} es {told}: falta escribirlo.")
        try:
            array = np.asarray(one)
        except Exception:
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            kind = array.dtype if isinstance(one, np.ndarray) else type(one).__name__
            raise _CallError(
                f"{name} must be an array of real numbers; it is {kind}.",
                f"{name} debe ser un arreglo de números reales; es {kind}.",
            )
        arrays.append(array.astype(np.float64))
    return arrays


# ------------------------------------------------------------------------------------------------ comparing


def _compared(function: Callable[..., Any], exercise: Exercise) -> tuple[list[_Finding], list[str], list[str]]:
    """Return what is wrong, which results are right, and which are wrong for what is named already."""
    names = list(exercise.results)
    points = []
    for sizes, seed in zip(GENERAL, _SEEDS, strict=True):
        own = exercise.sizes(sizes)
        given = exercise.drawn(own, seed)
        points.append(_Point(exercise, own, given, _results(function, exercise, given, own)))
    again = _results(function, exercise, points[0].given, points[0].sizes)
    for name, first, second in zip(names, points[0].found, again, strict=True):
        if not np.array_equal(first, second, equal_nan=True):
            raise _CallError(
                f"Called twice with the same arguments it gives two different {name}: something is kept from call to "
                "call, a global array say.",
                f"Llamada dos veces con los mismos argumentos da dos {name} distintos: algo queda de una llamada a la "
                "otra, por ejemplo un arreglo global.",
            )
    wrong = [index for index in range(len(names)) if not all(point.is_right(index) for point in points)]
    if wrong:
        findings, spoilt = _explained(exercise, points, wrong, lambda: _of_one_step(function, exercise))
        return findings, [name for index, name in enumerate(names) if index not in wrong], spoilt
    for sizes, word in _special(exercise):
        given = exercise.drawn(sizes, 22)
        if exercise.name == "cross_entropy_backward" and word.en.startswith("large"):
            given = (1000 * given[0], given[1])
        found = _results(function, exercise, given, sizes)
        point = _Point(exercise, sizes, given, found)
        wrong = [index for index in range(len(names)) if not point.is_right(index)]
        if wrong:
            told = ", ".join(names[index] for index in wrong)
            finite = all(np.isfinite(found[index]).all() for index in wrong)
            more = ("", "") if finite else (": NaN or inf", ": NaN o inf")
            if exercise.name == "cross_entropy_backward" and not finite:
                more = (": exp overflows; subtract each row's maximum first",
                    ": exp desborda; restá antes el máximo de cada fila")  # fmt: skip
            words = Words(
                f"right in general, wrong for {word.en}{more[0]}", f"bien en general, mal con {word.es}{more[1]}"
            )
            return [_Finding("", told, words)], [n for k, n in enumerate(names) if k not in wrong], []
    return [], names, []


def _of_one_step(function: Callable[..., Any], exercise: Exercise) -> list[_Point]:
    """Return what a function of all steps gives where there is one."""
    points = []
    for sizes, seed in zip(GENERAL, _SEEDS, strict=True):
        own = {**exercise.sizes(sizes), "T": 1}
        given = exercise.drawn(own, seed)
        points.append(_Point(exercise, own, given, _results(function, exercise, given, own)))
    return points


def _special(exercise: Exercise) -> Iterator[tuple[dict[str, int], Words]]:
    """Yield sizes at which a function may fail that is right otherwise."""
    sizes = exercise.sizes(GENERAL[0])
    yield {**sizes, "N": 1}, Words("one sequence, N = 1", "una sola secuencia, N = 1")
    if "T" in sizes:
        yield {**sizes, "T": 1}, Words("one step, T = 1", "un solo paso, T = 1")
    if "H" in sizes:
        yield {**sizes, "D": 1, "H": 1}, Words("D = H = 1", "D = H = 1")
    if "S" in sizes:
        yield {**sizes, "S": 1}, Words("a memory of one row, S = 1", "una memoria de una fila, S = 1")
    if "V" in sizes:
        yield sizes, Words("large logits", "logits grandes")


def _results(
    function: Callable[..., Any], exercise: Exercise, given: tuple[Any, ...], sizes: Mapping[str, int]
) -> list[Array]:
    return _listed(_called(function, exercise, exercise.taken(*given), sizes), exercise)


class _Point:
    """The exercise at some sizes: what the textbook returns, and what the student's function does."""

    def __init__(
        self, exercise: Exercise, sizes: Mapping[str, int], given: tuple[Any, ...], found: list[Array]
    ) -> None:
        self.exercise, self.sizes, self.given, self.found = exercise, sizes, given, found
        self.right = exercise.cut(exercise.right(*given))

    def is_right(self, index: int) -> bool:
        """Whether a result is the textbook's."""
        return _same(self.found[index], self.right[index])


def _same(found: Array, expected: Any, tolerance: float = TOLERANCE) -> bool:
    expected = np.asarray(expected)
    if found.shape != expected.shape:
        return False
    if not np.isfinite(expected).all():  # of a mistake that divides by 0
        return False
    scale = float(np.abs(expected).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.abs(found - expected) <= tolerance * scale))


# ------------------------------------------------------------------------------------------------ mistakes


@functools.cache
def _source(function: Callable[..., Any]) -> tuple[str, str, tuple[str, ...]]:
    """Return a textbook function's head, its lines, and the expressions that it returns."""
    text = inspect.getsource(function)
    tree = ast.parse(text).body[0]
    assert_is = tree.body[-1] if isinstance(tree, ast.FunctionDef) else None
    value = assert_is.value if isinstance(assert_is, ast.Return) else None
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    lines = text.splitlines(keepends=True)
    end = (assert_is.lineno if assert_is is not None else 1) - 1
    body = "".join(lines[1:end]).replace("np.empty_like", "np.zeros_like")
    return lines[0], body, tuple(ast.unparse(part) for part in parts if part is not None)


def edited(exercise: Exercise, slips: Sequence[Slip]) -> Callable[..., list[list[Any]]] | None:
    """Return the textbook's function with mistakes in its lines: of each result all that could be returned, the right
    expression first; None where the mistakes exclude each other.
    """
    changes = tuple((slip.old, slip.new) for slip in slips)
    function = _compiled(exercise.name, changes)
    return None if function is None else lambda *given: _run(exercise, function, given)


def _run(exercise: Exercise, function: Callable[..., Any], given: Sequence[Any]) -> list[list[Any]]:
    found = [[_tried(one) for one in each] for each in function(*given)]
    if exercise.step:
        found[0] = [None if one is None else one[0] for one in found[0]]
    return found


@functools.lru_cache(maxsize=512)
def _compiled(name: str, changes: tuple[tuple[str, str], ...], others: bool = True) -> Callable[..., Any] | None:
    """Return a textbook's function so changed, which returns functions of what it could return, as `edited` says."""
    exercise = EXERCISES[name]
    head, body, returned = _source(exercise.right)
    for old, new in changes:
        if body.count(old) != 1:
            return None
        body = body.replace(old, new)
    expressions = [
        [right, *(slip.new for slip in returned_of(exercise, index) if others)] for index, right in enumerate(returned)
    ]
    told = ", ".join("[" + ", ".join(f"lambda: ({one})" for one in each) + "]" for each in expressions)
    space = dict(vars(textbook))
    exec(f"{head}{body}    return [{told}]\n", space)
    function: Callable[..., Any] = space[exercise.right.__name__]
    return function


def _tried(expression: Callable[[], Any]) -> Any:
    try:
        return expression()
    except ValueError:  # its shapes do not fit at these sizes
        return None


def lines_of(exercise: Exercise) -> list[Slip]:
    """Return the mistakes in lines that an exercise can show."""
    return [slip for slip in exercise.slips.lines if not (slip.loop and exercise.step)]


def returned_of(exercise: Exercise, index: int) -> list[Slip]:
    """Return the mistakes of one result that an exercise can show."""
    return [slip for slip in exercise.slips.returned[index] if not (slip.loop and exercise.step)]


class _Attempt:
    """Mistakes in lines, and how each result would follow from them: by which expression, 0 for the right one."""

    def __init__(self, exercise: Exercise, points: Sequence[_Point], slips: tuple[Slip, ...]) -> None:
        self.slips = slips
        self.by: dict[int, int] = {}
        self.values: list[list[Any]] = []
        function = edited(exercise, slips)
        if function is None:
            return
        with np.errstate(all="ignore"):
            try:
                found = [function(*point.given) for point in points]
            except (ValueError, IndexError):
                return
        self.values = [[each[0] for each in one] for one in found]
        for index in range(len(exercise.results)):
            for number in range(len(found[0][index])):
                if all(
                    one[index][number] is not None and _same(point.found[index], one[index][number])
                    for one, point in zip(found, points, strict=True)
                ):
                    self.by[index] = number
                    break

    @property
    def cost(self) -> int:
        """How many mistakes it supposes."""
        return len(self.slips) + sum(number > 0 for number in self.by.values())


def _explained(
    exercise: Exercise,
    points: Sequence[_Point],
    wrong: Sequence[int],
    of_one_step: Callable[[], Sequence[_Point]] | None = None,
) -> tuple[list[_Finding], list[str]]:
    """Return what is wrong in words, and which results are wrong for that alone."""
    names = list(exercise.results)
    count = len(names)
    slips = lines_of(exercise)
    none = _Attempt(exercise, points, ())
    single = [_Attempt(exercise, points, (slip,)) for slip in slips]
    attempts = [none, *single]
    whole = [one for one in attempts if len(one.by) == count]
    factors = _factors(exercise, points, wrong)
    if factors and not whole:
        return factors, []
    located = None
    if not whole:
        if exercise.step:
            located = _by_gates(exercise, points)
        elif "T" in points[0].sizes and of_one_step is not None:
            located = _at_one_step(exercise, of_one_step)
        few = located is not None and (
            located.all_told or (exercise.step and exercise.gates > 1 and located.gates == 1)
        )
        if not few:
            whole = list(itertools.islice(_pairs(exercise, points, wrong, single), 1))
    if not whole and located is not None:
        return located.findings, located.spoilt
    if whole:
        best = min(whole, key=lambda one: one.cost)
    else:  # a result that is 0 throughout says nothing of how
        zero = [index for index in wrong if not any(np.any(point.found[index]) for point in points)]
        for one in attempts:
            one.by = {index: number for index, number in one.by.items() if index not in zero}
        best = max(attempts, key=lambda one: (len(one.by), -one.cost))
    findings = [_Finding(slip.label, slip.equation, slip.words) for slip in best.slips]
    spoilt = [names[index] for index in wrong if best.slips and best.by.get(index) == 0]
    unknown = []
    for index in range(count):
        number = best.by.get(index)
        if number:
            slip = returned_of(exercise, index)[number - 1]
            findings.append(_Finding(slip.label, names[index], slip.words))
        elif number is None:
            # Right but for a mistake in a line that acts on this result alone, or by a factor; else unknown.
            local = next((one.slips[0] for one in single if one.by.get(index) == 0), None)
            single_factor = _factors(exercise, points, [index], best.values or none.values)
            if local is not None:
                words = local.words
                words = Words(
                    f"{local.equation} is wrong there: {words.en}", f"ahí está mal {local.equation}: {words.es}"
                )
                findings.append(_Finding("", names[index], words))
            elif single_factor:
                findings += single_factor
            else:
                unknown.append(index)
    findings += _unknown(exercise, points, unknown)
    return _merged(findings), spoilt


@dataclass(frozen=True)
class _Located:
    """What is wrong by what was read off the gradients of one step; `all_told` if nothing is left to explain."""

    findings: list[_Finding]
    spoilt: list[str]
    all_told: bool
    gates: int  # that are wrong


def _at_one_step(exercise: Exercise, of_one_step: Callable[[], Sequence[_Point]]) -> _Located | None:
    try:
        points = of_one_step()
    except _CallError:
        return None
    names = list(exercise.results)
    if all(point.is_right(index) for point in points for index in range(len(names))):
        words = Words(
            "right for one step, T = 1: wrong is what a step hands to the one before, or a sum over the steps",
            "bien con un solo paso, T = 1: está mal lo que un paso le devuelve al anterior, o una suma sobre los pasos",
        )
        return _Located([_Finding("", "t", words)], [], False, 0)
    return _by_gates(exercise, points)


_NOT_KNOWN = Words("wrong, and by none of the known mistakes", "mal, y no por uno de los errores conocidos")


def _by_gates(exercise: Exercise, points: Sequence[_Point]) -> _Located | None:
    """Return which gates' gradients are wrong, by what factor, and what is wrong beside that; None if none is."""
    lines = gates.GATES.get(exercise.right.__name__)
    if lines is None:
        return None
    names = list(exercise.results)
    of = [dict(zip(inspect.signature(exercise.right).parameters, point.given, strict=True)) for point in points]
    known = [gates.arrays(exercise.right, point.given) for point in points]
    ih = names.index("dW_ih")
    if not _all_shapes([point.found[ih] for point in points], [point.right[ih] for point in points]):
        return None
    found, right = (
        [gates.recovered(each[ih], one["x"][0]) for each, one in zip(results, of, strict=True)]
        for results in ([point.found for point in points], [point.right for point in points])
    )
    if any(da is None for da in (*found, *right)) or not all(map(np.any, found)):
        return None
    count = len(lines)
    blocks: dict[str, tuple[list[Array], list[Array]]] = {}
    for number, gate in enumerate(lines):
        mine, theirs = (
            [np.split(da, count, axis=1)[number] for da in each if da is not None] for each in (found, right)
        )
        blocks[gate] = mine, theirs
    wrong = [gate for gate, (mine, theirs) in blocks.items() if not _all_same(mine, theirs, 1e-8)]
    if wrong and not _agree(exercise, points, of, [one for one in found if one is not None]):
        return None  # dW_ih is made of another da than the rest
    findings: list[_Finding] = []
    quotients = {gate: [a / b for a, b in zip(*blocks[gate], strict=True)] for gate in wrong}
    dc = [point["dL/dc_t"] for point in known] if "c" in of[0] else []
    if "c" in of[0] and {"i", "f", "g"} <= set(wrong) and all(
        _all_same(quotients[gate], quotients["i"], 1e-7) for gate in "fg"
    ):  # fmt: skip
        dc = [ratio * one for ratio, one in zip(quotients["i"], dc, strict=True)]
        came = [one["dc_n"] for one in of]
        through = [point["dL/dc_t"] - one for point, one in zip(known, came, strict=True)]
        words = gates.quotient([a - b for a, b in zip(dc, came, strict=True)], through, known)
        findings.append(_Finding("B4", "dc_t", words or _NOT_KNOWN))
        wrong = [gate for gate in wrong if gate not in "ifg"]
    if "z" in lines and {"r", "n"} <= set(wrong) and _all_same(quotients["r"], quotients["n"], 1e-7):
        wrong.remove("r")  # which is made of da_n
    for gate in wrong:
        words = gates.quotient(*blocks[gate], known)
        findings.append(_Finding(lines[gate], f"da_{gate}", words or _NOT_KNOWN))
    # What follows from these, in each result.
    da = [one for one in found if one is not None]
    da_hh = da
    if "z" in lines:
        da_hh = [_with_reset(one, point["r"]) for one, point in zip(da, known, strict=True)]
        other = _other_hidden(points, of, names, da_hh)
        if other is not None:
            mine, theirs = (
                [one[:, -point["r"].shape[1] :] for one, point in zip(each, known, strict=True)]
                for each in (other, da_hh)
            )
            findings.append(_Finding("B2", "da_hh", gates.quotient(mine, theirs, known) or _NOT_KNOWN))
            da_hh = other
    expected: dict[str, list[Array]] = {
        names[0]: [one @ each["W_ih"] for one, each in zip(da, of, strict=True)],
        names[1]: [one @ each["W_hh"] for one, each in zip(da_hh, of, strict=True)],
        "dW_ih": [point.found[ih] for point in points],
        "dW_hh": [one.T @ each["h"][0] for one, each in zip(da_hh, of, strict=True)],
        "db_ih": [one.sum(axis=0) for one in da],
        "db_hh": [one.sum(axis=0) for one in da_hh],
    }
    if "z" in lines:
        expected[names[1]] = [
            one + point["dh_t"] * point["z"] for one, point in zip(expected[names[1]], known, strict=True)
        ]
    if dc:
        expected[names[2]] = [one * point["f"] for one, point in zip(dc, known, strict=True)]
    if not exercise.step:
        expected[names[0]] = [one[None] for one in expected[names[0]]]
    spoilt, unknown = [], []
    for index, name in enumerate(names):
        mine = [point.found[index] for point in points]
        if all(point.is_right(index) for point in points):
            continue
        if _all_same(mine, expected[name], 1e-8):
            spoilt.append(name)
            continue
        words = _beside(exercise, points, of, name, da_hh, expected[name], mine)
        if words is None and dc and name == names[2] and _all_shapes(mine, expected[name]):
            words = gates.quotient(mine, expected[name], known)
        if words is None:
            unknown.append(name)
        else:
            findings.append(_Finding(_label(exercise, index), name, words))
    if not findings:
        return None
    if unknown:
        findings.append(_Finding("", ", ".join(unknown), _NOT_KNOWN))
    told = all(finding.words != _NOT_KNOWN for finding in findings)
    return _Located(_merged(findings), spoilt, told, len(quotients))


def _with_reset(da: Array, r: Array) -> Array:
    """Return the GRU's da_hh: that of n is multiplied by r."""
    H = r.shape[1]
    return np.concatenate([da[:, :-H], da[:, -H:] * r], axis=1)


def _agree(
    exercise: Exercise, points: Sequence[_Point], of: Sequence[Mapping[str, Array]], da: Sequence[Array]
) -> bool:
    """Whether dx or db_ih is made of the same da as dW_ih."""
    names = list(exercise.results)
    dx = [one @ each["W_ih"] for one, each in zip(da, of, strict=True)]
    found = [point.found[0] if exercise.step else point.found[0][0] for point in points if point.found[0].ndim]
    db = [point.found[names.index("db_ih")] for point in points]
    return _all_same(found, dx, 1e-8) or _all_same(db, [one.sum(axis=0) for one in da], 1e-8)


def _other_hidden(
    points: Sequence[_Point], of: Sequence[Mapping[str, Array]], names: Sequence[str], da_hh: Sequence[Array]
) -> list[Array] | None:
    """Return the da_hh of a GRU that dW_hh is made of, and db_hh as well, where it is not what follows from da_ih."""
    hh, bias = names.index("dW_hh"), names.index("db_hh")
    found = [gates.recovered(point.found[hh], one["h"][0]) for point, one in zip(points, of, strict=True)]
    other = [one for one in found if one is not None]
    if len(other) < len(points) or _all_same(other, da_hh, 1e-8):
        return None
    sums = [one.sum(axis=0) for one in other]
    return other if _all_same([point.found[bias] for point in points], sums, 1e-8) else None


def _all_same(found: Sequence[Array], expected: Sequence[Array], tolerance: float) -> bool:
    return all(_same(one, other, tolerance) for one, other in zip(found, expected, strict=True))


def _all_shapes(found: Sequence[Array], expected: Sequence[Array]) -> bool:
    return all(one.shape == other.shape for one, other in zip(found, expected, strict=True))


def _beside(
    exercise: Exercise,
    points: Sequence[_Point],
    of: Sequence[Mapping[str, Array]],
    name: str,
    da_hh: Sequence[Array],
    expected: Sequence[Array],
    found: Sequence[Array],
) -> Words | None:
    """Return what is wrong with a result beside the gradients that it is made of."""
    for number, words in _multiples(exercise):
        if _all_same(found, [number(point.sizes) * one for point, one in zip(points, expected, strict=True)], 1e-8):
            return words
    if name == "dW_hh" and _all_same(found, [da.T @ one["h"][1] for da, one in zip(da_hh, of, strict=True)], 1e-8):
        return instead("h_t", "h_{t-1}")
    return None


def _pairs(
    exercise: Exercise, points: Sequence[_Point], wrong: Sequence[int], single: Sequence[_Attempt]
) -> Iterator[_Attempt]:
    """Yield attempts of two mistakes at once that explain all results."""
    count = len(exercise.results)
    right = [index for index in range(count) if index not in wrong]
    possible = [one.slips[0] for one in single if all(one.by.get(index) == 0 for index in right)]
    for pair in itertools.combinations(possible, 2):
        if pair[0].old == pair[1].old:
            continue
        function = _compiled(exercise.name, tuple((slip.old, slip.new) for slip in pair), others=False)
        if function is None:
            continue
        with np.errstate(all="ignore"):
            found = [one[0] for one in _run(exercise, function, points[0].given)]
        if 2 * sum(map(_same, points[0].found, found)) >= count:  # most mistakes are in the lines, not in the results
            one = _Attempt(exercise, points, pair)
            if len(one.by) == count:
                yield one


def _factors(
    exercise: Exercise, points: Sequence[_Point], wrong: Sequence[int], values: Sequence[Sequence[Any]] | None = None
) -> list[_Finding]:
    """Return one finding where the wrong results are the same multiple of what they should be."""
    names = ", ".join(list(exercise.results)[index] for index in wrong)
    label = "" if len(wrong) > 1 else _label(exercise, wrong[0])
    values = values or [point.right for point in points]
    for number, words in _multiples(exercise):
        if all(
            _same(point.found[index], number(point.sizes) * value[index])
            for point, value in zip(points, values, strict=True)
            for index in wrong
        ):
            return [_Finding(label, names, words)]
    if all(
        _same(point.found[index], value[index], SINGLE)
        for point, value in zip(points, values, strict=True)
        for index in wrong
    ):
        words = Words("rounded to single precision: float32 somewhere", "redondeado a precisión simple: hay un float32")
        return [_Finding(label, names, words)]
    return []


def _multiples(exercise: Exercise) -> Iterator[tuple[Callable[[Mapping[str, int]], float], Words]]:
    letters = exercise.sizes(GENERAL[0])
    yield lambda sizes: 0.0, Words("it is 0 throughout: nothing is added to it", "son todo ceros: no se le suma nada")
    yield lambda sizes: -1.0, SIGN
    yield lambda sizes: 2.0, Words("it is twice the right one", "es el doble del correcto")
    yield lambda sizes: 0.5, Words("it is half the right one", "es la mitad del correcto")
    if exercise.name == "cross_entropy_backward":
        yield (
            lambda sizes: float(sizes["N"]),
            Words("the loss is a mean: it is to be divided by N", "la pérdida es un promedio: falta dividir por N"),
        )
        yield (
            lambda sizes: 1 / sizes["V"],
            Words("the mean is over the N sequences, not over the N V entries",
                "el promedio es sobre las N secuencias, no sobre las N V entradas"),
        )  # fmt: skip
        yield (
            lambda sizes: -float(sizes["N"]),
            Words("its sign is wrong, and it is to be divided by N", "tiene el signo cambiado, y falta dividir por N"),
        )
        return
    for told in ("N", "T", "T N", "S"):
        if all(letter in letters for letter in told.split()):
            yield (
                lambda sizes, told=told: 1 / float(np.prod([sizes[letter] for letter in told.split()])),  # type: ignore[misc]
                Words(f"it is divided by {told}: a mean stands where a sum belongs",
                    f"está dividido por {told}: hay un promedio donde va una suma"),
            )  # fmt: skip


def _label(exercise: Exercise, index: int) -> str:
    slips = exercise.slips.returned[index]
    return slips[0].label if slips else ""


def _unknown(exercise: Exercise, points: Sequence[_Point], indices: Sequence[int]) -> list[_Finding]:
    """Return what can be said of results that no known mistake gives."""
    findings, point, unknown = [], points[0], []
    for index in indices:
        name = list(exercise.results)[index]
        found, right = point.found[index], point.right[index]
        if found.shape != right.shape and found.ndim == 2 and _same(found.T, right):
            words = TRANSPOSED
        elif found.shape != right.shape:
            wanted = f"{exercise.letters(name)} = {right.shape}"
            words = Words(
                f"its shape is {found.shape}; {wanted} is right", f"su forma es {found.shape}; debe ser {wanted}"
            )
        elif not np.isfinite(found).all():
            words = Words("it has NaN or inf in it", "tiene NaN o inf")
        else:
            unknown.append(index)
            continue
        findings.append(_Finding(_label(exercise, index), name, words))
    if unknown:
        names = [list(exercise.results)[index] for index in unknown]
        found, right = point.found[unknown[0]], point.right[unknown[0]]
        at = tuple(int(k) for k in np.unravel_index(int(np.argmax(np.abs(found - right))), right.shape))
        shown = f"{names[0]}[{', '.join(map(str, at))}]"
        words = Words(
            f"wrong, and by none of the known mistakes; {shown} is {found[at]:.6g}, right is {right[at]:.6g}",
            f"mal, y no por uno de los errores conocidos; {shown} da {found[at]:.6g}, lo correcto es {right[at]:.6g}",
        )
        label = _label(exercise, unknown[0]) if len(unknown) == 1 else ""
        findings.append(_Finding(label, ", ".join(names), words))
    return findings


def _merged(findings: Sequence[_Finding]) -> list[_Finding]:
    """Return the findings, one for all equations of which the same is to be said."""
    together: dict[tuple[str, Words], list[str]] = {}
    for finding in findings:
        together.setdefault((finding.label, finding.words), []).append(finding.equation)
    return [_Finding(label, ", ".join(dict.fromkeys(names)), words) for (label, words), names in together.items()]
