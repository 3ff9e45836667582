"""
Encoder, decoder and attention
==============================

The lecture's third notebook: two networks of different sizes joined by one state, trained over the desired symbols and
used until ``<EOS>``; attention and its gradient; and a network that describes images of real digits, looking at one
part at a time.

It needs ``pip install ".[lab,data]" notebook``. There are two exercises that ``grade`` corrects, with hidden solutions.
"""

# %%
# Two networks and one state
# --------------------------
# The encoder reads the whole sequence; its last state sums up all that it has read. The decoder begins there, and can
# be of another size and make another number of steps: a matrix in between is enough. Backward is the same in reverse:
# what the decoder hands back to its initial state, ``dh_0``, goes through that matrix and enters the encoder as
# ``dh_n``.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import GRU, RNN, Adam, Linear, clip_grad_norm
from rnn_numpy.checks import grade
from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.lab import attention_split
from rnn_numpy.layers.attention import AttentionRNN
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.layers.textbook import attend_forward
from rnn_numpy.models import Captioner, EncoderDecoder, decode_greedy
from rnn_numpy.models.writing import shifted
from rnn_numpy.tasks import DigitCaptions, RomanNumerals

rng = np.random.default_rng(0)
encoder, bridge, decoder = GRU(3, 5, rng=0), Linear(5, 8, rng=1), GRU(4, 8, rng=2)
x, y = rng.normal(size=(7, 2, 3)), rng.normal(size=(4, 2, 4))

_, h_n, read = encoder.forward(x)
h_0, joined = bridge.forward(h_n)
output, _, written = decoder.forward(y, h_0)
print(f"x {x.shape} -> h_n {h_n.shape} -> h_0 {h_0.shape} -> output {output.shape}")

back = decoder.backward(written, output)
dh_n = bridge.backward(joined, back.dh_0).dx
dx = encoder.backward(read, None, dh_n).dx
print(f"dx {dx.shape} <- dh_n {dh_n.shape} <- dh_0 {back.dh_0.shape} <- doutput {output.shape}")

# %%
# The task
# --------
# Roman numerals: 1994 goes in, digit by digit, and MCMXCIV comes out. A 4 is IV, XL or CD depending on how many digits
# follow, so that all must be read before anything is written; and of 1 to 4 digits come 1 to 15 letters, so that the
# network must know when to end.
#
# PAD fills up, BOS begins and EOS ends. In training, ``for i in range(len(y_deseado))``: the decoder reads what is
# desired, moved by one place, whatever it says itself (teacher forcing). PAD and EOS must not be the same: if they
# were, the mask that hides what is filled up would hide the end, and the network would never learn to stop.

task = RomanNumerals()
letters = task.target_vocabulary


def shown(ids):
    names = {PAD: "PAD", BOS: "BOS", EOS: "EOS"}
    return " ".join(names[one] if one in names else letters.decode([one])[0] for one in ids)


source, source_lengths = task.encode(["1994", "40"])
target = np.stack([np.pad(letters.encode(text, end=True), (0, gap)) for text, gap in (("MCMXCIV", 0), ("XL", 5))], 1)
for n in range(2):
    print(f"x = {shown(shifted(target)[:, n])}")
    print(f"y = {shown(target[:, n])}")

# %%
# The loss is cross-entropy: the mean of -log p of the right symbol, with p = softmax(logits).
#
# Exercise 1: the gradient of cross-entropy
# -----------------------------------------
# ``logits`` is (N, V), and ``target`` has N whole numbers. If logits are large, exp overflows: ``grade`` tries it.


def my_cross_entropy(logits, target):
    p = ...
    return ...


print(grade(my_cross_entropy, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_cross_entropy(logits, target):
#         e = np.exp(logits - logits.max(axis=1, keepdims=True))
#         p = e / e.sum(axis=1, keepdims=True)
#         p[np.arange(len(target)), target] -= 1
#         return p / len(target)
#
# .. raw:: html
#
#     </details>
#
# Attention
# ---------
# A single state must sum up all of the input. With attention, the decoder looks again at all states of the encoder: it
# compares, chooses and adds up.
#
# ::
#
#     score_s = query . keys_s      alpha = softmax(score)      context = sum_s alpha_s values_s
#
# On the slide, ``keys`` and ``values`` are the same, the encoder's h_j. The rest, read as it stands, cannot be
# computed: z_t asks, from that comes c_t, and only with c_t the state of step t is computed. What is meant is that the
# state before asks, z_{t-1}; moreover, what the slide calls y_t is the new state, and the symbol comes out of it by a
# linear readout. And the dot product demands that both states be of the same size, while the two networks were of
# different sizes: that is why the usual score has a matrix in between (``general``).

values = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])[:, None]  # S = 3, N = 1, M = 2
query = np.array([[1.0, 0.0]])
alpha, context = attend_forward(query, values, values, np.ones((1, 3), bool))
print(f"score   {(values[:, 0] @ query[0]).round(4)}")
print(f"alpha   {alpha[0].round(4)}   sum {alpha.sum():.4f}")
print(f"context {context[0].round(4)}")

