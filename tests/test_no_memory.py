"""When memory runs out in the middle of a call: no crash, no SystemError, no list with a hole in it.

CPython's own test hook lets one allocation after the other fail. asyncio may lose a callback then, so a call may
never end; but what it raises or returns is sound, and so is the interpreter afterwards.
"""

import sys
import textwrap

import pytest

from in_subprocess import run_script

pytest.importorskip("_testcapi", reason="this interpreter cannot let allocations fail")

COMMON = """
import _testcapi
import logging

logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda unraisable: None


async def item(value=None, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fails(turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise ValueError("expected")


async def forever():
    await asyncio.get_running_loop().create_future()


class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "awaited"


def done_future():
    future = asyncio.get_running_loop().create_future()
    future.set_result("done")
    return future


def call():
    return item("called")


def attempt(start):
    async def main():
        _testcapi.set_nomemory(start, start + 1)
        try:
            return await scenario()
        finally:
            _testcapi.remove_mem_hooks()

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    task.add_done_callback(lambda task: loop.stop())
    try:
        for _ in range(2):
            watchdog = loop.call_later(0.005, loop.stop)
            try:
                loop.run_forever()
            except MemoryError:
                pass  # the loop's own
            finally:
                _testcapi.remove_mem_hooks()
            watchdog.cancel()
            if task.done():
                break
            task.cancel()  # a callback was lost
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is None:
                assert "NULL" not in repr(task.result()), task.result()
            else:
                # A coroutine of 3.12 may fail and lose the exception, in plain Python as well.
                lost = sys.version_info[:2] == (3, 12) and isinstance(error, SystemError) and "without" in str(error)
                assert lost or isinstance(error, (MemoryError, ValueError, asyncio.CancelledError)), error
    finally:
        loop.close()


def attempt_all(starts):
    for start in range(starts):
        attempt(start)
    gc.collect()
    print("ok")
"""

SCENARIOS = {
    "a limit": "impl.gather_with_concurrency(2, *map(item, range(4)), Awaitable(), item(turns=0), item(turns=0))",
    "no limit": "impl.gather_with_concurrency(None, done_future(), *[item(1)] * 2, Awaitable(), item(turns=0))",
    "an item fails": "impl.gather_with_concurrency(2, item(1, 3), fails(), item(2), item(turns=0), fails())",
    "exceptions are returned": "impl.gather(item(1), fails(), item(2, 0), limit=1, return_exceptions=True)",
    "an error cancels": "impl.gather(item(1, 3), fails(), fails(2), item(2), limit=3, cancel_on_error=True)",
    "a gate": "impl.gather(item(1), item(2, 0), Awaitable(), limit=asyncio.Semaphore(1))",
    "callables": "impl.run_all([call, call, call], limit=2)",
    "a gated coroutine": "impl.gated_coro(asyncio.Semaphore(1), item(1))",
    "the caller is cancelled": "cancelled()",
}

CANCELLED = """
async def cancelled():
    task = asyncio.ensure_future(impl.gather_with_concurrency(2, forever(), forever(), item(1), item(2)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel("enough")
    return await task
"""


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 13) and sys.version_info < (3, 13, 1),
    reason="3.13.0 leaves a broken dict behind when memory runs out",
)
@pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="debug builds of CPython fail assertions of their own")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_interpreter_stays_sound(impl, scenario):
    if impl.__name__.endswith("_reference"):
        pytest.skip("nothing but Python code")
    script = textwrap.dedent(COMMON) + CANCELLED
    script += f"\nasync def scenario():\n    return await {SCENARIOS[scenario]}\n\nattempt_all(120)\n"
    done = run_script(impl, script, warnings_are_errors=False, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr
