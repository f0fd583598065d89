"""How the site is built: `make docs`, or `python -m sphinx -W docs docs/_build`. Nothing is fetched."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import stabilitykit

project = "stabilitykit"
author = "the stabilitykit authors"
version = release = stabilitykit.__version__
language = "en"
highlight_language = "text"

extensions = ["myst_parser", "sphinx.ext.autodoc", "reference"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 3
smartquotes = False  # "v1" and 'lower' are typed as they stand
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
toc_object_entries = False  # the contents of a page name its sections; each object has its own heading

html_theme = "furo"
html_title = f"stabilitykit {version}"
html_copy_source = False
html_static_path = []
