"""
Many to one: a digit is read row by row, and named at the end
=============================================================

The lecture's many-to-one: a sequence goes in, and one answer comes out after its last step. Here the sequence is
the eight rows of a handwritten digit, from the top, and the answer is which digit it is. Real digits, from
scikit-learn; the last 397 of the file, mostly of other writers than those trained on, are the test.

What you will see: a GRU that learns it in some seconds, also for digits of which only the first rows are seen, beside
the nearest class mean and the nearest neighbours; and `plot_many_to_one.png`: test digits, and how what the net takes
them for changes with every row.
"""

# %%
# The data
# --------
# A batch of images (N, 8, 8) is a batch of sequences (T, N, D), T = D = 8. Half of them are cut off after some rows:
# they have lengths. The loss is the cross-entropy of the one answer, after each sequence's own last step.

import numpy as np

from rnn_numpy import GRU, Adam
from rnn_numpy.models import SequenceModel
from rnn_numpy.report.plots.style import new_figure, save_figure
from rnn_numpy.tasks.digits import CLASSES, SIDE, load_digits, nearest_mean, nearest_neighbours
from rnn_numpy.training import Draws, train

training_part, validation, test = load_digits().split()


def sequences(images):
    return np.ascontiguousarray(images.swapaxes(0, 1), np.float32)


def draw(rng):
    """Return a batch: sequences, classes, no mask, lengths. The noise is for writers who press harder or softer."""
    chosen = training_part[rng.integers(len(training_part), size=32)]
    lengths = np.where(np.arange(32) < 16, SIDE, rng.integers(1, SIDE, size=32, endpoint=True))
    return sequences(chosen.images + 0.2 * rng.standard_normal(chosen.images.shape)), chosen.labels, None, lengths


# %%
# Training
# --------

rng = np.random.default_rng(0)
updates, lr = 1500, 5e-3
model = SequenceModel(GRU(SIDE, 64, dtype=np.float32, rng=rng), CLASSES, reads="last", loss="cross_entropy", rng=rng)
training = train(model, Draws(draw, rng), Adam(model.params, lr), schedule=lambda t: lr * (1 - t / updates), clip=1.0)
while training.number < updates:
    update = next(training)
    if update.number % 300 == 0:
        right = (model(sequences(validation.images))[0].argmax(axis=1) == validation.labels).mean()
        print(f"update {update.number:4}  loss {update.loss:.3f}  {right:.1%} of the validation digits are read right")

# %%
# What it gets right
# ------------------
# `rnn-numpy train digits` reads in both directions, trains longer, and gets more of them.


def asked_after(rows):
    """Return what the net says after so many rows, (N, 10), as probabilities."""
    logits = model(sequences(test.images), lengths=np.full(len(test), rows))[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


beliefs = np.stack([asked_after(rows) for rows in range(1, SIDE + 1)])  # (T, N, 10)
read = beliefs.argmax(axis=2)  # (T, N)
for name, labels in {
    "nearest class mean": nearest_mean(training_part, test.images),
    "3 nearest neighbours": nearest_neighbours(training_part, test.images),
    "GRU, row by row": read[-1],
}.items():
    print(f"{name:20} {(labels == test.labels).mean():.1%} of the test digits")
shares = (read == test.labels).mean(axis=1)
print("GRU, after as many rows:", "  ".join(f"{rows}: {share:.0%}" for rows, share in enumerate(shares, start=1)))
assert shares[-1] > 0.85

# %%
# The picture
# -----------
# Four digits that it takes for others for long and reads right in the end, and two that it reads wrong.

changes = (np.diff(read, axis=0) != 0).sum(axis=0)
right = np.flatnonzero((read[-1] == test.labels) & (beliefs[-1].max(axis=1) > 0.9))
wrong = np.flatnonzero(read[-1] != test.labels)
late = right[np.argsort(-changes[right], kind="stable")]
shown = []
for numbers, most in ((late, 4), (wrong, 2)):
    first = {test.labels[n]: n for n in numbers[::-1]}  # of each digit the first in this order
    shown += sorted(first.values(), key=list(numbers).index)[:most]
figure = new_figure(9.6, 5.4)
axes = figure.subplots(2, 6, height_ratios=(1, 1.6))
for n, above, below in zip(shown, axes[0], axes[1], strict=True):
    above.imshow(test.images[n], cmap="gray_r", vmin=0, vmax=1)
    below.imshow(beliefs[:, n], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    below.plot(read[:, n], np.arange(SIDE), "o", color="#D55E00", markersize=4)
    verdict = "read right" if read[-1, n] == test.labels[n] else f"read as {read[-1, n]}"
    above.set_title(f"{test.labels[n]}, {verdict}", fontsize=10)
    above.axis("off")
    below.set_xticks(range(CLASSES))
    below.set_yticks(range(SIDE), labels=[str(rows) for rows in range(1, SIDE + 1)])
    below.set_xlabel("taken for")
axes[1, 0].set_ylabel("rows read")
figure.suptitle("What a digit is taken for after each of its rows: probabilities, the largest marked")
save_figure(figure, "plot_many_to_one.png", ".png")
