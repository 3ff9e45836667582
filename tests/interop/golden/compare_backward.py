"""Compare the backward passes of other libraries' recurrent layers with this package's: the table in
docs/what-a-reference-cannot-see.md.

    python tests/interop/golden/compare_backward.py jax       flax, dm-haiku, equinox, in float64
    python tests/interop/golden/compare_backward.py paddle    in float64
    python tests/interop/golden/compare_backward.py mlx       in float32: it has no other
    python tests/interop/golden/compare_backward.py mygrad    in float64

Each in an environment of its own that has these libraries and this package. A library differentiates the sum of
doutput * y by its own arrays and by x; ours goes back through the layer that `from_arrays` makes of the same arrays,
and its gradient is brought back by the transpose of that conversion, which is linear. Printed are rows of the table.
"""

import functools
import importlib.metadata
import sys

import numpy as np

from rnn_numpy.interop import from_arrays

# Classes that keep their arrays as another one does; and what arrays do not tell.
ALIKE = {"flax linen OptimizedLSTMCell": "flax linen LSTMCell", "paddle LSTM": "paddle", "paddle GRU": "paddle",
         "paddle SimpleRNN": "paddle"}  # fmt: skip
CHOSEN = {"mlx RNN": "mlx RNN tanh", "paddle SimpleRNN": "tanh", "flax linen SimpleCell": "flax linen SimpleCell tanh"}

T, N, D, H = 20, 4, 3, 8
rng = np.random.default_rng(0)
x, doutput = rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))


def drawn(shape):
    return 0.5 * rng.normal(size=shape)


def flattened(tree, front=""):
    found = {}
    for name, value in tree.items():
        full = f"{front}/{name}" if front else str(name)
        found |= flattened(value, full) if isinstance(value, dict) else {full: np.asarray(value)}
    return found


def layer_of(convention, arrays):
    (found,) = from_arrays(arrays, ALIKE.get(convention, convention))
    return (found.choose(CHOSEN[convention]) if convention in CHOSEN else found).layer


def ours(convention, arrays):
    """Return y, and the gradients by the arrays and x."""
    layer = layer_of(convention, arrays)
    output, _, trace = layer.forward(x.astype(layer.dtype))
    back = layer.backward(trace, doutput.astype(layer.dtype))
    at, gradients = layer.params.flat.copy(), {}
    for name, array in arrays.items():
        gradients[name] = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = array.copy()
            moved[index] += 1
            shift = layer_of(convention, {**arrays, name: moved}).params.flat - at
            gradients[name][index] = float(shift.astype(float) @ back.grads.flat.astype(float))
    return output, {**gradients, "x": back.dx}


def told(convention, arrays, y, gradients):
    """Print a row: how far output and gradients are apart, of the largest entry of each array."""
    output, exact = ours(convention, arrays)
    far = {name: np.abs(gradients[name] - array).max() / np.abs(array).max() for name, array in exact.items()}
    dtype = next(iter(arrays.values())).dtype
    eps = float(np.finfo(dtype).eps)
    worst = max(far, key=far.get)
    apart = np.abs(np.asarray(y) - output).max() / np.abs(output).max()
    agrees = "to rounding" if far[worst] < 256 * eps else "no"
    print(f"| {convention} | {dtype} | {apart:.0e} | {far[worst]:.0e} ({worst}) | {agrees} |", flush=True)


