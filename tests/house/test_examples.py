"""Every example runs, as a student would run it: as a script, in some folder, with warnings as errors."""

import os
import sys
from pathlib import Path

import pytest
from processes import ended

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PNG = b"\x89PNG\r\n\x1a\n"

# Well above the 20 seconds an example may take, so that a busy machine does not fail; an example that hangs does.
LIMIT = 120


def test_there_are_examples():
    names = [path.stem for path in EXAMPLES]
    assert {"plot_worked_neuron", "run_step_through_bptt"} <= set(names)
    assert all(name.startswith(("plot_", "run_")) for name in names)


# Two are run by .ci/run, the others by the site, where tests_site asks the same of them.
SHORT = ("plot_worked_neuron", "run_step_through_bptt")
RUN = [pytest.param(path, marks=[] if path.stem in SHORT else [pytest.mark.on_the_site]) for path in EXAMPLES]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = ended(  # raises where the limit is passed
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        limit=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example tells what it found"
    written = {file.name: file.read_bytes()[:8] for file in tmp_path.iterdir()}
    if path.stem.startswith("plot_"):
        assert written == {f"{path.stem}.png": PNG}
    else:
        assert written == {}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_laid_out_as_the_others(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == '"""', "an example begins with its docstring"
    title, underline = lines[1:3]
    assert set(underline) == {"="}
    assert len(underline) == len(title), f"the underline is {len(underline)} long, the title {len(title)}"
    assert "What you will see" in text.split('"""')[1]
    assert "\n# %%\n" in text


def test_no_example_imports_another():
    names = {path.stem for path in EXAMPLES}
    for path in EXAMPLES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].split(".")[0] not in names, f"{path.name}: {line}"
