"""The loop: it is the bare hand-written one, bit for bit; micro-batches add up; state is carried; fit adds nothing."""

import numpy as np
import pytest

from rnn_numpy import GRU
from rnn_numpy.models import SequenceModel
from rnn_numpy.training import (
    Adam,
    Batches,
    clip_grad_norm,
    train,
)

T, N, D, K = 5, 12, 2, 3


def data(dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.normal(size=(T, N, D)).astype(dtype), rng.integers(K, size=(T, N))


def model_of(dtype=np.float64, layer=GRU, **options):
    return SequenceModel(layer(D, 4, dtype=dtype, rng=0, **options), K, reads="all", loss="cross_entropy", rng=1)


def parts(dtype=np.float64, batch_size=5, **options):
    model = model_of(dtype, **options)
    batches = Batches(*data(dtype), batch_size=batch_size, axis=1, rng=2)
    return model, batches, Adam(model.params, lr=0.05)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_hand_written_loop_bit_for_bit(dtype):
    options = {"num_layers": 2, "dropout": 0.3}
    model, batches, optimizer = parts(dtype, **options)
    losses, norms = [], []
    for number in range(9):
        loss, grads, trace = model.loss_and_grads(*next(batches))
        norms.append(clip_grad_norm(grads, 0.5).norm)
        optimizer.lr = 0.05 / (1 + number)
        optimizer.step(grads)
        losses.append(float(loss))
    twin, batches, optimizer = parts(dtype, **options)
    training = train(twin, batches, optimizer, clip=0.5, schedule=lambda t: 0.05 / (1 + t))
    updates = [next(training) for _ in range(9)]
    assert [update.loss for update in updates] == losses
    assert [update.clip.norm for update in updates] == norms
    assert [update.number for update in updates] == [*range(1, 10)]
    assert [update.epoch for update in updates] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [update.count for update in updates] == [T * 5, T * 5, T * 2] * 3
    assert [update.lr for update in updates] == [0.05 / t for t in range(1, 10)]
    assert np.array_equal(twin.params.flat, model.params.flat)
    assert np.array_equal(updates[-1].grads.flat, grads.flat)
    assert np.array_equal(updates[-1].trace.h, trace.h)
    assert training.history["loss"].tolist() == losses and training.history["norm"].tolist() == norms
