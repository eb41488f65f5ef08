"""Many requests, at most ten at a time: the functions that a program would use, on a server that only sleeps.

python examples/many_requests.py
"""

import asyncio
from functools import partial

from gatedcoro import Semaphore, amap, as_completed, gather, gather_with_concurrency, run_all


class Server:
    """Answers after a moment, and remembers how many requests it ever had at once."""

    def __init__(self) -> None:
        self.now = self.most = self.served = 0

    async def ask(self, question: int) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001)
            if question < 0:
                raise ValueError(f"no answer to {question}")
            return f"answer {question}"
        finally:
            self.now -= 1
            self.served += 1


async def main() -> None:
    # A function and many arguments: results as they come, in order.
    server = Server()
    async with amap(server.ask, range(1_000), limit=10) as stream:
        async for answer in stream:
            if answer == "answer 100":
                break
    print(f"amap, left at {answer!r}: {server.served} requests of 1000 were made, {server.now} are still running")

    # Or all of them, together.
    server = Server()
    answers = await amap(server.ask, range(1_000), limit=10)
    print(f"amap, awaited: {len(answers)} answers, {server.most} at a time")

    # Coroutines.
    server = Server()
    answers = await gather_with_concurrency(10, *(server.ask(number) for number in range(1_000)))
    print(
        f"gather_with_concurrency: {len(answers)} answers, from {answers[0]!r} to {answers[-1]!r}, {server.most} at a time"
    )

    # Each as it ends, whatever becomes of the others: the first of several that has an answer, within five seconds.
    server = Server()
    async with as_completed([server.ask(number) for number in (-1, -2, 3, 4)], limit=2, timeout=5) as tasks:
        async for task in tasks:
            if task.exception() is None:
                break
    print(f"as_completed: {task.result()!r}, {server.now} are still running")

    # Callables are called when a slot is free: a generator is drawn as the work proceeds, and no coroutine waits.
    server = Server()
    answers = await run_all((partial(server.ask, number) for number in range(1_000)), limit=10)
    print(f"run_all: {len(answers)} answers, {server.most} at a time")

    # An asyncio.gather with a limit. The first error cancels what runs, starts nothing more, and is raised when all have ended.
    server = Server()
    try:
        await gather(*(server.ask(number) for number in (1, 2, -3, *range(1_000))), limit=10, cancel_on_error=True)
    except ValueError as error:
        print(f"gather: {error}; {server.served} requests of 1003 were made, {server.now} are still running")

    # One limit for two calls: a semaphore, or anything else that can be entered with `async with`.
    server = Server()
    gate = Semaphore(10)
    await asyncio.gather(
        amap(server.ask, range(100), limit=gate),
        amap(server.ask, range(100), limit=gate),
    )
    print(f"two calls that share a semaphore: {server.served} answers, {server.most} at a time")


asyncio.run(main())
