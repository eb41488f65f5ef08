"""Items are shown as awaited by the caller exactly as long as that waits for them (3.14+)."""

import asyncio
import gc
import random
import sys
import weakref

import pytest

from contract_tools import HAS_CALL_GRAPH, idle, run

pytestmark = [
    pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14"),
    pytest.mark.usefixtures("any_turns"),
]


def awaiters(future):
    """Who is shown as awaiting it, by name."""
    return sorted(task.get_name() for task in future._asyncio_awaited_by or ())


class Edges:
    """The edges whose awaiter is a caller: each that is added must be discarded, once, or go with the Future. Those of asyncio's own
    functions do not count."""

    def __init__(self, monkeypatch):
        self.there = set()
        self.callers = weakref.WeakSet()
        self.added = 0
        for name, note in (("add_to", self.add), ("discard_from", self.discard)):
            name = f"future_{name}_awaited_by"
            monkeypatch.setattr(asyncio.futures, name, self.noting(getattr(asyncio.futures, name), note))

    @staticmethod
    def noting(original, note):
        def function(future, awaiter):
            if sys._getframe(1).f_globals["__name__"] not in ("asyncio.tasks", "asyncio.taskgroups"):
                note(future, awaiter)
            return original(future, awaiter)

        return function

    def add(self, future, caller):
        assert caller not in (future._asyncio_awaited_by or ())
        self.there.add((id(future), id(caller)))
        self.callers.add(caller)
        self.added += 1

    def discard(self, future, caller):
        if caller in self.callers:  # else a Future that an item's Task awaited
            self.there.remove((id(future), id(caller)))

    def left(self):
        """What is shown as awaited by one of the callers, which are over."""
        gc.collect()
        futures = [op for op in gc.get_objects() if isinstance(op, asyncio.Future)]
        return [future for future in futures if self.callers.intersection(future._asyncio_awaited_by or ())]


@pytest.fixture
def edges(monkeypatch):
    edges = Edges(monkeypatch)
    yield edges
    assert edges.left() == []


class Watched:
    """Items that look, in each of their steps, who is shown as awaiting them."""

    def __init__(self):
        self.caller_waits = True
        self.over = False
        self.seen = []
        self.wrong = []

    def look(self, where):
        shown = "caller" in awaiters(asyncio.current_task())
        self.seen.append(where)
        # In between, when the call is over and the caller has yet to be told, nothing is said.
        if (shown and not self.caller_waits) or (not shown and not self.over):
            self.wrong.append(where)

    async def item(self, name, turns=3):
        for turn in range(turns):
            self.look((name, turn))
            await asyncio.sleep(0)
        self.look((name, turns))

    async def fails(self, turns=1):
        await self.item("fails", turns)
        self.over = True
        raise ValueError

    async def sleeps(self, name, cleanup=4):
        try:
            await self.item(name)
            await asyncio.get_running_loop().create_future()
        finally:
            self.over = True
            await self.item(f"{name}, cancelled", cleanup)


DOORS = {
    "gather_with_concurrency": lambda impl, items, limit, **options: impl.gather_with_concurrency(
        limit, *[item() for item in items]
    ),
    "gather": lambda impl, items, limit, **options: impl.gather(*[item() for item in items], limit=limit, **options),
    "gather, by a semaphore": lambda impl, items, limit, **options: impl.gather(
        *[item() for item in items], limit=asyncio.Semaphore(limit or 100), **options
    ),
    "run_all": lambda impl, items, limit, **options: impl.run_all(
        iter(items), limit=limit, **{"cancel_on_error": False, **options}
    ),
    "constrained_execution": lambda impl, items, limit, **options: impl.constrained_execution(items, limit),
}
LIMITS = [1, 2, None]
every_door = pytest.mark.parametrize("door", DOORS)
every_limit = pytest.mark.parametrize("limit", LIMITS)
stock_or_factory = pytest.mark.parametrize("factory", [False, True], ids=["stock", "factory"])


def set_factory(factory):
    if factory:
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)
        )


