"""What type checkers make of streams and of async iterables; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import reveal_type

import gatedcoro


async def parse(page: str) -> int:
    return len(page)


def begin(number: int) -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


async def pages() -> AsyncIterator[str]:
    yield ""


async def callables() -> AsyncIterator[Callable[[], Awaitable[int]]]:
    yield lambda: parse("")


async def a_stream(switch: bool) -> None:
    stream = gatedcoro.amap(parse, ["a", "b"], limit=3)
    reveal_type(stream)  # reveals: Stream[int]
    async for result in stream:
        reveal_type(result)  # reveals: int
    async with stream as entered:
        reveal_type(entered)  # reveals: Stream[int]
    reveal_type(await stream)  # reveals: list[int]
    reveal_type(await anext(stream))  # reveals: int
    reveal_type(asyncio.create_task(anext(stream)))  # reveals: Task[int]
    reveal_type(await stream.aclose())  # reveals: None
    reveal_type([result async for result in stream])  # reveals: list[int]
    reveal_type(await asyncio.wait_for(anext(stream), 1))  # reveals: int


async def what_it_is_taken_for(stream: gatedcoro.Stream[bool]) -> None:
    its_results_are_covariant: gatedcoro.Stream[int] = stream
    iterator: AsyncIterator[bool] = stream
    awaitable: Awaitable[list[bool]] = stream
    entered: contextlib.AbstractAsyncContextManager[gatedcoro.Stream[bool]] = stream
    async with contextlib.aclosing(stream) as closing, contextlib.AsyncExitStack() as stack:
        reveal_type(closing)  # reveals: Stream[bool]
        reveal_type(await stack.enter_async_context(stream))  # reveals: Stream[bool]
    del its_results_are_covariant, iterator, awaitable, entered


async def what_it_takes(switch: bool) -> None:
    reveal_type(gatedcoro.amap(parse, pages(), limit=asyncio.Semaphore()))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(begin, range(3), ordered=switch, buffersize=0))  # reveals: Stream[str]
    reveal_type(gatedcoro.amap(lambda page: parse(page), pages()))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(begin, gatedcoro.amap(parse, pages())))  # reveals: Stream[str]
    reveal_type(gatedcoro.amap(begin, range(3), return_exceptions=True))  # reveals: Stream[str | BaseException]
    reveal_type(gatedcoro.amap(parse, pages(), return_exceptions=switch))  # reveals: Stream[int | BaseException]
    gatedcoro.amap(parse, [1])  # error: arg-type
    gatedcoro.amap(len, [""])  # error: arg-type
    gatedcoro.amap(parse, pages)  # error: call-overload
    gatedcoro.amap(parse, [""], limit="3")  # error: arg-type
    gatedcoro.amap(parse, [""], 3)  # error: call-overload
    gatedcoro.amap(parse, [""], buffersize=2.5)  # error: call-overload


async def callables_from_an_async_iterable() -> None:
    reveal_type(await gatedcoro.run_all(callables(), limit=3))  # reveals: list[int]
    reveal_type(await gatedcoro.run_all(callables(), return_exceptions=True))  # reveals: list[int | BaseException]
    reveal_type(await gatedcoro.constrained_execution(callables(), 3))  # reveals: list[int]
    await gatedcoro.run_all(pages())  # error: arg-type
