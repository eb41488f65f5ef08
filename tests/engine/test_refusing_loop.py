"""An event loop whose methods fail, once, at any place: the call ends, with the right results or with that error.

Every scenario runs again and again, with the first call of a method failing, then the second, until one run does not get as
far. What fails are the calls that the engine makes: to have its own work done later, to make its Tasks, to know the loop. (A
Future or Task of asyncio's whose call_soon() fails is lost, with asyncio.gather as well.) Afterwards nothing is left behind: no
Task, no coroutine that was not closed, no report but of that error.
"""

import asyncio
import gc
import itertools
import sys

import pytest

from contract_tools import Trace, idle, is_closed, item
from virtual_time import DeadlockError, VirtualTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")


class Refused(Exception):
    pass


def is_of_the_engine(callback):
    """Is it a pass, the closing of the queue, or a step of a keeper?"""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return "_Keeper" in (type(owner).__name__, type(owner.get_coro()).__name__)
    return type(owner).__name__ in ("_Gathering", "_Waiter")


class Loop(VirtualTimeLoop):
    """Fails the call number `fails_at` of `method`, once, from when it is told to."""

    method = None
    fails_at = None
    made = 0

    def count(self, method):
        if method != self.method:
            return
        caller = sys._getframe(2).f_code
        if caller.co_name != "_run" and "asyncio" in caller.co_filename:
            return  # asyncio's own question
        self.made += 1
        if self.made - 1 == self.fails_at:
            raise Refused(method)

    def call_soon(self, callback, *args, context=None):
        if is_of_the_engine(callback):
            self.count("call_soon")
        return super().call_soon(callback, *args, context=context)

    def call_later(self, delay, callback, *args, context=None):
        self.count("call_later")
        return super().call_later(delay, callback, *args, context=context)

    def get_debug(self):
        self.count("get_debug")
        return super().get_debug()

    def get_task_factory(self):
        self.count("get_task_factory")
        return super().get_task_factory()

    def is_closed(self):
        self.count("is_closed")
        return super().is_closed()

    def is_running(self):
        self.count("is_running")
        return super().is_running()


class MakingLoop(Loop):
    """A loop with a create_task() of its own: Tasks of its making are used."""

    def create_task(self, coro, **options):
        if type(coro).__name__ in ("Worker", "_Worker"):
            self.count("create_task")
        return super().create_task(coro, **options)


class Clock:
    """Each reading is a slice later: every pass starts one item, and closing the queue takes many turns."""

    now = 0.0

    def __call__(self):
        self.now += 0.0011
        return self.now


async def returns(value):
    return value


async def fails(turns):
    await idle(turns)
    raise ValueError("expected")


async def waits():
    await asyncio.get_running_loop().create_future()


def coros_of(*coros):
    COROS.extend(coros)
    return coros


COROS = []


class Gate:
    async def __aenter__(self):
        pass

    async def __aexit__(self, *details):
        pass


async def cancelled(call, turns=2):
    task = asyncio.ensure_future(call)
    await idle(turns)
    task.cancel("enough")
    return await task


async def torn_down(call):
    """As asyncio.run() does it: every Task is cancelled, in no particular order."""
    task = asyncio.ensure_future(call)
    await idle(3)
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        try:
            other.cancel()
        except Refused:
            other.cancel()
    return await task


async def closed(coroutine):
    coroutine.send(None)
    await idle(2)
    coroutine.close()
    await idle(3)
    return "closed"


def generator(count):
    for index in range(count):
        yield lambda index=index: returns(index)


async def completed(iterator, count):
    """All results in their order; an error of the loop stands for what it has kept from being made."""
    values, errors = set(), []
    async with iterator:
        async for future in iterator:
            if future.exception():
                errors.append(future.exception())
            else:
                values.add(future.result())
    return [value if value in values else errors.pop() for value in range(count)]


async def completed_plainly(iterator, count):
    values, errors = set(), []
    async with iterator:
        for coroutine in iterator:
            try:
                values.add(await coroutine)
            except Refused as error:
                errors.append(error)
            except RuntimeError:  # there will be no more results
                raise errors.pop() from None
    return [value if value in values else errors.pop() for value in range(count)]


def made_items(count, turns):
    for index in range(count):
        yield coros_of(item(T(), index, index % turns, index))[0]


async def made_items_async(count, turns):
    items = made_items(count, turns)
    for _ in range(count):
        await idle(1)
        yield next(items)


