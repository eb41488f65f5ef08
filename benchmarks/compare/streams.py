"""Everything that gives results one by one, as they come: `await each(item, source, limit, take)` calls `take` with each.

The source is a generator of indices. A tool that wants a list makes one itself, so that this is inside the timed region. Beside
`each`, the one loop over whatever the tool is, stands `stream` for a reader that pauses, where the tool is an async iterator.

To add one: a function, and a row of STREAMS in competitors.py (test_benchmarks.py finds out whether it keeps to the limit and the
order that the row says).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from .works import Item

Take = Callable[[int], object]
Each = Callable[[Item, Iterator[int], int | None, Take], Awaitable[None]]
Stream = Callable[[Item, Iterator[int], int | None], AsyncIterator[int]]

QUEUE = 20


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def iterated(stream: Stream) -> Each:
    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        async for result in stream(item, source, limit):
            take(result)

    return each


# --- What people write by hand ------------------------------------------------------------------------------------


async def pool_and_queue(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
    """n workers over the shared iterator, a queue from them to the reader: what experts write by hand."""
    assert limit is not None
    queue: asyncio.Queue[int | None] = asyncio.Queue(QUEUE)

    async def worker() -> None:
        for index in source:
            await queue.put(await item(index))

    async def workers() -> None:
        await asyncio.gather(*[worker() for _ in range(limit)])
        await queue.put(None)

    working = asyncio.create_task(workers())
    while (result := await queue.get()) is not None:
        take(result)
    await working


def gated(item: Item, limit: int | None) -> Item:
    """A semaphore around each item: how what knows no limit is given one."""
    if limit is None:
        return item
    gate = asyncio.Semaphore(limit)

    async def gated_item(index: int) -> int:
        async with gate:
            return await item(index)

    return gated_item


async def as_completed(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
    """A Task for each item at once, a semaphore around it if there is a limit."""
    for earliest in asyncio.as_completed(map(gated(item, limit), source)):
        take(await earliest)


async def as_completed_async(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
    """The same, from Python 3.13 on."""
    completed: Any = asyncio.as_completed(map(gated(item, limit), source))
    async for task in completed:
        take(task.result())


async def as_completed_of_tasks(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
    """Tasks of the caller's, which no limit holds back."""
    for earliest in asyncio.as_completed(tasks(item, source)):
        take(await earliest)


def tasks(item: Item, source: Iterator[int]) -> list[asyncio.Task[int]]:
    loop = asyncio.get_running_loop()
    return [loop.create_task(item(index)) for index in source]


async def only_reading(item: Item, source: Iterator[int], limit: int | None) -> AsyncIterator[int]:
    """Runs nothing: what the reader itself costs."""
    for index in source:
        yield index


# --- Packages -----------------------------------------------------------------------------------------------------


async def aiometer(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
    from aiometer import amap

    async with amap(item, list(source), max_at_once=limit) as results:
        async for result in results:
            take(result)


def aiostream(ordered: bool) -> Each:
    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        from aiostream import stream

        map_: Any = stream.map  # its type asks for more than one source
        async with map_(stream.iterate(source), item, task_limit=limit, ordered=ordered).stream() as results:
            async for result in results:
                take(result)

    return each


def streamable(ordered: bool) -> Each:
    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        from streamable import stream

        assert limit is not None
        async for result in stream(source).map(item, concurrency=limit, as_completed=not ordered):
            take(result)

    return each


def pyarallel(ordered: bool) -> Each:
    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        from pyarallel import async_parallel_iter

        assert limit is not None
        results: Any = async_parallel_iter(item, source, concurrency=limit, ordered=ordered)
        async for result in results:
            take(result.value)

    return each


# --- Ours ---------------------------------------------------------------------------------------------------------


def ours(implementation: Any, **options: Any) -> Stream:
    def stream(item: Item, source: Iterator[int], limit: int | None) -> AsyncIterator[int]:
        results: AsyncIterator[int] = implementation.amap(item, source, limit=limit, **options)
        return results

    return stream


async def _that_never_suspends(source: Iterator[int]) -> AsyncIterator[int]:
    for index in source:
        yield index


def ours_from_async(implementation: Any, **options: Any) -> Stream:
    def stream(item: Item, source: Iterator[int], limit: int | None) -> AsyncIterator[int]:
        results: AsyncIterator[int] = implementation.amap(item, _that_never_suspends(source), limit=limit, **options)
        return results

    return stream


def our_as_completed(implementation: Any, lazily: bool = False) -> Each:
    """In `async for`: coroutines that exist, or are drawn from a generator."""

    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        coros: Any = map(item, source)
        async for task in implementation.as_completed(coros if lazily else list(coros), limit=limit):
            take(task.result())

    return each


def our_as_completed_plain(implementation: Any) -> Each:
    """In a plain loop, as it is written for asyncio's before Python 3.13."""

    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        for earliest in implementation.as_completed(map(item, source), limit=limit):
            take(await earliest)

    return each


def our_as_completed_of_tasks(implementation: Any) -> Each:
    async def each(item: Item, source: Iterator[int], limit: int | None, take: Take) -> None:
        for earliest in implementation.as_completed(tasks(item, source)):
            take(await earliest)

    return each
