"""Whether turns are full: in what step the next item starts before that is known, and where they are not.

A call begins without knowing (UNKNOWN). If a second item ends in the first turn in which any do, turns are FULL from then on, and what
starts next does so in a turn of its own, together (test_when_the_next_starts.py); otherwise they are SPARSE. After sixty-four ends more,
eight turns are COUNTED; with thirty-two ends they are FULL. Everywhere but in FULL the next item starts in the step of the one that ended.
"""

import asyncio
import functools
import gc
import sys

import pytest

from contract_tools import HAS_EAGER_TASKS, WAYS, Trace, idle, is_closed, item, run


class Loop(asyncio.SelectorEventLoop):
    """Tells each call when a pass of it is scheduled: ".", or "x" if that fails, as it does once with the error `refuses`."""

    refuses = None

    def __init__(self):
        super().__init__()
        self.call_of = {}
        self.latest = None

    def call_soon(self, callback, *args, context=None):
        gathering = getattr(callback, "__self__", None)
        if type(gathering).__name__ == "_Gathering" and self.latest is not None:
            events = self.call_of.setdefault(gathering, self.latest).events
            if self.refuses is not None:
                error, self.refuses = self.refuses, None
                events.append("x")
                raise error
            events.append(".")
        return super().call_soon(callback, *args, context=context)


def run_on_it(main, **options):
    return run(main, loop_factory=Loop, **options)


async def never_suspends():
    pass


class Call:
    """A call whose items end when they are told to; `special` are functions that take the place of some, by their numbers.

    In `events`, or what look() returns, "+" is the start of an item, "-" its end.
    """

    def __init__(self, impl, limit, *, way="run_all", special={}, length=900, **options):
        self.running = {}
        self.events = []
        functions = [special.get(number, functools.partial(self.item, number)) for number in range(length)]
        asyncio.get_running_loop().latest = self
        if options:
            self.caller = asyncio.ensure_future(impl.run_all(functions, limit=limit, **options))
        else:
            self.caller = asyncio.ensure_future(WAYS[way](impl, limit, functions))

    async def item(self, number):
        self.events.append("+")
        self.running[number] = asyncio.get_running_loop().create_future()
        try:
            await self.running[number]
        finally:
            self.events.append("-")
        return number

    def end(self, count, how=lambda future: future.set_result(None)):
        """Have so many items end in the next turn, the oldest first."""
        for number in list(self.running)[:count]:
            how(self.running.pop(number))

    def look(self):
        events = "".join(self.events)
        self.events.clear()
        return events

    async def begin(self):
        await idle(3)
        return self.look().removeprefix(".")  # unless the first items begin in the call

    async def turns(self, counts, *how):
        """What happens where so many items end in one turn, and none in the next: "the one|the other"."""
        return [turns for [turns] in await turns_of([self], [[count] for count in counts], *how)]

    async def run_out(self):
        while self.running:
            self.end(len(self.running))
            await idle(2)

    async def finish(self):
        await self.run_out()
        return await self.caller


async def turns_of(calls, rounds, *how):
    """What happens in each call where so many of its items end in one turn, and none in the next."""
    seen = []
    for counts in rounds:
        for call, count in zip(calls, counts, strict=True):
            call.end(count, *how)
        await asyncio.sleep(0)
        ends = [call.look() for call in calls]
        await asyncio.sleep(0)
        seen.append([f"{end}|{call.look()}" for end, call in zip(ends, calls, strict=True)])
    return seen


# What happens where so many items end in a turn, and there is a next one for each.


def sparse(count):
    """Each starts the next in its own step."""
    return f"{'-+' * count}|"


def counted(count):
    """So they do. The first schedules a pass, which tells that the turn is over, and nothing starts in that."""
    return f"-.+{'-+' * (count - 1)}|" if count else "|"


unknown = counted


def fills(in_place):
    """After so many turns are full: what starts next waits for the pass that is scheduled already."""

    def look(count):
        waiting = count - in_place
        return f"-.{'+-' * (in_place - 1)}{'+' * (in_place > 0)}{'-' * (waiting - (in_place == 0))}|{'+' * waiting}"

    return look


def full(count):
    """The first schedules a pass, in which the next ones start."""
    return f"-.{'-' * (count - 1)}|{'+' * count}" if count else "|"


