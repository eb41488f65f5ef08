"""A wait for a Semaphore that ends early, in whatever way and at whatever moment: no slot is lost or gained, and the next one is served."""

import asyncio
import collections
import gc
import itertools
import random

import pytest

from contract_tools import Running, idle, run

EACH_CLASS = pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])


async def by_acquire(impl, semaphore):
    await semaphore.acquire()
    semaphore.release()


async def by_async_with(impl, semaphore):
    async with semaphore:
        pass


async def by_gated_coro(impl, semaphore):
    await impl.gated_coro(semaphore, asyncio.sleep(0))


async def nothing():
    pass


# The coroutine that waits, each way.
WAITS = {
    "acquire()": lambda impl, semaphore: semaphore.acquire(),
    "__aenter__()": lambda impl, semaphore: semaphore.__aenter__(),
    "await acquire()": by_acquire,
    "async with": by_async_with,
    "gated_coro()": lambda impl, semaphore: impl.gated_coro(semaphore, nothing()),
    "await gated_coro()": by_gated_coro,
}
EACH_WAIT = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
EACH_LOOK = pytest.mark.parametrize("looks", [False, True], ids=["", "its waiters have been read"])


def closes(coroutines):
    coroutines.pop().close()


def drops(coroutines):
    coroutines.pop()
    gc.collect()


def throws(error):
    def throw(coroutines):
        try:
            coroutines.pop().throw(error)
        except BaseException as raised:
            assert raised is error or type(raised) is error  # noqa: PT017
            # It is thrown again, and would keep all Tasks that it has gone through.
            raised.__traceback__ = raised.__context__ = None

    return throw


class Own(BaseException):
    pass


ENDS = {
    "closed": closes,
    "dropped": drops,
    "ValueError": throws(ValueError("thrown")),
    "CancelledError": throws(asyncio.CancelledError("thrown")),
    "a class": throws(asyncio.CancelledError),
    "GeneratorExit": throws(GeneratorExit()),
    "StopAsyncIteration": throws(StopAsyncIteration()),
    "KeyboardInterrupt": throws(KeyboardInterrupt()),
    "BaseException": throws(Own()),
}


def run_each(main, cases):
    """Run main(case) for each, on one loop."""

    async def each():
        for name, case in cases.items():
            try:
                await main(case)
            except BaseException as error:
                error.add_note(f"case: {name}")
                raise

    run(each)


async def held(impl, name, looks, slots=1):
    """A semaphore, all of whose slots are held."""
    semaphore = getattr(impl, name)(slots)
    for _ in range(slots):
        await semaphore.acquire()
    if looks:
        semaphore._waiters = collections.deque()
    return semaphore


def step(coroutine):
    """Have it wait."""
    future = coroutine.send(None)
    assert asyncio.isfuture(future)
    return future


def is_unused(semaphore):
    """Whether all slots are back, and nobody waits."""
    return semaphore._value == semaphore.limit and not semaphore.locked() and not semaphore._waiters


# Driven by hand


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_before_its_first_step_it_has_nothing(impl, name, looks, wait, recwarn):
    async def main(end):
        semaphore = await held(impl, name, looks)
        end([wait(impl, semaphore)])
        assert semaphore._value == 0
        assert not semaphore._waiters
        semaphore.release()
        assert is_unused(semaphore)

    run_each(main, ENDS)


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_while_it_waits_it_leaves_the_queue(impl, name, looks, wait):
    async def main(end):
        semaphore = await held(impl, name, looks)
        waiting = [wait(impl, semaphore)]
        step(waiting[0])
        next_one = asyncio.create_task(by_async_with(impl, semaphore))
        await idle(1)
        end(waiting)
        assert semaphore._value == 0
        assert len(semaphore._waiters) == 1
        semaphore.release()
        assert semaphore._value == 0
        await next_one
        assert is_unused(semaphore)

    run_each(main, ENDS)


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_when_a_slot_has_been_handed_over_the_next_one_gets_it(impl, name, looks, wait):
    async def main(end):
        semaphore = await held(impl, name, looks)
        waiting = [wait(impl, semaphore)]
        future = step(waiting[0])
        next_one = asyncio.create_task(by_async_with(impl, semaphore))
        await idle(1)
        semaphore.release()
        assert future.done()
        assert semaphore._value == 0
        end(waiting)
        assert semaphore._value == 0  # it has been handed on
        await next_one
        assert is_unused(semaphore)

    run_each(main, ENDS)


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_when_a_slot_has_been_handed_over_and_nobody_waits_it_is_free(impl, name, looks, wait):
    async def main(end):
        semaphore = await held(impl, name, looks)
        waiting = [wait(impl, semaphore)]
        step(waiting[0])
        semaphore.release()
        assert semaphore.locked()
        end(waiting)
        assert is_unused(semaphore)

    run_each(main, ENDS)


