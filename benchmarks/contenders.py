"""Who is measured. Each contender lives in a worker process of its own and imports its library there.

A new one is a class with the methods of `Contender` and an entry in `CONTENDERS`.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, problem

Array = NDArray[Any]


class Contender(Protocol):
    """What a worker asks of a contender."""

    def environment(self) -> dict[str, Any]:
        """Return versions and thread counts, as the libraries themselves report them."""

    def load(self, case: Case) -> None:
        """Make ready for `step`: everything that a training loop does once."""

    def step(self) -> None:
        """Do what is timed: forward and backward of one training step."""

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Do one step and return output, h_n, dx and the gradients; empty if the contender computes none.

        The sequences `silent` get a doutput of zeros, and so add nothing to any gradient.
        """


class Layer:
    """`rnn_numpy`: forward that records a trace, backward to dx and new parameter gradients."""

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions and ours."""
        import rnn_numpy

        return {"rnn_numpy": rnn_numpy.__version__, **_numpy_environment()}

    def load(self, case: Case) -> None:
        """Make the layer."""
        import rnn_numpy

        _, _, inputs, hidden = case.size
        given = problem(case)
        self.layer = rnn_numpy.RNN(
            inputs, hidden, nonlinearity=case.cell.removeprefix("rnn-"), dtype=np.dtype(case.dtype), rng=0
        )
        self.layer.load_state_dict(given.weights)
        self.x, self.doutput = given.x, given.doutput

    def step(self) -> None:
        """Forward, backward; the gradients of the step before are not added to."""
        _, _, trace = self.layer.forward(self.x)
        self.layer.backward(trace, self.doutput)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return what `step` computes and drops."""
        doutput = self.doutput.copy()
        doutput[:, silent] = 0
        output, h_n, trace = self.layer.forward(self.x)
        back = self.layer.backward(trace, doutput)
        return {"output": output, "h_n": h_n, "dx": back.dx, **{"d" + name: g for name, g in back.grads.items()}}


class TorchLayer:
    """`torch.nn.RNN` and its autograd, with x.requires_grad, since we compute dx as well."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def environment(self) -> dict[str, Any]:
        """Return torch's version, threads and libraries."""
        torch = self.torch
        return {
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch_mkl": torch.backends.mkl.is_available(),
            "torch_mkldnn": torch.backends.mkldnn.is_available(),
        }

    def load(self, case: Case) -> None:
        """Make the module with the same weights."""
        torch = self.torch
        _, _, inputs, hidden = case.size
        given = problem(case)
        nonlinearity = case.cell.removeprefix("rnn-")
        self.layer = torch.nn.RNN(inputs, hidden, nonlinearity=nonlinearity, dtype=getattr(torch, case.dtype))
        self.layer.load_state_dict({name: torch.from_numpy(array) for name, array in given.weights.items()})
        self.x = torch.from_numpy(given.x).requires_grad_()
        self.doutput = torch.from_numpy(given.doutput)
        self.parameters = list(self.layer.parameters())

    def step(self) -> None:
        """Forget the old gradients (as `zero_grad(set_to_none=True)`), forward, backward."""
        self.x.grad = None
        for parameter in self.parameters:
            parameter.grad = None
        output, _ = self.layer(self.x)
        output.backward(self.doutput)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return output, state and gradients as NumPy arrays."""
        doutput = self.doutput.clone()
        doutput[:, silent] = 0
        self.x.grad = None
        self.layer.zero_grad(set_to_none=True)
        output, h_n = self.layer(self.x)
        output.backward(doutput)
        grads = {"d" + name: p.grad.numpy() for name, p in self.layer.named_parameters()}
        return {
            "output": output.detach().numpy(),
            "h_n": h_n.detach().numpy(),
            "dx": self.x.grad.numpy(),
            **grads,
        }


class Products:
    """The matrix products of our layer and nothing else: same shapes, same number, results written over each other.

    The products of the steps come in the operand order (weights stored by rows or by columns) which proves faster on
    this machine, so that nothing that our layer could still gain by order hides in the comparison.
    """

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions."""
        return _numpy_environment()

    def load(self, case: Case) -> None:
        """Allocate operands and results, choose the operand order."""
        steps, batch, inputs, hidden = case.size
        given = problem(case)
        rng = np.random.default_rng(1)
        self.x = given.x.reshape(steps * batch, inputs)
        self.W_ih = given.weights["weight_ih_l0"]
        self.h = np.tanh(rng.standard_normal((steps, batch, hidden))).astype(case.dtype)
        self.da = rng.standard_normal((steps, batch, hidden)).astype(case.dtype)
        self.a = np.empty((steps * batch, hidden), case.dtype)
        self.dx = np.empty_like(self.x)
        self.dW_ih = np.empty_like(self.W_ih)
        self.dW_hh = np.empty((hidden, hidden), case.dtype)
        self.row = np.empty((batch, hidden), case.dtype)
        by_rows = np.ascontiguousarray(given.weights["weight_hh_l0"])
        self.W_hh = min((by_rows, np.asfortranarray(by_rows)), key=lambda W: _shortest(lambda: self._steps(W)))

    def _steps(self, W: Array) -> None:
        for h_prev in self.h:
            h_prev.dot(W, self.row)

    def step(self) -> None:
        """Input projection; T products forward, T backward; dx, dW_ih, dW_hh."""
        da = self.da.reshape(self.a.shape)
        self.x.dot(self.W_ih.T, self.a)
        for h_prev in self.h:
            h_prev.dot(self.W_hh, self.row)
        for da_t in self.da[::-1]:
            da_t.dot(self.W_hh, self.row)
        da.dot(self.W_ih, self.dx)
        da.T.dot(self.x, self.dW_ih)
        da.T.dot(self.h.reshape(self.a.shape), self.dW_hh)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return nothing: these products belong to no network."""
        return {}


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "rnn_numpy": Layer,
    "torch": TorchLayer,
    "products": Products,
}


def _shortest(action: Callable[[], None], repeats: int = 5) -> float:
    """Return the least seconds that `action` took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _numpy_environment() -> dict[str, Any]:
    config = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {}) if isinstance(config, dict) else {}
    simd = config.get("SIMD Extensions", {}) if isinstance(config, dict) else {}
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "simd": simd.get("found", []),
    }