LIMIT = 8
# The turns are sparse at the first end, and now they are counted.
FROM_ONE_TO_COUNTED = [(unknown, [1]), (sparse, [1] * 64)]
FROM_TWO_TO_FULL = [(fills(1), [2])]
FROM_FOUR_TO_FULL = [(counted, [4] * 7), (fills(3), [4])]
# {what: what turns are, and how many items end in each}
ROUNDS = {
    "one end in the first turn": [(unknown, [1]), (sparse, [1] * 64), (counted, [1])],
    "two": [*FROM_TWO_TO_FULL, (full, [1] * 3), (sparse, [1])],
    "as many as run": [(fills(1), [LIMIT]), (full, [LIMIT] * 60)],
    "one in the first turn in which any do": [(unknown, [0, 0, 0, 1]), (sparse, [1])],
    "two in that": [(unknown, [0, 0, 0]), *FROM_TWO_TO_FULL, (full, [1])],
    "many in the turns after the first": [
        (unknown, [1]),
        (sparse, [LIMIT] * 8),
        (counted, [LIMIT] * 3),
        (fills(7), [8]),
    ],
    "sixty-four ends in turns of one or several": [
        (unknown, [1]),
        (sparse, [1, 0, 8, 7, 2, 0, 6, 8, 8, 8, 8, 8]),
        (counted, [1]),
    ],
    "eight turns with one end each": [*FROM_ONE_TO_COUNTED, (counted, [1] * 8), (sparse, [1])],
    "eight turns with 31 ends": [*FROM_ONE_TO_COUNTED, (counted, [4, 4, 4, 4, 4, 4, 4, 3]), (sparse, [1])],
    "eight turns with 32 ends": [*FROM_ONE_TO_COUNTED, *FROM_FOUR_TO_FULL, (full, [1])],
    "most of them in the first": [*FROM_ONE_TO_COUNTED, (counted, [8, 8, 8, 4, 1, 1, 1]), (fills(0), [1]), (full, [1])],
    "most of them in the last": [*FROM_ONE_TO_COUNTED, (counted, [1, 1, 1, 1, 4, 8, 8]), (fills(7), [8]), (full, [1])],
    "more than 32 ends": [*FROM_ONE_TO_COUNTED, (counted, [8, 8, 7, 6]), (fills(2), [7]), (full, [1])],
    "all that are over in the last": [*FROM_ONE_TO_COUNTED, (counted, [8, 8, 8, 7]), (fills(0), [5]), (full, [1])],
    "turns without an end between them": [
        (unknown, [0, 1, 0]),
        (sparse, [0, 1] * 64),
        (counted, [0, 4, 0] * 7),
        (fills(3), [4]),
        (full, [0, 1, 0, 1, 0, 0, 1]),
        (sparse, [0, 1]),
    ],
    "each eight turns are judged by themselves": [
        *FROM_ONE_TO_COUNTED,
        (counted, [3] * 8),
        *[(sparse, [1] * 64), (counted, [1] * 8)] * 3,
        (sparse, [1] * 64),
        *FROM_FOUR_TO_FULL,
        (full, [1]),
    ],
    "four passes for seven ends": [*FROM_TWO_TO_FULL, (full, [2, 2, 1]), (sparse, [1])],
    "four passes for eight ends": [*FROM_TWO_TO_FULL, (full, [2, 2, 2]), (full, [1, 1, 1, 1]), (sparse, [1])],
    "whichever has most": [*FROM_TWO_TO_FULL, (full, [4, 1, 1]), (full, [1, 1, 1, 5]), (full, [1] * 4), (sparse, [1])],
    "each four passes are judged by themselves": [
        (fills(1), [8]),
        (full, [8, 8, 8]),
        (full, [1, 1, 1, 4]),
        (sparse, [1]),
    ],
    "those of the first turn are among them": [(fills(1), [5]), (full, [1] * 7), (sparse, [1])],
    "all four of them": [(fills(1), [4]), (full, [1] * 3), (sparse, [1])],
    "of the counted turns, those of the last are": [
        *FROM_ONE_TO_COUNTED,
        (counted, [8] * 3),
        (fills(7), [8]),
        (full, [1] * 7),
        (sparse, [1]),
    ],
    "and no others": [*FROM_ONE_TO_COUNTED, (counted, [8, 8, 8, 4]), (fills(3), [4]), (full, [1] * 3), (sparse, [1])],
    "the other way round": [
        *FROM_TWO_TO_FULL,
        (full, [1] * 3),
        (sparse, [1] * 64),
        *FROM_FOUR_TO_FULL,
        (full, [1]),
    ],
    "all of that": [
        *FROM_TWO_TO_FULL,
        *[
            (full, [1] * 3),
            (sparse, [1] * 64),
            (counted, [1] * 8),
            (sparse, [1] * 64),
            *FROM_FOUR_TO_FULL,
        ]
        * 2,
        (full, [1, 1, 1]),
        (sparse, [1]),
    ],
}


