"""An implementation of the contract as a module: by its name, imported a second time, or by what a subprocess needs to know of it."""

import importlib
import os
import pathlib
import sys
import sysconfig

import pytest

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# C passes ask an async source in place of its idle Task, except where a reference count is split between threads.
asked_in_place = pytest.mark.skipif(
    FREE_THREADED, reason="in C an idle Task makes a step there, which takes a turn of the loop"
)


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


def reuses_tasks(impl):
    reuse = impl._set_task_reuse(True)
    impl._set_task_reuse(reuse)
    return reuse


def begins_with_full_turns(impl):
    full = impl._set_full_turns(True)
    impl._set_full_turns(full)
    return full


def package_parent(impl):
    """The folder that has to be on sys.path."""
    package = importlib.import_module(impl.__name__.partition(".")[0])
    return str(pathlib.Path(package.__file__).absolute().parents[1])


def load_again(impl):
    """The same implementation as a module of its own, imported now."""
    package, _, name = impl.__name__.rpartition(".")
    loaded = {one: sys.modules.pop(one) for one in list(sys.modules) if f"{one}.".startswith(f"{impl.__name__}.")}
    try:
        module = importlib.import_module(impl.__name__)
    finally:
        sys.modules.update(loaded)
        setattr(sys.modules[package], name, impl)
    module._set_task_reuse(reuses_tasks(impl))
    module._set_full_turns(begins_with_full_turns(impl))
    module._set_clock(lambda: 0.0)
    return module
