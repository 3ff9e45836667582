"""Who is measured. Each contender lives in a worker process of its own and imports its library there.

A new one is a class with the methods of `Contender` and an entry in `CONTENDERS`; where it needs a library or does not
know all cases, entries in `LIBRARIES` and `covers`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, problem
from benchmarks.jax_layer import JaxLayer
from benchmarks.onnx_layer import OnnxLayer

Array = NDArray[Any]

OURS, TORCH, JAX, ONNX, PRODUCTS = "rnn_numpy", "torch", "jax", "onnxruntime", "products"


class Contender(Protocol):
    """What a worker asks of a contender."""

    def environment(self) -> dict[str, Any]:
        """Return versions and thread counts, as the libraries themselves report them."""

    def load(self, case: Case) -> None:
        """Make ready for `step`: everything that a program does once."""

    def step(self) -> None:
        """Do what is timed: forward and backward of one training step, or one inference."""

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Do one step and return output and final states, in training also dx and the gradients of all parameters.

        The sequences `silent` get a doutput of zeros, and so add nothing to any gradient. Empty if the contender
        computes no network.
        """


def layer_of(case: Case) -> Any:
    """Return a layer of ours for a case."""
    import rnn_numpy

    _, _, inputs, hidden = case.size
    kind, _, nonlinearity = case.cell.upper().partition("-")
    options = {"nonlinearity": nonlinearity.lower()} if nonlinearity else {}
    return getattr(rnn_numpy, kind)(inputs, hidden, **options, dtype=np.dtype(case.dtype), rng=0)


class Layer:
    """`rnn_numpy`: forward with a trace, backward to dx and new parameter gradients; or a call, which has no trace."""

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions and ours."""
        import rnn_numpy

        return {"rnn_numpy": rnn_numpy.__version__, **_numpy_environment()}

    def load(self, case: Case) -> None:
        """Make the layer."""
        given = problem(case)
        self.case, self.layer = case, layer_of(case)
        self.layer.load_state_dict(given.weights)
        self.x, self.doutput = given.x, given.doutput

    def step(self) -> None:
        """Forward, backward; the gradients of the step before are not added to."""
        if self.case.mode == "inference":
            self.layer(self.x)
            return
        _, _, trace = self.layer.forward(self.x)
        self.layer.backward(trace, self.doutput)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return what `step` computes and drops."""
        if self.case.mode == "inference":
            return self.case.named(*self.layer(self.x))
        doutput = self.doutput.copy()
        doutput[:, silent] = 0
        output, state, trace = self.layer.forward(self.x)
        back = self.layer.backward(trace, doutput)
        grads = {"d" + name: gradient for name, gradient in back.grads.items()}
        return {**self.case.named(output, state), "dx": back.dx, **grads}


