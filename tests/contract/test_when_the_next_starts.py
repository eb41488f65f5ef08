"""When one item ends, the next starts in the same step if that one never suspended, otherwise in the next turn.

One pass then starts everything for which slots became free in a turn. Where nothing else runs there is nothing to collect. Turns
count as full here from the first end on; what a call does until they do, and where they do not, is in test_turns.py.
"""

import asyncio
import functools

import pytest

from contract_tools import HAS_EAGER_TASKS, WAYS, Trace, idle, item, run

pytestmark = pytest.mark.usefixtures("full_turns")


class Loop(asyncio.SelectorEventLoop):
    """Counts the callbacks by which gatherings have something done later."""

    passes = 0

    def call_soon(self, callback, *args, context=None):
        self.passes += type(getattr(callback, "__self__", None)).__name__ == "_Gathering"
        return super().call_soon(callback, *args, context=context)


def run_on_it(main):
    return run(main, loop_factory=Loop)


# {what: (limit, turns that each item takes, the trace, passes that are scheduled, the first included)}
CASES = {
    "none suspends": (2, [0, 0, 0, 0], ["", "+a -a +b -b +c -c +d -d"], 1),
    "one at a time": (1, [1, 1, 1], ["", "+a", "-a +b", "-b +c", "-c"], 1),
    "one at a time, some of which never suspend": (
        1,
        [0, 2, 0, 0, 1],
        ["", "+a -a +b", "", "-b +c -c +d -d +e", "-e"],
        1,
    ),
    "as many as there is room for": (3, [1, 0, 2], ["", "+a +b -b +c", "-a", "-c"], 1),
    "two of two end in one turn": (2, [1, 1, 1, 1], ["", "+a +b", "-a -b", "+c +d", "-c -d"], 2),
    "five of five end in one turn": (
        5,
        [1] * 12,
        ["", "+a +b +c +d +e", "-a -b -c -d -e", "+f +g +h +i +j", "-f -g -h -i -j", "+k +l", "-k -l"],
        3,
    ),
    "two of three end in one turn": (3, [1, 3, 1, 1, 1], ["", "+a +b +c", "-a -c", "+d +e", "-d -e -b"], 2),
    "two of two end in turns that follow each other": (2, [1, 2, 1, 1], ["", "+a +b", "-a", "+c -b", "-c +d", "-d"], 3),
    "the others have nobody queued behind them": (2, [1, 3, 1], ["", "+a +b", "-a", "+c", "-c -b"], 2),
    "one that never suspends among those that do": (
        2,
        [1, 1, 0, 1, 0, 1],
        ["", "+a +b", "-a -b", "+c -c +d +e -e +f", "-d -f"],
        2,
    ),
    "only such ones follow": (2, [1, 1, 0, 0, 0], ["", "+a +b", "-a -b", "+c -c +d -d +e -e"], 2),
    "the last that runs has the rest to itself": (2, [3, 1, 1, 1], ["", "+a +b", "-b", "+c", "-a -c", "+d", "-d"], 3),
}
NAMES = "abcdefghijkl"


@pytest.mark.parametrize("case", CASES)
def test_where_tasks_begin_when_they_are_made(impl, case):
    limit, turns, expected, passes = CASES[case]

    async def main():
        trace = Trace()
        trace.start()
        assert await impl.gather_with_concurrency(limit, *map(functools.partial(item, trace), NAMES, turns)) == [
            *NAMES[: len(turns)]
        ]
        trace.stop()
        return trace.turns, asyncio.get_running_loop().passes

    assert run_on_it(main) == (expected, passes)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_every_function_does_so(impl, way, case):
    limit, turns, expected, _ = CASES[case]

    async def main():
        trace = Trace()
        trace.start()
        functions = [functools.partial(item, trace, name, number) for name, number in zip(NAMES, turns)]
        assert await WAYS[way](impl, limit, functions) == [*NAMES[: len(turns)]]
        trace.stop()
        return trace.turns

    assert run_on_it(main) == expected


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="eager_task_factory is new in 3.12")
@pytest.mark.parametrize("case", CASES)
def test_so_do_tasks_that_an_eager_factory_makes(impl, case, debug):
    """Their making is the loop's business, so the first of them are made at once."""
    limit, turns, expected, passes = CASES[case]

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(limit, *map(functools.partial(item, trace), NAMES, turns))
        trace.stop()
        return trace.turns, asyncio.get_running_loop().passes

    assert run(main, loop_factory=Loop, debug=debug) == (expected[1:], passes - 1)


