"""The C, with and without Task reuse, and the reference give the same traces, the order within an instant included.

Programs here may race: they raise without a delay, and touch their own and each other's Tasks (hold, name,
cancel, annotate, await, watch). What one item leaves on its Task must never be seen by another.
"""

import asyncio
import sys

import pytest

import random_programs as rp
from contract_tools import two_argument_factory
from effort import SHORT
from gatedcoro import _reference
from implementations import load_implementation

FRONTS = ["gather_with_concurrency", "gather", "run_all", "constrained_execution"]
OPTIONS = {
    "gather": ["return_exceptions", "cancel_on_error"],
    "run_all": ["return_exceptions", "cancel_on_error"],
}


def run(program, module, *, reuse, step, full_turns=False, task_factory=None):
    module._set_clock(rp.SteppingClock(step))
    try:
        with rp.task_reuse(module, reuse), rp.full_turns(module, full_turns):
            return rp.run_program(program, rp.engine_of(module), task_factory=task_factory)
    finally:
        module._set_clock(None)


@pytest.fixture(scope="module")
def core():
    return load_implementation("c")


# When a Task is freed within an instant depends on who holds a traceback, so it is compared by instant only, and
# not for items that raise.
FREED = {"task is gone"}
# An item that runs second in a Task ends before its Task does: the next item starts in the same step, or the Task waits for
# that. So what waits for the end of that Task (its callbacks, its death) may come later, within the same virtual instant.
MOVED_BY_REUSE = {"callback", "other ended", *FREED}


def without(kinds, trace):
    return [event for event in trace if event[2] not in kinds]


def by_instant(trace):
    raising = tuple(event[1] + "." for event in trace if event[2] == "ends with")
    return rp.by_instant([event for event in trace if event[2] not in FREED or not event[1].startswith(raising)])


def check(core, program, step):
    for full in (False, True):
        check_begun(core, program, step, full)


def check_begun(core, program, step, full):
    """Calls begin with full turns, or as they do."""
    expected = run(program, _reference, reuse=True, step=step, full_turns=full)
    for reuse in (False, True):
        actual = run(program, core, reuse=reuse, step=step, full_turns=full)
        moved = MOVED_BY_REUSE if reuse else FREED
        how = f"reuse={reuse}, full_turns={full}"
        assert without(moved, actual.trace) == without(moved, expected.trace), how
        assert by_instant(actual.trace) == by_instant(expected.trace), how
        assert actual.reports == expected.reports, how
        assert actual.outcome == expected.outcome, how


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_any_program_gives_the_same_trace(core, step):
    rp.check_programs(
        range(200),
        lambda program: check(core, program, step),
        fronts=FRONTS,
        leaves=rp.RACING_LEAVES,
        options=OPTIONS,
    )


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_programs_that_touch_tasks_give_the_same_trace(core, step):
    rp.check_programs(
        range(1000, 1300),
        lambda program: check(core, program, step),
        fronts=FRONTS,
        leaves=rp.TOUCHING_LEAVES,
        options=OPTIONS,
        nesting=False,
        strikes=(),
    )


def test_nested_and_cancelled_programs_that_touch_tasks_give_the_same_trace(core):
    rp.check_programs(
        range(2000, 2400),
        lambda program: check(core, program, 0.0),
        fronts=FRONTS,
        leaves=rp.TOUCHING_LEAVES,
        options=OPTIONS,
    )


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
@pytest.mark.parametrize("factory", ["ours", "none begins at once", "eager_task_factory"])
def test_programs_with_limits_in_a_row_give_the_same_trace(core, factory, step):
    if factory == "eager_task_factory" and sys.version_info < (3, 12):
        pytest.skip("Tasks can begin at once from 3.12 on")

    def check_rows(program):
        if factory == "ours":
            check(core, program, step)
            return
        make = two_argument_factory if factory == "none begins at once" else asyncio.eager_task_factory
        for full in (False, True):
            check_made_by(core, program, make, step, full)

    rp.check_programs(
        range(6000, 6200),
        check_rows,
        fronts=[front for front in FRONTS if front != "gather_with_concurrency"],
        leaves=rp.RACING_LEAVES,
        options=OPTIONS,
        rows=True,
    )


