"""An implementation of the contract as a module, by its name, or imported a second time."""

import importlib
import importlib.util
import os

import pytest


def load_implementation(name):
    """Return the module that implements the contract, or skip if the extension was not built.

    With GATEDCORO_REQUIRE_C=1 in the environment a missing extension is a failure.
    """
    if name == "python":
        return importlib.import_module("gatedcoro._reference")
    try:
        return importlib.import_module("gatedcoro._core")
    except ImportError as error:
        if os.environ.get("GATEDCORO_REQUIRE_C") == "1":
            raise
        pytest.skip(f"the C extension was not built ({error})")


def load_again(impl):
    """The same implementation as a module of its own, imported now."""
    spec = importlib.util.spec_from_file_location(impl.__name__, impl.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reuse = impl._set_task_reuse(True)
    impl._set_task_reuse(reuse)
    module._set_task_reuse(reuse)
    module._set_clock(lambda: 0.0)
    return module
