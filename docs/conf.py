"""Sphinx: ``make docs`` builds the pages of this folder. They are MyST Markdown, and read as well where they lie."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "lesion"
author = copyright = "The lesion developers"
version = release = installed("lesion")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated", "mathml"]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "_ext"]
smartquotes = False  # -- is an option here, not a dash
html_theme = "furo"
html_title = f"lesion {version}"

# -- Markdown ---------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # ```math is how GitHub writes formulas, too
myst_heading_anchors = 3  # so that links such as data.md#webdataset work here as they do on GitHub

# -- The API, from the code's docstrings ------------------------------------------------------------------------------
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
