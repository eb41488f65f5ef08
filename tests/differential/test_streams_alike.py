"""Streams, what as_completed() returns, and calls over async sources give the same traces on the C, with and without Task reuse,
and on the reference, turn by turn; and what a stream in order gives is what the plain loop gives.
"""

import asyncio
import sys

import pytest

import random_completions as rc
import random_programs as rp
import random_streams as rs
from contract_tools import two_argument_factory
from gatedcoro import _reference
from implementations import asked_in_place, load_implementation

pytestmark = asked_in_place

FRONTS = ["amap"] * 4 + ["run_all", "constrained_execution"]


def run(program, module, *, step, reuse=True, full_turns=False, task_factory=None):
    module._set_clock(rp.SteppingClock(step))
    try:
        with rp.task_reuse(module, reuse), rp.full_turns(module, full_turns):
            run_program = rc.run_completion_program if program.front == "as_completed" else rs.run_stream_program
            return run_program(program, module, task_factory=task_factory)
    finally:
        module._set_clock(None)


@pytest.fixture(scope="module")
def core():
    return load_implementation("c")


def check(core, program, step, **options):
    for full_turns in (False, True):
        expected = run(program, _reference, step=step, full_turns=full_turns, **options)
        for reuse in (False, True):
            actual = run(program, core, step=step, full_turns=full_turns, reuse=reuse, **options)
            how = f"reuse={reuse}, full_turns={full_turns}"
            assert actual.trace == expected.trace, how
            assert actual.reports == expected.reports, how
            assert actual.outcome == expected.outcome, how


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_any_program_gives_the_same_trace(core, step):
    rp.check_programs(
        range(300), lambda program: check(core, program, step), maker=rs.StreamProgramMaker, fronts=FRONTS
    )


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_programs_that_tell_of_progress_give_the_same_trace(core, step):
    rp.check_programs(
        range(3000, 3300), lambda program: check(core, program, step), maker=rs.TellingProgramMaker, fronts=FRONTS
    )


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
def test_any_program_of_as_completed_gives_the_same_trace(core, step):
    rp.check_programs(range(300), lambda program: check(core, program, step), maker=rc.CompletionProgramMaker)


@pytest.mark.parametrize("maker", [rs.StreamProgramMaker, rc.CompletionProgramMaker])
@pytest.mark.parametrize("factory", ["none begins at once", "eager_task_factory"])
def test_whoever_makes_the_tasks_programs_give_the_same_trace(core, factory, maker):
    make = two_argument_factory
    if factory == "eager_task_factory":
        if sys.version_info < (3, 12):
            pytest.skip("Tasks can begin at once from 3.12 on")
        make = asyncio.eager_task_factory
    rp.check_programs(
        range(1000, 1200), lambda program: check(core, program, 0.0, task_factory=make), maker=maker, fronts=FRONTS
    )


def by_label(trace, kind):
    return {event[2] for event in trace if event[3] == kind}


def without_notes(event):
    if not isinstance(event, tuple):
        return event
    return tuple(without_notes(part) for part in event if not str(part).startswith(("raised by item", "while ")))


def of_the_consumer(trace):
    """What it gets. A CancelledError among results has the message that it would have among asyncio.gather's; notes are ours."""
    events = [event[2:] for event in trace if event[2].startswith("c0")]
    return [event[:2] if "CancelledError" in repr(event) else without_notes(event) for event in events]


def check_against_the_plain_loop(core, program):
    """The same results and the same error; what comes before that runs to its end, as in the loop."""
    loop = run(program, rs.PLAIN_LOOP, step=0.0)
    stream = run(program, core, step=0.0)
    assert of_the_consumer(stream.trace) == of_the_consumer(loop.trace)
    assert by_label(stream.trace, "returns") >= by_label(loop.trace, "returns")
    assert by_label(stream.trace, "called") >= by_label(loop.trace, "called")
    assert stream.outcome == loop.outcome


def test_in_order_a_stream_gives_what_the_plain_loop_gives(core):
    rp.check_programs(
        range(2000, 2600), lambda program: check_against_the_plain_loop(core, program), maker=rs.OrderedProgramMaker
    )


GIVES = ("give", ("coro", ()))
FAILS = ("give", ("coro", (("raise", "ValueError"),)))
LOOP = ("loop", 0, ())
# Programs on which the implementations once differed.
ONCE_DIFFERENT = {
    "a source that yields bare": (("agen", (("yield",), GIVES), ()), 2, (), ((LOOP,),), ()),
    "a source that fails while the keeper stands": (
        ("bare aiter", (GIVES, GIVES, ("raise", "Base")), ()),
        1,
        (),
        ((LOOP,),),
        (),
    ),
    "the Task of a source is cancelled before its first step": (
        ("stream", ("agen", (), ()), None, (), ()),
        None,
        (),
        ((LOOP,),),
        (("all", 0, 0),),
    ),
    "an item that asks its own stream, which fails": (
        ("agen", (GIVES, ("give", ("coro", (("next",),))), FAILS), ()),
        None,
        (),
        ((LOOP,),),
        (),
    ),
    "a source that cancels its Task and goes on": (
        ("agen", (("cancel_self",), GIVES, GIVES), ()),
        1,
        (),
        ((LOOP,),),
        (),
    ),
    "a source that cancels its Task and yields bare": (
        ("agen", (("cancel_self",),), (("yield",),)),
        3,
        (),
        ((("with", (("next",),)),),),
        (),
    ),
    "a source that cancels its Task and waits": (
        ("agen", (("cancel_self",),), (("sleep", 3),)),
        ("semaphore", 1),
        (),
        ((LOOP,),),
        (),
    ),
    "a cancelled consumer that is kept with its error": (
        ("agen", (), (("yield",),)),
        2,
        (),
        ((("unnamed_loop", 2, ()),),),
        (("consumer", 0, 0),),
    ),
}


@pytest.mark.parametrize("step", rp.CLOCK_STEPS)
@pytest.mark.parametrize("name", ONCE_DIFFERENT)
def test_what_once_differed_gives_the_same_trace(core, name, step):
    check(core, rs.StreamProgram("amap", *ONCE_DIFFERENT[name]), step)


def test_a_finished_program_is_traced_in_full(core):
    """Guards the comparison: the trace of a known program holds what it should."""
    program = rs.StreamProgram("amap", ("agen", (GIVES, FAILS), ()), 1, (), ((LOOP,),), ())
    record = run(program, core, step=0.0)
    assert [event[2:4] for event in record.trace] == [
        ("/", "source begins"),
        ("/0", "called"),
        ("/0", "start"),
        ("/0", "returns"),
        ("/0", "ended"),
        ("/", "source goes on"),
        ("/1", "called"),
        ("/1", "start"),
        ("/1", "ends with"),
        ("/1", "ended"),
        ("c0.0", "gets"),
        ("/", "source ends with"),
        ("/", "source cleans up"),
        ("/", "source is over"),
        ("c0", "ends with"),
        ("", "looks like"),
        ("", "looks like"),
        ("", "tasks"),
        ("", "context"),
    ]
    assert record.outcome == ("ends",)
