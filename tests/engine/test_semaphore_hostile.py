"""A semaphore among Futures, loops, deques and subclasses that anybody may have written, whose code runs while the semaphore is about them.

Whatever such code does, no slot is lost or gained, whoever waits is served or told, and nothing of it is kept.
"""

import asyncio
import collections
import copy
import gc
import pickle
import sys

import pytest

from contract_tools import idle, run
from effort import SHORT
from semaphore_tools import KINDS, WAYS

NO_TASK_IS_REUSED = True

EACH_KIND = pytest.mark.parametrize("kind", KINDS)
EACH_LOOK = pytest.mark.parametrize("looks", [False, True], ids=["", "its waiters have been read"])
GATHERINGS = 1_000 if SHORT else 20_000


class Refused(Exception):
    pass


class Future(asyncio.futures._PyFuture):
    """The next time that one is asked for `where`, `act(future)` is called first."""

    where = act = None

    @classmethod
    def has(cls, where, act):
        cls.where, cls.act = where, act

    def acts(self, where):
        if Future.where == where:
            act, Future.where = Future.act, None
            act(self)

    def set_result(self, result):
        self.acts("set_result")
        super().set_result(result)

    def done(self):
        self.acts("done")
        return super().done()

    def cancelled(self):
        self.acts("cancelled")
        return super().cancelled()


class Loop(asyncio.SelectorEventLoop):
    """Makes such Futures, and refuses the passes of gatherings as long as `refuses` is an exception."""

    refuses = None

    def create_future(self):
        return Future(loop=self)

    def call_soon(self, callback, *args, context=None):
        if self.refuses is not None and type(getattr(callback, "__self__", None)).__name__ == "_Gathering":
            raise self.refuses
        return super().call_soon(callback, *args, context=context)


@pytest.fixture(autouse=True)
def no_future_acts():
    Future.has(None, None)
    yield
    Future.has(None, None)


def run_on(main):
    """Run it on such a loop, on and on, whatever leaves that."""
    loop = Loop()
    try:
        task = loop.create_task(main())
        while True:
            try:
                return loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit):
                if task.done():
                    raise
    finally:
        loop.close()


async def nothing():
    pass


def step(coroutine):
    future = coroutine.send(None)
    assert asyncio.isfuture(future)
    return coroutine


def has_all(semaphore, slots=None):
    """Whether all slots are back, and nobody waits."""
    slots = semaphore.limit if slots is None else slots
    return semaphore._value == slots and not semaphore.locked() and not semaphore._waiters


# Futures


def raises(error):
    def act(case):
        raise error

    return act


class Case:
    """One semaphore, who waits for it, and what a Future may do about them."""

    def __init__(self, semaphore):
        self.semaphore = semaphore
        self.tasks = []
        self.calls = []
        self.added = 0

    def add(self, number=1):
        self.tasks += [asyncio.create_task(self.use()) for _ in range(number)]

    async def use(self):
        await self.semaphore.acquire()
        try:
            await idle(1)
        finally:
            self.semaphore.release()

    def release(self):
        self.added += 1
        self.semaphore.release()

    def cancel_all(self):
        for task in self.tasks:
            task.cancel()

    def cancel_calls(self):
        for call in self.calls:
            call.cancel()

    def raise_limit(self):
        self.semaphore.limit += 3

    def lower_limit(self):
        self.semaphore.limit = 0

    def read(self):
        assert self.semaphore._waiters is not None


ACTS = {
    "raises": raises(Refused()),
    "interrupts": raises(KeyboardInterrupt()),
    "reads the waiters": Case.read,
    "cancels all": Case.cancel_all,
    "cancels the call": Case.cancel_calls,
    "releases": Case.release,
    "raises the limit": Case.raise_limit,
    "lowers the limit": Case.lower_limit,
    "asks whether it is locked": lambda case: case.semaphore.locked(),
    "acquires": Case.add,
}


