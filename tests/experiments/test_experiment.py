"""A run in a folder: what it leaves, how it is stopped and taken up again, what it refuses."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_numpy import Forecaster
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.experiments import experiment as module
from rnn_numpy.experiments.experiment import (
    Experiment,
    Interrupted,
    Planned,
    Run,
    finished,
    open_experiment,
    run_experiment,
)
from rnn_numpy.training import Adam, Draws, train

UPDATES, EVERY = 7, 3


@dataclass(frozen=True)
class WaveOptions:
    speeds: tuple[float, ...] = (0.3, 0.5)
    updates: int = UPDATES


class Waves:
    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def to_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}


class WaveExperiment(Experiment):
    """A net for each wave, of some speed, that is forecast."""

    name = "wave"
    Options = WaveOptions
    inputs = "numbers"
    every = EVERY
    phase = 0.0  # of the data: another one is other data

    def from_data(self) -> Mapping[str, Any]:
        return {"phase": self.phase}

    def make_models(self) -> Mapping[str, Any]:
        return {f"speed {speed}": Forecaster(1, 3, cell="gru", rng=k) for k, speed in enumerate(self.options.speeds)}

    def trainings(self) -> Sequence[Planned]:
        return [
            Planned(
                label,
                train(model, Draws(self.drawer(speed), rng=5), Adam(model.params, 0.05), clip=1.0),
                self.options.updates,
            )
            for speed, (label, model) in zip(self.options.speeds, self.models.items(), strict=True)
        ]

    def drawer(self, speed: float) -> Callable[[np.random.Generator], tuple[Any, Any]]:
        def draw(rng: np.random.Generator) -> tuple[Any, Any]:
            wave = np.sin(speed * np.arange(9.0)[:, None, None] + rng.uniform(0, 6, (1, 4, 1)))
            return wave[:-1], wave[1:]

        return draw

    def validate(self, index: int) -> float:
        held_out = self.drawer(self.options.speeds[index])(np.random.default_rng(1))
        return float(list(self.models.values())[index].loss_of(*held_out))

    def result(self, runs: Sequence[Run]) -> Waves:
        return Waves([self.validate(index) for index in range(len(runs))])

    def predict(self, inputs: Sequence[str]) -> str:
        return repr([float(model(np.ones((1, 1, 1)))[0].sum()) for model in self.models.values()])


KNOWN = {"wave": WaveExperiment}


def new(**options: Any) -> WaveExperiment:
    return WaveExperiment(WaveOptions(**options))


def timeless(folder: Path) -> Any:
    """Return the numbers without times."""
    numbers = json.loads((folder / "numbers.json").read_text())
    for training in numbers["trainings"]:
        del training["cpu_seconds"], training["history"]["seconds"]
    return numbers


class Stop:
    """Progress that presses Ctrl-C once so many updates are done."""

    def __init__(self, at: int, times: int = 1, number: int = signal.SIGINT) -> None:
        self.at, self.times, self.number = at, times, number

    def __call__(self, done: int, total: int, label: str) -> None:
        if done == self.at:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WaveExperiment]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    experiment = new()
    run_experiment(experiment, folder)
    return folder, experiment


def test_what_a_run_leaves(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []

    def pages(result: Waves, folder: Path) -> None:
        assert not finished(folder)
        (folder / "report.txt").write_text(f"{result.losses}\n")

    run_experiment(new(), tmp_path / "run", lambda *step: told.append(step), pages)
    folder = tmp_path / "run"
    names = {"config.json", "speed-0.3.npz", "speed-0.5.npz", "report.txt", "numbers.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert finished(folder)
    assert [done for done, _, _ in told] == [0, *range(1, UPDATES + 1), UPDATES, *range(UPDATES + 1, 2 * UPDATES + 1)]
    assert {total for _, total, _ in told} == {2 * UPDATES}
    assert told[1][2].startswith("speed 0.3, loss 0.")
    numbers = json.loads((folder / "numbers.json").read_text(), parse_constant=pytest.fail)
    assert numbers["experiment"] == "wave" and numbers["kept"] == {"phase": 0.0}
    assert numbers["options"] == {"speeds": [0.3, 0.5], "updates": UPDATES}
    assert set(numbers["versions"]) == {"rnn_numpy", "numpy", "python"}
    config = json.loads((folder / "config.json").read_text())
    assert config == {key: numbers[key] for key in ("experiment", "options", "kept", "versions")}
    first = numbers["trainings"][0]
    assert (first["label"], first["updates"], first["planned_updates"]) == ("speed 0.3", UPDATES, UPDATES)
    assert first["history"]["validations"]["update"] == [3, 6, 7]
    assert first["best_validation"] == min(first["history"]["validations"]["value"])
    assert len(first["history"]["loss"]) == UPDATES and first["versions_changed"] == []
    assert numbers["result"]["losses"][0] == first["best_validation"]


@pytest.mark.parametrize("at", range(2 * UPDATES + 1))
def test_stopped_and_resumed_is_as_uninterrupted(whole: tuple[Path, WaveExperiment], tmp_path: Path, at: int) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match=rf"; go on with: rnn-numpy train --resume {folder}$") as stopped:
        run_experiment(new(), folder, Stop(at))
    assert stopped.value.code == 130
    assert not finished(folder)
    resumed = open_experiment(folder, KNOWN)
    counted: list[int] = []
    run_experiment(resumed, folder, lambda done, *_: counted.append(done), resume=True)
    assert counted[0] == min(max(at, 1), UPDATES)  # the update under way is finished first
    assert timeless(folder) == timeless(whole[0])
    for name, model in whole[1].models.items():
        assert np.array_equal(resumed.models[name].params.flat, model.params.flat)


def test_a_second_signal_does_not_wait(whole: tuple[Path, WaveExperiment], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match="^stopped; go on with: "):
        run_experiment(new(), folder, Stop(UPDATES + 2, times=2))
    assert {path.name for path in folder.iterdir()} == {"config.json", "speed-0.3.npz"}
    run_experiment(open_experiment(folder, KNOWN), folder, resume=True)
    assert timeless(folder) == timeless(whole[0])


def test_stopped_before_anything_was_saved(whole: tuple[Path, WaveExperiment], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_experiment(new(), folder, Stop(0, times=2))
    with pytest.raises(DataError, match=f"^{folder}: nothing is trained yet; go on with: rnn-numpy train --resume "):
        open_experiment(folder, KNOWN, for_prediction=True)
    run_experiment(open_experiment(folder, KNOWN), folder, resume=True)
    assert timeless(folder) == timeless(whole[0])


def test_stopped_while_the_result_is_drawn(whole: tuple[Path, WaveExperiment], tmp_path: Path) -> None:
    def pages(result: Waves, folder: Path) -> None:
        signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_experiment(new(), folder, pages=pages)
    run_experiment(open_experiment(folder, KNOWN), folder, resume=True)
    assert timeless(folder) == timeless(whole[0])


def test_sigterm_saves_as_well(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        run_experiment(new(), tmp_path / "run", Stop(2, number=signal.SIGTERM))
    assert stopped.value.code == 143
    assert (tmp_path / "run" / "speed-0.3.npz").is_file()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_experiment(new(), tmp_path / "run", Stop(2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished(tmp_path / "run")


def test_in_a_thread_there_are_no_signals(tmp_path: Path) -> None:
    thread = threading.Thread(target=run_experiment, args=(new(), tmp_path / "run"))
    thread.start()
    thread.join()
    assert finished(tmp_path / "run")


def test_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = module.save_checkpoint
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)

    def noted(path: Path, training: Any, **extra: Any) -> None:
        saved.append(training.number)
        save(path, training, **extra)

    monkeypatch.setattr(module, "save_checkpoint", noted)
    run_experiment(new(speeds=(0.3,)), tmp_path / "run")
    assert saved == list(range(1, UPDATES + 1))


def test_patience_ends_a_training(tmp_path: Path) -> None:
    class Impatient(WaveExperiment):
        patience = 2

        def validate(self, index: int) -> float:
            return float(self.seen.pop(0))

    experiment = Impatient(WaveOptions((0.3,), 100))
    experiment.seen = [3.0, 1.0, 2.0, 1.5, 1.5]
    with pytest.raises(Interrupted):
        run_experiment(experiment, tmp_path / "run", Stop(9))
    resumed = Impatient(WaveOptions((0.3,), 100))
    resumed.seen = [*experiment.seen, 0.0]
    run_experiment(resumed, tmp_path / "run", resume=True)
    numbers = timeless(tmp_path / "run")["trainings"][0]
    assert (numbers["updates"], numbers["best_update"]) == (12, 6)
    assert resumed.seen == [0.0]  # `result` validates once more


def test_predicting_needs_the_best_parameters_and_no_data(
    whole: tuple[Path, WaveExperiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, experiment = whole
    monkeypatch.setattr(WaveExperiment, "from_data", lambda self: pytest.fail("read the data"))
    opened = open_experiment(folder, KNOWN, for_prediction=True)
    assert opened.predict([]) == experiment.predict([])
    assert opened.kept == {"phase": 0.0}


def test_predicting_before_there_is_a_validation(tmp_path: Path) -> None:
    experiment = new(speeds=(0.3,))
    with pytest.raises(Interrupted):
        run_experiment(experiment, tmp_path / "run", Stop(2))
    opened = open_experiment(tmp_path / "run", KNOWN, for_prediction=True)
    assert opened.predict([]) == experiment.predict([]) != new(speeds=(0.3,)).predict([])


def test_another_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        run_experiment(new(), tmp_path / "run", Stop(2))
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "3.0")
        with pytest.raises(Interrupted):
            run_experiment(new(), tmp_path / "run", Stop(4), resume=True)
    run_experiment(new(), tmp_path / "run", resume=True)
    first, second = timeless(tmp_path / "run")["trainings"]
    now = np.__version__
    assert first["versions_changed"] == [f"numpy was {now}, is 3.0", f"numpy was 3.0, is {now}"]
    assert second["versions_changed"] == []


@pytest.mark.parametrize("there", [True, False])
def test_a_training_that_cannot_begin_leaves_nothing(tmp_path: Path, there: bool) -> None:
    class Hopeless(WaveExperiment):
        def trainings(self) -> Sequence[Planned]:
            raise DataError("wave: too short")

    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    with pytest.raises(DataError, match="too short"):
        run_experiment(Hopeless(WaveOptions()), folder)
    assert list(tmp_path.iterdir()) == ([folder] if there else [])
    assert not there or list(folder.iterdir()) == []


def test_a_training_that_fails_later_keeps_its_checkpoints(
    whole: tuple[Path, WaveExperiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(WaveExperiment, "result", lambda self, runs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_experiment(new(), folder)
    run_experiment(new(), folder, resume=True)
    assert timeless(folder) == timeless(whole[0])


# What is refused ----------------------------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(whole: tuple[Path, WaveExperiment], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"run: holds a run already \(it has finished\); name another folder for a"):
        run_experiment(new(), whole[0])
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_experiment(new(), folder, Stop(2))
    match = r"holds a run already \(go on with: rnn-numpy train --resume .*run\); name another folder for a new one$"
    with pytest.raises(OptionError, match=match):
        run_experiment(new(), folder)


def test_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("!")
    with pytest.raises(OptionError, match="holds other things; name a folder that is new or empty$"):
        run_experiment(new(), tmp_path)
    with pytest.raises(OptionError, match=r"thesis.txt: is a file; name a folder that is new or empty$"):
        run_experiment(new(), tmp_path / "thesis.txt")
    with pytest.raises(DataError, match="where: cannot be made: No such file or directory$"):
        run_experiment(new(), tmp_path / "no" / "where")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no run of rnn-numpy train: there is no config.json in it$"),
        ("{", "config.json: is not the configuration of a run of rnn-numpy train$"),
        ("[1]", "config.json: is not the configuration of a run of rnn-numpy train$"),
        ('{"experiment": 1, "options": {}, "kept": {}, "versions": {}}', "config.json: is not the configuration"),
        (
            '{"experiment": "chess", "options": {}, "kept": {}, "versions": {}}',
            "holds a run of the experiment 'chess'; ",
        ),
        (
            '{"experiment": "wave", "options": {"x": 1}, "kept": {}, "versions": {}}',
            "its options are not those of wave",
        ),
    ],
)
def test_what_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_experiment(tmp_path, KNOWN)


def test_two_trainings_of_one_name(tmp_path: Path) -> None:
    class Twice(WaveExperiment):
        def trainings(self) -> Sequence[Planned]:
            (plan,) = super().trainings()
            return [plan, Planned("speed-0.3", plan.training, plan.updates)]

    with pytest.raises(
        OptionError, match=r"^wave: two trainings would have the same checkpoint: \['speed 0.3', 'speed-"
    ):
        run_experiment(Twice(WaveOptions((0.3,))), tmp_path / "run")


def test_kept_that_cannot_be_used(whole: tuple[Path, WaveExperiment], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaveExperiment, "make_models", lambda self: {"speed": self.kept["speed"]})
    with pytest.raises(DataError, match=r"config.json: what it keeps of the data cannot be used: KeyError\('speed'\)$"):
        open_experiment(whole[0], KNOWN, for_prediction=True)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such folder$"):
        open_experiment(tmp_path / "nowhere", KNOWN)


@pytest.fixture
def halfway(tmp_path: Path) -> Path:
    with pytest.raises(Interrupted):
        run_experiment(new(), tmp_path / "run", Stop(UPDATES + 2))
    return tmp_path / "run"


def test_other_options_or_other_data(halfway: Path) -> None:
    with pytest.raises(OptionError, match="run: holds a run of another experiment, or with other options$"):
        run_experiment(new(updates=8), halfway, resume=True)
    changed = new()
    changed.phase = 1.0
    with pytest.raises(DataError, match="run: the data is not what it was when this run began; begin a new one in"):
        run_experiment(changed, halfway, resume=True)


def test_a_checkpoint_of_another_run(halfway: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(Interrupted):
        run_experiment(new(updates=9), other, Stop(2))
    (other / "speed-0.3.npz").rename(halfway / "speed-0.3.npz")
    match = "speed-0.3.npz: is the checkpoint of another run than config.json beside it tells of$"
    with pytest.raises(DataError, match=match):
        run_experiment(new(), halfway, resume=True)
    with pytest.raises(DataError, match=match):
        open_experiment(halfway, KNOWN, for_prediction=True)
