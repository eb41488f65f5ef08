"""What a process of its own does with a program: runs it in turns with its other variants, once for its memory, into an error, or until Ctrl-C.

`report` asks `python -m benchmarks.programs.child`, and reads one JSON object a line.
"""

import asyncio
import contextlib
import gc
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .. import harness, measure
from .cases import PROGRAMS, Arguments, Program
from .server import Server

GIVEN_UP = 30.0  # seconds after which a program that has met an error is taken to hang


class Run:
    """The runs of one program in one process; what its items need lies in a folder."""

    def __init__(self, program: Program, server: Server, count: int, folder: Path) -> None:
        self.program, self.server, self.count, self.folder = program, server, count, folder

    def prepared(self, fail_at: int | None = None) -> Arguments:
        arguments = self.program.arguments(self.server, self.folder, self.count, fail_at)
        self.program.prepare(self.server, arguments, self.count, fail_at)
        return arguments

    async def measured(self, variant: str, around: Callable[[Callable[[], Awaitable[Any]]], Awaitable[float]]) -> float:
        """Runs `main` in what measures it. Outside: files and server, the check of what came of it."""
        main = self.program.module(variant).main
        arguments = self.prepared()
        outcomes = []

        async def call() -> None:
            outcomes.append(await main(*arguments))

        with measure.frozen_gc():
            figure = await around(call)
        self.program.check(self.server, arguments, self.count, outcomes[0], self.program.at_once(variant))
        return figure

    async def timed(self, variant: str, report: harness.Report | None = None) -> float:
        async def around(call: Callable[[], Awaitable[Any]]) -> float:
            started, used = time.perf_counter(), time.process_time()
            await call()
            seconds, used = time.perf_counter() - started, time.process_time() - used
            if report is not None:
                report({"tool": variant, "processor": used})
            return seconds

        return await self.measured(variant, around)

    async def stalled(self, variant: str) -> float:
        async def around(call: Callable[[], Awaitable[Any]]) -> float:
            async with measure.Heartbeat() as heartbeat:
                await call()
            return heartbeat.longest_stall()

        return await self.measured(variant, around)

    async def remembered(self, variant: str) -> float:
        async def around(call: Callable[[], Awaitable[Any]]) -> float:
            with measure.rss_growth() as growth:
                await call()
            return growth.bytes

        return await self.measured(variant, around)

    def hold(self, names: list[str], quantity: str, rounds: harness.Rounds, report: harness.Report) -> None:
        contenders = []
        for name in names:

            async def first(_calls: int, name: str = name) -> float:
                return await self.timed(name)

            async def another(_calls: int, name: str = name) -> float:
                return await (self.timed(name, report) if quantity == "time" else self.stalled(name))

            contenders.append(harness.Contender(name, first, another))
        harness.hold(contenders, rounds, report)

    async def into_an_error(self, variant: str, fail_at: int, goes_on: float, report: harness.Report) -> None:
        """The work in a service that keeps its client open, notes the error and goes on for so many seconds."""
        arguments = self.prepared(fail_at)
        resource, rest = self.program.opened(arguments)
        work = getattr(self.program.module(variant), self.program.work)
        async with resource as opened:
            told = "no error"
            try:
                async with asyncio.timeout(GIVEN_UP):
                    await work(opened, *rest)
            except TimeoutError:
                told = f"nothing within {GIVEN_UP:.0f} s"
            except BaseExceptionGroup as group:
                told = f"{type(group).__name__} of {', '.join(type(error).__name__ for error in group.exceptions)}"
            except Exception as error:
                told = type(error).__name__
            running = len(asyncio.all_tasks()) - 1
            await asyncio.sleep(goes_on)
            gone_on = await self.program.gone_on(self.server, opened)
        lost = self.program.lost(self.server, arguments)
        report({"tool": variant, "told": told, "running": running, "gone_on": gone_on, "lost": lost})

    def until_interrupted(self, variant: str, number: int, report: harness.Report) -> None:
        """As `python FILE` would, and says what still ran when `main` was left."""
        main = self.program.module(variant).main
        arguments = self.prepared()
        if self.program.name == "import":
            _say_when_written(number, report)

        async def watched() -> None:
            try:
                await main(*arguments)
            finally:
                report({"running": len(asyncio.all_tasks()) - 1})

        asyncio.run(watched())


def _say_when_written(number: int, report: harness.Report) -> None:
    """A line when so many chunks have been written."""
    import aiosqlite

    written = 0
    connection: Any = aiosqlite.Connection
    executemany = connection.executemany

    async def counted(self: Any, *arguments: Any) -> Any:
        nonlocal written
        cursor = await executemany(self, *arguments)
        written += 1
        if written == number:
            report({"reached": written})
        return cursor

    connection.executemany = counted


def handle(request: Any, report: harness.Report) -> None:
    program = PROGRAMS[request["program"]]
    server = Server(request["url"])
    variants, count, number = request["variants"], request["count"], request["number"]
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory() as own:
        run = Run(program, server, count, Path(request["folder"] or own))
        match request["what"]:
            case "time" | "stall" as quantity:
                run.hold(variants, quantity, harness.Rounds(**request["rounds"]), report)
            case "memory":
                small = Run(program, server, program.quick_count, run.folder)
                asyncio.run(small.timed(variants[0]))  # loads what is loaded lazily
                report({"tool": variants[0], "sample": asyncio.run(run.remembered(variants[0]))})
            case "error":
                for variant in variants:
                    with contextlib.redirect_stderr(io.StringIO()) as said:
                        asyncio.run(run.into_an_error(variant, number, request["goes_on"], report))
                        gc.collect()
                    report({"tool": variant, "said": said.getvalue()})
            case "interrupt":
                run.until_interrupted(variants[0], number, report)


if __name__ == "__main__":
    sys.exit(harness.answer(handle))
