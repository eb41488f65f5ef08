"""amap: streams that end early: left, closed, dropped, cancelled from within and from outside."""

import asyncio
import gc
import itertools
import sys
import threading
import weakref

import pytest

from contract_tools import Trace, idle
from implementations import FREE_THREADED
from in_subprocess import check_script
from stream_tools import consume, doing, drawn, run

ORDERED = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
WORDS = "a1 b~2 c~ d e"


class BodyError(Exception):
    pass


async def collected(stream):
    return [result async for result in stream]


def notes_of(error):
    return getattr(error, "__notes__", [])


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


# The block


async def breaks(trace, stream):
    async with stream:
        async for result in stream:
            trace(f"={result}")
            break
    trace("left")


async def returns(trace, stream):
    async def body():
        async with stream:
            async for result in stream:
                trace(f"={result}")
                return

    await body()
    trace("left")


async def raises(trace, stream):
    try:
        async with stream:
            async for result in stream:
                trace(f"={result}")
                raise BodyError
    except BodyError:
        trace("left")
        raise


async def closes(trace, stream):
    async for result in stream:
        trace(f"={result}")
        break
    await stream.aclose()
    trace("left")


WAYS_OUT = {"break": breaks, "return": returns, "an error": raises, "aclose": closes}


@pytest.mark.parametrize("way", WAYS_OUT)
@ORDERED
def test_leaving_cancels_and_awaits_what_runs_and_closes_the_source(impl, ordered, way):
    async def main():
        trace = Trace()
        trace.start()
        stream = impl.amap(doing(trace), drawn(trace, WORDS), limit=3, ordered=ordered)
        try:
            await WAYS_OUT[way](trace, stream)
        except BodyError as error:
            assert way == "an error" and notes_of(error) == []
        trace.stop()
        assert other_tasks() == set()
        assert await collected(stream) == []
        await stream.aclose()
        return trace.turns

    assert run(main) == ["", "?a +a ?b +b ?c +c", "-a ?d +d", "=a close", "xb xc -c", "", "-b", "left"]


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("source_fails", [False, True])
@pytest.mark.parametrize("words", ["a1 b~1! c~!", "a1 b~1! c~1=", "a1 b~1 c~1="])
@ORDERED
def test_an_error_of_the_cleanup_is_raised_or_becomes_a_note_on_the_one_on_its_way(
    impl, ordered, words, source_fails, way
):
    async def main():
        def source():
            try:
                yield from words.split()
                yield "d"
            finally:
                if source_fails:
                    raise LookupError("of the source")

        stream = impl.amap(doing(Trace()), source(), limit=3, buffersize=0, ordered=ordered)
        try:
            await WAYS_OUT[way](Trace(), stream)
        except Exception as error:
            return type(error).__name__, str(error), notes_of(error)
        return None

    # What ends first is the error: c, which needs no turn for its cleanup, if that fails.
    failed = [name for name in "cb" if name in words.replace("b~1 ", "").replace("c~1=", "")]
    notes = [f"while it was being cancelled, item {'abc'.index(name)} raised ValueError: {name}" for name in failed[1:]]
    of_the_source = "while the source was being closed, it raised LookupError: of the source"
    if failed and source_fails:
        notes.append(of_the_source)
    outcome = run(main)
    if not failed and not source_fails:
        assert outcome == (("BodyError", "", []) if way == "an error" else None)
    elif way == "an error":
        raised = f"ValueError: {failed[0]}" if failed else "LookupError: of the source"
        assert outcome == ("BodyError", "", [f"while the stream was being closed, it raised {raised}"])
    elif failed:
        assert outcome == ("ValueError", failed[0], notes)
    else:
        assert outcome == ("LookupError", "of the source", [])


def test_a_block_in_which_nothing_was_asked_for_closes_the_source(impl):
    async def main():
        trace = Trace()
        source = drawn(trace, "a b")
        next(source)
        async with impl.amap(doing(trace), source):
            pass
        stream = impl.amap(doing(trace), source)
        await stream.aclose()
        await stream.aclose()
        assert await collected(stream) == []
        with pytest.raises(RuntimeError):
            await stream
        return " ".join(trace.events)

    assert run(main) == "?a close"


