"""Make the golden files of conventions: arrays as other libraries keep them, and what these libraries make of them.

    python tests/interop/golden/make_conventions.py jax          flax, dm-haiku, equinox
    python tests/interop/golden/make_conventions.py tensorflow
    python tests/interop/golden/make_conventions.py paddle
    python tests/interop/golden/make_conventions.py mlx

Each in an environment of its own that has these libraries, and nothing of this package. A file has x, (T, N, D), and
for each convention its arrays, "flax linen GRUCell|in/kernel", and its output, "flax linen GRUCell|y"; "versions" says
which libraries made it.
"""

import functools
import importlib.metadata
import sys
from pathlib import Path

import numpy as np

T, N, D, H = 5, 2, 3, 4
rng = np.random.default_rng(0)
x = rng.normal(size=(T, N, D)).astype(np.float32)


def drawn(shape):
    """Return numbers of the size of trained weights, biases among them."""
    return (0.5 * rng.normal(size=shape)).astype(np.float32)


def flattened(tree, front=""):
    found = {}
    for name, value in tree.items():
        full = f"{front}/{name}" if front else str(name)
        found |= flattened(value, full) if isinstance(value, dict) else {full: np.asarray(value)}
    return found


def filled(tree, arrays, front=""):
    """Return a tree with other arrays in their places."""
    return {
        name: filled(value, arrays, f"{front}{name}/")
        if isinstance(value, dict)
        else arrays.get(f"{front}{name}", value)
        for name, value in tree.items()
    }


def jax():
    import equinox as eqx
    import flax.linen as nn
    import haiku as hk
    import jax
    from flax import nnx

    made = {}

    def walk(step, state):
        outputs = []
        for x_t in x:
            state, output = step(state, x_t)
            outputs.append(np.asarray(output))
        return np.stack(outputs)

    for title in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"):
        cell = getattr(nn, title)(features=H)
        carry = cell.initialize_carry(jax.random.key(0), x[0].shape)
        shapes = cell.init(jax.random.key(1), carry, x[0])["params"]
        params = jax.tree.map(lambda leaf: drawn(leaf.shape), dict(shapes))
        made[f"flax linen {title}"] = flattened(params) | {
            "y": walk(functools.partial(cell.apply, {"params": params}), carry)
        }
    for title in ("LSTMCell", "OptimizedLSTMCell", "GRUCell"):
        cell = getattr(nnx, title)(in_features=D, hidden_features=H, rngs=nnx.Rngs(0))
        graph, state = nnx.split(cell)
        pure = nnx.to_pure_dict(state)
        own = {n: drawn(leaf.shape) for n, leaf in flattened(pure).items() if n.endswith(("kernel", "bias"))}
        nnx.replace_by_pure_dict(state, filled(pure, own))
        carry = cell.initialize_carry(x[0].shape, nnx.Rngs(0))
        made[f"flax nnx {title}"] = own | {"y": walk(nnx.merge(graph, state), carry)}
    for title in ("LSTM", "GRU"):

        def run(xs, title=title):
            core = getattr(hk, title)(H)
            return hk.dynamic_unroll(core, xs, core.initial_state(N))[0]

        net = hk.transform(run)
        params = jax.tree.map(lambda leaf: drawn(leaf.shape), net.init(jax.random.key(0), x))
        made[f"haiku {title}"] = flattened(params) | {"y": np.asarray(net.apply(params, None, x))}
    for title, state in (("LSTMCell", (np.zeros(H, np.float32),) * 2), ("GRUCell", np.zeros(H, np.float32))):
        cell = getattr(eqx.nn, title)(D, H, key=jax.random.key(0))
        names = [name for name in ("weight_ih", "weight_hh", "bias", "bias_n") if getattr(cell, name, None) is not None]
        own = {name: drawn(getattr(cell, name).shape) for name in names}
        for name, array in own.items():
            cell = eqx.tree_at(lambda c, name=name: getattr(c, name), cell, jax.numpy.asarray(array))
        outputs = []
        states = [state] * N
        for x_t in x:
            states = [cell(jax.numpy.asarray(row), state) for row, state in zip(x_t, states, strict=True)]
            outputs.append([np.asarray(s[0] if isinstance(s, tuple) else s) for s in states])
        made[f"equinox {title}"] = own | {"y": np.array(outputs)}
    return made, ("jax", "flax", "dm-haiku", "equinox")


def tensorflow():
    import tensorflow as tf

    op, zeros, none = tf.raw_ops, np.zeros((N, H), np.float32), np.zeros(H, np.float32)
    made = {}
    shared = {
        "seq_len_max": np.int64(T),
        "x": x,
        "cs_prev": zeros,
        "h_prev": zeros,
        "wci": none,
        "wcf": none,
        "wco": none,
    }
    for title, own in (("BlockLSTM", {"forget_bias": 1.0, "cell_clip": -1.0}), ("BlockLSTMV2", {"cell_clip": 0.0})):
        arrays = {"w": drawn((D + H, 4 * H)), "b": drawn(4 * H)}
        y = getattr(op, title)(**shared, **arrays, **own, use_peephole=False).h.numpy()
        made[f"tensorflow {title}"] = arrays | {"y": y}
    arrays = {"w_ru": drawn((D + H, 2 * H)), "w_c": drawn((D + H, H)), "b_ru": drawn(2 * H), "b_c": drawn(H)}
    h, outputs = zeros, []
    for x_t in x:
        h = op.GRUBlockCell(x=x_t, h_prev=h, **arrays).h.numpy()
        outputs.append(h)
    made["tensorflow GRUBlockCell"] = arrays | {"y": np.stack(outputs)}
    return made, ("tensorflow-cpu",)


def paddle():
    import paddle

    made = {}
    for title, options in (("LSTM", {}), ("GRU", {}), ("SimpleRNN", {}), ("LSTM", {"proj_size": 2})):
        layer = getattr(paddle.nn, title)(D, H, num_layers=2, direction="bidirect", time_major=True, **options)
        own = {name: drawn(tuple(value.shape)) for name, value in layer.named_parameters()}
        for name, value in layer.named_parameters():
            value.set_value(own[name])
        layer.eval()
        state = {name: value.numpy() for name, value in layer.state_dict().items()}
        key = "paddle " + title + (" projected" if options else "")
        made[key] = state | {"y": layer(paddle.to_tensor(x))[0].numpy()}
    return made, ("paddlepaddle",)


def mlx():
    import mlx.core as mx
    import mlx.nn as nn

    made = {}
    for title in ("LSTM", "GRU", "RNN"):
        layer = getattr(nn, title)(D, H)
        own = {name: drawn(value.shape) for name, value in layer.parameters().items()}
        layer.update({name: mx.array(array) for name, array in own.items()})
        result = layer(mx.array(x.swapaxes(0, 1)))
        output = result[0] if isinstance(result, tuple) else result
        made[f"mlx {title}"] = own | {"y": np.array(output).swapaxes(0, 1)}
    return made, ("mlx",)


if __name__ == "__main__":
    library = sys.argv[1]
    made, packages = {"jax": jax, "tensorflow": tensorflow, "paddle": paddle, "mlx": mlx}[library]()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    arrays = {f"{key}|{name}": array for key, own in made.items() for name, array in own.items()}
    path = Path(__file__).with_name(f"conventions_{library}.npz")
    np.savez_compressed(path, x=x, versions=versions, **arrays)
    print(f"{path.name}: {len(made)} conventions, {path.stat().st_size} bytes, {versions}")
