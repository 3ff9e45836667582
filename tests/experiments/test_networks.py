"""Networks of a measurement: kept when finished, taken up by the same measurement alone, in whatever process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ended

from rnn_numpy.cli import main
from rnn_numpy.errors import OptionError, StalledError
from rnn_numpy.experiments import (
    BenchmarkOptions,
    GradflowOptions,
    GradflowResult,
    networks,
    run_benchmark,
    run_gradflow,
)
from rnn_numpy.experiments.gradflow import gradflow_measurement
from rnn_numpy.experiments.networks import Measurement, flow_of, kept_flow, measure_all
from rnn_numpy.lab import GradientFlow
from rnn_numpy.tasks import ForecastTask, Series

OPTIONS = GradflowOptions(cells=["gru"], gains=[1.0], length=10, hidden=3, batch=2, train_steps=2, seeds=3)


def task() -> ForecastTask:
    return ForecastTask.of(Series("wave", np.sin(np.arange(60.0))[:, None], ("sin",)), 10)


def numbers(result: GradflowResult) -> str:
    return json.dumps(result.to_dict())


class Doubled(Measurement):
    """A measurement that counts its calls, and raises what stands in `trouble`."""

    def measured(self, x: int) -> int:  # type: ignore[override]
        calls.append(x)
        if x in trouble:
            raise trouble[x]("no")
        return 2 * x


calls: list[int] = []
trouble: dict[int, type[BaseException]] = {}


@pytest.fixture(autouse=True)
def no_trouble() -> None:
    calls.clear()
    trouble.clear()


def measure(count: int, store: Path | None, said: list[Any] | None = None) -> list[Any]:
    calls.clear()
    points = [{"x": x} for x in range(count)]
    heard = None if said is None else (lambda *news: said.append(news))
    return measure_all(Doubled(), points, lambda point, found: f"{point['x']}: {found}", heard, "serial", store)


def test_flows_are_kept_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=(30, 4)) * 300)
    norms[-1] = [0.0, np.inf, 5e-324, np.nan]
    flow = GradientFlow(np.asfortranarray(norms), 3.2, {"f": 0.1})
    again = flow_of(json.loads(json.dumps(kept_flow(flow))))
    assert again.norms.tobytes() == norms.tobytes() and (again.independent, again.gates) == (3.2, {"f": 0.1})
    assert again.norms.flags.writeable and flow_of(kept_flow(None)) is None


def test_what_is_kept_is_what_was_measured(tmp_path: Path) -> None:
    first = run_gradflow(task(), OPTIONS, store=tmp_path / "kept.jsonl")
    again = run_gradflow(task(), OPTIONS, store=tmp_path / "kept.jsonl")
    assert numbers(first) == numbers(again) == numbers(run_gradflow(task(), OPTIONS))
    options = BenchmarkOptions(lengths=(3, 4), cells=("gru",), hidden=2, batch=2, max_updates=60)
    runs = run_benchmark(options, store=tmp_path / "runs.jsonl").to_dict()
    assert runs == run_benchmark(options, store=tmp_path / "runs.jsonl").to_dict()  # seconds, too: none ran again


def test_what_is_finished_is_not_measured_again(tmp_path: Path) -> None:
    store, said = tmp_path / "kept.jsonl", list[Any]()
    trouble[2] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        measure(4, store)
    assert calls == [0, 1, 2]
    trouble.clear()
    assert measure(4, store, said) == [0, 2, 4, 6]
    assert calls == [2, 3]
    assert said == [(0, 4, ""), (1, 4, "0: 0"), (2, 4, "1: 2"), (3, 4, "2: 4"), (4, 4, "3: 6")]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError, MemoryError, "x 1: no"),
        (OptionError, OptionError, "^no$"),
        (ZeroDivisionError, RuntimeError, "x 1: Traceback(.|\n)*in measured(.|\n)*ZeroDivisionError: no"),
    ],
)
def test_an_error_of_a_network_is_raised_when_the_others_are_kept(
    tmp_path: Path, error: type[Exception], raised: type[Exception], message: str
) -> None:
    store = tmp_path / "kept.jsonl"
    trouble[1] = error
    with pytest.raises(raised, match=message):
        measure(3, store)
    assert calls == [0, 1, 2]
    with pytest.raises(raised, match=message):  # it is tried again, and the others are not
        measure(3, store)
    assert calls == [1]


def test_a_worker_that_died_is_told() -> None:
    lost = {"type": "WorkerDied", "message": "3 worker processes died", "traceback": ""}
    with pytest.raises(StalledError, match="^x 1: 3 worker processes died$"):
        raise networks._raised({"x": 1}, lost)


def test_a_process_with_other_sources_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Doubled()
    assert measurement(x=2) == 4
    monkeypatch.setattr(networks, "sources", lambda: "another")
    with pytest.raises(OptionError, match="another version of rnn_numpy or of NumPy than the one that asks it"):
        measurement(x=2)


def test_the_fingerprint_is_that_of_the_work() -> None:
    """The same in another process; another one where an option, the data or a source is another; not of the points."""
    found = gradflow_measurement(task(), OPTIONS).fingerprint
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_networks import OPTIONS, gradflow_measurement, task
print(gradflow_measurement(task(), OPTIONS).fingerprint)
"""
    done = ended([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found and len(found) == 16
    more = GradflowOptions(cells=["lstm", "gru"], gains=[2.0], length=10, hidden=3, batch=2, train_steps=2, seeds=9)
    assert gradflow_measurement(task(), more).fingerprint == found
    other = GradflowOptions(cells=["gru"], gains=[1.0], length=10, hidden=3, batch=2, train_steps=3, seeds=3)
    assert gradflow_measurement(task(), other).fingerprint != found
    series = Series("wave", np.cos(np.arange(60.0))[:, None], ("sin",))
    assert gradflow_measurement(ForecastTask.of(series, 10), OPTIONS).fingerprint != found


def test_processes_give_the_same_numbers() -> None:
    assert numbers(run_gradflow(task(), OPTIONS, executor=2)) == numbers(run_gradflow(task(), OPTIONS))


# The commands, killed ---------------------------------------------------------------------------------------------

GRADFLOW = "gradflow --cells rnn-tanh gru --gain 1 --length 20 --hidden 8 --batch 4 --seeds 3 --json n.json".split()


def command(*options: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "rnn_numpy", *options]


def run_until_line(folder: Path, arguments: list[str], line: str) -> subprocess.Popen[str]:
    """Start a command, and return it once it has said that so many networks are finished."""
    process = subprocess.Popen(arguments, cwd=folder, stdout=-3, stderr=-1, text=True)
    assert process.stderr is not None
    seen = []
    while not (said := process.stderr.readline()).startswith(line):
        seen.append(said)
        assert said, f"ended before {line!r}: {seen}"
    return process


BENCHMARK = "benchmark --lengths 10 --cells rnn-tanh gru --seeds 2 --hidden 8 --max-updates 100".split()


def test_a_benchmark_that_is_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with run_until_line(tmp_path, command(*BENCHMARK), "2 of 4") as process:
        process.kill()
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("benchmark-unfinished-") and kept.read_bytes().count(b"\n") >= 2
    assert main(BENCHMARK) == 0
    resumed = capsys.readouterr()
    seconds = re.compile(r"\d+\.\d$", re.MULTILINE)  # the last column, of each line
    assert len(seconds.findall(resumed.out)) == 2
    assert resumed.err.startswith(f"going on with what {kept.name} has kept\n")
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.png"]
    assert main([*BENCHMARK, "--out", "whole.png"]) == 0
    whole = capsys.readouterr().out.replace("whole", "benchmark")
    assert seconds.sub("s", whole) == seconds.sub("s", resumed.out)
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "benchmark.png").read_bytes()


def test_a_run_that_is_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = command(*GRADFLOW, "--train-steps", "150")
    with run_until_line(tmp_path, arguments, "1 of 6") as process:
        # While it is there nobody else may write there, nor take it away.
        process.send_signal(signal.SIGSTOP)
        (kept,) = tmp_path.glob("*.jsonl")
        assert main([*GRADFLOW, "--train-steps", "150"]) == 2
        said = f"{kept.name}: this very command is running, and keeps its networks there; wait for it"
        assert capsys.readouterr().err == f"rnn-numpy gradflow: {said}\n"
        process.kill()
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.name.startswith("gradflow-unfinished-") and 1 <= kept.read_bytes().count(b"\n") < 6
    # What others have kept is not taken, nor removed.
    assert main([*GRADFLOW, "--train-steps", "1"]) == 0 and kept.exists()
    capsys.readouterr()
    (tmp_path / "n.json").unlink()
    assert main([*GRADFLOW, "--train-steps", "150"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"going on with what {kept.name} has kept" and lines[-1].startswith(
        "6 of 6: gru, gain 1, seed 2: "
    )
    assert {path.name for path in tmp_path.iterdir()} == {"gradflow.png", "gradflow.1.png", "n.json"}
    resumed = (tmp_path / "n.json").read_bytes()
    assert main([*GRADFLOW, "--train-steps", "150", "--out", "c.png", "--json", "m.json"]) == 0
    assert (tmp_path / "m.json").read_bytes() == resumed
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "gradflow.png").read_bytes()
