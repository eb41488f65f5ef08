"""semaphore.limit: the number given or last assigned, which may change while the semaphore is in use."""

import asyncio
import re
import sys

import pytest

from contract_tools import Running, Trace, idle, run

NO_TASK_IS_REUSED = True

EACH_CLASS = pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


async def holds(semaphore, trace, name, turns=1):
    async with semaphore:
        trace(f"+{name}")
        await idle(turns)
        trace(f"-{name}")


async def taken(semaphore, slots):
    for _ in range(slots):
        await semaphore.acquire()
    return semaphore


def events(main):
    """What a coroutine function with a trace says."""

    async def traced():
        trace = Trace()
        await main(trace)
        return " ".join(trace.events)

    return run(traced)


# What may be assigned


@EACH_CLASS
@pytest.mark.parametrize(
    ("limit", "count"), [(0, 0), (1, 1), (True, 1), (Index(9), 9), (sys.maxsize, sys.maxsize), (5, 5)]
)
def test_a_limit_is_an_integer_from_0(impl, name, limit, count):
    semaphore = getattr(impl, name)(5)
    semaphore.limit = limit
    assert (semaphore.limit, semaphore._value, semaphore.locked()) == (count, count, count == 0)
    assert type(semaphore.limit) is int


@EACH_CLASS
@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (2.5, TypeError, "limit must be an integer, not 2.5 (float)"),
        ("2", TypeError, "limit must be an integer, not '2' (str)"),
        (None, TypeError, "limit must be an integer, not None (NoneType)"),
        (-1, ValueError, "limit must be at least 0, not -1"),
        (Index(-7), ValueError, "limit must be at least 0, not -7"),
        (-(2**100), ValueError, f"limit must be at least 0, not {-(2**100)}"),
        (sys.maxsize + 1, ValueError, f"limit must be at most {sys.maxsize}, not {sys.maxsize + 1}"),
        (2**100, ValueError, f"limit must be at most {sys.maxsize}, not {2**100}"),
    ],
)
def test_anything_else_is_an_error_and_nothing_changes(impl, name, limit, error, message):
    async def main():
        semaphore = await taken(getattr(impl, name)(5), 2)
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            semaphore.limit = limit
        assert (semaphore.limit, semaphore._value) == (5, 3)

    run(main)


@EACH_CLASS
def test_a_limit_cannot_be_deleted(impl, name):
    semaphore = getattr(impl, name)(5)
    with pytest.raises(AttributeError):
        del semaphore.limit
    assert semaphore.limit == 5


@EACH_CLASS
def test_what_an_index_raises_is_raised(impl, name):
    class Broken:
        def __index__(self):
            raise KeyError("index")

    semaphore = getattr(impl, name)(5)
    with pytest.raises(KeyError):
        semaphore.limit = Broken()
    assert (semaphore.limit, semaphore._value) == (5, 5)


# The count


@EACH_CLASS
def test_assigning_shifts_the_free_slots_by_the_difference(impl, name):
    async def main():
        semaphore = await taken(getattr(impl, name)(5), 3)
        counts = []
        for limit in (7, 3, 2, 0, 0, 3, 5):
            semaphore.limit = limit
            counts.append((limit, semaphore._value, semaphore.locked()))
        return counts

    assert run(main) == [
        (7, 4, False),
        (3, 0, True),
        (2, -1, True),
        (0, -3, True),
        (0, -3, True),
        (3, 0, True),
        (5, 2, False),
    ]


def test_slots_that_extra_releases_have_added_are_not_counted(impl):
    semaphore = impl.Semaphore(2)
    semaphore.release()
    assert (semaphore.limit, semaphore._value) == (2, 3)
    semaphore.limit = 1
    assert (semaphore.limit, semaphore._value) == (1, 2)


