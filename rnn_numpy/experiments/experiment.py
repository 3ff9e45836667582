"""What `rnn-numpy train` runs: an experiment in a folder, which may be stopped at any moment and taken up again.

An `Experiment` names its options and says what is trained; `run_experiment` trains it. In the folder are then

    config.json     name, options, versions, and what the data gave (`kept`); written first: it marks a folder as ours
    LABEL.npz       a checkpoint for each training, of its last update; the configuration stands in there as well
    report.txt, figure.png      written by `pages`, which the command hands in (they are a matter of the room report)
    numbers.json    strict JSON; written last: it marks a finished run

A run taken up again gives bit for bit what an uninterrupted one gives, but for times, on one machine with one number of
BLAS threads: everything random comes from generators that are in the checkpoint, and what depends on the clock (when a
checkpoint is saved) changes no number. So `models` and `trainings` must draw from generators seeded by the options
alone, `validate` from none that training uses. Ctrl-C and SIGTERM wait for the update and the validation under way,
save, and raise `Interrupted`; a second one does not wait, and the last checkpoint stays. What is saved after update k
includes the validation due after update k.

The parameters that `result` and `predict` see are those of the best validation; the checkpoint has the last ones, to go
on from, and the best. `models` and `predict` must do with `options` and `kept`: whoever predicts need not have the
data. Where the data has changed, `kept` has too (put a digest in it), and the run is refused.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Protocol

import numpy as np

from rnn_numpy.core.files import remove_stale, replacing
from rnn_numpy.errors import DataError, NonFiniteError, OptionError, RNNNumpyError
from rnn_numpy.experiments.gradflow import versions
from rnn_numpy.experiments.progress import Progress
from rnn_numpy.training.checkpoint import load_checkpoint, save_checkpoint
from rnn_numpy.training.loop import Training
from rnn_numpy.training.stopping import Best, Patience

CONFIG, NUMBERS, REPORT, FIGURE = "config.json", "numbers.json", "report.txt", "figure.png"
SAVE_SECONDS = 10.0  # between two checkpoints


class Result(Protocol):
    """What an experiment has found; the room report has words and a figure for it."""

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        ...


@dataclass(frozen=True)
class Planned:
    """A training and the number of its updates; the label, unlike the others', names its file: "seed 0", say."""

    label: str
    training: Training
    updates: int


