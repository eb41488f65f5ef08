"""How everything here is measured: in fresh processes, by contenders that take turns, with a wrong result voiding a figure.

    asked, answer    a child process: one request as JSON on its standard input, JSON objects back, one a line
    interrupted      a child process that is sent SIGINT, as by Ctrl-C
    hold             the rounds of one process: each contender's untimed first run, then samples in turns
    instructions     those of the forks of a child process, by cachegrind
    ratio, spread    figures of samples

The quantities are in measure.py. What the demo needs too (taking turns, the check of results, the heartbeat) is in
gatedcoro/_demo_measure.py, since the package cannot import this folder.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from . import measure

ROOT = Path(__file__).resolve().parent.parent
SHORTEST_SAMPLE = 0.005  # seconds; shorter calls are repeated within one sample
LONGEST_SAMPLE = 300.0  # seconds; beyond, a contender is taken to hang
LONGEST_CHILD = 1_800.0

Line = dict[str, Any]
Report = Callable[[Line], None]
Samples = Mapping[str, Sequence[float]]  # contender -> one sample per round


# --- Child processes ----------------------------------------------------------------------------------------------


class Failed(RuntimeError):
    """A child process ended with an error: its last line is the message."""


@dataclass
class Child:
    process: "subprocess.Popen[str]"
    errors: IO[str]

    def said(self) -> str:
        """What it has written to its standard error, when it has ended."""
        self.process.wait()
        self.errors.seek(0)
        return self.errors.read().strip()

    def lines(self) -> Iterator[Line]:
        assert self.process.stdout is not None
        return map(json.loads, self.process.stdout)


@contextlib.contextmanager
def child(
    arguments: Sequence[str],
    request: Any,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    seconds: float = LONGEST_CHILD,
) -> Iterator[Child]:
    """`python -m` with these arguments, handed its request; waited for at the end, killed if it takes too long."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*within, python, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        too_long = threading.Timer(seconds, process.kill)
        too_long.start()
        try:
            with process:
                assert process.stdin is not None
                json.dump(request, process.stdin)
                process.stdin.close()
                yield Child(process, errors)
        finally:
            too_long.cancel()


