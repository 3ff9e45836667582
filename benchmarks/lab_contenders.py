"""The lab's jobs as each contender does them: `python -m benchmarks.lab_contenders NAME` is the process of one.

It reads lines of JSON, {"cell", "point", "job", "seconds", "save"}, and answers each with the time of the first call
and of those after it, in milliseconds of processor time; results go to the file "save".

dh        dL/dh_t of all t, and the gradients of all parameters, forward pass included
table     |G(t, k)| of W_hh: the gradient of the loss of step t by W_hh as step k used it, for all t and k
jacobians ds_t/ds_{t-1} of all t, s = (h, c) of an LSTM
lyapunov  all exponents; JAX with a QR decomposition at each step
hvp       the Hessian of the loss by the parameters, times a direction: of weight_hh, forward and backward pass included
gradflow  norms of dL/ds_t, s = (h, c) of an LSTM, for a loss of the last step alone, forward pass included
gradcheck every entry of every parameter, up to `CHECKED` entries of a; ours and 0.2.0 (for torch see `gradcheck_speed`)

`peak` is the most memory that the process has had, in MB.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Job = Callable[[], Any]

CELLS = ("RNN", "LSTM", "GRU")
JOBS = ("dh", "table", "jacobians", "lyapunov", "hvp", "gradflow", "gradcheck")
CHECKED = 2**15
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def problem(cell: str, point: tuple[int, ...]) -> tuple[dict[str, Array], Array, Array]:
    """Return parameters by torch's names, x and doutput."""
    T, N, D, H = point
    rng = np.random.default_rng(0)
    rows = GATES[cell] * H
    shapes = {"weight_ih_l0": (rows, D), "weight_hh_l0": (rows, H), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    weights = {name: rng.uniform(-1, 1, shape) / np.sqrt(H) for name, shape in shapes.items()}
    return weights, rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))


def direction(cell: str, point: tuple[int, ...]) -> dict[str, Array]:
    """Return the direction of the Hessian's product, by torch's names."""
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=array.shape) for name, array in problem(cell, point)[0].items()}


def ours(cell: str, point: tuple[int, ...]) -> dict[str, Job]:
    """Return the jobs of this package, of whichever version is imported."""
    import rnn_numpy
    from rnn_numpy import checks
    from rnn_numpy.lab import decompose, gradient_flow, lyapunov, state_jacobians

    hessian_vector = getattr(checks, "hessian_vector", None) or checks.oracles.hessian_vector  # of 0.2.0, and now
    weights, x, doutput = problem(cell, point)
    along = direction(cell, point)
    layer = getattr(rnn_numpy, cell)(point[2], point[3], rng=0)
    layer.load_state_dict(weights)
    trace = layer.forward(x)[2]

    def dh() -> Any:
        made = layer.forward(x)[2]
        grads = layer.backward(made, doutput).grads
        return made.dh[1:], grads["weight_hh_l0"]

    twin = layer.astype(np.complex128)
    complex_x, complex_doutput = x.astype(complex), doutput.astype(complex)

    def gradients(values: dict[str, Array]) -> Any:
        for name, value in values.items():
            twin.params[name][...] = value
        return twin.backward(twin.forward(complex_x)[2], complex_doutput).grads

    jobs = {
        "dh": dh,
        "table": lambda: decompose(layer, trace, doutput).norms("weight_hh_l0"),
        "jacobians": lambda: state_jacobians(layer, trace).array,
        "lyapunov": lambda: lyapunov(layer, x, transient=0).exponents.sum(),
        "hvp": lambda: hessian_vector(gradients, weights, along)["weight_hh_l0"],
        "gradflow": lambda: gradient_flow(layer, x, doutput[-1]).norms,
    }
    if x.shape[0] * x.shape[1] * GATES[cell] * point[3] <= CHECKED:
        jobs["gradcheck"] = lambda: float(checks.gradcheck(layer, x, doutput=doutput).ok)
    return jobs


