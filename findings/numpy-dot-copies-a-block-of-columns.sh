#!/bin/sh
# numpy.dot copies a block of columns before it multiplies; numpy.matmul hands the same block to BLAS as it lies.
#
# One would guess: of two matrices `dot` and `@` are one product by the same BLAS routine, and with `out=` neither takes
# memory. So it is of whole arrays. But take da, (T, 4H), all gates of a recurrent layer side by side: the gradient of
# three gates' weights is da[:, H:].T @ h. BLAS takes such a block with a leading dimension of 4H. matmul does that; dot
# makes a contiguous copy first, here 1.5 MB for a result of 98 kB, which takes longer than the product of a narrow h.
#
# Seen with NumPy 2.4.6, Python 3.11, bytes that one call takes, to 4 kB:
#     all of da: dot 0, matmul 0
#     three of its four blocks: dot 1536000, matmul 0
#
# Fails if this changes. Needs: Python 3.11 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/look.py" <<'PYTHON'
import tracemalloc

import numpy as np

T, H = 1000, 64
da, h = np.ones((T, 4 * H)), np.ones((T, H))


def taken(product, left):
    out = np.empty((left.shape[0], H))
    product(left, h, out=out)  # what a first call sets up does not count
    tracemalloc.start()
    product(left, h, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (out == T).all()
    return peak // 4000 * 4000


seen = [[taken(product, left) for product in (np.dot, np.matmul)] for left in (da.T, da[:, H:].T)]
for what, (dot, matmul) in zip(("all of da", "three of its four blocks"), seen):
    print(f"{what}: dot {dot}, matmul {matmul}")
assert np.__version__ == "2.4.6", np.__version__
assert seen == [[0, 0], [da[:, H:].nbytes, 0]], "numpy.dot or numpy.matmul has changed"
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6
"$folder/venv/bin/python" "$folder/look.py"
