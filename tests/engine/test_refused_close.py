"""The loop refuses an item's second step, and the item refuses to be closed: it is over all the same."""

import asyncio
import gc
import sys

import pytest


class LoopThatFails(asyncio.SelectorEventLoop):
    """Its next call_soon() raises, when told so."""

    fails = False

    def call_soon(self, callback, *args, context=None):
        if self.fails:
            self.fails = False
            raise ValueError("refused")
        return super().call_soon(callback, *args, context=context)


async def refuses_to_end(seen):
    asyncio.get_running_loop().fails = True
    try:
        await asyncio.sleep(0)
    except GeneratorExit:
        seen.append("asked to end")
        await asyncio.sleep(0)
    seen.append("went on")


async def value():
    return "value"


DOORS = {
    "gather": lambda impl, *items: impl.gather(*items),
    "a limit": lambda impl, *items: impl.gather(*items, limit=1),
    "exceptions are returned": lambda impl, *items: impl.gather(*items, limit=1, return_exceptions=True),
    "an error cancels": lambda impl, *items: impl.gather(*items, limit=2, cancel_on_error=True),
    "a gate": lambda impl, *items: impl.gather(*items, limit=asyncio.Semaphore(1)),
    "gather_with_concurrency": lambda impl, *items: impl.gather_with_concurrency(1, *items),
}


@pytest.mark.skipif(
    (3, 12, 5) <= sys.version_info[:3] < (3, 14) and hasattr(sys, "gettotalrefcount"),
    reason="CPython registers an eager Task while the error of its step is raised, and debug builds assert that none is",
)
@pytest.mark.parametrize("door", DOORS)
def test_the_item_ends_with_the_error_of_the_loop(impl, door, monkeypatch):
    seen, unraisables = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: unraisables.append(str(unraisable.exc_value)))

    async def main():
        # The Task has lost its step, as any of asyncio's would, and never ends: no Runner, which would wait for it.
        call = asyncio.ensure_future(DOORS[door](impl, refuses_to_end(seen), value()))
        done, _ = await asyncio.wait([call], timeout=10)
        assert done, "the call does not end"
        return call.exception() or call.result()

    loop = LoopThatFails()
    try:
        outcome = loop.run_until_complete(main())
    finally:
        loop.close()
    if door == "exceptions are returned":
        outcome, other = outcome
        assert other == "value"
    assert isinstance(outcome, ValueError) and str(outcome) == "refused"
    assert seen == ["asked to end"]
    del outcome
    gc.collect()
    assert seen == ["asked to end"]
    assert unraisables == ["coroutine ignored GeneratorExit"]
