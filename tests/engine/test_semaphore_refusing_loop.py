"""A call that stands in the queue of a semaphore on a loop that refuses its work, or is closed: no slot is lost, and it ends."""

import asyncio
import gc
import itertools
import re

import pytest

from contract_tools import Trace, idle, item, two_argument_factory
from in_subprocess import run_script
from semaphore_tools import KINDS, collected, user
from virtual_time import DeadlockError, VirtualTimeLoop

NO_TASK_IS_REUSED = True


class Refused(Exception):
    pass


class Loop(VirtualTimeLoop):
    """Refuses to have the engine's work done later, once, from when it is told to."""

    refuses = None
    made = 0

    def call_soon(self, callback, *args, context=None):
        owner = getattr(callback, "__self__", None)
        if self.refuses is not None and type(owner).__name__ in ("_Gathering", "_Waiter"):
            self.made += 1
            if self.made - 1 == self.refuses:
                raise Refused
        return super().call_soon(callback, *args, context=context)


WAYS = {
    "gather": lambda impl, limit, items: impl.gather(*items(), limit=limit),
    "run_all": lambda impl, limit, items: impl.run_all(iter([lambda one=one: one for one in items()]), limit=limit),
    "amap": lambda impl, limit, items: collected(impl.amap(lambda one: one, items(), limit=limit)),
    "as_completed": lambda impl, limit, items: tasks_of(impl.as_completed(items(), limit=limit)),
}


async def tasks_of(iterator):
    return [task.result() async for task in iterator]


def attempt(impl, way, kind, refuses, factory):
    """Return how it ended, and whether it came to the refusal."""
    reports = []
    said = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context.get("exception")))
        loop.set_task_factory(factory)
        trace = Trace()
        s = getattr(impl, kind)(2)
        await s.acquire()
        await s.acquire()
        given = []

        def items():
            given.extend(item(trace, name, 1) for name in "abcd")
            return given

        task = asyncio.ensure_future(way(impl, s, items))
        await idle(4)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(1)
        loop.refuses = refuses
        for _ in range(2):
            try:
                s.release()
            except Refused:  # as a Future's callbacks, of asyncio's own
                said.append("to who released")
        await idle(30)
        await asyncio.wait([task], timeout=5)
        was_reached = loop.made > refuses
        loop.refuses = None
        outcome = "waits"
        if task.done():
            outcome = repr(task.exception() or task.result())
        task.cancel()
        await asyncio.wait([task, other])
        await idle(9)
        assert s._value == 2 and not s.locked()
        assert "-x" in trace.events
        for one in given:
            one.close()
        for keeper in asyncio.all_tasks() - {asyncio.current_task()}:
            keeper.cancel()  # it was not told that it is needed no longer
        await idle(2)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcome, was_reached

    with asyncio.Runner(loop_factory=Loop) as runner:
        try:
            return (*runner.run(main()), reports, said)
        except DeadlockError:
            raise AssertionError("somebody waits for ever") from None


@pytest.mark.parametrize("factory", [None, two_argument_factory])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_goes_on_or_ends_with_that_error(impl, any_turns, unraisables, way, kind, factory):
    ended_with_it = False
    for refuses in range(30):
        outcome, was_reached, reports, said = attempt(impl, way, kind, refuses, factory)
        assert outcome in ("Refused()", "['a', 'b', 'c', 'd']"), refuses
        ended_with_it |= outcome == "Refused()"
        assert all(isinstance(error, Refused) for error in [*reports, *(one for one in unraisables)])
        unraisables.clear()
        if not was_reached:
            break
    else:
        pytest.fail("it never comes to its end")
    gc.collect()
    assert refuses > 0


CLOSED = """
async def main():
    await s.acquire()
    if {way!r} == "gather":
        task = impl.gather(*[item() for _ in range(3)], limit=s)
    elif {way!r} == "run_all":
        task = asyncio.ensure_future(impl.run_all([item] * 3, limit=s))
    else:
        task = asyncio.ensure_future(anext(impl.amap(lambda _: item(), range(3), limit=s)))
    for _ in range(4):
        await asyncio.sleep(0)
    return task

s = impl.{kind}(1)
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
assert len(s._waiters or ()) == 1
task._log_destroy_pending = False
{before}
loop.close()
{after}
del task
gc.collect()
assert began == []
for _ in range(4):  # each tells one that cannot go on
    if s._value < s.limit:
        try:
            s.release()
        except RuntimeError as error:
            assert "closed" in str(error)
assert s._value == s.limit, s
assert not s.locked()
print({kind!r}, {name!r})
"""
CLOSED_BEFORE = """
import asyncio, gc

async def item():
    began.append(1)

began = []
"""
# What somebody does before the loop is closed, and after that. Who stands in the queue cannot go on: who releases may hear
# of it, as from a Future of asyncio's, and so may stderr.
MEANWHILE = {
    "left alone": ("", ""),
    "handed a slot before": ("s.release()", ""),
    "handed a slot after": ("", "s.release()"),
    "the limit changed after": ("", "s.limit = 2"),
}


@pytest.mark.parametrize("way", ["gather", "run_all", "amap"])
def test_a_loop_that_is_closed_while_a_call_stands_in_the_queue(impl, way):
    script = CLOSED_BEFORE
    for kind, (name, (before, after)) in itertools.product(KINDS, MEANWHILE.items()):
        if after:
            after = f"try:\n    {after}\nexcept RuntimeError as error:\n    assert 'closed' in str(error)"
        script += CLOSED.format(way=way, kind=kind, name=name, before=before, after=after)
    done = run_script(impl, script, warnings_are_errors=False)
    said = [f"{kind} {name}" for kind, name in itertools.product(KINDS, MEANWHILE)]
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stdout + done.stderr
    raised = [line for line in done.stderr.splitlines() if re.match(r"\w+Error\b", line)]
    assert set(raised) <= {"RuntimeError: Event loop is closed"}, done.stderr
