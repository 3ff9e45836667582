"""What gradient checkers say of wrong backward passes: `python -m benchmarks.gradcheck_zoo`.

Each specimen of `rnn_numpy.zoo` is handed to each checker as a function of all its parameters, its input and its
initial states, with our backward pass as the derivative; so is the right layer, on the same data. A checker has caught
a mistake if it rejects the wrong layer and accepts the right one. README.md, beside this file, says what each checks.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import missing
from benchmarks.measure import machine
from benchmarks.worker import ROOT, THREAD_VARIABLES, WorkerError
from rnn_numpy import GRU, LSTM, RNN, Recurrent
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.zoo import ZOO, Exhibit, Specimen, Where, specimen

Array = NDArray[Any]
Pull = Callable[[Sequence[Array], Sequence[Array]], list[Array]]

T = 30
SMOKE_T = 12
SMOKE = ("recurrence-transposed", "truncated-window", "bias-hh-ignored", "padding-leaks")

RESULTS = Path(__file__).parent / "results" / "gradcheck_zoo.json"


# ---------------------------------------------------------------------------------------------- what checkers are given


@dataclass(frozen=True)
class Function:
    """A function of arrays and its derivative: what a checker compares.

    Parameters
    ----------
    point : list of ndarray
        Where to differentiate: x, the initial states, the parameters, a memory.
    outputs : callable
        From such a list to the list of outputs.
    pull : callable
        From such a list and the outputs' gradients to the gradients of all inputs: the backward pass in question.
    """

    point: list[Array]
    outputs: Callable[[Sequence[Array]], list[Array]]
    pull: Pull


def functions(shown: Exhibit, layer: Recurrent) -> dict[str, Function]:
    """Return a layer as a function in two forms.

    Parameters
    ----------
    shown : Exhibit
        Gives data, lengths and masks.
    layer : Recurrent
        Is copied: it serves all calls, as a layer does.

    Returns
    -------
    dict of str to Function
        "outputs": to the output and the final states; "loss": to their sum, weighted with doutput and dh_n.
    """
    layer = copy.deepcopy(layer)
    states = len(layer.cell.states)
    names, given = list(layer.params), shown.masks.get("given", {})
    memory = [name for name, array in given.items() if array.dtype == np.float64]

    def single(values: Sequence[Array]) -> Any:
        return values[0] if states == 1 else tuple(values)

    def forward(arrays: Sequence[Array]) -> tuple[list[Array], Any]:
        x, initial, rest = arrays[0], arrays[1 : 1 + states], arrays[1 + states :]
        layer.load_state_dict(dict(zip(names, rest[: len(names)], strict=True)))
        more = dict(shown.masks)
        if memory:
            more["given"] = {**given, **dict(zip(memory, rest[len(names) :], strict=True))}
        output, h_n, trace = layer.forward(x, single(initial), shown.lengths, **more)
        return [output.copy(), *(h_n if isinstance(h_n, tuple) else (h_n,))], trace

    def outputs(arrays: Sequence[Array]) -> list[Array]:
        return forward(arrays)[0]

    def pull(arrays: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
        _, trace = forward(arrays)
        back = layer.backward(trace, cotangents[0], single(cotangents[1:]))
        initial = [getattr(back, f"d{state}_0") for state in layer.cell.states]
        return [back.dx, *initial, *back.grads.values(), *(back.dgiven[name] for name in memory)]

    dfinals = shown.dh_n if isinstance(shown.dh_n, tuple) else (shown.dh_n,)
    weights = [shown.doutput, *dfinals]

    def loss(arrays: Sequence[Array]) -> list[Array]:
        return [np.array(sum(np.sum(w * value) for w, value in zip(weights, outputs(arrays), strict=True)))]

    def pull_loss(arrays: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
        return pull(arrays, [w * cotangents[0] for w in weights])

    initial = shown.h_0 if isinstance(shown.h_0, tuple) else (shown.h_0,)
    arrays = (shown.x, *initial, *layer.params.values(), *(given[name] for name in memory))
    point = [np.array(array) for array in arrays]
    return {"outputs": Function(point, outputs, pull), "loss": Function(point, loss, pull_loss)}


# ------------------------------------------------------------------------------------------------------- the checkers

# A checker says of a function: None for "right", or its message.
Check = Callable[[Function], str | None]


def torch_check(fast: bool) -> Check:
    """Return torch.autograd.gradcheck with its default tolerances, of a torch.autograd.Function around ours."""
    import torch
    from torch.autograd.gradcheck import GradcheckError, gradcheck

    torch.set_num_threads(1)

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, function: Function, *inputs: Any) -> Any:
            ctx.function = function
            ctx.save_for_backward(*inputs)
            return tuple(torch.from_numpy(array) for array in function.outputs([one.numpy() for one in inputs]))

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *gradients: Any) -> Any:
            arrays = [one.detach().numpy() for one in ctx.saved_tensors]
            found = ctx.function.pull(arrays, [one.numpy() for one in gradients])
            return (None, *(torch.from_numpy(np.ascontiguousarray(array)) for array in found))

    def check(function: Function) -> str | None:
        inputs = [torch.from_numpy(array.copy()).requires_grad_() for array in function.point]
        try:
            gradcheck(lambda *arrays: Op.apply(function, *arrays), inputs, fast_mode=fast)
        except GradcheckError as error:
            return str(error)
        return None

    return check


def jax_check() -> Check:
    """Return jax.test_util.check_grads (order 1, reverse mode, float64), of a jax.custom_vjp around ours."""
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)

    def shapes(arrays: Sequence[Array]) -> tuple[Any, ...]:
        return tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)

    def wrapped(function: Function) -> Callable[..., Any]:
        into, out = shapes(function.point), shapes(function.outputs(function.point))

        @jax.custom_vjp
        def call(*arrays: Any) -> Any:
            return jax.pure_callback(lambda *given: tuple(function.outputs(_arrays(given))), out, *arrays)

        def pull(saved: tuple[Any, ...], cotangents: tuple[Any, ...]) -> Any:
            def host(*given: Any) -> tuple[Array, ...]:
                every = _arrays(given)
                return tuple(function.pull(every[: len(into)], every[len(into) :]))

            return jax.pure_callback(host, into, *saved, *cotangents)

        call.defvjp(lambda *arrays: (call(*arrays), arrays), pull)
        return call

    def check(function: Function) -> str | None:
        try:
            check_grads(wrapped(function), tuple(map(jax.numpy.asarray, function.point)), order=1, modes=("rev",))
        except AssertionError as error:
            return str(error)
        return None

    return check


def _arrays(given: Sequence[Any]) -> list[Array]:
    """Return writable copies: what JAX hands in is its own memory."""
    return [np.array(one) for one in given]


def autograd_check() -> Check:
    """Return the rule of HIPS autograd, written anew.

    For each input one random direction and one random weighting of the outputs; the two numbers must agree to 1e-6,
    absolute or relative. Central difference with a step of 1e-6.
    """
    epsilon = tolerance = 1e-6

    def check(function: Function) -> str | None:
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=array.shape) for array in function.outputs(function.point)]
        gradients = function.pull(function.point, [weight.copy() for weight in weights])
        for index, (array, gradient) in enumerate(zip(function.point, gradients, strict=True)):
            direction = rng.normal(size=array.shape)
            values = []
            for side in (0.5, -0.5):
                arrays = list(function.point)
                arrays[index] = array + side * epsilon * direction
                found = function.outputs(arrays)
                values.append(sum(np.sum(w * value) for w, value in zip(weights, found, strict=True)))
            numeric, exact = (values[0] - values[1]) / epsilon, np.sum(gradient * direction)
            error = abs(numeric - exact)
            if not (error < tolerance or error / abs(numeric + exact) < tolerance):
                return f"input {index}: {exact} and {numeric}"
        return None

    return check


def plain_check() -> Check:
    """Return the check that courses teach: central differences entry by entry, 1e-7 of the tensor's largest entry."""
    step, tolerance = 1e-5, 1e-7

    def check(function: Function) -> str | None:
        outputs = function.outputs(function.point)
        rng = np.random.default_rng(0)
        # Of a loss this is the loss; of several outputs, a weighted sum.
        weights = [np.array(1.0) if array.ndim == 0 else rng.normal(size=array.shape) for array in outputs]
        gradients = function.pull(function.point, [weight.copy() for weight in weights])
        arrays = [array.copy() for array in function.point]
        for index, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            numeric = np.zeros(array.shape)
            for place in np.ndindex(array.shape):
                value, sides = array[place], []
                for moved in (value + step, value - step):
                    array[place] = moved
                    found = function.outputs(arrays)
                    sides.append(sum(np.sum(w * one) for w, one in zip(weights, found, strict=True)))
                array[place] = value
                numeric[place] = (sides[0] - sides[1]) / (2 * step)
            error = np.max(np.abs(gradient - numeric)) / max(np.max(np.abs(numeric)), np.finfo(float).tiny)
            if not error <= tolerance:
                return f"input {index}: relative error {error}"
        return None

    return check


