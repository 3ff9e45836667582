#!/bin/sh
# Ctrl-C while numpy.random is loaded becomes an ImportError that speaks of zlib, in NumPy 2.3.5 to 2.4.6.
#
# One would guess: KeyboardInterrupt, as from any import, so that `except KeyboardInterrupt` ends a program cleanly and
# `except ImportError` means that something is not installed. But NumPy's extension modules hold their strings
# compressed and import zlib to read them (Cython's CYTHON_COMPRESS_STRINGS=1); whatever ends that import is replaced:
# the ImportError has no cause, no context and no module name. `import numpy` does not load numpy.random, its first use
# does, in the midst of a program. With NumPy 2.2.6, and with 2.5.5, the same Ctrl-C at any of these imports is a
# KeyboardInterrupt. Many of SciPy 1.18.1's modules are built in the same way. Who imports zlib first is safe.
#
# Seen on Linux with Python 3.11 and 3.13:
#     NumPy 2.2.6: KeyboardInterrupt at each of the imports
#     NumPy 2.3.5, 2.4.6: at zlib: ImportError: Failed to import 'zlib.decompress' - cannot initialise module strings. ...
#     NumPy 2.3.5, 2.4.6: the error's cause, context, name: None None None
#     NumPy 2.4.6, zlib imported first: KeyboardInterrupt at each of the imports
#
# Fails if this changes. Needs: Python 3.11 to 3.13 as python3 (or PYTHON=...), pip, a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/child.py" <<'PYTHON'
"""Send the process a SIGINT at the import of which numpy.random's loading asks as number sys.argv[1]; 0: count."""
import signal
import sys

if sys.argv[2] == "zlib-first":
    import zlib
import numpy

signal.signal(signal.SIGINT, signal.default_int_handler)
asked = []


class Finder:
    def find_spec(self, name, path=None, target=None):
        asked.append(name)
        if len(asked) == int(sys.argv[1]):
            signal.raise_signal(signal.SIGINT)


sys.meta_path.insert(0, Finder())
try:
    numpy.random
except KeyboardInterrupt:
    print("KeyboardInterrupt")
except ImportError as error:
    print(asked[-1], "|", error, "|", error.__cause__, error.__context__, error.name)
else:
    print(len(asked))
PYTHON

cat > "$folder/parent.py" <<'PYTHON'
import subprocess
import sys


def child(number, order):
    command = [sys.executable, sys.argv[1], str(number), order]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


version, order, expected = sys.argv[2:]
label = f"NumPy {version}" + (", zlib imported first" if order == "zlib-first" else "")
others = [said for number in range(1, int(child(0, order)) + 1) if (said := child(number, order)) != "KeyboardInterrupt"]
if expected == "heeded":
    if others:
        sys.exit(f"{label}: changed: {others}")
    print(f"{label}: KeyboardInterrupt at each of the imports")
else:
    if len(others) != 1:
        sys.exit(f"{label}: changed: {others}")
    name, message, rest = others[0].split(" | ")
    if name != "zlib" or not message.startswith("Failed to import 'zlib.decompress'") or rest != "None None None":
        sys.exit(f"{label}: changed: {others}")
    print(f"{label}: at {name}: ImportError: {message}")
    print(f"{label}: the error's cause, context, name: {rest}")
PYTHON

for version in 2.2.6 2.3.5 2.4.6; do
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --only-binary :all: "numpy==$version"
done
cd "$folder"
2.2.6/bin/python parent.py child.py 2.2.6 as-is heeded
2.3.5/bin/python parent.py child.py 2.3.5 as-is replaced
2.4.6/bin/python parent.py child.py 2.4.6 as-is replaced
2.4.6/bin/python parent.py child.py 2.4.6 zlib-first heeded