def test_an_error_of_the_source_of_a_stream_that_was_never_asked_is_raised(impl):
    async def main():
        def source():
            try:
                yield
            finally:
                raise LookupError("of the source")

        def begun():
            generator = source()
            next(generator)
            return generator

        with pytest.raises(LookupError, match="of the source"):
            await impl.amap(doing(Trace()), begun()).aclose()
        with pytest.raises(LookupError, match="of the source"):
            async with impl.amap(doing(Trace()), begun()):
                pass

    run(main)


@pytest.mark.parametrize("ends", ["left", "failed", "awaited and failed", "awaited and cancelled"])
def test_a_generator_is_closed_also_if_somebody_else_holds_it_and_nothing_else_is(impl, ends):
    class LikeAFile:
        def __init__(self):
            self.closed = False

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.words)

        def close(self):
            self.closed = True

    async def ended(source):
        stream = impl.amap(doing(Trace()), source, limit=1, buffersize=0)
        if ends == "left":
            async with stream:
                await anext(stream)
        elif ends == "failed":
            await consume(Trace(), stream)
        elif ends == "awaited and failed":
            with pytest.raises(ValueError):
                await stream
        else:
            task = asyncio.create_task(awaited(stream))
            await idle(3)
            task.cancel()
            await asyncio.wait([task])

    async def awaited(stream):
        await stream

    async def main():
        words = {"left": "a b", "awaited and cancelled": "a~ b"}.get(ends, "a1! b")
        trace = Trace()
        generator = drawn(trace, words)
        await ended(generator)
        assert trace.events == ["?a", "close"]
        assert next(generator, "closed") == "closed"
        iterator = LikeAFile()
        iterator.words = iter(words.split())
        await ended(iterator)
        assert not iterator.closed
        assert next(iterator) == "b"

    run(main)


def test_what_runs_after_leaving_hands_nothing_over(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), ["a1", "b1", "c~3="], ordered=False)
        assert await anext(stream) == "a"
        await idle(3)
        closing = asyncio.create_task(stream.aclose())
        await idle(2)  # b's result waits, c is being cancelled
        trace("asks")
        await consume(trace, stream)
        await closing
        return " ".join(trace.events)

    assert run(main) == "+a +b +c -a -b xc asks over -c"


def test_an_error_of_the_cleanup_is_raised_to_who_closes_and_to_nobody_who_asks_meanwhile(impl):
    async def main():
        stream = impl.amap(doing(Trace()), ["a1", "b~3!"])
        await anext(stream)
        closing = asyncio.create_task(stream.aclose())
        await idle(1)
        while not closing.done():
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await idle(1)
        with pytest.raises(ValueError, match="b"):
            await closing

    run(main)


# Dropped


@ORDERED
def test_a_loop_over_an_unnamed_stream_frees_it_at_once(impl, ordered):
    async def main():
        trace = Trace()
        trace.start()
        async for result in impl.amap(doing(trace), drawn(trace, WORDS), limit=3, ordered=ordered):
            trace(f"={result}")
            break
        trace("out")
        await idle(9)
        trace.stop()
        assert other_tasks() == set()
        return trace.turns

    # Nobody waits, and nothing starts any more.
    assert run(main) == ["", "?a +a ?b +b ?c +c", "-a ?d +d", "=a close out", "xb xc -c", "", "-b"]


@pytest.mark.parametrize("limit", [1, 2, None])
@ORDERED
def test_what_goes_wrong_in_what_nobody_waits_for_is_an_item_s_and_nobody_s(impl, ordered, limit, monkeypatch):
    async def main():
        unraisable = []
        monkeypatch.setattr(sys, "unraisablehook", lambda raised: unraisable.append(repr(raised.exc_value)))

        def source():
            try:
                yield from itertools.chain(["a1", "b~1!"], ["c~2="] * 1000)
            finally:
                raise LookupError("of the source")

        async for _ in impl.amap(doing(Trace()), source(), limit=limit, ordered=ordered):
            break
        await idle(9)
        assert other_tasks() == set()
        return unraisable

    # Unless everything has been drawn, without a limit, when that came from the source itself.
    assert run(main) == ["LookupError('of the source')"] * (limit is not None)


