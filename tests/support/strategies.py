"""What hypothesis draws: a recurrent layer with its options, and all arrays of a forward and a backward pass."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import twin
from hypothesis import reject
from hypothesis import strategies as st

from rnn_numpy import GRU, LSTM, RNN

# Far above the step of a central difference, 6e-6, times what nets of this size make of it.
KINK_DISTANCE = 1e-3

KINDS = {
    "RNN": (RNN, {"nonlinearity": "tanh"}),
    "RNN relu": (RNN, {"nonlinearity": "relu"}),
    "LSTM": (LSTM, {}),
    "GRU": (GRU, {}),
    "GRU before": (GRU, {"reset": "before"}),
}
ELMAN, GATED = list(KINDS)[:2], list(KINDS)[2:]


@dataclass
class Setup:
    """A layer and its arrays, in the layer's axes; None where an argument is left out. States are tuples."""

    layer: Any
    x: Any
    states: Any
    lengths: Any
    doutput: Any
    dstates: Any
    masks: dict = field(default_factory=dict)

    def __repr__(self):
        given = [name for name in ("states", "doutput", "dstates") if getattr(self, name) is not None]
        return f"Setup({self.layer!r}, x{self.x.shape}, lengths={self.lengths}, given: {[*given, *self.masks]})"

    @property
    def unbatched(self):
        return self.x.ndim == 2

    def time_major(self, array):
        """Return an array with axes like x's as (T, N, ·)."""
        if array is None:
            return None
        if self.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.layer.batch_first else array

    def batched(self, states):
        """Return states, one array or several, as a tuple of (rows, N, ·)."""
        if states is None:
            return None
        states = states if isinstance(states, tuple) else (states,)
        return tuple(state[:, None] if self.unbatched else state for state in states)

    def forward(self):
        return self.layer.forward(self.x, single(self.states), self.lengths, training=False, **self.masks)

    def backward(self, trace, grads=None):
        return self.layer.backward(trace, self.doutput, single(self.dstates), grads)

    def problem(self):
        """Return what the textbook's loop runs."""
        T, N = self.time_major(self.x).shape[:2]
        names = {"masks": "dropout_masks", "recurrent_masks": "recurrent_masks", "zoneout_masks": "zoneout_masks"}
        masks = {ours: self.masks.get(name) for ours, name in names.items()}
        return twin.Problem(self.layer, [T] * N if self.lengths is None else self.lengths, **masks)

    def point(self):
        """Return every array by which the loss is differentiated, time first."""
        point = {**self.layer.state_dict(), "x": self.time_major(self.x)}
        names = [f"{name}_0" for name in self.layer.cell.states]
        return point if self.states is None else {**point, **dict(zip(names, self.batched(self.states), strict=True))}

    def gradients(self):
        """Return what backward gives, under the names and with the axes of `point`."""
        back = self.backward(self.forward()[2])
        initial = {f"{name}_0": getattr(back, f"d{name}_0") for name in self.layer.cell.states}
        initial = dict(zip(initial, self.batched(tuple(initial.values())), strict=True))
        return {**back.grads, "x": self.time_major(back.dx), **initial}

    def twins_gradients(self, point):
        return twin.gradients(self.problem(), point, self.time_major(self.doutput), self.batched(self.dstates))

    def seen(self, *names):
        """Return all values of these names, in all steps that exist, of the textbook's loop."""
        sight = twin.Sight()
        twin.run(self.problem(), twin.lifted(self.point()), sight)
        return np.concatenate([value.ravel() for place, value in sight.values.items() if place[-1] in names])

    def kink_distance(self):
        """Return the smallest |a|."""
        return np.abs(self.seen("a")).min()

    def saturation(self):
        """Return the smallest 1 - v^2 of what tanh gives, or 1 - s of what sigmoid gives; relu has none."""
        if isinstance(self.layer, RNN):
            return 1.0 if self.layer.nonlinearity == "relu" else (1 - np.tanh(self.seen("a")) ** 2).min()
        return min((1 - self.seen("g", "n", "tanh_c") ** 2).min(), (1 - self.seen("i", "f", "o", "r", "z")).min())


