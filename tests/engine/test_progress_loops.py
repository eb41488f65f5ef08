"""progress= on event loops that refuse, hurry or forget, that are stopped or closed."""

import asyncio
import contextlib
import gc
import itertools
import weakref

import pytest

from progress_tools import CALLS, Told, does, functions_of, run, sleep
from virtual_time import FineTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
by_name = pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited", "amap"])


class Refused(Exception):
    pass


def is_of_progress(callback):
    """Is it the one that tells?  Of the C, or of the reference."""
    return getattr(callback, "__name__", "") in ("tell_progress", "_due")


class Loop(FineTimeLoop):
    """Does something in place of the engine's call number `at` of `method`, counted over both if that is None."""

    method = None
    at = None
    made = 0
    error = Refused("of the loop")

    def counts(self, method, callback):
        if not is_of_progress(callback) or self.method not in (None, method):
            return False
        self.made += 1
        return self.at is not None and self.made - 1 == self.at

    def call_soon(self, callback, *args, context=None):
        if self.counts("call_soon", callback):
            raise self.error
        return super().call_soon(callback, *args, context=context)

    def call_later(self, delay, callback, *args, context=None):
        if self.counts("call_later", callback):
            raise self.error
        return super().call_later(delay, callback, *args, context=context)


def refusing(number, raised):
    """A loop class that fails at that call."""

    class Refuses(Loop):
        at = number
        error = raised

    return Refuses


WORDS = {
    "results": [2, 5, 30],
    "what does not suspend": [0, 0, 0],
    "an error": [2, "~5", "3!"],
}


@every_call
@pytest.mark.parametrize("words", WORDS)
def test_the_loop_refuses_and_the_call_ends_with_its_error_or_that(impl, unraisables, call, words):
    ways = []
    for number in itertools.count():

        async def main():
            told = Told()
            loop = asyncio.get_running_loop()
            own = None
            try:
                await call(impl, WORDS[words] if words != "an error" else [2, "3!"], progress=told)
            except (Refused, ValueError) as error:
                own = error
            ways.append((loop.made > loop.at, type(own).__name__, told.sum))
            await sleep(200)

        run(main, loop_factory=refusing(number, Refused("of the loop")))
        if not ways[-1][0]:
            break
    assert ways[-1][1:] == (("ValueError", 2) if words == "an error" else ("NoneType", 3))
    assert len(ways) >= 3
    for _, kind, told in ways[:-1]:
        # What is refused first is the timer of the first end, before there is another error.
        assert kind in (("Refused", "ValueError") if words == "an error" else ("Refused",))
        assert told <= 3
    assert all(isinstance(error, Refused) for error in unraisables)


@every_call
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_loops_methods_leaves_the_loop_and_leaves_nothing(impl, call, kind):
    """run() fails if anything is reported, or if something waits for ever."""
    for number in itertools.count():
        loops = []

        async def main():
            loops.append(asyncio.get_running_loop())
            await call(impl, [2, 5, 30, "40!"], progress=Told())

        with contextlib.suppress(ValueError):
            try:
                run(main, loop_factory=refusing(number, kind("in the loop")))
            except kind:
                assert loops[0].made > number
                continue
        assert loops[0].made <= number
        break
    assert number >= 2


@by_name
@pytest.mark.parametrize("words", [[2], [2, 3], [0], [2, 30]], ids=str)
def test_after_an_interrupt_in_the_loops_methods_the_loop_goes_on_and_the_call_ends(impl, name, words):
    async def outcome():
        got = []
        try:
            if name != "amap":
                return await CALLS[name](impl, words, progress=Told())
            async for result in impl.amap(does, words, progress=Told()):
                got.append(result)
        except KeyboardInterrupt as error:
            assert got == (words if name == "amap" else [])  # what was drawn is handed over
            return error
        return got

    for number in itertools.count():
        with asyncio.Runner(loop_factory=refusing(number, KeyboardInterrupt("in the loop"))) as runner:
            loop = runner.get_loop()
            reports = []
            loop.set_exception_handler(lambda loop, context: reports.append(context))
            task = loop.create_task(outcome())
            was_refused = False
            try:
                loop.run_until_complete(task)
            except KeyboardInterrupt:
                was_refused = True
            assert was_refused == (loop.made > number)  # it leaves the loop, whatever becomes of the call
            result = loop.run_until_complete(task)
            assert isinstance(result, KeyboardInterrupt) or result == words
            loop.run_until_complete(asyncio.sleep(1))
            assert not reports
        if not was_refused:
            break
    assert number >= 2


