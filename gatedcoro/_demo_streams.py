"""The demo's streams: many items from a generator, through two stages, to a slow reader; by amap, and as people write that today.

What they wait for is a turn of the event loop each, so what is measured is what the ways cost: memory that grows with the number
of items, or does not, and how long nothing else can run.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import gatedcoro
from gatedcoro._demo_measure import Heartbeat, WrongResult, traced_growth

FETCHES, PARSES = 50, 4  # at a time
READ, PAUSE = 500, 0.002  # the reader pauses that long after each so many results

Read: TypeAlias = Callable[[int], Awaitable[None]]
Way: TypeAlias = Callable[[Iterable[int], Read], Awaitable[None]]


async def fetch(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def parse(answer: int) -> int:
    await asyncio.sleep(0)
    return answer * answer


# --- The ways -------------------------------------------------------------------------------------------------------


async def by_amap(numbers: Iterable[int], read: Read) -> None:
    async for square in gatedcoro.amap(parse, gatedcoro.amap(fetch, numbers, limit=FETCHES), limit=PARSES):
        await read(square)


async def by_workers(numbers: Iterable[int], read: Read) -> None:
    """Workers, and a queue behind each stage: flat, and the results are out of order."""
    source = iter(numbers)
    fetched: asyncio.Queue[int | None] = asyncio.Queue(20)
    parsed: asyncio.Queue[int | None] = asyncio.Queue(20)

    async def fetcher() -> None:
        for number in source:
            await fetched.put(await fetch(number))

    async def parser() -> None:
        while (answer := await fetched.get()) is not None:
            await parsed.put(await parse(answer))

    async def stages() -> None:
        async with asyncio.TaskGroup() as parsers:
            for _ in range(PARSES):
                parsers.create_task(parser())
            async with asyncio.TaskGroup() as fetchers:
                for _ in range(FETCHES):
                    fetchers.create_task(fetcher())
            for _ in range(PARSES):
                await fetched.put(None)
        await parsed.put(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(stages())
        while (square := await parsed.get()) is not None:
            await read(square)


async def by_asyncio(numbers: Iterable[int], read: Read) -> None:
    """asyncio.as_completed: a Task for each item at once, a semaphore for each stage."""
    fetches, parses = asyncio.Semaphore(FETCHES), asyncio.Semaphore(PARSES)

    async def both(number: int) -> int:
        async with fetches:
            answer = await fetch(number)
        async with parses:
            return await parse(answer)

    for square in asyncio.as_completed([both(number) for number in numbers]):
        await read(await square)


WAYS: dict[str, Way] = {"asyncio": by_asyncio, "workers": by_workers, "gatedcoro": by_amap}


# --- Measuring ------------------------------------------------------------------------------------------------------


@dataclass
class Streams:
    items: int
    seconds: dict[str, float] = field(default_factory=dict)
    stall: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def heading(self) -> str:
        return f"{self.items:,} items from a generator, {FETCHES} and then {PARSES} at a time, to a slow reader"

    async def run(self, way: str) -> None:
        """All items, one way; what was read is checked."""
        read = total = 0

        async def reader(square: int) -> None:
            nonlocal read, total
            read, total = read + 1, total + square
            if read % READ == 0:
                await asyncio.sleep(PAUSE)

        def numbers() -> Iterator[int]:
            yield from range(self.items)

        gc.collect()
        await WAYS[way](numbers(), reader)
        last = self.items - 1
        if (read, total) != (self.items, last * (last + 1) * (2 * last + 1) // 6):
            raise WrongResult(f"{way} gave wrong results for {self.heading()}: {read} of them")

    async def measure(self, step: Callable[[str], None]) -> None:
        for way in WAYS:
            step(f"{self.items:,} items in two stages: {way}")
            async with Heartbeat() as heartbeat:
                began = time.perf_counter()
                await self.run(way)
                self.seconds[way] = time.perf_counter() - began
            self.stall[way] = heartbeat.longest_stall()
        for way in WAYS:
            step(f"{self.items:,} items in two stages: memory, {way}")
            with traced_growth() as growth:
                await self.run(way)
            self.memory[way] = int(growth.bytes)


STEPS = 2 * len(WAYS)
