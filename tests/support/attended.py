"""Attention around any cell, with any of its options: a layer, what goes in, what a loss says, and all gradients.

The loss is a weighted sum of outputs, of final states, and, where asked for, of the weights alpha.
"""

import itertools

import numpy as np
from mgu import mgu_backward, mgu_forward, mgu_tangent

from rnn_numpy import GRU, LSTM, RNN, Cell, Recurrent
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.core.states import join, split
from rnn_numpy.engine.forward_mode import jvp
from rnn_numpy.layers.attention import GATES
from rnn_numpy.layers.attention_decoder import with_attention
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.peephole import PeepholeLSTM


class MGU(Recurrent):
    """A cell of a user's own."""

    cell = Cell(
        gate_names=("f", "n"),
        states=("h",),
        step_forward=mgu_forward,
        step_backward=mgu_backward,
        step_tangent=mgu_tangent,
        hidden_inputs={"n": "k_t"},
        records={"k": 1},
    )


CELLS = {
    "RNN": (RNN, {}),
    "GRU": (GRU, {}),
    "LSTM": (LSTM, {}),
    "GRU before": (GRU, {"reset": "before"}),
    "peephole": (PeepholeLSTM, {}),
    "layer norm": (LayerNormLSTM, {"epsilon": 0.3}),
    "MGU": (MGU, {}),
}

# All that attention can be: 36 ways.
HOWS = [
    {"score": score, "gate": gate, "input_feeding": feeding, "coverage": coverage, "location": location}
    for score in ("dot", "keys", "additive")
    for gate, feeding in itertools.product(GATES, (False, True))
    for coverage in ((False, True) if score == "additive" else (False,))
    for location in ((None, (2, 3)) if score == "additive" else (None,))
]

PLAIN = [how for how in HOWS if sum(map(bool, how.values())) == 1]

# Each score with each cell, and each way with one of the cells in turn: so each cell meets each option.
CASES = [(cell, how) for how in PLAIN for cell in CELLS]
CASES += [(list(CELLS)[i % len(CELLS)], how) for i, how in enumerate(HOWS) if how not in PLAIN]


def title(cell, how):
    """Return a test's id: the cell, the score, and the options that are there."""
    on = [name if value is True else f"{name} {value}" for name, value in how.items() if name != "score" and value]
    return ", ".join([cell, how["score"], *on])


T, N, S, D, H, M, K = 3, 3, 4, 2, 2, 3, 4
LENGTHS = (2, 3, 1)
EXISTS = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)


class Attended:
    """One such layer at one point.

    `lengths` are those of the target, `exists` the mask of the memory; `weighed` says whether the loss reads alpha.
    """

    def __init__(self, cell, how, *, lengths=LENGTHS, exists=EXISTS, sizes=(T, N, S), weighed=True, seed=1, **options):
        rng = np.random.default_rng(seed)
        T, N, S = sizes
        own = {"memory_size": H if how["score"] == "dot" else M, "attention_size": K}
        self.layer = layer = with_attention(CELLS[cell][0])(D, H, **own, **how, **CELLS[cell][1], **options, rng=rng)
        layer.params.flat[:] += 0.1 * rng.normal(size=layer.params.flat.shape)  # no gain is 1, no shift 0
        self.states = layer.cell.states
        letters = {**layer.given_sizes(), "S": S}
        memory = {name: given.shape for name, given in layer.cell.given.items() if given.differentiable}
        self.memory = {name: rng.normal(size=(S, N, letters[shape[1]])) for name, shape in memory.items()}
        self.x, self.doutput = rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))
        widths = [S if state in ("cov", "focus") else H for state in self.states]
        self.initial, self.dfinal = ([rng.normal(size=(1, N, width)) for width in widths] for _ in range(2))
        self.dalpha = rng.normal(size=(T, N, S)) if weighed else None
        self.lengths, self.exists = lengths, exists

    @property
    def point(self):
        """All that the loss depends on."""
        initial = {f"{state}_0": array for state, array in zip(self.states, self.initial, strict=True)}
        return {"x": self.x, **self.memory, **initial, **self.layer.params}

    def given(self, at):
        """Return the given arrays at a point."""
        mask = {} if self.exists is None else {"exists": self.exists}
        return {**{name: at[name] for name in self.memory}, **mask}

    def forward(self, at=None, layer=None, **more):
        """Run forward, at another point with the layer of its dtype."""
        at, layer = self.point if at is None else at, layer or self.layer
        initial = join([at[f"{state}_0"] for state in self.states])
        return layer.forward(at["x"], initial, self.lengths, given=self.given(at), **more)

    def loss(self, at):
        """Return the loss at a point, real or complex."""
        at = {**self.point, **at}
        dtype = np.result_type(*at.values())
        layer = self.layer.astype(dtype)
        layer.load_state_dict({name: np.asarray(at[name], dtype) for name in layer.params})
        output, finals, trace = self.forward({name: np.asarray(array, dtype) for name, array in at.items()}, layer)
        ends = sum(np.sum(dfinal * final) for dfinal, final in zip(self.dfinal, split(finals), strict=True))
        return np.sum(self.doutput * output) + ends + (0 if self.dalpha is None else np.sum(self.dalpha * trace.alpha))

    def backward(self, trace):
        """Run backward."""
        drecords = None if self.dalpha is None else {"alpha": self.dalpha}
        return self.layer.backward(trace, self.doutput, join(self.dfinal), drecords=drecords)

    def gradients(self, back=None):
        """Return all gradients, under the names of `point`."""
        back = self.backward(self.forward()[2]) if back is None else back
        initial = {f"{state}_0": getattr(back, f"d{state}_0") for state in self.states}
        return {"x": back.dx, **{name: back.dgiven[name] for name in self.memory}, **initial, **back.grads}

    def tangent(self, trace, v):
        """Return what forward mode makes of a change of the point: the outputs', and those of the final states."""
        vh_0 = join([v[f"{state}_0"] for state in self.states])
        vparams = {name: v[name] for name in self.layer.params}
        vgiven = {name: v[name] for name in self.memory}
        found = jvp(self.layer, trace, vx=v["x"], vh_0=vh_0, vparams=vparams, vgiven=vgiven)
        return found.voutput, split(found.vh_n)


def assert_all_close(found, expected, rtol=1e-13):
    """Compare arrays under the same names, each relative to its largest entry."""
    assert list(found) == list(expected)
    for name, array in found.items():
        assert_grad_close(name, array, expected[name], rtol)
