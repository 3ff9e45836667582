"""
A training that one can step, stop and take up again
====================================================

A training loop is a few lines: take a batch, run forward and backward, clip, step. `train` is these lines as an
iterator: each `next` makes one update and hands it out, with its trace and its gradients. So nothing needs to be hooked
in: what is to happen between two updates stands in the body of the `for`.

What you will see: an update looked into; a loop that is left and begun again; a training that is saved, made anew by
other random numbers, loaded, and goes on to the same numbers, every bit of them; what is lost where only the weights
are saved; and a training that stops by itself, and keeps its best.
"""

# %%
# A training
# ----------
# The task: two of 15 numbers are marked, and the net is to say their sum after the last one. Each batch is drawn anew.
# Dropout draws, too: a training has several sources of chance.

import tempfile
from pathlib import Path

import numpy as np

from rnn_numpy import GRU, Adam, SequenceModel
from rnn_numpy.tasks import Adding
from rnn_numpy.training import Best, Draws, Patience, Training, evaluate, fit, load_checkpoint, save_checkpoint, train

task = Adding(15)


def start(seed: int) -> Training:
    """Make everything that a training needs."""
    layer = GRU(task.inputs, 16, num_layers=2, dropout=0.1, rng=seed)
    model = SequenceModel(layer, task.outputs, loss=task.loss, reads=task.reads, rng=seed + 1)
    batches = Draws(lambda rng: task.draw(32, rng), rng=seed + 2)
    return train(model, batches, Adam(model.params, lr=3e-3), clip=1.0, schedule=falling)


def falling(t: int) -> float:
    """The learning rate of update t + 1."""
    return 3e-3 / (1 + t / 300)


# %%
# One update, looked into
# -----------------------
# The trace holds what every step computed, and the gradient that came back to it. At first hardly any of it reaches the
# first steps.

training = start(0)
update = next(training)
print(update)
reach = np.linalg.norm(update.trace["l0"].dh, axis=(1, 2))
print(f"the gradient at the first state is {reach[0] / reach[-2]:.1e} of that at the last one\n")

# %%
# A loop that is left goes on where it was
# ----------------------------------------

for update in training:
    if update.number % 25 == 0:
        print(f"update {update.number:3}   loss {update.loss:.4f}   norm {update.clip.norm:.3f}   lr {update.lr:.2e}")
    if update.number == 100:
        break

for update in training:
    if update.number == 150:
        break
print(f"left at 100, begun again, left at {training.number}\n")

# %%
# Saved, and taken up again
# -------------------------
# A checkpoint is one file. It holds the parameters, the optimiser's moments, the number of updates, where the batches
# stand, and the state of every generator. It appears at once and whole: whoever pulls the plug finds the one before.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "training.npz"
save_checkpoint(path, training, task="adding", length=task.length)
straight = [next(training).loss for _ in range(50)]

again = start(1000)  # other initial values, other draws
checkpoint = load_checkpoint(path)
again.load_state_dict(checkpoint.training)
resumed = [next(again).loss for _ in range(50)]

print(f"{path.name}, {path.stat().st_size / 1024:.0f} kB, says {checkpoint.extra}")
print(f"50 losses: {sum(a == b for a, b in zip(straight, resumed, strict=True))} are equal to the last bit")
assert straight == resumed
assert training.model.params.flat.tobytes() == again.model.params.flat.tobytes()

# %%
# The weights alone are not enough
# --------------------------------
# They are what is usually saved. The optimiser then begins with moments of zero, the schedule with its highest learning
# rate, and dropout with other masks.

weights = start(1000)
weights.model.load_state_dict(checkpoint.training["parameters"])
losses = [next(weights).loss for _ in range(50)]
print(f"from the weights alone: {sum(a == b for a, b in zip(straight, losses, strict=True))} are\n")
assert straight != losses

# %%
# A damaged checkpoint is no checkpoint
# -------------------------------------
# The file's last bytes are the SHA-256 of all others.

data = bytearray(path.read_bytes())
data[len(data) // 2] ^= 1
path.write_bytes(data)
try:
    load_checkpoint(path)
except ValueError as error:
    print(str(error).replace(str(path), path.name))

# %%
# Until it gets no better
# -----------------------
# `fit` is the `for` for those who want nothing else: it validates, keeps the best, saves, and goes on where a training
# stands. Here it stops once three values in a row are not better by a hundredth. Held-out sequences are measured
# without dropout.

held_out = [task.held_out(200, np.random.default_rng(7))]
patience, best = Patience(3, min_delta=0.01), Best(training.model.params)
history = fit(
    training, 1000, validate=lambda: evaluate(training.model, held_out), every=40, patience=patience, best=best
)
best.restore()
print(f"\n{history}")
print(f"best {best.best:.4f} of a baseline of {task.baseline:.4f}, and that is what the model has now")
assert evaluate(training.model, held_out) == best.best < task.baseline
folder.cleanup()
