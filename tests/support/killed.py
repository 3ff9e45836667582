"""kill -9 at random moments of a training that saves after each update; a valid checkpoint must be there each time.

    OPENBLAS_NUM_THREADS=1 python tests/support/killed.py 200

With a second argument, "in-place", the file is written in place, which must be found.

The one that is killed is a fork of this process, which makes the training anew, loads the checkpoint, and goes on until
it is killed. What it leaves is loaded here, and must be, bit for bit, what an uninterrupted training is after as many
updates, and after one more. A temporary file that is left behind tells that the moment was inside of a save.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from trainings import go, made, outcome

from rnn_numpy.training import Training, load_checkpoint, save_checkpoint

NAME = "rows-float32"
LONGEST = 0.25  # seconds from the fork to the kill, at most: some ten updates and their saves


def taken_up(path: Path, seed: int) -> Training:
    """Return a training made anew, which goes on from the checkpoint, if there is one."""
    training = made(NAME, seed if path.exists() else 0)
    if path.exists():
        training.load_state_dict(load_checkpoint(path).training)
    return training


def save_in_place(path: Path, training: Training) -> None:
    """The planted mistake."""
    whole = path.with_name("whole.npz")
    save_checkpoint(whole, training)
    data = whole.read_bytes()
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(data), 1024):
            file.write(data[start : start + 1024])
            time.sleep(1e-3)


def train_until_killed(path: Path, seed: int, save: Callable[[Path, Training], None]) -> None:
    training = taken_up(path, seed)
    while True:
        go(training, 1)
        save(path, training)


def killed_after(seconds: float, path: Path, seed: int, save: Callable[[Path, Training], None]) -> None:
    """Fork, and kill the fork; it must not have ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            train_until_killed(path, seed, save)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def main(kills: int, save: Callable[[Path, Training], None]) -> None:
    rng = np.random.default_rng(0)
    straight, expected = made(NAME), []

    def expect(number: int) -> dict[str, str]:
        """Return what the uninterrupted training is after some updates; its generators are not moved."""
        while len(expected) <= number:
            expected.append(outcome(made_again(straight)))
            go(straight, 1)
        return expected[number]

    def made_again(training: Training) -> Training:
        twin = made(NAME, seed=1)
        twin.load_state_dict(training.state_dict())
        return twin

    inside = nothing = number = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        for kill in range(kills):
            killed_after(rng.uniform(0, LONGEST), path, kill, save)
            left = [name for name in os.listdir(folder) if name != path.name]
            inside += bool(left)
            for name in left:
                os.unlink(Path(folder, name))
            if not path.exists():
                assert number == 0, "the checkpoint has gone"
                nothing += 1
                continue
            training = taken_up(path, seed=kill)
            assert training.number >= number, "an old checkpoint has come back"
            number = training.number
            assert outcome(made_again(training)) == expect(number), f"after kill {kill}, update {number}"
            go(training, 1)
            assert outcome(training) == expect(number + 1), f"after kill {kill}, update {number + 1}"
    print(
        f"{kills} kills, {inside} inside of a save, {nothing} before the first one; {number} updates, all bit for bit"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), save_in_place if sys.argv[2:] == ["in-place"] else save_checkpoint)