def name_of(coroutine):
    """What the item was given."""
    return coroutine.cr_frame.f_locals.get("name")


def making_factory(trace):
    """A task factory that says when it makes a Task, which begins in a turn of its own."""

    def factory(loop, coroutine, **options):
        if name_of(coroutine) is not None:
            trace(f"*{name_of(coroutine)}")
        return asyncio.Task(coroutine, loop=loop, **options)

    return factory


@pytest.mark.parametrize(
    "limit, turns, expected",
    [
        (2, [0] * 4, ["*a *b", "+a -a *c +b -b *d", "+c -c +d -d"]),
        (1, [1] * 3, ["*a", "+a", "-a *b", "+b", "-b *c", "+c", "-c"]),
        (2, [1] * 4, ["*a *b", "+a +b", "-a *c -b *d", "+c +d", "-c -d"]),
        (3, [1, 2, 1, 0, 1], ["*a *b *c", "+a +b +c", "-a *d -c *e", "+d -d -b +e", "-e"]),
    ],
)
def test_a_task_that_takes_a_turn_to_begin_is_made_in_the_step_that_frees_a_slot(impl, limit, turns, expected):
    async def main():
        trace = Trace()
        asyncio.get_running_loop().set_task_factory(making_factory(trace))
        trace.start()
        await impl.gather_with_concurrency(limit, *map(functools.partial(item, trace), NAMES, turns))
        trace.stop()
        return trace.turns, asyncio.get_running_loop().passes

    assert run_on_it(main) == (expected, 0)


def test_so_it_is_where_one_was_cancelled_before_it_began(impl):
    async def main():
        trace = Trace()
        make = making_factory(trace)

        def factory(loop, coroutine, **options):
            task = make(loop, coroutine, **options)
            if trace.events[-1] == "*a":
                loop.call_soon(trace, "x")
                task.cancel()
            return task

        asyncio.get_running_loop().set_task_factory(factory)
        trace.start()
        coroutines = map(functools.partial(item, trace), "abc")
        results = await impl.gather(*coroutines, limit=2, return_exceptions=True)
        trace.stop()
        assert isinstance(results[0], asyncio.CancelledError) and results[1:] == ["b", "c"]
        return trace.turns, asyncio.get_running_loop().passes

    assert run_on_it(main) == (["*a *b", "*c x +b", "+c -b", "-c"], 0)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="Tasks can begin at once from 3.12 on")
def test_an_item_that_ends_in_its_first_turn_beside_a_scheduled_pass_has_one_start_in_its_step(impl):
    async def main():
        trace = Trace()

        def factory(loop, coroutine, **options):
            return asyncio.Task(coroutine, loop=loop, eager_start=name_of(coroutine) in set("efpqrs"), **options)

        asyncio.get_running_loop().set_task_factory(factory)
        trace.start()
        items = {"e": 1, "f": 3, "l": 0, "p": 1, "q": 1, "r": 0, "s": 0}
        await impl.gather_with_concurrency(3, *map(functools.partial(item, trace), items, items.values()))
        trace.stop()
        return trace.turns, asyncio.get_running_loop().passes

    assert run_on_it(main) == (["+e +f", "-e +l -l +p", "+q -p", "-q -f +r -r +s -s"], 2)


async def ends_well():
    return "well"


async def ends_with_an_error():
    raise ValueError


async def ends_cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def ends_as_it_is_cancelled():
    asyncio.current_task().cancel()
    return "cancelled"


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("end", [ends_well, ends_with_an_error, ends_cancelled, ends_as_it_is_cancelled])
def test_however_the_item_ends(impl, end, turns):
    async def main():
        trace = Trace()

        async def ends(name):
            trace(f"+{name}")
            await idle(turns)
            trace(f"-{name}")
            return await end()

        trace.start()
        await impl.gather(*map(ends, "ab"), *map(functools.partial(item, trace), "cd"), limit=2, return_exceptions=True)
        trace.stop()
        return trace.turns

    turns_to_cancel = 1 if end is ends_cancelled else 0
    if turns + turns_to_cancel == 0:
        assert run_on_it(main) == ["", "+a -a +b -b +c +d", "-c -d"]
    elif turns == 0:
        assert run_on_it(main) == ["", "+a -a +b -b", "", "+c +d", "-c -d"]
    elif turns_to_cancel == 0:
        assert run_on_it(main) == ["", "+a +b", "-a -b", "+c +d", "-c -d"]
    else:
        assert run_on_it(main) == ["", "+a +b", "-a -b", "", "+c +d", "-c -d"]


