"""as_completed: ended early: left, closed, dropped, cancelled from outside; before its first step, and while others wait."""

import asyncio
import functools
import gc
import inspect
import threading
import weakref

import pytest

from contract_tools import Trace, idle, is_closed, two_argument_factory
from implementations import FREE_THREADED
from in_subprocess import check_script
from stream_tools import (
    LOOPS,
    Doors,
    came_to,
    coroutines,
    doing,
    loop_async,
    loop_plain,
    made,
    made_async,
    run,
)

NO_TASK_IS_REUSED = True

EACH_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
KINDS = {"whole": coroutines, "a generator": made, "an async generator": made_async}
EACH_KIND = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
CLOSED = "has been closed: there is no result for this coroutine"


class BodyError(Exception):
    pass


def notes_of(error):
    return getattr(error, "__notes__", [])


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


async def first_of(iterator, loop):
    """The first result."""
    return await next(iterator) if loop is loop_plain else came_to(await anext(iterator))


# The block


async def breaks(trace, iterator, loop):
    async with iterator:
        trace(f"={await first_of(iterator, loop)}")
    trace("left")


async def raises(trace, iterator, loop):
    try:
        async with iterator:
            trace(f"={await first_of(iterator, loop)}")
            raise BodyError
    except BodyError:
        trace("left")
        raise


async def closes(trace, iterator, loop):
    trace(f"={await first_of(iterator, loop)}")
    await iterator.aclose()
    trace("left")


WAYS_OUT = {"the block": breaks, "an error": raises, "aclose": closes}


@pytest.mark.parametrize("way", WAYS_OUT)
@EACH_KIND
@EACH_LOOP
def test_leaving_cancels_and_awaits_what_it_has_started_and_closes_the_rest(impl, loop, make, way):
    if loop is loop_plain and make is made_async:
        pytest.skip("a plain loop takes no async iterable")
    never_started = []

    async def main():
        trace = Trace()
        aws = make(trace, "a1 b~2 c~ d~ e f g h")
        if make is coroutines:
            never_started.extend(aws[4:])
        iterator = impl.as_completed(aws, limit=3, timeout=9)
        try:
            await WAYS_OUT[way](trace, iterator, loop)
        except BodyError as error:
            assert way == "an error" and notes_of(error) == []
        assert other_tasks() == set()
        assert all(map(is_closed, never_started))
        assert next(iterator, "over") == "over"
        assert await anext(iterator, "over") == "over"
        await iterator.aclose()
        return " ".join(event for event in trace.events if event[0] not in "?")

    lazily = make is not coroutines and loop is loop_async
    expected = f"+a +b +c -a +d =a {'close ' * lazily}xb xc -c xd -d -b left"
    assert run(main).removeprefix("end ") == expected


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("words", ["a1 b~1! c~!", "a1 b~1= c~"])
@EACH_LOOP
def test_an_error_of_the_cleanup_is_raised_or_becomes_a_note_on_the_one_on_its_way(impl, loop, words, way):
    async def main():
        try:
            await WAYS_OUT[way](Trace(), impl.as_completed(coroutines(Trace(), words)), loop)
        except Exception as error:
            return type(error).__name__, str(error), notes_of(error)
        return None

    outcome = run(main)
    if "!" not in words:
        assert outcome == (("BodyError", "", []) if way == "an error" else None)
    elif way == "an error":
        (note,) = outcome[2]
        assert outcome[:2] == ("BodyError", "")
        assert note.endswith("being closed, it raised ValueError: c")
    else:
        assert outcome == ("ValueError", "c", ["while it was being cancelled, item 1 raised ValueError: b"])


@EACH_LOOP
def test_closing_it_takes_its_claims_from_those_who_wait(impl, loop):
    """Of async consumers each is told the end; a plain coroutine has none, whether it waits already or never has."""

    async def main():
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a~3 b~3 c~"), limit=2)
        waits = [asyncio.create_task(next(iterator)), asyncio.create_task(anext(iterator))]
        later = next(iterator)
        await idle(3)
        closing = asyncio.create_task(iterator.aclose())
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        trace("told")
        await closing
        outcomes += await asyncio.gather(later, return_exceptions=True)
        await loop(trace, iterator)
        assert [type(outcome) for outcome in outcomes] == [RuntimeError, StopAsyncIteration, RuntimeError]
        assert all(str(outcome).endswith(CLOSED) for outcome in outcomes[::2])
        return " ".join(trace.events)

    # At once: what is being cancelled is not theirs to wait for.
    assert run(main) in ("+a +b told xa xb -a -b over", "+a +b xa xb told -a -b over")


