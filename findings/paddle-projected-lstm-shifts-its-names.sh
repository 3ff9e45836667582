#!/bin/sh
# PaddlePaddle: with proj_size, an LSTM's parameters carry each other's names from the second direction or layer on.
#
# One would guess: paddle.nn.LSTM names its parameters as torch.nn does, weight_ih_l0, weight_hh_l0, bias_ih_l0,
# bias_hh_l0, then the same for l0_reverse and l1, and says so by attribute and in state_dict(); with proj_size there is
# one more name for each. With PaddlePaddle 3.3.1 that holds without proj_size. With it there is one more parameter for
# each direction and layer, but no name for it: the list of names is laid over the list of parameters all the same, so
# that weight_ih_l0_reverse is the projection of the forward direction, weight_hh_l0_reverse the reverse direction's
# input weight, bias_ih_l0_reverse its recurrent weight, a matrix, and bias_hh_l1 one as well; the last few parameters
# have no name of this kind. A layer of one direction shows none of it. state_dict() has every array a second time, as
# 0.cell_bw.weight_ih and the like, and these names are right.
#
# Seen on Linux, CPU, Python 3.11:
#     LSTM(3, 4, direction="bidirect"):               16 of 16 names have the shape that they say
#     LSTM(3, 4, direction="bidirect", proj_size=2):  weight_ih_l0_reverse is the very array of 0.cell_fw.weight_ho
#
# Fails if this changes. Needs: Python 3.10 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/look.py" <<'PYTHON'
import sys

import numpy as np
import paddle

D, H, P = 3, 4, 2


def named(projection):
    """Return the layer, and by its name in torch's manner each parameter beside that of the cells which it is."""
    layer = paddle.nn.LSTM(D, H, num_layers=2, direction="bidirect", proj_size=projection)
    rng = np.random.default_rng(0)
    for _, value in layer.named_parameters():
        value.set_value(rng.normal(size=value.shape).astype("float32"))
    state = {name: array.numpy() for name, array in layer.state_dict().items()}
    cells = {name: array for name, array in state.items() if ".cell" in name}
    ours = {name: array for name, array in state.items() if ".cell" not in name}
    return layer, {
        name: next(cell for cell, other in cells.items() if other.shape == array.shape and (other == array).all())
        for name, array in ours.items()
    }


def told(name):
    """Return what a name says: weight_ih_l0_reverse is 0.cell_bw.weight_ih."""
    role, _, place = name.rpartition("_l") if not name.endswith("_reverse") else name[:-8].rpartition("_l")
    return f"{place}.cell_{'bw' if name.endswith('_reverse') else 'fw'}.{role}"


print("paddlepaddle", paddle.__version__)
_, plain = named(0)
right = [name for name, cell in plain.items() if cell == told(name)]
print(f"without proj_size: {len(right)} of {len(plain)} names are right")
layer, projected = named(P)
right = [name for name, cell in projected.items() if cell == told(name)]
print(f"with proj_size: {len(right)} of {len(projected)} names are right")
for name, cell in projected.items():
    print(f"  {name} is {cell}, {tuple(getattr(layer, name).shape)}")
expected = {
    "weight_ih_l0": "0.cell_fw.weight_ih",
    "weight_ih_l0_reverse": "0.cell_fw.weight_ho",
    "weight_hh_l0_reverse": "0.cell_bw.weight_ih",
    "bias_ih_l0_reverse": "0.cell_bw.weight_hh",
    "bias_hh_l1": "1.cell_fw.weight_hh",
}
same = all(projected[name] == cell for name, cell in expected.items())
sys.exit(0 if same and len(plain) == 16 and all(cell == told(name) for name, cell in plain.items()) else 1)
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check paddlepaddle==3.3.1 numpy==2.4.6 setuptools
"$folder/venv/bin/python" -W ignore "$folder/look.py"
