"""What the coroutine of gated_coro() does.  Twin of src/coroutines/gated.h."""

from .asyncio_semaphore import without_defects


async def hold_and_await(semaphore, unstarted):
    """Do what `async with semaphore: return await coro` does; *unstarted* holds the coroutine until then."""
    try:
        async with without_defects(semaphore):
            (coro,) = unstarted.take()
            return await coro
    finally:
        unstarted.close()
