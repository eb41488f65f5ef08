"""Import a module of another project, or say what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_from_project"]


def import_from_project(module: str) -> ModuleType:
    """Import `module`; if its project is not there, say which distribution to install."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        distribution = package.replace("_", "-")
        raise ModuleNotFoundError(
            f"gatedcoro.langchain needs {package}, which is not installed: pip install {distribution}", name=package
        ) from None
    return importlib.import_module(module)
