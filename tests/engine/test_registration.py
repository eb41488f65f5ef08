"""Items belong to the gathering before their first step; cancellation reaches them there.

That is points 3, 8 and 9 of docs/architecture.md.
"""

import asyncio

import pytest

from contract_tools import Trace, idle, is_closed, item, run

pytestmark = pytest.mark.usefixtures("any_turns")

LIMITS = [1, 2, None]


@pytest.mark.parametrize("n", LIMITS)
def test_an_item_that_cancels_the_caller_in_its_first_step_is_cancelled_itself(impl, n):
    async def main():
        trace = Trace()

        async def cancels():
            trace("+a")
            caller.cancel("from inside")
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                trace(f"x{error}")
                raise

        queued = item(trace, "b")
        caller = asyncio.create_task(impl.gather_with_concurrency(n, cancels(), queued))
        with pytest.raises(asyncio.CancelledError) as caught:
            await caller
        assert caught.value.args == ("from inside",)
        assert is_closed(queued)
        return trace.events

    assert run(main) == ["+a", "xfrom inside"]


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("turns", [0, 1])
def test_an_item_that_cancels_the_caller_and_returns_leaves_the_caller_cancelled(impl, n, turns):
    async def main():
        async def cancels():
            await idle(turns)
            caller.cancel("from inside")
            return "returned"

        queued = asyncio.sleep(0)
        caller = asyncio.create_task(impl.gather_with_concurrency(n, cancels(), queued))
        with pytest.raises(asyncio.CancelledError) as caught:
            await caller
        assert caught.value.args == ("from inside",)
        if turns == 0:
            assert is_closed(queued)
        else:
            queued.close()

    run(main)


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("message", [None, "me"])
def test_an_item_that_cancels_itself_and_returns_counts_as_cancelled(impl, n, turns, message):
    async def main():
        tasks = []

        async def cancels_itself():
            await idle(turns)
            tasks.append(asyncio.current_task())
            tasks[0].cancel(message)
            return 5

        with pytest.raises(asyncio.CancelledError) as caught:
            await impl.gather_with_concurrency(n, cancels_itself())
        assert caught.value.args == (() if message is None else (message,))
        await asyncio.sleep(0)
        assert tasks[0].cancelled()
        assert asyncio.current_task().cancelling() == 0

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_cancelled_results_are_those_of_asyncio_gather(impl, n):
    async def outcomes(gathering):
        async def cancels_itself_and_waits():
            asyncio.current_task().cancel("m")
            await asyncio.sleep(0)

        async def cancels_itself_and_returns():
            asyncio.current_task().cancel("m")
            return 3

        async def cancels_itself_and_raises():
            asyncio.current_task().cancel("m")
            raise asyncio.CancelledError("x")

        async def is_cancelled_while_it_waits():
            task = asyncio.current_task()
            asyncio.get_running_loop().call_soon(task.cancel, "w")
            await asyncio.get_running_loop().create_future()

        items = (
            cancels_itself_and_waits(),
            cancels_itself_and_returns(),
            cancels_itself_and_raises(),
            is_cancelled_while_it_waits(),
        )
        return list(map(repr, await gathering(*items)))

    async def main():
        ours = await outcomes(lambda *items: impl.gather(*items, limit=n, return_exceptions=True))
        assert ours == await outcomes(lambda *items: asyncio.gather(*items, return_exceptions=True))

    run(main)


def test_an_item_that_cancels_its_own_task_in_the_first_step_and_suspends_is_cancelled_there(impl):
    async def main():
        for n in LIMITS:
            trace = Trace()

            async def cancels_itself():
                asyncio.current_task().cancel("me")
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(error)
                    return "swallowed"

            assert await impl.gather_with_concurrency(n, cancels_itself()) == ["swallowed"]
            assert trace.events == ["me"]

    run(main)


def test_the_gathering_s_future_cancelled_in_the_middle_of_a_pass_starts_nothing_more(impl):
    async def main():
        trace = Trace()
        outers = []

        async def cancels():
            trace("+a")
            outers[0].cancel()
            trace("cancelled")
            return "a"

        queued = [item(trace, name) for name in "bcd"]
        outers.append(impl.gather(cancels(), *queued, limit=3))
        with pytest.raises(asyncio.CancelledError):
            await outers[0]
        assert all(map(is_closed, queued))
        return trace.events

    assert run(main) == ["+a", "cancelled"]