def ours(shown: Exhibit, layer: Recurrent) -> tuple[str | None, str | None]:
    """Return what `rnn_numpy.checks.gradcheck` says: None for "right", or its report, and the kind of its diagnosis.

    Here is the one place that knows how our own checker is called.
    """
    from rnn_numpy.checks import gradcheck  # type: ignore[attr-defined,unused-ignore]

    loss = {"doutput": shown.doutput, "dh_n": shown.dh_n}
    report = gradcheck(copy.deepcopy(layer), shown.x, shown.h_0, shown.lengths, **loss, **shown.masks)
    if report.ok:
        return None, None
    return str(report), None if report.diagnosis is None else str(report.diagnosis.kind)


# In each process the checkers of one library; of torch and jax both forms are checked, of the others the loss.
LIBRARIES: dict[str, dict[str, Callable[[], Check]]] = {
    "torch": {"torch": lambda: torch_check(False), "fast": lambda: torch_check(True)},
    "jax": {"jax": jax_check},
    "numpy": {"autograd": autograd_check, "plain": plain_check},
    "rnn_numpy": {"ours": lambda: lambda function: None},
}
RIVALS = tuple(name for checks in LIBRARIES.values() for name in checks)
FORMS = ("loss", "outputs")
BOTH_FORMS = ("torch", "fast", "jax")

