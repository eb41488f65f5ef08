"""The pools of the standard library as engines: threads, processes and, from Python 3.14 on, interpreters, as many calls at once as workers.

Python cannot stop a call that runs in any of them. The last part shows what that means when a call of `amap` is cancelled, and
how an item keeps its slot until what it began has ended.

python examples/executors.py
"""

import asyncio
import concurrent.futures
import contextlib
import math
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gatedcoro import amap

WORKERS = 2
NUMBERS = range(300, 330)


def digits(number: int) -> int:
    return len(str(math.factorial(number)))


def pools() -> Iterator[concurrent.futures.Executor]:
    yield concurrent.futures.ThreadPoolExecutor(WORKERS)
    # Not by fork, which copies a process whose threads hold locks.
    yield concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))
    if hasattr(concurrent.futures, "InterpreterPoolExecutor"):
        yield concurrent.futures.InterpreterPoolExecutor(WORKERS)


async def in_each_pool() -> None:
    loop = asyncio.get_running_loop()
    for pool in pools():
        with pool:
            results = await amap(partial(loop.run_in_executor, pool, digits), NUMBERS, limit=WORKERS)
        assert results == [*map(digits, NUMBERS)]
        print(f"{type(pool).__name__}: {len(results)} results")


# --- Cancelled ----------------------------------------------------------------------------------------------------------


async def to_its_end(pool: concurrent.futures.Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    running = pool.submit(function, *arguments)
    ended = asyncio.wrap_future(running)
    try:
        await asyncio.wait([ended])  # which leaves it alone when it is cancelled
    except asyncio.CancelledError:
        while not running.cancel() and not ended.done():  # it has begun, and nothing can stop it: keep the slot
            with contextlib.suppress(asyncio.CancelledError):  # however often it is cancelled
                await asyncio.wait([ended])
        if ended.done():
            ended.exception()  # nobody else will ask for it
        raise
    return ended.result()


class Calls:
    """Calls that stay until they are told to go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.go = threading.Event()

    def stay(self, number: int) -> None:
        self.begun.append(number)
        self.go.wait()
        self.ended.append(number)


async def cancelled(run: Callable[..., Any]) -> int:
    """How many still run when a call that was cancelled is over."""
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        calls = Calls()
        calling = asyncio.ensure_future(amap(partial(run, pool, calls.stay), range(1_000), limit=WORKERS))
        while len(calls.begun) < WORKERS:
            await asyncio.sleep(0.01)
        calling.cancel()
        asyncio.get_running_loop().call_later(0.1, calls.go.set)
        await asyncio.wait([calling])
        still = len(calls.begun) - len(calls.ended)
        calls.go.set()
    assert calling.cancelled() and len(calls.begun) == WORKERS
    return still


async def main() -> None:
    await in_each_pool()
    left = await cancelled(asyncio.get_running_loop().run_in_executor)
    kept = await cancelled(to_its_end)
    print(f"still running when a call that was cancelled is over: {left} with run_in_executor, {kept} with to_its_end")
    assert (left, kept) == (WORKERS, 0)


if __name__ == "__main__":  # the processes of a pool import this file, too
    asyncio.run(main())
