"""Several limits for one call: `limit=(10, gate, gate)`."""

import asyncio
import operator

import pytest

from contract_tools import HAS_EAGER_TASKS, Trace, idle, is_closed, run
from virtual_time import VirtualTimeLoop

ROW = "an integer, an async context manager, a tuple or list of these, or None"


async def collected(stream):
    return [result async for result in stream]


async def results_of(iterator):
    return [task.result() async for task in iterator]


def one_by_one(functions):
    return lambda name: functions[name]()


# Every function that has a limit, called with functions that return coroutines.
WAYS = {
    "gather": lambda impl, limit, functions: impl.gather(*[function() for function in functions], limit=limit),
    "run_all": lambda impl, limit, functions: impl.run_all(functions, limit=limit),
    "constrained_execution": lambda impl, limit, functions: impl.constrained_execution(functions, limit),
    "amap": lambda impl, limit, functions: collected(impl.amap(lambda function: function(), functions, limit=limit)),
    "await amap": lambda impl, limit, functions: impl.amap(lambda function: function(), iter(functions), limit=limit),
    "as_completed": lambda impl, limit, functions: results_of(
        impl.as_completed([function() for function in functions], limit=limit)
    ),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Gate:
    """A semaphore that says who enters and leaves it."""

    def __init__(self, trace, name, value=1, enters=None, leaves=None):
        self._trace, self._name = trace, name
        self._semaphore = asyncio.Semaphore(value)
        self._enters, self._leaves = enters, leaves

    async def __aenter__(self):
        await self._semaphore.acquire()
        self._trace(f"{self._name}(")
        if self._enters is not None:
            self._semaphore.release()
            raise self._enters

    async def __aexit__(self, kind, error, traceback):
        self._trace(f"){self._name}" + ("" if kind is None else f":{kind.__name__}"))
        self._semaphore.release()
        if isinstance(self._leaves, BaseException):
            raise self._leaves
        return self._leaves


def functions_of(trace, names, turns=1):
    def make(name):
        async def runs():
            trace(f"+{name}")
            await idle(turns)
            trace(f"-{name}")
            return name

        return runs

    return [make(name) for name in names]


class OwnTuple(tuple):
    pass


class OwnList(list):
    pass


@EACH_WAY
@pytest.mark.parametrize("kind", [tuple, list, OwnTuple, OwnList])
def test_each_item_holds_all_of_them_entered_in_order_and_left_in_reverse(impl, way, kind):
    async def main():
        trace = Trace()
        gates = [Gate(trace, name, value=9) for name in "xyz"]
        assert await way(impl, kind([gates[0], 1, *gates[1:]]), functions_of(trace, "ab")) == ["a", "b"]
        return " ".join(trace.events)

    assert run(main) == "x( y( z( +a -a )z )y )x x( y( z( +b -b )z )y )x"


@EACH_WAY
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_place_of_the_integer_does_not_matter(impl, way, place):
    async def main():
        trace = Trace()
        row = [Gate(trace, "x", value=9), Gate(trace, "y", value=9)]
        row.insert(place, 2)
        await way(impl, row, functions_of(trace, "abc", turns=3))
        inside = most = 0
        for event in trace.events:
            inside += {"y(": 1, ")y": -1}.get(event, 0)
            most = max(most, inside)
        return most

    assert run(main) == 2


@EACH_WAY
def test_at_most_one_item_waits_for_the_gates(impl, way):
    """It may hold some of them already; the integer counts it, too."""

    async def main():
        trace = Trace()
        await way(impl, [Gate(trace, "x", value=9), Gate(trace, "y", value=1)], functions_of(trace, "abc"))
        unlimited = " ".join(trace.events)
        trace = Trace()
        await way(impl, [Gate(trace, "x", value=9), Gate(trace, "y", value=1), 1], functions_of(trace, "abc"))
        return unlimited, " ".join(trace.events)

    assert run(main) == (
        "x( y( +a x( -a )y )x y( +b x( -b )y )x y( +c -c )y )x",
        "x( y( +a -a )y )x x( y( +b -b )y )x x( y( +c -c )y )x",
    )


@EACH_WAY
@pytest.mark.parametrize(
    "row", [lambda gate: (gate,), lambda gate: [gate, 5], lambda gate: [5], lambda gate: (5, gate)]
)
def test_a_row_of_one_or_two(impl, way, row):
    async def main():
        trace = Trace()
        gate = asyncio.Semaphore(2)
        assert await way(impl, row(gate), functions_of(trace, "abcdef")) == [*"abcdef"]
        assert gate._value == 2
        return trace.events[:6]

    one_gate = ["+a", "+b", "-a"]
    assert run(main)[:3] in (one_gate, ["+a", "+b", "+c"])


@EACH_WAY
def test_it_is_the_row_that_was_given_in_the_call_whatever_becomes_of_the_list(impl, way):
    async def main():
        trace = Trace()
        row = [Gate(trace, "x", value=1), 1]

        async def spoils():
            row.clear()
            trace("+a")
            return "a"

        assert await way(impl, row, [spoils, *functions_of(trace, "b")]) == ["a", "b"]
        return " ".join(trace.events)

    assert run(main) == "x( +a )x x( +b -b )x"


@EACH_WAY
@pytest.mark.parametrize("at", [0, 1])
def test_what_a_gate_raises_on_entering_is_the_items_error_and_the_others_are_left(impl, way, at):
    async def main():
        trace = Trace()
        row = [Gate(trace, name, value=9, enters=ValueError(name) if at == i else None) for i, name in enumerate("xy")]
        with pytest.raises(ValueError, match="^[xy]$"):
            await way(impl, row, functions_of(trace, "a"))
        return " ".join(trace.events)

    assert run(main) == ("x(", "x( y( )x:ValueError")[at]


@EACH_WAY
def test_a_gate_may_suppress_the_error_and_one_further_out_does_not_hear_of_it(impl, way):
    async def fails():
        raise ValueError("a")

    async def main():
        trace = Trace()
        assert await way(impl, (Gate(trace, "x"), Gate(trace, "y", leaves=True)), [fails]) == [None]
        return " ".join(trace.events)

    assert run(main) == "x( y( )y:ValueError )x"


@EACH_WAY
def test_what_a_gate_raises_on_leaving_goes_through_those_further_out(impl, way):
    async def main():
        trace = Trace()
        row = Gate(trace, "x"), Gate(trace, "y", leaves=KeyError("y"))
        with pytest.raises(KeyError):
            await way(impl, row, functions_of(trace, "a"))
        return " ".join(trace.events)

    assert run(main) == "x( y( +a -a )y )x:KeyError"


@EACH_WAY
@pytest.mark.parametrize("turns", range(1, 6))
def test_cancelled_at_any_time_no_slot_is_lost_and_nothing_runs_on(impl, way, turns):
    async def main():
        trace = Trace()
        gates = [asyncio.Semaphore(2), asyncio.Lock(), asyncio.Semaphore(1)]
        task = asyncio.ensure_future(way(impl, [*gates, 3], functions_of(trace, "abcde", turns=3)))
        await idle(turns)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(5)
        del task
        for gate in gates:  # asyncio's own know
            assert not gate.locked()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@EACH_WAY
def test_one_that_waits_for_the_second_gate_is_cancelled_with_the_others(impl, way):
    async def main():
        first, second = asyncio.Semaphore(5), asyncio.Semaphore(1)
        await second.acquire()
        trace = Trace()
        task = asyncio.ensure_future(way(impl, (first, second), functions_of(trace, "ab")))
        await idle(5)
        assert first._value == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(5)  # of a stream nobody waits for what it has cancelled
        assert (first._value, second._value, trace.events) == (5, 0, [])

    run(main)


def test_an_ordered_window_counts_by_the_integer(impl):
    async def main():
        drawn = []

        def numbers():
            for number in range(100):
                drawn.append(number)
                yield number

        async def same(number):
            return number

        most = {}
        for limit in (3, asyncio.Semaphore(50)), (asyncio.Semaphore(50), asyncio.Semaphore(50)):
            drawn.clear()
            async with impl.amap(same, numbers(), limit=limit, buffersize=4) as stream:
                await anext(stream)
                await idle(50)
            most[len(most)] = len(drawn)
        return most

    assert run(main) == {0: 1 + 3 + 4, 1: 1 + 5}


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ((), ValueError, "^limit must have at least one limit in its row, or be None for no limit, not \\(\\)$"),
        ([], ValueError, "not \\[\\]$"),
        ((0,), ValueError, "^limit must be at least 1, or None for no limit, not 0$"),
        ((-5, asyncio.Semaphore(1)), ValueError, "not -5$"),
        ((None,), TypeError, r"^limit\[0\] must be an integer or an async context manager, not None \(NoneType\)$"),
        ((asyncio.Semaphore(1), None), TypeError, r"^limit\[1\] must be .*, not None"),
        (
            (1, 2),
            TypeError,
            r"^limit\[1\] must be an async context manager, not 2: there is an integer in the row already$",
        ),
        ([1, asyncio.Semaphore(1), True], TypeError, r"^limit\[2\] must be .*, not True: "),
        (("3",), TypeError, r"^limit\[0\] must be .*, not '3' \(str\)$"),
        ((asyncio.Semaphore,), TypeError, r"^limit\[0\] must be .*, not <class "),
        (((1,),), TypeError, r"^limit\[0\] must be .*, not \(1,\) \(tuple\)$"),
        ({1, 2}, TypeError, f"^limit must be {ROW}, not "),
    ],
)
def test_a_bad_row_is_refused_before_anything_starts(impl, row, kind, said):
    async def same(x):
        return x

    async def main():
        coroutine = same(1)
        with pytest.raises(kind, match=said):
            impl.gather(coroutine, limit=row)
        assert is_closed(coroutine)
        with pytest.raises(kind, match=said):
            await impl.run_all([], limit=row)
        with pytest.raises(kind, match=said.replace("limit", "max_runs", 1) if said.startswith("^limit") else said):
            await impl.constrained_execution([], row)
        with pytest.raises(kind, match=said):
            impl.amap(same, [], limit=row)
        with pytest.raises(kind, match=said):
            impl.as_completed([], limit=row)

    run(main)