@EACH_LOOP
def test_a_result_on_its_way_while_it_is_closed_is_lost_with_the_rest(impl, loop):
    async def main():
        doors = Doors(Trace())
        iterator = impl.as_completed([doors("a"), doors("b")])
        waits = asyncio.create_task(next(iterator) if loop is loop_plain else anext(iterator))
        await idle(3)
        doors.open("a")
        await idle(2)
        closing = iterator.aclose()
        closing.send(None)._asyncio_future_blocking = False  # its first step comes before that of the consumer
        with pytest.raises(StopAsyncIteration if loop is loop_async else RuntimeError):
            await waits
        closing.close()
        await idle(2)
        assert other_tasks() == set()

    run(main)


@pytest.mark.parametrize("turns", range(9))
def test_an_error_that_still_waits_for_its_turn_is_dropped(impl, turns):
    """Whenever it is closed: also when the source has failed, and the last Task is not yet done."""

    async def main():
        iterator = impl.as_completed(made(Trace(), "a1 b2", LookupError("of the source")))
        asked = anext(iterator)
        asked.send(None)._asyncio_future_blocking = False
        asked.close()
        await idle(turns)
        await iterator.aclose()
        await idle(3)
        assert await anext(iterator, "over") == "over"
        await iterator.aclose()

    run(main)


# Before the first step


@EACH_KIND
@pytest.mark.parametrize("way", ["aclose", "block"])
def test_closed_before_its_first_step_it_closes_what_is_its_to_close(impl, make, way):
    async def main():
        trace = Trace()
        aws = make(trace, "a b c")
        if make is made:
            first = next(aws)
        elif make is made_async:
            first = await anext(aws)
        else:
            first = aws[0]
            first.send(None)  # it has begun, and so is somebody's
        future = asyncio.get_running_loop().create_future()
        unhashable = [[], object()]
        if make is coroutines:
            aws += [future, *unhashable, aws[1]]
        iterator = impl.as_completed(aws, timeout=5)
        if way == "aclose":
            await iterator.aclose()
        else:
            async with iterator:
                pass
        assert next(iterator, "over") == await anext(iterator, "over") == "over"
        await iterator.aclose()
        if make is coroutines:
            assert [inspect.getcoroutinestate(one) for one in aws[:3]] == [
                "CORO_SUSPENDED",
                "CORO_CLOSED",
                "CORO_CLOSED",
            ]
            assert not future.done()
        first.close()
        return " ".join(trace.events)

    assert run(main) == ("+a" if make is coroutines else "?a close")


def test_closed_before_its_first_step_it_lets_every_other_iterable_be(impl):
    class Untouched:
        def __iter__(self):
            raise AssertionError

    async def main():
        aws = coroutines(Trace(), "a b")
        for iterable in (iter(aws), map(asyncio.ensure_future, aws), Untouched()):
            await impl.as_completed(iterable).aclose()
        assert not any(map(is_closed, aws))
        for one in aws:
            one.close()
        stream = impl.amap(doing(Trace()), "ab")
        await impl.as_completed(impl.as_completed(stream)).aclose()  # what has an aclose() is closed
        assert await anext(stream, "over") == "over"

    run(main)


def test_what_its_iterable_raises_while_it_is_closed_unopened_is_raised(impl):
    async def main():
        def source():
            try:
                yield
            finally:
                raise LookupError("of the source")

        class Sized:
            def __len__(self):
                return 3

            def __iter__(self):
                yield from given
                raise LookupError("of the iterable")

        begun = source()
        next(begun)
        with pytest.raises(LookupError, match="of the source"):
            await impl.as_completed(begun).aclose()
        given = coroutines(Trace(), "a b")
        with pytest.raises(LookupError, match="of the iterable"):
            await impl.as_completed(Sized()).aclose()
        assert all(map(is_closed, given))

    run(main)