TELLING = {front: [*OPTIONS[front], "progress"] for front in OPTIONS}


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
@pytest.mark.parametrize("leaves", [rp.RACING_LEAVES, rp.TOUCHING_LEAVES], ids=["racing", "touching"])
def test_programs_that_tell_of_progress_give_the_same_trace(core, leaves, step):
    rp.check_programs(
        range(7000, 7200),
        lambda program: check(core, program, step),
        fronts=sorted(TELLING),
        leaves=leaves,
        options=TELLING,
    )


@pytest.mark.skipif(SHORT, reason="a part of the programs says little of them all")
def test_such_programs_are_told_often_and_fail_now_and_then(core):
    """Guards the tests above."""
    told = failed = 0
    for seed in range(7000, 7200):
        program = rp.ProgramMaker(seed, fronts=sorted(TELLING), leaves=rp.RACING_LEAVES, options=TELLING).program()
        record = run(program, core, reuse=True, step=0.0)
        told += sum(event[1].endswith("progress") for event in record.trace)
        failed += "progress" in str(record.outcome)
    assert told >= 200
    assert failed >= 10


LONG = {
    "fronts": FRONTS,
    "leaves": [*rp.TOUCHING_LEAVES, *rp.TOUCHES_OF_THE_WAITING],
    "options": {"gather": ["return_exceptions"], "run_all": ["return_exceptions"]},
    "maker": rp.LongProgramMaker,
}
LONG_SEEDS = range(5000, 5300)


def test_long_programs_that_tell_of_progress_give_the_same_trace(core):
    rp.check_programs(
        range(7200, 7260),
        lambda program: check_begun(core, program, 0.0, False),
        **{**LONG, "fronts": sorted(TELLING), "options": TELLING},
    )


def check_made_by(core, program, factory, step, full):
    expected = run(program, _reference, reuse=True, step=step, full_turns=full, task_factory=factory)
    actual = run(program, core, reuse=True, step=step, full_turns=full, task_factory=factory)
    # Who asks a cancelled Task of asyncio's for its error first gets the message.
    kinds = {"held task", *FREED}
    assert without(kinds, actual.trace) == without(kinds, expected.trace)
    assert actual.reports == expected.reports
    assert actual.outcome == expected.outcome


def some_begin_at_once(loop, coroutine, **options):
    """A task factory that makes eager Tasks of coroutines, and others of what is none."""
    return asyncio.Task(coroutine, loop=loop, eager_start=coroutine.__name__ == "run_item", **options)


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
@pytest.mark.parametrize("factory", ["none begins at once", "eager_task_factory", "some_begin_at_once"])
def test_whoever_makes_the_tasks_programs_give_the_same_trace(core, factory, step):
    if factory == "none begins at once":
        make = two_argument_factory
    elif sys.version_info < (3, 12):
        pytest.skip("Tasks can begin at once from 3.12 on")
    else:
        make = some_begin_at_once if factory == "some_begin_at_once" else asyncio.eager_task_factory

    def check_made_by_it(program):
        for full in (False, True):
            check_made_by(core, program, make, step, full)

    rp.check_programs(
        range(4000, 4200),
        check_made_by_it,
        fronts=FRONTS,
        leaves=rp.RACING_LEAVES,
        options=OPTIONS,
    )
    rp.check_programs(range(5300, 5340), check_made_by_it, **{**LONG, "leaves": rp.RACING_LEAVES})


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_long_programs_whose_turns_are_now_full_now_not_give_the_same_trace(core, step):
    rp.check_programs(LONG_SEEDS, lambda program: check_begun(core, program, step, False), **LONG)


