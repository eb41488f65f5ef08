"""Prints the requirements of extras, one a line: `requirements.py PYPROJECT EXTRA...`."""

import sys
import tomllib
from pathlib import Path

extras = tomllib.loads(Path(sys.argv[1]).read_text())["project"]["optional-dependencies"]
for extra in sys.argv[2:]:
    print(*extras[extra], sep="\n")
