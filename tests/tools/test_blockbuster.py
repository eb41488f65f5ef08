"""blockbuster: raises where code of an event loop's thread blocks.  It finds what items do, and nothing in our own work."""

import pytest

from tools import check_main, needs

needs("blockbuster")

ACTIVATE = """
import asyncio
import time
import blockbuster

detector = blockbuster.BlockBuster()
detector.activate()
"""

SCRIPT = """
from doors import doors, recipe

async def item(i, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    if i % 5 == 4:
        raise LookupError(i)
    return i

async def blocks():
    time.sleep(0)

async def ends_with(awaitable, expected):
    try:
        await awaitable
    except expected:
        return
    raise AssertionError(f"{expected} is not raised")

async def main():
    for call in recipe, *doors(impl).values():
        await ends_with(call(1, [blocks]), blockbuster.BlockingError)
    for call in doors(impl).values():
        for limit in 1, 2, None:
            for turns in 0, 1, 3:
                assert await call(limit, [lambda i=i: item(i, turns) for i in range(4)]) == list(range(4))
                # An error, with others running and queued; and a cancellation.
                await ends_with(call(limit, [lambda i=i: item(i, turns) for i in range(9)]), LookupError)
                task = asyncio.ensure_future(call(limit, [lambda i=i: item(i, 50) for i in range(9)]))
                for _ in range(turns + 2):
                    await asyncio.sleep(0)
                task.cancel()
                await ends_with(task, asyncio.CancelledError)
    for gate in asyncio.Semaphore(2), asyncio.BoundedSemaphore(2), asyncio.Lock():
        for _ in range(3):
            assert await impl.gather(*map(item, range(4)), limit=gate) == list(range(4))
    assert len(await impl.gather(*map(item, range(9)), limit=2, return_exceptions=True)) == 9
    await ends_with(impl.gather(*map(item, range(9)), limit=2, cancel_on_error=True), LookupError)
    impl.gather_with_concurrency(2, item(1)).close()

asyncio.run(main(), debug=True)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_of_ours_blocks(impl, when):
    check_main(impl, SCRIPT, tool=ACTIVATE, when=when)
