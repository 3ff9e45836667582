"""
One to many: a digit is named, and a net draws it
=================================================

The lecture's one-to-many: something is told once, and a sequence comes of it. Here a digit's name goes in at the first
step, and the eight rows of its image come out, one at each step. What the net has drawn goes in again at the next step;
the name does not, the state must hold it. Real digits, handwritten, from scikit-learn.

What you will see: how far the drawings are from digits that were held out, beside the mean images; what a reader of
digits makes of the drawings; and `plot_one_to_many.png`: mean images, the net's drawings, and drawings whose first row
was someone's.
"""

# %%
# The data
# --------
# A sequence has T = 8 steps. Its inputs are the row drawn before (white at first) and, at the first step alone, the
# digit, one-hot; its targets are the rows. In training the row before is the true one: teacher forcing.

import numpy as np

from rnn_numpy import GRU, Adam
from rnn_numpy.models import SequenceModel
from rnn_numpy.report.plots.style import new_figure, save_figure
from rnn_numpy.tasks.digits import CLASSES, SIDE, load_digits, nearest_neighbours
from rnn_numpy.training import Batches, train

training_part, _, test = load_digits().split()


def sequences(images, labels):
    """Return inputs, (T, N, 8 + 10), and targets, (T, N, 8)."""
    rows = images.swapaxes(0, 1)
    x = np.zeros((SIDE, len(images), SIDE + CLASSES), np.float32)
    x[1:, :, :SIDE] = rows[:-1]
    x[0, np.arange(len(images)), SIDE + labels] = 1
    return x, np.ascontiguousarray(rows, np.float32)


# %%
# Training
# --------

rng = np.random.default_rng(0)
model = SequenceModel(GRU(SIDE + CLASSES, 96, dtype=np.float32, rng=rng), SIDE, reads="all", loss="mse", rng=rng)
x, target = sequences(training_part.images, training_part.labels)
batches = Batches(x, target, batch_size=50, axis=1, rng=rng, epochs=40)
training = train(model, batches, Adam(model.params, 4e-3), schedule=lambda t: 4e-3 * 0.9985**t, clip=1.0)
for update in training:
    if update.number % 240 == 0:
        held_out = model.loss_of(*sequences(test.images, test.labels))
        print(f"update {update.number:4}  squared error {update.loss:.4f}, on test digits {held_out:.4f}")

# %%
# Drawing
# -------
# Now the net is fed with its own rows. Nothing is random: each digit has one drawing. With a first row of someone's, it
# goes on as that person might have.


def draw(labels, first=None):
    """Return images, (n, 8, 8); where `first`, (n, 8), is given, it is the first row."""
    images = np.zeros((len(labels), SIDE, SIDE))
    row, state = np.zeros((len(labels), SIDE)), None
    for t in range(SIDE):
        x_t = np.zeros((1, len(labels), SIDE + CLASSES), np.float32)
        x_t[0, :, :SIDE] = row
        if t == 0:
            x_t[0, np.arange(len(labels)), SIDE + labels] = 1
        prediction, state = model(x_t, state)
        row = np.clip(prediction[0], 0, 1) if first is None or t > 0 else first
        images[:, t] = row
    return images


names = np.arange(CLASSES)
means = np.stack([training_part.images[training_part.labels == k].mean(axis=0) for k in names])
drawn = draw(names)
chosen = np.array([[np.flatnonzero(test.labels == k)[i] for k in names] for i in (3, 7)])
begun = [draw(names, test.images[which, 0]) for which in chosen]

# %%
# What came of it
# ---------------
# Where the first row is given, the drawing can be held against the rest of that very digit.

labels = test.labels
continued = draw(labels, test.images[:, 0])
for text, images in [("mean image of the digit", means[labels]), ("drawn from its name", drawn[labels]),
                     ("drawn from its name and its first row", continued)]:  # fmt: skip
    error = np.mean((images[:, 1:] - test.images[:, 1:]) ** 2)
    print(f"squared error of rows 2 to 8 of a test digit, {text}: {error:.4f}")
readable = nearest_neighbours(training_part, np.concatenate([drawn, continued])) == np.concatenate([names, labels])
print(
    f"read as what was to be drawn: {readable[:10].sum()} of 10 from names, {readable[10:].mean():.1%} with first rows"
)
assert readable[10:].mean() > 0.9

# %%
# The picture
# -----------

figure = new_figure(9.0, 6.2)
axes = figure.subplots(6, CLASSES)
shown = [("mean", means), ("drawn", drawn)]
for which, drawing in zip(chosen, begun, strict=True):
    shown += [("someone's", test.images[which]), ("first row\nof that", drawing)]
for line, (name, images) in zip(axes, shown, strict=True):
    for ax, image in zip(line, images, strict=True):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks([])
        if name.startswith("first"):
            ax.axhline(0.5, color="#D55E00", linewidth=1.2)
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("Told the digit at the first step, the net draws it row by row")
save_figure(figure, "plot_one_to_many.png", ".png")