def with_jax(cell: str, point: tuple[int, ...]) -> dict[str, Job]:
    """Return the jobs as an expert of JAX writes them: compiled, `vjp` of a scan, `vmap(jacrev)`, QR in a scan."""
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_layer import OPTIONS

    for name, value in OPTIONS.items():
        jax.config.update(name, value)
    T, N, _, H = point
    weights, *signals = problem(cell, point)
    W = {name.removesuffix("_l0"): jnp.asarray(array) for name, array in weights.items()}
    x, doutput = map(jnp.asarray, signals)
    sigmoid, states = jax.nn.sigmoid, 2 if cell == "LSTM" else 1
    S = states * H

    def step(W: Any, x: Any, s: Any, nudge: Any = 0.0) -> Any:
        """One step of the whole state, (..., S); `nudge` is added to the product of W_hh."""
        h = s[..., :H]
        a = x @ W["weight_ih"].T + W["bias_ih"]
        b = h @ W["weight_hh"].T + W["bias_hh"] + nudge
        if cell == "RNN":
            return jnp.tanh(a + b)
        if cell == "LSTM":
            i, f, g, o = jnp.split(a + b, 4, -1)
            c = sigmoid(f) * s[..., H:] + sigmoid(i) * jnp.tanh(g)
            return jnp.concatenate([sigmoid(o) * jnp.tanh(c), c], -1)
        (a_r, a_z, a_n), (b_r, b_z, b_n) = jnp.split(a, 3, -1), jnp.split(b, 3, -1)
        r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z)
        n = jnp.tanh(a_n + r * b_n)
        return n + z * (h - n)

    zeros = jnp.zeros((N, S))

    def run(W: Any, x: Any, nudges: Any, start: Any = zeros) -> Any:
        def body(s: Any, given: Any) -> Any:
            x, nudge = given
            s = step(W, x, s)
            s = s.at[..., : nudge.shape[-1]].add(nudge)
            return s, s

        return jax.lax.scan(body, start, (x, nudges))[1]

    @jax.jit
    def dh(W: Any, x: Any, doutput: Any) -> Any:
        _, pull = jax.vjp(lambda W, x, e: run(W, x, e)[..., :H], W, x, jnp.zeros((T, N, H)))
        grads, dx, dstates = pull(doutput)
        return dstates, grads["weight_hh"], grads, dx

    @jax.jit
    def table(W: Any, x: Any, before: Any, doutput: Any) -> Any:
        def body(adjoints: Any, given: Any) -> Any:
            k, x, s, d = given
            adjoints = adjoints.at[k, :, :H].add(d)
            _, pull = jax.vjp(lambda s, nudge: step(W, x, s, nudge), s, jnp.zeros((N, GATES[cell] * H)))
            adjoints, da = jax.vmap(pull)(adjoints)
            if N == 1:
                norms = jnp.linalg.norm(da[:, 0], axis=-1) * jnp.linalg.norm(s[0, :H])
            else:  # |sum_n da_n h_n^T|^2, by Gram matrices
                pairs = jnp.einsum("tng,tmg->tnm", da, da) * (s[:, :H] @ s[:, :H].T)
                norms = jnp.sqrt(jnp.maximum(pairs.sum((1, 2)), 0))
            return adjoints, norms

        given = (jnp.arange(T), x, before, doutput)
        return jax.lax.scan(body, jnp.zeros((T, N, S)), given, reverse=True)[1].T

    @jax.jit
    def jacobians(W: Any, x: Any, before: Any) -> Any:
        return jax.vmap(jax.vmap(jax.jacrev(lambda s, x: step(W, x, s))))(before, x)

    @jax.jit
    def lyapunov(W: Any, x: Any, Q: Any) -> Any:
        def one(s: Any, x: Any, Q: Any) -> Any:
            after, push = jax.linearize(lambda s: step(W, x, s), s)
            Q, R = jnp.linalg.qr(jax.vmap(push, 1, 1)(Q))
            return after, Q, jnp.log(jnp.abs(jnp.diagonal(R)))

        def body(carry: Any, x: Any) -> Any:
            s, Q, logs = jax.vmap(one)(*carry[:1], x, carry[1])
            return (s, Q), logs

        return jax.lax.scan(body, (zeros, Q), x)[1].mean((0, 1)).sum()

    @jax.jit
    def hvp(W: Any, x: Any, doutput: Any, along: Any) -> Any:
        def loss(W: Any) -> Any:
            return (run(W, x, jnp.zeros((T, N, H)))[..., :H] * doutput).sum()

        return jax.jvp(jax.grad(loss), (W,), (along,))[1]

    @jax.jit
    def gradflow(W: Any, x: Any, dh_last: Any) -> Any:
        _, pull = jax.vjp(lambda e, s: run(W, x, e, s)[-1, :, :H], jnp.zeros((T, N, S)), zeros)
        return jnp.concatenate([jnp.linalg.norm(d, axis=-1) for d in (lambda e, s: (e[::-1], s[None]))(*pull(dh_last))])

    along = {name.removesuffix("_l0"): jnp.asarray(array) for name, array in direction(cell, point).items()}
    after = run(W, x, jnp.zeros((T, N, H)))
    before = jnp.concatenate([zeros[None], after[:-1]])
    Q = jnp.linalg.qr(jnp.asarray(np.random.default_rng(0).normal(size=(N, S, S))))[0]
    ready = jax.block_until_ready
    return {
        "dh": lambda: ready(dh(W, x, doutput))[:2],
        "table": lambda: ready(table(W, x, before, doutput)),
        "jacobians": lambda: ready(jacobians(W, x, before)),
        "lyapunov": lambda: ready(lyapunov(W, x, Q)),
        "hvp": lambda: ready(hvp(W, x, doutput, along))["weight_hh"],
        "gradflow": lambda: ready(gradflow(W, x, doutput[-1])),
    }


def with_bare_products(cell: str, point: tuple[int, ...]) -> dict[str, Job]:
    """Return what `benchmarks.lab_bare` has of the jobs."""
    from benchmarks.lab_bare import bare

    return bare(cell, point)