@EACH_CLASS
def test_limit_is_what_was_assigned_whatever_is_held(impl, name):
    async def main():
        semaphore = await taken(getattr(impl, name)(2), 2)
        semaphore.limit = 1
        assert semaphore.limit == 1
        semaphore.release()
        semaphore.release()
        assert (semaphore.limit, semaphore._value) == (1, 1)

    run(main)


def test_a_bounded_semaphore_refuses_a_release_beyond_the_limit_as_it_is_now(impl):
    async def main():
        semaphore = await taken(impl.BoundedSemaphore(2), 1)
        semaphore.limit = 1
        assert semaphore._bound_value == 1
        semaphore.release()
        with pytest.raises(ValueError, match=r"^BoundedSemaphore released too many times$"):
            semaphore.release()
        semaphore.limit = 3
        assert semaphore._bound_value == semaphore._value == 3
        with pytest.raises(ValueError, match="too many times"):
            semaphore.release()
        async with semaphore:
            assert semaphore._value == 2
        assert semaphore._value == 3

    run(main)


def test_a_bounded_semaphore_takes_back_all_that_were_held_when_it_was_lowered(impl):
    async def main():
        semaphore = await taken(impl.BoundedSemaphore(4), 4)
        semaphore.limit = 1
        for value in (-2, -1, 0, 1):
            semaphore.release()
            assert semaphore._value == value
        with pytest.raises(ValueError, match="too many times"):
            semaphore.release()

    run(main)


# Who waits


@EACH_CLASS
@pytest.mark.parametrize("looks", [False, True])
def test_raising_it_wakes_in_order_as_many_as_there_are_slots(impl, name, looks):
    async def main(trace):
        semaphore = getattr(impl, name)(1)
        tasks = [asyncio.create_task(holds(semaphore, trace, one)) for one in "abcde"]
        await idle(1)
        if looks:
            assert len(semaphore._waiters) == 4
        semaphore.limit = 3
        trace(semaphore._value)
        await asyncio.gather(*tasks)
        trace(semaphore._value)

    assert events(main) == "+a 0 -a +b +c +d -b -c -d +e -e 3"


@EACH_CLASS
def test_raising_it_by_more_than_wait_leaves_slots(impl, name):
    async def main(trace):
        semaphore = getattr(impl, name)(0)
        tasks = [asyncio.create_task(holds(semaphore, trace, one)) for one in "ab"]
        await idle(1)
        semaphore.limit = 5
        trace(f"{semaphore._value}{semaphore.locked()}")
        later = asyncio.create_task(holds(semaphore, trace, "c"))
        await asyncio.gather(*tasks, later)
        trace(semaphore._value)

    assert events(main) == "3True +a +b +c -a -b -c 5"


@EACH_CLASS
@pytest.mark.parametrize("looks", [False, True])
def test_lowering_it_admits_nobody_until_enough_came_back(impl, name, looks):
    async def main(trace):
        semaphore = getattr(impl, name)(3)
        tasks = [asyncio.create_task(holds(semaphore, trace, one, turns)) for one, turns in zip("abc", (1, 3, 5))]
        tasks += [asyncio.create_task(holds(semaphore, trace, one)) for one in "de"]
        await idle(1)
        if looks:
            assert len(semaphore._waiters) == 2
        semaphore.limit = 1
        trace(semaphore._value)
        await asyncio.gather(*tasks)
        trace(semaphore._value)

    assert events(main) == "+a +b +c -2 -a -b -c +d -d +e -e 1"


@EACH_CLASS
def test_0_pauses(impl, name):
    async def main(trace):
        semaphore = getattr(impl, name)(2)
        tasks = [asyncio.create_task(holds(semaphore, trace, one)) for one in "abcd"]
        await idle(1)
        semaphore.limit = 0
        await idle(10)
        trace(f"{semaphore._value}{semaphore.locked()}")
        semaphore.limit = 1
        await asyncio.gather(*tasks)
        trace(semaphore._value)

    assert events(main) == "+a +b -a -b 0True +c -c +d -d 1"


