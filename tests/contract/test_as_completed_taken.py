"""as_completed: what is taken whole and what is drawn as it is needed; what can be waited for at all, and what cannot."""

import asyncio
import collections
import contextvars
import functools
import itertools

import pytest

from contract_tools import Running, Trace, idle, is_closed
from implementations import asked_in_place
from stream_tools import LOOPS, Doors, came_to, coroutines, doing, drawn, loop_async, loop_plain, made, made_async, run

NO_TASK_IS_REUSED = True

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
EACH_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


async def value(result=None):
    return result


def begins(iterator, loop):
    """The first step."""
    return next(iterator) if loop is loop_plain else anext(iterator)


async def first_step(iterator, loop):
    await begins(iterator, loop)


# Whole or lazily


class Sized:
    def __init__(self, trace, words):
        self.trace, self.words = trace, words

    def __len__(self):
        return len(self.words.split())

    def __iter__(self):
        return made(self.trace, self.words)


class OnlyBySubscript:
    def __init__(self, trace, words):
        self.trace, self.words = trace, words.split()

    def __getitem__(self, index):
        if index == len(self.words):
            self.trace("end")
        word = self.words[index]
        self.trace(f"?{word[0]}")
        return doing(self.trace)(word)


class SizedBySubscript(OnlyBySubscript):
    def __len__(self):
        return len(self.words)


class Iterable:
    def __init__(self, trace, words):
        self.trace, self.words = trace, words

    def __iter__(self):
        return made(self.trace, self.words)


class AsyncIterable:
    def __init__(self, trace, words):
        self.trace, self.words = trace, words

    def __aiter__(self):
        self.trace("async")
        return made_async(self.trace, self.words)


class Both(Sized, AsyncIterable):
    pass


WHOLE = "?a ?b ?c end +a -a +b -b +c"
LAZILY = "?a +a -a ?b +b -b ?c +c"
TAKEN = {  # by `for`, by `async for`
    "what has a length": (Sized, WHOLE, WHOLE),
    "what has elements and a length": (SizedBySubscript, WHOLE, WHOLE),
    "a generator": (made, WHOLE, LAZILY),
    "an iterable": (Iterable, WHOLE, LAZILY),
    "what has elements only": (OnlyBySubscript, WHOLE, LAZILY),
    "an async iterable that is an iterable, too": (Both, WHOLE, f"async {LAZILY}"),
    "an async generator": (made_async, None, LAZILY),
    "an async iterable": (AsyncIterable, None, f"async {LAZILY}"),
}


@asked_in_place
@EACH_LOOP
@pytest.mark.parametrize("kind", TAKEN)
def test_what_has_a_length_is_taken_whole_and_anything_by_the_plain_loop(impl, kind, loop):
    make, plain, asynchronous = TAKEN[kind]

    async def main():
        trace = Trace()
        iterator = impl.as_completed(make(trace, "a1 b1 c~"), limit=1)
        if loop is loop_plain and plain is None:
            with pytest.raises(TypeError, match="^aws is an async iterable: only 'async for' "):
                next(iterator)
            assert next(iterator, "over") == "over"
            return None
        async with iterator:
            await first_step(iterator, loop)
            await idle(5)
            return " ".join(trace.events)

    assert run(main) == (plain if loop is loop_plain else asynchronous)


@EACH_LOOP
def test_the_kinds_of_containers(impl, loop):
    async def main():
        for kind in (
            list,
            tuple,
            set,
            frozenset,
            dict.fromkeys,
            collections.deque,
            lambda aws: dict.fromkeys(aws).keys(),
        ):
            trace = Trace()
            aws = kind(coroutines(trace, "a b c"))
            await loop(trace, impl.as_completed(aws))
            assert sorted(event for event in trace.events if "=" in event) == ["=a", "=b", "=c"]
            assert len(aws) == 3

    run(main)


@EACH_LOOP
def test_equal_ones_are_one_where_all_is_taken_at_once(impl, loop):
    """In their order, and counted once."""

    class Equal:
        def __init__(self, coroutine, key):
            self.coroutine, self.key = coroutine, key

        def __eq__(self, other):
            return self.key == other.key

        def __hash__(self):
            return hash(self.key)

        def __await__(self):
            return self.coroutine.__await__()

    async def main():
        trace = Trace()
        unused = value()
        a, b, c, d = coroutines(trace, "a1 b1 c1 d1")
        future = asyncio.get_running_loop().create_future()
        future.set_result("f")
        aws = [a, b, a, Equal(c, 1), future, Equal(unused, 1), d, future, b]
        iterator = impl.as_completed(aws if loop is loop_async else iter(aws), limit=1)
        await loop(trace, iterator)
        unused.close()
        return " ".join(trace.events)

    events = run(main)
    assert sorted(events.split()) == sorted("+a -a =a +b -b =b +c -c =c =f +d -d =d over".split())
    assert [event for event in events.split() if event[0] == "+"] == ["+a", "+b", "+c", "+d"]


