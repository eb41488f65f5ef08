"""as_completed: Futures and Tasks of the caller's are watched, hold a slot, are never cancelled, and come back as themselves."""

import asyncio
import gc

import pytest

from contract_tools import HAS_CALL_GRAPH, Trace, idle, item
from stream_tools import Doors, came_to, coroutines, loop_async, loop_plain, run

NO_TASK_IS_REUSED = True

LAZILY = pytest.mark.parametrize("lazily", [False, True], ids=["whole", "lazily"])
EACH_LIMIT = pytest.mark.parametrize("limit", [1, 2, None, asyncio.Semaphore], ids=["1", "2", "None", "gate"])


def limit_of_call(limit, slots=2):
    return limit(slots) if callable(limit) else limit


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


def new_future():
    return asyncio.get_running_loop().create_future()


def is_let_go(future):
    """Nobody has a callback on it."""
    return not future._callbacks


class Gate:
    """Says who enters and leaves."""

    def __init__(self, trace, refuses=()):
        self.trace, self.refuses = trace, refuses

    async def __aenter__(self):
        self.trace("enter")
        if "enter" in self.refuses:
            raise ValueError("refused")

    async def __aexit__(self, *error):
        self.trace(f"exit {error[0]}")
        if "exit" in self.refuses:
            raise ValueError("refused")


def all_kinds():
    """One of each kind, and how they end."""
    done, failed, gone, pending, failing, going = (new_future() for _ in range(6))
    done.set_result("done")
    failed.set_exception(ValueError("failed"))
    gone.cancel()
    loop = asyncio.get_running_loop()
    loop.call_later(1, pending.set_result, "pending")
    loop.call_later(2, failing.set_exception, ValueError("failing"))
    loop.call_later(3, going.cancel)
    task = asyncio.create_task(item(Trace(), "task", 2))
    return [done, failed, gone, task, pending, failing, going]


OUTCOMES = "done ValueError(failed) CancelledError() task pending ValueError(failing) CancelledError()".split()


@EACH_LIMIT
@LAZILY
def test_they_come_back_as_themselves_whatever_they_come_to(impl, limit, lazily):
    async def main():
        futures = all_kinds()
        given = []
        async for future in impl.as_completed(iter(futures) if lazily else futures, limit=limit_of_call(limit)):
            given.append(future)
        assert list(map(id, given)) == list(map(id, futures))
        assert list(map(came_to, given)) == OUTCOMES
        assert all(map(is_let_go, given))
        trace = Trace()
        futures = all_kinds()
        await loop_plain(trace, impl.as_completed(iter(futures) if lazily else futures, limit=limit_of_call(limit)))
        assert trace.events == [*(f"={outcome}" for outcome in OUTCOMES), "over"]

    run(main)


@pytest.mark.parametrize("limit", [2, None])
@LAZILY
def test_none_of_them_needs_a_task_and_all_count_as_running(impl, limit, lazily):
    async def main():
        futures = [new_future() for _ in range(2)]
        iterator = impl.as_completed(iter(futures) if lazily else futures, limit=limit)
        asking = asyncio.create_task(anext(iterator))
        await idle(5)
        # Unless it is known that no more will come, one stands for the queue.
        assert len(other_tasks() - {asking}) == (lazily and limit is not None)
        assert repr(iterator) == "<gatedcoro.AsCompleted: 2 running, 0 waiting, 0 done>"
        futures[1].set_result("last")
        assert await asking is futures[1]
        assert repr(iterator) == "<gatedcoro.AsCompleted: 1 running, 0 waiting, 1 done>"
        futures[0].set_result("first")
        assert [future async for future in iterator] == futures[:1]

    run(main)


@LAZILY
@pytest.mark.parametrize("gate", [False, True])
def test_one_that_is_not_done_holds_a_slot(impl, lazily, gate, any_turns):
    async def main():
        trace = Trace()
        future = new_future()
        aws = [*coroutines(trace, "a~"), future, *coroutines(trace, "b c")]
        limit = asyncio.Semaphore(2) if gate else 2
        async with impl.as_completed(iter(aws) if lazily else aws, limit=limit) as iterator:
            asking = asyncio.create_task(loop_async(trace, iterator))
            await idle(9)
            trace("set")
            future.set_result("f")
            await idle(9)
            trace("leaves")
        await asking
        events = trace.events
        assert events[:2] == ["+a", "set"] and events[-4:] == ["leaves", "over", "xa", "-a"]
        assert events.index("set") < events.index("+b") < events.index("-b") < events.index("+c")
        assert [event for event in events if event[0] == "="] == ["=f", "=b", "=c"]

    run(main)