def asked(
    arguments: Sequence[str],
    request: Any,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[Line]:
    """What `python -m benchmarks...` prints when it is handed the request, as it comes."""
    with child(arguments, request, python, environment, within) as asked_one:
        yield from asked_one.lines()
        said = asked_one.said().splitlines()
        if status := asked_one.process.returncode:
            raise Failed(said[-1] if said else f"exit status {status}")


@dataclass(frozen=True)
class Interrupted:
    """How a child process ended after SIGINT."""

    seconds: float  # from the signal to the end
    status: int  # -SIGINT, if it ended as by KeyboardInterrupt
    lines: list[Line]  # what it reported after `when`
    said: str  # on its standard error


def interrupted(
    arguments: Sequence[str],
    request: Any,
    when: Callable[["subprocess.Popen[str]"], None],
    python: str = sys.executable,
) -> Interrupted:
    """Hands a child its request, waits until `when` returns, sends SIGINT, and waits for the end."""
    with child(arguments, request, python, seconds=LONGEST_SAMPLE) as running:
        try:
            when(running.process)
        except OSError:
            running.process.kill()
            raise Failed(f"never came so far: {running.said()[-300:]}") from None
        started = time.perf_counter()
        running.process.send_signal(signal.SIGINT)
        lines = list(running.lines())
        running.process.wait()
        seconds = time.perf_counter() - started
        return Interrupted(seconds, running.process.returncode, lines, running.said())


def answer(handle: Callable[[Any, Report], None]) -> int:
    """The child's side of it; every child can also be asked to describe itself."""

    def report(line: Line) -> None:
        print(json.dumps(line), flush=True)

    request = json.load(sys.stdin)
    if request == "describe":
        report(
            {
                "build": measure.build(),
                "versions": measure.versions(),
                "version": ".".join(map(str, sys.version_info[:3])),
            }
        )
    else:
        handle(request, report)
    return 0


@dataclass
class Python:
    """An interpreter; its path stays out of what is written."""

    path: str
    name: str = ""
    version: str = ""
    build: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def described(path: str) -> Python:
    [found] = asked(["benchmarks", "cell"], "describe", path)
    threading_ = ", free-threaded" if "free-threaded" in found["build"] else ""
    version = found["version"]
    return Python(path, f"CPython {version}{threading_}", version, found["build"], found["versions"])


# --- Rounds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """Both check their results, outside of what is measured."""

    name: str
    warm_up: Callable[
        [int], Awaitable[float]
    ]  # the untimed first run, of so many calls; about how many seconds one takes
    sample: Callable[[int], Awaitable[Any]]  # so many calls; the figure, or several by name
    repeated: bool = False  # calls too short for the clock are repeated within a sample


@dataclass(frozen=True)
class Rounds:
    """How many: as many as fit into `seconds` of samples for each contender, within bounds."""

    fewest: int
    most: int
    seconds: float = 0.0
    paired: bool = False  # the same number for all, so that samples of one round can be compared


def hold(
    contenders: Sequence[Contender],
    rounds: Rounds,
    report: Report,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    afterwards: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Reports samples of each contender, taken in turns. One that raises, hangs or gives a wrong result has failed, and is out."""
    in_play: dict[str, tuple[Contender, int, int]] = {}  # rounds, calls in each
    with asyncio.Runner(loop_factory=loop_factory) as runner:

        def run(contender: Contender, step: Awaitable[Any]) -> Any:
            try:
                return runner.run(_within(step))
            except Exception as error:
                report({"tool": contender.name, "failed": f"{type(error).__name__}: {error}"})
                in_play.pop(contender.name, None)
                return None

        try:
            for contender in contenders:
                calls = 1
                seconds = run(contender, contender.warm_up(calls))
                if contender.repeated and seconds is not None and seconds < SHORTEST_SAMPLE:
                    # the very first call is a slow one
                    seconds = run(contender, contender.warm_up(math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-6))))
                if seconds is None:
                    continue
                seconds = max(seconds, 1e-6)
                if contender.repeated:
                    calls = max(1, math.ceil(SHORTEST_SAMPLE / seconds))
                number = max(rounds.fewest, min(rounds.most, int(rounds.seconds / (seconds * calls))))
                in_play[contender.name] = contender, number, calls
            numbers = [number for _, number, _ in in_play.values()]
            last = (min if rounds.paired else max)(numbers, default=0)
            for number, order in measure.in_turns(in_play, last):
                for name in order:
                    contender, its_rounds, calls = in_play[name]
                    if number >= its_rounds:
                        continue
                    value = run(contender, contender.sample(calls))
                    if value is not None:
                        report({"tool": name, "sample": value, "calls": calls})
        finally:
            if afterwards is not None:
                runner.run(_awaited(afterwards()))


async def _within(step: Awaitable[Any]) -> Any:
    async with asyncio.timeout(LONGEST_SAMPLE):
        return await step


async def _awaited(step: Awaitable[None]) -> None:
    await step


# --- Instructions -------------------------------------------------------------------------------------------------


def stored(results: Path) -> Any:
    """What an earlier run has stored, for those who want it written anew."""
    if not results.exists():
        raise SystemExit(f"{results} is not there: run the same without --redraw first")
    return json.loads(results.read_text())


def no_valgrind() -> bool:
    if shutil.which("valgrind") is not None:
        return False
    print("not counted: valgrind is not installed")
    return True


def run_in_forks(steps: Iterable[Callable[[], object]]) -> None:
    """What cachegrind watches: each step in a fork of a process that has imported what they need, which takes cachegrind seconds.

    Before and after them a fork that does nothing.
    """
    for step in (lambda: None, *steps, lambda: None):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                step()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)


def instructions(program: str) -> list[int]:
    """The instructions of each step that `python -c program` takes with run_in_forks().

    Cachegrind, without its caches, takes a fifth of callgrind's time; it counts a process from its start on, a fork from the start
    of what it is a fork of, to which each fork before it has added as much.

    A program and not `python -m benchmarks`, which would import more.
    """
    done = subprocess.run(
        [
            "valgrind",
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
            sys.executable,
            "-c",
            program,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(done.stderr.strip()[-2000:])
    # In the order of their ends; the last one is of the process that forks.
    totals = [int(count.replace(",", "")) for count in re.findall(r"I +refs: +([\d,]+)", done.stderr)]
    first, *counts, last, _ = totals
    added = (last - first) / (len(counts) + 1)
    return [round(count - first - added * number) for number, count in enumerate(counts, 1)]


# --- Figures ------------------------------------------------------------------------------------------------------


def value(contender: str) -> Callable[[Samples], float]:
    return lambda samples: statistics.median(samples[contender])


def ratio(over: str, under: str) -> Callable[[Samples], float]:
    """The median over the rounds of `over` / `under` within a round."""
    return lambda samples: statistics.median(a / b for a, b in zip(samples[over], samples[under], strict=True))


def difference(ours: str, theirs: str) -> Callable[[Samples], float]:
    return lambda samples: statistics.median(a - b for a, b in zip(samples[ours], samples[theirs], strict=True))


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The quartiles (of fewer than four samples: the range)."""
    if len(samples) < 4:
        return min(samples), max(samples)
    quartiles = statistics.quantiles(samples, n=4, method="inclusive")
    return quartiles[0], quartiles[2]