def test_lazily_they_are_not_compared(impl):
    """What is given once more is a Future that is done, or a coroutine that cannot be awaited again."""

    class Incomparable:
        __hash__ = None

        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "incomparable"

    async def main():
        trace = Trace()
        (a,) = coroutines(trace, "a1")
        future = asyncio.get_running_loop().create_future()
        future.set_result("f")
        given = [future async for future in impl.as_completed(iter([a, future, Incomparable(), a, future]), limit=1)]
        assert [one for one in given if one is future] == [future] * 2
        return sorted(came_to(one) for one in given)

    assert run(main) == ["RuntimeError(cannot reuse already awaited coroutine)", "a", "f", "f", "incomparable"]


# What cannot be waited for


def other_loop_s_future():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    return future


REFUSED = {
    "no awaitable": (lambda: 5, TypeError, "An asyncio.Future, a coroutine or an awaitable is required"),
    "a function": (lambda: value, TypeError, "An asyncio.Future, a coroutine or an awaitable is required"),
    "not hashable": (lambda: [], TypeError, ".*unhashable type: 'list'"),
    "a Future of another loop": (other_loop_s_future, ValueError, "The future belongs to a different loop"),
}


@EACH_LOOP
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", REFUSED)
def test_taken_whole_what_cannot_be_waited_for_is_an_error_of_the_first_step_and_nothing_starts(
    impl, kind, place, loop
):
    make, error, said = REFUSED[kind]

    async def main():
        trace = Trace()
        aws = coroutines(trace, "a b")
        future = asyncio.get_running_loop().create_future()
        iterator = impl.as_completed([*aws[:place], make(), *aws[place:], future], limit=1, timeout=5)
        with pytest.raises(error, match=f"^{said}"):
            await first_step(iterator, loop)
        assert all(map(is_closed, aws))
        assert not future.done() and not future._callbacks
        for _ in range(2):
            assert next(iterator, "over") == "over"
            assert await anext(iterator, "over") == "over"
        await iterator.aclose()
        await idle(3)
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("limit", [1, 2, None, asyncio.Semaphore])
def test_lazily_that_is_an_error_of_its_task_and_the_rest_goes_on(impl, kind, limit):
    make = REFUSED[kind][0]

    async def main():
        trace = Trace()
        a, b = coroutines(trace, "a1 b1")
        given = []
        async for future in impl.as_completed(iter([a, make(), b]), limit=limit(2) if callable(limit) else limit):
            assert asyncio.isfuture(future) and future.done()
            given.append(future)
        names = [came_to(future) for future in given if future.exception() is None]
        (failed,) = (future for future in given if future.exception() is not None)
        assert type(failed.exception()) is (RuntimeError if "loop" in kind else TypeError)
        return names

    assert run(main) == ["a", "b"]


@pytest.mark.parametrize(("sized", "loop"), [(True, loop_async), (True, loop_plain), (False, loop_plain)])
def test_an_iterable_that_fails_while_it_is_taken_whole_fails_the_first_step(impl, sized, loop):
    class Fails(Sized):
        def __iter__(self):
            yield from given
            raise LookupError("of the source")

    async def main():
        given.extend(coroutines(Trace(), "a b"))
        aws = Fails(Trace(), "a b c")
        iterator = impl.as_completed(aws if sized else iter(aws), limit=1)
        with pytest.raises(LookupError, match="of the source"):
            await first_step(iterator, loop)
        assert all(map(is_closed, given))
        assert next(iterator, "over") == "over"

    given = []
    run(main)


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("make", [made, made_async])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_lazily_its_error_comes_when_what_was_drawn_before_has_been_handed_over(impl, limit, make, turns):
    async def main():
        trace = Trace()
        words = f"a{turns} b1! c2"
        iterator = impl.as_completed(make(trace, words, LookupError("of the source")), limit=limit)
        error = await loop_async(trace, iterator)
        assert getattr(error, "__notes__", []) == []
        assert await anext(iterator, "over") == "over"
        return [event for event in trace.events if event[0] in "=L"]

    *handed_over, last = run(main)
    assert sorted(handed_over) == ["=ValueError(b)", "=a", "=c"]
    assert last == "LookupError(of the source)"


@pytest.mark.parametrize("make", [made, made_async])
def test_next_of_one_that_is_drawn_lazily_says_what_would_be_right_and_spoils_nothing(impl, make):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(make(trace, "a b c"), limit=1)
        assert came_to(await anext(iterator)) == "a"
        for _ in range(2):
            with pytest.raises(RuntimeError, match="list"):
                next(iterator)
        await loop_async(trace, iterator)
        return " ".join(event for event in trace.events if event[0] in "=o")

    assert run(main) == "=b =c over"


# The window


