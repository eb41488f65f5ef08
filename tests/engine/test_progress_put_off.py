"""The end of a call with progress=, which is put off by a turn: what else happens in that turn, and by hand before it."""

import asyncio
import gc

import pytest

from contract_tools import idle
from in_subprocess import check_script
from progress_tools import Told, run, sleep
from virtual_time import FineTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

GATHERING_AND_FUTURE = ("_Gathering", "_GatheringFuture")


def count_gatherings():
    return sum(type(one).__name__ in GATHERING_AND_FUTURE for one in gc.get_objects())


async def fails():
    raise ValueError("of the item")


@pytest.mark.parametrize("cancel_on_error", [False, True])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_coroutine_that_is_closed_in_that_turn_leaves_nothing(impl, cancel_on_error, turns):
    async def main():
        gc.collect()
        gc.disable()
        try:
            before = count_gatherings()
            call = impl.run_all([fails], cancel_on_error=cancel_on_error, progress=(told := Told()))
            future = call.send(None)
            await idle(turns)
            was_done = future.done()
            call.close()
            del call
            await sleep(50)
            assert future.done()
            assert told.sum == was_done  # told before the end, and not after the coroutine was closed
            del future
            assert count_gatherings() == before
        finally:
            gc.enable()

    run(main)


class RunsOneTurn(FineTimeLoop):
    """Once: it runs a turn while it is asked for a timer of ten milliseconds, as nest_asyncio would, and then refuses."""

    before = None

    def call_later(self, delay, callback, *args, context=None):
        if delay == 0.01 and self.before is not None:
            self.before()
            self.before = None
            task = asyncio.current_task(self)
            asyncio.tasks._leave_task(self, task)
            self._run_once()
            asyncio.tasks._enter_task(self, task)
            raise LookupError("of the loop")
        return super().call_later(delay, callback, *args, context=context)


def test_an_end_that_is_put_off_comes_although_telling_has_failed_meanwhile(impl):
    async def main():
        loop = asyncio.get_running_loop()
        fails, never = loop.create_future(), loop.create_future()

        async def value():
            await asyncio.sleep(0)

        async def outcome_of(future):
            return await future

        future = impl.gather(value(), outcome_of(fails), outcome_of(never), progress=Told())
        loop.before = lambda: fails.set_exception(ValueError("of the item"))
        done, _ = await asyncio.wait([future], timeout=1)
        assert done == {future}
        assert type(future.exception()) is ValueError
        assert future.exception().__notes__ == ["after that, progress raised LookupError: of the loop"]
        never.set_result(None)
        await idle(3)

    run(main, loop_factory=RunsOneTurn)


@pytest.mark.parametrize("left", [False, True])
def test_the_collector_may_drop_the_stream_between_the_error_of_a_callback_and_its_being_taken(impl, left):
    """Up to 3.11 it runs wherever an object is made."""
    check_script(
        impl,
        f"""
        import sys

        def attempt(number):
            hold = {{}}

            def tell(_):
                hold["collections"] = number
                gc.set_threshold(1)
                raise StopIteration

            def collecting(phase, info):
                if phase == "start" and "collections" in hold:
                    hold["collections"] -= 1
                    if not hold["collections"]:
                        hold.clear()

            async def item(x):
                await asyncio.sleep(0)
                if x == 0:
                    raise ValueError
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.02)

            async def main():
                hold["stream"] = impl.amap(item, range({left:d}, 3), progress=tell, ordered=False)
                hold["waiting"] = hold["stream"].__anext__()
                hold["waiting"].send(None)
                if {left}:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    hold["waiting"] = hold["stream"].aclose()
                    hold["waiting"].send(None)
                await asyncio.sleep(0.05)
                gc.set_threshold(700)

            gc.callbacks.append(collecting)
            try:
                asyncio.run(main())
            finally:
                gc.callbacks.remove(collecting)

        sys.unraisablehook = lambda one: None
        for number in range(1, 12):
            attempt(number)
        print("ok")
        """,
    )