@EACH_CLASS
@EACH_LOOK
def test_its_future_was_cancelled_before(impl, name, looks):
    async def main(end):
        semaphore = await held(impl, name, looks)
        waiting = [semaphore.acquire()]
        step(waiting[0]).cancel()
        semaphore.release()
        assert semaphore._value == 1
        assert not semaphore.locked()
        end(waiting)
        assert is_unused(semaphore)

    run_each(main, ENDS)


@EACH_CLASS
@EACH_LOOK
def test_it_is_resumed_too_early(impl, name, looks):
    async def main():
        semaphore = await held(impl, name, looks)
        waiting = semaphore.acquire()
        step(waiting)
        with pytest.raises(RuntimeError, match="await wasn't used with future"):
            waiting.send(None)
        assert not semaphore._waiters
        assert semaphore._value == 0
        semaphore.release()
        assert is_unused(semaphore)

    run(main)


@EACH_CLASS
@EACH_LOOK
def test_several_that_were_handed_slots_end_in_any_order(impl, name, looks):
    """All that they had goes on to those who came later, in order."""

    async def main(end, order):
        served = []
        semaphore = await held(impl, name, looks, slots=3)
        waiting = [[semaphore.acquire()] for _ in range(3)]
        for holder in waiting:
            step(holder[0])

        async def later(i):
            async with semaphore:
                served.append(i)
                await idle(1)

        tasks = [asyncio.create_task(later(i)) for i in range(5)]
        await idle(1)
        for _ in range(3):
            semaphore.release()
        for i in order:
            end(waiting[i])
            assert semaphore._value == 0
        await asyncio.gather(*tasks)
        assert served == [*range(5)]
        assert is_unused(semaphore)

    cases = itertools.product(ENDS, itertools.permutations(range(3)))
    run_each(lambda case: main(*case), {(name, order): (ENDS[name], order) for name, order in cases})


# In Tasks


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_a_task_that_is_cancelled_around_the_hand_over(impl, name, looks, wait):
    async def main(turns, released_first):
        semaphore = await held(impl, name, looks)

        async def waits():
            await wait(impl, semaphore)

        holds = wait in (WAITS["acquire()"], WAITS["__aenter__()"])
        tasks = [asyncio.create_task(waits()) for _ in range(3)]
        await idle(turns)
        if released_first:
            semaphore.release()
            tasks[0].cancel()
        else:
            tasks[0].cancel()
            semaphore.release()
        await idle(6)
        if holds:
            assert tasks[0].cancelled()
            assert [task.done() for task in tasks] == [True, True, False]
            semaphore.release()
            await tasks[2]
            semaphore.release()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert is_unused(semaphore)

    run_each(lambda case: main(*case), {case: case for case in itertools.product(range(4), (False, True))})


@EACH_CLASS
@EACH_LOOK
def test_a_timeout_at_the_hand_over(impl, name, looks):
    async def main():
        semaphore = await held(impl, name, looks)

        async def waits():
            async with asyncio.timeout(0):
                async with semaphore:
                    await idle(1)

        tasks = [asyncio.create_task(waits()) for _ in range(3)]
        await idle(1)
        semaphore.release()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.exception() is None or isinstance(task.exception(), TimeoutError)
        assert is_unused(semaphore)
        with pytest.raises(TimeoutError):
            async with semaphore:
                await asyncio.wait_for(semaphore.acquire(), 0)
        assert is_unused(semaphore)

    run(main)


@EACH_CLASS
@EACH_LOOK
def test_an_error_inside_gives_the_slot_back(impl, name, looks):
    async def main():
        semaphore = await held(impl, name, looks)
        semaphore.release()
        for error in (ValueError("inside"), asyncio.CancelledError("inside"), Own("inside")):
            with pytest.raises(type(error)) as raised:
                async with semaphore:
                    assert semaphore._value == 0
                    raise error
            assert raised.value is error
            assert is_unused(semaphore)

    run(main)


@EACH_CLASS
def test_a_block_that_is_closed_or_dropped_inside_gives_the_slot_back(impl, name):
    async def main():
        semaphore = getattr(impl, name)(1)

        async def block():
            async with semaphore:
                await asyncio.get_running_loop().create_future()

        for end in (closes, drops):
            coroutine = [block()]
            step(coroutine[0])
            assert semaphore._value == 0
            end(coroutine)
            assert is_unused(semaphore)

    run(main)


