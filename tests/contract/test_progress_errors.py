"""What progress= raises: the call's error, or a note on the one that there is."""

import asyncio
import contextlib
import inspect

import pytest

from progress_tools import CALLS, Told, after, all_of, does, fails_at, functions_of, now, run, sleep
from virtual_time import FineTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
ALL_AWAITED = ["run_all", "run_all, a generator", "run_all, an async generator", "amap awaited"]
ERROR = LookupError("of progress")
NOTE = "after that, progress raised LookupError: of progress"
raises_it = pytest.raises(LookupError, match="^of progress")


@pytest.fixture(autouse=True)
def without_traces_of_tests_before():
    ERROR.__traceback__ = ERROR.__context__ = None
    ERROR.__dict__.clear()


class Noted:
    """Says of each of its items how it has ended and when."""

    def __init__(self):
        self.ends = []

    async def __call__(self, word):
        try:
            result = await does(word)
        except BaseException as error:
            self.ends.append((now(), word, type(error).__name__))
            raise
        self.ends.append((now(), word, None))
        return result


# There is no error yet


@every_call
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_it_is_the_calls_error(impl, call, return_exceptions):
    async def main():
        told = fails_at(1, ERROR)
        with raises_it:
            await call(impl, [2, 20, 40], return_exceptions=return_exceptions, progress=told)
        await sleep(100)
        assert told == [(12, 1)]  # it is not called again

    run(main)


@every_call
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_so_is_that_of_the_last_call_before_the_end(impl, call, return_exceptions):
    async def main():
        told = fails_at(2, ERROR)
        with raises_it as caught:
            await call(impl, [2, 20], return_exceptions=return_exceptions, progress=told)
        assert not hasattr(caught.value, "__notes__")
        assert now() == 20
        assert told == [(12, 1), (20, 1)]

    run(main)


@pytest.mark.parametrize("name", ALL_AWAITED)
def test_what_runs_is_cancelled_and_awaited_and_nothing_starts(impl, name):
    async def main():
        told = fails_at(1, ERROR)
        with raises_it:
            await CALLS[name](impl, [2, "~20", "~", 3], limit=2, progress=told)
        assert now() == 32
        assert told == [(12, 1)]

    run(main)


def test_what_an_item_raises_as_it_is_cancelled_for_that_becomes_a_note(impl):
    async def fails_to_clean_up():
        try:
            await sleep(50)
        finally:
            raise ValueError("of the item")

    async def main():
        with raises_it as caught:
            await impl.run_all([lambda: after(2), fails_to_clean_up], progress=fails_at(1, ERROR))
        assert caught.value.__notes__ == ["while it was being cancelled, item 1 raised ValueError: of the item"]

    run(main)


@pytest.mark.parametrize("name", ["gather", "run_all"])
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_without_cancel_on_error_it_is_raised_at_once_and_what_runs_goes_on(impl, name, return_exceptions):
    async def main():
        item = Noted()
        coros = [item(word) for word in (2, 30, 40, 5)]
        options = {"limit": 2, "return_exceptions": return_exceptions, "cancel_on_error": False}
        call = {
            "gather": lambda: impl.gather(*coros, progress=fails_at(1, ERROR), **options),
            "run_all": lambda: impl.run_all(
                [lambda coro=coro: coro for coro in coros], progress=fails_at(1, ERROR), **options
            ),
        }[name]
        with raises_it:
            await call()
        assert now() == 12
        await sleep(100)
        assert item.ends == [(2, 2, None), (30, 30, None), (42, 40, None)]
        if name == "gather":  # what is queued does not start: the error belongs to no item
            assert inspect.getcoroutinestate(coros[3]) == inspect.CORO_CLOSED
        coros[3].close()

    run(main)


