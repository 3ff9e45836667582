#!/bin/sh
# torch.func.vmap refuses LSTMCell, and takes it as soon as a derivative is asked for inside; RNNCell and GRUCell it takes.
#
# One would guess: vmap of a function either works or does not, and what works for the derivative of a function works for
# the function itself. With torch.nn.LSTMCell it is the other way round. vmap of the bare step raises ("Batching rule not
# implemented for aten::lstm_cell"), with and without torch.no_grad, in both precisions. Wrapped in vjp, jvp or jacrev,
# whose value is then thrown away or kept, the same vmap gives the right outputs and Jacobians: under a derivative the
# step is taken apart into operators that have rules. Of RNNCell and GRUCell the bare step is taken apart, too (with a
# warning that it is slow), so that trying one of them says nothing of the LSTM. Jacobians of all steps by
# vmap(jacrev(step)) thus work, the trajectory by vmap(step) does not.
#
# Seen with torch 2.13.0 (CPU build), Python 3.11:
#     RNNCell: vmap right, vmap of vjp right;  GRUCell: vmap right, vmap of vjp right
#     LSTMCell: vmap RuntimeError, vmap of vjp right, vmap of jvp right, vmap of jacrev right
#
# Fails if this changes. Needs: Python 3.11 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/look.py" <<'PYTHON'
import warnings

import torch

func = torch.func
warnings.simplefilter("ignore")
torch.manual_seed(0)
x, h, c = torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 4)
seen = {}
for name in ("RNNCell", "GRUCell", "LSTMCell"):
    module = getattr(torch.nn, name)(3, 4)

    def step(h, x, c):
        return module(x, (h, c))[0] if name == "LSTMCell" else module(x, h)

    right = step(h, x, c)
    whole = torch.autograd.functional.jacobian(lambda h: step(h, x, c), h)
    blocks = torch.stack([whole[n, :, n] for n in range(len(x))])
    jobs = {
        "vmap": (step, right),
        "vmap of vjp": (lambda h, x, c: func.vjp(lambda h: step(h, x, c), h)[0], right),
        "vmap of jvp": (lambda h, x, c: func.jvp(lambda h: step(h, x, c), (h,), (h,))[0], right),
        "vmap of jacrev": (func.jacrev(step), blocks),
    }
    for job, (function, expected) in jobs.items():
        try:
            found = func.vmap(function)(h, x, c)
            said = "right" if torch.allclose(found, expected, atol=1e-6) else "wrong"
        except RuntimeError as error:
            said = "RuntimeError" if "aten::lstm_cell" in str(error) else str(error)
        seen[name, job] = said
        print(f"{name}: {job} {said}")

expected = {key: "right" for key in seen} | {("LSTMCell", "vmap"): "RuntimeError"}
assert torch.__version__.startswith("2.13.0"), torch.__version__
assert seen == expected, "vmap of torch's cells has changed"
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" "$folder/look.py"