@EACH_CLASS
@EACH_LOOK
@EACH_WAIT
def test_random_ends(impl, name, looks, wait):
    """Tasks and coroutines driven by hand, which end in every way while slots are handed over: afterwards everything is back."""

    async def main(seed):
        chance = random.Random(seed)
        slots = chance.randrange(1, 4)
        semaphore = await held(impl, name, looks, slots)
        holds = wait in (WAITS["acquire()"], WAITS["__aenter__()"])
        running, by_hand, tasks = Running(), [], []

        async def waits():
            await wait(impl, semaphore)
            try:
                with running:
                    await idle(chance.randrange(2))
            finally:
                if holds:
                    semaphore.release()

        released = 0
        for _ in range(25):
            action = chance.randrange(6)
            if action <= 1:
                tasks.append(asyncio.create_task(waits()))
            elif action == 2 and semaphore.locked():
                by_hand.append([wait(impl, semaphore)])
                step(by_hand[-1][0])
            elif action == 3 and released < slots:
                released += 1
                semaphore.release()
            elif action == 4 and by_hand:
                chance.choice([*ENDS.values()])(by_hand.pop(chance.randrange(len(by_hand))))
            elif action == 5 and tasks:
                chance.choice(tasks).cancel()
            if chance.random() < 0.4:
                await idle(1)
        while released < slots:
            released += 1
            semaphore.release()
        for holder in by_hand:
            chance.choice([*ENDS.values()])(holder)
        if tasks:
            await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert running.most <= slots or not holds
        assert is_unused(semaphore)

    run_each(main, {seed: seed for seed in range(25)})


@EACH_CLASS
@pytest.mark.parametrize("order", ["first to last", "last to first", "at random"])
@pytest.mark.parametrize("way", ["cancelled", "closed"])
def test_thousands_that_end_in_one_turn(impl, name, order, way):
    async def main():
        semaphore = await held(impl, name, False)
        if way == "cancelled":
            waiting = [asyncio.create_task(semaphore.acquire()) for _ in range(3000)]
            await idle(1)
            ends = [task.cancel for task in waiting]
        else:
            waiting = [semaphore.acquire() for _ in range(3000)]
            for coroutine in waiting:
                step(coroutine)
            ends = [coroutine.close for coroutine in waiting]
        survivor = asyncio.create_task(by_async_with(impl, semaphore))
        await idle(1)
        if order == "last to first":
            ends.reverse()
        elif order == "at random":
            random.Random(0).shuffle(ends)
        for end in ends:
            end()
        semaphore.release()
        await survivor
        if way == "cancelled":
            await asyncio.wait(waiting)
        assert is_unused(semaphore)

    run(main)


# Where somebody else's code fails


def test_a_loop_that_makes_no_future_loses_nothing(impl):
    class Loop(asyncio.SelectorEventLoop):
        refuses = False

        def create_future(self):
            if self.refuses:
                raise OSError("no future")
            return super().create_future()

    async def main():
        semaphore = impl.Semaphore(1)
        await semaphore.acquire()
        loop = asyncio.get_running_loop()
        loop.refuses = True
        with pytest.raises(OSError, match="no future"):
            await semaphore.acquire()
        loop.refuses = False
        assert semaphore._value == 0
        assert not semaphore._waiters
        semaphore.release()
        assert is_unused(semaphore)

    run(main, loop_factory=Loop)


@EACH_LOOK
def test_who_is_left_on_a_closed_loop_gives_back_what_it_had(impl, looks, unraisables):
    """Nobody goes on there, and nobody reports that."""
    semaphore = impl.Semaphore(1)
    loop = asyncio.new_event_loop()

    async def begin():
        await semaphore.acquire()
        if looks:
            semaphore._waiters = collections.deque()
        waiting = [semaphore.acquire() for _ in range(3)]
        for coroutine in waiting:
            step(coroutine)
        semaphore.release()
        return waiting

    waiting = loop.run_until_complete(begin())
    loop.close()
    assert semaphore._value == 0
    while waiting:
        waiting.pop(0).close()
    assert semaphore._value == 1
    assert not semaphore._waiters
    assert unraisables == []


def test_a_semaphore_that_goes_while_somebody_waits(impl):
    """The coroutine holds it."""

    async def main():
        semaphore = impl.Semaphore(0)
        waiting = asyncio.create_task(semaphore.acquire())
        await idle(1)
        waiter = semaphore._waiters[0]
        del semaphore
        gc.collect()
        assert not waiter.done()
        waiting.cancel()
        await idle(2)
        assert waiting.cancelled()

    run(main)
