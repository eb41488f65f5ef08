"""Somebody else sets the future on which the caller waits: the caller goes on with that, as from the await of any Future.

What runs and what is queued go on, as after an error; a keeper stands for the queue from then on.
"""

import asyncio
import gc

import pytest

from contract_tools import Trace, idle, is_closed, item, run, sleeping

pytestmark = pytest.mark.usefixtures("any_turns")

SETS = {
    "a result": lambda outer: outer.set_result("early"),
    "an exception": lambda outer: outer.set_exception(LookupError("early")),
    "a cancellation": lambda outer: asyncio.Future.cancel(outer, "early"),
}


async def outcome(awaitable):
    try:
        return await awaitable
    except BaseException as error:
        return repr(error)


def doors(impl):
    return {
        "gather_with_concurrency": lambda *coros: impl.gather_with_concurrency(1, *coros),
        "run_all": lambda *coros: impl.run_all([lambda coro=coro: coro for coro in coros], limit=1),
        "constrained_execution": lambda *coros: impl.constrained_execution([lambda c=c: c for c in coros], 1),
        "gather": lambda *coros: impl.gather(*coros, limit=1),
    }


DOORS = ["gather_with_concurrency", "run_all", "constrained_execution", "gather"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", SETS)
def test_the_caller_goes_on_in_the_next_turn_and_the_items_go_on(impl, door, what):
    async def main():
        expected = asyncio.get_running_loop().create_future()
        SETS[what](expected)
        expected = await outcome(expected)
        trace = Trace()
        coros = [item(trace, "a", 4), item(trace, "b", 1), item(trace, "c", 1)]

        async def calls():
            trace("went on with " + await outcome(doors(impl)[door](*coros)))

        caller = asyncio.create_task(calls())
        await idle(3)
        trace.start()
        SETS[what](caller._fut_waiter)
        await idle(8)
        trace.stop()
        before, told, *rest = trace.events
        assert (before, told) == ("+a", f"went on with {expected}")
        assert rest == ["-a", "+b", "-b", "+c", "-c"]
        assert caller.done()

    run(main)


@pytest.mark.parametrize("door", DOORS)
def test_an_error_of_an_item_afterwards_is_dropped(impl, door):
    async def main():
        async def fails():
            await idle(4)
            raise ValueError("late")

        trace = Trace()
        last = item(trace, "last")
        caller = asyncio.ensure_future(doors(impl)[door](fails(), last))
        await idle(3)
        waited = caller if door == "gather" else caller._fut_waiter
        waited.set_result("early")
        assert await caller == "early"
        await idle(6)
        # Where an error stops what is queued, nobody waits for that any more.
        assert trace.events in (["+last", "-last"], [])
        assert is_closed(last)

    run(main)


@pytest.mark.parametrize("door", DOORS)
def test_a_keeper_stands_for_the_queue(impl, door):
    """asyncio.run() ends in the middle: nothing that was queued starts."""
    trace = Trace()
    coros = []

    async def main():
        coros.extend([sleeping(trace, "runs"), item(trace, "queued"), item(trace, "queued too")])
        caller = asyncio.ensure_future(doors(impl)[door](*coros))
        await idle(3)
        waited = caller if door == "gather" else caller._fut_waiter
        waited.set_result("early")
        assert await caller == "early"
        del caller, waited

    run(main)
    assert trace.events == ["+runs", "xruns", "-runs"]
    assert all(map(is_closed, coros)) or door in ("run_all", "constrained_execution")
    for coro in coros:
        coro.close()


def test_an_outcome_set_and_the_items_end_in_one_turn(impl):
    async def main():
        for what in SETS:
            for turns in range(6):
                trace = Trace()
                caller = asyncio.ensure_future(
                    impl.gather_with_concurrency(2, item(trace, "a", 2), item(trace, "b", 2))
                )
                await idle(turns)
                waited = getattr(caller, "_fut_waiter", None)
                if waited is None or waited.done():
                    await asyncio.wait([caller])
                    continue
                SETS[what](waited)
                await asyncio.wait([caller])
                assert caller.cancelled() or repr(caller.exception() or caller.result()) in (
                    "'early'",
                    "LookupError('early')",
                )
                await idle(4)
                assert trace.events == ["+a", "+b", "-a", "-b"]

    run(main)


@pytest.mark.parametrize("how", ["close", "throw", "drop", "cancel"])
def test_leaving_before_the_caller_has_gone_on_cancels_what_runs(impl, how):
    async def main():
        trace = Trace()
        queued = item(trace, "queued")
        coro = impl.gather_with_concurrency(1, sleeping(trace, "runs"), queued)
        outer = coro.send(None)
        await idle(2)
        outer.set_result("early")
        if how == "close":
            coro.close()
        elif how == "throw":
            with pytest.raises(LookupError):
                coro.throw(LookupError())
        elif how == "drop":
            del coro, outer
            gc.collect()
        else:
            # The future has its outcome: there is nothing to cancel any more.
            assert not outer.cancel()
            with pytest.raises(StopIteration, match="early"):
                coro.send(None)
            await idle(3)
            assert trace.events == ["+runs"]
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        await idle(4)
        assert trace.events == ["+runs", "xruns", "-runs"]
        assert is_closed(queued)

    run(main)


def test_the_future_is_freed_with_the_last_item(impl):
    async def main():
        class Result:
            pass

        caller = asyncio.ensure_future(impl.gather_with_concurrency(1, idle(5), idle(1)))
        await idle(2)
        caller._fut_waiter.set_result(Result())
        assert type(await caller) is Result
        del caller
        await idle(9)
        if impl.__name__.endswith("_core"):
            gc.collect()
            names = {"_GatheringFuture", "_Gathering", "Worker", "_Keeper"}
            assert not [
                op for op in gc.get_objects() if type(op).__name__ in names and type(op).__module__ == "gatedcoro._core"
            ]

    run(main)
