"""Other people's tools, as the real packages: the tests of each are skipped where it is not installed.

With GATEDCORO_REQUIRE_TOOLS=1 in the environment, as in the session `tools` of noxfile.py, that is a failure.
"""

import importlib.metadata
import os

import pytest


def needs(*distributions):
    """Skip the calling module's tests unless these are installed."""
    for name in distributions:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if os.environ.get("GATEDCORO_REQUIRE_TOOLS") == "1":
                raise
            pytest.skip(f"{name} is not installed", allow_module_level=True)
