"""ONNX Runtime as a contender: a model of one RNN, LSTM or GRU node. It knows inference alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, problem

Array = NDArray[Any]

OPSET = 14  # the newest whose RNN, LSTM and GRU all runtimes of the last years know; later ones added 16-bit dtypes
NODES = {"rnn-tanh": "RNN", "rnn-relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
# ONNX's order of the gates, as places in torch's: LSTM i o f c from i f g o, GRU z r h from r z n.
ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


class OnnxLayer:
    """An `onnxruntime.InferenceSession` on the CPU, in float32.

    Its kernels know no float64: a session with a float64 RNN cannot be made ("Could not find an implementation"), one
    with an LSTM or a GRU fails when it runs ("operator does not support double yet").
    """

    def __init__(self) -> None:
        import onnxruntime

        self.runtime = onnxruntime
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        self.options.inter_op_num_threads = 1

    def environment(self) -> dict[str, Any]:
        """Return versions and threads."""
        import onnx

        return {
            "onnxruntime": self.runtime.__version__,
            "onnxruntime_threads": self.options.intra_op_num_threads,
            "onnx": onnx.__version__,
            "opset": OPSET,
        }

    def load(self, case: Case) -> None:
        """Make the model and its session; weights are constants of it, so that it may lay them out as it likes."""
        self.case = case
        self.session = self.runtime.InferenceSession(
            model(case), sess_options=self.options, providers=["CPUExecutionProvider"]
        )
        self.feed = {"X": problem(case).x}

    def step(self) -> None:
        """Run the model for output and final states."""
        self.session.run(None, self.feed)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return what `step` computes; there is no gradient on which `silent` could act."""
        output, *finals = self.session.run(None, self.feed)
        # ONNX has an axis of directions after that of time.
        return self.case.named(output[:, 0], tuple(finals) if len(finals) > 1 else finals[0])


def model(case: Case, one_step: bool = False) -> bytes:
    """Return the ONNX model of a case: x in; output and final states out.

    Parameters
    ----------
    case : Case
    one_step : bool
        Of a step alone: x and states in, states out.

    Returns
    -------
    bytes
        The serialised model.
    """
    import onnx
    from onnx import helper, numpy_helper

    steps, batch, inputs, hidden = case.size
    weights = problem(case).weights
    kind = NODES[case.cell]
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if kind == "RNN":
        attributes["activations"] = [{"rnn-tanh": "Tanh", "rnn-relu": "Relu"}[case.cell]]
    if kind == "GRU":
        attributes["linear_before_reset"] = 1  # torch's GRU: the reset gate acts on W_hn h + b_hn

    def reordered(name: str) -> Array:
        blocks = np.split(weights[name], case.gates)
        return np.concatenate([blocks[place] for place in ORDER[kind]])

    constants = {
        "W": reordered("weight_ih_l0")[None],
        "R": reordered("weight_hh_l0")[None],
        "B": np.concatenate([reordered("bias_ih_l0"), reordered("bias_hh_l0")])[None],
    }
    element = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    state = [1, batch, hidden]
    shapes = {"Y": [steps, 1, batch, hidden], "Y_h": state}
    if kind == "LSTM":
        shapes["Y_c"] = state
    reads, read, written = {"X": [steps, batch, inputs]}, ["X", *constants], list(shapes)
    if one_step:
        del shapes["Y"]
        reads = {"X": [1, batch, inputs], **dict.fromkeys(["h_0", "c_0"][: len(shapes)], state)}
        read, written = ["X", *constants, "", *list(reads)[1:]], ["", *shapes]  # no lengths, no output beside the state
    graph = helper.make_graph(
        [helper.make_node(kind, read, written, **attributes)],
        str(case),
        [helper.make_tensor_value_info(name, element, shape) for name, shape in reads.items()],
        [helper.make_tensor_value_info(name, element, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    # The oldest format that has this opset: a runtime may be older than the package that writes.
    made = helper.make_model(graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]))
    onnx.checker.check_model(made)
    serialised: bytes = made.SerializeToString()
    return serialised
