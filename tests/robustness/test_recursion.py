"""Chains of our coroutines, one inside of the other: running one that is too deep is a RecursionError, closing it a loop.

Each scenario runs in a thread of an interpreter of its own: with a stack of 8 MiB, and with one of 512 KiB, which a recursion
of a few thousand levels overflows. Whatever the depth, every coroutine is closed, and nothing is said but that the outermost one
was never awaited, where it was dropped.
"""

import sys
import textwrap

import pytest

from effort import SHORT
from in_subprocess import run_script

# Slow builds have larger frames.
STACKS = {"large": (8 << 20, 40_000), "small": ((2 << 20) if SHORT else (512 << 10), 4_000)}

# A chain that can run.  Debug builds of 3.12 and 3.13 count no more than 500 recursions in C.
DEBUG_LEVELS = hasattr(sys, "gettotalrefcount") and (3, 12) <= sys.version_info < (3, 14)
DEPTH = 200 if DEBUG_LEVELS else 900

COMMON = """
import inspect
import threading
import types
import warnings
from coroutines import ByItsMethods

stack, depth, kind, hows = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
closed = []
warned = []
warnings.simplefilter("always")
warnings.showwarning = lambda message, *rest: warned.append(str(message))
unraisable = []
sys.unraisablehook = lambda args: unraisable.append(args)


class Leaf(ByItsMethods):
    \"\"\"Knows whether it was closed.\"\"\"

    def send(self, value):
        raise StopIteration("leaf")

    def close(self):
        closed.append(self)


class Gate:
    async def __aenter__(self):
        entered.append(self)

    async def __aexit__(self, *details):
        left.append(self)


entered, left = [], []
gate = Gate()


class Holder:
    def __init__(self, coro):
        self.coro = coro

    def __await__(self):
        return self.coro.__await__()


async def native(coro):
    return await coro


@types.coroutine
def pause():
    yield


async def pauses():
    try:
        await pause()
    finally:
        closed.append(1)


def chain(depth, leaf):
    coro = leaf
    for level in range(depth):
        if kind == "gated":
            coro = impl.gated_coro(asyncio.Semaphore(1) if level % 2 else gate, coro)
        elif kind == "gatherings":
            coro = impl.gather_with_concurrency(1, coro)
        elif kind == "gatherings without a limit":
            coro = impl.gather_with_concurrency(None, Leaf(), coro)
        elif kind == "branches":
            coro = impl.gather_with_concurrency(1, Leaf(), impl.gated_coro(gate, coro), Leaf())
        elif kind == "held by objects":
            coro = impl.gated_coro(gate, Holder(coro))
        elif kind == "held by native coroutines":
            coro = impl.gated_coro(gate, native(coro))
    return coro


def leaves(depth):
    if kind.startswith("held"):
        return 0  # what is no coroutine of ours just goes, and what it holds with it
    return {"gatherings without a limit": depth + 1, "branches": 2 * depth + 1}.get(kind, 1)


def in_thread(act):
    threading.stack_size(stack)
    failures = []

    def guarded(how):
        try:
            act(how)
        except BaseException as error:
            failures.append(error)

    for how in hows:
        for log in closed, warned, entered, left:
            log.clear()
        thread = threading.Thread(target=guarded, args=[how])
        thread.start()
        thread.join()
        assert not failures, (how, failures)
        gc.collect()
        assert not unraisable, (how, unraisable)
    print("ok")
"""

CLOSING = """
def act(how):
    coro = chain(depth, Leaf())
    if how == "close":
        coro.close()
    elif how == "throw":
        try:
            coro.throw(LookupError("thrown"))
        except LookupError:
            pass
    elif how == "drop":
        del coro
    elif how == "a cycle":
        class Holds:
            pass
        holds = Holds()
        holds.coro, holds.itself = coro, holds
        del holds, coro
        gc.collect()
    elif how == "queued and cancelled":
        async def waits():
            await pause()
        call = impl.gather_with_concurrency(1, waits(), coro)
        async def main():
            task = asyncio.ensure_future(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        asyncio.run(main())
    gc.collect()
    assert len(closed) == leaves(depth), len(closed)
    outermost = [message for message in warned if "never awaited" in message]
    # The collector finalizes one after the other, in its own order, as it does with native ones.
    assert len(outermost) == (how == "drop") or how == "a cycle", len(outermost)


in_thread(act)
"""

