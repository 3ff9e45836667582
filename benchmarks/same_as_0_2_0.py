"""Does everything come out as in version 0.2.0, bit for bit? `python -m benchmarks.same_as_0_2_0`.

Layers and calls are drawn by chance (`benchmarks.configurations`) and run with 0.2.0 and with the working tree, each in
a process of its own with the same NumPy. Compared are the weights drawn, outputs and states of inference and of
forward, masks, every array of the trace before and after backward and half-way through it, every gradient (also added
to others, and step by step), and forward mode: dtype, shape and bytes.

What differs is listed. Of a gradient that differs both errors against the complex step are told, at the entries that
differ most and at others. A difference that is meant stands in `ALLOWED`, with its reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables, versions
from benchmarks.configurations import KINDS, Configuration, derivatives, draw, results
from benchmarks.contenders import OURS
from benchmarks.measure import machine, source_digest
from benchmarks.train_step import positive
from benchmarks.versions import OLD
from benchmarks.worker import Server, Worker, WorkerError

Array = NDArray[Any]
Facts = list[list[Any]]  # of each array: name, dtype, shape, digest

CONFIGURATIONS = 300
MOST, ANYWHERE = 8, 8  # entries of a gradient held against the complex step: those that differ most, and any
SHOWN = 40  # lines of differences; the file has all
WIDTH = 100
VALUES = "values"


@dataclass(frozen=True)
class Allowed:
    """Differences that are meant.

    Parameters
    ----------
    kinds, arrays : str
        Patterns, as of file names, of kinds of layers and of arrays: "LSTM*", "*grads/weight_ih_*".
    what : str
        Pattern of what differs: "values", "shape *", "only in *", ...
    bound : float
        Of values, the largest difference as a share of the tensor's largest entry.
    reason : str
        As under "Numerical changes" in CHANGELOG.md.
    dtype : str
        Pattern of the layer's.
    long : bool
        Only of sequences that take the engine several blocks of steps.
    below : bool
        Only what comes after the gradient of a layer's input: arrays of layers below the last, final gradients of all.
    gaps : bool
        Only of one sequence, or of several lengths: da lies step by step then, its blocks with gaps between them.
    """

    kinds: str
    arrays: str
    what: str
    bound: float
    reason: str
    dtype: str = "*"
    long: bool = False
    below: bool = False
    gaps: bool = False

    def covers(self, difference: Difference) -> bool:
        """Return whether a difference is one of these."""
        return (
            fnmatch.fnmatchcase(difference.kind, self.kinds)
            and fnmatch.fnmatchcase(difference.array, self.arrays)
            and fnmatch.fnmatchcase(difference.what, self.what)
            and fnmatch.fnmatchcase(difference.dtype, self.dtype)
            and (difference.long or not self.long)
            and (difference.below or not self.below)
            and (difference.gaps or not self.gaps)
            and (difference.what != VALUES or difference.share <= self.bound)
        )


_DX = "dx is a product for each block of steps"
_BELOW = "what a layer below reads of that dx"
_SUMS = "sums over t are products of blocks of da as they lie"
ALLOWED = (
    Allowed("*", "*/dx*", VALUES, 2.4e-7, _DX, "float32", long=True),
    Allowed("*", "*/dx*", VALUES, 4.5e-16, _DX, "float64", long=True),
    Allowed("*", "*/d*", VALUES, 2e-6, _BELOW, "float32", long=True, below=True),
    Allowed("*", "*/d*", VALUES, 4e-15, _BELOW, "float64", long=True, below=True),
    Allowed("*", "*/grads/*", VALUES, 2e-6, _BELOW, "float32", long=True, below=True),
    Allowed("*", "*/grads/*", VALUES, 4e-15, _BELOW, "float64", long=True, below=True),
    Allowed("*", "*/grads/weight_*", VALUES, 2e-6, _SUMS, "float32", gaps=True),
    Allowed("*", "*/grads/weight_*", VALUES, 4e-15, _SUMS, "*", gaps=True),
)


@dataclass(frozen=True)
class Difference:
    """An array that differs.

    Parameters
    ----------
    number : int
        Of the configuration.
    kind, array : str
    what : str
        "values", or in words what else.
    entries, of : int
        How many differ, of how many.
    ulps : int or None
        The largest difference in units of the last place: how many floating-point numbers lie between. None where it
        is not a number on one side alone.
    share : float
        The largest difference relative to the largest entry.
    errors : tuple of float, or None
        Of a gradient, the largest errors of 0.2.0 and of the working tree against the complex step, relative to the
        largest entry.
    dtype : str
    long, below, gaps : bool
        See `Allowed`.
    """

    number: int
    kind: str
    array: str
    what: str
    entries: int = 0
    of: int = 0
    ulps: int | None = None
    share: float = 0.0
    errors: tuple[float, float] | None = None
    dtype: str = ""
    long: bool = False
    below: bool = False
    gaps: bool = False

    @property
    def reason(self) -> str | None:
        """Why it may differ; None where it may not."""
        return next((allowed.reason for allowed in ALLOWED if allowed.covers(self)), None)


# ------------------------------------------------------------------------------------------------------- one process


class ConfigurationServer(Server):
    """The side of one version: runs configurations, keeps the arrays of the latest."""

    def run(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of all arrays of a configuration, or the error that it ended with."""
        self.arrays: dict[str, Array] = {}
        try:
            self.arrays = results(Configuration.from_json(configuration))
        except Exception as error:  # a configuration that does not run any more is a difference like others
            return {"raised": f"{type(error).__name__}: {error}"}
        return {"facts": facts(self.arrays)}

    def save(self, names: list[str], path: str) -> None:
        """Save some of the arrays as an .npz file."""
        np.savez(path, **{name: self.arrays[name] for name in names})  # type: ignore[arg-type]

    def derive(self, configuration: dict[str, Any], places: dict[str, list[int]]) -> dict[str, list[float]]:
        """Return derivatives by the complex step; see `derivatives`."""
        return derivatives(Configuration.from_json(configuration), places)