def expected_of(rounds):
    return [look(count) for look, counts in rounds for count in counts]


def counts_of(rounds):
    return [count for _, counts in rounds for count in counts]


async def check_rounds(call, rounds, *how):
    assert await call.turns(counts_of(rounds), *how) == expected_of(rounds)


def check_call(impl, rounds, *how, eager=False, **options):
    if eager and not HAS_EAGER_TASKS:
        pytest.skip("eager_task_factory is new in 3.12")

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory if eager else None)
        call = Call(impl, LIMIT, **options)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, rounds, *how)
        await call.finish()

    run_on_it(main)


@pytest.mark.parametrize("what", ROUNDS)
def test_each_call_learns_whether_turns_are_full(impl, what):
    check_call(impl, ROUNDS[what])


@pytest.mark.parametrize("way", WAYS)
def test_in_every_function(impl, way):
    check_call(impl, ROUNDS["all of that"], way=way)


@pytest.mark.parametrize("what", ["all of that", "eight turns with 31 ends", "eight turns with 32 ends"])
def test_where_an_eager_factory_makes_the_tasks(impl, what):
    check_call(impl, ROUNDS[what], eager=True)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("how", [lambda future: future.set_exception(ValueError()), asyncio.Future.cancel])
def test_items_that_end_with_an_error_count_as_well(impl, how, eager):
    check_call(impl, ROUNDS["all of that"], how, eager=eager, return_exceptions=True)


def test_in_debug_mode(impl):
    async def main():
        call = Call(impl, LIMIT)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, ROUNDS["all of that"])
        await call.finish()

    run_on_it(main, debug=True)


@pytest.mark.parametrize("last, then", [((counted, [5]), sparse), ((fills(5), [6]), full)])
def test_the_sixty_fourth_end_is_not_counted_but_those_after_it_in_that_turn_are(impl, last, then):
    async def main():
        call = Call(impl, LIMIT)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, [(unknown, [1]), (sparse, [8] * 7 + [7])])
        assert await call.turns([3]) == ["-+-.+-+|"]
        await check_rounds(call, [(counted, [4] * 6), last, (then, [1])])
        await call.finish()

    run_on_it(main)


# --- What a turn is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turns, expected",
    [
        # "b" ends before "a" makes its step in that turn, which is before the pass in the next one: two ends, so "d" waits.
        ([2, 1, 3, 1, 1], ["", "+a +b", "-b +c", "-a +d", "-d", "+e -c", "-e"]),
        # "b" makes its step after "a" has ended, and so in the next turn after the pass.
        ([1, 2, 3, 1, 1], ["", "+a +b", "-a +c", "-b +d", "-d +e", "-c -e"]),
    ],
)
def test_a_turn_is_over_when_its_pass_begins(impl, turns, expected):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(2, *map(functools.partial(item, trace), "abcde", turns))
        trace.stop()
        return trace.turns

    assert run(main) == expected


def test_items_that_take_one_turn_each_beside_one_that_lasts(impl):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(2, item(trace, "z", 120), *[item(trace, number) for number in range(80)])
        trace.stop()
        return trace.turns

    in_place = [f"-{number} +{number + 1}" for number in range(79)]
    assert run(main) == ["", "+z +0", *in_place, "-79", *[""] * 39, "-z"]


# --- Items that never suspend --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, turns, expected",
    [
        (2, [1, 1, 0, 0, 0, 1], ["", "+a +b", "-a +c -c +d -d +e -e +f -b", "-f"]),
        (3, [1, 1, 0, 1, 0, 0, 1], ["", "+a +b +c -c +d", "-a +e -e +f -f +g -b -d", "-g"]),
        (2, [1, 1, 0, 0, 0], ["", "+a +b", "-a +c -c +d -d +e -e -b"]),
        (2, [2, 1, 0, 0, 2, 0, 0], ["", "+a +b", "-b +c -c +d -d +e", "-a +f -f +g -g", "-e"]),
    ],
)
def test_they_are_followed_in_the_same_step_while_turns_are_counted(impl, limit, turns, expected):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(limit, *map(functools.partial(item, trace), "abcdefg", turns))
        trace.stop()
        return trace.turns

    assert run(main) == expected