def test_never_used_it_says_nothing(impl, recwarn):
    """As asyncio's; coroutines say so themselves."""

    async def main():
        for iterable in ([], made(Trace(), "a"), made_async(Trace(), "a"), impl.as_completed([])):
            impl.as_completed(iterable, timeout=1)
        await idle(3)

    run(main)
    impl.as_completed([])
    gc.collect()
    assert len(recwarn) == 0


# Dropped


@pytest.mark.parametrize("kind", ["async for", "for"])
@pytest.mark.parametrize("lazily", [False, True])
def test_a_loop_over_an_unnamed_one_frees_it_at_once(impl, kind, lazily):
    """Also of the plain loop, whose coroutine is over."""

    async def main():
        trace = Trace()
        make = made if lazily else coroutines
        if kind == "for":
            for asked in impl.as_completed(make(trace, "a1 b~2 c~ d~ e f g h"), limit=3, timeout=9):
                trace(f"={await asked}")
                break
        else:
            async for task in impl.as_completed(make(trace, "a1 b~2 c~ d~ e f g h"), limit=3, timeout=9):
                trace(f"={came_to(task)}")
                break
        trace("out")
        await idle(9)
        assert other_tasks() == set()
        loop = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
        return " ".join(event for event in trace.events if event[0] != "?")

    expected = f"+a +b +c -a +d =a {'close ' * (lazily and kind != 'for')}out xb xc -c xd -d -b"
    assert run(main).removeprefix("end ") == expected


def test_its_coroutines_keep_it_and_what_runs(impl):
    async def main():
        trace = Trace()
        asked = list(impl.as_completed(coroutines(trace, "a2 b3 c4 d~"), limit=2))
        gc.collect()
        await idle(1)
        assert [await asked.pop() for _ in range(2)] == ["a", "b"]
        gc.collect()
        assert await asked.pop() == "c"
        await idle(3)
        trace("last")
        asked.pop().close()
        await idle(3)
        assert other_tasks() == set()
        return " ".join(trace.events)

    assert run(main) == "+a +b -a +c -b +d -c last xd -d"


@pytest.mark.parametrize("factory", [None, two_argument_factory])
@pytest.mark.parametrize("ways", ["dropped", "aclose"])
def test_what_was_never_handed_out_is_not_reported(impl, ways, factory):
    """Errors of items that have ended, that end while they are cancelled, and of none."""

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a1 b1! c1! d~3! e~!"))
        first = await anext(iterator)
        assert came_to(first) == "a"
        await idle(3)
        if ways == "aclose":
            with pytest.raises(ValueError, match="e"):
                await iterator.aclose()
        del iterator
        await idle(9)
        assert other_tasks() == set()

    run(main)  # which looks at the reports


def test_a_name_keeps_it_alive_and_what_has_begun_goes_on(impl):
    async def main():
        trace = Trace()

        async def consumer():
            iterator = impl.as_completed(made(trace, "a b c d e f g"), limit=2)
            trace(f"={came_to(await anext(iterator))}")
            raise BodyError

        with pytest.raises(BodyError) as caught:
            await consumer()
        await idle(20)
        trace("gone")
        del caught
        gc.collect()
        await idle(3)
        assert other_tasks() == set()
        return " ".join(event for event in trace.events if event[0] in "?gc")

    assert run(main) == "?a ?b ?c ?d ?e gone close"


@pytest.mark.skipif(FREE_THREADED, reason="it is let go of by the thread that made it")
@EACH_LOOP
def test_dropped_in_another_thread_it_ends_in_the_loop_s_next_turn(impl, loop):
    async def main():
        trace = Trace()
        threads = []
        ended = asyncio.Event()
        future = asyncio.get_running_loop().create_future()

        async def waits():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                threads.append(threading.current_thread())
                ended.set()

        holder = [impl.as_completed([*coroutines(trace, "a"), waits(), future], timeout=3600)]
        assert await first_of(holder[0], loop) == "a"
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        trace("dropped")
        await ended.wait()
        await idle(2)
        assert threads == [threading.current_thread()]
        assert not future._callbacks and not future.done()
        timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
        assert timers == []
        return " ".join(trace.events)

    assert run(main) == "+a -a dropped"


