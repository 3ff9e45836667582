"""
Carry weights from torch into a file, and out of it again
=========================================================

A network lives in torch; its weights are wanted here, to look at its gradients step by step, and next week again, from
a file. Names, shapes and orders of the gates are torch's, so that nothing has to be translated by hand; formats that
have other ones are translated, and each conversion runs both sides on a small input before it hands anything out.

What you will see: the same outputs on both sides; a file that brings back every bit; what the same weights look like in
Keras and in ONNX; and a conversion that is refused, since it would lose something.
"""

# %%
# A network from elsewhere
# ------------------------
# Here it is an untrained LSTM of two layers. Without torch, one of ours stands in its place.

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from rnn_numpy.errors import ConversionError
from rnn_numpy.interop import from_torch, load_npz, save_npz, to_keras_weights, to_onnx, to_torch
from rnn_numpy.layers import GRU, LSTM

x = np.random.default_rng(0).normal(size=(20, 3, 5))  # (T, N, D)
with_torch = importlib.util.find_spec("torch") is not None
if with_torch:
    import torch

    torch.manual_seed(0)
    module = torch.nn.LSTM(5, 8, num_layers=2, dtype=torch.float64)
    lstm = from_torch(module)
    print(f"{module}  in torch\n{lstm}  here")
else:
    lstm = LSTM(5, 8, num_layers=2, rng=0)
    print(f"torch is not installed, so what is carried from and to torch is left out; begun with {lstm}")

# %%
# The same function
# -----------------
# The conversion has compared both sides already. Once more by hand: all outputs, and the final h and c.

output, (h_n, c_n) = lstm(x)
if with_torch:
    with torch.no_grad():
        their_output, (their_h_n, their_c_n) = module(torch.from_numpy(x))
    for name, ours, theirs in (("output", output, their_output), ("h_n", h_n, their_h_n), ("c_n", c_n, their_c_n)):
        difference = np.abs(ours - theirs.numpy()).max()
        assert difference < 1e-14
        print(f"{name:<6} {ours.shape!s:<12} differs from torch's by less than 1e-14")

# %%
# Into a file and out of it
# -------------------------
# An .npz file holds arrays by name and nothing else: no pickle, so that reading one runs no code. Every bit comes back.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "lstm.npz"
    save_npz(path, lstm)
    loaded = load_npz(path)
    print(f"\n{path.name}: {path.stat().st_size} bytes")
for name, array in loaded.items():
    print(f"  {name:<13} {array.shape!s:<8} {array.dtype}")

twin = LSTM(5, 8, num_layers=2)
twin.load_state_dict(loaded)
assert twin.params.flat.tobytes() == lstm.params.flat.tobytes()
assert twin(x)[0].tobytes() == output.tobytes()
print("a new layer with these weights: equal outputs, bit for bit")

if with_torch:
    back = to_torch(twin).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in module.state_dict().items())
    print("and back in torch: equal weights, bit for bit")

# %%
# The same weights in other orders
# --------------------------------
# The rows of W_hh are four blocks, one per gate: i f g o here and in torch, i f c o in Keras (c is g), i o f c in ONNX.
# Keras keeps the transpose, and one bias, the sum of the two.

kernel, recurrent_kernel, bias = to_keras_weights(lstm)[0]
node = to_onnx(lstm, layer_index=0)
blocks = dict(zip("ifgo", np.split(lstm.params["weight_hh_l0"], 4), strict=True))
assert (recurrent_kernel == np.concatenate([blocks[gate] for gate in "ifgo"]).T).all()
assert (node.R[0] == np.concatenate([blocks[gate] for gate in "iofg"])).all()
print(f"\nhere   weight_hh_l0     {lstm.params['weight_hh_l0'].shape}   blocks i f g o")
print(f"Keras  recurrent_kernel {recurrent_kernel.shape}   blocks i f c o, transposed; one bias {bias.shape}")
print(f"ONNX   R                {node.R.shape}   blocks i o f c; both biases in B {node.B.shape}")

# %%
# What is refused
# ---------------
# A GRU can reset before or after its product with W_hn. torch has the second form only, and no weights make the first
# one equal to it; so there is no conversion, and the error says why.

if with_torch:
    try:
        to_torch(GRU(5, 8, reset="before"))
    except ConversionError as error:
        print(f"\nConversionError: {error}")
    else:
        raise AssertionError("a GRU with reset='before' went to torch")