@EACH_CLASS
def test_who_has_been_handed_a_slot_keeps_it_when_the_limit_is_lowered(impl, name):
    async def main(trace):
        semaphore = await taken(getattr(impl, name)(1), 1)
        tasks = [asyncio.create_task(holds(semaphore, trace, one)) for one in "ab"]
        await idle(1)
        semaphore.release()
        semaphore.limit = 0
        trace(semaphore._value)
        await idle(10)
        semaphore.limit = 1
        await asyncio.gather(*tasks)
        trace(semaphore._value)

    assert events(main) == "-1 +a -a +b -b 1"


@EACH_CLASS
def test_raising_it_while_more_are_held_than_before_wakes_nobody(impl, name):
    async def main(trace):
        semaphore = await taken(getattr(impl, name)(4), 4)
        task = asyncio.create_task(holds(semaphore, trace, "a"))
        await idle(1)
        semaphore.limit = 1
        semaphore.limit = 3
        await idle(3)
        trace(semaphore._value)
        semaphore.release()
        await idle(3)
        trace(semaphore._value)
        semaphore.release()
        await task
        trace(semaphore._value)

    assert events(main) == "-1 0 +a -a 1"


@EACH_CLASS
def test_one_that_is_cancelled_while_the_count_is_negative_gives_nothing_back(impl, name):
    async def main():
        semaphore = await taken(getattr(impl, name)(2), 2)
        semaphore.limit = 1
        waiting = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        waiting[0].cancel()
        await idle(2)
        assert semaphore._value == -1
        semaphore.release()
        semaphore.release()
        await waiting[1]
        assert semaphore._value == 0

    run(main)


@EACH_CLASS
def test_one_that_is_cancelled_with_a_slot_after_the_limit_was_lowered_hands_none_on(impl, name):
    async def main():
        semaphore = await taken(getattr(impl, name)(1), 1)
        waiting = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        semaphore.release()
        semaphore.limit = 0
        waiting[0].cancel()
        await idle(2)
        assert (semaphore._value, waiting[0].cancelled(), waiting[1].done()) == (0, True, False)
        semaphore.limit = 1
        await waiting[1]
        assert semaphore._value == 0

    run(main)


@EACH_CLASS
def test_a_user_may_change_it_inside(impl, name):
    async def main(trace):
        semaphore = getattr(impl, name)(1)

        async def raises():
            async with semaphore:
                semaphore.limit += 1
                trace(semaphore.limit)
                await idle(1)

        await asyncio.gather(*(raises() for _ in range(4)))
        trace(semaphore._value)

    assert events(main) == "2 3 4 5 5"


# Calls whose limit it is

WAYS = {
    "gather": lambda impl, semaphore, functions: impl.gather(*[function() for function in functions], limit=semaphore),
    "run_all": lambda impl, semaphore, functions: impl.run_all(functions, limit=semaphore),
    "await amap": lambda impl, semaphore, functions: impl.amap(lambda call: call(), functions, limit=semaphore),
    "gated_coro": lambda impl, semaphore, functions: asyncio.gather(
        *[impl.gated_coro(semaphore, function()) for function in functions]
    ),
}


async def as_results(awaitable):
    return await awaitable


@EACH_CLASS
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_call_follows_it_up_and_down_while_it_runs(impl, name, way):
    async def main():
        semaphore = getattr(impl, name)(2)
        running = Running()

        async def counts(turns):
            with running:
                await idle(turns)

        call = asyncio.create_task(as_results(way(impl, semaphore, [lambda: counts(2) for _ in range(120)])))
        seen = []
        for limit in (5, 1, 0, 3):
            await idle(6)
            semaphore.limit = limit
            await idle(6)
            running.most = 0
            await idle(9)
            seen.append(running.most)
        await call
        assert semaphore._value == 3
        return seen

    assert run(main) == [5, 1, 0, 3]
