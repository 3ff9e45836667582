"""
A language model, read as it learns
===================================

After each character of a text the network says which one comes next: as many answers as steps, the lecture's
many-to-many, aligned. The text is real, the help that every CPython brings along; the loop that trains is one that can
be stepped, so that what would be a callback elsewhere stands in the body of a `for`.

What you will see: how fast a GRU learns to spell, at first letter frequencies, then words, then something like a
sentence; bits per character beside models that only count; how far the gradient of a prediction reaches back in the
trained network; and the training stopped and taken up again where it was.
"""

# %%
# The text and its characters
# ---------------------------
# A character is an id, an id a row of the embedding. The last twentieth of the text is held out.

import itertools
import math

import numpy as np

from rnn_numpy import GRU, Adam
from rnn_numpy.models import LanguageModel
from rnn_numpy.tasks.text import Vocabulary, load_text, split
from rnn_numpy.tasks.text_baselines import KneserNey
from rnn_numpy.training import Windows, train

text = load_text("pydoc")
vocabulary = Vocabulary.of(text)
training_ids, _, test_ids = (vocabulary.encode(part) for part in split(text))
V = len(vocabulary)
print(f"{len(text)} characters, {V} different ones; a blind guess costs {math.log2(V):.2f} bits per character")

counts = KneserNey(training_ids, V)
bits = {k: -np.log2(counts.probabilities(test_ids, k)).mean() for k in range(4)}
for k, value in bits.items():
    print(f"  counts of runs of {k + 1} characters: {value:.2f} bits")

# %%
# One step at a time
# ------------------
# 16 columns of text are read side by side, 32 characters at a time: each window begins from the state in which the one
# before has ended, but its gradient goes back to its own first character and no further (truncated back-propagation).

model = LanguageModel(GRU(24, 64, dtype=np.float32, rng=0), V, rng=0)
windows = Windows(training_ids, batch=16, length=32)
training = train(model, windows, Adam(model.params, lr=1e-2), clip=5.0, stateful=True)


def sample(prompt, length=64):
    """Return how the model goes on, on one line."""
    ids = model.generate(vocabulary.encode(prompt), length, temperature=0.7, rng=1)
    return repr(prompt + vocabulary.decode(ids))


for update in training:
    if update.number in (1, 30, 100, 300, 1000):
        print(f"update {update.number:>4}, loss {update.loss / math.log(2):.2f} bits   {sample('The ')}")
    if update.number == 1000:
        break

# %%
# Against counting
# ----------------
# One pass over the text that was held out, the state carried all along.

reached = model.bits(test_ids)
print(f"\nafter {training.number} updates: {reached:.2f} bits per character of the held-out text")
assert reached < bits[2] < bits[1]  # better than counts of runs of three

# %%
# The loop goes on where it was left
# ----------------------------------
# What `break` has left behind is an iterator. The rate may fall now.

training.optimizer.lr = 1e-3
*_, update = itertools.islice(training, 200)
reached, before = model.bits(test_ids), reached
print(f"update {update.number}, at a lower rate: {reached:.2f} bits")
assert reached < before

# %%
# How far back a prediction reaches
# ---------------------------------
# One loss, after a stretch of text, and its gradient at each state before. Training has gone back 31 characters at
# most; the network that came of it hands on a good part of the gradient beyond. What truncation cuts off the whole
# gradient is measured by `rnn-numpy train lm`.

stretch = test_ids[:200, None]
output, _, trace = model.rnn.forward(model.embedding(stretch))
logits, readout_trace = model.readout.forward(output[-1])
p = np.exp(logits - logits.max())
p /= p.sum()
p[0, test_ids[200]] -= 1  # of the cross-entropy of the character that follows
doutput = np.zeros_like(output)
doutput[-1] = model.readout.backward(readout_trace, p).dx
model.rnn.backward(trace, doutput)
sizes = np.linalg.norm(trace["l0"].dh[:, 0], axis=-1)
for lag in (0, 1, 2, 4, 8, 16, 32, 64, 128):
    print(f"  {lag:>3} characters back: {sizes[-1 - lag] / sizes[-1]:.1e} of the gradient at the prediction itself")
assert sizes[-33] > 0.01 * sizes[-1]