RUNNING = """
def act(how):
    coro = chain(depth, Leaf())
    try:
        result = asyncio.run(native(coro))
    except RecursionError as error:
        pass
    else:  # from 3.14 on the interpreter looks at the stack
        assert result == "leaf" and sys.version_info >= (3, 14), result
        closed.append(1)
    gc.collect()
    assert len(closed) == 1, len(closed)
    assert len(entered) == len(left), (len(entered), len(left))


in_thread(act)
"""

SUSPENDED = """
def act(how):
    coro = chain(depth, pauses())
    coro.send(None)
    if how == "close":
        coro.close()
    elif how == "throw":
        try:
            coro.throw(LookupError("thrown"))
        except LookupError as error:
            assert str(error) == "thrown"
        else:
            raise AssertionError
    elif how == "drop":
        del coro
    elif how == "send":
        try:
            coro.send(None)
        except StopIteration:
            pass
    elif how == "resumed too deep":
        def down(levels, act):
            if not levels:
                act()
            elif sys.version_info >= (3, 14):  # where only the stack counts
                list(map(down, [levels - 1], [act]))
            else:
                down(levels - 1, act)

        def resume():
            try:
                coro.send(None)
            except RecursionError:
                outcomes.append("refused")
            except StopIteration:
                outcomes.append("returned")

        if sys.version_info >= (3, 14):
            sys.setrecursionlimit(10**9)
        outcomes, levels = [], 0
        for step in 1_000, 100, 10:
            while True:
                try:
                    down(levels + step, int)
                except RecursionError:
                    break
                levels += step
        down(levels - (25 if sys.version_info >= (3, 14) else 10), resume)
        assert outcomes == ["refused"], (outcomes, levels)
        del coro
    gc.collect()
    assert len(closed) == 1
    assert len(entered) == len(left) == depth // 2, (len(entered), len(left))
    assert not warned, warned


in_thread(act)
"""

STREAMS = """
async def passes(value):
    return value


def act(how):
    stream = [1]
    for level in range(depth):
        stream = impl.amap(passes, stream)
    if how == "drop":
        del stream
    elif how == "a cycle":
        class Holds:
            pass
        holds = Holds()
        holds.stream, holds.itself = stream, holds
        del holds, stream
    elif how == "close":
        async def main():
            await stream.aclose()
        asyncio.run(main())
        del stream
    elif how == "ask":
        async def main():
            return await anext(stream)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(main()) == 1
        loop.close()
        del stream
    gc.collect()
    assert len(warned) == (how == "drop") or how == "a cycle", warned


in_thread(act)
"""


def check(impl, script, stack, depth, kind, *hows):
    script = textwrap.dedent(COMMON) + script
    done = run_script(impl, script, warnings_are_errors=False, arguments=[str(stack), str(depth), kind, *hows])
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ok", ""), done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", ["gated", "gatherings", "gatherings without a limit", "branches"])
def test_a_chain_that_never_began_is_closed_in_a_loop(impl, kind, stack):
    check(impl, CLOSING, *STACKS[stack], kind, "close", "throw", "drop", "a cycle", "queued and cancelled")


@pytest.mark.parametrize("kind", ["held by objects", "held by native coroutines"])
def test_what_holds_the_next_one_may_be_of_any_kind(impl, kind):
    """Each object that goes takes the next of our coroutines with it, which says that it was never awaited."""
    script = CLOSING.replace("len(outermost) == (how", "len(outermost) == depth - 1 + (how")
    check(impl, script, *STACKS["small"], kind, "close", "drop")


@pytest.mark.parametrize("stack", STACKS)
def test_running_a_chain_that_is_too_deep_is_a_recursion_error(impl, stack):
    if impl.__name__.endswith("_reference"):
        pytest.skip("the interpreter's own frames, which do not fit every stack")
    check(impl, RUNNING, *STACKS[stack], "gated", "run")


@pytest.mark.parametrize("stack", STACKS)
def test_a_chain_that_runs_can_be_left_at_its_full_depth(impl, stack):
    depth = 60 if impl.__name__.endswith("_reference") else DEPTH
    check(impl, SUSPENDED, STACKS[stack][0], depth, "gated", "close", "throw", "drop", "send")


def test_a_chain_that_is_resumed_too_deep_is_closed_in_a_loop(impl):
    if impl.__name__.endswith("_reference"):
        pytest.skip("the interpreter's own frames")
    check(impl, SUSPENDED, STACKS["large"][0], DEPTH, "gated", "resumed too deep")


@pytest.mark.parametrize("stack", STACKS)
def test_a_chain_of_streams_goes_in_a_loop(impl, stack):
    """Each is the source of the next one."""
    more = ["ask"] if stack == "small" else []  # a Task for each
    check(impl, STREAMS, *STACKS[stack], "streams", "drop", "a cycle", "close", *more)
