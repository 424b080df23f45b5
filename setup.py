"""The README as a package index shows it: each link into the repository has its whole address.

All else of the package is in pyproject.toml.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
# A picture is shown by its raw address, a page by the one that is read.
PICTURE = PROJECT["urls"]["Repository"] + "/raw/main/"
PAGE = PROJECT["urls"]["Repository"] + "/blob/main/"

readme = (HERE / "README.md").read_text()
readme = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{PICTURE}", readme)
readme = re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\1{PAGE}", readme)

setup(long_description=readme, long_description_content_type="text/markdown")
