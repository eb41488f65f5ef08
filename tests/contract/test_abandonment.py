"""Closed, thrown into or dropped: what runs is cancelled, what did not start is closed, nobody waits."""

import asyncio
import gc
import warnings

import pytest

from contract_tools import Trace, failing, idle, is_closed, item, run, sleeping

LIMITS = [1, 2, None]


class Error(Exception):
    pass


def close(call):
    call.close()


def throw(call):
    with pytest.raises(Error):
        call.throw(Error("thrown"))


def throw_cancelled(call):
    with pytest.raises(asyncio.CancelledError):
        call.throw(asyncio.CancelledError("thrown"))


@pytest.mark.parametrize("n", [*LIMITS, 0, -1, "no integer"])
@pytest.mark.parametrize("end", [close, throw, throw_cancelled])
def test_before_the_first_step_nothing_starts_and_every_coroutine_is_closed(impl, n, end):
    trace = Trace()
    items = [item(trace, name) for name in "abc"]
    call = impl.gather_with_concurrency(n, *items)
    end(call)
    assert all(map(is_closed, items))
    assert trace.events == []
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.send(None)
    call.close()


@pytest.mark.parametrize("name", ["gather_with_concurrency", "gated_coro", "run_all", "constrained_execution"])
def test_dropped_unawaited_it_warns_exactly_once_and_names_itself(impl, name):
    items = [asyncio.sleep(0), asyncio.sleep(0)]
    arguments = {
        "gather_with_concurrency": (1, *items),
        "gated_coro": (asyncio.Semaphore(1), items[0]),
        "run_all": ([asyncio.sleep],),
        "constrained_execution": ([asyncio.sleep], 1),
    }[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call = getattr(impl, name)(*arguments)
        del arguments, call
        gc.collect()
    assert [str(warning.message) for warning in caught] == [f"coroutine '{name}' was never awaited"]
    assert caught[0].category is RuntimeWarning
    assert list(map(is_closed, items)) == {
        "gather_with_concurrency": [True, True],
        "gated_coro": [True, False],
    }.get(name, [False, False])
    for coroutine in items:
        coroutine.close()


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("end", [close, throw, throw_cancelled])
def test_a_started_gathering_cancels_what_runs_and_closes_the_queue_without_waiting(impl, n, end):
    async def main():
        trace = Trace()
        items = [sleeping(trace, "a", 1), sleeping(trace, "b", 1), sleeping(trace, "c", 1)]
        call = impl.gather_with_concurrency(n, *items)
        outer = call.send(None)
        await idle(1)
        trace("end")
        end(call)
        trace("ended")
        if n is not None:
            assert all(map(is_closed, items[n:]))
        await idle(3)
        assert outer.done()
        return trace.events

    names = "abc"[:n]
    assert run(main) == (
        [f"+{name}" for name in names]
        + ["end", "ended"]
        + [f"x{name}" for name in names]
        + [f"-{name}" for name in names]
    )


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("end", [close, throw])
def test_ended_before_the_items_start_they_never_do(impl, n, end):
    async def main():
        trace = Trace()
        items = [item(trace, name) for name in "abc"]
        call = impl.gather_with_concurrency(n, *items)
        call.send(None)
        end(call)
        assert all(map(is_closed, items))
        await idle(3)
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_the_last_reference_dropped_is_like_close(impl, n):
    async def main():
        trace = Trace()
        items = [sleeping(trace, name) for name in "abc"]
        call = impl.gather_with_concurrency(n, *items)
        call.send(None)
        await idle(1)
        del call
        gc.collect()
        if n is not None:
            assert all(map(is_closed, items[n:]))
        await idle(2)
        return trace.events

    names = "abc"[:n]
    expected = [f"+{name}" for name in names]
    for name in names:
        expected += [f"x{name}", f"-{name}"]
    assert run(main) == expected


@pytest.mark.parametrize("n", LIMITS)
def test_errors_of_abandoned_items_are_reported_nowhere(impl, n):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(n, *(sleeping(trace, name, 1, ValueError(name)) for name in "abc"))
        call.send(None)
        await idle(1)
        call.close()
        await idle(4)
        assert "-a" in trace.events

    run(main)


@pytest.mark.parametrize("end", [close, throw])
def test_once_it_has_an_outcome_nothing_is_cancelled(impl, end):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(2, failing(trace, "a", 0), item(trace, "b", 3), item(trace, "c"))
        outer = call.send(None)
        await idle(1)
        assert outer.done()
        end(call)
        await idle(5)
        return trace.events

    assert run(main) == "+a !a +b +c -c -b".split()


def test_closed_from_inside_its_own_item_it_cancels_that_item(impl):
    async def main():
        trace = Trace()
        calls = []

        async def closes():
            trace("+a")
            calls[0].close()
            trace("closed")
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                trace("xa")
                raise

        queued = item(trace, "b")
        calls.append(impl.gather_with_concurrency(1, closes(), queued))
        calls[0].send(None)
        await idle(3)
        assert is_closed(queued)
        return trace.events

    assert run(main) == "+a closed xa".split()


def test_the_last_reference_dropped_in_the_middle_of_a_step_cancels_that_item(impl):
    async def main():
        trace = Trace()
        calls = []

        async def drops():
            trace("+a")
            calls.clear()
            gc.collect()
            trace("dropped")
            await sleeping(trace, "s")

        queued = item(trace, "b")
        calls.append(impl.gather_with_concurrency(1, drops(), queued))
        calls[0].send(None)
        await idle(3)
        assert is_closed(queued)
        return trace.events

    assert run(main) == "+a dropped +s xs -s".split()


def test_a_coroutine_whose_close_fails_is_reported_as_unraisable_and_the_others_are_closed(impl, monkeypatch):
    import collections.abc
    import sys

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda details: reported.append(type(details.exc_value)))

    class Stubborn(collections.abc.Coroutine):
        def send(self, value):
            raise AssertionError

        def throw(self, *exception):
            raise AssertionError

        def __await__(self):
            return self

        def close(self):
            raise LookupError("close")

    items = [asyncio.sleep(0), Stubborn(), asyncio.sleep(0)]
    impl.gather_with_concurrency(1, *items).close()
    assert reported == [LookupError]
    assert is_closed(items[0])
    assert is_closed(items[2])


def test_a_running_coroutine_that_is_queued_again_is_not_closed_with_the_queue(impl):
    async def main():
        trace = Trace()
        coroutine = sleeping(trace, "a", 2, "swallowed")
        caller = asyncio.create_task(impl.gather_with_concurrency(1, coroutine, coroutine))
        await idle(3)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert trace.events == "+a xa -a".split()

    run(main)