@pytest.mark.parametrize("kind", ["generator", "async generator", "async generator that suspends"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_lazily_one_is_drawn_when_it_could_start_and_the_limit_twice_have_not_been_handed_over(
    impl, limit, kind, any_turns
):
    async def main():
        running, taken, handed_over, most = Running(), 0, 0, 0

        async def runs(index):
            with running:
                await idle(index * 7 % 5)
            return index

        def one(index):
            nonlocal taken, most
            taken += 1
            most = max(most, taken - handed_over)
            assert running.now < limit
            return runs(index)

        async def asynchronous():
            for index in range(40):
                await idle(kind.endswith("suspends"))
                yield one(index)

        iterator = impl.as_completed(map(one, range(40)) if kind == "generator" else asynchronous(), limit=limit)
        results = []
        async for task in iterator:
            handed_over += 1
            results.append(task.result())
            await idle(60 if len(results) in (3, 11) else len(results) % 3)
            if len(results) in (3, 11):
                assert taken - handed_over == 2 * limit
                assert running.now == 0
        assert most == 2 * limit
        assert running.most == limit
        assert sorted(results) == list(range(40))

    run(main)


def test_with_a_gate_a_hundred_finished_ones_wait(impl):
    async def main():
        taken = 0

        def one(index):
            nonlocal taken
            taken += 1
            return value(index)

        async with impl.as_completed(map(one, range(500)), limit=asyncio.Semaphore(3)) as iterator:
            for handed_over in (1, 2):
                await anext(iterator)
                await idle(60)
                assert 100 <= taken - handed_over <= 102
                assert repr(iterator).endswith(f" {handed_over} done>")

    run(main)


def test_without_a_limit_there_is_no_bound(impl):
    async def main():
        doors = Doors(Trace())
        async with impl.as_completed(map(doors, range(500))) as iterator:
            consumer = asyncio.create_task(anext(iterator))
            await idle(3)
            assert len(doors.futures) == 500
            doors.open(range(500))
            await consumer

    run(main)


@pytest.mark.parametrize("limit", [2, None])
def test_an_endless_source_never_starves_the_loop(impl, limit):
    async def main():
        now, taken = 0.0, 0

        def clock():
            nonlocal now
            now += 0.0001
            return now

        def source():
            nonlocal taken
            while True:
                taken += 1
                assert taken < 10_000, "the loop does not get a turn"
                yield value(taken)

        impl._set_clock(clock)
        iterator = impl.as_completed(source(), limit=limit)
        assert (await anext(iterator)).result() == 1
        await idle(10)
        assert taken < 10_000
        await iterator.aclose()

    run(main)


TURNS = {
    "generator": ["", "?a +a ?b +b", "-a ?c +c", "-c ?d +d -b", "-d =a =c ?e +e end", "-e =b =d", "", "=e over"],
    "async generator": ["", "?a +a ?b +b", "-a ?c +c", "-c ?d +d -b", "-d =a =c ?e +e end", "-e =b =d", "", "=e over"],
}


@asked_in_place
@pytest.mark.parametrize("kind", TURNS)
def test_lazily_who_asks_has_started_what_has_room(impl, kind):
    async def main():
        trace = Trace()
        make = made if kind == "generator" else made_async
        trace.start()
        await loop_async(trace, impl.as_completed(make(trace, "a1 b2 c1 d1 e1"), limit=2))
        trace.stop()
        return trace.turns

    assert run(main) == TURNS[kind]


# Where its code runs


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_drawn_lazily_runs_in_one_context_and_an_async_iterable_in_one_task(impl, asynchronous):
    async def main():
        VARIABLE.set("the first step's")
        seen, tasks = [], set()

        async def runs(index):
            assert VARIABLE.get() == "the first step's"
            VARIABLE.set("an item's")
            return index

        def source():
            try:
                for index in itertools.count():
                    seen.append(VARIABLE.get())
                    VARIABLE.set(index)
                    yield runs(index)
            finally:
                seen.append(VARIABLE.get())

        async def async_source():
            elements = source()
            try:
                for element in elements:
                    tasks.add(asyncio.current_task())
                    await asyncio.sleep(0)
                    yield element
            finally:
                elements.close()
                tasks.add(asyncio.current_task())

        async with impl.as_completed(async_source() if asynchronous else source(), limit=1) as iterator:
            for _ in range(3):
                await anext(iterator)
                VARIABLE.set("the consumer's")
        assert seen == ["the first step's", *range(len(seen) - 1)]
        assert len(tasks) == asynchronous

    run(main)


def test_streams_and_others_of_its_kind_are_async_iterables_to_it(impl):
    class Awaitable:
        def __init__(self, does, word):
            self.make = functools.partial(does, word)

        def __await__(self):
            return self.make().__await__()

    async def main():
        trace = Trace()

        async def makes(word):
            return Awaitable(doing(trace), word)

        stream = impl.amap(makes, drawn(trace, "a b c d e f g h i"), limit=1)
        inner = impl.as_completed(stream, limit=1)  # gives Tasks
        outer = impl.as_completed(inner, limit=1)
        async for future in outer:
            trace(f"={came_to(future)}")
            if future.result() == "c":
                break
        await outer.aclose()
        assert await anext(inner, "over") == await anext(stream, "over") == "over"
        assert "?i" not in trace.events and "close" in trace.events
        return " ".join(event for event in trace.events if event[0] == "=")

    assert run(main) == "=a =b =c"
