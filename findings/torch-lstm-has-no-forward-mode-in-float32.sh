#!/bin/sh
# torch's LSTM can be differentiated forward in double precision, and not in single; its RNN and GRU can in both.
#
# One would guess: whether a layer supports forward-mode differentiation depends on the layer, and a check in float64,
# the precision in which one checks gradients, settles it. It does not: torch.nn.LSTM on a CPU is another operator in
# float32 (oneDNN's fused layer), one without a forward derivative. torch.func.jvp, and hessian, which uses it, raise
# NotImplementedError there; under torch.no_grad, with parameters that need no gradient, and in eval mode as well. With
# torch.backends.mkldnn.flags(enabled=False) around the call the very same layer and input are fine.
#
# Seen with torch 2.13.0 (CPU build), Python 3.11:
#     float32: RNN jvp ok, hessian ok; GRU jvp ok, hessian ok; LSTM jvp NotImplementedError, hessian NotImplementedError
#     float64: RNN jvp ok, hessian ok; GRU jvp ok, hessian ok; LSTM jvp ok, hessian ok
#     float32, mkldnn off: LSTM jvp ok
#
# Fails if this changes. Needs: Python 3.11 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/look.py" <<'PYTHON'
import torch

failed = "NotImplementedError"


def outcome(function):
    try:
        function()
    except NotImplementedError:
        return failed
    return "ok"


def jvp(layer, x):
    return outcome(lambda: torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),)))


seen = {}
for dtype in (torch.float32, torch.float64):
    for name in ("RNN", "GRU", "LSTM"):
        torch.manual_seed(0)
        layer, x = getattr(torch.nn, name)(3, 4).to(dtype), torch.randn(6, 2, 3, dtype=dtype)
        found = jvp(layer, x), outcome(lambda: torch.func.hessian(lambda x: layer(x)[0].sum())(x))
        seen[name, str(dtype)] = found
        print(f"{dtype} {name}: jvp {found[0]}, hessian {found[1]}")
        if name == "LSTM" and dtype == torch.float32:
            with torch.no_grad():
                quiet = jvp(layer.eval().requires_grad_(False), x)
            with torch.backends.mkldnn.flags(enabled=False):
                plain = jvp(layer, x)
            print(f"{dtype} {name}: without gradients {quiet}, mkldnn off {plain}")

expected = {key: ("ok", "ok") for key in seen} | {("LSTM", "torch.float32"): (failed, failed)}
assert torch.__version__.startswith("2.13.0"), torch.__version__
assert (seen, quiet, plain) == (expected, failed, "ok"), "torch's LSTM has changed"
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" "$folder/look.py"
