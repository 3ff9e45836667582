"""JAX as a contender: each cell as its users write it, a jitted scan over time, differentiated by `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, problem

Array = NDArray[Any]
Params = dict[str, Any]
Network = Callable[[Params, Any], tuple[Any, Any]]

OPTIONS = {
    "jax_platforms": "cpu",
    "jax_enable_x64": True,  # without, float64 is cut to float32; float32 stays what it is
    # Otherwise calls are handed to another thread, which makes the smallest nets up to three times slower. There is
    # nothing to do meanwhile: each step waits for its results.
    "jax_cpu_enable_async_dispatch": False,
}


class JaxLayer:
    """A jitted `lax.scan`, with its `vjp` for training; compiled anew for each case, before anything is timed.

    How many threads it uses is said by PJRT_NPROC, which XLA reads when it starts; see `worker.THREAD_VARIABLES`. The
    flags that are often named for that, --xla_cpu_multi_thread_eigen=false and intra_op_parallelism_threads=1, change
    nothing: with them a product of 1024 x 1024 matrices still keeps two cores busy.
    """

    def __init__(self) -> None:
        import jax

        for name, value in OPTIONS.items():
            jax.config.update(name, value)
        self.jax = jax

    def environment(self) -> dict[str, Any]:
        """Return versions and options."""
        import jaxlib

        return {
            "jax": self.jax.__version__,
            "jaxlib": jaxlib.__version__,
            "jax_backend": self.jax.default_backend(),
            "jax_options": OPTIONS,
        }

    def load(self, case: Case) -> None:
        """Hand the arrays to JAX. The first step compiles."""
        jax = self.jax
        given = problem(case)
        self.case = case
        params = {name: jax.numpy.asarray(array) for name, array in given.weights.items()}
        x, doutput = jax.numpy.asarray(given.x), jax.numpy.asarray(given.doutput)
        run = network(case.cell)

        def train(params: Params, x: Any, doutput: Any) -> tuple[Any, Any, Any, Params]:
            output, pull, state = jax.vjp(run, params, x, has_aux=True)
            dparams, dx = pull(doutput)
            return output, state, dx, dparams

        training = case.mode == "training"
        self.function: Any = jax.jit(train) if training else jax.jit(run)
        self.arguments = (params, x, doutput) if training else (params, x)

    def step(self) -> None:
        """Call the compiled function and wait for all of its results."""
        self.jax.block_until_ready(self.function(*self.arguments))

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return what `step` computes, as NumPy arrays."""
        arguments = list(self.arguments)
        if self.case.mode == "training":
            arguments[2] = arguments[2].at[:, np.array(silent, int)].set(0)
        output, state, *gradients = self.function(*arguments)
        # A state has a leading axis, of layers and directions, everywhere but here.
        state = self.jax.tree.map(lambda array: array[None], state)
        found = self.case.named(output, state)
        if gradients:
            dx, dparams = gradients
            found |= {"dx": dx, **{"d" + name: gradient for name, gradient in dparams.items()}}
        return {name: np.asarray(array) for name, array in found.items()}


def network(cell: str) -> Network:
    """Return the forward pass of a cell, written for JAX.

    Parameters
    ----------
    cell : str

    Returns
    -------
    callable
        params by torch.nn's names and x (T, N, D) to output (T, N, H) and the final state (N, H), LSTM's a pair. The
        input projection is one product for all steps, that of the state one for all gates.
    """
    import jax
    import jax.numpy as jnp

    sigmoid = jax.nn.sigmoid

    def rnn(a: Any, W_hh: Any, h: Any) -> tuple[Any, Any]:
        a = a + h @ W_hh
        h = jnp.tanh(a) if cell == "rnn-tanh" else jax.nn.relu(a)
        return h, h

    def lstm(a: Any, W_hh: Any, state: tuple[Any, Any]) -> tuple[tuple[Any, Any], Any]:
        h, c = state
        i, f, g, o = jnp.split(a + h @ W_hh, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru(a: Any, W_hh: Any, b_hn: Any, h: Any) -> tuple[Any, Any]:
        a_r, a_z, a_n = jnp.split(a, 3, axis=1)
        s_r, s_z, s_n = jnp.split(h @ W_hh, 3, axis=1)
        r, z = sigmoid(a_r + s_r), sigmoid(a_z + s_z)
        n = jnp.tanh(a_n + r * (s_n + b_hn))
        h = n + z * (h - n)
        return h, h

    def run(params: Params, x: Any) -> tuple[Any, Any]:
        W_ih, W_hh = params["weight_ih_l0"].T, params["weight_hh_l0"].T
        b_ih, b_hh = params["bias_ih_l0"], params["bias_hh_l0"]
        H = len(W_hh)
        initial: Any = jnp.zeros((x.shape[1], H), x.dtype)
        step: Callable[..., Any] = rnn
        if cell == "lstm":
            step, initial = lstm, (initial, initial)
        elif cell == "gru":
            # The reset gate acts on b_hn too, which therefore cannot be added beforehand.
            b_hn, b_hh = b_hh[2 * H :], b_hh.at[2 * H :].set(0)
            step = lambda a, W_hh, h: gru(a, W_hh, b_hn, h)  # noqa: E731
        a = x @ W_ih + (b_ih + b_hh)
        state, output = jax.lax.scan(lambda state, a_t: step(a_t, W_hh, state), initial, a)
        return output, state

    return run
