"""The recurrent layers as the textbook writes them, step by step and sequence by sequence, without any backward pass.

Nothing here is shared with the engine. Gradients are derivatives by the complex step: of the parameters and inputs, and
of every intermediate value as well, since `see` may add to it. All arrays have one axis in front, of entries that are
perturbed at once, so that one run gives many derivatives.
"""

from dataclasses import dataclass, field

import numpy as np

STEP = 1e-20


def times(W, v):
    """W v for (P, M, K) and (P, K)."""
    return (W @ v[..., None])[..., 0]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn_step(see, p, x, h_in, h, nonlinearity):
    a = see("a", times(p["weight_ih"], x) + times(p["weight_hh"], h_in) + p["bias_ih"] + p["bias_hh"])
    return (np.tanh(a) if nonlinearity == "tanh" else np.where(a.real > 0, a, 0),)


def lstm_step(see, p, x, h_in, h, c):
    a = see("a", times(p["weight_ih"], x) + times(p["weight_hh"], h_in) + p["bias_ih"] + p["bias_hh"])
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
    a_i, a_f, a_g, a_o = see("a_i", a_i), see("a_f", a_f), see("a_g", a_g), see("a_o", a_o)
    i, f = see("i", sigmoid(a_i)), see("f", sigmoid(a_f))
    g, o = see("g", np.tanh(a_g)), see("o", sigmoid(a_o))
    c = see("c_new", f * c + i * g)
    m = see("m", o * see("tanh_c", np.tanh(c)))
    return (times(p["weight_hr"], m) if "weight_hr" in p else m), c


def gru_step(see, p, x, h_in, h, reset):
    x_r, x_z, x_n = np.split(see("a_ih", times(p["weight_ih"], x) + p["bias_ih"]), 3, axis=-1)
    W_hr, W_hz, W_hn = np.split(p["weight_hh"], 3, axis=-2)
    b_hr, b_hz, b_hn = np.split(see("a_hh", p["bias_hh"]), 3, axis=-1)
    r = see("r", sigmoid(see("a_r", x_r + times(W_hr, h_in) + b_hr)))
    z = see("z", sigmoid(see("a_z", x_z + times(W_hz, h_in) + b_hz)))
    if reset == "after":
        a_n = x_n + r * see("q", times(W_hn, h_in) + b_hn)
    else:
        a_n = x_n + times(W_hn, see("k", r * h_in)) + b_hn
    n = see("n", np.tanh(see("a_n", a_n)))
    return ((1 - z) * n + z * h,)


def step_of(layer):
    """Return the formula of a layer, its options filled in."""
    kind = type(layer).__name__
    if kind == "RNN":
        return lambda *arguments: rnn_step(*arguments, layer.nonlinearity)
    return lstm_step if kind == "LSTM" else lambda *arguments: gru_step(*arguments, layer.reset)


@dataclass
class Problem:
    """What a run needs beside its point: lengths, one for each sequence, and masks as `forward` has them."""

    layer: object
    lengths: list
    masks: list | None = None
    recurrent_masks: dict | None = None
    zoneout_masks: dict | None = None


@dataclass
class Sight:
    """What a run saw at one place: values by (layer and direction, t, n, name), and what it adds to some of them."""

    nudges: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)

    def at(self, *place):
        def see(name, value):
            nudge = self.nudges.get((*place, name))
            value = value if nudge is None else value + nudge
            self.values[(*place, name)] = value
            return value

        return see


