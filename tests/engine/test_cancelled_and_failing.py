"""A call that fails may be cancelled as well, before or after, and by what the failing runs; one that has lost an item has neither."""

import asyncio
import sys

import pytest

from contract_tools import Trace, failing, idle, run, sleeping
from coroutines import ByItsMethods

pytestmark = pytest.mark.usefixtures("any_turns")


def test_cancelled_again_it_says_so_although_what_runs_refuses(impl):
    """Which a Task that waits for it relies on: it must not be cancelled by itself then."""

    class CancelledOnce(asyncio.Future):
        asked = 0

        def cancel(self, msg=None):
            self.asked += 1
            return self.asked == 1

    async def main():
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), CancelledOnce(loop=loop)
        outer = impl.gather(first, second, cancel_on_error=True)
        assert outer.cancel("one")
        await idle(3)
        assert first.cancelled(), "which is the error with which the call will end"
        assert outer.cancel("two")
        assert second.asked == 2
        second.set_result(None)
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        assert caught.value.args == ("one",)

    run(main)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_cancelled_before_and_after_an_interrupt_it_has_the_last_message(impl, interrupt):
    trace = Trace()
    outers = []

    async def fails_late():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await idle(2)
            trace("!late")
            raise ValueError from None

    async def ignores():
        await sleeping(trace, "a", cleanup_turns=6, after="ignored")

    async def main():
        outers.append(
            impl.gather(sleeping(trace, "i", after=interrupt()), ignores(), fails_late(), limit=3, cancel_on_error=True)
        )

    def turn(loop):
        loop.call_soon(loop.stop)
        loop.run_forever()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
        turn(loop)
        turn(loop)
        (outer,) = outers
        assert outer.cancel("one")
        with pytest.raises(interrupt):
            turn(loop)
        assert outer.cancel("two")
        for _ in range(20):
            turn(loop)
        assert trace.events.count("!late") == 1
        error = outer.exception()
        assert (type(error), error.args) == (asyncio.CancelledError, ("two",))
        assert not hasattr(error, "__notes__")
    finally:
        loop.close()


def test_cancelled_by_the_closing_of_its_queue_it_cancels_what_runs_once(impl):
    async def main():
        trace = Trace()

        class Queued(ByItsMethods):
            def close(self):
                trace(f"close {outer.cancel('from close')}")

        async def sibling():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                trace(f"x{error.args} {asyncio.current_task().cancelling()}")
                raise

        outer = impl.gather(sibling(), failing(trace, "a"), Queued(), limit=2, cancel_on_error=True)
        with pytest.raises(ValueError, match="a"):
            await outer
        return trace.events

    assert run(main) == ["+a", "!a", "close True", "x('from close',) 1"]


def test_an_error_after_an_item_was_lost_cancels_the_others(impl):
    """The loss is no cancellation: nobody has cancelled what runs."""

    async def main():
        trace = Trace()
        made = []

        def factory(loop, coroutine):
            task = asyncio.Task(coroutine, loop=loop)
            made.append((task, coroutine))
            return task

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        outer = impl.gather(
            sleeping(trace, "lost"), failing(trace, "a", 3), sleeping(trace, "s"), limit=3, cancel_on_error=True
        )
        await idle(2)
        loop.set_task_factory(None)
        task, coroutine = made[0]
        coroutine.__del__()
        await idle(20)
        assert outer.done()
        with pytest.raises(ValueError, match="a"):
            await outer
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [event for event in trace.events if "lost" not in event]

    assert run(main) == ["+a", "+s", "!a", "xs", "-s"]


def test_what_cancelling_raises_when_nobody_waits_is_reported_of_the_call_s_future(impl, monkeypatch):
    reported = []

    class Refuses(asyncio.Future):
        def cancel(self, msg=None):
            raise LookupError("cancel")

    async def main():
        future = Refuses(loop=asyncio.get_running_loop())
        call = impl.gather_with_concurrency(None, future, idle(1))
        call.send(None)
        call.close()
        future.set_result(None)
        await idle(3)

    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: reported.append((type(args.object).__name__, repr(args.exc_value)))
    )
    run(main)
    assert [error for _, error in reported] == ["LookupError('cancel')"]
    if impl.__name__.endswith("_core"):  # Python code reports by a finalizer of its own
        assert reported[0][0] == "_GatheringFuture"