async def rest():
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def in_a_caller(watched, make_call, *, catch=ValueError):
    """Await the call in a Task named caller, which goes on when the call has ended."""

    async def caller():
        try:
            await make_call()
        except catch:
            pass
        watched.caller_waits = False
        await idle(3)

    task = asyncio.create_task(caller(), name="caller")
    await asyncio.wait([task])
    await task
    await rest()
    assert watched.wrong == []


@every_door
@every_limit
@stock_or_factory
@pytest.mark.parametrize("turns", [0, 1])
def test_what_runs_and_what_starts_after_the_first_error_is_awaited_by_nobody(impl, edges, door, limit, factory, turns):
    async def main():
        set_factory(factory)
        watched = Watched()
        items = [lambda: watched.item("a"), lambda: watched.fails(turns), *[lambda: watched.item("b")] * 4]
        await in_a_caller(watched, lambda: DOORS[door](impl, items, limit))
        assert watched.seen.count(("b", 3)) == 4

    run(main)
    assert edges.added > 0


@every_door
@every_limit
@stock_or_factory
def test_while_the_caller_waits_every_item_is_shown(impl, edges, door, limit, factory):
    async def main():
        set_factory(factory)
        watched = Watched()
        items = [lambda: watched.item("a", 0), *[lambda: watched.item("b")] * 5, lambda: watched.item("c", 0)]
        await in_a_caller(watched, lambda: DOORS[door](impl, items, limit))
        assert len(watched.seen) == 1 + 5 * 4 + 1

    run(main)
    assert edges.added > 0


@every_door
@every_limit
@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_a_cancelled_caller_is_shown_until_it_is_told(impl, edges, door, limit, end):
    async def main():
        watched = Watched()
        items = [lambda: watched.sleeps("a", 0), lambda: watched.sleeps("b"), lambda: watched.sleeps("c")]

        async def call():
            if end == "timeout":
                async with asyncio.timeout(0.01):
                    await DOORS[door](impl, items, limit)
            else:
                asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)
                await DOORS[door](impl, items, limit)

        await in_a_caller(watched, call, catch=(asyncio.CancelledError, TimeoutError))
        assert ("a, cancelled", 0) in watched.seen

    run(main)


@pytest.mark.parametrize("door", ["gather", "gather, by a semaphore", "run_all"])
@pytest.mark.parametrize("limit", [2, None])
def test_with_cancel_on_error_the_caller_waits_for_what_it_stops(impl, edges, door, limit):
    async def main():
        watched = Watched()
        items = [lambda: watched.sleeps("a", 3), lambda: watched.fails(5)]
        await in_a_caller(watched, lambda: DOORS[door](impl, items, limit, cancel_on_error=True))
        assert ("a, cancelled", 3) in watched.seen

    run(main)


@pytest.mark.parametrize("door", ["gather_with_concurrency", "run_all", "constrained_execution"])
@every_limit
@pytest.mark.parametrize("end", ["close", "throw", "drop"])
def test_what_cleans_up_after_a_call_that_was_given_up_is_awaited_by_nobody(impl, edges, door, limit, end):
    async def main():
        watched = Watched()
        items = [lambda: watched.sleeps("a"), lambda: watched.sleeps("b")]

        async def caller():
            call = DOORS[door](impl, items, limit)
            call.send(None)
            await idle(6)
            watched.caller_waits = False
            if end == "close":
                call.close()
            elif end == "throw":
                with pytest.raises(LookupError):
                    call.throw(LookupError())
            del call
            await idle(8)

        await asyncio.create_task(caller(), name="caller")
        await rest()
        assert ("a, cancelled", 4) in watched.seen
        assert watched.wrong == []

    run(main)