@pytest.mark.parametrize("way", WAYS)
def test_their_ends_are_not_counted(impl, way):
    """Neither where turns are, nor among the sixty-four."""

    async def main():
        numbers = [3, 4, 10, 11, 12, 30, *range(76, 112)]
        call = Call(impl, 3, special=dict.fromkeys(numbers, never_suspends), way=way)
        assert await call.begin() == "+++"
        await check_rounds(call, ROUNDS["one end in the first turn"][:2])
        await check_rounds(call, [(counted, [3] * 7 + [2]), (sparse, [1] * 64), (counted, [1] * 8)])
        await call.finish()

    run_on_it(main)


# --- Where there is nothing to count -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_where_nothing_else_runs_nothing_is_counted(impl, way):
    async def main():
        call = Call(impl, 1, way=way)
        assert await call.begin() == "+"
        await check_rounds(call, [(sparse, [1] * 200)])
        await call.finish()

    run_on_it(main)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "constrained_execution"])
def test_without_a_limit_nothing_is_counted(impl, way):
    async def main():
        call = Call(impl, None, way=way, length=9)
        assert await call.begin() == "+" * 9
        assert await call.turns([1, 2, 1]) == ["-|", "--|", "-|"]
        await call.finish()

    run_on_it(main)


@pytest.mark.parametrize("way", WAYS)
def test_nor_is_it_where_nothing_is_queued(impl, way):
    """An iterator has to be asked, once."""

    async def main():
        call = Call(impl, 8, way=way, length=8)
        assert await call.begin() == "+" * 8
        first = "-|" if way == "gather" else "-.|"
        assert await call.turns([1, 1, 2, 1]) == [first, "-|", "--|", "-|"]
        await call.finish()

    run_on_it(main)


# --- Passes that are scheduled for something else ------------------------------------------------------------------------


def call_with_long_items(impl, limit, numbers):
    """A call some of whose items, "!", never suspend, and use up the slice, so that the next pass is scheduled."""
    now = 0.0

    def clock():
        return now

    async def takes_long():
        nonlocal now
        now += 0.002
        call.events.append("!")

    impl._set_clock(clock)
    call = Call(impl, limit, special=dict.fromkeys(numbers, takes_long))
    return call


def test_sparse_ends_wait_for_a_pass_that_is_scheduled_anyway(impl):
    """By the slice, here, in the step of an item that ends before them in the same turn."""

    async def main():
        call = call_with_long_items(impl, 5, [9])
        assert await call.begin() == "+++++"
        await check_rounds(call, [(unknown, [1]), (sparse, [1] * 3)])
        assert await call.turns([3]) == ["-!.--|+++"]
        await check_rounds(call, [(sparse, [1] * 58), *FROM_FOUR_TO_FULL, (full, [1])])  # they are of the sixty-four
        await call.finish()

    run_on_it(main)


def test_the_sixty_fourth_may_wait_and_the_pass_is_not_counted(impl):
    async def main():
        call = call_with_long_items(impl, 5, [67])
        assert await call.begin() == "+++++"
        await check_rounds(call, [(unknown, [1]), (sparse, [1] * 61)])
        assert await call.turns([3]) == ["-!.--|+++"]
        await check_rounds(call, [(counted, [4] * 7 + [3]), (sparse, [1])])
        await call.finish()

    run_on_it(main)


@pytest.mark.parametrize("last, then", [((counted, [3]), sparse), ((fills(3), [4]), full)])
def test_it_is_counted_if_more_end_in_that_turn(impl, last, then):
    """They start one item in their step, as all do beside a pass in which something is to start."""

    async def main():
        call = call_with_long_items(impl, 5, [68])
        assert await call.begin() == "+++++"
        await check_rounds(call, [(unknown, [1]), (sparse, [1] * 62)])
        assert await call.turns([3]) == ["-!.--+|++"]
        await check_rounds(call, [(counted, [5] * 3 + [4] * 3), last, (then, [1])])
        await call.finish()

    run_on_it(main)


