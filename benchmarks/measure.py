"""How the quantities are measured: each in runs of its own, since measuring one disturbs the others."""

import asyncio
import contextlib
import gc
import itertools
import os
import platform
import sys
import sysconfig
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEARTBEAT = 0.001


class WrongResult(AssertionError):
    """A tool did not return what its items returned: its figures are void."""


def check(outcome: Sequence[Any], expected: Sequence[Any]) -> None:
    if list(outcome) != list(expected):
        wrong = [index for index, pair in enumerate(zip(outcome, expected, strict=False)) if pair[0] != pair[1]]
        raise WrongResult(f"{len(outcome)} results for {len(expected)} items; the first wrong one: {wrong[:1]}")


@contextlib.contextmanager
def frozen_gc() -> Iterator[None]:
    """What exists already is no business of the garbage collector; it stays on for what is made inside."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# --- Memory -------------------------------------------------------------------------------------------------------


@dataclass
class Growth:
    bytes: float = 0.0


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


@contextlib.contextmanager
def traced_growth() -> Iterator[Growth]:
    """The peak of what Python allocated inside: exact, but without malloc's overhead, and slow."""
    growth = Growth()
    tracemalloc.start()
    try:
        yield growth
        growth.bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- The event loop -----------------------------------------------------------------------------------------------


@dataclass
class Heartbeat:
    """A timer that beats every millisecond: where it comes late, nothing else in the loop could run either.

    By `time.thread_time` as its clock, the time in which other processes had the processor is left out.
    """

    beats: list[float] = field(default_factory=list)
    clock: Callable[[], float] = time.perf_counter
    _next: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Heartbeat":
        self._loop = asyncio.get_running_loop()
        self._beat()
        await asyncio.sleep(0.005)
        self._entered = self.clock()
        return self

    def _beat(self) -> None:
        self.beats.append(self.clock())
        self._next = self._loop.call_later(HEARTBEAT, self._beat)

    async def __aexit__(self, *exc_info: object) -> None:
        self._left = self.clock()
        assert self._next is not None
        self._next.cancel()

    def longest_stall(self, start: float | None = None, end: float | None = None) -> float:
        """Seconds: the longest gap between beats, of the part between start and end, less the beat itself."""
        start = self._entered if start is None else start
        end = self._left if end is None else end
        times = [start, *(beat for beat in self.beats if start < beat < end), end]
        longest = max(later - earlier for earlier, later in itertools.pairwise(times))
        return max(0.0, longest - HEARTBEAT)


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