def run(problem, point, sight=None):
    """Return output (P, T, N, ·) and the final states (P, rows, N, ·), each array of `point` having an axis P in front.

    `point` has the parameters under their names, "x", and the initial states under "h_0", "c_0"; missing ones are 0.
    """
    layer, sight = problem.layer, sight or Sight()
    names, step, x = layer.cell.states, step_of(layer), point["x"]
    widths = [layer.width(name) for name in names]
    stacked = max([len(array) for array in point.values()] + [len(nudge) for nudge in sight.nudges.values()])
    T, N, dtype, rows = *x.shape[1:3], x.dtype, layer.num_layers * layer.num_directions
    finals = [np.zeros((stacked, rows, N, width), dtype) for width in widths]
    for k in range(layer.num_layers):
        output = np.zeros((stacked, T, N, layer.num_directions * widths[0]), dtype)
        for d in range(layer.num_directions):
            name, row = f"l{k}" + "_reverse" * d, k * layer.num_directions + d
            end = "_" + name
            p = {key.removesuffix(end): array for key, array in point.items() if key.endswith(end)}
            p = {key: array for key, array in p.items() if not key.endswith("_reverse")}
            p = {
                "bias_ih": np.zeros((1, p["weight_ih"].shape[1])),
                "bias_hh": np.zeros((1, p["weight_ih"].shape[1])),
            } | p
            for n, length in enumerate(problem.lengths):
                state = [
                    point[f"{s}_0"][:, row, n] if f"{s}_0" in point else np.zeros((1, width), dtype)
                    for s, width in zip(names, widths, strict=True)
                ]
                for t in range(length) if d == 0 else reversed(range(length)):
                    see = sight.at(name, t, n)
                    for s, old in zip(names, state, strict=True):
                        see(f"{s}_prev", old)
                    drop = 1.0 if problem.recurrent_masks is None else problem.recurrent_masks[name][n]
                    new = step(see, p, see("x", x[:, t, n]), see("h_in", drop * state[0]), *state)
                    new = (see(f"{names[0]}_new", new[0]), *new[1:])
                    if problem.zoneout_masks is not None:
                        kept = [mask[t, n] for mask in problem.zoneout_masks[name]]
                        zoned = zip(kept, state, new, strict=True)
                        new = [keep * old + (1 - keep) * fresh for keep, old, fresh in zoned]
                    state = [see(s, value) for s, value in zip(names, new, strict=True)]
                    output[:, t, n, d * widths[0] : (d + 1) * widths[0]] = state[0]
                for final, value in zip(finals, state, strict=True):
                    final[:, row, n] = value
        x = output
        if problem.masks is not None and k < layer.num_layers - 1:
            x = x * problem.masks[k]
    return x, finals


def loss(problem, point, doutput, dstates, sight=None):
    """Return sum(doutput * output) + sum(dh_n * h_n) + ..., (P,); None stands for zeros."""
    output, finals = run(problem, point, sight)
    total = np.zeros(len(output), output.dtype)
    pairs = zip([output, *finals], [doutput, *(dstates or [None] * len(finals))], strict=True)
    for array, weight in pairs:
        if weight is not None:
            total += np.sum(weight * array, axis=(1, 2, 3))
    return total


def lifted(point, dtype=None):
    """Return the arrays of a point with an axis of length 1 in front."""
    return {name: np.asarray(array, dtype)[None] for name, array in point.items()}


def gradients(problem, point, doutput, dstates):
    """Return the derivative of the loss by every entry of every array of `point`, by complex steps."""
    found, plain = {}, lifted(point, complex)
    for name, array in point.items():
        nudges = 1j * STEP * np.eye(array.size).reshape(array.size, *array.shape)
        shifted = {**plain, name: plain[name] + nudges}
        found[name] = loss(problem, shifted, doutput, dstates).imag.reshape(array.shape) / STEP
    return found


def gradients_inside(problem, point, doutput, dstates, places):
    """Return the derivative of the loss by the values seen at some places, by complex steps, an array for each."""
    found, plain, sight = {}, lifted(point, complex), Sight()
    run(problem, plain, sight)
    for place in places:
        nudges = {place: 1j * STEP * np.eye(sight.values[place].shape[-1])}
        found[place] = loss(problem, plain, doutput, dstates, Sight(nudges)).imag / STEP
    return found
