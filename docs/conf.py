"""Sphinx configuration; warnings are errors (`make docs`)."""

from advreg import __version__

project = "advreg"
author = "The advreg developers"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"advreg {release}"
html_static_path = []
exclude_patterns = ["_build"]
default_role = "code"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
nitpicky = False
