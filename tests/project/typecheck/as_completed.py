"""What type checkers make of as_completed; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, reveal_type

import gatedcoro


async def number() -> int:
    return 1


async def begun(count: int) -> AsyncIterator[Coroutine[Any, Any, int]]:
    for _ in range(count):
        yield number()


class Own(asyncio.Future[int]):
    pass


async def of_coroutines(fetch: Callable[[str], Coroutine[Any, Any, bytes]], urls: list[str]) -> None:
    completed = gatedcoro.as_completed([number(), number()], limit=3)
    reveal_type(completed)  # reveals: AsCompleted[int, Future[int]]
    reveal_type([await earliest for earliest in completed])  # reveals: list[int]
    reveal_type(asyncio.create_task(next(completed)))  # reveals: Task[int]
    async for task in completed:
        reveal_type(task)  # reveals: Future[int]
    reveal_type(await anext(completed))  # reveals: Future[int]
    reveal_type(asyncio.create_task(anext(completed)))  # reveals: Task[Future[int]]
    async with completed as entered:
        reveal_type(entered)  # reveals: AsCompleted[int, Future[int]]
    reveal_type(await completed.aclose())  # reveals: None
    reveal_type(gatedcoro.as_completed(map(fetch, urls)))  # reveals: AsCompleted[bytes, Future[bytes]]
    reveal_type(gatedcoro.as_completed(fetch(url) for url in urls))  # reveals: AsCompleted[bytes, Future[bytes]]
    reveal_type([task.result() async for task in gatedcoro.as_completed(map(fetch, urls))])  # reveals: list[bytes]
    reveal_type(gatedcoro.as_completed(begun(3), limit=asyncio.Semaphore()))  # reveals: AsCompleted[int, Future[int]]


async def of_what_runs(
    tasks: dict[asyncio.Task[int], str],
    futures: set[asyncio.Future[int]],
    own: list[Own],
    mixed: list[asyncio.Task[int] | asyncio.Future[int]],
    some: AsyncIterable[Awaitable[int]],
    task: asyncio.Task[int],
) -> None:
    async for done in gatedcoro.as_completed(tasks, timeout=2.5):
        reveal_type(done)  # reveals: Task[int]
        reveal_type(tasks[done])  # reveals: str
        reveal_type(done.result())  # reveals: int
    for earliest in gatedcoro.as_completed(tasks, timeout=1):
        reveal_type(await earliest)  # reveals: int
    reveal_type(gatedcoro.as_completed(futures))  # reveals: AsCompleted[int, Future[int]]
    reveal_type(gatedcoro.as_completed(own))  # reveals: AsCompleted[int, Future[int]]
    reveal_type(gatedcoro.as_completed(mixed))  # reveals: AsCompleted[int, Future[int]]
    reveal_type(gatedcoro.as_completed([task, number()]))  # reveals: AsCompleted[int, Future[int]]
    reveal_type(gatedcoro.as_completed(some))  # reveals: AsCompleted[int, Future[int]]


async def what_it_is_taken_for(
    completed: gatedcoro.AsCompleted[int], of_tasks: gatedcoro.AsCompleted[int, asyncio.Task[int]]
) -> None:
    iterator: Iterator[Coroutine[Any, Any, int]] = completed
    async_iterator: AsyncIterator[asyncio.Future[int]] = completed
    entered: contextlib.AbstractAsyncContextManager[gatedcoro.AsCompleted[int]] = completed
    of_futures: gatedcoro.AsCompleted[int] = of_tasks
    of_objects: Iterator[Awaitable[object]] = of_tasks
    async with contextlib.aclosing(completed) as closing:
        reveal_type(closing)  # reveals: AsCompleted[int, Future[int]]
    await completed  # error: misc
    del iterator, async_iterator, entered, of_futures, of_objects


async def what_it_refuses(task: asyncio.Task[int]) -> None:
    gatedcoro.as_completed([1])  # error: arg-type
    gatedcoro.as_completed(number())  # error: call-overload
    gatedcoro.as_completed(number)  # error: call-overload
    gatedcoro.as_completed([task], 3)  # error: call-overload
    gatedcoro.as_completed([task], limit="3")  # error: arg-type
    gatedcoro.as_completed([task], timeout="3")  # error: call-overload
