"""Random programs give the same results, times and order across instants as LangChain's algorithm.

The oracle is `langchain_algorithm.py`; for `gather` it is `asyncio.gather`, with a semaphore around each item
if there is a limit. Programs use distinct delays, and raise only after a delay of their own, so that no two
items race within one virtual instant. What is known to differ, on purpose, is taken out here and nowhere else:

* When a caller is cancelled with items queued, LangChain's algorithm releases it at once, ours when a running
  item has ended. From the first such instant on the programs may diverge, so traces are compared up to it;
  `test_a_cancelled_caller_is_released_no_earlier...` says what must hold after it.
* When every running item swallows the cancellation, or errors are returned, ours raises CancelledError with the
  caller's message; `asyncio.gather` takes that of one item, which may have none. So the messages of
  CancelledErrors are compared only in programs that neither swallow one nor return errors.
* Within an instant the order may differ (a slot that frees is taken in the same step, or together with others in the next turn).
"""

import pytest

import random_programs as rp
from effort import part_of

GATHER_OPTIONS = {"gather": ["return_exceptions"]}


def without_cancel_messages(value):
    if isinstance(value, tuple):
        if len(value) >= 2 and value[0] in ("CancelledError", "cancelled") and isinstance(value[1], str):
            value = (value[0], "", *value[2:])
        value = tuple(map(without_cancel_messages, value))
        for name in ("ends with", "raised", "swallowed", "caught"):
            if name in value:
                at = value.index(name)
                if value[at + 1 : at + 2] == ("CancelledError",):
                    value = (*value[: at + 2], "", *value[at + 3 :])
        return value
    return value


def swallows(part):
    return isinstance(part, tuple) and (part[:1] == ("swallow",) or any(map(swallows, part)))


def returns_exceptions(part):
    return isinstance(part, tuple) and (part == ("return_exceptions", True) or any(map(returns_exceptions, part)))


def compared(program, record, until):
    # Who asks a cancelled Task for its error first gets the message, and asyncio.gather asks.
    trace = [without_cancel_messages(event) if event[2] == "held task" else event for event in record.trace]
    if swallows(program.items) or returns_exceptions(program):
        trace = [without_cancel_messages(event) for event in trace]
    return rp.by_instant(trace, until)


def check(program, module):
    expected = rp.run_program(program, rp.baseline_engine)
    until = expected.first_early_release
    for full in (True, False):
        with rp.full_turns(module, full):
            actual = rp.run_program(program, rp.engine_of(module))
        assert compared(program, actual, until) == compared(program, expected, until), f"full_turns={full}"
    return expected, actual


@pytest.mark.parametrize("strikes", [(), ("caller",), ("item",), ("caller", "item")])
@pytest.mark.parametrize("nesting", [False, True])
def test_programs_run_as_langchain_runs_them(impl, strikes, nesting):
    rp.check_programs(
        range(200),
        lambda program: check(program, impl),
        fronts=["gather_with_concurrency"],
        leaves=rp.LEAVES,
        nesting=nesting,
        strikes=strikes,
    )


def test_a_cancelled_caller_is_released_no_earlier_than_langchain_does_and_with_an_exception(impl):
    early = []

    def check_release(program):
        expected, actual = check(program, impl)
        if expected.first_early_release is None:
            return
        early.append(program)
        assert actual.outcome[0] >= expected.outcome[0]
        assert actual.outcome[1] in ("cancelled", "raised")

        # The items themselves see the same, at the same times, to the end.
        def of_items(record):
            return [event for event in compared(program, record, None) if event[1:3] != ("", "caller")]

        assert of_items(actual) == of_items(expected)

    rp.check_programs(
        range(1000, 1300),
        check_release,
        fronts=["gather_with_concurrency"],
        leaves=rp.LEAVES,
        nesting=False,
        strikes=("caller",),
    )
    assert len(early) >= len(part_of(range(20)))


def test_gather_is_asyncio_gather_of_gated_items(impl):
    rp.check_programs(
        range(2000, 2400),
        lambda program: check(program, impl),
        fronts=["gather"],
        leaves=rp.LEAVES,
        options=GATHER_OPTIONS,
    )


def test_gather_without_a_limit_is_asyncio_gather(impl):
    rp.check_programs(
        range(3000, 3300),
        lambda program: check(program._replace(n=None), impl),
        fronts=["gather"],
        leaves=rp.LEAVES,
        options=GATHER_OPTIONS,
        nesting=False,
    )


@pytest.mark.parametrize("front", ["gather_with_concurrency", "gather"])
def test_the_comparison_itself_notices_a_difference(front):
    """A baseline with one slot too many must not pass: the oracle has teeth."""
    sleeper = ("coro", (("sleep", 1),))
    options = () if front == "gather_with_concurrency" else (("return_exceptions", False),)
    program = rp.with_distinct_delays(rp.Program(front, 2, options, (sleeper,) * 4, ()))

    def wrong_engine(front, n, options, arguments):
        return rp.baseline_engine(front, n + 1, options, arguments)

    expected = rp.run_program(program, rp.baseline_engine)
    again = rp.run_program(program, rp.baseline_engine)
    wrong = rp.run_program(program, wrong_engine)
    assert rp.by_instant(expected.trace) == rp.by_instant(again.trace)
    assert rp.by_instant(expected.trace) != rp.by_instant(wrong.trace)
