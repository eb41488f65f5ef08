"""Futures of the user's own among the items of a call without a limit: their code runs while the engine walks over them.

`add_done_callback()` may call back at once, as that of concurrent.futures does, `cancel()` and `done()` may, or they raise.
Each case runs on futures of asyncio's as well, where that can be, and on many futures, so that a walk that goes on over what
has gone is seen.
"""

import asyncio
import gc
import itertools
import sys
import weakref

import pytest

from contract_tools import idle, is_closed, run

pytestmark = pytest.mark.usefixtures("any_turns")

COUNTS = [1, 2, 3, 50]


class Future:
    """What isfuture() accepts; says in `log` what is done to it."""

    _asyncio_future_blocking = False
    _cancel_message = None

    def __init__(self, log, name, outcome=None, at_once=False, accepts_cancel=False):
        self.log, self.name, self.outcome, self.at_once, self.accepts_cancel = (
            log,
            name,
            outcome,
            at_once,
            accepts_cancel,
        )
        self.is_done = self.is_cancelled = False
        self.callbacks = []

    def get_loop(self):
        return asyncio.get_running_loop()

    def done(self):
        return self.is_done

    def cancelled(self):
        return self.is_cancelled

    def exception(self):
        return self.outcome if isinstance(self.outcome, BaseException) else None

    def result(self):
        return self.outcome

    def _make_cancelled_error(self):
        return asyncio.CancelledError(self.name)

    def add_done_callback(self, callback, *, context=None):
        self.log.append(f"+{self.name}")
        self.callbacks.append(callback)
        if self.at_once or self.is_done:
            self.end()

    def cancel(self, msg=None):
        self.log.append(f"x{self.name}")
        if self.accepts_cancel and not self.is_done:
            self.is_cancelled = True
            self.end()
            return True
        return False

    def end(self):
        self.is_done = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback(self)