# %%
# Exercise 2: the gradient of attention
# -------------------------------------
# ``query`` and ``dcontext`` are (N, M), ``keys`` and ``values`` (S, N, M), ``alpha`` (N, S). The weights add up to 1:
# if one goes up, the others go down, and the softmax's Jacobian is not diagonal.


def my_attention(dcontext, alpha, query, keys, values):
    dvalues = ...
    dalpha = ...
    dscore = ...
    dquery, dkeys = ..., ...
    return dquery, dkeys, dvalues


print(grade(my_attention, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solution</summary>
#
# ::
#
#     def my_attention(dcontext, alpha, query, keys, values):
#         dvalues = alpha.T[:, :, None] * dcontext
#         dalpha = (values * dcontext).sum(axis=2).T
#         dscore = alpha * (dalpha - (alpha * dalpha).sum(axis=1, keepdims=True))
#         dquery, dkeys = (dscore.T[:, :, None] * keys).sum(axis=0), dscore.T[:, :, None] * query
#         return dquery, dkeys, dvalues
#
# .. raw:: html
#
#     </details>
#
# To train and to use
# -------------------
# A bidirectional GRU encoder of 24 units in each direction, and a GRU decoder of 40 with attention. 300 updates of 64
# pairs; the test's numbers are never seen.


def optimized(model, batches, updates, lr):
    optimizer, losses = Adam(model.params, lr), []
    for update in range(updates):
        optimizer.lr = lr * (1 - update / updates)
        loss, grads, _ = model.loss_and_grads(*next(batches))
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    return np.array(losses)


reader = GRU(16, 24, bidirectional=True, dtype=np.float32, rng=0)
writer = AttentionDecoder(16, 40, 48, cell="gru", score="general", dtype=np.float32, rng=1)
model = EncoderDecoder(reader, writer, len(task.source_vocabulary), len(letters), rng=2)
losses = optimized(model, iter(task.pairs("train").batches(64, rng=3)), 300, 1e-2)
print("L " + " ".join(f"{losses[start : start + 50].mean():.3f}" for start in range(0, 300, 50)))

# %%
# When it is used, ``while last_token != <EOS>``: what it has said last is what it reads. The slide's loop need not end:
# nothing makes a network say EOS. It lacks a bound.


def write(number, longest=20):
    (state,) = model.start(*task.encode([number]))
    last, said, looked = BOS, [], []
    while last != EOS and len(said) < longest:
        log_p, state = model.next([last], state)
        last = int(log_p[0].argmax())
        said.append(last)
        looked.append(state.alpha[0])
    return said, np.array(looked)


for number in ("7", "40", "1994", "3888"):
    print(f"{number:>6} -> {shown(write(number)[0])}")

tested = task.pairs("test")
answers = decode_greedy(model, tested.source, tested.source_lengths, max_length=20, together=64)
found = task.score(task.sources["test"], [letters.decode(one.tokens) for one in answers])
print(f"{len(answers)}: {100 * (1 - found.wrong):.0f} %")

# %%
# Of its mistakes, many are of short numbers: of the 3512 to train on, three in four have four digits, and of one digit
# the network has hardly seen any.
#
# Now, where it looks: each row is a letter that is written, each column a digit that was read. The weights say from
# where the context came; they do not prove that the letter depends on it.

said, looked = write("1994")
figure, ax = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
image = ax.imshow(looked, cmap="viridis", vmin=0, vmax=1, aspect="auto")
ax.set_xticks(range(4), list("1994"))
ax.set_yticks(range(len(said)), shown(said).split())
ax.set(xlabel="$s$", ylabel="$t$")
figure.colorbar(image, label=r"$\alpha_{t,s}$")
figure.savefig("RNN_enc_dec_alpha.png", dpi=110)

# %%
# Why attention cures vanishing
# -----------------------------
# The decoder's loss comes to each symbol that was read in three ways: by the values that were added up, by the weights
# that chose them, and by the chain of states. The gradient is linear, so that the split is exact. Here with untrained
# networks and an input of 60 steps: by the chain (``h_n``), hardly anything comes to the beginning; by the values
# (``values``) and the weights (``alpha``), as much to all.

S, D, H = 60, 8, 32
encoder, decoder = RNN(D, H, rng=1), AttentionRNN(D, H, rng=2)
memory, h_n, read = encoder.forward(rng.normal(size=(S, 4, D)))
output, _, written = decoder.forward(rng.normal(size=(6, 4, D)), h_n, given={"values": memory})
doutput = np.zeros_like(output)
doutput[-1] = rng.normal(size=(4, H))
back = decoder.backward(written, doutput)
split = attention_split(encoder, read, **back.given_ways["values"], bridge=back.dh_0)
print(f"{'|dL/dx_s|':10}" + "".join(f"{f'S-1-s = {lag}':>14}" for lag in (0, 10, 30, 59)))

ways = {"values": ("values", "#0072B2", "-"), "weights": ("alpha", "#E69F00", "--"), "bridge": ("h_n", "#D55E00", ":")}
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for way, (name, colour, style) in ways.items():
    line = split.by_lag(way).mean(axis=1)
    print(f"{name:10}" + "".join(f"{line[lag]:14.1e}" for lag in (0, 10, 30, 59)))
    ax.semilogy(line, color=colour, linestyle=style, linewidth=2, label=name)
ax.set(xlabel="$S - 1 - s$", ylabel=r"$\|\partial L / \partial x_s\|$", xlim=(0, S - 1))
ax.grid(alpha=0.3)
ax.legend(frameon=False)
figure.savefig("RNN_enc_dec_ways.png", dpi=110)

# %%
# Describing images
# -----------------
# The same, with an image in place of a sentence: one of scikit-learn's handwritten digits, in one of nine places of a
# canvas. What is gone through are 25 windows of 10 x 10 pixels; the caption is the digit, the row and the column. The
# digits of the test were not seen in training, and it is known where each of them is, so that it can be measured where
# the network looks when it names one: how much weight falls on the digit, and how much would, were all weights equal.

captions = DigitCaptions(most=1)
words = captions.vocabulary
sizes = {"hidden_size": 64, "memory_size": 64, "embedding_dim": 16}
captioner = Captioner(100, 25, len(words), **sizes, cell="gru", gate=False, dtype=np.float32, rng=0)
rng = np.random.default_rng(0)


def drawn():
    while True:
        batch = captions.draw(32, rng)
        yield batch._replace(memory=batch.memory.astype(np.float32))


optimized(captioner, drawn(), 450, 2e-2)
scenes = captions.scenes(300, 1, held_out=True)
memory = scenes.batch.memory.astype(np.float32)
written = decode_greedy(captioner, memory, max_length=6, together=64)
said = [words.decode(one.tokens) for one in written]
for place, name in enumerate(("digit", "row", "column")):
    pairs = zip(said, scenes.captions, strict=True)
    right = np.mean([one[place : place + 1] == truth[place : place + 1] for one, truth in pairs])
    print(f"{name:7}{100 * right:4.0f} %")
_, alpha, _, _ = captioner.read(memory, *scenes.batch[1:])
focus = captions.attention(scenes, alpha)
print(f"alpha  {focus.mass:.3f} (1/25: {focus.uniform:.3f})")

# %%
# After some hundred updates, a few seconds, the place is always right, and the digit half of the time or more (by
# chance, one in ten). Trained for some minutes, it names nine in ten: ``rnn-numpy train captions``. In the figure, four
# images of the test with what the network says; the circle is larger where it looks more when it names the digit.

figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
centres = 5 + 5 * np.arange(5) - 0.5
across, down = np.meshgrid(centres, centres)
for n, ax in enumerate(axes):
    ax.imshow(scenes.images[n], cmap="gray_r", vmin=0, vmax=1)
    ax.scatter(across, down, s=600 * written[n].alpha[0], facecolors="none", edgecolors="#D55E00", linewidths=2)
    ax.set_title(" ".join(said[n]), fontsize=10)
    ax.set(xticks=[], yticks=[])
figure.savefig("RNN_enc_dec_captions.png", dpi=110)

# %%
# This ends the course. To go on: ``rnn-numpy step`` steps through a network's gradient in the terminal, ``gradcheck``
# checks a network of one's own, and the gallery of examples has more of everything.
