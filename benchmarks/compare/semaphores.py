"""What is done with a semaphore alone: works whose tools are classes of semaphores (rows of ASIDE in competitors.py that have one).

A call gives the indices back in the order in which slots were had. That a class keeps to its limit, serves in order and has all its
slots back is looked at before the timed region, on another semaphore of the class; the count of the timed one afterwards.

To add one: a row of SEMAPHORE_WORKS, and one of CONTESTS in goals.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from .works import Call, Tool, Work

Semaphores = Callable[[int], Any]
HOLDS = 20  # of each user of a shared one


class WrongCount(AssertionError):
    """A semaphore let in too many, or has not all its slots."""


async def looked_at(semaphores: Semaphores) -> None:
    """Whether twelve users that share three slots, waiting in both ways, are served in order, three at a time, and lose no slot."""
    semaphore, running, most, served = semaphores(3), 0, 0, []

    async def user(index: int) -> None:
        nonlocal running, most
        async with semaphore:
            running += 1
            most = max(most, running)
            served.append(index)
            await asyncio.sleep(0)
            running -= 1
        await semaphore.acquire()
        semaphore.release()

    await asyncio.gather(*[user(index) for index in range(12)])
    if (most, served) != (3, list(range(12))):
        raise WrongCount(f"{semaphores}: {most} at once instead of 3, in the order {served}")
    counted(semaphore, 3)


def counted(semaphore: Any, slots: int) -> None:
    if semaphore._value != slots or semaphore.locked() != (slots == 0) or semaphore._waiters:
        raise WrongCount(f"{semaphore!r} instead of {slots} free slots")


# --- Works --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def prepared(tool: Tool, slots: int, free: int) -> AsyncIterator[Any]:
    """A semaphore; so many of its slots are free in the end."""
    assert tool.semaphore is not None
    await looked_at(tool.semaphore)
    semaphore = tool.semaphore(slots)
    yield semaphore
    counted(semaphore, free)


@contextlib.asynccontextmanager
async def entering(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """`async with` on a free one."""
    async with prepared(tool, limit or count, limit or count) as semaphore:

        async def call() -> Sequence[int]:
            for _ in range(count):
                async with semaphore:
                    pass
            return range(count)

        yield call


@contextlib.asynccontextmanager
async def acquiring(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """`acquire()` and `release()` on a free one."""
    async with prepared(tool, limit or count, limit or count) as semaphore:

        async def call() -> Sequence[int]:
            for _ in range(count):
                await semaphore.acquire()
                semaphore.release()
            return range(count)

        yield call


@contextlib.asynccontextmanager
async def sharing(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """Tasks, each of which holds a slot over `sleep(0)`, HOLDS times."""
    async with prepared(tool, limit or count, limit or count) as semaphore:

        async def user(indices: range) -> range:
            for _ in indices:
                async with semaphore:
                    await asyncio.sleep(0)
            return indices

        async def call() -> Sequence[int]:
            of_each = [range(start, min(start + HOLDS, count)) for start in range(0, count, HOLDS)]
            ended = await asyncio.gather(*[user(indices) for indices in of_each])
            return [index for indices in ended for index in indices]

        yield call


@contextlib.asynccontextmanager
async def releasing(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """All slots are held, and `count` Tasks wait. Timed, once: as many releases in one turn, until the last Task has gone on."""
    slots = count if limit is None else limit
    async with prepared(tool, slots, 0) as semaphore:
        served: list[int] = []
        everybody = asyncio.get_running_loop().create_future()

        async def user(index: int) -> None:
            await semaphore.acquire()
            served.append(index)
            if len(served) == count:
                everybody.set_result(None)

        async def call() -> Sequence[int]:
            for _ in range(count):
                semaphore.release()
            await everybody
            return served

        for _ in range(slots):
            await semaphore.acquire()
        users = [asyncio.create_task(user(index)) for index in range(count)]
        await asyncio.sleep(0)
        try:
            yield call
        finally:
            for task in users:
                task.cancel()
            await asyncio.gather(*users, return_exceptions=True)


SEMAPHORE_WORKS = [
    Work("semaphore-entered", "async with semaphore, free", entering, only_semaphore=True),
    Work("semaphore-acquired", "acquire() and release(), free", acquiring, only_semaphore=True),
    Work("semaphore-shared", "a slot held over sleep(0), shared", sharing, only_semaphore=True),
    Work("semaphore-released", "all slots released in one turn", releasing, only_semaphore=True),
]
BY_NAME = {work.name: work for work in SEMAPHORE_WORKS}


# --- gated_coro -----------------------------------------------------------------------------------------------------

GatedCoro = Callable[[Any, Any], Awaitable[Any]]


def awaited_one_by_one(gated_coro: GatedCoro, semaphores: Semaphores) -> Any:
    """run() of `gated_coro(semaphore, coro)` in one Task, each coroutine made when its turn comes."""

    async def run(item: Callable[[int], Any], count: int, limit: int | None) -> list[int]:
        semaphore = semaphores(limit or count)
        results = [await gated_coro(semaphore, item(index)) for index in range(count)]
        counted(semaphore, limit or count)
        return results

    return run


def through_a_free_gate(gated_coro: GatedCoro, semaphores: Semaphores) -> Any:
    """gather() of coroutines that are there, in the same way."""

    async def gather(n: int, *coros: Any) -> list[Any]:
        semaphore = semaphores(n)
        results = [await gated_coro(semaphore, coro) for coro in coros]
        counted(semaphore, n)
        return results

    return gather
