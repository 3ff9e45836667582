"""What a gradient check found: a row for each tensor and gate, the diagnosis, and all that was measured on the way."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.terminal import line_width
from rnn_numpy.errors import GradientCheckError

Array = NDArray[Any]


OK, WRONG, UNDECIDED = "ok", "WRONG", "undecided"


@dataclass(frozen=True)
class Row:
    """What was found for one tensor, or for one gate's rows of it.

    Attributes
    ----------
    name : str
        A parameter, "x", "h_0", ..., or "da_l0", the gradients of the pre-activations at every step of a layer.
    gate : str or None
        Of weights and biases, the gate whose rows these are.
    shape : tuple of int
    error : float
        Largest |analytic - reference|, relative to the largest |reference| of the block; of arrays over time, of the
        block at that step. NaN where an entry is not finite, infinite where the reference is 0 throughout and the
        gradient is not.
    index : tuple of int
        The entry that is worst, measured against what rounding allows it; an index into the whole tensor.
    analytic, reference : float
        The two values there.
    kappa : float
        Sum of the absolute values of all contributions (t, k) to that entry, over the absolute value of their sum: how
        much of it cancels. Of x and of initial states, what cancels in the products that make them counts in place of
        the loss steps. NaN where it is not known.
    allowed : float
        The error that rounding allows that entry, relative as `error` is.
    verdict : {"ok", "WRONG", "undecided"}
    note : str
        Why, where that is not plain.
    """

    name: str
    gate: str | None
    shape: tuple[int, ...]
    error: float
    index: tuple[int, ...]
    analytic: float
    reference: float
    kappa: float
    allowed: float
    verdict: str
    note: str = ""

    @property
    def title(self) -> str:
        """Name and gate: "weight_hh_l0.f"."""
        return self.name if self.gate is None else f"{self.name}.{self.gate}"

    @property
    def digits(self) -> int:
        """Right decimal digits of the block's largest entry, at most 16."""
        if not self.error < 1:
            return 0
        return 16 if self.error == 0 else min(16, int(-math.log10(self.error)))


@dataclass(frozen=True)
class Diagnosis:
    """The most likely mistake.

    Attributes
    ----------
    kind : str
        A key of `rnn_numpy.checks.diagnosis.known_mistakes.DIAGNOSES`.
    why : str
        What was seen, in a sentence.
    when : str
        Where it shows first: layer, direction, gate, step or block (t, k).
    where : dict
        The same for programs: "layer" (its name), "gate", "t", "k", "part", the last one of "immediate partial",
        "recurrence", "sums", "entry of the loss".
    explained : bool
        Whether the gradient that this mistake would give agrees with the one found, in every tensor.
    """

    kind: str
    why: str
    when: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    explained: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}" + (f"; {self.when}" if self.when else "")


@dataclass(frozen=True)
class Check:
    """The result of a further test of the whole gradient.

    Attributes
    ----------
    name : str
        "end to end", "Taylor", "adjoint", "RTRL", ...
    text : str
        The figure, for people.
    ok : bool
    value : float or list of float
    """

    name: str
    text: str
    ok: bool
    value: Any