def new_server(name: str) -> Server:
    """Return the server of a side."""
    return ConfigurationServer(versions.contender(name))


def facts(arrays: Mapping[str, Array]) -> Facts:
    """Return name, dtype, shape and a digest of the bytes of arrays, in their order."""
    return [
        [name, str(array.dtype), list(array.shape), hashlib.blake2b(np.ascontiguousarray(array).data).hexdigest()]
        for name, array in arrays.items()
    ]


# -------------------------------------------------------------------------------------------------------- comparing


def measured(old: Array, new: Array) -> tuple[int, int | None, float]:
    """Return how many entries differ, by how many units of the last place, and how much relative to the largest entry.

    Parameters
    ----------
    old, new : ndarray
        Of one dtype and shape, not equal bit for bit.

    Examples
    --------
    >>> measured(np.array([1.0, 4.0]), np.array([1.0 + 2**-51, 4.0]))
    (1, 2, 1.1102230246251565e-16)
    >>> measured(np.array([0.0, 4.0]), np.array([-0.0, 4.0]))  # next to each other, and equal
    (1, 1, 0.0)
    """
    if old.dtype.kind not in "fc":
        return int(np.count_nonzero(old != new)), None, np.inf
    parts = [np.ascontiguousarray(array).reshape(-1).view(array.real.dtype) for array in (old, new)]
    raw = [part.view(f"u{part.dtype.itemsize}") for part in parts]
    unequal = (raw[0] != raw[1]).reshape(-1, 2 if old.dtype.kind == "c" else 1).any(axis=1)
    finite = np.isfinite(parts[0]) & np.isfinite(parts[1])
    same = (raw[0] == raw[1]) | (np.isnan(parts[0]) & np.isnan(parts[1]))
    a, b = map(_placed, raw)
    distance = np.where(a > b, a - b, b - a)
    ulps = None if np.any(np.isnan(parts[0]) != np.isnan(parts[1])) else int(distance[~same].max(initial=0))
    if np.any(~finite & ~same):
        return int(unequal.sum()), ulps, np.inf
    # In units of the largest entry: nothing overflows.
    largest = float(np.abs(parts[0][finite]).max(initial=0.0))
    if largest == 0:
        return int(unequal.sum()), ulps, np.inf if np.any(parts[1][finite]) else 0.0
    share = np.abs(parts[1][finite] / largest - parts[0][finite] / largest).max(initial=0.0)
    return int(unequal.sum()), ulps, float(share)