def test_while_turns_are_counted_a_pass_is_scheduled_once(impl):
    """What the slice leaves starts in that; until then each step starts one item."""

    async def main():
        call = call_with_long_items(impl, 5, [5])
        assert await call.begin() == "+++++"
        assert await call.turns([3]) == ["-.!--|+++"]
        await check_rounds(call, [(full, [1, 1, 1]), (sparse, [1])])
        await call.finish()

    run_on_it(main)


def test_a_pass_for_which_no_item_has_ended_does_not_tell_whether_turns_are_full(impl):
    async def main():
        call = call_with_long_items(impl, 3, [0, 1, 2])
        assert await call.begin() == "!.!."
        assert await call.turns([0]) == ["!.|+++"]
        await check_rounds(call, [*FROM_TWO_TO_FULL, (full, [1])])
        await call.finish()

    run_on_it(main)


def test_such_a_pass_is_not_one_of_four(impl):
    async def main():
        call = call_with_long_items(impl, 5, [8])
        assert await call.begin() == "+++++"
        await check_rounds(call, [*FROM_TWO_TO_FULL, (full, [1])])
        assert await call.turns([1, 0]) == ["-.|!.", "+|"]
        await check_rounds(call, [(full, [5]), (full, [2, 2, 2, 1]), (sparse, [1])])
        await call.finish()

    run_on_it(main)


def test_nor_one_of_eight(impl):
    async def main():
        call = call_with_long_items(impl, 5, [71, 72])
        assert await call.begin() == "+++++"
        await check_rounds(call, [*FROM_ONE_TO_COUNTED, (counted, [1])])
        assert await call.turns([1, 0]) == ["-.!|!.", "+|"]
        await check_rounds(call, [(counted, [5] * 5), (fills(4), [5]), (full, [1])])
        await call.finish()

    run_on_it(main)


# --- An async context manager as limit -----------------------------------------------------------------------------------

# Here "+" is the start of an item that has waited for the semaphore: in the turn after somebody has left that, whatever is known.
# It schedules a pass, if none is yet, in which the next one begins to wait.


def sparse_at_a_gate(count):
    return "-|.+"


def counted_at_a_gate(count):
    return "-.|+"


def test_at_a_gate_turns_are_counted_likewise(impl):
    async def main():
        call = Call(impl, asyncio.Semaphore(2))
        assert await call.begin() == "++"
        rounds = [(sparse_at_a_gate, [1] * 64), (counted_at_a_gate, [1] * 8)]
        await check_rounds(call, [(counted_at_a_gate, [1]), *rounds * 2, (sparse_at_a_gate, [1])])
        await call.finish()

    run_on_it(main)


def test_where_turns_are_full_ends_do_not_count_as_long_as_an_item_waits_for_the_gate(impl):
    """There is no room for another one. Sparse turns would be counted after sixty-four."""

    async def main():
        call = Call(impl, asyncio.Semaphore(2))
        assert await call.begin() == "++"
        assert await call.turns([2]) == ["-.-|++"]
        await check_rounds(call, [(sparse_at_a_gate, [1] * 200)])
        await call.finish()

    run_on_it(main)


def test_sparse_ends_wait_for_the_pass_of_an_item_that_the_gate_let_in(impl):
    async def main():
        call = Call(impl, asyncio.Semaphore(2))
        assert await call.begin() == "++"
        await check_rounds(call, [(counted_at_a_gate, [1])])
        seen = []
        for count in (1, 1, 0, 0):
            call.end(count)
            await asyncio.sleep(0)
            seen.append(call.look())
        assert seen == ["-", ".+-", "+", ""]
        await call.finish()

    run_on_it(main)


# --- Tasks that take a turn to begin -------------------------------------------------------------------------------------


def test_they_are_not_counted(impl):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options))
        call = Call(impl, 4)
        assert await call.begin() == "++++"
        assert await call.turns([1, 2, 4] * 50) == ["-|+", "--|++", "----|++++"] * 50
        await call.finish()

    run_on_it(main)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="Tasks can begin at once from 3.12 on")