@every_limit
@pytest.mark.parametrize("outcome", ["result", "error"])
def test_what_starts_after_somebody_has_set_the_future_is_awaited_by_nobody(impl, edges, limit, outcome):
    async def main():
        watched = Watched()
        late = []

        async def item(name):
            if watched.over:
                late.append("caller" in awaiters(asyncio.current_task()))
            await idle(4)

        async def caller():
            call = impl.gather(*[item(name) for name in range(6)], limit=limit)
            await idle(2)
            if outcome == "result":
                call.set_result("set")
                assert await call == "set"
            else:
                call.set_exception(LookupError())
                with pytest.raises(LookupError):
                    await call
            watched.over = True
            await idle(3)

        await asyncio.create_task(caller(), name="caller")
        await rest()
        assert late == [False] * (6 - (limit or 6))

    run(main)


@every_door
@stock_or_factory
@pytest.mark.parametrize("turns", [0, 1])
def test_a_call_that_is_over_does_not_keep_its_caller_alive(impl, edges, door, factory, turns):
    async def main():
        set_factory(factory)
        gate = asyncio.get_running_loop().create_future()

        async def fails():
            await idle(turns)
            raise ValueError

        async def waits():
            await asyncio.shield(gate)

        async def caller():
            with pytest.raises(ValueError):
                await DOORS[door](impl, [fails, waits, waits, waits], 1)

        task = asyncio.create_task(caller())
        caller = weakref.ref(task)
        await task
        del task
        await idle(3)
        gc.collect()
        # A factory finds it as the current Task, as long as there is something to start.
        assert (caller() is None) != factory
        gate.set_result(None)
        await rest()
        gc.collect()
        assert caller() is None

    run(main)


def test_futures_without_a_limit_are_left_when_the_first_has_failed(impl, edges):
    async def main():
        loop = asyncio.get_running_loop()

        async def caller():
            futures = [loop.create_future() for _ in range(4)]
            futures[3].set_result("done")
            loop.call_soon(futures[1].set_exception, ValueError())
            call = impl.gather(*futures, asyncio.sleep(0))
            assert [awaiters(future) for future in futures[:3]] == [["caller"]] * 3
            assert awaiters(futures[3]) == []
            with pytest.raises(ValueError):
                await call
            assert [awaiters(future) for future in futures] == [[]] * 4
            futures[0].cancel()
            futures[2].set_result(None)

        await asyncio.create_task(caller(), name="caller")
        await rest()

    run(main)


@every_limit
def test_a_future_among_the_items_is_shown_under_the_item_s_task_only_while_the_caller_waits(impl, edges, limit):
    async def main():
        future = asyncio.get_running_loop().create_future()

        async def fails():
            await idle(2)
            raise ValueError

        async def caller():
            with pytest.raises(ValueError):
                await impl.gather_with_concurrency(limit and 2, future, fails())
            assert awaiters(future) == []
            future.set_result(None)

        await asyncio.create_task(caller(), name="caller")
        await rest()

    run(main)


@every_limit
def test_nested_calls_are_shown_item_by_item_and_let_go_of_one_by_one(impl, edges, limit):
    async def main():
        inner_awaiters = []

        async def leaf():
            await idle(2)
            (awaiter,) = asyncio.current_task()._asyncio_awaited_by
            inner_awaiters.append((awaiter.get_name(), awaiters(awaiter)))

        async def middle(name):
            asyncio.current_task().set_name(name)
            await impl.gather_with_concurrency(limit, leaf(), leaf())
            assert awaiters(asyncio.current_task()) == ["caller"]

        async def caller():
            await impl.gather(*map(middle, "ab"), limit=limit)

        await asyncio.create_task(caller(), name="caller")
        assert sorted(inner_awaiters) == [("a", ["caller"])] * 2 + [("b", ["caller"])] * 2

    run(main)


@every_limit
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_every_edge_is_gone_after_an_interrupt(impl, edges, limit, interrupt):
    async def stops():
        await asyncio.sleep(0)
        raise interrupt

    async def main():
        await impl.gather_with_concurrency(limit, asyncio.sleep(0), stops(), *[asyncio.sleep(10) for _ in range(4)])

    with pytest.raises(interrupt):
        asyncio.run(main())
    gc.collect()
    assert edges.added > 0