def _placed(raw: Array) -> Array:
    """Return unsigned integers that are ordered as the floating-point numbers are of which `raw` are the bits."""
    sign = np.array(1, raw.dtype) << np.array(8 * raw.dtype.itemsize - 1, raw.dtype)
    placed: Array = np.where(raw & sign, ~raw, raw | sign)
    return placed


def differing(configuration: Configuration, old: Facts, new: Facts) -> tuple[list[Difference], list[str]]:
    """Return what facts alone show, and the names of arrays whose bytes differ."""

    def said(name: str, what: str) -> Difference:
        return Difference(configuration.number, configuration.kind, name, what)

    ours, theirs = ({name: rest for name, *rest in given} for given in (new, old))
    found = [said(name, f"only in {OLD}") for name in theirs if name not in ours]
    found += [said(name, "only in the working tree") for name in ours if name not in theirs]
    both = [name for name in theirs if name in ours]
    moved = [name for name, other in zip(both, filter(theirs.__contains__, ours), strict=True) if name != other]
    found += [said(moved[0], "order of arrays")] if moved else []
    changed: list[str] = []
    for name in both:
        for title, mine, other in zip(("dtype", "shape"), ours[name], theirs[name], strict=False):
            if mine != other:
                found.append(said(name, f"{title} {mine}, not {other}"))
        if ours[name][:2] == theirs[name][:2] and ours[name][2] != theirs[name][2]:
            changed.append(name)
    return found, changed


def compare(configuration: Configuration, workers: Mapping[str, Worker]) -> tuple[list[Difference], int, int]:
    """Run a configuration on both sides; return what differs, and the numbers of arrays and of entries compared.

    Raises
    ------
    WorkerError
        0.2.0 cannot run it.
    """
    given = configuration.to_json()
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda worker: worker.ask("run", configuration=given), workers.values())
        told = dict(zip(workers, answers, strict=True))
    if "raised" in told[OLD]:
        raise WorkerError(f"{OLD} cannot run configuration {configuration}: {told[OLD]['raised']}")
    if "raised" in told[OURS]:
        what = f"raised {told[OURS]['raised']}"
        return [Difference(configuration.number, configuration.kind, "-", what)], 0, 0
    found, changed = differing(configuration, told[OLD]["facts"], told[OURS]["facts"])
    if changed:
        old, new = (_fetched(workers[name], changed) for name in (OLD, OURS))
        for name in changed:
            entries, ulps, share = measured(old[name], new[name])
            one = Difference(
                configuration.number, configuration.kind, name, VALUES, entries, old[name].size, ulps, share,
                dtype=configuration.dtype, long=configuration.blocks > 1, below=_below(configuration, name),
                gaps=configuration.gaps,
            )  # fmt: skip
            found.append(one)
        found = _judged(configuration, found, old, new, workers[OLD])
    return found, len(told[OLD]["facts"]), sum(int(np.prod(shape)) for _, _, shape, _ in told[OLD]["facts"])


def _below(configuration: Configuration, name: str) -> bool:
    """Return whether an array may have something of what the last layer hands down."""
    last = configuration.options.get("num_layers", 1) - 1
    layer = re.search(r"(?:^|[/_])l(\d+)", name)
    return last > 0 and (layer is None or int(layer[1]) < last)


def _fetched(worker: Worker, names: list[str]) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        worker.ask("save", names=names, path=str(path))
        with np.load(path) as archive:
            return dict(archive)


