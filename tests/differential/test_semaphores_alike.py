"""Users of one semaphore, calls and streams among them, do the same on the C, with and without Task reuse, and on the reference, turn by turn.

Whatever is cancelled, timed out, closed and thrown into, and however the limit changes meanwhile: what random_semaphores checks
holds on each. Users without calls and streams do what they do with a model of asyncio's own semaphore.
"""

import asyncio
import collections
import sys

import pytest

import random_programs as rp
import random_semaphores as rsem
from contract_tools import two_argument_factory
from effort import SHORT
from gatedcoro import _reference
from implementations import asked_in_place, load_implementation

pytestmark = asked_in_place


@pytest.fixture(scope="module")
def core():
    return load_implementation("c")


def run(program, module, *, step=0.0, reuse=True, full_turns=False, **options):
    module._set_clock(rp.SteppingClock(step))
    try:
        with rp.task_reuse(module, reuse), rp.full_turns(module, full_turns):
            return rsem.run_semaphore_program(program, module, **options)
    finally:
        module._set_clock(None)


def compare(actual, expected, how):
    assert actual.trace == expected.trace, how
    assert actual.reports == expected.reports, how
    assert actual.outcome == expected.outcome, how


def makes_slots(part):
    """Whether somebody among these does, in a step of its own."""
    return isinstance(part, tuple) and (part[:1] in (("limit",), ("release",)) or any(map(makes_slots, part)))


def is_asked(part):
    """Whether there is a source among these whose end is not known."""
    return isinstance(part, tuple) and (
        (part[:1] == ("source",) and part != ("source", "list")) or any(map(is_asked, part))
    )


def check(core, program, step, **options):
    # What an item makes room for in its first step starts in the next turn where that step is one of a Task that is used again;
    # so is the next element of an iterator asked for. And there the clock is asked at other places.
    differs = step or makes_slots(program.source) or is_asked(program.source)
    reuses = (False,) if differs else (False, True)
    for full_turns in (False, True):
        expected = run(program, _reference, step=step, full_turns=full_turns, **options)
        for reuse in reuses:
            actual = run(program, core, step=step, full_turns=full_turns, reuse=reuse, **options)
            compare(actual, expected, f"reuse={reuse}, full_turns={full_turns}")


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_any_program_gives_the_same_trace(core, step):
    rp.check_programs(range(200), lambda program: check(core, program, step), maker=rsem.SemaphoreProgramMaker)


def test_it_does_so_where_nobody_looks_at_the_queue(core):
    """Who has looked may stand in it."""
    rp.check_programs(
        range(1000, 1200),
        lambda program: check(core, program, 0.0, looks_at_the_queue=False),
        maker=rsem.SemaphoreProgramMaker,
    )


@pytest.mark.parametrize("factory", ["none begins at once", "eager_task_factory"])
def test_whoever_makes_the_tasks(core, factory):
    make = two_argument_factory
    if factory == "eager_task_factory":
        if sys.version_info < (3, 12):
            pytest.skip("Tasks can begin at once from 3.12 on")
        make = asyncio.eager_task_factory
    rp.check_programs(
        range(2000, 2100),
        lambda program: check(core, program, 0.0, task_factory=make),
        maker=rsem.SemaphoreProgramMaker,
    )


@pytest.mark.parametrize("looks", [False, True], ids=["nobody looks", "somebody looks"])
def test_users_by_themselves_do_what_they_do_with_a_model_of_asyncios(impl, looks):
    def check_beside_the_model(program):
        expected = run(program, rsem.MODEL, looks_at_the_queue=looks)
        compare(run(program, impl, looks_at_the_queue=looks), expected, "beside the model")

    rp.check_programs(range(3000, 3300), check_beside_the_model, maker=rsem.SemaphoreProgramMaker, plain=True)


@pytest.mark.parametrize("seeds", [range(4000, 4200)])
def test_what_must_hold_does_on_each(impl, seeds):
    for full_turns in (False, True):
        rp.check_programs(
            seeds,
            lambda program: run(program, impl, full_turns=full_turns, looks_at_the_queue=False),
            maker=rsem.SemaphoreProgramMaker,
        )


@pytest.mark.skipif(SHORT, reason="a part of the programs says little of them all")
def test_the_programs_are_about_what_they_should_be():
    """Guards the tests above: what they are about comes up often."""
    seen = collections.Counter()
    for seed in range(200):
        program = rsem.SemaphoreProgramMaker(seed).program()
        events = run(program, _reference, looks_at_the_queue=False).trace
        kinds = collections.Counter(event[3] for event in events)
        told = {event[2] for event in events if event[3] == "asks"}
        entered = [event for event in events if event[3] == "enters"]
        seen["somebody waits"] += any(event[3] == "asks" for event in events) and len(told) > len(
            [event for event in entered if event[1] <= 1 and event[2] in told]
        )
        seen["an item enters"] += any("." in event[2] for event in entered)
        for kind in ("limit", "is cancelled", "close", "throw", "let go", "releases"):
            seen[kind] += kinds[kind] > 0 or any(kind in map(str, event) for event in events)
        seen["a cancelled user"] += any("CancelledError" in event for event in events)
    for kind, least in {
        "somebody waits": 60,
        "an item enters": 80,
        "limit": 60,
        "is cancelled": 60,
        "close": 5,
        "throw": 5,
        "let go": 10,
        "releases": 10,
        "a cancelled user": 60,
    }.items():
        assert seen[kind] >= least, (kind, seen)


def test_a_program_that_went_wrong_would_be_noticed(monkeypatch):
    """Guards what is checked."""

    class Loses(rsem.ModelSemaphore):
        async def acquire(self):
            try:
                return await super().acquire()
            except asyncio.CancelledError:
                self._value -= 1
                raise

    class Admits(rsem.ModelSemaphore):
        def locked(self):
            return False

    class Last(rsem.ModelSemaphore):
        def _wake(self):
            self._waiters.reverse()
            super()._wake()
            self._waiters.reverse()

    class Keeps(rsem.ModelSemaphore):
        async def acquire(self):
            if self.locked():
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.remove(waiter)
            else:
                self._value -= 1
            return True

    for wrong in (Loses, Admits, Last, Keeps):
        monkeypatch.setattr(rsem.MODEL, "Semaphore", wrong)
        with pytest.raises(AssertionError):
            for seed in range(3000, 3600):
                run(rsem.SemaphoreProgramMaker(seed, plain=True).program(), rsem.MODEL, looks_at_the_queue=False)
