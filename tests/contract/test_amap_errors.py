"""amap: errors of items and of the source, in order, as they come, and as results."""

import asyncio
import itertools
import re

import pytest

from contract_tools import Trace, idle
from stream_tools import consume, doing, drawn, run

ORDERED = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


async def collected(stream):
    return [result async for result in stream]


async def results_and_error(stream):
    results = []
    try:
        async for result in stream:
            results.append(result)
    except Exception as error:
        return results, error
    return results, None


def notes_of(error):
    return getattr(error, "__notes__", [])


# In order


@pytest.mark.parametrize("source_fails", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, None])
def test_in_order_it_gives_what_the_loop_gives(impl, limit, source_fails, any_turns):
    async def loop(does, source):
        for word in source:
            yield await does(word)

    async def main():
        error = LookupError("of the source") if source_fails else None
        for ways in itertools.product(["0", "1", "3", "0!", "2!"], repeat=3):
            words = [name + way for name, way in zip("abc", ways)]
            expected = await results_and_error(loop(doing(Trace()), drawn(Trace(), words, error)))
            given = await results_and_error(impl.amap(doing(Trace()), drawn(Trace(), words, error), limit=limit))
            assert repr(given) == repr(expected)
            assert notes_of(given[1]) == []

    run(main)


def test_an_error_comes_after_the_results_before_it_and_stops_what_comes_after(impl):
    async def main():
        trace = Trace()
        trace.start()
        await consume(trace, impl.amap(doing(trace), drawn(trace, "a5 b3 c1! d~1 e~ f"), limit=5))
        trace.stop()
        return trace.turns

    assert run(main) == [
        "",
        "?a +a ?b +b ?c +c ?d +d ?e +e",
        "!c close",
        "xd xe -e",
        "-b -d",
        "",
        "-a",
        "=a =b ValueError(c)",
    ]


def test_an_error_of_an_earlier_item_takes_its_place(impl):
    async def main():
        trace = Trace()
        trace.start()
        error = await consume(trace, impl.amap(doing(trace), drawn(trace, "a5 b3! c~1! d1! e~5! f"), limit=5))
        trace.stop()
        # d's is dropped, as the loop would never have come to it. Each of c and e is cancelled once, because of b and of d.
        assert notes_of(error) == [
            "while it was being cancelled, item 2 raised ValueError: c",
            "while it was being cancelled, item 4 raised ValueError: e",
        ]
        return trace.turns

    assert run(main) == [
        "",
        "?a +a ?b +b ?c +c ?d +d ?e +e",
        "!d close",
        "xe",
        "!b",
        "xc",
        "-a -c",
        "=a",
        "-e",
        "ValueError(b)",
    ]


def test_iterated_the_error_is_the_first_in_the_input_awaited_the_first_in_time(impl):
    async def main():
        words = "a5 b3! c1!".split()
        assert str((await results_and_error(impl.amap(doing(Trace()), words)))[1]) == "b"
        with pytest.raises(ValueError, match="^c$"):
            await impl.amap(doing(Trace()), words)

    run(main)