T = Trace
COMPLETIONS = {
    "as_completed": lambda impl: completed(impl.as_completed([*made_items(6, 3)], limit=2, timeout=99), 6),
    "as_completed, time is up": lambda impl: completed(
        impl.as_completed([*made_items(3, 2), *coros_of(waits(), waits())], timeout=9), 5
    ),
    "as_completed, a plain loop": lambda impl: completed_plainly(
        impl.as_completed(made_items(5, 3), limit=1, timeout=99), 5
    ),
    "as_completed, lazily": lambda impl: completed(impl.as_completed(made_items(5, 2), limit=2), 5),
    "as_completed, async": lambda impl: completed(impl.as_completed(made_items_async(3, 2), limit=2), 3),
    "as_completed, a gate": lambda impl: completed(
        impl.as_completed([*made_items(4, 2)], limit=asyncio.Semaphore(2)), 4
    ),
}
SCENARIOS = {
    "no item suspends": lambda impl: impl.gather_with_concurrency(1, *coros_of(*map(returns, range(5)))),
    "items suspend": lambda impl: impl.gather_with_concurrency(2, *coros_of(*(item(T(), i, 2, i) for i in range(5)))),
    "both": lambda impl: impl.gather_with_concurrency(2, *coros_of(item(T(), 0, 3, 0), *map(returns, range(1, 6)))),
    "no limit": lambda impl: impl.gather_with_concurrency(None, *coros_of(*(item(T(), i, 2, i) for i in range(3)))),
    "a Future is returned": lambda impl: impl.gather(*coros_of(*map(returns, range(5))), limit=2),
    "a Future is returned, items suspend": lambda impl: impl.gather(
        *coros_of(*(item(T(), i, 2, i) for i in range(5))), limit=2
    ),
    "a gate": lambda impl: impl.gather(*coros_of(*(item(T(), i, 1, i) for i in range(4))), limit=Gate()),
    "a semaphore": lambda impl: impl.gather(
        *coros_of(*(item(T(), i, 1, i) for i in range(4))), limit=asyncio.Semaphore(2)
    ),
    "callables": lambda impl: impl.run_all([lambda i=i: returns(i) for i in range(5)], limit=1),
    "a generator of callables": lambda impl: impl.constrained_execution(generator(5), 2),
    "exceptions are returned": lambda impl: impl.gather(
        *coros_of(returns(0), fails(0), returns(2), fails(2), returns(4)), limit=1, return_exceptions=True
    ),
    "an error": lambda impl: impl.gather_with_concurrency(1, *coros_of(fails(1), *map(returns, range(4)))),
    "an error, and a Future": lambda impl: impl.gather(*coros_of(fails(1), *map(returns, range(4))), limit=2),
    "an error cancels": lambda impl: impl.gather(
        *coros_of(waits(), fails(1), *map(returns, range(6))), limit=2, cancel_on_error=True
    ),
    "the caller is cancelled": lambda impl: cancelled(
        impl.gather_with_concurrency(2, *coros_of(*(waits() for _ in range(6))))
    ),
    "the caller is cancelled, and a Future": lambda impl: cancelled(
        impl.gather(*coros_of(*(waits() for _ in range(6))), limit=2)
    ),
    "the call is closed": lambda impl: closed(impl.gather_with_concurrency(2, *coros_of(*(waits() for _ in range(6))))),
    "the program ends": lambda impl: torn_down(impl.gather(*coros_of(*(waits() for _ in range(6))), limit=2)),
    "nested": lambda impl: impl.gather_with_concurrency(
        1, *coros_of(*(impl.gather_with_concurrency(1, *coros_of(*map(returns, range(2)))) for _ in range(2)))
    ),
    **COMPLETIONS,
}