def test_a_slot_that_frees_while_a_pass_is_under_way_is_taken_by_that_pass(impl):
    async def main():
        trace = Trace()
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def waits():
            trace("+w")
            await future
            trace("-w")

        async def has_the_loop_go_on():
            """Run the callbacks that are due, while this Task is in a step of its own."""
            trace("+n")
            future.set_result(None)
            task = asyncio.current_task()
            asyncio.tasks._leave_task(loop, task)
            while "-w" not in trace.events:
                loop._ready.popleft()._run()
            asyncio.tasks._enter_task(loop, task)
            trace("-n")

        trace.start()
        await impl.gather_with_concurrency(
            2, waits(), has_the_loop_go_on(), *map(functools.partial(item, trace), "abc")
        )
        trace.stop()
        return trace.events, loop.passes

    assert run_on_it(main) == (["+w", "+n", "-w", "-n", "+a", "+b", "-a", "-b", "+c", "-c"], 2)


class Gate:
    """Lets two in; says which item has gone in, and which goes out."""

    def __init__(self, trace):
        self.trace = trace
        self.inner = asyncio.Semaphore(2)
        self.names = {}

    async def __aenter__(self):
        await self.inner.acquire()
        task = asyncio.current_task()
        self.names[id(task)] = name_of(task.get_coro())
        self.trace(f"({self.names[id(task)]}")

    async def __aexit__(self, *error):
        self.trace(f"{self.names.pop(id(asyncio.current_task()))})")
        self.inner.release()


def test_a_gate_is_left_in_the_item_s_own_step(impl):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather(*map(functools.partial(item, trace), "abcd"), limit=Gate(trace))
        trace.stop()
        return trace.turns

    # An item that has gone in says that the next one may wait for the gate, in a pass of the turn after.
    assert run_on_it(main) == ["", "(a +a (b +b", "-a a) -b b)", "(c +c", "(d +d -c c)", "-d d)"]


def test_an_outcome_is_there_at_once(impl):
    """The caller learns of it in the next turn, before what starts there."""

    async def main():
        trace = Trace()

        async def fails():
            await asyncio.sleep(0)
            trace("!")
            raise ValueError

        trace.start()
        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(2, fails(), *map(functools.partial(item, trace), "ab"))
        trace("caught")
        await idle(3)
        trace.stop()
        return trace.turns

    assert run_on_it(main) == ["", "+a", "! -a", "caught +b", "-b"]


@pytest.mark.parametrize("limit", [1, 2])
def test_the_next_starts_before_the_callbacks_of_the_task_of_the_one_that_ended(impl, limit):
    async def main():
        trace = Trace()

        async def watched(name):
            asyncio.current_task().add_done_callback(lambda task: trace(f"{task.result()}!"))
            return await item(trace, name)

        trace.start()
        await impl.gather_with_concurrency(limit, *map(watched, "abc"))
        await idle(1)
        trace.stop()
        return trace.turns

    if limit == 1:
        assert run_on_it(main) == ["", "+a", "-a +b", "-b +c a!", "-c b!", "c!"]
    else:
        assert run_on_it(main) == ["", "+a +b", "-a -b", "+c a! b!", "-c", "c!"]


@pytest.mark.parametrize("what, name", [("the caller is cancelled", "a"), ("an error", "b")])
def test_nothing_starts_if_the_call_ends_before_that_turn(impl, what, name):
    async def main():
        trace = Trace()

        async def may_end_the_call(own_name):
            await item(trace, own_name)
            if own_name == name and what == "an error":
                raise ValueError
            if own_name == name:
                asyncio.get_running_loop().call_soon(caller.cancel)  # before the pass

        trace.start()
        items = [may_end_the_call("a"), may_end_the_call("b"), item(trace, "c", 5), item(trace, "d")]
        caller = asyncio.ensure_future(impl.run_all([lambda item=item: item for item in items], limit=3))
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await caller
        trace.stop()
        items[-1].close()
        return trace.turns

    assert run_on_it(main) == ["", "", "+a +b +c", "-a -b"]