def test_a_name_keeps_it_alive_and_one_window_of_items_runs_on(impl):
    async def main():
        trace = Trace()

        async def consumer():
            stream = impl.amap(doing(trace), drawn(trace, "a b c d e f g"), limit=2, buffersize=0)
            async for result in stream:
                trace(f"={result}")
                raise BodyError

        with pytest.raises(BodyError) as caught:
            await consumer()
        await idle(9)
        trace("gone")
        del caught
        gc.collect()
        await idle(3)
        assert other_tasks() == set()
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a -b =a ?c +c -c gone close"


@pytest.mark.skipif(FREE_THREADED, reason="it is let go of by the thread that made it")
@pytest.mark.parametrize("debug", [False, True])
def test_dropped_in_another_thread_it_ends_in_the_loop_s_next_turn(impl, debug):
    async def main():
        trace = Trace()
        threads = []
        ended = asyncio.Event()

        async def async_fn(word):
            try:
                return await doing(trace)(word)
            except asyncio.CancelledError:
                threads.append(threading.current_thread())
                ended.set()
                raise

        def source():
            try:
                yield from drawn(trace, "a1 b~ c d")
            finally:
                threads.append(threading.current_thread())

        holder = [impl.amap(async_fn, source(), limit=2, buffersize=0)]
        assert await anext(holder[0]) == "a"
        await idle(5)
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        trace("dropped")
        await ended.wait()
        assert threads == [threading.current_thread()] * 2
        return " ".join(trace.events)

    assert run(main, debug=debug) == "?a +a ?b +b -a ?c +c -c dropped close xb -b"


def test_dropped_where_no_loop_runs_it_ends_when_its_own_runs_again(impl):
    trace = Trace()

    async def first():
        assert await anext(holder[0]) == "a"
        await idle(5)

    with asyncio.Runner() as runner:
        holder = [impl.amap(doing(trace), drawn(trace, "a1 b~ c d"), limit=2, buffersize=0)]
        runner.run(first())
        trace("dropped")
        holder.clear()
        trace("|")
        runner.run(idle(3))
    assert " ".join(trace.events) == "?a +a ?b +b -a ?c +c -c dropped | close xb -b"


def test_after_its_loop_is_closed_nobody_is_woken(impl):
    check_script(
        impl,
        """
        async def source():
            yield await asyncio.get_running_loop().create_future()

        async def main():
            stream = impl.amap(asyncio.sleep, source(), limit=2)
            consumers.extend([asyncio.create_task(anext(stream)), asyncio.create_task(anext(stream))])
            for _ in range(5):
                await asyncio.sleep(0)

        consumers = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        for task in sorted(asyncio.all_tasks(loop), key=consumers.__contains__):
            task._log_destroy_pending = False
            task.get_coro().close()
        del task
        consumers.clear()
        gc.collect()
        print("ok")
        """,
    )


@pytest.mark.parametrize("consumer_waits", [False, True])
@pytest.mark.parametrize("thread", [False, True])
def test_dropped_after_its_loop_is_closed_it_ends_quietly(impl, thread, consumer_waits):
    check_script(
        impl,
        f"""
        import threading
        events = []

        def source():
            try:
                while True:
                    yield 1
            finally:
                events.append("closed")

        async def async_fn(x):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                events.append("ended")

        async def main():
            holder.append(impl.amap(async_fn, source(), limit=3))
            consumers.append(asyncio.create_task(anext(holder[0])))
            for _ in range(5):
                await asyncio.sleep(0)
            if not {consumer_waits}:
                consumers.pop().cancel()
                await asyncio.sleep(0)

        holder, consumers = [], []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        if {consumer_waits}:
            consumers[0]._log_destroy_pending = False  # that is not ours
            consumers.clear()
        gc.collect()
        assert events == []
        if {thread}:
            thread = threading.Thread(target=holder.clear)
            thread.start()
            thread.join()
        else:
            holder.clear()
        gc.collect()
        assert sorted(events) == ["closed"] + ["ended"] * 3, events
        print("ok")
        """,
    )


