"""Sphinx configuration; warnings are errors (`make docs`)."""

import sys
from pathlib import Path

from advreg import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from rooms import ALIASES  # from the folder above

project = "advreg"
author = "The advreg developers"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
    "rooms",
]
html_theme = "furo"
html_title = f"advreg {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
exclude_patterns = ["_build"]
default_role = "name"  # of `rooms`: code, and a link where it is a documented name
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = ALIASES
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 76
nitpicky = False
plot_working_directory = str(Path(__file__).parents[1])
plot_formats = ["svg"]
plot_html_show_formats = plot_html_show_source_link = False
plot_rcparams = {"savefig.transparent": True, "svg.fonttype": "none", "font.family": "sans-serif"}
plot_apply_rcparams = True