@dataclass
class GradcheckReport:
    """What `gradcheck` returns.

    Attributes
    ----------
    subject : str
        What was checked, with its sizes.
    method : str
        Where the reference comes from.
    rows : list of Row
    trials : list of Check
    diagnosis : Diagnosis or None
        None where all is right.
    growth : float
        How much a random perturbation of the states grew, at most, over the recorded run; NaN where it was not
        measured.
    notes : list of str
        What a reader should know: kinks, what was not decided and why, a method that was changed.
    kinks : list
        Entries at which the loss has no derivative, each with both one-sided slopes.
    seed : int
        Of all random draws.
    reproducible : bool
        Whether two runs of the backward pass agreed bit for bit.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import RNN
    >>> from rnn_numpy.checks import gradcheck
    >>> report = gradcheck(RNN(2, 3, rng=0), np.ones((5, 1, 2)))
    >>> report.ok, [row.title for row in report.rows][:3]
    (True, ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0'])
    >>> report.raise_if_failed()
    """

    subject: str
    method: str
    rows: list[Row]
    trials: list[Check] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    growth: float = math.nan
    notes: list[str] = field(default_factory=list)
    kinks: list[Any] = field(default_factory=list)
    seed: int = 0
    reproducible: bool = True

    @property
    def ok(self) -> bool:
        """Whether every tensor is right, every further test passed, and both runs agreed."""
        rows_ok = all(row.verdict == OK for row in self.rows)
        return rows_ok and self.reproducible and self.diagnosis is None and all(trial.ok for trial in self.trials)

    @property
    def verdict(self) -> str:
        """What is to be said of it all: "ok", "FAILED" where something is wrong, "undecided" where nothing is seen to
        be, but not all could be told: at a kink, where rounding leaves too few digits, or for want of time.
        """
        if self.ok:
            return OK
        wrong = self.diagnosis is not None or not self.reproducible or any(not trial.ok for trial in self.trials)
        return "FAILED" if wrong or any(row.verdict == WRONG for row in self.rows) else UNDECIDED

    @property
    def error(self) -> float:
        """The largest relative error of all rows; NaN if one is."""
        return float(np.max([row.error for row in self.rows], initial=0.0))

    def __getitem__(self, title: str) -> Row:
        """Return a row by its title, "weight_hh_l0.f"."""
        for row in self.rows:
            if row.title == title:
                return row
        raise KeyError(f"{title!r}; rows are {', '.join(row.title for row in self.rows)}")

    def raise_if_failed(self) -> None:
        """Raise `GradientCheckError` with the report as its message, unless `ok`."""
        if not self.ok:
            what = "failed" if self.verdict == "FAILED" else "decided nothing"
            raise GradientCheckError(f"the gradient check {what}\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as numbers, strings, lists and dicts that JSON can hold; no NaN: None in their place."""
        return {
            "subject": self.subject,
            "method": self.method,
            "ok": self.ok,
            "verdict": self.verdict,
            "seed": self.seed,
            "reproducible": self.reproducible,
            "error": _json(self.error),
            "growth": _json(self.growth),
            "rows": [
                {name: _json(value) for name, value in vars(row).items()} | {"title": row.title, "digits": row.digits}
                for row in self.rows
            ],
            "trials": [{name: _json(value) for name, value in vars(trial).items()} for trial in self.trials],
            "diagnosis": None if self.diagnosis is None else {k: _json(v) for k, v in vars(self.diagnosis).items()},
            "notes": list(self.notes),
            "kinks": [{name: _json(value) for name, value in vars(kink).items()} for kink in self.kinks],
        }

    def __repr__(self) -> str:
        how = "bitwise" if self.reproducible else "NOT: two runs differ"
        lines = _wrapped("gradcheck ", self.subject)
        lines += _wrapped("method: ", f"{self.method}; reproducible: seed {self.seed}, {how}")
        lines += _table(self.rows)
        if self.diagnosis is not None:
            lines += _wrapped("  why : ", f"{self.diagnosis.kind}: {self.diagnosis.why}")
            if self.diagnosis.when:
                lines += _wrapped("  when: ", self.diagnosis.when)
        if self.trials:
            tried = (f"{trial.name} {trial.text} {'✓' if trial.ok else '✗'}" for trial in self.trials)
            lines += _wrapped("", "   ".join(tried))
        for note in self.notes:
            lines += _wrapped("note: ", note)
        lines.append(self.verdict)
        return "\n".join(lines)


def _table(rows: list[Row]) -> list[str]:
    """Return the rows in columns, at least 60 wide. An empty one is left out, and what a narrow line has no room for; a
    title too long for the line has a line of its own.
    """
    columns = [
        ["shape", *(str(row.shape).replace(" ", "") for row in rows)],
        ["error", *(f"{row.error:.1e}" for row in rows)],
        ["worst at", *(str(list(row.index)).replace(" ", "") for row in rows)],
        ["analytic", *(f"{row.analytic:.4e}" for row in rows)],
        ["reference", *(f"{row.reference:.4e}" for row in rows)],
        ["κ", *(_kappa(row.kappa) for row in rows)],
        ["verdict", *(_verdict(row) for row in rows)],
    ]
    if all(math.isnan(row.kappa) for row in rows):
        del columns[-2]
    # What a narrow line has no room for: shapes, where the index says as much, and what merely explains.
    for spare in ("shape", "κ", "worst at"):
        widths = [max(map(len, column)) for column in columns]
        if sum(widths) + 2 * len(widths) > line_width():
            columns = [column for column in columns if column[0] != spare]
    widths = [max(map(len, column)) for column in columns]
    numbers = ("error", "analytic", "reference", "κ")
    aligned = [
        [f"{text:>{width}}" if column[0] in numbers else f"{text:<{width}}" for text in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    texts = ["  ".join(line) for line in zip(*aligned, strict=True)]
    titles = ["tensor", *(row.title for row in rows)]
    room = line_width() - 2 - max(map(len, texts))
    width = max((len(title) for title in titles if len(title) <= room), default=0)
    lines = []
    for title, text in zip(titles, texts, strict=True):
        if len(title) > room:
            lines.append(shortened(title))
            title = ""
        lines.append(f"{title:<{width}}  {text}".rstrip())
    return lines


def _verdict(row: Row) -> str:
    parts = [row.verdict, f"({row.digits} digits)" if row.verdict == OK else "", row.note]
    return " ".join(filter(None, parts))


def shortened(text: str, width: int = 0) -> str:
    """Return a text of at most so many letters, those of a line where left out, the middle of a longer one left out.

    Examples
    --------
    >>> shortened("encoder.layers.weight_hh", 15)
    'encoder...ht_hh'
    """
    width = width or line_width()
    if len(text) <= width:
        return text
    kept = width - 3
    return f"{text[: kept - kept // 2 + 1]}...{text[len(text) - kept // 2 + 1 :]}"


def _kappa(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if value < 1e4 else f"{value:.0e}"


def _wrapped(head: str, text: str) -> list[str]:
    indent, width = " " * len(head), line_width()
    return textwrap.wrap(f"{head}{text}", width, subsequent_indent=indent, break_on_hyphens=False) or [head.rstrip()]


def _json(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_json(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value


# ---------------------------------------------------------------------------------------------- verdicts on tensors


Gates = Mapping[str, list[tuple[str, slice]]]


@dataclass
class Findings:
    """What a comparison found: rows, the reference that they were compared with, and more for the report."""

    method: str
    rows: list[Row]
    reference: dict[str, Array]
    trials: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kinks: list[Any] = field(default_factory=list)
    growth: float = math.nan
    # Of arrays of which some entries alone were looked at, which: an index for each axis.
    sample: dict[str, tuple[Array, ...]] = field(default_factory=dict)

    def add(self, name: str, text: str, ok: bool, value: Any) -> None:
        """Add a further test."""
        self.trials.append(Check(name, text, ok, value))


def rows_of(
    name: str,
    gates: Gates,
    analytic: Array,
    reference: Array,
    allowed: Array,
    *,
    kappa: Array | None = None,
    scale: Array | None = None,
    note: str = "",
) -> list[Row]:
    """Return a row for each gate's rows of a tensor, or one for all of it.

    `allowed` is how far each entry may be off, `kappa` how much cancels in it, and `scale` what its error is told
    relative to, the block's largest reference where left out.
    """
    blocks: list[tuple[str | None, Any]] = list(gates.get(name, [])) or [(None, ...)]
    rows = []
    for gate, part in blocks:
        scales = None if scale is None else scale[part]
        block = analytic[part]
        index, error, bound, verdict = judged(block, reference[part], allowed[part], scales)
        at = index if gate is None or not index else (index[0] + part.start, *index[1:])
        value, truth = (float(analytic[at]), float(reference[at])) if block.size else (0.0, 0.0)
        cancels = math.nan if kappa is None or not block.size else float(kappa[at])
        rows.append(Row(name, gate, block.shape, error, at, value, truth, cancels, bound, verdict, note))
    return rows


def judged(
    analytic: Array, reference: Array, allowed: Array, scale: Array | None = None
) -> tuple[tuple[int, ...], float, float, str]:
    """Judge one block: return the index of the entry that is furthest off, measured against what it is allowed, the
    largest error relative to `scale`, what is allowed at that index, relative likewise, and the verdict.

    Examples
    --------
    >>> judged(np.array([1.0, 2.5]), np.array([1.0, 2.0]), np.array([0.1, 0.1]))
    ((1,), 0.25, 0.05, 'WRONG')
    """
    if not analytic.size:
        return (), 0.0, 0.0, OK
    bad = ~np.isfinite(analytic)
    if bad.any():
        return _position(bad), math.nan, 0.0, WRONG
    if scale is None:
        scale = np.full(reference.shape, float(np.abs(reference).max()))
    with np.errstate(over="ignore"):
        distance = np.minimum(np.abs(analytic - reference), np.finfo(np.float64).max)
        relative = np.divide(distance, scale, out=np.where(distance > 0, np.inf, 0.0), where=scale > 0)
        bounds = np.divide(allowed, scale, out=np.zeros(reference.shape), where=scale > 0)
        excess = np.divide(distance, allowed, out=np.where(distance > 0, np.inf, 0.0), where=allowed > 0)
    # Among entries that are allowed nothing, the one that is furthest off.
    worst = excess if np.isfinite(excess).all() else np.where(np.isinf(excess), 1 + distance / distance.max(), 0)
    index = _position(worst)
    return index, float(relative.max()), float(bounds[index]), OK if excess.max() <= 1 else WRONG


def undecided(row: Row) -> Row:
    """Return a row as one that was not decided."""
    return dataclasses.replace(row, verdict=UNDECIDED)


def not_looked_at(name: str, shape: tuple[int, ...]) -> Row:
    """Return the row of an array for which there was no time."""
    none = math.nan
    return Row(name, None, shape, none, (), none, none, none, none, UNDECIDED, "not looked at")


def step_scales(gradient: Array) -> Array:
    """Return, for each entry of an array over time, the largest entry of its step and sequence: early steps, where a
    gradient has vanished, are not judged by late ones.
    """
    scales: Array = np.abs(gradient).max(axis=-1, keepdims=True, initial=0.0) * np.ones_like(gradient)
    return scales


def kappas(gradient: Array, absolute: Array) -> Array:
    """Return the sum of absolute contributions over the absolute value of their sum, NaN where that is 0."""
    with np.errstate(over="ignore"):
        ratios: Array = np.divide(absolute, np.abs(gradient), out=np.full(gradient.shape, np.nan), where=gradient != 0)
    return ratios


def _position(values: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