def test_nor_are_they_among_others(impl):
    begin_later = {3, 4, 5, 12, 70}

    async def main():
        loop = asyncio.get_running_loop()

        def factory(loop, coroutine, **options):
            eager = coroutine.cr_frame.f_locals.get("number") not in begin_later
            return asyncio.Task(coroutine, loop=loop, eager_start=eager, **options)

        loop.set_task_factory(factory)
        call = Call(impl, 3, way="gather")
        assert await call.begin() == "+++"
        seen = []
        for _ in range(79):
            [turns] = await call.turns([1])
            await asyncio.sleep(0)
            seen.append(f"{turns}|{call.look()}")
        assert seen == [
            "-.|+|",  # of 0; 3 begins a turn later
            *["-|+|"] * 2,  # of 1 and 2, the first of the sixty-four
            *["-+||"] * 3,  # of 3, 4, 5, which are not
            *["-+||"] * 3,
            "-|+|",  # of 9; 12 begins a turn later
            *["-+||"] * 2,
            "-+||",  # of 12
            *["-+||"] * 54,
            "-|+|",  # of 67; 70 begins a turn later
            "-+||",  # of 68, the sixty-fourth
            "-.+||",  # of 69, the first of eight
            "-+||",  # of 70
            *["-.+||"] * 7,
            "-+||",
        ]
        await call.finish()

    run_on_it(main)


# --- Several calls -------------------------------------------------------------------------------------------------------


def test_each_call_judges_for_itself(impl):
    one = [(unknown, [1]), (sparse, [1] * 64), *FROM_FOUR_TO_FULL, (full, [1, 1, 1]), (sparse, [1] * 2)]
    other = [*FROM_TWO_TO_FULL, (full, [3, 2, 2]), (full, [2] * 64), (full, [1] * 4), (sparse, [1] * 6)]

    async def main():
        calls = [Call(impl, 5)]
        assert await calls[0].begin() == "+++++"
        calls.append(Call(impl, 5))
        assert await calls[1].begin() == "+++++"
        rounds = [*zip(counts_of(one), counts_of(other), strict=True)]
        assert await turns_of(calls, rounds) == [*map(list, zip(expected_of(one), expected_of(other), strict=True))]
        for call in calls:
            await call.finish()

    run_on_it(main)


# --- Whatever happens while a pass is scheduled that only counts ---------------------------------------------------------

COUNTING = {"in the first turn": [], "later": [*FROM_ONE_TO_COUNTED, (counted, [4, 4, 4])]}


@pytest.mark.parametrize("when", COUNTING)
@pytest.mark.parametrize("way", WAYS)
def test_if_the_call_is_cancelled_nothing_starts(impl, way, when):
    async def main():
        call = Call(impl, LIMIT, way=way)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, COUNTING[when])
        call.end(1)
        await asyncio.sleep(0)
        assert call.look() == "-.+"
        call.caller.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="^enough$"):
            await call.caller
        await idle(3)
        assert call.look() == "-" * LIMIT

    run_on_it(main)


@pytest.mark.parametrize("when", COUNTING)
def test_if_an_error_cancels_the_call_nothing_starts(impl, when):
    async def main():
        call = Call(impl, LIMIT, cancel_on_error=True)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, COUNTING[when])
        call.end(1)
        call.end(1, lambda future: future.set_exception(ValueError("enough")))
        call.end(1)
        with pytest.raises(ValueError, match="^enough$"):
            await call.caller
        await idle(3)
        assert call.look() == "-.+--" + "-" * (LIMIT - 2)

    run_on_it(main)


@pytest.mark.parametrize("when", COUNTING)
def test_after_an_error_the_queue_goes_on_and_so_does_the_counting(impl, when):
    async def main():
        call = Call(impl, LIMIT, cancel_on_error=False)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, COUNTING[when])
        assert await call.turns([1], lambda future: future.set_exception(ValueError("b"))) == [counted(1)]
        assert call.caller.done()
        with pytest.raises(ValueError, match="^b$"):
            await call.caller
        if when == "later":
            await check_rounds(call, [(counted, [4] * 3), (fills(6), [7])])  # 4 + 4 + 4 + 1 + 4 + 4 + 4 + 7
            await check_rounds(call, [(full, [1] * 7), (sparse, [1])])
        else:
            await check_rounds(call, [*FROM_ONE_TO_COUNTED[1:], *FROM_FOUR_TO_FULL])
            await check_rounds(call, [(full, [1] * 3), (sparse, [1])])
        await call.run_out()

    run_on_it(main)


def close(held):
    held.pop().close()


def throw(held):
    with pytest.raises(ValueError, match="^thrown$"):
        held.pop().throw(ValueError("thrown"))


