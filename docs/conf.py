"""Sphinx configuration of the manual: `sphinx-build -W --keep-going -n docs docs/_build`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import interactgraph

project = "interactgraph"
author = "the authors of interactgraph"
copyright = "the authors of interactgraph, MIT licence"
version = release = interactgraph.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "public_api",
    "command_line",
    "formulas",
]
exclude_patterns = ["_build", "_ext"]
# Files of the repository begin with headings of the third level.
suppress_warnings = ["myst.header"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

default_role = "name"  # of `docstrings`: a link where the name is documented, else a literal
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

html_theme = "furo"
html_title = f"interactgraph {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"

# Links in files of the repository that are pages here.
_PAGES = {
    "benchmarks/communities/README.md": "communities.md",
    "benchmarks/communities": "communities.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
}


def link_pages(app: Any, path: Path, page: str, content: list[str]) -> None:
    """Turns links to such files into links to the pages."""
    for file, target in _PAGES.items():
        content[0] = content[0].replace(f"]({file})", f"]({target})")


def setup(app: Any) -> None:
    """Connects what is above."""
    app.connect("include-read", link_pages)
