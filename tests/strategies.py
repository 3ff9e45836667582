"""What hypothesis draws: an RNN with its options, and all arrays of a forward and a backward pass."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from rnn_numpy import RNN

# Far above the step of a central difference, 6e-6, times what nets of this size make of it.
KINK_DISTANCE = 1e-3


@dataclass
class Setup:
    """A layer and its arrays, in the layer's axes; None where an argument is left out."""

    rnn: RNN
    x: Any
    h_0: Any
    lengths: Any
    masks: Any
    doutput: Any
    dh_n: Any

    def __repr__(self):
        given = [name for name in ("h_0", "lengths", "masks", "doutput", "dh_n") if getattr(self, name) is not None]
        return f"Setup({self.rnn!r}, x{self.x.shape}, lengths={self.lengths}, given: {', '.join(given)})"

    @property
    def unbatched(self):
        return self.x.ndim == 2

    def time_major(self, array):
        """Return an array with axes like x's as (T, N, ·)."""
        if self.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.rnn.batch_first else array

    def forward(self):
        if self.masks is None:
            return self.rnn.forward(self.x, self.h_0, self.lengths, training=False)
        return self.rnn.forward(self.x, self.h_0, self.lengths, dropout_masks=self.masks)

    def smallest(self, function):
        """Return the smallest function(a) over all pre-activations of steps that exist."""
        trace = self.forward()[2]
        steps, batch = trace.a.shape[:2]
        lengths = np.full(batch, steps) if self.lengths is None else np.array(self.lengths)
        alive = np.arange(steps)[:, None] < lengths
        return min(function(run.a[alive]).min() for run in trace.runs.values())

    def kink_distance(self):
        """Return the smallest |a|."""
        return self.smallest(np.abs)

    def saturation(self):
        """Return the smallest derivative of tanh."""
        return self.smallest(lambda a: 1 - np.tanh(a) ** 2)


@st.composite
def setups(draw, gains=(0.3, 1.0, 2.0), max_steps=5, max_batch=3, max_hidden=4, layers=3):
    """Draw a Setup; for relu, seeds are tried until no pre-activation lies near the kink."""
    T, N = draw(st.integers(1, max_steps), label="T"), draw(st.integers(1, max_batch), label="N")
    D, H = draw(st.integers(1, 3), label="D"), draw(st.integers(1, max_hidden), label="H")
    num_layers = draw(st.integers(1, layers), label="num_layers")
    options = {
        "num_layers": num_layers,
        "nonlinearity": draw(st.sampled_from(["tanh", "relu"])),
        "bias": draw(st.booleans(), label="bias"),
        "batch_first": draw(st.booleans(), label="batch_first"),
        "bidirectional": draw(st.booleans(), label="bidirectional"),
        "dropout": draw(st.sampled_from([0.0, 0.4]), label="dropout") if num_layers > 1 else 0.0,
    }
    unbatched = draw(st.booleans(), label="unbatched") if N == 1 else False
    lengths = None
    if not unbatched and draw(st.booleans(), label="with lengths"):
        lengths = draw(st.lists(st.integers(1, T), min_size=N, max_size=N), label="lengths")
    with_h_0 = draw(st.booleans(), label="with h_0")
    paths = draw(st.sampled_from(["output", "h_n", "both"]), label="loss reads")
    gain = draw(st.sampled_from(gains), label="gain")
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        rnn = RNN(D, H, **options, rng=rng)
        rnn.params.flat[:] *= gain
        x = rng.normal(size=(T, N, D))
        output, h_n = rnn(x.swapaxes(0, 1) if rnn.batch_first else x)
        if rnn.batch_first:
            x = x.swapaxes(0, 1)
        masks = None
        if rnn.dropout:
            shape = (T, N, rnn.num_directions * H)
            masks = [(rng.random(shape) >= 0.4) / 0.6 for _ in range(num_layers - 1)]
        h_0, dh_n = rng.normal(size=h_n.shape), rng.normal(size=h_n.shape)
        doutput = rng.normal(size=output.shape)
        if unbatched:
            x, h_0, dh_n, doutput = x.reshape(T, D), h_0[:, 0], dh_n[:, 0], doutput.reshape(T, -1)
        setup = Setup(
            rnn,
            x,
            h_0 if with_h_0 else None,
            lengths,
            masks,
            None if paths == "h_n" else doutput,
            None if paths == "output" else dh_n,
        )
        if rnn.nonlinearity == "tanh" or setup.kink_distance() > KINK_DISTANCE:
            return setup
    # Small nets without bias have a = 0 wherever all units below are dead; no data help there.
    reject()