@pytest.mark.skipif(SHORT, reason="a part of the programs says little of them all")
def test_such_programs_go_from_one_to_the_other(monkeypatch):
    """Guards the test above: what it is about comes up often."""
    calls = []

    class Turns(_reference.gathering.Turns):
        """Notes the initials of what its turns are, one after the other."""

        def __init__(self):
            self.path = ""
            calls.append(self)
            super().__init__()

        def _become(self, state):
            super()._become(state)
            self.path += state.name[0]

    monkeypatch.setattr(_reference.gathering, "Turns", Turns)
    rp.check_programs(LONG_SEEDS, lambda program: run(program, _reference, reuse=True, step=0.0), **LONG)
    assert len(calls) == len(rp.part_of(LONG_SEEDS))
    for arrow, least in {
        "US": 0.2,
        "UF": 0.5,
        "SC": 0.4,
        "CS": 0.3,
        "CF": 0.05,
        "FS": 0.4,
        "FF": 0.4,  # four passes have been for eight ends
        "SCSC": 0.1,
    }.items():
        share = sum(arrow in turns.path for turns in calls) / len(calls)
        assert share >= least, arrow


LOOKS = (("notes",), ("name",), ("cancelling",), ("get",), ("context_of_task",), ("own_task",))


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_many_short_items_on_few_slots_leave_no_trace_on_each_others_tasks(core, step):
    """Each item looks at its Task, does a thing or two to it, and ends; most Tasks may be used again."""

    def check_looking(program):
        items = tuple(item if item[0] == "future" else (item[0], (*LOOKS, *item[1])) for item in program.items * 2)
        check(core, program._replace(n=program.n and min(program.n, 2), items=items), step)

    rp.check_programs(
        range(3000, 3200),
        check_looking,
        fronts=["gather_with_concurrency"],
        leaves=[*rp.TOUCHES_OF_OWN_TASK, *rp.TOUCHES_OF_OWN_TASK, "raise", "leave_timeout_open", "poke_later"],
        nesting=False,
        strikes=(),
    )


YIELDS = ("coro", (("yield",),))
# Programs on which the implementations once differed.
ONCE_DIFFERENT = {
    "no items": ("gather_with_concurrency", 1, (), ()),
    "a slot left open by a slice": ("gather_with_concurrency", 2, (), (("coro", ()), YIELDS, YIELDS, YIELDS)),
    "a note on the error of a Task among the items": (
        "gather",
        None,
        (("cancel_on_error", True),),
        (("coro", (("raise", "ValueError"),)), ("task", (("raise", "ValueError"),))),
    ),
    "an item that awaits its own Task, second in a Task": (
        "constrained_execution",
        1,
        (),
        (("future", 1, "Cancelled"), ("coro", (("await_self",),)), ("coro", (("await_self",),))),
    ),
    "a callback on the Task of an item that is second in it": (
        "constrained_execution",
        1,
        (),
        (("task", ()), ("coro", (("add_callback",),)), YIELDS),
    ),
}


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
@pytest.mark.parametrize("name", ONCE_DIFFERENT)
def test_what_once_differed_gives_the_same_trace(core, name, step):
    front, n, options, items = ONCE_DIFFERENT[name]
    check(core, rp.with_distinct_delays(rp.Program(front, n, options, items, ())), step)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_finished_program_is_traced_in_full(core, reuse):
    """Guards the comparison: the trace of a known program holds what it should."""
    items = (("coro", (("yield",),)), ("coro", (("raise", "ValueError"),)))
    program = rp.with_distinct_delays(rp.Program("gather_with_concurrency", 1, (), items, ()))
    record = run(program, core, reuse=reuse, step=0.0)
    assert [event[1:3] for event in record.trace] == [
        ("/0", "start"),
        ("/0.0", "yield"),
        ("/0", "returns"),
        ("/1", "start"),
        ("/1", "ends with"),
        ("", "caller"),
        ("", "context"),
    ]
    assert record.outcome == (0, "raised", "ValueError", "/1.0")
