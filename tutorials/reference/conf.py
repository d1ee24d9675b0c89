"""Sphinx's settings; `nox -s docs` builds the reference, in docs/."""

import doctest
import sys
from pathlib import Path

import sphinx_autosummary_accessors

import lensframe_pd

sys.path.insert(0, str(Path(__file__).parent))

from api import write_pages

project = "lensframe_pd"
release = lensframe_pd.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "numpydoc",
    "sphinx_autosummary_accessors",
]
templates_path = [sphinx_autosummary_accessors.templates_path]
exclude_patterns = ["*.py"]
html_theme = "alabaster"
html_theme_options = {"description": "PyTorch models as pandas and xarray", "page_width": "1060px"}
html_show_copyright = False
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's words have them
numpydoc_show_class_members = False
doctest_global_setup = "import matplotlib; matplotlib.use('agg')"
doctest_test_doctest_blocks = "default"
doctest_default_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


# before Sphinx looks which pages there are
write_pages(Path(__file__).parent)