def test_an_error_of_the_source_of_a_stream_that_was_never_asked_becomes_a_note_on_the_one_on_its_way(impl):
    class Source:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise StopAsyncIteration

        async def aclose(self):
            raise OSError("of the source")

    async def main():
        async with impl.amap(doing(Trace()), Source()):
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body") as caught:
        run(main)
    assert caught.value.__notes__ == ["while the stream was being closed, it raised OSError: of the source"]


@pytest.mark.parametrize("name", ["amap", "as_completed"])
def test_what_had_finished_does_not_wait_any_more_when_it_has_been_left(impl, name):
    async def main():
        does = doing(Trace())
        words = "a1 b1 c1".split()
        stream = impl.amap(does, words) if name == "amap" else impl.as_completed([does(word) for word in words])
        await anext(stream)
        await idle(3)
        waiting = repr(stream).partition(" running, ")[2]
        await stream.aclose()
        return waiting, repr(stream).partition(" running, ")[2]

    assert run(main) == ("2 waiting, 1 done>", "0 waiting, 1 done>")


@pytest.mark.parametrize("turns", range(6))
def test_what_has_ended_and_is_not_done_yet_does_not_wait_either(impl, turns):
    async def main():
        stream = impl.as_completed([idle(1), idle(2), idle(3)])
        asking = asyncio.create_task(anext(stream, None))
        await idle(turns)
        await stream.aclose()
        await asking
        return repr(stream)

    assert ", 0 waiting, " in run(main)


def test_dropped_while_its_loop_is_being_closed_it_ends_quietly(impl):
    """is_closed() has said that it is not, and then it takes no callback any more."""
    check_script(
        impl,
        """
        class Loop(asyncio.SelectorEventLoop):
            refuses = False

            def call_soon_threadsafe(self, *args, **options):
                if self.refuses:
                    raise RuntimeError("Event loop is closed")
                return super().call_soon_threadsafe(*args, **options)

        events = []

        def source():
            try:
                while True:
                    yield 1
            finally:
                events.append("closed")

        async def async_fn(x):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                events.append("ended")

        async def main():
            holder.append(impl.amap(async_fn, source(), limit=1))
            consumer = asyncio.create_task(anext(holder[0]))
            await asyncio.sleep(0.01)
            consumer.cancel()
            await asyncio.wait([consumer])

        holder = []
        loop = Loop()
        loop.run_until_complete(main())
        loop.refuses = True
        holder.clear()
        assert events == ["closed"]
        loop.refuses = False
        loop.run_until_complete(asyncio.sleep(0.01))
        assert events == ["closed", "ended"]
        loop.close()
        print("ok")
        """,
    )


def test_no_reference_is_left_of_one_that_has_ended(impl):
    class Function:
        def __init__(self, trace):
            self.does = doing(trace)

        def __call__(self, word):
            return self.does(word)

    async def main():
        for use in (collected, breaks, closes, consume):
            function = Function(Trace())
            gone = weakref.ref(function)
            stream = impl.amap(function, "a1 b2".split(), limit=1)
            del function
            await (use(stream) if use is collected else use(Trace(), stream))
            del stream
            await idle(3)
            assert gone() is None

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["left", "dropped"])
@ORDERED
def test_what_an_error_has_had_cancelled_is_not_cancelled_again(impl, ordered, way):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), "a1 b~ c2! d~6".split(), ordered=ordered)
        assert await anext(stream) == "a"
        await idle(3)
        trace(way)
        if way == "left":
            await stream.aclose()
        del stream
        await idle(9)
        return " ".join(trace.events)

    if ordered:
        assert run(main) == f"+a +b +c +d -a !c xd {way} xb -b -d"
    else:
        assert run(main) == f"+a +b +c +d -a !c xb -b xd {way} -d"