async def never(log):
    log.append("never")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_that_fails_at_once_stops_the_rest(impl, place, count):
    """What is behind it is left alone, as what is queued; what is before it is cancelled, as what runs."""

    async def main():
        log = []
        others = [Future(log, f"{index}", accepts_cancel=True) for index in range(count)]
        at = {"first": 0, "middle": count // 2, "last": count}[place]
        fails = Future(log, "fails", ValueError("at once"), at_once=True)
        coro = never(log)
        with pytest.raises(ValueError, match="at once"):
            await impl.gather(*others[:at], fails, *others[at:], coro, cancel_on_error=True)
        names = [other.name for other in others[:at]]
        assert log == [f"+{name}" for name in names] + ["+fails"] + [f"x{name}" for name in names]
        assert is_closed(coro)

    run(main)


@pytest.mark.parametrize("count", COUNTS)
def test_the_rest_is_taken_where_an_error_stops_nothing(impl, count):
    async def main():
        for call in impl.gather, lambda *futures: impl.gather_with_concurrency(None, *futures):
            log = []
            others = [Future(log, f"{index}") for index in range(count)]
            fails = Future(log, "fails", ValueError("at once"), at_once=True)
            with pytest.raises(ValueError, match="at once"):
                await call(fails, *others)
            assert log == ["+fails"] + [f"+{other.name}" for other in others]
            for other in others:
                other.end()

    run(main)


@pytest.mark.parametrize("count", COUNTS)
def test_all_of_them_end_at_once(impl, count):
    """The call does not end before its coroutines have."""

    async def main():
        log = []
        futures = [Future(log, f"{index}", index, at_once=True) for index in range(count)]

        async def last():
            return "last"

        assert await impl.gather(*futures, last()) == [*range(count), "last"]
        assert await impl.gather(*futures) == [*range(count)]
        assert await impl.gather_with_concurrency(None, last(), *futures) == ["last", *range(count)]
        fails = Future(log, "fails", ValueError("x"), at_once=True)
        results = await impl.gather(*futures, fails, last(), *futures, return_exceptions=True)
        assert results == [*range(count), fails.outcome, "last", *range(count)]

    run(main)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_cancelling_reaches_each_once_whatever_ends_meanwhile(impl, count, return_exceptions):
    """Each cancel() ends its own future and another one at once: what comes of it is as with asyncio.gather."""

    class Pair(Future):
        def cancel(self, msg=None):
            accepted = super().cancel(msg)
            if not self.other.is_done:
                self.other.is_cancelled = True
                self.other.end()
            return accepted

    async def cancelled(gather):
        log = []
        futures = [Pair(log, f"{index}", accepts_cancel=True) for index in range(2 * count)]
        for one, other in zip(futures, reversed(futures), strict=True):
            one.other = other
        call = gather(*futures, return_exceptions=return_exceptions)
        log.clear()
        assert call.cancel("all")
        assert log[:count] == [f"x{index}" for index in range(count)]
        try:
            return [repr(result) for result in await call]
        except asyncio.CancelledError as error:
            return repr(error)

    async def main():
        assert await cancelled(impl.gather) == await cancelled(asyncio.gather)

    run(main)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("how", ["the caller", "an error", "a cancel() that cancels all again"])
def test_a_cancel_that_raises_keeps_it_from_no_other(impl, how, count):
    async def main():
        log, reported = [], []

        class Raises(Future):
            def cancel(self, msg=None):
                super().cancel(msg)
                if how.startswith("a cancel") and not log.count("x0") > 1:
                    call.cancel()
                raise LookupError(f"cancel {self.name}")

        good = [Future(log, f"good {index}", accepts_cancel=True) for index in range(count)]
        bad = [Raises(log, f"{index}") for index in range(count)]
        trigger = asyncio.get_running_loop().create_future()
        futures = [future for pair in zip(bad, good, strict=True) for future in pair]
        call = impl.gather(*futures, trigger, cancel_on_error=how == "an error")
        hook, sys.unraisablehook = sys.unraisablehook, lambda args: reported.append(str(args.exc_value))
        try:
            if how == "an error":
                trigger.set_exception(ValueError("first"))
                await idle(2)
            else:
                with pytest.raises(LookupError, match="cancel"):
                    call.cancel()
            assert all(future.is_cancelled for future in good)
            for future in bad:
                future.end()
            with pytest.raises((ValueError, asyncio.CancelledError)):
                await call
            if how == "an error":
                assert sorted(reported) == sorted(f"cancel {future.name}" for future in bad)
        finally:
            sys.unraisablehook = hook

    run(main)


@pytest.mark.parametrize("method", ["add_done_callback", "done"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_that_refuses_the_callback_fails_the_call(impl, method, place):
    """Nothing starts; what was subscribed to is cancelled; no cycle keeps the call."""
    if method == "done" and sys.version_info < (3, 12):
        pytest.skip("asyncio.gather does not ask before 3.12")

    async def main():
        log = []

        class Refuses(Future):
            def refuse(self, *args, **options):
                raise LookupError("refused")

        setattr(Refuses, method, Refuses.refuse)
        futures = [Future(log, f"{index}", accepts_cancel=True) for index in range(3)]
        futures.insert(place, Refuses(log, "refuses"))
        coro = never(log)
        with pytest.raises(LookupError, match="refused"):
            impl.gather(*futures, coro)
        assert [name for name in log if name.startswith("x")] == [f"x{index}" for index in range(place)]
        assert is_closed(coro) and "never" not in log
        collected = weakref.ref(futures[place])
        del futures
        if impl.__name__.endswith("_core"):
            assert collected() is None
        else:
            gc.collect()

    run(main)


def test_it_calls_back_and_refuses_all_the_same(impl):
    async def main():
        class Both(Future):
            def add_done_callback(self, callback, *, context=None):
                self.is_done = True
                callback(self)
                callback(self)
                raise LookupError("refused")

        with pytest.raises(LookupError, match="refused"):
            impl.gather(Both([], "both", 1), Future([], "other", accepts_cancel=True))

    run(main)


def test_its_code_cancels_what_was_subscribed_to_before(impl):
    """All interleavings of three futures, each of which ends a set of the others when it is subscribed to."""

    async def main():
        names = "abc"
        subsets = [set(subset) for size in range(4) for subset in itertools.combinations(names, size)]
        for plan in itertools.product(subsets, repeat=3):
            log, futures = [], {}

            class Ends(Future):
                def add_done_callback(self, callback, *, context=None):
                    super().add_done_callback(callback)
                    for name in sorted(plan[names.index(self.name)]):
                        if name in futures and not futures[name].is_done:
                            futures[name].end()

            for name in names:
                futures[name] = Ends(log, name, ValueError(name) if name == "b" else name)
            call = impl.gather(*futures.values(), return_exceptions=True)
            await idle(2)
            for future in futures.values():
                if not future.is_done:
                    future.end()
            assert await call == ["a", futures["b"].outcome, "c"]

    run(main)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_ends_the_program_while_it_says_whether_it_is_a_task_is_kept(impl, failure):
    class Refusing(Future):
        @property
        def get_coro(self):
            raise failure("asked")

    async def calls():
        future = Refusing([], "f", outcome=SystemExit("its own"))
        gathered = impl.gather(future)
        future.end()
        await gathered

    with pytest.raises(failure, match="^asked$"):
        run(calls)
