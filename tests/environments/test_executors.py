"""Pools of concurrent.futures as engines: what becomes of their calls when the call of gatedcoro is cancelled (docs/engines.md)."""

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import threading
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 60


async def to_its_end(pool, function, *arguments):
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
    """Calls that stay until they are told to go; then the odd ones fail."""

    def __init__(self):
        self.begun, self.ended = [], []
        self.go = threading.Event()

    def stay(self, number):
        self.begun.append(number)
        assert self.go.wait(PATIENCE)
        self.ended.append(number)
        if number % 2:
            raise ValueError(number)


def cancel_in_the_middle(impl, run, check):
    """Cancels a call of many items when two run at a pool of two threads; `check` looks a few turns later."""
    calls, reported = Calls(), []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            try:
                functions = [partial(run, pool, calls.stay, number) for number in range(50)]
                calling = asyncio.create_task(impl.run_all(functions, limit=4))
                while len(calls.begun) < 2:
                    await asyncio.sleep(0.001)
                calling.cancel()
                for _ in range(10):
                    await asyncio.sleep(0)
                check(calling, calls)
                calls.go.set()
                await asyncio.wait([calling])
                assert calling.cancelled()
                return list(calls.ended)
            finally:
                calls.go.set()

    ended = asyncio.run(main())
    gc.collect()
    assert sorted(calls.begun) == [0, 1]  # what waited in the pool has never begun
    assert reported == []
    return ended


def run_in_executor(pool, function, *arguments):
    return asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def test_a_cancelled_call_is_over_while_what_runs_at_a_pool_runs_on(impl):
    def check(calling, calls):
        assert calling.cancelled() and calls.ended == []

    cancel_in_the_middle(impl, run_in_executor, check)


def test_an_item_can_keep_its_slot_until_what_it_began_has_ended(impl):
    def check(calling, calls):
        assert not calling.done()

    assert sorted(cancel_in_the_middle(impl, to_its_end, check)) == [0, 1]


def test_a_second_cancellation_does_not_take_the_slot_away_either():
    calls, reported = Calls(), []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["message"]))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                running = asyncio.create_task(to_its_end(pool, calls.stay, 1))
                while not calls.begun:
                    await asyncio.sleep(0.001)
                for _ in range(3):
                    running.cancel()
                    for _ in range(5):
                        await asyncio.sleep(0)
                assert not running.done()
                calls.go.set()
                await asyncio.wait([running])
                assert running.cancelled() and calls.ended == [1]
            finally:
                calls.go.set()
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert reported == []


@pytest.mark.parametrize("run", [run_in_executor, to_its_end])
def test_results_and_errors_are_those_of_the_function(impl, run):
    async def main():
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = await impl.run_all([partial(run, pool, abs, -number) for number in range(10)], limit=2)
            with pytest.raises(ZeroDivisionError):
                await impl.run_all([partial(run, pool, divmod, 1, 0)], limit=2)
            return results

    assert asyncio.run(main()) == list(range(10))


@pytest.mark.parametrize("place", ["docs/engines.md", "examples/executors.py"])
def test_the_adapter_is_the_one_that_is_shown(place):
    if not (ROOT / "docs").exists():
        pytest.skip("the tests stand alone here")
    shown = (ROOT / place).read_text(encoding="utf-8")
    assert inspect.getsource(to_its_end).partition("\n")[2] in shown