@dataclass
class Run:
    """What has become of a planned training.

    Attributes
    ----------
    label : str
    training : Training
        `training.history` has the numbers of all updates and validations; its model has the parameters of the best
        validation, once the run has ended.
    updates : int
        Planned ones.
    best : Best
    patience : Patience or None
    cpu_seconds : float
        Of updates and validations, in all sittings.
    ended : bool
    notes : list of str
        Of what there was another version when it was taken up again: then the last bits may be other ones.
    """

    label: str
    training: Training
    updates: int
    best: Best
    patience: Patience | None
    cpu_seconds: float = 0.0
    ended: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def best_update(self) -> int:
        """The update after which validation was best; 0 if none was better than NaN."""
        checked = self.training.history.validations
        return int(
            next((update for update, value in zip(*checked.values(), strict=True) if value == self.best.best), 0)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, for strict JSON."""
        return {
            "label": self.label,
            "planned_updates": self.updates,
            "updates": self.training.number,
            "best_update": self.best_update,
            "best_validation": self.best.best,
            "cpu_seconds": self.cpu_seconds,
            "versions_changed": self.notes,
            "history": self.training.history.to_dict(),
        }


class Experiment(abc.ABC):
    """Base of what `rnn-numpy train` runs: options, models, trainings, what they have come to, and predictions.

    Parameters
    ----------
    options : frozen dataclass
        Of the class's `Options`, whose fields JSON can hold, tuples as lists.
    kept : mapping, optional
        What `from_data` returned when the run began: given to predict without the data. It is found anew otherwise.

    Attributes
    ----------
    name : str
        Of the sub-command of `rnn-numpy train`.
    Options : type
    inputs : str
        What `predict` takes, in a few words.
    every : int
        Updates between two validations; there is one after the last update, too.
    patience : int or None
        Validations without a better one after which a training ends.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Any]]
    inputs: ClassVar[str]
    every: int = 100
    patience: int | None = None

    def __init__(self, options: Any, kept: Mapping[str, Any] | None = None) -> None:
        self.options, self._given = options, kept

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What the data gave: as it was given, or else `from_data`, as JSON hands it back."""
        return dict(_through_json(self.from_data() if self._given is None else self._given))

    @cached_property
    def models(self) -> dict[str, Any]:
        """The models by the label of their training."""
        return dict(self.make_models())

    @abc.abstractmethod
    def from_data(self) -> Mapping[str, Any]:
        """Return what predicting needs of the data beyond the options (vocabulary, mean, scale), and a digest of it.

        Plain values that JSON can hold.
        """

    @abc.abstractmethod
    def make_models(self) -> Mapping[str, Any]:
        """Return models by label, from `self.options` and `self.kept` alone; this draws their parameters."""

    @abc.abstractmethod
    def trainings(self) -> Sequence[Planned]:
        """Return what is trained, one after the other, of `self.models`."""

    @abc.abstractmethod
    def validate(self, index: int) -> float:
        """Return how well the model of a training does on held-out data, without dropout; the lower, the better."""

    @abc.abstractmethod
    def result(self, runs: Sequence[Run]) -> Result:
        """Return what came out; the models have the parameters of their best validation."""

    @abc.abstractmethod
    def predict(self, inputs: Sequence[str]) -> str:
        """Return the text that answers the inputs, which may be none; what cannot be used raises DataError."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM, and can be taken up again; its text is one line that says how.

    `code` is the exit code that a shell expects: 128 and the number of the signal.
    """

    def __init__(self, text: str, number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.code = 128 + number


# ----------------------------------------------------------------------------------------------------------- the folder


def finished(folder: str | os.PathLike[str]) -> bool:
    """Say whether the run in a folder has come to its end."""
    return Path(folder, NUMBERS).is_file()


def open_experiment(
    folder: str | os.PathLike[str], known: Mapping[str, type[Experiment]], *, for_prediction: bool = False
) -> Experiment:
    """Return the experiment of the run in a folder, to take it up again, or with trained models to predict.

    Parameters
    ----------
    folder : path
    known : mapping of str to Experiment class
        By name.
    for_prediction : bool
        Give the models the parameters of the best validation so far, or the last ones before there is one.

    Raises
    ------
    DataError
        The folder holds no run, one of an unknown experiment, or nothing trained yet; or a file in it is damaged.
    """
    config = _read_config(Path(folder))
    name = config["experiment"]
    if name not in known:
        raise DataError(f"{folder}: holds a run of the experiment {name!r}; this version knows {', '.join(known)}")
    kind = known[name]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config["options"].items()}
    try:
        options = kind.Options(**values)
    except TypeError:
        raise DataError(f"{Path(folder, CONFIG)}: its options are not those of {name} in this version") from None
    if not for_prediction:
        return kind(options)
    experiment = kind(options, config["kept"])
    try:
        models = experiment.models
    except RNNNumpyError:
        raise
    except Exception as error:  # `kept` is not what `from_data` returned
        raise DataError(f"{Path(folder, CONFIG)}: what it keeps of the data cannot be used: {error!r}") from None
    for label, model in models.items():
        path = _checkpoint_path(Path(folder), label)
        if not path.is_file():
            raise DataError(f"{folder}: nothing is trained yet; {_how_to_go_on(Path(folder))}")
        checkpoint = load_checkpoint(path)
        _check_config(path, checkpoint.extra, config)
        model.params.load_state_dict(checkpoint.training["parameters"])
        best = Best(model.params)
        best.load_state_dict(checkpoint.extra["best"])
        best.restore()
    return experiment


def run_experiment(
    experiment: Experiment,
    folder: str | os.PathLike[str],
    progress: Progress | None = None,
    pages: Callable[[Any, Path], None] | None = None,
    *,
    resume: bool = False,
) -> Any:
    """Train what an experiment plans, in a folder; return its result.

    Parameters
    ----------
    experiment : Experiment
    folder : path
        Made where it is missing; to begin a run it must be empty, to resume one hold that run.
    progress : callable, optional
        Called with the number of updates done, their total, and what is being done.
    pages : callable, optional
        Called with result and folder, before the numbers are written: writes what is to be read and looked at.
    resume : bool

    Raises
    ------
    DataError, OptionError
        The folder holds something else or cannot be written, or the data has changed since.
    Interrupted
        By Ctrl-C or SIGTERM; all is saved.
    """
    folder = Path(folder)
    remove_stale(folder)
    config = _config(experiment)
    if resume:
        _check_same(folder, _read_config(folder), config)
    else:
        made = _begin(folder, config)
    try:
        runs = _train_all(experiment, folder, config, progress)
        result = experiment.result(runs)
        if pages is not None:
            pages(result, folder)
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {_how_to_go_on(folder)}") from None
    except Exception:
        if not resume and [path.name for path in folder.iterdir()] == [CONFIG]:  # nothing has come of it
            (folder / CONFIG).unlink()
            if made:
                folder.rmdir()
        raise
    numbers = config | {"trainings": [run.to_dict() for run in runs], "result": result.to_dict()}
    _write_json(folder / NUMBERS, numbers)
    return result


def _config(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "options": _through_json(asdict(experiment.options)),
        "kept": experiment.kept,
        "versions": versions(),
    }


def _begin(folder: Path, config: dict[str, Any]) -> bool:
    """Make the folder a run's, unless there is something in it; return whether there was none."""
    if made := not folder.exists():
        try:
            folder.mkdir()
        except OSError as error:
            raise DataError(f"{folder}: cannot be made: {error.strerror or error}") from None
    elif not folder.is_dir():
        raise OptionError(f"{folder}: is a file; name a folder that is new or empty")
    elif (folder / CONFIG).exists():
        how = "it has finished" if finished(folder) else _how_to_go_on(folder)
        raise OptionError(f"{folder}: holds a run already ({how}); name another folder for a new one")
    elif any(folder.iterdir()):
        raise OptionError(f"{folder}: holds other things; name a folder that is new or empty")
    _write_json(folder / CONFIG, config)
    return made


def _read_config(folder: Path) -> dict[str, Any]:
    import json  # here, as elsewhere in this file: `--help` of the command needs none

    path = folder / CONFIG
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if not path.is_file():
        raise DataError(f"{folder}: holds no run of rnn-numpy train: there is no {CONFIG} in it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(config[key], dict) for key in ("options", "kept", "versions")):
            raise TypeError
        if not isinstance(config["experiment"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is not the configuration of a run of rnn-numpy train") from None
    return dict(config)


def _check_same(folder: Path, found: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse to go on with a run that is another one, or whose data has changed; versions may differ."""
    if (found["experiment"], found["options"]) != (config["experiment"], config["options"]):
        raise OptionError(f"{folder}: holds a run of another experiment, or with other options")
    if found["kept"] != config["kept"]:
        raise DataError(f"{folder}: the data is not what it was when this run began; begin a new one in another folder")


def _check_config(path: Path, extra: Mapping[str, Any], config: dict[str, Any]) -> None:
    keys = ("experiment", "options", "kept")
    found = extra.get("config")
    if not isinstance(found, dict) or any(found.get(key) != config[key] for key in keys):
        raise DataError(f"{path}: is the checkpoint of another run than {CONFIG} beside it tells of")


def _checkpoint_path(folder: Path, label: str) -> Path:
    return folder / (re.sub(r"[^0-9A-Za-z.]+", "-", label) + ".npz")


def _how_to_go_on(folder: Path) -> str:
    return f"go on with: rnn-numpy train --resume {shlex.quote(str(folder))}"


def _through_json(value: Any) -> Any:
    """Return what JSON makes of a value: lists of tuples, Python's numbers."""
    import json

    return json.loads(json.dumps(value, allow_nan=False))


def _write_json(path: Path, value: Any) -> None:
    import json

    try:
        with replacing(path) as file:
            file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


# ------------------------------------------------------------------------------------------------------------- training


def _train_all(experiment: Experiment, folder: Path, config: dict[str, Any], progress: Progress | None) -> list[Run]:
    planned = experiment.trainings()
    if len({_checkpoint_path(folder, plan.label) for plan in planned}) < len(planned):
        raise OptionError(
            f"{experiment.name}: two trainings would have the same checkpoint: {[p.label for p in planned]}"
        )
    total = sum(plan.updates for plan in planned)
    before = 0
    runs: list[Run] = []
    with _signals() as caught:
        for index, plan in enumerate(planned):
            path = _checkpoint_path(folder, plan.label)
            run = _taken_up(experiment, plan, path, config)

            def tell(text: str, run: Run = run, before: int = before) -> None:
                if progress is not None:
                    progress(before + run.training.number, total, text)

            tell(plan.label)
            if not run.ended:
                _train(experiment, index, run, path, config, caught, tell)
            run.best.restore()
            runs.append(run)
            before += plan.updates
            if caught:
                raise Interrupted(f"stopped after {plan.label}; {_how_to_go_on(folder)}", caught[0])
    return runs


def _taken_up(experiment: Experiment, plan: Planned, path: Path, config: dict[str, Any]) -> Run:
    """Return a planned training at its last checkpoint, or at its start where there is none."""
    model = plan.training.model
    run = Run(plan.label, plan.training, plan.updates, Best(model.params), None)
    if experiment.patience is not None:
        run.patience = Patience(experiment.patience)
    if path.exists():
        checkpoint = load_checkpoint(path)
        extra = checkpoint.extra
        _check_config(path, extra, config)
        run.training.load_state_dict(checkpoint.training)
        run.best.load_state_dict(extra["best"])
        if run.patience is not None:
            run.patience.load_state_dict(extra["patience"])
        run.cpu_seconds, run.ended = float(extra["cpu_seconds"]), bool(extra["ended"])
        run.notes = [*extra["notes"], *checkpoint.notes]
    return run


@np.errstate(all="ignore")  # what comes of an overflow is told as an error
def _train(
    experiment: Experiment,
    index: int,
    run: Run,
    path: Path,
    config: dict[str, Any],
    caught: Sequence[int],
    tell: Callable[[str], None],
) -> None:
    """Go on with a training to its end, saving now and then."""
    clock, saved = time.process_time(), time.monotonic()
    training = run.training
    while not run.ended:
        try:
            update = next(training)
        except NonFiniteError as error:
            number = training.number + 1
            raise NonFiniteError(f"{run.label}: diverged in update {number}: {error}; try a smaller lr") from None
        last = training.number >= run.updates
        if last or training.number % experiment.every == 0:
            value = float(experiment.validate(index))
            training.history.add_validation(training.number, value)
            run.best.update(value)
            run.ended = last or (run.patience is not None and run.patience.update(value) == "stop")
        tell(f"{run.label}, loss {update.loss:.3g}")
        if run.ended or caught or time.monotonic() - saved > SAVE_SECONDS:
            now = time.process_time()
            run.cpu_seconds, clock = run.cpu_seconds + now - clock, now
            _save(run, path, config)
            saved = time.monotonic()
        if caught and not run.ended:
            raise Interrupted(f"stopped and saved; {_how_to_go_on(path.parent)}", caught[0])


def _save(run: Run, path: Path, config: dict[str, Any]) -> None:
    save_checkpoint(
        path,
        run.training,
        config=config,
        best=run.best.state_dict(),
        patience=None if run.patience is None else run.patience.state_dict(),
        cpu_seconds=run.cpu_seconds,
        ended=run.ended,
        notes=run.notes,
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Take note of Ctrl-C and SIGTERM instead of obeying at once; a second one is obeyed. Yield the list of them."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # what a parent has us ignore stays ignored
            with contextlib.suppress(ValueError):  # outside of the main thread there are no handlers
                before[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