def jax():
    import equinox as eqx
    import flax.linen as nn
    import haiku as hk
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def compared(convention, params, run):
        """Compare, of run(params, x) -> y, (T, N, H)."""

        def loss(params, x):
            y = run(params, x)
            return (y * doutput).sum(), y

        (_, y), (by_params, dx) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, jnp.asarray(x))
        told(convention, flattened(params), y, {**flattened(by_params), "x": np.asarray(dx)})

    for title in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"):
        cell = getattr(nn, title)(features=H, param_dtype=jnp.float64)
        carry = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), cell.initialize_carry(jax.random.key(0), x[0].shape)
        )
        shapes = cell.init(jax.random.key(1), carry, x[0])["params"]

        def run(params, x, cell=cell, carry=carry):
            return jax.lax.scan(lambda state, x_t: cell.apply({"params": params}, state, x_t), carry, x)[1]

        compared(f"flax linen {title}", jax.tree.map(lambda leaf: drawn(leaf.shape), dict(shapes)), run)
    for title in ("LSTM", "GRU"):

        def forward(xs, title=title):
            core = getattr(hk, title)(H)
            state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), core.initial_state(N))
            return hk.dynamic_unroll(core, xs, state)[0]

        net = hk.transform(forward)
        params = jax.tree.map(lambda leaf: drawn(leaf.shape), net.init(jax.random.key(0), x))
        compared(f"haiku {title}", params, functools.partial(lambda net, p, x: net.apply(p, None, x), net))
    for title in ("LSTMCell", "GRUCell"):
        cell = getattr(eqx.nn, title)(D, H, key=jax.random.key(0))
        names = [name for name in ("weight_ih", "weight_hh", "bias", "bias_n") if getattr(cell, name, None) is not None]

        def run(params, x, cell=cell, title=title):
            for name, array in params.items():
                cell = eqx.tree_at(lambda c, name=name: getattr(c, name), cell, array)
            zeros = jnp.zeros((N, H))

            def step(state, x_t):
                new = jax.vmap(cell)(x_t, state)
                return new, new[0] if title == "LSTMCell" else new

            return jax.lax.scan(step, (zeros, zeros) if title == "LSTMCell" else zeros, x)[1]

        compared(f"equinox {title}", {name: drawn(getattr(cell, name).shape) for name in names}, run)
    return ("jax", "flax", "dm-haiku", "equinox")


def paddle():
    import paddle

    paddle.set_default_dtype("float64")
    for title in ("LSTM", "GRU", "SimpleRNN"):
        layer = getattr(paddle.nn, title)(D, H, time_major=True)
        for _, value in layer.named_parameters():
            value.set_value(drawn(tuple(value.shape)))
        read = paddle.to_tensor(x, stop_gradient=False)
        y = layer(read)[0]
        (y * paddle.to_tensor(doutput)).sum().backward()
        arrays, state = {}, layer.state_dict()
        for name, value in state.items():
            if ".cell." in name:  # each array has two names
                arrays[name] = value.numpy()
        gradients = {name: state[name].grad.numpy() for name in arrays}
        told(f"paddle {title}", arrays, y.numpy(), {**gradients, "x": read.grad.numpy()})
    return ("paddlepaddle",)


def mlx():
    import mlx.core as mx
    import mlx.nn as nn

    for title in ("LSTM", "GRU", "RNN"):
        layer = getattr(nn, title)(D, H)
        arrays = {name: drawn(value.shape).astype(np.float32) for name, value in layer.parameters().items()}

        def loss(params, x, layer=layer):
            layer.update(params)
            result = layer(x)
            y = result[0] if isinstance(result, tuple) else result
            return (y * mx.array(doutput.swapaxes(0, 1).astype(np.float32))).sum(), y

        read = mx.array(x.swapaxes(0, 1).astype(np.float32))
        params = {name: mx.array(array) for name, array in arrays.items()}
        (_, y), (by_params, dx) = mx.value_and_grad(loss, argnums=(0, 1))(params, read)
        gradients = {name: np.array(array) for name, array in by_params.items()}
        told(f"mlx {title}", arrays, np.array(y).swapaxes(0, 1), {**gradients, "x": np.array(dx).swapaxes(0, 1)})
    return ("mlx",)


def mygrad():
    import mygrad as mg
    from mygrad.nnet.layers.gru import gru

    names = [f"{kind}{gate}" for gate in "zrh" for kind in "UWb"]
    shapes = {"U": (D, H), "W": (H, H), "b": (H,)}
    tensors = {name: mg.tensor(drawn(shapes[name[0]])) for name in names}
    read = mg.tensor(x)
    y = gru(read, *tensors.values())[1:]
    (y * doutput).sum().backward()
    gradients = {name: tensor.grad for name, tensor in tensors.items()}
    told("mygrad gru", {name: tensor.data for name, tensor in tensors.items()}, y.data, {**gradients, "x": read.grad})
    return ("mygrad",)


if __name__ == "__main__":
    packages = {"jax": jax, "paddle": paddle, "mlx": mlx, "mygrad": mygrad}[sys.argv[1]]()
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
