"""What type checkers make of Semaphore and BoundedSemaphore; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal, reveal_type

import gatedcoro


class Index:
    def __index__(self) -> int:
        return 3


class Counted(gatedcoro.Semaphore):
    acquired = 0

    async def acquire(self) -> Literal[True]:
        self.acquired += 1
        return await super().acquire()

    def release(self) -> None:
        super().release()

    def locked(self) -> bool:
        return super().locked()


async def number() -> int:
    return 1


def double(x: int) -> Awaitable[int]:
    return number()


def takes_asyncios(semaphore: asyncio.Semaphore, bounded: asyncio.BoundedSemaphore | None = None) -> None: ...


async def made() -> None:
    reveal_type(gatedcoro.Semaphore())  # reveals: Semaphore
    reveal_type(gatedcoro.Semaphore(10))  # reveals: Semaphore
    reveal_type(gatedcoro.Semaphore(value=Index()))  # reveals: Semaphore
    reveal_type(gatedcoro.BoundedSemaphore(10))  # reveals: BoundedSemaphore
    reveal_type(Counted(10).acquired)  # reveals: int
    gatedcoro.Semaphore(2.5)  # error: arg-type
    gatedcoro.Semaphore("3")  # error: arg-type
    gatedcoro.BoundedSemaphore(None)  # error: arg-type


async def used(semaphore: gatedcoro.Semaphore, bounded: gatedcoro.BoundedSemaphore) -> None:
    async with semaphore as entered:
        reveal_type(entered)  # reveals: None
    reveal_type(await semaphore.acquire())  # reveals: Literal[True]
    reveal_type(await asyncio.wait_for(semaphore.acquire(), 1))  # reveals: Literal[True]
    reveal_type(semaphore.locked())  # reveals: bool
    reveal_type(bounded.locked())  # reveals: bool
    semaphore.release()
    bounded.release()
    asyncio.create_task(semaphore.acquire())
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(bounded)
    semaphore.acquire(1)  # error: call-arg


async def what_it_is_taken_for(semaphore: gatedcoro.Semaphore, bounded: gatedcoro.BoundedSemaphore) -> None:
    takes_asyncios(semaphore, bounded)
    takes_asyncios(bounded)
    takes_asyncios(semaphore, semaphore)  # error: arg-type
    ours: gatedcoro.Semaphore = bounded
    entered: contextlib.AbstractAsyncContextManager[None] = semaphore
    not_ours: gatedcoro.Semaphore = asyncio.Semaphore()  # error: assignment
    del ours, entered, not_ours


async def changed(semaphore: gatedcoro.Semaphore, bounded: gatedcoro.BoundedSemaphore, succeeded: bool) -> None:
    reveal_type(semaphore.limit)  # reveals: int
    reveal_type(bounded.limit)  # reveals: int
    semaphore.limit = 5
    semaphore.limit = Index()
    semaphore.limit += succeeded
    bounded.limit = semaphore.limit // 2
    semaphore.limit = 2.5  # error: assignment
    semaphore.limit = None  # error: assignment
    semaphore.limits = 5  # error: attr-defined


async def as_a_limit(semaphore: gatedcoro.Semaphore, functions: list[Callable[[], Awaitable[int]]]) -> None:
    reveal_type(await gatedcoro.gated_coro(semaphore, number()))  # reveals: int
    reveal_type(gatedcoro.amap(double, [1], limit=semaphore))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=(10, semaphore)))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=[semaphore, asyncio.Lock()]))  # reveals: Stream[int]
    reveal_type(await gatedcoro.gather(number(), limit=Counted(3)))  # reveals: tuple[int]
    reveal_type(await gatedcoro.run_all(functions, limit=semaphore))  # reveals: list[int]
    reveal_type(gatedcoro.as_completed([number()], limit=semaphore))  # reveals: AsCompleted[int, Future[int]]
    await gatedcoro.gather_with_concurrency(semaphore, number())  # error: arg-type
