"""A training goes on in a new process, bit for bit: from every update, and from in between."""

import functools
import json
import os
import sys
from pathlib import Path

import pytest
from processes import ended
from trainings import NAMES, UPDATES, go, made, outcome

from rnn_numpy.training import save_checkpoint

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


def run(program, *arguments):
    """Run a program of tests/support, with one thread."""
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(SUPPORT / program), *map(str, arguments)]
    return ended(command, env=environment, capture_output=True, text=True)


def in_a_new_process(*paths):
    done = run("trainings.py", *paths)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a checkpoint of every training before each of its micro-batches, and after the last."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in NAMES:
        training = made(name)
        for done in range(UPDATES + 1):
            save_checkpoint(folder / f"{name}.{done}.npz", training)
            if done < UPDATES:
                go(training, 1)
    return folder


@functools.cache
def expected(name):
    """Return the losses of all updates, how many of them there are after each micro-batch, and what comes out."""
    training = made(name)
    losses, counts = [], [0]
    for _ in range(UPDATES):
        losses += go(training, 1)
        counts.append(len(losses))
    return losses, counts, outcome(training)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_process_goes_on_from_every_moment_bit_for_bit(name, saved):
    losses, counts, end = expected(name)
    found = in_a_new_process(*(saved / f"{name}.{done}.npz" for done in range(UPDATES + 1)))
    assert [path for path, *_ in found] == [f"{name}.{done}.npz" for done in range(UPDATES + 1)]
    for done, (_, rest, state) in enumerate(found):
        assert rest == losses[counts[done] :], done
        assert state == end, done


@pytest.mark.parametrize("done", [0, 10, 20])
def test_a_process_for_each_moment_goes_on_bit_for_bit(done, saved):
    paths = [saved / f"{name}.{done}.npz" for name in NAMES]
    for name, (_, rest, state) in zip(NAMES, in_a_new_process(*paths), strict=True):
        losses, counts, end = expected(name)
        assert rest == losses[counts[done] :] and state == end, name


def test_the_moments_are_what_they_should_be():
    """Inside an epoch, inside a text, between micro-batches, at their ends; with something random at each."""
    for name in NAMES:
        losses, counts, _ = expected(name)
        assert len(set(losses)) == len(losses) == counts[-1], name
    assert expected("accumulate-float32")[1][:8] == [0, 0, 0, 1, 1, 1, 2, 2]
    training = made("text-float64")
    carried = []
    for _ in range(UPDATES):
        go(training, 1)
        carried.append(training.batches.restarts)
    assert 0 < sum(carried) < UPDATES / 3
    training = made("accumulate-float64")
    clipped = [update.clip.skipped for update in (training.micro() for _ in range(UPDATES)) if update is not None]
    assert 0 < sum(clipped) < len(clipped)


def test_whenever_it_is_killed_a_valid_checkpoint_is_there():
    done = run("killed.py", 25)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("25 kills, ") and done.stdout.endswith(" updates, all bit for bit\n")


def test_a_file_written_in_place_would_be_found():
    done = run("killed.py", 100, "in-place")
    assert done.returncode == 1
    assert "DataError: load_checkpoint: " in done.stderr.splitlines()[-1]