class TorchLayer:
    """`torch.nn`: with autograd, and x.requires_grad since we compute dx as well; or in inference mode."""

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
        given, dtype = problem(case), getattr(torch, case.dtype)
        self.case = case
        if case.cell == "lstm":
            self.layer: Any = torch.nn.LSTM(inputs, hidden, dtype=dtype)
        elif case.cell == "gru":
            self.layer = torch.nn.GRU(inputs, hidden, dtype=dtype)
        else:
            self.layer = torch.nn.RNN(inputs, hidden, nonlinearity=case.cell.removeprefix("rnn-"), dtype=dtype)
        self.layer.load_state_dict({name: torch.from_numpy(array) for name, array in given.weights.items()})
        self.x = torch.from_numpy(given.x).requires_grad_(case.mode == "training")
        self.doutput = torch.from_numpy(given.doutput)
        self.parameters = list(self.layer.parameters())

    def step(self) -> None:
        """Forget the old gradients (as `zero_grad(set_to_none=True)`), forward, backward; or forward alone."""
        if self.case.mode == "inference":
            with self.torch.inference_mode():
                self.layer(self.x)
            return
        self.x.grad = None
        for parameter in self.parameters:
            parameter.grad = None
        output, _ = self.layer(self.x)
        output.backward(self.doutput)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return output, states and gradients as NumPy arrays."""
        if self.case.mode == "inference":
            with self.torch.inference_mode():
                output, state = self.layer(self.x)
            return {name: tensor.numpy() for name, tensor in self.case.named(output, state).items()}
        doutput = self.doutput.clone()
        doutput[:, silent] = 0
        self.x.grad = None
        self.layer.zero_grad(set_to_none=True)
        output, state = self.layer(self.x)
        output.backward(doutput)
        found = {name: tensor.detach().numpy() for name, tensor in self.case.named(output, state).items()}
        grads = {"d" + name: parameter.grad.numpy() for name, parameter in self.layer.named_parameters()}
        return {**found, "dx": self.x.grad.numpy(), **grads}


class Products:
    """The matrix products of our layer and nothing else: same shapes, same number, results written over each other.

    The products of the steps come in the memory order (weights by rows or by columns, units or sequences next to each
    other) which proves fastest on this machine, so that nothing that our layer could still gain by order hides in the
    comparison.
    """

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions."""
        return _numpy_environment()

    def load(self, case: Case) -> None:
        """Allocate operands and results, choose the memory order."""
        steps, batch, inputs, hidden = case.size
        rows = case.gates * hidden
        given = problem(case)
        rng = np.random.default_rng(1)
        self.training = case.mode == "training"
        self.x = given.x.reshape(steps * batch, inputs)
        self.W_ih = given.weights["weight_ih_l0"]
        self.h = np.tanh(rng.standard_normal((steps, batch, hidden))).astype(case.dtype)
        self.a = np.empty((steps * batch, rows), case.dtype)
        self.forward = StepProducts.fastest(self.h, given.weights["weight_hh_l0"].T)
        if self.training:
            self.da = rng.standard_normal((steps, batch, rows)).astype(case.dtype)
            self.dx = np.empty_like(self.x)
            self.dW_ih = np.empty_like(self.W_ih)
            self.dW_hh = np.empty((rows, hidden), case.dtype)
            self.backward = StepProducts.fastest(self.da[::-1], given.weights["weight_hh_l0"])

    def step(self) -> None:
        """Input projection, T products; in training T more on the way back, then dx, dW_ih, dW_hh."""
        self.x.dot(self.W_ih.T, self.a)
        self.forward.run()
        if self.training:
            self.backward.run()
            da = self.da.reshape(self.a.shape)
            da.dot(self.W_ih, self.dx)
            da.T.dot(self.x, self.dW_ih)
            da.T.dot(self.h.reshape(len(da), -1), self.dW_hh)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return nothing: these products belong to no network."""
        return {}


@dataclass
class StepProducts:
    """T products by the same weights, one after the other.

    Parameters
    ----------
    left : ndarray, (T, N, K), or (T, K, N) where `units_first`
    weight : ndarray, (K, M), or (M, K) where `units_first`
    out : ndarray, (N, M), or (M, N) where `units_first`
        Of the latest product.
    units_first : bool
        Whether the numbers of all sequences for one unit lie next to each other, not those of all units.
    """

    left: Array
    weight: Array
    out: Array
    units_first: bool

    def run(self) -> None:
        """Do them all."""
        weight, out = self.weight, self.out
        if self.units_first:
            for left in self.left:
                weight.dot(left, out)
        else:
            for left in self.left:
                left.dot(weight, out)

    @property
    def latest(self) -> Array:
        """The latest product, (N, M)."""
        return self.out.T if self.units_first else self.out

    @classmethod
    def fastest(cls, left: Array, weight: Array) -> StepProducts:
        """Return the products of left (T, N, K) and weight (K, M) in the memory order that is fastest here."""
        batch, columns = left.shape[1], weight.shape[1]
        by_sequence, by_unit = np.ascontiguousarray(left), np.ascontiguousarray(left.swapaxes(1, 2))
        orders = []
        for laid_out in (np.ascontiguousarray, np.asfortranarray):
            orders.append(cls(by_sequence, laid_out(weight), np.empty((batch, columns), left.dtype), False))
            orders.append(cls(by_unit, laid_out(weight.T), np.empty((columns, batch), left.dtype), True))
        return min(orders, key=lambda products: _shortest(products.run))


CONTENDERS: dict[str, Callable[[], Contender]] = {
    OURS: Layer,
    TORCH: TorchLayer,
    JAX: JaxLayer,
    ONNX: OnnxLayer,
    PRODUCTS: Products,
}

# What must be installed for a contender.
LIBRARIES: dict[str, tuple[str, ...]] = {TORCH: ("torch",), JAX: ("jax",), ONNX: ("onnxruntime", "onnx")}


def covers(name: str, case: Case) -> bool:
    """Return whether a contender can do a case. ONNX Runtime neither trains nor computes these cells in float64."""
    return name != ONNX or (case.mode == "inference" and case.dtype == "float32")


def missing(name: str) -> list[str]:
    """Return the libraries of a contender that are not installed.

    Examples
    --------
    >>> missing("products")
    []
    """
    return [library for library in LIBRARIES.get(name, ()) if importlib.util.find_spec(library) is None]


def _shortest(action: Callable[[], None], repeats: int = 5, budget: float = 0.1) -> float:
    """Return the least seconds that `action` took; it is repeated within the budget, at least once."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < repeats and sum(seconds) < budget):
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
        "blas_kernels": _blas_kernels(),
        "simd": simd.get("found", []),
    }


def _blas_kernels() -> list[str] | None:
    """Return for which processors the kernels are that BLAS has chosen; None where that cannot be told.

    On a Zen 5, OpenBLAS 0.3.31 takes those of SkylakeX, with AVX-512. Those of Haswell, which OPENBLAS_CORETYPE=Haswell
    demands, are half as fast there in large products.
    """
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return None
    return [library["architecture"] for library in threadpool_info() if "architecture" in library]