@pytest.mark.parametrize("kind", ["next", "anext"])
def test_dropped_after_its_loop_is_closed_it_ends_quietly(impl, kind):
    check_script(
        impl,
        f"""
        events = []

        async def item(x):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                events.append("ended")

        async def main():
            future = asyncio.get_running_loop().create_future()
            holder.append(impl.as_completed([item(1), item(2), item(3), future, item(4)], limit=3, timeout=3600))
            asked = next(holder[0]) if {kind == "next"} else anext(holder[0])
            consumers.append(asyncio.create_task(asked))
            for _ in range(5):
                await asyncio.sleep(0)

        holder, consumers = [], []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        consumers[0]._log_destroy_pending = False  # that is not ours
        consumers.clear()
        gc.collect()
        assert events == []
        holder.clear()
        gc.collect()
        assert sorted(events) == ["ended"] * 3, events
        print("ok")
        """,
    )


def test_no_reference_is_left_of_one_that_has_ended(impl):
    class Thing:
        pass

    async def main():
        for loop in LOOPS.values():
            for end in (loop, functools.partial(closes, loop=loop), functools.partial(breaks, loop=loop)):
                thing = Thing()

                async def item(thing, turns):
                    await idle(turns)

                gone = [weakref.ref(thing)]
                aws = [item(thing, turns) for turns in (1, 2, 9)]
                iterator = impl.as_completed(aws, limit=2, timeout=60)
                gone.append(weakref.ref(iterator))
                del thing, aws
                await end(Trace(), iterator)
                del iterator
                await idle(3)
                assert [ref() for ref in gone if ref() is not None] == []

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


# Closing


@EACH_LOOP
def test_two_close_at_once_and_both_wait(impl, loop):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a b~3 c"), limit=2)
        await first_of(iterator, loop)

        async def closer(name):
            await iterator.aclose()
            trace(name)

        await asyncio.gather(closer("1"), closer("2"), iterator.__aexit__(None, None, None))
        for _ in range(3):
            assert await iterator.aclose() is None
        return " ".join(trace.events[-4:])

    assert run(main) == "xb -b 1 2"


@pytest.mark.parametrize("way", ["aclose", "block"])
@EACH_LOOP
def test_closed_by_one_of_its_own_items_it_would_wait_for_itself(impl, loop, way):
    async def main():
        trace = Trace()

        async def item(name):
            with pytest.raises(RuntimeError, match="cannot be closed by one of its items"):
                if way == "aclose":
                    await iterator.aclose()
                else:
                    async with iterator:
                        pass
            return name

        iterator = impl.as_completed([item("a"), item("b")], limit=1)
        await loop(trace, iterator)
        return " ".join(trace.events)

    assert run(main) == "=a =b over"


def test_a_task_of_the_caller_s_among_what_it_waits_for_may_close_it(impl):
    async def main():
        async def closes():
            await idle(3)
            await iterator.aclose()
            return "closed"

        task = asyncio.create_task(closes())
        iterator = impl.as_completed([task, *coroutines(Trace(), "a~")])
        assert await anext(iterator, "over") == "over"
        assert await task == "closed"
        assert other_tasks() == set()

    run(main)


@pytest.mark.parametrize("end", ["", "=", "!"])
@EACH_LOOP
def test_a_cancellation_while_it_is_closed_is_passed_on_and_raised_at_the_end(impl, loop, end):
    async def main():
        trace = Trace()

        async def stubborn():
            for _ in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(f"x{error.args}")
            await idle(2)
            trace("-")
            if end == "!":
                raise ValueError("b")
            if end == "":
                raise asyncio.CancelledError

        async def leaves():
            async with impl.as_completed([*coroutines(Trace(), "a"), stubborn()]) as iterator:
                await first_of(iterator, loop)

        task = asyncio.create_task(leaves())
        await idle(7)
        trace("cancel")
        task.cancel("why")
        await idle(2)
        assert not task.done()
        with pytest.raises(asyncio.CancelledError, match="why") as caught:
            await task
        assert [note[-27:] for note in notes_of(caught.value)] == ["closed, it raised ValueError: b"[-27:]] * (
            end == "!"
        )
        return " ".join(trace.events)

    assert run(main) == "x() cancel x('why',) -"


# Cancelled from outside