def test_with_cancel_on_error_gather_waits_for_what_it_cancels(impl):
    async def main():
        item = Noted()
        with raises_it:
            await impl.gather(*map(item, [2, "~20", 50]), cancel_on_error=True, progress=fails_at(1, ERROR))
        assert now() == 32
        assert item.ends == [(2, 2, None), (12, 50, "CancelledError"), (32, "~20", "CancelledError")]

    run(main)


async def take_all(stream, got):
    async for result in stream:
        got.append(result)


def drawn(words, closed):
    try:
        yield from words
    finally:
        closed.append(now())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_stream_draws_nothing_more_and_hands_over_what_was_drawn(impl, ordered, return_exceptions):
    async def main():
        item, got, closed = Noted(), [], []
        told = fails_at(1, ERROR)
        source = drawn([2, 20, 30, 5, 6, 7], closed)
        options = {"limit": 2, "ordered": ordered, "return_exceptions": return_exceptions}
        stream = impl.amap(item, source, progress=told, **options)
        with raises_it:
            await take_all(stream, got)
        assert got == [2, 20, 30]
        assert item.ends == [(2, 2, None), (20, 20, None), (32, 30, None)]
        assert now() == 32
        assert closed == [12]
        assert told == [(12, 1)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(main)


def test_in_order_the_error_of_an_item_that_was_drawn_before_takes_its_place(impl):
    async def main():
        got = []
        with pytest.raises(ValueError, match="20!") as caught:
            await take_all(impl.amap(does, [2, "20!", "~"], progress=fails_at(1, ERROR)), got)
        assert got == [2]
        assert not hasattr(caught.value, "__notes__")

    run(main)


def test_out_of_order_the_error_of_an_item_that_was_drawn_before_cancels_the_rest_and_becomes_a_note(impl):
    async def main():
        got = []
        stream = impl.amap(does, [2, "20!", "~5"], ordered=False, progress=fails_at(1, ERROR))
        with raises_it as caught:
            await take_all(stream, got)
        assert now() == 25
        assert got == [2]
        assert caught.value.__notes__ == ["after that, item 1 raised ValueError: 20!"]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_consumer_that_pauses_gets_it_after_the_results(impl, ordered):
    async def main():
        stream = impl.amap(does, [2, 3, 4], ordered=ordered, progress=fails_at(1, ERROR))
        assert await anext(stream) == 2
        await sleep(50)
        assert await anext(stream) == 3
        assert await anext(stream) == 4
        with raises_it:
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(main)


# There is an error already


@pytest.mark.parametrize("name", ALL_AWAITED)
def test_after_an_error_it_becomes_a_note_on_that(impl, name):
    async def main():
        told = fails_at(1, ERROR)
        with pytest.raises(ValueError, match="3!") as caught:
            await CALLS[name](impl, ["~20", "3!"], progress=told)
        assert caught.value.__notes__ == [NOTE]
        assert now() == 23
        assert told == [(13, 1)]

    run(main)


@every_call
def test_so_it_does_in_the_last_call_before_the_end(impl, call):
    async def main():
        told = fails_at(1, ERROR)
        with pytest.raises(ValueError, match="3!") as caught:
            await call(impl, [1, "3!"], progress=told)
        assert caught.value.__notes__ == [NOTE]
        await sleep(50)
        assert len(told) == 1

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap awaited", "gather"])
def test_the_same_exception_once_more_is_no_note_on_itself(impl, name):
    error = ValueError("of both")

    async def item(milliseconds):
        await sleep(milliseconds)
        if milliseconds == 3:
            raise error
        await sleep(50)

    async def main():
        items = [20, 3]
        calls = {
            "run_all": lambda told: impl.run_all([lambda one=one: item(one) for one in items], progress=told),
            "amap awaited": lambda told: impl.amap(item, items, progress=told),
            "gather": lambda told: impl.gather(*map(item, items), cancel_on_error=True, progress=told),
        }
        with pytest.raises(ValueError, match="of both") as caught:
            await calls[name](fails_at(1, error))
        assert not hasattr(caught.value, "__notes__")

    run(main)


def test_a_second_error_in_the_turn_by_which_the_end_is_put_off_is_no_note_on_the_first(impl):
    """As without progress."""

    async def main():
        for options in {}, {"progress": Told()}, {"progress": fails_at(1, ERROR)}:
            with pytest.raises(ValueError, match="3!") as caught:
                await impl.gather(*map(does, ["3!", "3!", 20]), **options)
            notes = getattr(caught.value, "__notes__", [])
            assert notes == ([NOTE] if len(options.get("progress", [])) and options["progress"].then else [])

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_in_a_stream_that_fails_it_becomes_a_note(impl, ordered):
    async def main():
        got = []
        told = fails_at(1, ERROR)
        with pytest.raises(ValueError, match="3!") as caught:
            await take_all(impl.amap(does, [2, "3!", "~20"], ordered=ordered, progress=told), got)
        assert got == [2]
        assert caught.value.__notes__ == [NOTE]
        assert told == [(12, 2)]

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap awaited"])
def test_while_a_cancelled_caller_waits_it_is_what_the_call_ends_with(impl, name):
    async def call():
        await CALLS[name](impl, [2, "~20"], progress=fails_at(1, ERROR))

    async def main():
        task = asyncio.ensure_future(call())
        await sleep(4)
        task.cancel()
        with raises_it:
            await task
        assert now() == 24

    run(main)


@pytest.mark.parametrize("name", ["gather", "run_all", "amap"])
def test_a_stop_iteration_becomes_a_note_as_what_would_be_raised(impl, name):
    async def main():
        with pytest.raises(ValueError, match="3!") as caught:
            await CALLS[name](impl, [1, "3!"], progress=fails_at(1, StopIteration()))
        assert caught.value.__notes__ == ["after that, progress raised RuntimeError: coroutine raised StopIteration"]

    run(main)


# A stream is left


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("call", [1, 2])
def test_closing_a_stream_raises_it(impl, ordered, call):
    async def main():
        told = fails_at(call, ERROR)
        stream = impl.amap(does, [2, "~5", "~30"], ordered=ordered, progress=told)
        assert await anext(stream) == 2
        with raises_it:
            await stream.aclose()
        assert now() == 32
        assert told == [(12, 2), (32, 1)][:call]
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(main)


def test_leaving_the_block_raises_it(impl):
    async def main():
        with raises_it:
            async with impl.amap(does, [2, "~5"], progress=fails_at(1, ERROR)) as stream:
                assert await anext(stream) == 2

    run(main)


def test_it_becomes_a_note_on_the_error_with_which_the_block_is_left(impl):
    async def main():
        with pytest.raises(KeyError, match="of the block") as caught:
            async with impl.amap(does, [2, "~5"], progress=fails_at(1, ERROR)) as stream:
                assert await anext(stream) == 2
                raise KeyError("of the block")
        assert len(caught.value.__notes__) == 1
        assert "LookupError: of progress" in caught.value.__notes__[0]

    run(main)


def test_an_error_of_the_cleanup_that_came_before_gets_it_as_a_note(impl):
    async def fails_to_clean_up(milliseconds):
        try:
            await sleep(2 if milliseconds == 2 else 500)
        finally:
            if milliseconds != 2:
                await sleep(milliseconds)
                raise ValueError(milliseconds)

    async def main():
        stream = impl.amap(fails_to_clean_up, [2, 5, 30], progress=fails_at(1, ERROR))
        await anext(stream)
        with pytest.raises(ValueError, match="5") as caught:
            await stream.aclose()
        assert NOTE in caught.value.__notes__

    run(main)


# What it raises


class Own(BaseException):
    pass


@every_call
@pytest.mark.parametrize("kind", [Own, ValueError])
@pytest.mark.parametrize("last", [False, True])
def test_any_error_is_raised_as_it_is(impl, call, kind, last):
    async def main():
        error = kind("of progress")
        with pytest.raises(kind, match="of progress") as caught:
            await call(impl, [2, 5] if last else [2, 20], progress=fails_at(1, error))
        assert caught.value is error

    run(main)


@every_call
@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_stop_iteration_does_not_look_like_an_end(impl, call, kind):
    """next() without a default is easily written."""

    async def main():
        with pytest.raises((RuntimeError, StopAsyncIteration)) as caught:
            await call(impl, [2, 20], progress=fails_at(1, kind("of progress")))
        if kind is StopIteration:
            assert str(caught.value) == "coroutine raised StopIteration"
        assert isinstance(caught.value, kind) or isinstance(caught.value.__cause__, kind)

    run(main)


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
@pytest.mark.parametrize("last", [False, True])
def test_a_cancelled_error_of_it_cancels_the_caller(impl, name, last):
    async def main():
        error = asyncio.CancelledError("of progress")
        with pytest.raises(asyncio.CancelledError):
            await CALLS[name](impl, [2, 5] if last else [2, 20], progress=fails_at(1, error))

    run(main)


@every_call
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("words", [[2, 20, "~"], [2, 5], [2, 50, "~3"]], ids=str)
def test_an_interrupt_leaves_the_loop_and_everything_is_cleaned_up(impl, call, kind, words):
    calls = []

    async def main():
        told = fails_at(1, kind("of progress"))
        calls.append(told)
        await call(impl, words, progress=told)

    with pytest.raises(kind):  # run() fails if anything is reported
        run(main)
    assert len(calls[0]) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", [*ALL_AWAITED, "amap out of order"])
@pytest.mark.parametrize("words", [["~20", "3!"], ["~5", "3!"]], ids=str)
def test_so_it_does_when_there_is_an_error_already(impl, name, kind, words):
    calls = []

    async def main():
        told = fails_at(1, kind("of progress"))
        calls.append(told)
        with contextlib.suppress(ValueError):  # which the call still ends with
            await CALLS[name](impl, words, progress=told)

    with pytest.raises(kind, match="of progress"):
        run(main)
    assert len(calls[0]) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("words", [[2, "~20"], [2, "~5"]], ids=str)
def test_so_it_does_while_a_stream_is_left(impl, kind, words):
    left = []

    async def main():
        async with impl.amap(does, words, progress=fails_at(1, kind("of progress"))) as stream:
            assert await anext(stream) == 2
        left.append(stream)

    with pytest.raises(kind, match="of progress"):
        run(main)
    assert left == []


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
def test_after_an_interrupt_the_loop_goes_on_and_the_call_has_ended(impl, name):
    reports = []

    async def call():
        return await CALLS[name](impl, [2, 20], progress=fails_at(1, KeyboardInterrupt()))

    with asyncio.Runner(loop_factory=FineTimeLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        task = loop.create_task(call())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert task.done()
        loop.run_until_complete(asyncio.sleep(1))
    assert reports == []


@every_call
def test_an_error_that_is_no_error_of_the_first_call_is_raised_in_time(impl, call):
    """The third call fails; what was told before is as it was."""

    async def main():
        told = fails_at(3, ERROR)
        with raises_it:
            await call(impl, [2, 14, 25, 60], progress=told)
        assert told == [(12, 1), (24, 1), (35, 1)]
        await sleep(100)
        assert len(told) == 3

    run(main)


def test_a_function_of_another_signature_is_the_calls_error(impl):
    async def main():
        with pytest.raises(TypeError):
            await impl.run_all(functions_of([2]), progress=lambda: None)
        with pytest.raises(TypeError):
            await all_of(impl.amap(after, [2], progress=lambda: None))

    run(main)


def test_what_it_returns_is_dropped(impl):
    async def main():
        told = Told()
        assert await impl.run_all(functions_of([2, 5]), progress=lambda n: told(n) or [n]) == [2, 5]
        assert told == [(5, 2)]

    run(main)
