"""
Why attention cures vanishing
=============================

A decoder's loss says something about every word that the encoder has read. By the chain of states it gets there step by
step, and each step multiplies: after a hundred of them nothing is left. By attention it gets there at once, in two
ways: through the rows that were read (values), and through the comparison that chose them (weights). Backward is
linear, so that the encoder's gradient can be split exactly into these three.

What you will see: a table of norms by lag, the distance of a source position from the source's end, for an Elman
network and an LSTM, both untrained; and a figure, `plot_attention_gradient.png`, of all lags.
"""

# %%
# An encoder, the lecture's decoder, and one loss
# -----------------------------------------------
# 100 source positions, 32 units, torch's initial values. The loss is at the decoder's step 5 alone, a random direction
# of its output; eight sequences, so that a line is a mean of norms.

import numpy as np

from rnn_numpy import LSTM, RNN
from rnn_numpy.lab import attention_split
from rnn_numpy.layers.attention import AttentionLSTM, AttentionRNN

S, H, D, N, STEP = 100, 32, 16, 8, 5
LAGS = (0, 10, 50, 99)
WAYS = {"values": "attention, by the values", "weights": "attention, by the weights", "bridge": "recurrence alone"}


def split_of(encoder_kind, decoder_kind):
    rng = np.random.default_rng(0)
    encoder, decoder = encoder_kind(D, H, rng=1), decoder_kind(D, H, rng=2)
    memory, final, trace = encoder.forward(rng.normal(size=(S, N, D)))
    output, _, read = decoder.forward(rng.normal(size=(STEP + 1, N, D)), final, given={"values": memory})
    doutput = np.zeros_like(output)
    doutput[STEP] = rng.normal(size=(N, H)) / np.sqrt(H)
    back = decoder.backward(read, doutput)
    states = [getattr(back, f"d{state}_0") for state in decoder.cell.states]
    bridge = states[0] if len(states) == 1 else tuple(states)
    return attention_split(encoder, trace, **back.given_ways["values"], bridge=bridge)


splits = {"RNN": split_of(RNN, AttentionRNN), "LSTM": split_of(LSTM, AttentionLSTM)}

# %%
# The table
# ---------
# The three add up to the whole gradient; what is left of the difference is rounding.

profiles = {}
for name, split in splits.items():
    profiles[name] = {way: split.by_lag(way).mean(axis=1) for way in WAYS}
    print(f"{name}: norms of dL/dx by lag; sum of the ways against the whole: {split.residual:.1e}")
    print(f"  {'lag':>4}" + "".join(f"{way:>12}" for way in WAYS))
    for lag in LAGS:
        print(f"  {lag:4d}" + "".join(f"{profiles[name][way][lag]:12.1e}" for way in WAYS))

# %%
# The picture
# -----------
# The chain falls exponentially with the lag, until doubles hardly hold it; attention does not fall at all. That it is
# small everywhere is a matter of the weights, which an untrained net spreads over all 100 positions: it shrinks with
# the length of the source, not with the lag, and training can sharpen it.

import matplotlib.pyplot as plt

LOOKS = {"values": ("#0072b2", "-"), "weights": ("#e69f00", "--"), "bridge": ("#000000", ":")}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for ax, (name, lines) in zip(axes, profiles.items(), strict=True):
    for way, label in WAYS.items():
        colour, style = LOOKS[way]
        ax.semilogy(lines[way], color=colour, linestyle=style, linewidth=1.8, label=label)
    ax.set(title=f"{name} encoder", xlabel="lag: steps from the source's end")
    ax.grid(alpha=0.3)
axes[0].set_ylabel("norm of d$L$/d$x$")
axes[1].legend(loc="lower left")
figure.savefig("plot_attention_gradient.png", dpi=130)
print("figure: plot_attention_gradient.png")
