"""How many system calls this process makes: by `perf stat`, which costs it little, or else by `strace -c`, which slows it.

`perf` also counts cycles and instructions where the machine has counters. Each is asked for this process alone.
"""

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from . import measure

PATIENCE = 20.0
SENDS = ("sendto", "sendmsg", "write", "writev")
RECEIVES = ("recvfrom", "recvmsg", "read", "readv")
POLLS = ("epoll_wait", "epoll_pwait")
EVERY = "raw_syscalls:sys_enter"
HARDWARE = ("cycles", "instructions")


def _events(names: tuple[str, ...]) -> list[str]:
    return [f"syscalls:sys_enter_{name}" for name in names]


def _perf(events: list[str], *more: str) -> list[str]:
    return ["perf", "stat", "-x", ",", "-e", ",".join(events), *more]


def _counts(output: str) -> dict[str, float]:
    """What `perf stat -x ,` says: count, unit, event, ..."""
    counted = {}
    for line in output.splitlines():
        count, _, event, *_ = [*line.split(","), "", "", ""]
        if count.isdigit():
            counted[event.removesuffix(":u")] = float(count)
    return counted


@functools.cache
def perf_counts() -> frozenset[str]:
    """The events that `perf` can count here."""
    if shutil.which("perf") is None:
        return frozenset()
    wanted = [EVERY, *_events(SENDS + RECEIVES + POLLS), *HARDWARE]
    done = subprocess.run(_perf(wanted, "true"), capture_output=True, text=True, check=False)
    return frozenset(_counts(done.stderr)) if done.returncode == 0 else frozenset()


@functools.cache
def _strace_attaches() -> bool:
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        try:
            command = ["timeout", "-s", "INT", "0.5", "strace", "-c", "-p", str(sleeping.pid)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            sleeping.kill()
    return "attached" in done.stderr


def no_counter() -> str | None:
    """Why system calls cannot be counted here, or None."""
    if EVERY in perf_counts() or _strace_attaches():
        return None
    return "neither perf (with the kernel's tracepoints) nor strace can count system calls here"


def described() -> str:
    """What counts, in a sentence."""
    if EVERY not in perf_counts():
        return f"System calls: {no_counter() or 'by strace -c, under which everything is slower'}."
    missing = [event for event in HARDWARE if event not in perf_counts()]
    cycles = f"; no {' and '.join(missing)}, for which this machine has no counters" if missing else ""
    return f"System calls: by perf stat{cycles}."


@contextlib.asynccontextmanager
async def counted() -> AsyncIterator[dict[str, float]]:
    """What this process does inside: filled at the end."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        counting = _by_perf(Path(name)) if EVERY in perf_counts() else _by_strace(Path(name))
        async with counting as calls:
            yield found
    every = calls.pop("every")
    for title, names in (("sends", SENDS), ("receives", RECEIVES), ("polls", POLLS)):
        found[title] = sum(calls.get(name, 0.0) for name in names)
    found["calls"] = every
    found.update((name, calls[name]) for name in HARDWARE if name in calls)


@contextlib.asynccontextmanager
async def _by_perf(folder: Path) -> AsyncIterator[dict[str, float]]:
    control, answers, output = (folder / name for name in ("control", "answers", "output"))
    os.mkfifo(control)
    os.mkfifo(answers)
    events = sorted(perf_counts())
    more = ["-D", "-1", "--control", f"fifo:{control},{answers}", "-o", str(output), "-p", str(os.getpid())]
    calls: dict[str, float] = {}
    with measure.on_the_servers_cores():
        perf = subprocess.Popen(_perf(events, *more), stderr=subprocess.DEVNULL)
    try:
        with await asyncio.to_thread(control.open, "w") as say, await asyncio.to_thread(answers.open) as answer:

            def tell(word: str) -> None:
                say.write(word + "\n")
                say.flush()
                answer.readline()

            tell("enable")
            try:
                yield calls
            finally:
                tell("disable")
    finally:
        perf.send_signal(signal.SIGINT)
        await asyncio.to_thread(perf.wait, PATIENCE)
    for event, count in _counts(output.read_text()).items():
        calls["every" if event == EVERY else event.removeprefix("syscalls:sys_enter_")] = count


@contextlib.asynccontextmanager
async def _by_strace(folder: Path) -> AsyncIterator[dict[str, float]]:
    output = folder / "output"
    calls: dict[str, float] = {}
    command = ["strace", "-c", "-f", "-U", "calls,name", "-o", str(output), "-p", str(os.getpid())]
    with measure.on_the_servers_cores():
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert strace.stderr is not None
        await asyncio.to_thread(strace.stderr.readline)  # "strace: Process ... attached"
        yield calls
    finally:
        strace.send_signal(signal.SIGINT)
        await asyncio.to_thread(strace.communicate, timeout=PATIENCE)
    for count, name in re.findall(r"^ *(\d+) +(\w+)$", output.read_text(), re.MULTILINE):
        calls["every" if name == "total" else name] = float(count)