@EACH_LOOK
@pytest.mark.parametrize("calls", [False, True], ids=["", "a call waits, too"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_future_that_acts_while_it_is_asked_or_told(impl, looks, calls, act):
    async def main(where):
        semaphore = impl.Semaphore(2)
        await semaphore.acquire()
        await semaphore.acquire()
        case = Case(semaphore)
        case.add(4)
        await idle(1)
        if calls:
            case.calls = [asyncio.ensure_future(impl.run_all([nothing] * 3, limit=semaphore))]
            await idle(1)
        if looks:
            case.read()
        Future.has(where, lambda future: act(case))
        for _ in range(2):
            try:
                semaphore.release()
            except (Refused, KeyboardInterrupt, asyncio.InvalidStateError):  # of one that was cancelled then
                pass
        Future.has(None, None)
        await idle(20)
        semaphore.limit = max(semaphore.limit, 2)
        await asyncio.wait_for(asyncio.wait(case.tasks + case.calls), 5)
        assert has_all(semaphore, semaphore.limit + case.added), where

    for where in ("set_result", "done", "cancelled"):
        run_on(lambda where=where: main(where))


@EACH_KIND
@EACH_LOOK
def test_a_future_that_cannot_be_told(impl, kind, looks):
    """Its acquire() has no slot: it is the first to get one, and gives none back if it is cancelled before."""

    async def main(goes_on):
        semaphore = getattr(impl, kind)(1)
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        if looks:
            assert len(semaphore._waiters) == 2
        Future.has("set_result", raises(Refused()))
        with pytest.raises(Refused):
            semaphore.release()
        assert semaphore._value == 1
        if goes_on:
            assert semaphore._wake_up_next()
            assert await tasks.pop(0)
            semaphore.release()
            assert await tasks.pop(0)
            semaphore.release()
        else:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert has_all(semaphore)

    for goes_on in (True, False):
        run_on(lambda goes_on=goes_on: main(goes_on))


# Who stands in the queue


def test_a_place_in_the_queue_that_was_left_and_is_put_back(impl):
    """Whoever is handed a slot there would not take it."""

    async def main():
        semaphore = impl.Semaphore(0)
        call = asyncio.ensure_future(impl.run_all([nothing], limit=semaphore))
        await idle(2)
        place = semaphore._waiters[0]
        assert not place.done() and not place.cancelled()
        call.cancel()
        await asyncio.wait([call])
        semaphore._waiters.append(place)
        assert place.done() and place.cancelled()
        semaphore.release()
        assert semaphore._value == 1 and not semaphore.locked()
        assert await semaphore.acquire()

    run(main)


@EACH_LOOK
def test_a_waiter_of_somebodys_that_refuses_is_asked_once(impl, looks):
    """It has the slot, as in asyncio, though it goes on saying that it is not done."""

    class Waiter:
        told = 0

        def done(self):
            return False

        def cancelled(self):
            return False

        def set_result(self, result):
            self.told += 1
            return False

    async def main():
        semaphore = impl.Semaphore(0)
        waiter = Waiter()
        semaphore._waiters = collections.deque([waiter])
        semaphore.release()
        assert waiter.told == 1 and semaphore._value == 0
        semaphore._waiters.clear()

    run(main)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_cancelled_future_that_nobody_takes_out_of_the_queue_stops_no_call(impl, way):
    async def main():
        semaphore = impl.Semaphore(1)
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        semaphore._waiters = collections.deque([cancelled])
        assert not semaphore.locked()
        async with semaphore:
            pass
        await impl.gated_coro(semaphore, nothing())
        assert await asyncio.wait_for(way(impl, semaphore, [nothing, nothing]), 5) == [None, None]
        assert semaphore._value == 1 and [*semaphore._waiters] == [cancelled]

    run(main)


# Loops


@EACH_LOOK
def test_many_calls_whose_loop_refuses_all_of_them(impl, looks, unraisables):
    """Each ends when it is handed the slot; the next one is told afterwards, not out of that."""

    async def main():
        semaphore = impl.Semaphore(0)
        calls = [impl.gather(nothing(), limit=semaphore) for _ in range(number)]
        await idle(3)
        if looks:
            assert len(semaphore._waiters) == number
        loop = asyncio.get_running_loop()
        loop.refuses = Refused()
        semaphore.release()
        loop.refuses = None
        assert semaphore._value == 1 and not semaphore.locked()
        assert all(call.done() and type(call.exception()) is Refused for call in calls)

    number = GATHERINGS // 10 if looks else GATHERINGS
    run_on(main)
    assert {type(error) for error in unraisables} <= {Refused}


@EACH_KIND
@EACH_LOOK
@pytest.mark.parametrize("error", [Refused, KeyboardInterrupt, SystemExit])
def test_a_call_whose_loop_refuses_it_when_it_is_handed_a_slot(impl, kind, looks, error, unraisables):
    """It ends with that; who stands behind it has the slot."""

    async def main(others):
        semaphore = getattr(impl, kind)(1)
        await semaphore.acquire()
        call = asyncio.ensure_future(impl.run_all([nothing], limit=semaphore))
        await idle(2)
        behind = [asyncio.create_task(semaphore.acquire()) for _ in range(others)]
        await idle(1)
        if looks:
            assert len(semaphore._waiters) == 1 + others
        loop = asyncio.get_running_loop()
        loop.refuses = error()
        try:
            semaphore.release()
        except (KeyboardInterrupt, SystemExit) as raised:
            assert type(raised) is error  # noqa: PT017
        loop.refuses = None
        await idle(3)
        assert type(call.exception()) is error
        assert all(task.done() for task in behind)
        if others:
            semaphore.release()
        assert has_all(semaphore)

    for others in (0, 1):
        run_on(lambda others=others: main(others))
    assert unraisables == []


# Futures whose code runs at the hand-over itself


def test_a_future_that_has_the_queue_read_while_the_first_one_is_looked_for(impl):
    async def main():
        semaphore = impl.Semaphore(0)
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        Future.has("done", lambda future: semaphore._waiters)
        semaphore.release()
        await idle(3)
        assert [task.done() for task in tasks] == [True, False]
        semaphore.release()
        await asyncio.wait(tasks)
        assert semaphore._value == 0

    run_on(main)


@EACH_LOOK
@pytest.mark.parametrize("fails", [False, True])
def test_a_future_that_closes_its_acquire_while_it_is_told(impl, looks, fails):
    """That has given the slot back already."""

    async def main():
        semaphore = impl.Semaphore(0)
        waiting = [step(semaphore.acquire()) for _ in range(2)]
        if looks:
            assert len(semaphore._waiters) == 2

        def closes(future):
            waiting[0].close()
            if fails:
                raise Refused

        Future.has("set_result", closes)
        try:
            semaphore.release()
        except Refused:
            assert fails
        for coroutine in waiting:
            coroutine.close()
        assert has_all(semaphore, 1)

    run_on(main)


def test_a_future_that_takes_the_queue_away_while_it_is_told(impl):
    async def main():
        semaphore = impl.Semaphore(0)
        waiting = [step(semaphore.acquire()) for _ in range(2)]
        Future.has("set_result", lambda future: setattr(semaphore, "_waiters", None))
        semaphore.release()
        for coroutine in waiting:
            coroutine.close()
        assert has_all(semaphore, 1)

    run_on(main)


# The collector


class Boom:
    """Does this when the collector finds it."""

    def __init__(self, act):
        self.act, self.itself = act, self

    def __del__(self):
        self.act()


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_the_collector_runs_while_the_waiters_are_read(impl, joins):
    """In it somebody leaves the queue, or another one comes: the deque has who is there in the end."""

    async def main():
        for allocations in range(1, 12):
            semaphore = impl.Semaphore(0)
            waiting = [step(semaphore.acquire()) for _ in range(3)]
            late = semaphore.acquire()

            def act(waiting=waiting, late=late):
                waiting[1].close()
                if joins:
                    step(late)

            gc.collect()
            gc.disable()
            Boom(act)
            gc.set_threshold(gc.get_count()[0] + allocations, 1000, 1000)
            gc.enable()
            assert len(semaphore._waiters) >= 2
            gc.disable()
            gc.collect()
            assert len(semaphore._waiters) == 2 + joins, allocations
            for coroutine in [*waiting, late]:
                coroutine.close()
            assert not semaphore._waiters

    threshold = gc.get_threshold()
    try:
        run(main)
    finally:
        gc.set_threshold(*threshold)
        gc.enable()


def objects_of_ours():
    return collections.Counter(
        type(one).__qualname__ for one in gc.get_objects() if str(type(one).__module__).startswith("gatedcoro._")
    )


@EACH_LOOK
@pytest.mark.parametrize("cls", [*KINDS, "derived"])
def test_what_waited_and_the_queue_go_with_the_semaphore(impl, looks, cls):
    """Also where it stands in a cycle."""

    class Derived(impl.BoundedSemaphore):
        pass

    async def use(in_cycle):
        semaphore = (Derived if cls == "derived" else getattr(impl, cls))(1)
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        call = asyncio.ensure_future(impl.run_all([nothing], limit=semaphore))
        await idle(2)
        if in_cycle:
            semaphore.itself = semaphore
        if looks:
            assert len(semaphore._waiters) == 4
        tasks.pop().cancel()
        for task in tasks:
            semaphore.release()
            await task
        semaphore.release()
        await call
        assert has_all(semaphore)
        if in_cycle:
            await semaphore.acquire()
            task = asyncio.create_task(semaphore.acquire())
            await idle(1)
            task.cancel()
            await asyncio.wait([task])

    async def main():
        for in_cycle in (False, True):
            await use(in_cycle)
            gc.collect()
            before = objects_of_ours()
            for _ in range(5):
                await use(in_cycle)
            gc.collect()
            assert objects_of_ours() == before

    run(main)


# Subclasses, and asyncio's own methods


async def acquire_of_asyncio(self):
    """As in a class that was written for asyncio's."""
    if not self.locked():
        self._value -= 1
        return True
    if self._waiters is None:
        self._waiters = collections.deque()
    future = self._get_loop().create_future()
    self._waiters.append(future)
    try:
        try:
            await future
        finally:
            self._waiters.remove(future)
    except asyncio.CancelledError:
        if future.done() and not future.cancelled():
            self._value += 1
        raise
    finally:
        while self._value > 0 and self._wake_up_next():
            pass
    return True


@EACH_KIND
@pytest.mark.parametrize("acquire", [acquire_of_asyncio, asyncio.Semaphore.acquire], ids=["copied", "called"])
def test_asyncios_own_acquire_waits_in_our_queue(impl, kind, acquire):
    """In the order of all, and on the loop that all are on."""
    own = type("Own", (getattr(impl, kind),), {"acquire": acquire})

    async def main():
        order = []
        semaphore = own(1)
        await semaphore.acquire()

        async def use(name, method):
            await method(semaphore)
            order.append(name)
            await idle(1)
            semaphore.release()

        ours = vars(impl.Semaphore)["acquire"]
        tasks = [asyncio.create_task(use(name, ours if name in "bd" else acquire)) for name in "abcd"]
        await idle(2)
        assert len(semaphore._waiters) == 4
        assert semaphore._loop is asyncio.get_running_loop()
        tasks[2].cancel()
        semaphore.release()
        await asyncio.wait(tasks)
        assert "".join(order) == "abd"
        assert has_all(semaphore)

    run(main)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_acquire_that_leads_back_to_itself(impl):
    class Endless(impl.Semaphore):
        def acquire(self):
            return self.__aenter__()

    async def main():
        with pytest.raises(RecursionError):
            async with Endless(1):
                pass

    run(main)


@EACH_KIND
def test_a_subclass_whose_init_does_not_call_ours(impl, kind):
    """It says itself how many slots are free, as is enough for asyncio's."""

    class Own(getattr(impl, kind)):
        def __init__(self, slots, name):
            self._value = slots
            self._waiters = None

    async def main():
        semaphore = Own(2, name="n")
        assert (semaphore._value, semaphore.limit, semaphore._loop) == (2, 0, None)
        async with semaphore:
            assert await semaphore.acquire()
            assert semaphore.locked()
            waiting = asyncio.create_task(semaphore.acquire())
            await idle(1)
            assert not waiting.done()
            semaphore.limit += 1
            await waiting
            assert semaphore._value == 0

    run(main)


@EACH_KIND
def test_a_subclass_says_how_it_is_copied(impl, kind):
    base = getattr(impl, kind)

    class Reduced(base):
        def __reduce__(self):
            return Reduced, (7,)

    class Stateful(base):
        def __getstate__(self):
            return {"number": 1}

        def __setstate__(self, state):
            states.append(state)

    class Slotted(base):
        __slots__ = ("number",)

    class WithArguments(base):
        def __new__(cls, *arguments):
            return super().__new__(cls)

        def __init__(self, value, number):
            super().__init__(value)
            self.arguments = value, number

        def __getnewargs__(self):
            return 3, 4

    states = []
    assert copy.copy(Reduced(3)).limit == 7
    copy.copy(Stateful(3))
    assert states == [{"number": 1}]
    slotted = Slotted(3)
    slotted.number = 5
    assert copy.copy(slotted).number == copy.deepcopy(slotted).number == 5
    copied = copy.copy(WithArguments(1, 2))
    assert copied.arguments == (1, 2) and copied.limit == copied._value == 1


@EACH_KIND
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(impl, kind, protocol, monkeypatch):
    cls = getattr(impl, kind)
    monkeypatch.setattr(sys.modules["gatedcoro"], kind, cls)  # where it says that it is
    semaphore = cls(3)
    semaphore.name = "n"
    semaphore._value = 1
    copied = pickle.loads(pickle.dumps(semaphore, protocol))
    assert type(copied) is cls
    assert (copied.limit, copied._value, copied.name, copied._waiters) == (3, 1, "n", None)


def test_its_class_may_be_changed(impl):
    semaphore = impl.Semaphore()
    semaphore.__class__ = impl.BoundedSemaphore
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    semaphore.__class__ = impl.Semaphore
    semaphore.release()
    assert (semaphore._value, semaphore.limit) == (2, 1)


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_an_interrupt_of_a_source_that_is_asked_ahead_leaves_the_loop(impl, limit, turns, at):
    started, ended = [], []

    async def item(index):
        started.append(index)
        try:
            await idle(turns)
        finally:
            ended.append(index)

    def functions():
        for index in range(5):
            if index == at:
                raise KeyboardInterrupt
            yield lambda index=index: item(index)
        raise KeyboardInterrupt

    for full in False, True:
        impl._set_full_turns(full)
        semaphore = impl.Semaphore(limit)
        started.clear()
        ended.clear()
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(impl.run_all(functions(), limit=semaphore))
        assert sorted(started) == sorted(ended) and len(started) <= at
        assert semaphore._value == limit and not semaphore._waiters and not semaphore.locked()
