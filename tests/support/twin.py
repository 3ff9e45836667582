"""A layer's numbers by the textbook's functions, which share no line with the engine, and their derivatives.

`rnn_numpy.layers.textbook` has one layer, one direction and one length. What it leaves out stands here: sequences run
one by one, and step by step, through layers, directions and masks; relu and the LSTM's projection are added to a step.
Gradients are derivatives by the complex step, so that no backward pass is trusted: of the parameters and inputs, and of
values on the way as well, since a `Sight` may add to them. All arrays have one axis in front, of entries that are
perturbed at once, so that one run gives many derivatives.
"""

from dataclasses import dataclass, field

import numpy as np

from rnn_numpy.layers import textbook

STEP = 1e-20


def times(W, v):
    """W v for (P, M, K) and (P, K)."""
    return (W @ v[..., None])[..., 0]


def one_step(forward, x, states, weights, biases):
    """Return what a function of the textbook makes of one step, (P, ·) each. Its W.T turns the P of W to the front."""
    turned = [W.transpose(1, 2, 0) for W in weights]
    made = forward(x[None, :, None], *(state[:, None] for state in states), *turned, *(b[:, None] for b in biases))
    return [array[-1, :, 0] for array in (made if isinstance(made, tuple) else (made,))]


def see_all(see, names, blocks):
    """Show blocks that lie side by side, (P, ·), one by one."""
    H = blocks.shape[-1] // len(names)
    return [see(name, blocks[:, k * H : (k + 1) * H]) for k, name in enumerate(names)]


def step(layer, see, p, x, h_in, h, c=None):
    """Return the new states. `h_in` is h, or what recurrent dropout leaves of it."""
    kind, weights = type(layer).__name__, (p["weight_ih"], p["weight_hh"])
    biases = see("a_ih", p["bias_ih"]), see("a_hh", p["bias_hh"])  # what is added to a bias is added to a, at this step
    if kind == "GRU":
        after = layer.reset == "after"
        forward = textbook.gru_forward if after else textbook.gru_before_forward
        h_new, gates = one_step(forward, x, [h_in], weights, biases)
        _, z, *_ = see_all(see, ("r", "z", "n", "q" if after else "k"), gates)
        return [h_new + z * (h - h_in)]  # dropout hides h from the products, not from the leak
    a = see("a", times(weights[0], x) + times(weights[1], h_in) + biases[0] + biases[1])
    if kind == "RNN" and layer.nonlinearity == "relu":
        return [np.where(a.real > 0, a, 0)]
    if kind == "RNN":
        return one_step(textbook.rnn_forward, x, [h_in], weights, biases)
    if "weight_hr" in p:  # h is not as wide as c: its product comes as a bias
        biases = biases[0], biases[1] + times(weights[1], h_in)
        h_in, weights = np.zeros_like(c), (weights[0], np.zeros((1, 4 * c.shape[-1], c.shape[-1])))
    m, c_new, gates = one_step(textbook.lstm_forward, x, [h_in, c], weights, biases)
    see_all(see, "ifgo", gates)
    see("tanh_c", np.tanh(c_new))
    m = see("m", m)
    return [times(p["weight_hr"], m) if "weight_hr" in p else m, c_new]


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
    names, x = layer.cell.states, point["x"]
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
            nothing = np.zeros((1, p["weight_ih"].shape[1]))
            p = {"bias_ih": nothing, "bias_hh": nothing} | p
            for n, length in enumerate(problem.lengths):
                state = [np.zeros((stacked, width), dtype) for width in widths]
                if "h_0" in point:
                    state = [zero + point[f"{s}_0"][:, row, n] for s, zero in zip(names, state, strict=True)]
                for t in range(length) if d == 0 else reversed(range(length)):
                    see = sight.at(name, t, n)
                    for s, old in zip(names, state, strict=True):
                        see(f"{s}_prev", old)
                    drop = 1.0 if problem.recurrent_masks is None else problem.recurrent_masks[name][n]
                    new = step(layer, see, p, see("x", x[:, t, n]), see("h_in", drop * state[0]), *state)
                    new = [see(f"{s}_new", value) for s, value in zip(names, new, strict=True)]
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
