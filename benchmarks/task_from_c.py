"""What a Task per item costs when nothing but the Task is made: `asyncio.Task(coro, loop=, eager_start=True, context=)` from C.

The baseline of a goal. Its few lines of C are compiled where they are needed, into a temporary folder, and are no part of the package.
A call in Python would add a frame and the parsing of the call; `map()` and `functools.partial` would make a dict of the arguments
for each Task. Here they are made once, as in the engine; a tuple and a copy of the context are made for each Task, and its result is
asked for (about 2 % of it), so that it can be checked.
"""

import asyncio
import atexit
import contextlib
import functools
import importlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

NAME = "gatedcoro_task_from_c"
SOURCE = Path(__file__).with_suffix(".c")
FOLDER = "GATEDCORO_TASK_FROM_C"
"""The environment variable that names the folder with what was compiled: for child processes."""


def _compiled() -> Path:
    """The extension module for this interpreter; is compiled unless a parent process has done so."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="gatedcoro-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    folder = Path(os.environ[FOLDER])
    module = folder / (NAME + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))
    if not module.exists():
        setuptools: Any = importlib.import_module("setuptools")  # has no types
        extension = setuptools.Extension(NAME, [str(SOURCE)])
        command = setuptools.Distribution({"name": NAME, "ext_modules": [extension]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = str(folder)
        with contextlib.redirect_stdout(sys.stderr):
            command.ensure_finalized()
            command.run()
    return module


@functools.cache
def module() -> Any:
    """Raises an exception where it cannot be compiled."""
    spec = importlib.util.spec_from_file_location(NAME, _compiled())
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def missing() -> str | None:
    """Why there is none here, or None."""
    try:
        module()
    except Exception as error:  # no setuptools, no compiler: whatever setuptools and the compiler make of it
        return f"its C cannot be compiled: {error}"
    return None


async def gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """One after the other, each eagerly in a Task; of coroutines that do not suspend, which need no limit.

    In a callback of the loop, as the engine does: where no Task is current, asyncio's own part costs a little more until 3.13.
    """
    loop = asyncio.get_running_loop()
    everything: asyncio.Future[list[Any]] = loop.create_future()

    def run() -> None:
        try:
            everything.set_result(module().run(asyncio.Task, asyncio.Task.result, loop, coros))
        except Exception as error:
            everything.set_exception(error)

    loop.call_soon(run)
    return await everything