def attempt(impl, scenario, loop, method, fails_at):
    """Run the scenario; return its outcome, and whether the call of the method failed."""
    COROS.clear()
    impl._set_clock(Clock())
    reports, unraisable = [], []
    loop.set_exception_handler(lambda loop, context: reports.append(context.get("exception") or context))
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraisable.append(args.exc_value)

    async def main():
        loop.method, loop.fails_at = method, fails_at
        try:
            return await SCENARIOS[scenario](impl)
        except (Refused, ValueError, TimeoutError, asyncio.CancelledError) as error:
            return error
        finally:
            await idle(12)  # what goes on after an error
            loop.method = None

    asyncio.set_event_loop(loop)
    try:
        task = loop.create_task(main())
        try:
            outcome = loop.run_until_complete(task)
        except DeadlockError as error:
            outcome = error
            task.cancel()
        left = {task for task in asyncio.all_tasks(loop) if not task.done()}
        for other in left:
            other.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        gc.collect()
    finally:
        loop.close()
        asyncio.set_event_loop(None)
        sys.unraisablehook = hook
    failed = loop.made > fails_at
    assert not [error for error in unraisable if not isinstance(error, Refused)], unraisable
    assert not [error for error in reports if not isinstance(error, Refused)], reports
    assert all(map(is_closed, COROS)), (outcome, [coro for coro in COROS if not is_closed(coro)])
    return outcome, failed, left


def expected_of(impl, scenario, make_loop):
    outcome, _, left = attempt(impl, scenario, make_loop(), None, 0)
    assert not left, left
    return outcome


METHODS = ["call_soon", "get_debug", "get_task_factory", "is_closed", "is_running", "create_task"]


@pytest.mark.parametrize(
    ("method", "scenario"),
    [*itertools.product(METHODS, SCENARIOS), *(("call_later", scenario) for scenario in COMPLETIONS)],
)
def test_the_call_ends_with_its_results_or_that_error(impl, method, scenario):
    make_loop = MakingLoop if method == "create_task" else Loop
    expected = expected_of(impl, scenario, make_loop)
    for fails_at in itertools.count():
        outcome, failed, left = attempt(impl, scenario, make_loop(), method, fails_at)
        where = f"{method} number {fails_at}"
        if isinstance(outcome, list):
            # Where exceptions are returned, the error may be one of the results.
            right = [a for a, b in zip(outcome, expected, strict=True) if repr(a) == repr(b) or isinstance(a, Refused)]
            assert len(right) == len(expected), (where, outcome)
        else:
            assert repr(outcome) == repr(expected) or isinstance(outcome, Refused), (where, outcome)
        # After an error what runs goes on; cancelling it has ended it.
        assert not left or failed, (where, left)
        if not failed:
            assert repr(outcome) == repr(expected), where
            break
    if method == "call_soon":
        assert fails_at > 0


@pytest.mark.parametrize("limit", [1, 2, asyncio.Semaphore(1)])
def test_nothing_runs_when_the_next_slice_cannot_be_scheduled(impl, limit):
    """That error ends the call; what was queued is closed."""
    loop = Loop()
    coros = [returns(index) for index in range(9)]
    impl._set_clock(Clock())

    async def main():
        loop.method, loop.fails_at = "call_soon", 1  # 0: the first pass
        with pytest.raises(Refused):
            await (
                impl.gather_with_concurrency(limit, *coros)
                if isinstance(limit, int)
                else impl.run_all([lambda coro=coro: coro for coro in coros], limit=limit)
            )
        assert loop.made >= 2

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    closed = [is_closed(coro) for coro in coros]
    assert closed[0]
    assert all(closed) or not isinstance(limit, int)
    for coro in coros:
        coro.close()


@pytest.mark.parametrize("limit", [1, None])
def test_a_clock_that_fails_while_nothing_runs_ends_the_call(impl, limit):
    class Fails:
        readings = 0

        def __call__(self):
            self.readings += 1
            if self.readings == 2:
                raise Refused("clock")
            return 0.0

    async def main():
        impl._set_clock(Fails())
        coros = [returns(index) for index in range(4)]
        call = impl.gather_with_concurrency(limit, *coros)
        if limit is None:
            assert await call == [0, 1, 2, 3]  # it is not asked
            return
        with pytest.raises(Refused):
            await call
        assert all(map(is_closed, coros))

    asyncio.run(main())


@pytest.mark.parametrize("method", ["get_task_factory", "get_debug"])
def test_a_call_that_cannot_begin_closes_what_has_begun_before(impl, method):
    closed = []

    async def begun():
        try:
            await asyncio.sleep(0)
        finally:
            closed.append("closed")

    async def main():
        coro = begun()
        coro.send(None)
        loop.method, loop.fails_at = method, loop.made
        with pytest.raises(Refused):
            impl.gather(coro, returns(1), limit=1)
        assert closed == ["closed"]
        assert is_closed(coro)

    loop = Loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