class HurriedLoop(FineTimeLoop):
    """Calls at once what it is to call later, or soon."""

    gives = None
    hurries = "call_later"

    def call_later(self, delay, callback, *args, context=None):
        if self.hurries == "call_later" and is_of_progress(callback):
            context.run(callback, *args)
            return self.gives and super().call_later(delay, id, None)
        return super().call_later(delay, callback, *args, context=context)

    def call_soon(self, callback, *args, context=None):
        if self.hurries == "call_soon" and is_of_progress(callback):
            return context.run(callback, *args)
        return super().call_soon(callback, *args, context=context)


@every_call
@pytest.mark.parametrize("what", ["a handle", "None"])
def test_a_loop_that_calls_at_once_what_is_for_later(impl, unraisables, call, what):
    class Hurries(HurriedLoop):
        gives = what == "a handle"

    async def main():
        told = Told()
        assert await call(impl, [2, 5, 30], progress=told) == [2, 5, 30]
        assert told == [(2, 1), (5, 1), (30, 1)]

    run(main, loop_factory=Hurries)
    assert all(type(error) is AttributeError for error in unraisables)


@every_call
def test_a_loop_that_calls_at_once_what_is_for_the_next_turn(impl, call):
    class Hurries(HurriedLoop):
        hurries = "call_soon"

    async def main():
        told = Told()
        assert await call(impl, [2, 5, 30], progress=told) == [2, 5, 30]
        assert told == [(12, 2), (30, 1)]

    run(main, loop_factory=Hurries)


class Forgets(FineTimeLoop):
    """Its timers cannot be cancelled."""

    timer = None

    def call_later(self, delay, callback, *args, context=None):
        made = super().call_later(delay, callback, *args, context=context)
        if not is_of_progress(callback):
            return made
        return self.timer


class RefusesCancel:
    def cancel(self):
        raise LookupError("it stays")


@every_call
@pytest.mark.parametrize(("timer", "kind"), [(RefusesCancel(), LookupError), (None, AttributeError)], ids=str)
def test_a_timer_that_cannot_be_cancelled_is_reported_and_tells_nothing(impl, unraisables, call, timer, kind):
    class Loop(Forgets):
        pass

    Loop.timer = timer

    async def main():
        told = Told()
        assert await call(impl, [2, 5], progress=told) == [2, 5]
        await sleep(50)
        assert told == [(5, 2)]

    run(main, loop_factory=Loop)
    assert {type(error) for error in unraisables} <= {kind}
    assert len(unraisables) == 1


@by_name
@pytest.mark.parametrize("error", [LookupError("it stays"), KeyboardInterrupt("it stays")], ids=repr)
def test_no_outcome_is_lost_by_a_timer_that_was_hurried_and_cannot_be_cancelled(impl, unraisables, name, error):
    class Timer:
        def cancel(self):
            raise error

    class Hurries(FineTimeLoop):
        def call_later(self, delay, callback, *args, context=None):
            if not is_of_progress(callback):
                return super().call_later(delay, callback, *args, context=context)
            context.run(callback, *args)
            return Timer()

    async def main():
        told = Told()
        assert await CALLS[name](impl, [2, 5, 30], progress=told) == [2, 5, 30]
        assert told.sum == 3

    run(main, loop_factory=Hurries)
    assert unraisables == [error] * 3


def test_a_loop_that_is_stopped_and_run_again_goes_on_telling(impl):
    told = Told()
    with asyncio.Runner(loop_factory=FineTimeLoop) as runner:
        loop = runner.get_loop()

        async def call():
            return await impl.run_all(functions_of([2, 5, 30]), progress=told)

        task = loop.create_task(call())
        loop.call_later(0.006, loop.stop)
        loop.run_forever()
        assert told == []
        assert loop.run_until_complete(task) == [2, 5, 30]
        assert told == [(12, 2), (30, 1)]


def count_gatherings():
    return sum(type(one).__name__ == "_Gathering" for one in gc.get_objects())


@by_name
@pytest.mark.parametrize("when", [1, 3, 13])
def test_a_loop_that_is_closed_in_the_middle_tells_nothing_more(impl, unraisables, name, when):
    told = Told()
    watched = weakref.ref(told)
    before = count_gatherings()
    loop = FineTimeLoop()
    loop.set_exception_handler(lambda loop, context: None)  # of Tasks that were pending

    async def call():
        return await CALLS[name](impl, [2, 20, 30], progress=told)

    task = loop.create_task(call())
    loop.call_later(when / 1000, loop.stop)
    loop.run_forever()
    loop.close()
    assert told.sum == (1 if when > 12 else 0)
    del task
    gc.collect()
    assert told.sum == (1 if when > 12 else 0)
    assert unraisables == []
    told = None
    gc.collect()
    assert watched() is None
    assert count_gatherings() == before
