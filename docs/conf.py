"""Sphinx: `make docs` builds the pages, and fails for anything that is not as it should be."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "hookpool"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
copyright = "hookpool developers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The pages are written to be read as files, too. What only a site needs is in contents.rst.
root_doc = "contents"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hookpool {release}"
myst_heading_anchors = 3

# Types are in the signatures, by the names that the source has for them. As links they would need
# the inventories of other projects' sites, and so a network, to tell a wrong one.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpick_ignore = [("py:exc", "BrokenProcessPool"), ("py:exc", "pickle.PicklingError")]
default_role = "code"  # one pair of backquotes in a docstring is code
