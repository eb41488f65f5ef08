"""How the quantities are measured: each in runs of its own, since measuring one disturbs the others."""

import asyncio
import contextlib
import gc
import importlib.metadata
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatedcoro._demo_measure import Growth, Heartbeat, WrongResult, check, in_turns, traced_growth

__all__ = [
    "Growth",
    "Heartbeat",
    "TurnCounter",
    "WrongResult",
    "build",
    "check",
    "frozen_gc",
    "in_turns",
    "machine",
    "rss_growth",
    "traced_growth",
    "versions",
]


@contextlib.contextmanager
def frozen_gc() -> Iterator[None]:
    """What exists already is no business of the garbage collector; it stays on for what is made inside."""
    gc.collect()
    somebody_else_has_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not somebody_else_has_frozen:
            gc.unfreeze()


# --- Memory -------------------------------------------------------------------------------------------------------


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def _peak_rss() -> int:
    try:
        return _status_bytes("VmHWM")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def rss_growth() -> Iterator[Growth]:
    """The peak of the resident set less its size at the start. Means something only once, in a fresh process.

    Without /proc the growth is that of the peak itself, which is the same where nothing was freed before.
    """
    growth = Growth()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at the present size
    before = _peak_rss()
    yield growth
    growth.bytes = _peak_rss() - before


# --- The event loop -----------------------------------------------------------------------------------------------


class TurnCounter:
    """Counts the turns of a stock event loop, by its private `_run_once`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.turns = 0
        self._loop: Any = loop

    def __enter__(self) -> "TurnCounter":
        run_once = self._loop._run_once

        def counted() -> None:
            self.turns += 1
            run_once()

        self._loop._run_once = counted
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._loop._run_once


# --- The machine --------------------------------------------------------------------------------------------------


def cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def build() -> str:
    """The interpreter in one line: what makes it faster or slower than another of its version."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    notes = [platform.python_compiler()]
    notes.append("PGO" if "--enable-optimizations" in arguments else "no PGO")
    if "--with-lto" in arguments:
        notes.append("LTO")
    if sysconfig.get_config_var("Py_DEBUG"):
        notes.append("debug")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        notes.append("free-threaded")
    return f"{platform.python_implementation()} {platform.python_version()} ({', '.join(notes)})"


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Of the packages that a figure may depend on, those that are there."""
    found = {}
    for name in (
        "aioitertools",
        "aiometer",
        "aiostream",
        "quattro",
        "pyarallel",
        "uvloop",
        "aiohttp",
        "httpx",
        "httpx-aiohttp",
        "httpx2",
        "aiolimiter",
        "aiosqlite",
        "langchain-core",
        "gatedcoro",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
