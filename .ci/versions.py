"""Prints the installed versions of requirements that are pinned: `versions.py REQUIREMENT...`."""

import importlib.metadata
import re
import sys

names = [re.split(r"[\[=]", requirement)[0] for requirement in sys.argv[1:] if "==" in requirement]
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
