"""The galleries: scripts are copied before they are run, and what they write beside them becomes their pictures."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import shutil
import sys
import warnings
from multiprocessing import spawn
from pathlib import Path

import sphinx_gallery.notebook
from matplotlib import pyplot as plt
from sphinx_gallery.scrapers import figure_rst

ROOT = Path(__file__).parents[2]
PREPARATION = spawn.get_preparation_data

# The course's way to Markdown, which hides what is to be hidden, in the gallery's notebooks. Here, since each of its
# processes imports this module.
sys.path.insert(0, str(ROOT / "course"))
import notebooks  # noqa: E402

sphinx_gallery.notebook.rst2md = lambda text, *_: notebooks.markdown(text)

# The order of the gallery: the lecture's, then gradients, then training and the rest. What is new comes last.
ORDER = (
    "plot_worked_neuron", "plot_many_to_one", "plot_one_to_many", "run_language_model", "plot_many_to_many",
    "run_step_through_bptt", "plot_vanishing_exploding", "plot_cliff", "plot_tk_heatmap", "plot_truncation",
    "plot_lyapunov", "plot_attention_gradient", "plot_rollout_gradient", "plot_clipping", "plot_trained_networks",
    "run_my_backward_pass",
    "run_find_the_bug", "run_your_own_cell", "plot_forecast", "run_train_and_resume", "run_sweep", "run_carry_weights",
    "RNN_teoria", "RNN_signal_TP", "RNN_enc_dec",
)  # fmt: skip


class Order:
    """Sorts the scripts of a folder."""

    def __init__(self, folder):
        pass

    def __call__(self, name: str) -> tuple[int, str]:
        stem = Path(name).stem
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), stem)


def copy(source: Path, target: Path) -> None:
    """Copy a folder's scripts to where they may write, only what has changed."""
    target.mkdir(parents=True, exist_ok=True)
    known = {path.name for path in source.iterdir() if path.suffix in {".py", ".rst"}}
    for path in target.iterdir():
        if path.name not in known and path.is_file():
            path.unlink()
    for name in known:
        if not (target / name).exists() or (target / name).read_bytes() != (source / name).read_bytes():
            shutil.copyfile(source / name, target / name)


def written(block, variables, configuration):
    """Take the pictures that a script's block has written under the script's own name."""
    script = Path(variables["src_file"])
    pictures = sorted(script.parent.glob(f"{script.stem}*.png"), key=os.path.getmtime)
    names = []
    for picture in pictures:
        names.append(next(variables["image_path_iterator"]))
        shutil.move(picture, names[-1])
    title = variables["target_file_title"] if "target_file_title" in variables else script.stem
    return figure_rst(names, configuration["src_dir"], title)


def galleries(root: Path) -> list[str]:
    """Return the folders of scripts that there are."""
    return [
        folder for folder in ("examples", "course/en", "course/es") if (root / folder / "GALLERY_HEADER.rst").exists()
    ]


def fresh(configuration, name, when) -> None:
    """Let a script start processes as Python does: the one that it runs in is joblib's, and its module a stand-in. A
    warning ends it.
    """
    if when == "after":
        warnings.resetwarnings()
        return
    plt.close("all")  # of the scripts before, of which pyplot warns where they are more than twenty
    warnings.simplefilter("error")
    multiprocessing.set_start_method("spawn", force=True)
    spawn.get_preparation_data = _preparation
    # The gallery gives a script no __file__; one that looks for data beside itself finds those of the example as it is.
    builtins.__file__ = str(ROOT / "examples" / name)


def _preparation(name: str) -> dict[str, object]:
    """Return what a new process is told: to import the script by its file."""
    stand_in = sys.modules["__main__"]
    spec, stand_in.__spec__, stand_in.__file__ = stand_in.__spec__, None, sys.argv[0]
    try:
        return PREPARATION(name)
    finally:
        stand_in.__spec__ = spec
        del stand_in.__file__
