"""How the quantities are measured: each in runs of its own, since measuring one disturbs the others."""

import asyncio
import contextlib
import gc
import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
import time
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
    "on_a_core_of_its_own",
    "on_the_servers_cores",
    "resident",
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


def resident() -> int:
    """Bytes of this process that are in memory."""
    return _status_bytes("VmRSS")


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
    """Counts and clocks the turns of a stock event loop by its private selector, which is asked once a turn.

    A turn lasts from the answer of the selector to the next question: what it waits for is not in it. `longest` is by the clock,
    `longest_own` by the processor time of this thread, which leaves out what other processes of a busy machine take; it has what
    the selector itself takes. Half a microsecond a turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.turns = 0
        self.longest = self.longest_own = 0.0
        self._loop: Any = loop

    def __enter__(self) -> "TurnCounter":
        selector = self._loop._selector
        select = selector.select
        wall, own = time.perf_counter, time.thread_time
        began, own_began = wall(), own()

        def counted(timeout: float | None = None) -> Any:
            nonlocal began, own_began
            self.turns += 1
            lasted, own_now = wall() - began, own()
            if lasted > self.longest:
                self.longest = lasted
            if own_now - own_began > self.longest_own:
                self.longest_own = own_now - own_began
            own_began = own_now
            events = select(timeout)
            began = wall()
            return events

        selector.select = counted
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._loop._selector.select


# --- Processor cores ----------------------------------------------------------------------------------------------

_servers_cores: set[int] = set()  # while this process has a core of its own


def cores() -> tuple[set[int], set[int]] | None:
    """The core of the client and those of the servers, where there are two to be had."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else None


@contextlib.contextmanager
def on_a_core_of_its_own() -> Iterator[None]:
    """This thread, and what it starts, has a core for itself; servers are started `on_the_servers_cores`."""
    found = cores()
    if found is None:
        yield
        return
    client, servers = found
    os.sched_setaffinity(0, client)
    _servers_cores.update(servers)
    try:
        yield
    finally:
        _servers_cores.clear()
        os.sched_setaffinity(0, client | servers)


@contextlib.contextmanager
def on_the_servers_cores() -> Iterator[None]:
    """What is started inside runs on the other cores, if this process has one of its own."""
    if not _servers_cores:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _servers_cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def waits_of_children() -> int:
    """How often the processes that this one has started, and theirs, have gone to sleep; 0 where there is no /proc."""
    waits, ahead = 0, [os.getpid()]
    while ahead:
        process = Path(f"/proc/{ahead.pop()}")
        with contextlib.suppress(OSError):  # it may have ended
            for thread in process.glob("task/*"):
                if process.name != str(os.getpid()):
                    found = re.search(
                        r"^voluntary_ctxt_switches:\s*(\d+)", (thread / "status").read_text(), re.MULTILINE
                    )
                    waits += int(found[1]) if found else 0
                ahead += map(int, (thread / "children").read_text().split())
    return waits


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
        "asyncpg",
        "aiosqlite",
        "redis",
        "langchain-core",
        "gatedcoro",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
