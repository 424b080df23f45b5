"""Build the documentation as a site, from the very Markdown that the repository shows.

    make site

The source folder is the repository itself, so that a link from a page to the README, to another
page or to a file of code is the same link in both places. docs/_toc.yml has the order of the pages.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import django  # noqa: E402 - found through the path above
from django.conf import settings  # noqa: E402

# What the references are taken from are docstrings of modules that Django must have set up.
settings.configure(
    INSTALLED_APPS=["pgtrigger", "migrations_playbook"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
)
django.setup()

metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
project = metadata["name"]
release = version = metadata["version"]

extensions = [
    "myst_parser",
    "sphinx_external_toc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md"]
external_toc_path = "docs/_toc.yml"

# A link to a heading is the heading in lower case with hyphens, as GitHub makes it.
myst_heading_anchors = 4

# A name between single backticks, as our docstrings have them, is code.
default_role = "code"

# The sections of our docstrings that Sphinx does not know.
napoleon_custom_sections = [("Lock", "params_style")]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Other packages' types, as their modules call them among themselves; parts that no caller makes.
nitpick_ignore_regex = [
    ("py:.*", r"(django|pgtrigger|psycopg|compiler|models|sql|datetime|collections|pathlib)\..*"),
    ("py:.*", r"Operation|.*\.(Prediction|Remembered|Step|Steps|Unique|Key)$"),
]

html_theme = "furo"
html_title = f"{project} {version}"
# The licence has the authors; a foot of "Copyright" and no name would tell nothing.
html_show_copyright = False
# The README is the first page; a web server asks for index.html.
html_additional_pages = {"index": "first-page.html"}
templates_path = ["templates"]
html_baseurl = metadata["urls"]["Documentation"]
html_theme_options = {
    "source_repository": metadata["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "",
}