def single(states):
    """Return a tuple of states as the layers have them: one array where there is one state."""
    return states[0] if states is not None and len(states) == 1 else states


@st.composite
def setups(
    draw, kinds=tuple(KINDS), gains=(0.3, 1.0, 2.0), max_steps=5, max_batch=3, max_hidden=4, layers=3, masked=True
):
    """Draw a Setup; for relu, seeds are tried until no pre-activation lies near the kink.

    `masked` says whether recurrent dropout and zoneout, which torch does not have, are drawn, too.
    """
    kind, fixed = KINDS[draw(st.sampled_from(kinds), label="kind")]
    T, N = draw(st.integers(1, max_steps), label="T"), draw(st.integers(1, max_batch), label="N")
    D, H = draw(st.integers(1, 3), label="D"), draw(st.integers(1, max_hidden), label="H")
    num_layers = draw(st.integers(1, layers), label="num_layers")
    options = {
        **fixed,
        "num_layers": num_layers,
        "bias": draw(st.booleans(), label="bias"),
        "batch_first": draw(st.booleans(), label="batch_first"),
        "bidirectional": draw(st.booleans(), label="bidirectional"),
        "dropout": draw(st.sampled_from([0.0, 0.4]), label="dropout") if num_layers > 1 else 0.0,
    }
    if kind is LSTM:
        options["proj_size"] = draw(st.integers(0, H - 1), label="proj_size")
    recurrent, zoned = (draw(st.booleans(), label=label) if masked else False for label in ("dropped", "zoned"))
    unbatched = draw(st.booleans(), label="unbatched") if N == 1 else False
    lengths = None
    if not unbatched and draw(st.booleans(), label="with lengths"):
        lengths = draw(st.lists(st.integers(1, T), min_size=N, max_size=N), label="lengths")
    with_states = draw(st.booleans(), label="with initial states")
    paths = draw(st.sampled_from(["output", "states", "both"]), label="loss reads")
    gain = draw(st.sampled_from(gains), label="gain")
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        layer = kind(D, H, **options, rng=rng)
        layer.params.flat[:] *= gain
        x = rng.normal(size=(N, T, D) if layer.batch_first else (T, N, D))
        output, finals = layer(x)
        finals = finals if isinstance(finals, tuple) else (finals,)
        widths, masks = [state.shape[-1] for state in finals], {}
        if layer.dropout:
            shape = (T, N, output.shape[-1])
            masks["dropout_masks"] = [(rng.random(shape) >= 0.4) / 0.6 for _ in range(num_layers - 1)]
        names = [direction.name for directions in layer.stack for direction in directions]
        if recurrent:
            masks["recurrent_masks"] = {name: (rng.random((N, widths[0])) >= 0.3) / 0.7 for name in names}
        if zoned:
            masks["zoneout_masks"] = {name: [1.0 * (rng.random((T, N, w)) < 0.3) for w in widths] for name in names}
        states, dstates = ([rng.normal(size=state.shape) for state in finals] for _ in range(2))
        doutput = rng.normal(size=output.shape)
        if unbatched:
            x, doutput = x.reshape(T, D), doutput.reshape(T, -1)
            states, dstates = ([state[:, 0] for state in group] for group in (states, dstates))
        setup = Setup(
            layer,
            x,
            tuple(states) if with_states else None,
            lengths,
            None if paths == "states" else doutput,
            None if paths == "output" else tuple(dstates),
            masks,
        )
        if options.get("nonlinearity") != "relu" or setup.kink_distance() > KINK_DISTANCE:
            return setup
    # Small nets without bias have a = 0 wherever all units below are dead; no data help there.
    reject()
