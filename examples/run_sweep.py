"""
A sweep that can be stopped, extended and debugged
==================================================

How far back does a gradient reach, and does that depend on the cell, on the gain, or on the luck of the draw? To know
means to compute the same thing for many networks. A sweep does that in parallel, keeps each result at once in a file,
and computes no point twice: it may be killed and started again, and it may grow.

What you will see: a sweep over two cells, three gains and three seeds; the same one with more gains, of which only the
new points are computed; points that fail, and what is kept of them; and the averages.
"""

# %%
# What is computed at one point
# -----------------------------
# A function of module level with named arguments. What it returns must fit into JSON: numbers, text, lists, dicts. It
# makes all that it needs, with a seed that it is given: then a point is the same whenever and wherever it is computed.

import math
import tempfile
from pathlib import Path

import numpy as np

from rnn_numpy import LSTM, RNN
from rnn_numpy.experiments import sweep
from rnn_numpy.lab import set_recurrent_weights

T, N, H = 60, 4, 24
CELLS = {"rnn": RNN, "lstm": LSTM}


def reach(cell: str, gain: float, seed: int) -> dict[str, float]:
    """By what factor a gradient shrinks or grows per step on its way back from the last one, and to what at step 0."""
    rng = np.random.default_rng(seed)
    net = CELLS[cell](1, H, rng=rng)
    set_recurrent_weights(net, gain, "uniform", rng)
    output, _, trace = net.forward(rng.normal(size=(T, N, 1)))
    doutput = np.zeros_like(output)
    doutput[-1] = rng.normal(size=(N, H))
    net.backward(trace, doutput)
    norms = np.linalg.norm(trace.dh, axis=(1, 2))
    slope = np.polyfit(np.arange(T + 1), np.log(norms), 1)[0]  # over time, so that going back is against it
    return {"factor": math.exp(-slope), "arrives": norms[0] / norms[-1]}


# %%
# The sweep
# ---------
# Its points are all combinations, and they are computed by worker processes, one per core. A worker begins by importing
# this file, as Python's processes do; so what is to happen once stands under the line that only the first process
# passes. A store has one line of text for each finished point. (In a notebook there is no file to import: keep `reach`
# in a module of its own, or say `executor="serial"` in place of 2.)

if __name__ == "__main__":
    folder = tempfile.TemporaryDirectory()
    store = Path(folder.name) / "results.jsonl"

    grid = {"cell": ["rnn", "lstm"], "gain": [0.5, 1.0, 1.5], "seed": [0, 1, 2]}
    result = sweep(reach, grid, executor=2, store=store)
    print(result)
    print(f"\nthe first line of {store.name}:\n{store.read_text().splitlines()[0]}")

# %%
# The same with two more gains
# ----------------------------
# This is also what happens after a kill or Ctrl-C: run the script again, and what is in the store is taken from there.
# When the function changes, its results are no longer the same thing: then give it a version, and change that.

if __name__ == "__main__":
    grid["gain"] += [2.0, 0.0]
    result = sweep(reach, grid, executor=2, store=store)
    print(f"\nwith two more gains: {result.computed} computed, {result.reused} reused, {result.failed} failed")
    assert (result.computed, result.reused, result.failed) == (12, 18, 6)

# %%
# What failed, and why
# --------------------
# A gain of 0 is refused, since then no gradient reaches any earlier step. A point that fails does not stop the others;
# its error is kept with its traceback. To look into it, compute it here, in this process, where a breakpoint works:
# executor="serial". To compute such points again once they are mended: retry_failed=True.

if __name__ == "__main__":
    failed = [row for row in result.rows if row["error"]]
    assert all(row["point"]["gain"] == 0 for row in failed)
    print(f"{failed[0]['point']} failed:\n{failed[0]['error']['traceback']}")
    again = sweep(reach, [failed[0]["point"]], executor="serial", store=None)
    assert again.failed == 1

# %%
# Averages
# --------
# One array per name, made for this. Other executors (threads, the cluster of a `distributed.Client`, MPI) go into the
# same place as the number of processes above: executor=client.get_executor().

if __name__ == "__main__":
    columns = result.to_columns()
    print("cell    gain   factor per step, mean over the seeds and range")
    for cell in grid["cell"]:
        for gain in (gain for gain in grid["gain"] if gain > 0):
            factors = columns["factor"][(columns["cell"] == cell) & (columns["gain"] == gain)]
            print(f"{cell:<5} {gain:5.1f}   {factors.mean():.3f}   {factors.min():.3f} to {factors.max():.3f}")
    folder.cleanup()