def test_what_is_a_tuple_and_a_gate_is_a_gate(impl):
    class Both(tuple):
        async def __aenter__(self):
            trace("(")

        async def __aexit__(self, *error):
            trace(")")

    trace = Trace()

    async def main():
        assert await impl.run_all(functions_of(trace, "a"), limit=Both()) == ["a"]
        return trace.events

    assert run(main) == ["(", "+a", "-a", ")"]


def test_without_a_limit_for_gather_with_concurrency(impl):
    """LangChain's n is an integer."""

    async def main():
        with pytest.raises(TypeError, match="^n must be an integer or None, not "):
            await impl.gather_with_concurrency((1,))

    run(main)


def test_the_task_of_an_item_behind_gates_shows_the_users_coroutine(impl):
    async def main():
        async def item():
            await idle(1)
            return asyncio.current_task().get_coro()

        coroutine = item()
        gates = [asyncio.Semaphore(1) for _ in range(3)]
        assert (await impl.gather(coroutine, limit=gates)) == [coroutine]

    run(main)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="Tasks can begin at once from 3.12 on")
@pytest.mark.parametrize(
    ("row", "events"),
    [
        (lambda first, second: 1, "+a -a"),
        (lambda first, second: first, "x( +a )x:CancelledError"),
        (lambda first, second: [3, first, second], "x( y( +a )y:CancelledError )x:CancelledError"),
    ],
)
def test_cancelled_while_its_task_is_made_an_item_neither_begins_nor_enters_a_gate(impl, row, events):
    class Late(Gate):
        async def __aenter__(self):
            await idle(2 - len(made))
            await super().__aenter__()

    made = []

    async def main():
        trace = Trace()

        def factory(loop, coroutine, **options):
            if coroutine.__name__ == "runs":
                made.append(coroutine)
                if len(made) == 2:
                    call.cancel()
            return asyncio.Task(coroutine, loop=loop, eager_start=True, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        items = [make() for make in functions_of(trace, "ab", turns=5)]
        call = impl.gather(*items, limit=row(Late(trace, "x", value=9), Gate(trace, "y", value=9)))
        with pytest.raises(asyncio.CancelledError):
            await call
        asyncio.get_running_loop().set_task_factory(None)
        assert len(made) == 2 and all(map(is_closed, items))
        return " ".join(trace.events)

    assert run(main) == events


@pytest.mark.parametrize("way", ["gather", "run_all", "amap"])
@pytest.mark.parametrize("row", [lambda *gates: gates, lambda *gates: (1, *gates), lambda first, second: first])
def test_cancelled_before_its_first_step_an_item_leaves_its_place_at_the_gates_to_the_next_one(impl, way, row):
    tasks = []

    def factory(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        if coroutine.__name__ in ("runs", "call"):
            tasks.append(task)
            if len(tasks) == 1:
                task.cancel()
        return task

    async def main():
        trace = Trace()
        functions = functions_of(trace, "ab")
        options = {"limit": row(Gate(trace, "x"), Gate(trace, "y")), "return_exceptions": True}
        asyncio.get_running_loop().set_task_factory(factory)
        if way == "gather":
            results = await impl.gather(*[function() for function in functions], **options)
        elif way == "run_all":
            results = await impl.run_all(functions, **options)
        else:
            results = await collected(impl.amap(operator.call, functions, **options))
        assert [repr(result) for result in results] == ["CancelledError('')", "'b'"]
        assert [event for event in trace.events if event[0] in "+-"] == ["+b", "-b"]

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("at", [0, 1])
def test_an_item_that_a_gate_lets_in_in_spite_of_its_cancellation_runs(impl, at):
    class LetsIn:
        async def __aenter__(self):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                trace("lets in")

        async def __aexit__(self, *error):
            pass

    trace = Trace()

    async def main():
        row = [Gate(trace, "x")]
        row.insert(at, LetsIn())
        call = impl.gather(*[make() for make in functions_of(trace, "ab")], limit=row)
        await idle(2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return " ".join(trace.events)

    assert run(main) == ("lets in x( +a -a )x", "x( lets in +a -a )x")[at]


def test_closed_by_hand_at_the_second_gate_gives_back_the_slot_that_it_was_handed(impl):
    class Item:
        def __await__(self):
            yield

    class Remembers:
        async def __aenter__(self):
            tasks.append(asyncio.current_task())

        async def __aexit__(self, *error):
            pass

    tasks = []

    async def main():
        first, second = asyncio.Semaphore(2), asyncio.Semaphore(1)
        await second.acquire()
        call = impl.gather(Item(), Item(), limit=(Remembers(), first, second))
        await idle(3)
        second.release()
        tasks[0].get_coro().close()
        with pytest.raises(RuntimeError, match="already awaited"):
            await call
        await idle(3)
        assert (first._value, second._value) == (2, 1)

    run(main)