@EACH_LIMIT
def test_a_slot_is_free_when_it_is_done_whether_or_not_it_has_been_fetched(impl, limit, any_turns):
    async def main():
        trace = Trace()
        futures = [new_future() for _ in range(2)]
        asked = next(impl.as_completed([*futures, *coroutines(trace, "a b c")], limit=limit_of_call(limit)))
        await idle(5)
        trace("set")
        for future in futures:
            future.set_result(None)
            await idle(5)
        asked.close()
        return trace.events

    events = run(main)
    assert sorted(events) == ["+a", "+b", "+c", "-a", "-b", "-c", "set"]
    assert events[0] == "set" or limit is None


@LAZILY
@pytest.mark.parametrize(("limit", "expected"), [(1, "=f =g"), (2, "=g =f"), (None, "=g =f")])
def test_with_a_limit_only_what_holds_a_slot_comes_in_the_order_of_completion(impl, limit, expected, lazily):
    async def main():
        trace = Trace()
        f, g = new_future(), new_future()
        iterator = impl.as_completed(iter([f, g]) if lazily else [f, g], limit=limit)
        asking = asyncio.create_task(loop_async(trace, iterator))
        await idle(3)
        g.set_result("g")
        await idle(5)
        f.set_result("f")
        await asking
        return " ".join(trace.events)

    assert run(main) == f"{expected} over"


@pytest.mark.parametrize("limit", [1, 2, None])
@LAZILY
def test_many_that_are_done_take_their_turns(impl, limit, lazily):
    async def main():
        futures = [new_future() for _ in range(2000)]
        for future in futures:
            future.set_result(None)
        given = [one async for one in impl.as_completed(iter(futures) if lazily else futures, limit=limit)]
        assert all(one is other for one, other in zip(given, futures, strict=True))

    run(main)


# Never cancelled


async def is_closed(iterator):
    asking = asyncio.create_task(anext(iterator))
    await idle(5)
    closing = asyncio.create_task(iterator.aclose())
    with pytest.raises(StopAsyncIteration):
        await asking
    await closing


async def is_left(iterator):
    async with iterator:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(iterator), 1)


async def is_cancelled_in_a_block(iterator):
    async def consumes():
        async with iterator:
            await anext(iterator)

    consumer = asyncio.create_task(consumes())
    await idle(5)
    consumer.cancel()
    await asyncio.wait([consumer])


async def times_out(iterator):
    with pytest.raises(TimeoutError):
        await anext(iterator)


@pytest.mark.parametrize("end", [is_closed, is_left, is_cancelled_in_a_block, times_out], ids=lambda end: end.__name__)
@EACH_LIMIT
@LAZILY
def test_however_it_ends_they_go_on_and_are_let_go(impl, limit, lazily, end):
    async def main():
        futures = [new_future() for _ in range(3)]
        opens = new_future()
        task = asyncio.create_task(waits(opens))
        aws = [futures[0], task, *futures[1:]]
        iterator = impl.as_completed(iter(aws) if lazily else aws, limit=limit_of_call(limit), timeout=5)
        await end(iterator)
        assert not any(future.done() for future in [*futures, task])
        assert all(map(is_let_go, [*futures, task]))
        assert task.cancelling() == 0
        await idle(3)
        assert other_tasks() == {task}
        for future in [*futures, opens]:
            future.set_result("mine")
        assert await task == "mine"
        assert await anext(iterator, "over") == "over"

    async def waits(future):
        return await future

    run(main)


@EACH_LIMIT
@LAZILY
def test_dropped_it_lets_go_of_them(impl, limit, lazily):
    async def main():
        futures = [new_future() for _ in range(3)]
        iterator = impl.as_completed(iter(futures) if lazily else futures, limit=limit_of_call(limit))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(iterator), 1)
        del iterator
        if limit is not asyncio.Semaphore:
            assert all(map(is_let_go, futures))
        await idle(3)
        assert all(map(is_let_go, futures))
        assert not any(future.done() for future in futures)
        assert other_tasks() == set()

    run(main)


@EACH_LIMIT
@pytest.mark.parametrize("handed_over", [True, False])
def test_their_errors_are_retrieved_by_the_caller_or_reported_by_asyncio(impl, limit, handed_over):
    reports = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context["message"]))
        futures = [new_future() for _ in range(2)]
        iterator = impl.as_completed(futures, limit=limit_of_call(limit))
        asking = asyncio.create_task(anext(iterator))
        await idle(3)
        futures[0].set_result("handed over")
        assert await asking is futures[0]
        futures[1].set_exception(ValueError("theirs"))
        await idle(5)
        if handed_over:
            assert await anext(iterator) is futures[1]
        await iterator.aclose()

    with asyncio.Runner() as runner:
        runner.run(main())
        gc.collect()
    assert reports == ["Future exception was never retrieved"]


# Behind a gate