def with_torch(cell: str, point: tuple[int, ...]) -> dict[str, Job]:
    """Return those jobs that torch's users do: a loop over cells with `retain_grad`, and `vmap(jacrev)` of a step that
    is written out, since torch 2.13 has no rule for `vmap` of LSTMCell.
    """
    import torch

    T, N, D, H = point
    weights, x, doutput = problem(cell, point)
    module = getattr(torch.nn, f"{cell}Cell")(D, H).double()
    module.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(array) for name, array in weights.items()})
    parameters = dict(module.named_parameters())
    signal, given = torch.from_numpy(x), torch.from_numpy(doutput)

    def states_of(kept: bool) -> list[tuple[Any, ...]]:
        """The states of all steps, first the initial ones; their gradients are kept, or not."""
        h = torch.zeros(N, H, dtype=torch.float64)
        found: list[tuple[Any, ...]] = [(h, torch.zeros_like(h)) if cell == "LSTM" else (h,)]
        for state in found[0] if kept else ():
            state.requires_grad_()
        for x_t in signal:
            last = found[-1] if cell == "LSTM" else found[-1][0]
            made = module(x_t, last)
            # A copy of c has what reaches it from the next step alone, not by this step's h as well.
            found.append((made[0], made[1].clone()) if cell == "LSTM" else (made,))
            for state in found[-1] if kept else ():
                state.retain_grad()
        return found

    def dh() -> Any:
        module.zero_grad()
        outputs = [states[0] for states in states_of(kept=True)[1:]]
        (torch.stack(outputs) * given).sum().backward()
        return torch.stack([output.grad for output in outputs]).numpy(), module.weight_hh.grad.numpy()

    def gradflow() -> Any:
        module.zero_grad()
        found = states_of(kept=True)
        (found[-1][0] * given[-1]).sum().backward()
        zeros = torch.zeros(N, H, dtype=torch.float64)
        grads = [torch.cat([zeros if s.grad is None else s.grad for s in states], 1) for states in found[::-1]]
        return torch.stack(grads).norm(dim=-1).numpy()

    along = [torch.from_numpy(direction(cell, point)[f"{name}_l0"]) for name in parameters]

    def hvp() -> Any:
        outputs = torch.stack([states[0] for states in states_of(kept=False)[1:]])
        grads = torch.autograd.grad((outputs * given).sum(), list(parameters.values()), create_graph=True)
        product = sum((grad * v).sum() for grad, v in zip(grads, along, strict=True))
        return torch.autograd.grad(product, parameters["weight_hh"])[0].numpy()

    def step(s: Any, x: Any) -> Any:
        h = s[:H]
        a = parameters["weight_ih"] @ x + parameters["bias_ih"]
        b = parameters["weight_hh"] @ h + parameters["bias_hh"]
        if cell == "RNN":
            return torch.tanh(a + b)
        if cell == "LSTM":
            i, f, g, o = (a + b).chunk(4)
            c = torch.sigmoid(f) * s[H:] + torch.sigmoid(i) * torch.tanh(g)
            return torch.cat([torch.sigmoid(o) * torch.tanh(c), c])
        (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3), b.chunk(3)
        r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
        n = torch.tanh(a_n + r * b_n)
        return n + z * (h - n)

    with torch.no_grad():
        before = [torch.zeros(N, H * (2 if cell == "LSTM" else 1), dtype=torch.float64)]
        for x_t in signal[:-1]:
            before.append(torch.vmap(step)(before[-1], x_t))
        states = torch.cat(before)
    rows = signal.reshape(T * N, D)

    def jacobians() -> Any:
        with torch.no_grad():
            found = torch.func.vmap(torch.func.jacrev(step))(states, rows)
        return found.reshape(T, N, *found.shape[1:]).numpy()

    return {"dh": dh, "jacobians": jacobians, "hvp": hvp, "gradflow": gradflow}


CONTENDERS = {"rnn_numpy": ours, "0.2.0": ours, "jax": with_jax, "torch": with_torch, "bare": with_bare_products}


def peak() -> float | None:
    """Return the most memory that this process has had, in MB; None where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else None


def serve(name: str) -> None:
    """Answer requests until there are no more."""
    made: dict[str, dict[str, Job]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = json.dumps([asked["cell"], asked["point"]])
        if key not in made:
            made = {key: CONTENDERS[name](asked["cell"], tuple(asked["point"]))}
        job = made[key].get(asked["job"])
        if job is None:
            print("null", flush=True)
            continue
        times = []
        began = time.perf_counter()
        while True:
            start = time.process_time()
            found = job()
            times.append(1e3 * (time.process_time() - start))
            if time.perf_counter() - began > asked["seconds"] and len(times) > asked["least"]:
                break
        if asked["save"] and found is not None:
            parts = found if isinstance(found, tuple) else (found,)
            np.savez(asked["save"], *[np.asarray(part) for part in parts])
        print(json.dumps({"ms": times, "peak": peak()}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