# What each says of layers that are right; by the specimens' data alone one would not know of options that need none.
CONTROLS = tuple(
    Specimen(f"right-{kind.__name__.lower()}", kind, "sign", Where((), "loop"), options=options)
    for kind, options in ((RNN, {}), (LSTM, {}), (GRU, {}), (AttentionRNN, {}), (AttentionLSTM, {}), (AttentionGRU, {}))
)


@dataclass(frozen=True)
class Verdict:
    """What one checker says of one specimen.

    Parameters
    ----------
    name : str
        Of the specimen.
    rival : str
    wrong, right : dict of str to str or None
        By form, the message about the wrong layer and about the right one; None where the checker accepts it. Forms
        after the one that caught the mistake are left out.
    seconds : float
        For the wrong layer.
    kind : str, optional
        Our diagnosis.
    """

    name: str
    rival: str
    wrong: dict[str, str | None]
    right: dict[str, str | None]
    seconds: float
    kind: str | None = None

    @property
    def word(self) -> str:
        """ "caught", "missed", or "?": it rejects the right layer as well, so that its word means nothing."""
        fair = [form for form, message in self.right.items() if message is None]
        if not fair:
            return "?"
        return "caught" if any(self.wrong[form] is not None for form in fair) else "missed"


class Judge:
    """One checker, asked about one specimen after the other.

    Parameters
    ----------
    rival : str
    check : callable
    steps : int
        T.
    """

    def __init__(self, rival: str, check: Check, steps: int) -> None:
        self.rival, self.check, self.steps = rival, check, steps
        # Specimens of one family with the same needs have the same right layer and the same data.
        self._right: dict[tuple[Any, ...], str | None] = {}

    def verdict(self, animal: Specimen) -> Verdict:
        """Ask about a specimen: form by form, until it rejects the wrong layer and accepts the right one."""
        shown = animal.exhibit(self.steps)
        same = animal.parent, tuple(animal.options.items()), animal.needs
        wrong: dict[str, str | None] = {}
        right: dict[str, str | None] = {}
        kind, seconds = None, 0.0
        for form in FORMS if self.rival in BOTH_FORMS else FORMS[:1]:
            began = time.perf_counter()
            wrong[form], kind = self._said(shown, shown.layer, form)
            seconds += time.perf_counter() - began
            if (form, *same) not in self._right:
                self._right[form, *same], _ = self._said(shown, shown.right, form)
            right[form] = self._right[form, *same]
            if wrong[form] is not None and right[form] is None:
                break
        return Verdict(animal.name, self.rival, wrong, right, round(seconds, 3), kind)

    def _said(self, shown: Exhibit, layer: Recurrent, form: str) -> tuple[str | None, str | None]:
        if self.rival == "ours":
            return ours(shown, layer)
        return self.check(functions(shown, layer)[form]), None


