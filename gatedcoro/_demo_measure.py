"""What the demo, the benchmarks and the tests have in common: LangChain's algorithm, the basic items, how a pass is measured.

It lies in the package because the demo does: `python -m gatedcoro` runs where there is no benchmarks/, which build on this.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

HEARTBEAT = 0.001


# --- LangChain's algorithm ----------------------------------------------------------------------------------------


async def langchain_gated(semaphore: asyncio.Semaphore, coro: Awaitable[Any]) -> Any:
    """Awaits `coro` while holding `semaphore`: langchain_core.runnables.utils.gated_coro, restated."""
    async with semaphore:
        return await coro


async def langchain_gather(n: int | None, *coros: Awaitable[Any]) -> list[Any]:
    """Makes a Task for each coroutine at once; each waits for one semaphore of `n` slots: their gather_with_concurrency."""
    if n is None:
        return await asyncio.gather(*coros)
    semaphore = asyncio.Semaphore(n)
    return await asyncio.gather(*[langchain_gated(semaphore, coro) for coro in coros])


# --- Items: coroutine functions of an index that give it back -----------------------------------------------------


async def nothing(index: int) -> int:
    return index


async def sleep0(index: int) -> int:
    await asyncio.sleep(0)
    return index


async def future(index: int) -> int:
    loop = asyncio.get_running_loop()
    waited_for: asyncio.Future[int] = loop.create_future()
    loop.call_soon(waited_for.set_result, index)
    return await waited_for


# --- Measuring ----------------------------------------------------------------------------------------------------


class WrongResult(AssertionError):
    """A contender did not return what its items returned: its figures are void."""


def check(outcome: Sequence[Any], expected: Sequence[Any]) -> None:
    if list(outcome) != list(expected):
        wrong = [index for index, pair in enumerate(zip(outcome, expected, strict=False)) if pair[0] != pair[1]]
        raise WrongResult(f"{len(outcome)} results for {len(expected)} items; the first wrong one: {wrong[:1]}")


def in_turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, list[str]]]:
    """The number of each round and the order in it: each begins with the next name, so that none is always the first."""
    for number in range(rounds):
        order = list(names)
        turn = number % max(1, len(order))
        yield number, order[turn:] + order[:turn]


@dataclass
class Growth:
    bytes: float = 0.0


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


@dataclass
class Heartbeat:
    """A timer that beats every millisecond: where it comes late, nothing else in the loop could run either.

    By `time.thread_time` as its clock, the time in which other processes had the processor is left out.
    """

    beats: list[float] = field(default_factory=list)
    clock: Callable[[], float] = time.perf_counter
    _next: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Heartbeat:
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