def _judged(
    configuration: Configuration,
    found: list[Difference],
    old: Mapping[str, Array],
    new: Mapping[str, Array],
    worker: Worker,
) -> list[Difference]:
    """Return the differences, those of gradients with both errors against the complex step, where the layer is real."""
    if configuration.dtype == "complex128":
        return found
    # A gradient that went wrong the same way in several passes is looked at in each of them.
    looked = {}
    for difference in found:
        title, _, name = difference.array.partition("/")
        if difference.what == VALUES and title in ("backward", "steps") and old[difference.array].dtype.kind == "f":
            looked[difference.array] = name.removesuffix("/data")
    places: dict[str, list[int]] = {name: [] for name in looked.values()}
    entries = {array: _entries(old[array], new[array]) for array in looked}
    for array, name in looked.items():
        places[name] += entries[array]
    if not places:
        return found
    answers = worker.ask("derive", configuration=configuration.to_json(), places=places)
    references = {name: dict(zip(places[name], values, strict=True)) for name, values in answers.items()}
    errors: dict[str, tuple[float, float]] = {}
    for array, name in looked.items():
        exact = np.array([references[name][entry] for entry in entries[array]])
        largest = float(np.abs(old[array]).max()) or 1.0
        mine, theirs = (
            float(np.abs(side[array].reshape(-1)[entries[array]] - exact).max()) / largest for side in (new, old)
        )
        errors[array] = (theirs, mine)
    return [replace(difference, errors=errors.get(difference.array)) for difference in found]


def _entries(old: Array, new: Array) -> list[int]:
    """Return those entries, counted in C order, that differ most, and some others."""
    apart = np.abs(new.astype(float) - old.astype(float)).reshape(-1)
    most = np.argsort(-apart, kind="stable")[:MOST]
    anywhere = np.random.default_rng(0).integers(apart.size, size=ANYWHERE)
    return [int(entry) for entry in dict.fromkeys([*most, *anywhere])]


# ---------------------------------------------------------------------------------------------------------- telling


@dataclass
class Total:
    """What was compared, of one kind of layer or of all."""

    configurations: int = 0
    arrays: int = 0
    entries: int = 0


def table(totals: Mapping[str, Total], differences: Sequence[Difference]) -> str:
    """Return the table of what was compared, by kind of layer."""
    lines = [f"{'':16}{'configurations':>16}{'arrays':>10}{'entries':>14}{'differ':>9}{'ulps':>12}{'relative':>11}"]
    rows = {**totals, "all": _sum(totals.values())}
    for kind, total in rows.items():
        own = [one for one in differences if kind in ("all", one.kind)]
        worst = max((one.share for one in own), default=0.0)
        ulps = [one.ulps for one in own if one.what == VALUES]
        largest = "-" if not ulps else "nan" if None in ulps else _many(max(filter(None, ulps), default=0))
        lines.append(
            f"{kind:16}{total.configurations:16d}{total.arrays:10d}{total.entries:14d}{len(own):9d}{largest:>12}"
            f"{f'{worst:.1e}' if own else '-':>11}"
        )
    return "\n".join(lines)


def _sum(totals: Any) -> Total:
    total = Total()
    for one in totals:
        total.configurations += one.configurations
        total.arrays += one.arrays
        total.entries += one.entries
    return total


def _many(count: int) -> str:
    return str(count) if count < 10**6 else f"{count:.0e}"


def listed(configurations: Mapping[int, Configuration], differences: Sequence[Difference]) -> str:
    """Return the differences, below each configuration its own, and what may differ with its reason."""
    lines = [f"{'':2}{'array':44}{'entries':>16}{'ulps':>9}{'relative':>10}{'error':>9}{OLD + chr(39) + 's':>9}"]
    last = None
    for one in differences[:SHOWN]:
        if one.number != last:
            lines += textwrap.wrap(str(configurations[one.number]), WIDTH, subsequent_indent="    ")
            last = one.number
        mark = " " if one.reason is None else "~"
        if one.what != VALUES:
            lines += textwrap.wrap(f"{mark} {one.array}: {one.what}", WIDTH, subsequent_indent="    ")
            continue
        theirs, mine = ("-", "-") if one.errors is None else (f"{error:.1e}" for error in one.errors)
        ulps = "nan" if one.ulps is None else _many(one.ulps)
        # A name that is longer than its column has a line to itself.
        lines += [f"{mark} {one.array}"] if len(one.array) > 43 else []
        name = "" if len(one.array) > 43 else one.array
        count = f"{one.entries} of {one.of}"
        lines.append(f"{mark} {name:44}{count:>16}{ulps:>9}{one.share:>10.1e}{mine:>9}{theirs:>9}")
    if len(differences) > SHOWN:
        lines.append(f"and {len(differences) - SHOWN} more; --json FILE has all")
    return "\n".join(lines)