@pytest.mark.parametrize("way", ["left", "dropped"])
@ORDERED
def test_what_runs_on_although_the_queue_was_cancelled_and_an_item_failed_is_cancelled_when_it_is_left(
    impl, ordered, way
):
    async def main():
        trace = Trace()
        items = set()

        async def async_fn(word):
            items.add(asyncio.current_task())
            return await doing(trace)(word)

        stream = impl.amap(async_fn, drawn(trace, "a1 b6! c~ d~ e"), limit=3, buffersize=0, ordered=ordered)
        assert await anext(stream) == "a"
        await idle(2)
        (keeper,) = other_tasks() - items
        keeper.cancel()
        await idle(9)
        trace(way)
        if way == "left":
            await stream.aclose()
        del stream
        await idle(3)
        assert other_tasks() == set()
        return sorted(event for event in trace.events if event[0] in "x!")

    assert run(main) == ["!b", "xc", "xd"]


# The consumer's Task is cancelled


def test_cancelled_while_it_waits_in_a_block_a_consumer_leaves_it(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a~2 b~ c"), limit=2)

        async def consumer():
            async with stream:
                await consume_and_raise(trace, stream)

        task = asyncio.create_task(consumer())
        await idle(3)
        task.cancel("why")
        await asyncio.wait([task])
        trace("ended")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        return " ".join(trace.events)

    async def consume_and_raise(trace, stream):
        error = await consume(trace, stream)
        raise error

    assert run(main) == "?a +a ?b +b CancelledError(why) close xa xb -b -a ended"


def test_cancelled_while_it_waits_for_an_unnamed_one_nobody_waits(impl):
    async def main():
        trace = Trace()

        async def consumer():
            async for _ in impl.amap(doing(trace), drawn(trace, "a~2 b~ c"), limit=2):
                pass

        task = asyncio.create_task(consumer())
        await idle(3)
        task.cancel("why")
        try:
            await task
        except asyncio.CancelledError:
            trace("ended")
        del task
        await idle(5)
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b close xa xb -b ended -a"


# Cancelled while something waits for the end


async def in_aclose(trace, stream):
    await anext(stream)
    await stream.aclose()


async def in_aexit(trace, stream):
    async with stream:
        await anext(stream)


async def in_aexit_with_an_error(trace, stream):
    async with stream:
        await anext(stream)
        raise BodyError


@pytest.mark.parametrize("ends", ["", "=", "!"])
@pytest.mark.parametrize("waits", [in_aclose, in_aexit, in_aexit_with_an_error])
def test_a_cancellation_while_it_is_closed_is_passed_on_and_raised_at_the_end(impl, waits, ends):
    async def main():
        trace = Trace()

        async def async_fn(word):
            if word == "a":
                return word
            for _ in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(f"x{error.args}")
            await idle(2)
            trace("-b")
            if ends == "!":
                raise ValueError("b")
            if ends == "":
                raise asyncio.CancelledError

        task = asyncio.create_task(waits(trace, impl.amap(async_fn, "ab")))
        await idle(5)
        trace("cancel")
        task.cancel("why")
        await idle(2)
        assert not task.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        raised = ["while the stream was being closed, it raised ValueError: b"]
        assert notes_of(caught.value) == (raised if ends == "!" else [])
        return " ".join(trace.events)

    assert run(main) == "x() cancel x('why',) -b"


@ORDERED
def test_a_cancellation_while_a_failing_stream_waits_is_passed_on_and_raised_at_the_end(impl, ordered):
    async def main():
        trace = Trace()

        async def async_fn(word):
            if word == "a":
                await asyncio.sleep(0)
                raise ValueError("a")
            for _ in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(f"x{error.args}")
            await idle(2)
            trace("-b")
            return "b"

        stream = impl.amap(async_fn, "ab", ordered=ordered)
        task = asyncio.create_task(anext(stream))
        await idle(5)
        trace("cancel")
        task.cancel("why")
        await idle(2)
        assert not task.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        await consume(trace, stream)  # the error is lost no more than a result would be
        await consume(trace, stream)
        return " ".join(trace.events)

    assert run(main) == "x() cancel x('why',) -b" + " =b" * (not ordered) + " ValueError(a) over"


def test_a_cancellation_while_a_failing_stream_has_results_to_give_ends_that_wait_only(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), ["a9", "b1!", "c~12"])
        task = asyncio.create_task(anext(stream))
        await idle(4)
        task.cancel()
        await asyncio.wait([task])
        trace("ended")
        await consume(trace, stream)
        return " ".join(trace.events)

    assert run(main) == "+a +b +c !b xc ended -a =a -c ValueError(b)"