@every_limit
@pytest.mark.parametrize("door", ["gather_with_concurrency", "run_all"])
def test_a_call_that_is_dropped_with_its_loop_leaves_no_edge(impl, edges, door, limit):
    loop = asyncio.new_event_loop()
    tasks = []

    async def item():
        tasks.append(asyncio.current_task())
        await loop.create_future()

    call = None

    async def caller():
        nonlocal call
        call = DOORS[door](impl, [item, item], limit)
        call.send(None)
        await idle(3)

    loop.run_until_complete(caller())
    loop.close()
    assert [len(awaiters(task)) for task in tasks] == [1] * len(tasks)
    call.close()
    assert [awaiters(task) for task in tasks] == [[]] * len(tasks)
    call = None
    tasks.clear()


def test_random_endings_discard_every_edge_once(impl, edges):
    async def one(seed):
        choose = random.Random(seed)
        loop = asyncio.get_running_loop()

        def future():
            made = loop.create_future()
            loop.call_soon(lambda: made.done() or made.set_result(None))
            return made

        async def fails():
            await idle(choose.randrange(2))
            raise ValueError

        door = choose.choice(list(DOORS))
        makers = [lambda: idle(choose.randrange(3)), lambda: idle(5), fails]
        if door in ("gather", "gather_with_concurrency"):
            makers.append(future)
        items = [choose.choice(makers) for _ in range(choose.randrange(1, 8))]

        async def caller():
            await DOORS[door](impl, items, choose.choice(LIMITS), cancel_on_error=choose.random() < 0.5)

        task = asyncio.create_task(caller())
        if choose.random() < 0.5:
            await idle(choose.randrange(6))
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        await rest()

    async def main():
        for seed in range(300):
            await one(seed)

    run(main)
    assert edges.added > 300


async def looks_on(how, tasks):
    """What somebody does who sees how the current Task ends; nothing is left of it but what `tasks` holds."""
    task = asyncio.current_task()
    match how:
        case "holds it":
            tasks.append(lambda: task)
        case "watches it":
            tasks.append(weakref.ref(task, lambda _: None))
        case "is called with it":
            task.add_done_callback(lambda done: tasks.append(lambda: done))
        case "is called with it, by asyncio's own method":
            asyncio.Future.add_done_callback(task, lambda done: tasks.append(lambda: done))


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize(
    "how", ["holds it", "watches it", "is called with it", "is called with it, by asyncio's own method"]
)
@every_door
@every_limit
def test_a_task_whose_end_somebody_sees_is_not_shown_as_awaited_then(impl, door, limit, how, suspends):
    shown = []

    async def main():
        tasks = []

        async def item():
            await looks_on(how, tasks)
            if suspends:
                await asyncio.sleep(0)

        async def last():
            for _ in range(10):
                await asyncio.sleep(0)
                for task in filter(None, [get() for get in tasks]):
                    if task.done():
                        shown.append(awaiters(task))
                task = None

        await DOORS[door](impl, [last, *[item] * 3], limit and max(limit, 2))
        assert len(tasks) == 3

    run(main)
    assert all(who == [] for who in shown), shown
    assert shown or how == "watches it"


@pytest.mark.parametrize("then", ["within a pass", "outside of any"])
def test_a_task_whose_item_somebody_steps_to_its_end_is_not_shown_as_awaited(impl, edges, then):
    """Who steps it by hand has neither its last reference nor the right to one; the Task finds its coroutine closed, later."""

    class Item:
        def __await__(self):
            tasks.append(asyncio.current_task())
            yield

    async def steps_it():
        if then == "outside of any":
            await asyncio.sleep(0)
        with pytest.raises(StopIteration):
            tasks[0].get_coro().send(None)
        edges.callers.add(caller)
        assert awaiters(tasks[0]) == []

    async def call():
        await impl.gather_with_concurrency(3, Item(), steps_it(), asyncio.sleep(0), asyncio.sleep(0))

    async def main():
        nonlocal caller
        caller = asyncio.create_task(call())
        await asyncio.wait([caller])
        assert tasks[0].done() or await asyncio.wait(tasks)
        assert awaiters(tasks[0]) == []

    tasks = []
    caller = None
    run(main)
    caller.exception()
