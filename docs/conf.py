"""The site's settings. `python -m sphinx -W -n docs docs/_build` builds it, without a network."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))  # the extensions below that are no package
os.environ.setdefault("MPLBACKEND", "Agg")

import scripts  # noqa: E402

import rnn_numpy  # noqa: E402

project = "rnn_numpy"
author = copyright = "the rnn_numpy developers"
version = release = rnn_numpy.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "names",
    "generated",
    "stepper_pages",
    "accessible",
]
exclude_patterns = ["_build", "_scripts", "README.md"]
suppress_warnings = ["sphinx_gallery.duplicate_filename"]  # the course has its scripts in two languages
nitpicky = True

# Markdown, as on GitHub, with anchors for headings.
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 4

# Docstrings: numpydoc's sections have the types, what they name becomes a link where it is known.
default_role = "soft"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"

# Where other projects document their names, from files in this folder: inventories/renew.py.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "numpy": ("https://numpy.org/doc/stable/", "inventories/numpy.inv"),
}

# The scripts are run in copies, beside which they may write.
GALLERIES = {folder: DOCS / "_scripts" / folder for folder in scripts.galleries(DOCS.parent)}
for folder, target in GALLERIES.items():
    scripts.copy(DOCS.parent / folder, target)
sphinx_gallery_conf = {
    "examples_dirs": [str(target.relative_to(DOCS)) for target in GALLERIES.values()],
    "gallery_dirs": list(GALLERIES),
    "filename_pattern": r"\.py$",
    "image_scrapers": ("scripts.written",),
    "reset_modules": ("matplotlib", "scripts.fresh"),
    "reset_modules_order": "both",
    "within_subsection_order": "scripts.Order",
    "default_thumb_file": str(DOCS / "_static" / "script.png"),
    "capture_repr": ("_repr_html_", "__repr__"),
    "parallel": min(4, os.cpu_count() or 1),
    "write_computation_times": False,  # its pages load their tables' script from elsewhere
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}

highlight_language = "none"  # of what is indented: formulas
html_theme = "furo"
html_title = "rnn_numpy"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # which a page of the file system may not fetch
html_show_sphinx = False