# Closing


def test_two_close_at_once_and_both_wait(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a1 b~3 c"), limit=2, buffersize=0)
        await anext(stream)

        async def closer(name):
            await stream.aclose()
            trace(name)

        await asyncio.gather(closer("1"), closer("2"), stream.__aexit__(None, None, None))
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a ?c +c close xb -b 1 2"


@pytest.mark.parametrize("turns", range(7))
def test_what_the_cleanup_raises_is_raised_to_one_of_two_who_close(impl, turns):
    """The second one comes before it is raised, or before everything has ended."""

    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), "a1 b~1! c~3".split(), limit=3)
        await anext(stream)

        async def closer(name):
            try:
                await stream.aclose()
            except ValueError as error:
                trace(f"{name}:{error}")

        first = asyncio.create_task(closer("1"))
        await idle(turns)
        await closer("2")
        await first
        return [event for event in trace.events if ":" in event]

    assert run(main) in (["1:b"], ["2:b"])


def test_a_stream_that_goes_through_itself_can_be_closed(impl):
    """It waits for itself until then."""

    class Through:
        def __aiter__(self):
            return self.stream

    async def main():
        trace = Trace()
        through = Through()
        stream = through.stream = impl.amap(doing(trace), through)
        asking = asyncio.create_task(consume(trace, stream))
        await idle(5)
        try:
            await stream.aclose()
        except RuntimeError as error:  # as its source, it is asked to close itself
            assert "cannot be closed" in str(error)
        await asking
        return " ".join(trace.events)

    assert run(main) == "over"


@pytest.mark.parametrize("way", ["aclose", "block"])
def test_closed_by_one_of_its_own_items_it_would_wait_for_itself(impl, way):
    async def main():
        trace = Trace()

        async def async_fn(name):
            trace(f"+{name}")
            try:
                if way == "aclose":
                    await stream.aclose()
                else:
                    async with stream:
                        pass
            except RuntimeError as error:
                assert "cannot be closed by one of its items" in str(error)
                trace("refused")
            await idle(1)
            trace(f"-{name}")
            return name

        stream = impl.amap(async_fn, "ab", limit=1)
        assert await collected(stream) == ["a", "b"]
        return " ".join(trace.events)

    assert run(main) == "+a refused -a +b refused -b"


@pytest.mark.parametrize("depth", [1, 2])
def test_closed_by_an_item_of_a_stream_that_it_goes_through_it_would_wait_for_itself_too(impl, depth):
    async def main():
        trace = Trace()

        async def passes(name):
            return name

        async def closes(name):
            try:
                await outer.aclose()
            except RuntimeError as error:
                assert "cannot be closed by one of its items" in str(error)
                trace(f"{name} refused")
            return name

        outer = impl.amap(closes, "ab", limit=1)
        for _ in range(depth):
            outer = impl.amap(passes, outer, limit=1)
        assert await collected(outer) == ["a", "b"]
        return " ".join(trace.events)

    assert run(main) == "a refused b refused"