@EACH_LOOP
@pytest.mark.parametrize("words", ["a1 b1 c~1 d~ e f g", "a1 b1 c~2= d~= e f g"])
def test_when_all_tasks_are_cancelled_nothing_starts_and_it_never_looks_complete(impl, loop, words, any_turns):
    async def main():
        trace = Trace()
        aws = coroutines(trace, words)
        iterator = impl.as_completed(aws, limit=2)
        assert await first_of(iterator, loop) == "a"
        await idle(9)
        before = len(trace.events)
        for task in other_tasks():
            task.cancel()
        await idle(9)
        assert [event for event in trace.events[before:] if event[0] == "+"] == []
        assert all(map(is_closed, aws))
        before = len(trace.events)
        while (error := await loop(trace, iterator)) is not None and loop is loop_async:
            pass
        assert other_tasks() == set()
        return [event for event in trace.events[before:] if error is None or loop is loop_plain]

    ended = {"c~1": ["=CancelledError()"] * 2, "c~2=": ["=d", "=c"]}[words.split()[2]]
    events = run(main)
    if loop is loop_async:
        assert events == ["=b", *ended, "CancelledError()", "over"]
    else:
        assert events[:4] == ["=b", *ended, "=CancelledError()"] and events[-1] == "over"
        assert all("Error" in event for event in events[4:-1]) and len(events) == 7


@EACH_LOOP
def test_when_only_the_queue_is_cancelled_what_runs_is_handed_over_first(impl, loop):
    async def main():
        trace = Trace()
        future = asyncio.get_running_loop().create_future()
        iterator = impl.as_completed([future, *coroutines(trace, "a b")], limit=1)
        consumer = asyncio.create_task(loop(trace, iterator))
        await idle(2)
        (keeper,) = other_tasks() - {consumer}
        keeper.cancel("why")
        await idle(3)
        future.set_result("f")
        await consumer
        return trace.events[:2]

    assert run(main) == ["=f", "=CancelledError(why)" if loop is loop_plain else "CancelledError(why)"]


@EACH_LOOP
def test_nothing_stands_for_the_queue_any_more_when_that_is_closed(impl, loop):
    async def main():
        for end in ("left", "over", "dropped"):
            iterator = impl.as_completed(coroutines(Trace(), "a b2 c"), limit=1)
            await first_of(iterator, loop)
            assert len(other_tasks()) == 2  # an item, and what stands for the queue
            if end == "left":
                await iterator.aclose()
            elif end == "dropped":
                del iterator
                await idle(3)
            else:
                await loop(Trace(), iterator)
            assert other_tasks() == set()

    run(main)


@pytest.mark.parametrize("kind", ["next", "anext"])
def test_asyncio_run_ends_and_no_queued_item_starts(impl, kind):
    check_script(
        impl,
        f"""
        events = []

        async def item(x):
            events.append(f"+{{x}}")
            try:
                await asyncio.sleep(0 if x == 0 else 3600)
            except asyncio.CancelledError:
                events.append(f"x{{x}}")
                if x == 2:
                    return
                raise

        async def main():
            iterator = impl.as_completed(map(item, range(100)), limit=3, timeout=3600)
            kept.append(iterator)
            if {kind == "next"}:
                kept.extend(iterator)
                await kept[1]
            else:
                await anext(iterator)

        kept = []
        asyncio.run(main())
        assert sorted(events) == ["+0", "+1", "+2", "+3", "x1", "x2", "x3"], events
        while len(kept) > 1:
            kept.pop().close()
        del kept[:]
        gc.collect()
        print("ok")
        """,
    )


def test_ctrl_c_ends_it_as_everything_else(impl):
    check_script(
        impl,
        """
        import signal
        events = []

        async def item(x):
            events.append(f"+{x}")
            if x == 2:
                await asyncio.sleep(0)
                signal.raise_signal(signal.SIGINT)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                events.append(f"x{x}")
                await asyncio.sleep(0)
                events.append(f"-{x}")
                raise

        async def main():
            try:
                async with impl.as_completed([item(x) for x in range(100)], limit=3, timeout=9999) as iterator:
                    async for _ in iterator:
                        pass
            finally:
                events.append("left")

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            events.append("interrupted")
        assert " ".join(events) == "+0 +1 +2 x0 x1 x2 -0 -1 -2 left interrupted", events
        print("ok")
        """,
    )