# ------------------------------------------------------------------------------------------------------- the processes


def serve(library: str, names: Sequence[str], steps: int) -> Iterator[Verdict]:
    """Judge specimens with the checkers of one library: what a worker process does."""
    judges = [Judge(name, make(), steps) for name, make in LIBRARIES[library].items()]
    with np.errstate(all="ignore"):
        for name in names:
            animal = next((one for one in CONTROLS if one.name == name), None) or specimen(name)
            for judge in judges:
                yield judge.verdict(animal)


def ask(library: str, names: Sequence[str], steps: int) -> list[Verdict]:
    """Return the verdicts of a library's checkers, from a process of its own with one thread.

    Raises
    ------
    WorkerError
        It ends with an error.
    """
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    command = [sys.executable, "-m", "benchmarks.gradcheck_zoo", "--worker", library, "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--specimens", *names], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise WorkerError(f"the process of {library} ended with exit code {done.returncode}")
    return [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]


def has_ours() -> bool:
    """Whether this package has a checker of its own."""
    with contextlib.suppress(ImportError):
        from rnn_numpy.checks import gradcheck  # type: ignore[attr-defined,unused-ignore]  # noqa: F401

        return True
    return False


# ----------------------------------------------------------------------------------------------------------- the table

MARKS = {"caught": "+", "missed": "-", "?": "?"}
LEGEND = "+ caught   - missed   ? rejects the right layer as well   . not asked\nHIPS: the rule of HIPS/autograd"


def rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return the cells of the table: name, cell, a mark for each checker, our diagnosis."""
    by_name: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.name, {})[verdict.rival] = verdict
    found = []
    for animal in ZOO:
        said = by_name.get(animal.name, {})
        marks = [MARKS[said[rival].word] if rival in said else "." for rival in RIVALS]
        mine = said.get("ours")
        diagnosis = "" if mine is None else mine.kind or "none"
        if said:
            found.append([animal.name, animal.cell, *marks, diagnosis])
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as text of at most 100 columns."""
    titles = {"torch": 6, "fast": 5, "jax": 4, "HIPS": 5, "plain": 6, "ours": 5}
    head = f"{'specimen':31}{'cell':>5}" + "".join(f"{title:>{width}}" for title, width in titles.items())
    lines = [f"{head}  our diagnosis"]
    for name, cell, *marks, diagnosis in rows(verdicts):
        line = f"{name:31}{cell:>5}"
        for mark, width in zip(marks, titles.values(), strict=True):
            line += f"{mark:>{width}}"
        lines.append(f"{line}  {diagnosis}".rstrip())
    return "\n".join([*lines, "", LEGEND])


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a table for README.md."""
    lines = ["| specimen | cell | torch | torch fast | jax | autograd's rule | plain 1e-7 | ours | our diagnosis |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    lines += [f"| {' | '.join(row)} |" for row in rows(verdicts)]
    return "\n".join(lines)


def totals(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """Return how many specimens each checker caught and missed, and of how many it can say nothing."""
    return {
        rival: dict(Counter(one.word for one in verdicts if one.rival == rival and not one.name.startswith("right-")))
        for rival in RIVALS
    }


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """Return the totals in words."""
    lines = []
    for rival, counts in totals(verdicts).items():
        if counts:
            parts = [f"{counts.get(word, 0)} {words}" for word, words in (("caught", "caught"), ("missed", "missed"))]
            lines.append(f"{rival:9}{', '.join(parts)}, {counts.get('?', 0)} without a verdict")
    mine = [one for one in verdicts if one.rival == "ours" and not one.name.startswith("right-")]
    if mine:
        pairs = [(one.kind, specimen(one.name)) for one in mine]
        named = sum(kind in (animal.diagnosis, *animal.also) for kind, animal in pairs)
        placed = sum(
            kind not in (None, animal.diagnosis, *animal.also) and kind == animal.place for kind, animal in pairs
        )
        lines.append(f"our diagnosis names the mistake of {named} of {len(mine)}, and the place alone of {placed} more")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.gradcheck_zoo", description=(__doc__ or "").split(":")[0])
    every = [*(one.name for one in CONTROLS), *(one.name for one in ZOO)]
    made.add_argument("--specimens", nargs="+", choices=every, metavar="NAME", help="default: all")
    made.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), help="default: all that are there")
    made.add_argument("--steps", type=int, default=None, metavar="T", help=f"default: {T}")
    made.add_argument("--json", type=Path, help="write everything to this file")
    made.add_argument("--markdown", action="store_true", help="print the table as README.md has it, from the results")
    made.add_argument("--smoke", action="store_true", help=f"{len(SMOKE)} specimens, T = {SMOKE_T}: does it work?")
    made.add_argument("--worker", choices=list(LIBRARIES), help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print, write; return the exit code: 1 where a checker rejects a layer that is right."""
    options = parser().parse_args(arguments)
    if options.markdown:
        document = json.loads((options.json or RESULTS).read_text())
        fields = [field.name for field in dataclasses.fields(Verdict)]
        print(markdown([Verdict(**{name: one[name] for name in fields}) for one in document["verdicts"]]))
        return 0
    steps = options.steps or (SMOKE_T if options.smoke else T)
    names = options.specimens or (SMOKE if options.smoke else [one.name for one in ZOO])
    if options.worker:
        for verdict in serve(options.worker, names, steps):
            print(json.dumps(asdict(verdict)), flush=True)
        return 0
    verdicts: list[Verdict] = []
    began = time.perf_counter()
    for library in options.libraries or LIBRARIES:
        if (library == "rnn_numpy" and not has_ours()) or missing(library):
            print(f"left out, {library}: not there")
            continue
        print(f"{library} ...", file=sys.stderr, flush=True)
        try:
            verdicts += ask(library, [*(one.name for one in CONTROLS), *names], steps)
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(f"T = {steps}, N = 2, D = 3, H = 4 (32 where many units are needed)\n\n{table(verdicts)}\n")
    print(conclusion(verdicts))
    if options.json is not None:
        document = {
            "steps": steps,
            "machine": machine(),
            "seconds": round(time.perf_counter() - began, 1),
            "specimens": {
                one.name: {"mistake": one.mistake, "origin": one.origin, "diagnosis": one.diagnosis, "also": one.also}
                for one in ZOO
            },
            "totals": totals(verdicts),
            "verdicts": [asdict(one) | {"word": one.word} for one in _shortened(verdicts)],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    controls = [one for one in _shortened(verdicts) if one.name.startswith("right-") and one.word != "missed"]
    for one in controls:
        print(f"error: {one.rival} rejects {one.name}, which is right: {one.right}", file=sys.stderr)
    return 1 if controls else 0


def _shortened(verdicts: Sequence[Verdict], length: int = 200) -> Iterator[Verdict]:
    """Yield the verdicts with the beginnings of their messages: torch prints whole matrices."""

    def short(said: dict[str, str | None]) -> dict[str, str | None]:
        return {form: None if message is None else message[:length] for form, message in said.items()}

    for one in verdicts:
        yield Verdict(one.name, one.rival, short(one.wrong), short(one.right), one.seconds, one.kind)


if __name__ == "__main__":
    sys.exit(main())
