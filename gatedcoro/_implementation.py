"""Chooses the implementation: the C extension if there is one, unless GATEDCORO_IMPLEMENTATION says which."""

import asyncio  # noqa: F401  first of all: it takes no functions from an _asyncio that was imported before it
import os
from types import ModuleType
from typing import Literal

from gatedcoro import _environment, _functions


def _in_c() -> ModuleType:
    from gatedcoro import _core

    return _core


def _in_python() -> ModuleType:
    from gatedcoro import _reference

    return _reference


def _choose(wanted: str) -> tuple[Literal["c", "python"], ModuleType]:
    if wanted == "python":
        return "python", _in_python()
    if wanted not in ("", "c"):
        raise ImportError(f"GATEDCORO_IMPLEMENTATION must be 'c' or 'python', or not be set; it is {wanted!r}")
    try:
        return "c", _in_c()
    except ImportError as error:
        if wanted == "c":
            raise ImportError(
                f"GATEDCORO_IMPLEMENTATION=c asks for the C extension, but gatedcoro._core cannot be imported: {error}"
            ) from error
        return "python", _in_python()


_environment.task_reuse()  # a wrong value is not to be taken for a missing extension
implementation, _module = _choose(os.environ.get("GATEDCORO_IMPLEMENTATION", ""))
public_functions = {name: getattr(_module, name) for name in _functions.__all__}
