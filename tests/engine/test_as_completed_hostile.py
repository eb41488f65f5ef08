"""as_completed over what anybody may have written: Futures, iterables and awaitables whose code runs while the engine is about them.

Whatever such code does, the iterator ends, everything of its own has ended or is closed then, the others are let go, and nothing
is reported but what that code has raised.
"""

import asyncio
import gc
import itertools

import pytest

from contract_tools import Trace, idle, is_closed
from stream_tools import came_to, coroutines, loop_async, run

NO_TASK_IS_REUSED = True

LIMITS = pytest.mark.parametrize("limit", [1, 2, None], ids=str)


class Refused(Exception):
    pass


class Future:
    """What isfuture() accepts. `acts` is {method: function of the Future}, called whenever that method is."""

    _asyncio_future_blocking = False

    def __init__(self, acts=(), result="f", is_done=False):
        self.loop = asyncio.get_running_loop()
        self.acts = dict(acts)
        self.outcome, self.is_done = result, is_done
        self.callbacks = []

    def act(self, method):
        if method in self.acts:
            self.acts[method](self)

    def get_loop(self):
        self.act("get_loop")
        return self.loop

    def done(self):
        self.act("done")
        return self.is_done

    def cancelled(self):
        return False

    def exception(self):
        return None

    def result(self):
        self.act("result")
        return self.outcome

    def add_done_callback(self, callback, *, context=None):
        self.callbacks.append(callback)
        self.act("add_done_callback")
        if self.is_done:
            self.loop.call_soon(self.end)

    def remove_done_callback(self, callback):
        before = len(self.callbacks)
        self.callbacks = [one for one in self.callbacks if one != callback]
        self.act("remove_done_callback")
        return before - len(self.callbacks)

    def cancel(self, msg=None):
        raise AssertionError("it is the caller's")

    def end(self):
        self.is_done = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback(self)

    def __await__(self):
        if not self.is_done:
            self._asyncio_future_blocking = True
            yield self
        return self.outcome


class EqualFuture(Future):
    def __eq__(self, other):
        self.act("__eq__")
        return self is other

    def __hash__(self):
        self.act("__hash__")
        return 1


SPARED = set()


async def undisturbed(coroutine):
    """Run it in a Task that is spared by who cancels all. In the end there is no other."""
    task = asyncio.create_task(coroutine)
    SPARED.clear()
    SPARED.update([asyncio.current_task(), task])
    await task
    await idle(9)
    assert other_tasks() == set()


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


def by_hand(coroutine):
    """As much of it as there is to do now."""
    try:
        coroutine.send(None)._asyncio_future_blocking = False
    except (StopIteration, StopAsyncIteration, RuntimeError):
        return
    coroutine.close()


# Called back at once, twice, or never


@pytest.mark.parametrize("lazily", [False, True])
@LIMITS
def test_those_that_call_back_at_once_do_not_recurse(impl, limit, lazily):
    async def main():
        futures = [Future({"add_done_callback": Future.end}, index) for index in range(5000)]
        coros = coroutines(Trace(), "a0 b1")
        aws = [*futures[:2500], *coros, *futures[2500:]]
        given = [one async for one in impl.as_completed(iter(aws) if lazily else aws, limit=limit)]
        assert [one for one in given if type(one) is Future] == futures
        assert len(given) == 5002

    run(main)


@LIMITS
def test_those_that_call_back_twice_are_handed_over_once(impl, limit):
    def twice(future):
        future.is_done = True
        (callback,) = future.callbacks
        callback(future)
        callback(future)
        future.loop.call_soon(callback, future)

    async def main():
        futures = [Future({"add_done_callback": twice}, index) for index in range(3)]
        trace = Trace()
        await loop_async(trace, impl.as_completed([*futures, *coroutines(trace, "a1")], limit=limit))
        await idle(3)
        return [event for event in trace.events if event[0] in "=o"]

    assert run(main) == ["=0", "=1", "=2", "=a", "over"]