@pytest.mark.parametrize("end", [close, throw, list.clear])
def test_if_the_call_is_closed_or_dropped_nothing_starts(impl, end):
    async def main():
        trace = Trace()
        loop = asyncio.get_running_loop()

        async def last_of_the_turn():
            trace("+a")
            await asyncio.sleep(0)
            loop.call_soon(end, held)  # before the pass, which is scheduled when this has ended
            trace("-a")

        async def waits(name):
            trace(f"+{name}")
            try:
                await loop.create_future()
            finally:
                trace(f"-{name}")

        items = [waits("b"), last_of_the_turn(), waits("c"), waits("d")]
        held = [impl.gather_with_concurrency(2, *items)]
        trace.start()
        held[0].send(None)
        await idle(6)
        trace.stop()
        assert all(map(is_closed, items))
        return trace.turns

    assert run(main) == ["", "+b +a", "-a +c", "", "-b -c"]


class Refused(Exception):
    pass


@pytest.mark.parametrize("when", COUNTING)
@pytest.mark.parametrize("eager", [False, True])
def test_if_the_loop_refuses_the_pass_that_is_reported_and_the_turn_is_not_counted(impl, monkeypatch, eager, when):
    if eager and not HAS_EAGER_TASKS:
        pytest.skip("eager_task_factory is new in 3.12")
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_value))

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory if eager else None)
        call = Call(impl, LIMIT)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, COUNTING[when])
        loop.refuses = error = Refused()
        assert await call.turns([1]) == ["-x+|"]
        assert reported == [error]
        # For the next end another one is scheduled.
        loop.refuses = another = Refused()
        assert await call.turns([3]) == ["-x+-.+-|+" if when == "in the first turn" else "-x+-.+-+|"]
        assert reported == [error, another]
        if when == "later":
            await check_rounds(call, [(counted, [4, 4, 4, 5]), (sparse, [1])])  # 4 + 4 + 4 + 2 + 4 + 4 + 4 + 5
        else:
            await check_rounds(call, [(full, [1] * 3), (sparse, [1])])
        assert await call.finish() == [*range(900)]

    run_on_it(main)


@pytest.mark.parametrize("when", COUNTING)
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_if_an_interrupt_comes_in_between_it_leaves_the_loop_and_nothing_is_lost(impl, interrupt, eager, when):
    if eager and not HAS_EAGER_TASKS:
        pytest.skip("eager_task_factory is new in 3.12")
    reports = []

    async def main():
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        loop.set_task_factory(asyncio.eager_task_factory if eager else None)
        call = Call(impl, LIMIT)
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, COUNTING[when])
        loop.refuses = interrupt("now")
        assert await call.turns([1]) == ["-x.|+"]
        if when == "later":
            await check_rounds(call, [(counted, [4] * 4 + [3]), (sparse, [1])])
        else:
            await check_rounds(call, [*FROM_TWO_TO_FULL, (full, [1])])
        assert await call.finish() == [*range(900)]

    loop = Loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(interrupt, match="^now$"):
            loop.run_until_complete(task)
        assert not task.done()
        loop.run_until_complete(task)
    finally:
        loop.close()
    gc.collect()
    assert reports == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_a_pass_that_an_interrupt_leaves_has_been_one(impl, interrupt):
    async def interrupts():
        raise interrupt("now")

    async def main():
        call = Call(impl, LIMIT, way="gather", special={LIMIT + 2: interrupts})
        assert await call.begin() == "+" * LIMIT
        await check_rounds(call, FROM_TWO_TO_FULL)
        call.end(1)
        await asyncio.sleep(0)
        assert call.look() == "-."
        call.end(1)
        await asyncio.sleep(0)  # the pass leaves the loop; in what is left of that turn the other item ends
        assert call.look() == ".-"
        await asyncio.sleep(0)
        assert call.look() == "++"
        await check_rounds(call, [(full, [3]), (sparse, [1])])
        with pytest.raises(interrupt, match="^now$"):
            call.caller.result()
        await call.run_out()

    loop = Loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(interrupt, match="^now$"):
            loop.run_until_complete(task)
        assert not task.done()
        loop.run_until_complete(task)
    finally:
        loop.close()


# --- For tests -----------------------------------------------------------------------------------------------------------


def test_calls_begin_with_full_turns_if_they_are_told_to(impl):
    async def main():
        assert impl._set_full_turns(True) is False
        call = Call(impl, LIMIT)
        assert await call.begin() == "+" * LIMIT
        assert impl._set_full_turns(False) is True
        await check_rounds(call, [(full, [1] * 4), (sparse, [1])])
        await call.finish()

    run_on_it(main)