def test_what_waits_for_itself_by_way_of_a_generator_does_not_go_on_for_ever(impl):
    """An item of the inner stream closes the outer one, which closes the generator, which closes the inner stream, which cancels the item."""

    async def main():
        async def closes_outer(number):
            await idle(1)
            try:
                await outer.aclose()
            finally:
                ended.append(number)

        async def source():
            async with impl.amap(closes_outer, range(3), limit=2) as inner:
                async for result in inner:
                    yield result

        ended = []
        outer = impl.amap(doing(Trace()), source(), limit=1)
        assert await anext(outer, "over") == "over"
        await outer.aclose()
        await idle(3)
        assert sorted(ended) == [0, 1]
        assert other_tasks() == set()

    run(main)


@ORDERED
def test_an_item_that_asks_its_own_failing_stream_does_not_wait_for_itself(impl, ordered):
    """Its cancellation is passed on to what still runs, which is itself: so it is raised at once."""

    async def main():
        async def does(x):
            if x == "fails":
                await idle(2)
                raise ValueError(x)
            try:
                await anext(stream)
            finally:
                times.append(asyncio.current_task().cancelling())

        times = []
        stream = impl.amap(does, ["fails", "asks"], ordered=ordered)
        with pytest.raises(ValueError, match="fails"):
            await anext(stream)
        return times

    assert run(main) == [2]


def test_an_item_may_close_another_stream_and_its_own_when_that_has_ended(impl):
    async def main():
        trace = Trace()
        other = impl.amap(doing(trace), drawn(trace, "a1 b~ c"), limit=2, buffersize=0)
        await anext(other)

        async def async_fn(stream):
            await stream.aclose()
            trace("closed")

        assert await collected(impl.amap(async_fn, [other])) == [None]
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a ?c +c close xb -b closed"


@ORDERED
def test_a_consumer_that_waits_while_it_is_closed_is_told_the_end(impl, ordered):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a~3 b~3 c"), limit=2, ordered=ordered)

        async def consumer(name):
            await consume(trace, stream)
            trace(name)

        tasks = [asyncio.create_task(consumer(name)) for name in "12"]
        await idle(3)
        closing = asyncio.create_task(stream.aclose())
        await asyncio.wait(tasks)
        await closing
        return " ".join(trace.events)

    # At once: what is being cancelled is not theirs to wait for.
    assert run(main) == "?a +a ?b +b close over 1 over 2 xa xb -a -b"