def conclusion(differences: Sequence[Difference]) -> str:
    """Return what it amounts to: which differences have a reason, which have none, and whose errors are larger."""
    bare = [one for one in differences if one.reason is None]
    lines = []
    for allowed in ALLOWED:
        count = sum(allowed.covers(one) for one in differences)
        lines.append(f"{count} arrays may differ: {allowed.kinds}, {allowed.arrays}: {allowed.reason}")
    judged = [one.errors for one in differences if one.errors is not None]
    if judged:
        larger = sum(mine > theirs for theirs, mine in judged)
        smaller = sum(mine < theirs for theirs, mine in judged)
        worst = [max(side) for side in zip(*judged, strict=True)]
        lines.append(
            f"gradients that differ, against the complex step: error larger in {larger}, smaller in {smaller} of "
            f"{len(judged)};"
        )
        lines.append(f"largest {worst[1]:.1e} of the largest entry, {OLD}'s {worst[0]:.1e}")
    if not differences:
        lines.append("all equal, bit for bit")
    elif bare:
        lines.append(f"NOT the same as {OLD}: {len(bare)} arrays differ without a reason")
    else:
        lines.append("equal, but for what has its reason")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- program


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.same_as_0_2_0", description=(__doc__ or "").split("?")[0] + "?"
    )
    made.add_argument(
        "--configurations", type=positive, default=CONFIGURATIONS, metavar="COUNT", help=f"default: {CONFIGURATIONS}"
    )
    made.add_argument("--seed", type=int, default=0, help="of what is drawn; default: 0")
    made.add_argument("--only", nargs="+", type=int, metavar="NUMBER", help="run these configurations alone")
    versions.add_options(made)
    made.add_argument("--json", type=Path, help="write everything to this file")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write; return the exit code: 0 where all is equal, or differs with a reason."""
    options = parser().parse_args(arguments)
    if options.seed < 0 or min(options.only or [0]) < 0:
        parser().error("--seed, --only: numbers from 0 on")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    numbers = list(dict.fromkeys(options.only)) if options.only else list(range(options.configurations))
    configurations = {number: draw(number, options.seed) for number in numbers}
    totals = {kind: Total() for kind in KINDS if any(one.kind == kind for one in configurations.values())}
    differences: list[Difference] = []
    began, state = time.perf_counter(), source_digest()
    try:
        with (
            versions.sources(options.old, options.itself) as trees,
            versions.start(trees, "benchmarks.same_as_0_2_0") as workers,
            tables.progress(len(configurations)) as report,
        ):
            environments = {name: worker.environment for name, worker in workers.items()}
            for done, configuration in enumerate(configurations.values()):
                report(done, configuration.kind)
                found, arrays, entries = compare(configuration, workers)
                differences += found
                total = totals[configuration.kind]
                total.configurations += 1
                total.arrays += arrays
                total.entries += entries
    except (versions.SourceError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run", file=sys.stderr)
        return 1
    print(versions.sides(environments, options.itself))
    print(f"{len(configurations)} configurations, seed {options.seed}, {time.perf_counter() - began:.0f} s\n")
    print(table(totals, differences) + "\n")
    if differences:
        print(listed(configurations, differences) + "\n")
    print(conclusion(differences))
    if options.json is not None:
        document = {
            "options": {"configurations": numbers, "seed": options.seed, "itself": options.itself},
            "machine": machine(),
            "sides": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "totals": {kind: asdict(total) for kind, total in totals.items()},
            "allowed": [asdict(allowed) for allowed in ALLOWED],
            "differences": [{**asdict(one), "reason": one.reason} for one in differences],
            "configurations": [configuration.to_json() for configuration in configurations.values()],
        }
        options.json.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return 1 if any(one.reason is None for one in differences) else 0


if __name__ == "__main__":
    # With a side's name alone this is that side's process.
    if versions.is_worker(sys.argv):
        sys.exit(versions.serve(new_server))
    sys.exit(main())
