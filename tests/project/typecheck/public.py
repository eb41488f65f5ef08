"""What mypy makes of the public functions; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint expected there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import reveal_type

import gatedcoro


async def number() -> int:
    return 1


async def text() -> str:
    return ""


@asynccontextmanager
async def gate() -> AsyncIterator[None]:
    yield


async def drop_in(semaphore: asyncio.Semaphore, switch: bool) -> None:
    reveal_type(await gatedcoro.gated_coro(semaphore, number()))  # reveals: int
    reveal_type(await gatedcoro.gated_coro(semaphore=gate(), coro=text()))  # reveals: str
    reveal_type(await gatedcoro.gather_with_concurrency(3, number(), number()))  # reveals: list[int]
    reveal_type(await gatedcoro.gather_with_concurrency(None, text()))  # reveals: list[str]
    gathering = gatedcoro.gather_with_concurrency(3, number())
    reveal_type(gathering)  # reveals: Coroutine[Any, Any, list[int]]
    asyncio.create_task(gatedcoro.gather_with_concurrency(3, number()))
    await gatedcoro.gather_with_concurrency("3", number())  # error: arg-type
    await gatedcoro.gather_with_concurrency(3, number)  # error: arg-type
    await gatedcoro.gated_coro(3, number())  # error: arg-type


async def gather(futures: list[asyncio.Future[int]], some: Awaitable[str], switch: bool) -> None:
    reveal_type(gatedcoro.gather(number()))  # reveals: Future[tuple[int]]
    reveal_type(await gatedcoro.gather(number(), text()))  # reveals: tuple[int, str]
    reveal_type(await gatedcoro.gather(number(), some, limit=1))  # reveals: tuple[int, str]
    reveal_type(
        await gatedcoro.gather(number(), text(), number(), text(), number(), text(), limit=gate())
    )  # reveals: tuple[int, str, int, str, int, str]
    reveal_type(
        await gatedcoro.gather(number(), number(), number(), number(), number(), number(), number())
    )  # reveals: list[int]
    reveal_type(await gatedcoro.gather(*futures, limit=2))  # reveals: list[int]
    reveal_type(await gatedcoro.gather(*futures, return_exceptions=True))  # reveals: list[int | BaseException]
    reveal_type(
        await gatedcoro.gather(number(), text(), return_exceptions=True, limit=asyncio.Semaphore())
    )  # reveals: tuple[int | BaseException, str | BaseException]
    reveal_type(
        await gatedcoro.gather(number(), return_exceptions=switch, cancel_on_error=switch)
    )  # reveals: tuple[int | BaseException]
    gatedcoro.gather(number(), limit="3")  # error: arg-type
    gatedcoro.gather(number(), loop=None)  # error: call-overload


async def callables(functions: list[Callable[[], Awaitable[int]]], switch: bool) -> None:
    gathering = gatedcoro.run_all(functions)
    reveal_type(gathering)  # reveals: Coroutine[Any, Any, list[int]]
    reveal_type(await gatedcoro.run_all((text for _ in range(3)), limit=2))  # reveals: list[str]
    reveal_type(await gatedcoro.run_all([number], return_exceptions=True))  # reveals: list[int | BaseException]
    reveal_type(await gatedcoro.constrained_execution(functions, 3))  # reveals: list[int]
    reveal_type(await gatedcoro.constrained_execution(funcs=[text], max_runs=3))  # reveals: list[str]
    await gatedcoro.run_all([number()])  # error: arg-type
    await gatedcoro.run_all([number], 3)  # error: call-overload


reveal_type(gatedcoro.implementation)  # reveals: Literal['c'] | Literal['python']
reveal_type(gatedcoro.__version__)  # reveals: str