def test_closed_again_or_after_the_end_nothing_happens(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a1 b~ c"), limit=2)
        await anext(stream)
        for _ in range(3):
            assert await stream.aclose() is None
        stream = impl.amap(doing(trace), drawn(trace, "d"))
        await consume(trace, stream)
        for _ in range(3):
            await stream.aclose()
        stream = impl.amap(doing(trace), ["e1!"])
        await consume(trace, stream)
        async with stream:
            pass
        await stream.aclose()
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a ?c +c close xb -b ?d +d end -d =d over +e !e ValueError(e)"


def test_closed_it_does_not_swallow_the_body_s_error(impl):
    async def main():
        error = BodyError()
        stream = impl.amap(doing(Trace()), "ab")
        assert await stream.__aexit__(BodyError, error, None) is None
        with pytest.raises(BodyError) as caught:
            async with impl.amap(doing(Trace()), "ab"):
                raise error
        assert caught.value is error

    run(main)


# A pause


@ORDERED
def test_while_the_consumer_pauses_the_window_fills_up_and_nothing_else_happens(impl, ordered):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a b c d e f g h"), limit=2, ordered=ordered)
        trace(f"={await anext(stream)}")
        await idle(20)
        trace("paused")
        loop = asyncio.get_running_loop()
        for _ in range(20):
            assert not loop._ready and not loop._scheduled
            await asyncio.sleep(0)
        assert repr(stream).endswith(": 0 running, 4 waiting, 1 done>")
        async with stream:
            pass
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a ?c +c -b =a ?d +d -c -d ?e +e -e paused close"


# Cancelled from outside


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("words", ["a1 b1 c~1 d~ e", "a1 b1 c~2= d~= e", "a1 b1 c1 d1 e"])
@ORDERED
def test_when_all_tasks_are_cancelled_nothing_starts_and_it_never_looks_complete(
    impl, ordered, words, return_exceptions, any_turns
):
    async def main():
        trace = Trace()
        source = drawn(trace, words)
        stream = impl.amap(doing(trace), source, limit=2, ordered=ordered, return_exceptions=return_exceptions)
        assert await anext(stream) == "a"
        await idle(9)  # the window is full, or every slot taken
        before = len(trace.events)
        for task in other_tasks():
            task.cancel()
        await idle(9)
        assert [event for event in trace.events[before:] if event[0] in "+?"] == []
        assert "close" in trace.events[before:]
        before = len(trace.events)
        await consume(trace, stream)
        await consume(trace, stream)
        assert other_tasks() == set()
        return " ".join(trace.events[before:])

    finished = {
        "a1 b1 c~1 d~ e": "=b = = " if return_exceptions else "=b ",  # two CancelledErrors, as results
        "a1 b1 c~2= d~= e": "=b =c =d " if ordered else "=b =d =c ",
        "a1 b1 c1 d1 e": "=b =c =d =e ",
    }
    assert run(main) == finished[words] + "CancelledError() over"


@ORDERED
def test_when_only_the_queue_is_cancelled_consumers_get_what_runs_and_one_of_them_a_cancelled_error(impl, ordered):
    async def main():
        trace = Trace()
        items = set()

        async def async_fn(word):
            items.add(asyncio.current_task())
            return await doing(trace)(word)

        stream = impl.amap(async_fn, drawn(trace, "a9 b3 c d"), limit=2, ordered=ordered)
        consumers = [asyncio.create_task(consume(trace, stream)) for _ in range(2)]
        await idle(2)
        (keeper,) = other_tasks() - items - set(consumers)
        keeper.cancel("why")
        await asyncio.wait(consumers)
        assert other_tasks() == set()
        return " ".join(trace.events)

    handed_over = "-b -a =a =b" if ordered else "-b =b -a =a"
    assert run(main) == f"?a +a ?b +b close {handed_over} CancelledError(why) over"


@pytest.mark.parametrize("ends", ["left", "failed", "over", "dropped"])
def test_nothing_stands_for_the_queue_any_more_when_that_is_closed(impl, ends):
    async def main():
        stream = impl.amap(doing(Trace()), ["a1", "b2!" if ends == "failed" else "b2", "c1", "d1"], limit=1)
        assert await anext(stream) == "a"
        assert len(other_tasks()) == 2  # an item, and what stands for the queue
        if ends == "left":
            await stream.aclose()
        elif ends == "dropped":
            del stream
            await idle(3)
        else:
            await consume(Trace(), stream)
        await idle(1)
        assert other_tasks() == set()

    run(main)


@ORDERED
def test_asyncio_run_ends_and_no_queued_item_starts(impl, ordered):
    check_script(
        impl,
        f"""
        events = []

        async def async_fn(x):
            events.append(f"+{{x}}")
            try:
                await asyncio.sleep(0 if x == 0 else 3600)
            except asyncio.CancelledError:
                events.append(f"x{{x}}")
                if x == 2:
                    return
                raise

        def source():
            try:
                yield from range(1000)
            finally:
                events.append("closed")

        async def main():
            stream = impl.amap(async_fn, source(), limit=3, ordered={ordered})
            streams.append(stream)
            await anext(stream)

        streams = []
        asyncio.run(main())
        assert sorted(events) == ["+0", "+1", "+2", "+3", "closed", "x1", "x2", "x3"], events
        del streams[:]
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

        async def async_fn(x):
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

        def source():
            try:
                yield from range(1000)
            finally:
                events.append("closed")

        async def main():
            try:
                async with impl.amap(async_fn, source(), limit=3) as stream:
                    async for _ in stream:
                        pass
            finally:
                events.append("left")

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            events.append("interrupted")
        assert " ".join(events) == "+0 +1 +2 closed x0 x1 x2 -0 -1 -2 left interrupted", events
        print("ok")
        """,
    )
