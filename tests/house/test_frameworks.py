"""Large libraries are loaded by the tests that use them, which say so by a marker; see tests/support/frameworks.py."""

import ast
import configparser
from pathlib import Path

import pytest
from frameworks import MARKED, torch

TESTS = Path(__file__).parents[1]
# Programs of their own, and the door itself.
OWN = {
    "interop/golden/compare_backward.py",
    "interop/golden/make_conventions.py",
    "interop/golden/make_keras_loops.py",
    "interop/golden/make_real_networks.py",
    "layers/golden/make_golden.py",
    "support/frameworks.py",
}


def test_no_test_imports_them_by_itself():
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found += [f"{name}:{node.lineno}: {m}" for m in modules if m.split(".")[0] in (*MARKED, "onnx")]
    assert [line for line in found if line.partition(":")[0] not in OWN] == []


def test_without_the_marker_they_cannot_be_used():
    with pytest.raises(
        AssertionError, match=r"^torch.zeros: only a test that bears @pytest.mark.needs_torch may use to"
    ):
        torch.zeros(1)


def test_every_library_has_its_marker():
    config = configparser.ConfigParser(interpolation=None)
    config.read(TESTS.parent / "setup.cfg", encoding="utf-8")
    markers = [line.split(":")[0] for line in config["tool:pytest"]["markers"].strip().splitlines()]
    assert markers.pop() == "sampled(n)"  # no libraries
    assert markers.pop() == "collection"
    assert markers.pop() == "on_the_site"
    assert markers.pop() == "needs_axe"  # of tests_browser
    assert markers == [f"needs_{library}" for library in MARKED]
    # What .ci/run leaves out on the second Python is what is marked, and nothing else.
    left_out = " and ".join(f"not {marker}" for marker in [*markers, "collection"])
    assert f'without="{left_out}"' in (TESTS.parent / ".ci" / "run").read_text(encoding="utf-8")
