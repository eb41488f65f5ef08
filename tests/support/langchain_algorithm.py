"""The algorithm of LangChain's two helpers, restated: the baseline of the differential tests."""

import asyncio


async def gated_coro(semaphore, coro):
    """Await `coro` while holding `semaphore`."""
    async with semaphore:
        return await coro


async def gather_with_concurrency(n, *coros):
    """Make a Task per coroutine at once; each waits for one semaphore of `n` slots."""
    if n is None:
        return await asyncio.gather(*coros)
    slots = asyncio.Semaphore(n)
    return await asyncio.gather(*[gated_coro(slots, coro) for coro in coros])
