"""How Sphinx builds the guide: `make docs`. Tutorials are text notebooks, run when they are built; warnings are errors."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # progress bars are text in the tutorials' kernels

project = "edge-circuits"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "edge-circuits"
html_show_copyright = False
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def setup(app):
    """Docstrings write absolute values as |score|, which would be a substitution."""
    app.connect("autodoc-process-docstring", _escape)


def _escape(app, what, name, value, options, lines):
    lines[:] = [line.replace("|", r"\|") for line in lines]