def test_behind_a_gate_a_task_of_its_own_waits_for_it(impl):
    async def main():
        trace = Trace()
        future, done = new_future(), new_future()
        done.set_result("d")
        iterator = impl.as_completed([future, done], limit=Gate(trace))
        asking = asyncio.create_task(loop_async(trace, iterator))
        await idle(9)
        future.set_exception(ValueError("f"))
        await asking
        return " ".join(trace.events)

    # The error is the Future's, not that of a body that the gate is around.
    assert run(main) == "enter enter exit None =d exit None =ValueError(f) over"


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_an_error_of_the_gate_is_that_of_a_task_in_its_place(impl, when):
    async def main():
        future = new_future()
        future.set_result("f")
        (given,) = [given async for given in impl.as_completed([future], limit=Gate(Trace(), [when]))]
        assert given is not future and isinstance(given, asyncio.Task)
        return came_to(given)

    assert run(main) == "ValueError(refused)"


def test_one_that_waits_at_the_gate_lets_go_at_once_and_holds_nothing(impl):
    async def main():
        gate = asyncio.Semaphore(1)
        futures = [new_future() for _ in range(3)]
        iterator = impl.as_completed(futures, limit=gate)
        asking = asyncio.create_task(anext(iterator))
        await idle(5)
        assert gate.locked()
        futures[1].set_result("not yet")
        await idle(5)
        assert not asking.done()
        futures[0].set_result("first")
        assert await asking is futures[0]
        assert await anext(iterator) is futures[1]
        await idle(3)
        await iterator.aclose()
        assert not gate.locked() and is_let_go(futures[2])

    run(main)


# Where there is no Task


@LAZILY
@pytest.mark.parametrize(
    "error", [ValueError("refused"), asyncio.CancelledError("refused")], ids=["error", "cancelled"]
)
def test_if_no_task_can_be_made_a_future_stands_for_it(impl, error, lazily):
    def factory(loop, coroutine, **options):
        if getattr(coroutine, "__name__", None) == "refused":
            coroutine.close()
            raise error
        return asyncio.Task(coroutine, loop=loop, **options)

    async def refused():
        raise AssertionError

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        aws = [*coroutines(trace, "a1"), refused(), *coroutines(trace, "b1")]
        given = [future async for future in impl.as_completed(iter(aws) if lazily else aws, limit=1)]
        assert all(asyncio.isfuture(future) and future.done() for future in given)
        return sorted(map(came_to, given))

    stands = "CancelledError()" if isinstance(error, asyncio.CancelledError) else "ValueError(refused)"
    assert run(main) == sorted([stands, "a", "b"])


# Among others


def test_twice_in_what_is_drawn_lazily_it_comes_back_twice(impl):
    async def main():
        future = new_future()
        trace = Trace()
        asking = asyncio.create_task(loop_async(trace, impl.as_completed(iter([future, future]), limit=1)))
        await idle(3)
        future.set_result("f")
        await asking
        return trace.events

    assert run(main) == ["=f", "=f", "over"]


def test_several_iterators_may_share_one(impl):
    async def main():
        doors = Doors(Trace())
        task = asyncio.create_task(doors("a"))
        iterators = [impl.as_completed([task], limit=limit) for limit in (1, None, asyncio.Semaphore(1))]
        asking = [asyncio.create_task(anext(iterator)) for iterator in iterators]
        async with impl.as_completed([task]) as left:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(left), 1)
        assert not task.done() and task.cancelling() == 0
        doors.open("a")
        assert [(await one) is task for one in asking] == [True] * 3
        assert [one async for one in impl.as_completed({task}, limit=5)] == [task]

    run(main)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
@pytest.mark.parametrize("loop", [loop_async, loop_plain])
@pytest.mark.parametrize("limit", [1, None])
@pytest.mark.parametrize("ends", ["done", "timeout", "left"])
def test_who_took_the_first_step_is_shown_as_awaiting_what_runs(impl, loop, limit, ends):
    """As asyncio's own shows it (3.14.10): until it is done, or let go."""

    def awaiters(future):
        return set(future._asyncio_awaited_by or ())

    async def main():
        seen = []

        async def looks():
            task = asyncio.current_task()
            await idle(1)
            seen.append((task, awaiters(task)))
            if ends != "done":
                await asyncio.sleep(3600)

        future = new_future()
        aws = [future, looks()] if limit is None else [looks(), future]
        iterator = impl.as_completed(aws, limit=limit, timeout=9 if ends == "timeout" else None)
        consumer = asyncio.create_task(loop(Trace(), iterator))
        await idle(5)
        ((task, shown),) = seen
        assert shown == {consumer}
        assert awaiters(future) == ({consumer} if limit is None or ends == "done" else set())
        if ends == "done":
            assert awaiters(task) == set()
            future.set_result(None)
        elif ends == "left":
            await iterator.aclose()
        await asyncio.wait([consumer])
        assert awaiters(future) == awaiters(task) == set()

    run(main)
