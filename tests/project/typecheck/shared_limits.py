"""What type checkers make of gatedcoro.shared; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there. The client may
be one of redis-py, of valkey-py or of asyncpg, and type checkers are told nothing of it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, reveal_type

import gatedcoro
from gatedcoro.shared import GateUnavailable, LeaseLost, LimitStats, PostgresLimit, RedisLimit


class Index:
    def __index__(self) -> int:
        return 3


async def number() -> int:
    return 1


def double(x: int) -> Awaitable[int]:
    return number()


def made(client: Any) -> None:
    reveal_type(RedisLimit(client, "name", 20))  # reveals: RedisLimit
    reveal_type(RedisLimit(client, "name", Index(), lease=2, on_lost="keep"))  # reveals: RedisLimit
    reveal_type(RedisLimit(client, name="name", limit=1, recover=False, renew_in_thread=True))  # reveals: RedisLimit
    RedisLimit(client, "name")  # error: call-arg
    RedisLimit(client, "name", 2.5)  # error: arg-type
    RedisLimit(client, 5, 20)  # error: arg-type
    RedisLimit(client, "name", 20, 30.0)  # error: call-arg
    RedisLimit(client, "name", 20, lease="30")  # error: arg-type
    RedisLimit(client, "name", 20, on_lost="ignore")  # error: arg-type
    reveal_type(PostgresLimit(client, "name", 20))  # reveals: PostgresLimit
    reveal_type(PostgresLimit(client, "name", Index(), lease=2, on_lost="keep"))  # reveals: PostgresLimit
    reveal_type(PostgresLimit(client, name="name", limit=1))  # reveals: PostgresLimit
    PostgresLimit(client, "name")  # error: call-arg
    PostgresLimit(client, "name", 2.5)  # error: arg-type
    PostgresLimit(client, 5, 20)  # error: arg-type
    PostgresLimit(client, "name", 20, 30.0)  # error: call-arg
    PostgresLimit(client, "name", 20, lease="30")  # error: arg-type
    PostgresLimit(client, "name", 20, on_lost="ignore")  # error: arg-type
    PostgresLimit(client, "name", 20, recover=False)  # error: call-arg
    PostgresLimit(client, "name", 20, renew_in_thread=True)  # error: call-arg


async def used(limit: RedisLimit) -> None:
    async with limit as token:
        reveal_type(token)  # reveals: int
    reveal_type(await limit.acquire())  # reveals: int | None
    reveal_type(await limit.acquire(blocking=False))  # reveals: int | None
    reveal_type(await limit.acquire(timeout=5))  # reveals: int | None
    limit.release()
    limit.acquire(False)  # error: call-arg
    async with contextlib.aclosing(limit) as closed_at_the_end:
        reveal_type(closed_at_the_end)  # reveals: RedisLimit
    asyncio.create_task(limit.aclose())


async def used_postgres(limit: PostgresLimit) -> None:
    async with limit as token:
        reveal_type(token)  # reveals: int
    reveal_type(await limit.acquire())  # reveals: int | None
    reveal_type(await limit.acquire(blocking=False))  # reveals: int | None
    reveal_type(await limit.acquire(timeout=5))  # reveals: int | None
    limit.release()
    limit.acquire(False)  # error: call-arg
    async with contextlib.aclosing(limit) as closed_at_the_end:
        reveal_type(closed_at_the_end)  # reveals: PostgresLimit
    asyncio.create_task(limit.aclose())


async def looked_at(limit: RedisLimit) -> None:
    reveal_type(limit.name)  # reveals: str
    reveal_type(limit.limit)  # reveals: int
    reveal_type(limit.stats())  # reveals: LimitStats
    reveal_type(limit.stats().held)  # reveals: int
    limit.limit = 5
    limit.limit = Index()
    limit.limit += 1
    limit.limit = 2.5  # error: assignment
    limit.stats().held = 3  # error: misc


async def looked_at_postgres(limit: PostgresLimit) -> None:
    reveal_type(limit.name)  # reveals: str
    reveal_type(limit.limit)  # reveals: int
    reveal_type(limit.stats())  # reveals: LimitStats
    reveal_type(limit.stats().held)  # reveals: int
    limit.limit = 5
    limit.limit = Index()
    limit.limit += 1
    limit.limit = 2.5  # error: assignment
    limit.stats().held = 3  # error: misc


async def as_a_limit(limit: RedisLimit, postgres: PostgresLimit, functions: list[Callable[[], Awaitable[int]]]) -> None:
    reveal_type(await gatedcoro.gated_coro(limit, number()))  # reveals: int
    reveal_type(gatedcoro.amap(double, [1], limit=limit))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=(10, limit)))  # reveals: Stream[int]
    reveal_type(await gatedcoro.gather(number(), limit=limit))  # reveals: tuple[int]
    reveal_type(await gatedcoro.run_all(functions, limit=limit))  # reveals: list[int]
    reveal_type(gatedcoro.as_completed([number()], limit=limit))  # reveals: AsCompleted[int, Future[int]]
    await gatedcoro.gather_with_concurrency(limit, number())  # error: arg-type
    reveal_type(await gatedcoro.gated_coro(postgres, number()))  # reveals: int
    reveal_type(gatedcoro.amap(double, [1], limit=postgres))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], limit=(10, postgres, limit)))  # reveals: Stream[int]
    reveal_type(await gatedcoro.gather(number(), limit=postgres))  # reveals: tuple[int]
    reveal_type(await gatedcoro.run_all(functions, limit=postgres))  # reveals: list[int]
    reveal_type(gatedcoro.as_completed([number()], limit=postgres))  # reveals: AsCompleted[int, Future[int]]
    await gatedcoro.gather_with_concurrency(postgres, number())  # error: arg-type


def what_is_raised(error: BaseException, stats: LimitStats) -> None:
    if isinstance(error, (LeaseLost, GateUnavailable)):
        reveal_type(error)  # reveals: LeaseLost | GateUnavailable
        ordinary: Exception = error
        del ordinary
    entered: contextlib.AbstractAsyncContextManager[int] = RedisLimit(None, "name", 1)
    entered = PostgresLimit(None, "name", 1)
    del entered
