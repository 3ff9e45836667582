"""Small trainings of every kind, and all that there is to compare of one: for the tests of checkpoints.

As a program, `trainings.py FILE...`, it is the new process: it makes each training anew, of other random numbers, loads
the checkpoint, trains to the end, and prints what came out. The name of a file, "text-float32.7.npz", says which
training it is, and how many micro-batches it has had.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rnn_numpy import GRU, LSTM, SequenceModel
from rnn_numpy.models import LanguageModel
from rnn_numpy.training import (
    SGD,
    Adagrad,
    AdamW,
    Batches,
    ClipResult,
    Cosine,
    Draws,
    Plateau,
    RMSprop,
    Training,
    Windows,
    load_checkpoint,
    train,
)

UPDATES = 20


def rows(dtype, seed):
    """Batches of rows, shuffled, three and a rest an epoch; dropout between layers; clipping and a schedule."""
    rng = np.random.default_rng(9)
    x, classes = rng.normal(size=(6, 11, 2)).astype(dtype), rng.integers(3, size=11)
    layer = LSTM(2, 4, 2, dropout=0.3, dtype=dtype, rng=seed)
    model = SequenceModel(layer, 3, loss="cross_entropy", rng=seed + 1)
    batches = Batches(x, classes, batch_size=3, axis=(1, 0), rng=np.random.Generator(np.random.MT19937(seed)))
    return train(model, batches, AdamW(model.params), clip=0.5, schedule=Cosine(0.05, 30))


def text(dtype, seed):
    """A language model by stateful truncated BPTT, some 7 windows an epoch; recurrent dropout and zoneout."""
    ids = np.random.default_rng(9).integers(5, size=112)
    rng = np.random.Generator(np.random.Philox(seed))
    layer = LSTM(4, 4, 2, dropout=0.2, recurrent_dropout=0.2, zoneout=0.1, dtype=dtype, rng=rng)
    model = LanguageModel(layer, 5, tied=True, rng=seed)
    optimizer = SGD(model.params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    # One generator for dropout and windows: what is drawn for one shifts what the other gets.
    return train(model, Windows(ids, 3, 6, jitter=2.0, rng=rng), optimizer, stateful=True)


def accumulate(dtype, seed):
    """Three micro-batches an update, the last one of an epoch short."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(4, 10, 2)).astype(dtype), rng.normal(size=(4, 10, 2)).astype(dtype)
    model = SequenceModel(GRU(2, 3, 2, dropout=0.3, dtype=dtype, rng=seed), 2, reads="all", rng=seed)
    batches = Batches(x, y, batch_size=4, axis=1, rng=np.random.Generator(np.random.SFC64(seed)))
    optimizer = RMSprop(model.params, momentum=0.5, centered=True)
    return train(model, batches, optimizer, accumulate=3, clip=skipping)


def skipping(grads):
    """A clipping that leaves out every gradient whose second entry is positive."""
    skipped = bool(grads.flat[1] > 0)
    return ClipResult(float(np.linalg.norm(grads.flat)), 1.0, False, skipped=skipped)


def drawn(dtype, seed):
    """Batches that are drawn; a schedule that has a state; a generator of what happens in between."""
    model = SequenceModel(GRU(1, 3, dtype=dtype, rng=seed), 1, rng=seed)

    def draw(rng):
        x = rng.normal(size=(5, 4, 1)).astype(dtype)
        return x, x.sum(axis=0)

    further = {"sampling": np.random.default_rng(seed)}
    schedule = Plateau(0.05, factor=0.5, patience=1)
    return train(model, Draws(draw, rng=seed), Adagrad(model.params), schedule=schedule, generators=further)


KINDS = {"rows": rows, "text": text, "accumulate": accumulate, "drawn": drawn}
NAMES = [f"{kind}-{dtype}" for kind in KINDS for dtype in ("float32", "float64")]


def made(name: str, seed: int = 0) -> Training:
    """Return a training by its name; another seed gives other initial values and draws, of the same data."""
    kind, dtype = name.split("-")
    return KINDS[kind](np.dtype(dtype), seed)


def go(training: Training, count: int) -> list[str]:
    """Take `count` micro-batches; return the losses of updates, to the last bit."""
    losses = []
    for _ in range(count):
        update = training.micro()
        if update is not None:
            losses.append(update.loss.hex())
            if isinstance(training.schedule, Plateau):
                training.schedule.update(update.loss)
        if "generators.sampling" in training.generators:
            training.generators["generators.sampling"].random()
    return losses


def digest(value: Any) -> str:
    """Return a digest of a nested state, every bit and every type in it."""
    found = hashlib.sha256()

    def take(part: Any) -> None:
        found.update(type(part).__name__.encode())
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode() + part.tobytes())
        elif isinstance(part, dict):
            for key, inner in part.items():
                found.update(key.encode())
                take(inner)
        elif isinstance(part, list | tuple):
            for inner in part:
                take(inner)
        else:
            found.update(repr(part).encode())

    take(value)
    return found.hexdigest()


def outcome(training: Training) -> dict[str, str]:
    """Return digests of all that a training is, but for the time it took, and the next draws of all generators."""
    state = training.state_dict()
    state["history"]["seconds"] = state["history"]["seconds"].size
    if state["sum"] is not None:
        state["sum"]["seconds"] = None
    found = {name: digest(part) for name, part in state.items()}
    draws = {name: [x.hex() for x in rng.random(3)] for name, rng in training.generators.items()}
    return found | {"draws": json.dumps(draws)}


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        name, done = path.name.split(".")[:2]
        training = made(name, seed=5)
        training.load_state_dict(load_checkpoint(path).training)
        losses = go(training, UPDATES - int(done))
        print(json.dumps([path.name, losses, outcome(training)]))


if __name__ == "__main__":
    main(sys.argv[1:])