def test_an_error_far_ahead_waits_for_its_turn_and_nothing_more_is_drawn_meanwhile(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a1 b1 c1! d e f"), limit=3)
        assert await anext(stream) == "a"
        trace("=a")
        await idle(9)
        trace("pause")
        await consume(trace, stream)
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b ?c +c -a ?d +d -b !c close =a pause =b ValueError(c)"


# As they come


def test_unordered_the_first_error_in_time_cancels_and_awaits_what_runs_and_comes_after_every_result(impl):
    async def main():
        trace = Trace()
        trace.start()
        stream = impl.amap(doing(trace), drawn(trace, "a~1 b1 c1! d~2= e~ f"), limit=5, ordered=False)
        await consume(trace, stream)
        trace.stop()
        return trace.turns

    assert run(main) == [
        "",
        "?a +a ?b +b ?c +c ?d +d ?e +e",
        "-b ?f +f !c close",
        "=b xa xd xe -e",
        "-a",
        "-d",
        "=d ValueError(c)",
    ]


def test_results_that_wait_when_an_item_fails_are_handed_over_first(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a1 b2 c3 d5!"), limit=4, ordered=False)
        assert await anext(stream) == "a"
        await idle(9)
        assert repr(stream).endswith("0 running, 2 waiting, 1 done>")
        await consume(trace, stream)
        return trace.events[-3:]

    assert run(main) == ["=b", "=c", "ValueError(d)"]


@ORDERED
def test_what_returns_in_spite_of_its_cancellation_is_handed_over_or_in_order_dropped(impl, ordered):
    async def main():
        trace = Trace()
        error = await consume(trace, impl.amap(doing(trace), ["a1!", "b~3=", "c~1="], ordered=ordered))
        assert notes_of(error) == []
        return " ".join(trace.events[3:])

    assert run(main) == ("!a xb xc -c -b ValueError(a)" if ordered else "!a xb xc -c =c -b =b ValueError(a)")


# The source's error


@pytest.mark.parametrize("limit", [2, 3, None])
@ORDERED
def test_when_the_source_raises_everything_drawn_is_finished_and_handed_over_first(impl, ordered, limit):
    async def main():
        trace = Trace()
        error = LookupError("of the source")
        stream = impl.amap(doing(trace), drawn(trace, "a4 b1", error), limit=limit, ordered=ordered)
        assert await consume(trace, stream) is error
        return " ".join(trace.events)

    handed_over = "-a =a =b" if ordered else "=b -a =a"
    drawing = "?a +a ?b +b -b end" if limit == 2 else "?a +a ?b +b end -b"
    assert run(main) == f"{drawing} {handed_over} LookupError(of the source)"


@pytest.mark.parametrize("limit", [1, 2, None])
@ORDERED
def test_a_source_that_raises_at_once_is_an_error_without_results(impl, ordered, limit):
    async def main():
        trace = Trace()
        error = LookupError("of the source")
        assert await consume(trace, impl.amap(doing(trace), drawn(trace, "", error), limit=limit)) is error

    run(main)


@ORDERED
def test_a_source_whose_iter_raises_is_an_error_of_the_first_step_and_then_it_is_over(impl, ordered):
    class Refuses:
        def __iter__(self):
            raise LookupError("of iter")

    async def main():
        stream = impl.amap(doing(Trace()), Refuses(), ordered=ordered)
        with pytest.raises(LookupError, match="of iter"):
            await anext(stream)
        assert await collected(stream) == []

    run(main)


def test_an_item_that_fails_after_the_source_did_is_the_error_in_order(impl):
    async def main():
        trace = Trace()
        source = drawn(trace, "a2! b~1! c~", LookupError("of the source"))
        error = await consume(trace, impl.amap(doing(trace), source))
        assert notes_of(error) == ["while it was being cancelled, item 1 raised ValueError: b"]
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b ?c +c end !a xb xc -c -b ValueError(a)"


def test_an_item_that_fails_after_the_source_did_cancels_the_rest_and_becomes_a_note_unordered(impl):
    async def main():
        trace = Trace()
        failure = LookupError("of the source")
        source = drawn(trace, "a4! b~1! c1 d~1=", failure)
        error = await consume(trace, impl.amap(doing(trace), source, ordered=False))
        assert error is failure
        assert notes_of(error) == [
            "after that, item 0 raised ValueError: a",
            "while it was being cancelled, item 1 raised ValueError: b",
        ]
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b ?c +c ?d +d end -c =c !a xb xd -b -d =d LookupError(of the source)"


@pytest.mark.parametrize("ordered", [True, False])
def test_with_return_exceptions_the_source_s_error_is_raised_all_the_same(impl, ordered):
    async def main():
        failure = LookupError("of the source")
        source = drawn(Trace(), "a1! b2 c3!", failure)
        results, error = await results_and_error(
            impl.amap(doing(Trace()), source, ordered=ordered, return_exceptions=True)
        )
        assert list(map(str, results)) == ["a", "b", "c"]
        assert error is failure and notes_of(error) == []

    run(main)


# When and to whom


@ORDERED
def test_it_is_raised_when_what_was_cancelled_has_ended_and_the_source_is_closed_as_it_is(impl, ordered):
    async def main():
        trace = Trace()
        failure = ValueError("of the item")

        async def async_fn(word):
            if word == "a":
                await idle(1)
                raise failure
            return await doing(trace)(word)

        stream = impl.amap(async_fn, drawn(trace, ["a", "b~3", "c~1", "d"]), limit=3, ordered=ordered)
        assert await consume(trace, stream) is failure
        assert notes_of(failure) == []
        assert failure.__cause__ is None and failure.__context__ is None
        return " ".join(trace.events)

    assert run(main) == "?a ?b +b ?c +c close xb xc -c -b ValueError(of the item)"


@pytest.mark.parametrize("way", ["asked for", "in the middle of a wait", "awaited", "closed", "closed and cancelled"])
def test_raised_while_another_one_is_handled_it_has_that_as_its_context(impl, way):
    """As what `raise` raises, and a Future that is awaited."""

    async def fails(stream):
        if way == "awaited":
            await stream
        elif way.startswith("closed"):
            await stream.aclose()
        else:
            await anext(stream)

    async def main():
        handled = KeyError()

        async def caller(stream):
            try:
                raise handled
            except KeyError:
                await fails(stream)

        closes = way.startswith("closed")
        words = ["a1", "b~2!" if closes else "b3!"]
        stream = impl.amap(doing(Trace()), words, limit=2)
        if way != "awaited":
            await anext(stream)
            await idle(5 if way == "asked for" else 0)
        calling = asyncio.create_task(caller(stream))
        if way == "closed and cancelled":
            await idle(2)
            calling.cancel()
        with pytest.raises(asyncio.CancelledError if way == "closed and cancelled" else ValueError) as caught:
            await calling
        assert caught.value.__context__ is handled

    run(main)


@ORDERED
def test_of_several_consumers_one_gets_the_error_and_afterwards_everybody_the_end(impl, ordered):
    async def main():
        stream = impl.amap(doing(Trace()), "a1 b2! c3".split(), limit=3, ordered=ordered)
        consumers = [asyncio.create_task(anext(stream)) for _ in range(4)]
        outcomes = await asyncio.gather(*consumers, return_exceptions=True)
        assert list(map(repr, outcomes)) == ["'a'", "ValueError('b')", *["StopAsyncIteration()"] * 2]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
        return await collected(stream)

    assert run(main) == []


@ORDERED
def test_errors_of_siblings_while_they_are_being_cancelled_become_notes(impl, ordered):
    class Unprintable(Exception):
        def __str__(self):
            raise LookupError

    async def main():
        async def raises_another(word):
            if word != "u":
                return await doing(Trace())(word)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise Unprintable from None

        words = ["a1!", "b~1!", "c~", "d~2!", "u", "e~="]
        _, error = await results_and_error(impl.amap(raises_another, words, ordered=ordered))
        assert repr(error) == "ValueError('a')"
        return notes_of(error)

    said = "while it was being cancelled, item"
    assert run(main) == [
        f"{said} 4 raised Unprintable: <exception str() failed>",
        f"{said} 1 raised ValueError: b",
        f"{said} 3 raised ValueError: d",
    ]


@ORDERED
def test_an_error_of_the_source_s_close_becomes_a_note_on_the_error(impl, ordered):
    async def main():
        def source():
            try:
                yield "a1!"
                yield "b~"
                yield "c"
            finally:
                raise LookupError("of the cleanup")

        _, error = await results_and_error(impl.amap(doing(Trace()), source(), limit=2, ordered=ordered))
        assert repr(error) == "ValueError('a')"
        return notes_of(error)

    assert run(main) == ["while the source was being closed, it raised LookupError: of the cleanup"]


@ORDERED
def test_an_error_that_waits_for_its_turn_is_dropped_when_the_stream_is_left(impl, ordered):
    async def main():
        for words in ("a1 b1 c1!", "a1 b1 c1! d~5"):  # all has ended by then, or not
            async with impl.amap(doing(Trace()), words.split(), ordered=ordered) as stream:
                async for _ in stream:
                    break
                await idle(3)
            assert await collected(stream) == []
        stream = impl.amap(doing(Trace()), "a1 b1 c1!".split(), ordered=ordered)
        assert await anext(stream) == "a"
        await idle(3)
        del stream

    run(main)


# What would end the consumer's loop


async def raises_in_the_item(error):
    raise error


def raises_in_the_call(error):
    raise error


class Raises:
    def __init__(self, error):
        self.error = error

    def __await__(self):
        raise self.error


@pytest.mark.parametrize("raises", [raises_in_the_item, raises_in_the_call, Raises])
@pytest.mark.parametrize("kind", [StopAsyncIteration, StopIteration])
@ORDERED
def test_a_stop_of_an_item_is_a_runtime_error_whose_cause_it_is(impl, ordered, kind, raises):
    async def main():
        stop = kind("of the item")
        stream = impl.amap(raises, [stop], ordered=ordered)
        with pytest.raises(RuntimeError) as caught:
            await collected(stream)
        assert caught.value.__cause__ is stop
        assert re.fullmatch(r"(async generator|coroutine) raised Stop(Async)?Iteration", str(caught.value))

    run(main)


def test_a_stop_of_a_subclass_is_no_end_either(impl):
    class Stop(StopAsyncIteration):
        pass

    async def main():
        stop = Stop()
        with pytest.raises(RuntimeError) as caught:
            await collected(impl.amap(raises_in_the_item, [stop]))
        assert caught.value.__cause__ is stop

    run(main)


def test_a_stop_of_the_source_is_no_end_either(impl):
    async def main():
        stop = StopAsyncIteration()
        trace = Trace()
        with pytest.raises(RuntimeError) as caught:
            await collected(impl.amap(doing(trace), drawn(trace, "a", stop)))
        assert caught.value.__cause__ is stop

    run(main)


# As results


@ORDERED
def test_with_return_exceptions_errors_are_results(impl, ordered):
    async def main():
        trace = Trace()
        stream = impl.amap(
            doing(trace), drawn(trace, "a9! b1! c1 d1!"), limit=2, ordered=ordered, return_exceptions=True
        )
        assert await consume(trace, stream) is None
        return " ".join(event for event in trace.events if event.startswith("="))

    assert run(main) == ("=a =b =c =d" if ordered else "=b =c =d =a")


@ORDERED
def test_with_return_exceptions_an_item_s_own_cancellation_is_a_result(impl, ordered):
    async def async_fn(word):
        await asyncio.sleep(0)
        if word == "cancelled":
            asyncio.current_task().cancel("why")
            await asyncio.sleep(0)
        if word == "raises":
            raise asyncio.CancelledError
        if word == "stops":
            raise StopAsyncIteration(word)
        return word

    async def main():
        words = ["a", "cancelled", "raises", "stops", "b"]
        return list(
            map(repr, await collected(impl.amap(async_fn, words, limit=1, ordered=ordered, return_exceptions=True)))
        )

    # As asyncio.gather has it.
    assert run(main) == [
        "'a'",
        "CancelledError('')",
        "CancelledError('')",
        "StopAsyncIteration('stops')",
        "'b'",
    ]


@ORDERED
@pytest.mark.parametrize("turns", [0, 1])
def test_an_item_that_returns_when_its_task_has_been_cancelled_is_cancelled(impl, ordered, turns):
    async def main():
        async def does(x):
            await idle(turns)
            asyncio.current_task().cancel("by itself")
            return x

        stream = impl.amap(does, "a", ordered=ordered)
        with pytest.raises(asyncio.CancelledError, match="by itself"):
            await anext(stream)
        assert await anext(stream, "over") == "over"

    run(main)


@ORDERED
def test_an_item_s_own_cancellation_is_an_error(impl, ordered):
    async def async_fn(word):
        await asyncio.sleep(0)
        if word == "b":
            asyncio.current_task().cancel("why")
            await asyncio.sleep(0)
        return word

    async def main():
        trace = Trace()
        error = await consume(trace, impl.amap(async_fn, "abc", limit=1, ordered=ordered))
        assert type(error) is asyncio.CancelledError
        return " ".join(trace.events)

    assert run(main) == "=a CancelledError(why)"


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@ORDERED
def test_an_interrupt_leaves_the_loop(impl, ordered, interrupt, return_exceptions):
    async def async_fn(word):
        await asyncio.sleep(0)
        raise interrupt(word)

    async def main():
        stream = impl.amap(async_fn, "ab", limit=1, ordered=ordered, return_exceptions=return_exceptions)
        await consume(Trace(), stream)

    with pytest.raises(interrupt, match="^a$"):
        run(main)


@pytest.mark.parametrize("return_exceptions", [False, True])
@ORDERED
def test_if_the_loop_is_run_again_after_an_interrupt_that_is_an_error_as_any_other(impl, ordered, return_exceptions):
    trace = Trace()

    async def async_fn(word):
        if word == "interrupts":
            await asyncio.sleep(0)
            raise KeyboardInterrupt
        return await doing(trace)(word)

    async def main():
        words = drawn(trace, ["a4", "interrupts", "c~"])
        stream = impl.amap(async_fn, words, limit=3, ordered=ordered, return_exceptions=return_exceptions)
        results = []
        try:
            for _ in range(2):
                results.append(repr(await anext(stream)))
        except KeyboardInterrupt:
            results.append("raised")
        await stream.aclose()
        return results

    with asyncio.Runner() as runner:
        task = runner.get_loop().create_task(main())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(task)
        trace("again")
        results = runner.get_loop().run_until_complete(task)
    if return_exceptions:
        assert results == (["'a'", "KeyboardInterrupt()"] if ordered else ["KeyboardInterrupt()", "'a'"])
    else:
        assert results == (["'a'", "raised"] if ordered else ["raised"])
        assert " ".join(trace.events) == "?a +a ?i ?c +c close again xc -c" + " -a" * ordered