@LIMITS
def test_one_that_calls_back_though_it_has_been_let_go_is_nobody_s(impl, limit):
    async def main():
        kept = []
        future = Future({"add_done_callback": lambda future: kept.extend(future.callbacks)})
        iterator = impl.as_completed([future, *coroutines(Trace(), "a~")], limit=limit)
        asking = asyncio.create_task(anext(iterator, "over"))
        await idle(3)
        await iterator.aclose()
        assert await asking == "over" and future.callbacks == []
        for callback in kept * 2:
            callback(future)
        await idle(3)
        assert repr(iterator) == "<gatedcoro.AsCompleted: 0 running, 0 waiting, 0 done>"

    run(main)


# Refusing


@LIMITS
@pytest.mark.parametrize("calls_back", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_refuses_the_callback_fails_the_call(impl, limit, calls_back, place, unraisables):
    """What was drawn before is finished, the rest is closed, and let go."""

    def refuses(future):
        if calls_back:
            future.end()
        raise Refused

    async def main():
        trace = Trace()
        refusing = Future({"add_done_callback": refuses})
        others = [Future(is_done=True) for _ in range(2)]
        aws = [*others[:place], refusing, *others[place:], *coroutines(trace, "a1")]
        iterator = impl.as_completed(aws, limit=limit, timeout=60)
        error = await loop_async(trace, iterator)
        assert type(error) is Refused
        await idle(3)
        assert is_closed(aws[-1]) and other_tasks() == set()
        assert [other.callbacks for other in others] == [[], []]
        return trace.events

    run(main)
    assert unraisables == []


def test_everybody_is_told_that_the_call_has_failed(impl):
    """A plain coroutine the error, the others that there was one, also when time is up meanwhile; and an async loop, once."""

    def refuses(future):
        raise Refused

    async def main():
        aws = [*coroutines(Trace(), "a~ b1"), Future({"add_done_callback": refuses}), *coroutines(Trace(), "c d")]
        iterator = impl.as_completed(aws, limit=2, timeout=9)
        assert await next(iterator) == "b"
        asked = [next(iterator) for _ in range(2)]
        errors = await asyncio.gather(*asked, return_exceptions=True)
        for _ in range(2):
            errors += await asyncio.gather(anext(iterator), return_exceptions=True)
        return [f"{type(error).__name__}: {str(error).partition('done> ')[2]}" for error in errors]

    told = "RuntimeError: has failed, as somebody has been told"
    assert run(main) == ["Refused: ", told, told, "StopAsyncIteration: "]


@LIMITS
@pytest.mark.parametrize("end", ["aclose", "timeout", "drop"])
def test_one_that_refuses_to_be_let_go_keeps_no_other_from_it(impl, limit, end, unraisables):
    def refuses(future):
        raise Refused

    async def main():
        futures = [Future({"remove_done_callback": refuses} if index % 2 else {}) for index in range(4)]
        iterator = impl.as_completed([*futures, *coroutines(Trace(), "a~")], limit=limit, timeout=1)
        asking = asyncio.create_task(anext(iterator, "over"))
        await idle(3)
        if end == "timeout":
            with pytest.raises((TimeoutError, Refused)):
                await asking
        elif end == "aclose":
            closing = iterator.aclose()
            try:
                await closing
            except Refused:
                pass
            assert await asking == "over"
        else:
            asking.cancel()
            await asyncio.wait([asking])
            del asking
            del iterator
        await idle(5)
        assert [future.callbacks for future in futures] == [[]] * 4
        assert other_tasks() - {*([asking] if end != "drop" else [])} == set()

    run(main)
    assert all(type(error) is Refused for error in unraisables)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("method", ["get_loop", "__hash__", "__eq__"])
def test_one_that_refuses_to_be_looked_at_is_an_error_of_the_first_step_or_of_the_call(impl, method, whole):
    def refuses(future):
        raise Refused

    async def main():
        trace = Trace()
        futures = [EqualFuture({method: refuses}), EqualFuture({})]
        coros = coroutines(trace, "a~ b")
        aws = [*futures, *coros]
        iterator = impl.as_completed(aws if whole else (one for one in aws), limit=3, timeout=60)
        try:
            async for future in iterator:
                future.result()
        finally:
            await iterator.aclose()
            assert [is_closed(coroutine) for coroutine in coros] == [True] * 2 or not whole
            for coroutine in coros:
                coroutine.close()
            assert [future.callbacks for future in futures] == [[]] * 2
            await idle(2)
            assert other_tasks() == set()

    # Drawn lazily, they are not compared.
    with pytest.raises(Refused if whole or method == "get_loop" else TimeoutError):
        run(main)


# Re-entering


ACTIONS = {
    "closes it": lambda iterator: by_hand(iterator.aclose()),
    "asks for the next": lambda iterator: by_hand(anext(iterator)),
    "takes a coroutine": lambda iterator: [one.close() for one in itertools.islice(iterator, 2)],
    "collects": lambda iterator: gc.collect(),
    "looks at it": repr,
    "cancels all": lambda iterator: [task.cancel() for task in asyncio.all_tasks() - SPARED],
}
METHODS = ["add_done_callback", "remove_done_callback", "get_loop", "done", "__hash__", "__eq__"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["next", "anext"])
def test_code_of_a_future_that_re_enters_it_does_no_harm(impl, action, method, first, unraisables):
    """It ends in one way or another."""

    def acts(future):
        if not future.is_acting:
            future.is_acting = True
            ACTIONS[action](iterator)

    async def ends(limit):
        nonlocal iterator
        trace = Trace()
        futures = [EqualFuture({method: acts} if index % 2 else {}, index) for index in range(4)]
        for future in futures:
            future.is_acting = False
        coros = coroutines(trace, "a1 b~2 c~")
        iterator = impl.as_completed([*futures[:2], *coros, *futures[2:]], limit=limit, timeout=9)
        asyncio.get_running_loop().call_later(1, lambda: [future.end() for future in futures])

        async def consumes():
            if first == "next":
                for coroutine in iterator:
                    await coroutine
            async for _ in iterator:
                pass

        consumer = asyncio.create_task(consumes())
        await asyncio.wait([consumer])
        outcome = None if consumer.cancelled() else consumer.exception()
        assert outcome is None or type(outcome) in (TimeoutError, RuntimeError, asyncio.CancelledError), outcome
        by_hand(iterator.aclose())
        await idle(6)
        assert all(map(is_closed, coros))
        assert [future.callbacks for future in futures] == [[]] * 4
        iterator = None

    async def main():
        for limit in (1, 2, None):
            await undisturbed(ends(limit))

    iterator = None
    run(main)
    assert unraisables == []


ITERABLES = ["closes it", "asks for the next", "takes a coroutine", "raises", "cancels all"]


@pytest.mark.parametrize("action", ITERABLES)
@pytest.mark.parametrize("kind", ["__iter__", "__len__", "__next__", "close", "__aiter__", "__anext__"])
@pytest.mark.parametrize("first", ["next", "anext"])
def test_an_iterable_that_re_enters_it_does_no_harm(impl, action, kind, first, unraisables):
    made = []

    class Base:
        left = 3

        def acts(self, where):
            if where == kind and not self.has_acted:
                self.has_acted = True
                if action == "raises":
                    raise Refused
                ACTIONS[action](iterator)

        has_acted = False

        def one(self):
            made.extend(coroutines(Trace(), "a1"))
            return made[-1]

    class Sync(Base):
        def __iter__(self):
            self.acts("__iter__")
            return self.generated()

        def generated(self):
            try:
                for _ in range(3):
                    self.acts("__next__")
                    yield self.one()
            finally:
                self.acts("close")

    class Sized(Sync):
        def __len__(self):
            self.acts("__len__")
            return 3

    class Async(Base):
        def __aiter__(self):
            self.acts("__aiter__")
            return self

        async def __anext__(self):
            await idle(1)
            self.acts("__anext__")
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.one()

    async def ends():
        nonlocal iterator
        iterator = impl.as_completed(source, limit=1, timeout=9)
        try:
            if first == "next":
                for coroutine in iterator:
                    await coroutine
            else:
                async for task in iterator:
                    came_to(task)
        except (Refused, RuntimeError, TypeError, TimeoutError, asyncio.CancelledError):
            pass
        by_hand(iterator.aclose())

    async def main():
        nonlocal source
        for make in (Async,) if "a" in kind[:3] else (Sync, Sized):
            source = make()
            await undisturbed(ends())
            assert all(map(is_closed, made))

    iterator = source = None
    run(main)
    source = iterator = None
    assert all(isinstance(error, (Refused, RuntimeError)) for error in unraisables)


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("lazily", [False, True])
def test_a_task_that_refuses_its_callback_is_handed_over_once(impl, lazily, times, unraisables):
    """However often it has called back before: more of them than the results have places for."""

    class Refusing(asyncio.Task):
        callbacks = 0

        def add_done_callback(self, callback, *, context=None):
            self.callbacks += 1
            if self.callbacks == 1:
                return super().add_done_callback(callback, context=context)
            for _ in range(times):
                callback(self)
            raise Refused

    async def main():
        loop = asyncio.get_running_loop()
        coros = [asyncio.sleep(0, index) for index in range(20)]
        iterator = impl.as_completed(iter(coros) if lazily else coros)
        loop.set_task_factory(lambda loop, coro, **options: Refusing(coro, loop=loop, **options))
        given = [task async for task in iterator]
        loop.set_task_factory(None)
        await idle(3)
        return [task.result() for task in given], [type(task) for task in given]

    assert run(main) == (list(range(20)), [Refusing] * 20)
    assert [type(error) for error in unraisables] == [Refused] * 20


# The loop's


@pytest.mark.parametrize("first", ["next", "anext"])
def test_a_timer_that_cannot_be_made_is_an_error_of_the_first_step_and_one_that_cannot_be_cancelled_none(
    impl, first, unraisables, monkeypatch
):
    class Handle:
        def __init__(self, handle):
            self.handle = handle

        def cancel(self):
            self.handle.cancel()
            raise Refused

    async def main():
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        aws = coroutines(Trace(), "a b")

        def refuses(*args, **options):
            raise Refused

        monkeypatch.setattr(loop, "call_later", refuses)
        iterator = impl.as_completed(aws, limit=1, timeout=9)
        with pytest.raises(Refused):
            await (next(iterator) if first == "next" else anext(iterator))
        await idle(3)
        assert all(map(is_closed, aws)) and other_tasks() == set()
        assert next(iterator, "over") == await anext(iterator, "over") == "over"
        monkeypatch.setattr(loop, "call_later", lambda *args, **options: Handle(call_later(*args, **options)))
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a b"), timeout=9)
        await loop_async(trace, iterator)
        return trace.events[-3:]

    assert run(main) == ["=a", "=b", "over"]
    assert [type(error) for error in unraisables] == [Refused]


@pytest.mark.parametrize("first", ["next", "anext"])
def test_a_loop_that_closes_it_while_the_timer_is_made_keeps_none(impl, first, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def closes(*args, **options):
            by_hand(iterator.aclose())
            return call_later(*args, **options)

        monkeypatch.setattr(loop, "call_later", closes)
        future = loop.create_future()
        iterator = impl.as_completed([future], timeout=9)
        with pytest.raises((RuntimeError, StopIteration, StopAsyncIteration)):
            await (next(iterator) if first == "next" else anext(iterator))
        await idle(2)
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
        assert not future._callbacks

    run(main)
