"""What type checkers make of limits, of each kind and in a row; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import reveal_type

import gatedcoro


class RateLimiter:
    """As other people's are written."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@asynccontextmanager
async def connection() -> AsyncIterator[int]:
    yield 1


async def number() -> int:
    return 1


def double(x: int) -> Awaitable[int]:
    return number()


async def alone(gate: RateLimiter) -> None:
    reveal_type(gatedcoro.amap(double, [1], limit=3))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=None))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=gate))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=connection()))  # reveals: Stream[int]
    gatedcoro.amap(double, [1], limit=2.5)  # error: call-overload
    gatedcoro.amap(double, [1], limit=RateLimiter)  # error: call-overload


async def in_a_row(
    gate: RateLimiter, semaphores: list[asyncio.Semaphore], shared: tuple[int, RateLimiter], any_number: tuple[int, ...]
) -> None:
    reveal_type(gatedcoro.amap(double, [1], limit=(10, gate)))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=[10, gate, asyncio.Lock()]))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=(gate,)))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=semaphores))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=[5, *semaphores, connection()]))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=shared))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=any_number))  # reveals: Stream[int]
    gatedcoro.amap(double, [1], limit=(None, gate))  # error: arg-type
    gatedcoro.amap(double, [1], limit=(2.5, gate))  # error: arg-type
    gatedcoro.amap(double, [1], limit=["3"])  # error: list-item
    gatedcoro.amap(double, [1], limit={1, 2})  # error: call-overload
    gatedcoro.amap(double, [1], limit=((1,), gate))  # error: arg-type


async def of_every_function(functions: list[Callable[[], Awaitable[int]]], gate: RateLimiter) -> None:
    row = 10, gate
    reveal_type(await gatedcoro.gather(number(), number(), limit=row))  # reveals: tuple[int, int]
    reveal_type(await gatedcoro.gather(number(), limit=[10, gate]))  # reveals: tuple[int]
    reveal_type(await gatedcoro.run_all(functions, limit=row))  # reveals: list[int]
    reveal_type(await gatedcoro.constrained_execution(functions, row))  # reveals: list[int]
    reveal_type(gatedcoro.as_completed([number()], limit=row))  # reveals: AsCompleted[int, Future[int]]
    await gatedcoro.gather_with_concurrency(row, number())  # error: arg-type
    await gatedcoro.gated_coro(row, number())  # error: arg-type
