"""Somebody interferes while a Task waits for its next item, in ways that programs do not think of.

Each scenario crashed or hung an earlier engine, or had it lose something.
"""

import sys

import pytest

from contract_tools import HAS_CALL_GRAPH
from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("full_turns")  # else no Task waits at first

COMMON = """
class Awaitable:
    def __init__(self, future):
        self.future = future

    def __await__(self):
        yield from self.future
        return "awaited"


async def waits(future):
    await future


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


"""


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="nobody is shown as awaiting a Task")
def test_the_queue_is_closed_in_the_middle_of_a_walk_among_them(impl):
    """asyncio's function is somebody's, and does more than it should: among the Tasks that wait, too."""
    check_script(
        impl,
        COMMON
        + """
import asyncio.futures

stock = asyncio.futures.future_discard_from_awaited_by
failed = seen = False


def discard(future, awaiter):
    global seen
    if failed and not seen and isinstance(future, asyncio.Task) and not future.done():
        seen = True
        for task in asyncio.all_tasks():
            if "keeper" in repr(task):
                task.cancel()
    return stock(future, awaiter)


asyncio.futures.future_discard_from_awaited_by = discard


async def fails(future):
    global failed
    await future
    failed = True
    raise LookupError


async def main():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(loop.call_soon, future.set_result, None)
    try:
        await impl.gather(waits(future), waits(future), fails(future), turns(1), turns(1), turns(1), limit=3)
    except LookupError:
        pass
    await turns(5)


asyncio.run(main())
print("ok")
""",
    )


@pytest.mark.parametrize("how", ["send", "throw", "close"])
def test_a_task_ends_though_somebody_else_has_stepped_what_drives_it(impl, how):
    check_script(
        impl,
        COMMON
        + f"how = {how!r}"
        + """
taken = []


async def takes(future, others):
    await future
    for task in asyncio.all_tasks() - others - {asyncio.current_task()}:
        if "Worker" in type(task.get_coro()).__name__ and task._fut_waiter is not future:
            taken.append(task)
            try:
                getattr(task.get_coro(), how)(*{"send": [None], "throw": [KeyError()], "close": []}[how])
            except BaseException:
                pass


async def main():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(loop.call_soon, future.set_result, None)
    others = asyncio.all_tasks()
    items = Awaitable(future), Awaitable(future), takes(future, others), *[turns(1) for _ in range(5)]
    assert (await impl.gather(*items, limit=3))[:2] == ["awaited", "awaited"]
    if taken:
        done, pending = await asyncio.wait(taken, timeout=5)
        assert not pending


asyncio.run(main())
print("ok")
""",
    )


def test_an_interrupt_leaves_the_loop_though_a_task_is_made_to_wait(impl):
    """It comes in a function of the loop's that asyncio.Future() calls."""
    if (3, 12) <= sys.version_info < (3, 14):
        if impl.__name__.endswith("_reference"):
            pytest.skip("the start of an eager Task hides it in a SystemError")
        if hasattr(sys, "gettotalrefcount"):
            pytest.skip("asyncio goes on with it set, which a debug build takes amiss")
    check_script(
        impl,
        COMMON
        + """
class Loop(asyncio.SelectorEventLoop):
    calls = None

    def get_debug(self):
        if self.calls is not None:
            self.calls -= 1
            if self.calls == 0:
                self.raised = True
                raise KeyboardInterrupt
        return super().get_debug()


async def ends_the_wait(loop, future, calls):
    await future
    loop.calls = calls


async def main(loop, calls):
    future = loop.create_future()
    loop.call_soon(loop.call_soon, future.set_result, None)
    items = ends_the_wait(loop, future, calls), waits(future), *[turns(1) for _ in range(5)]
    try:
        await impl.gather(*items, limit=2)
    except KeyboardInterrupt:
        pass


for calls in range(1, 9):
    loop = Loop()
    loop.raised = False
    loop.set_exception_handler(lambda loop, context: None)
    caller = loop.create_task(main(loop, calls))
    try:
        loop.run_until_complete(caller)
        assert not loop.raised, calls
    except KeyboardInterrupt:
        loop.calls = None
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(turns(5))
    loop.close()
print("ok")
""",
        warnings_are_errors=False,
    )


@pytest.mark.parametrize("marks", [False, True], ids=["untouched", "marked"])
def test_items_that_never_suspend_do_not_nest(impl, marks):
    """Where they follow many that ended in one turn, however long the pass may take, and whatever they do to their Tasks."""
    check_script(
        impl,
        COMMON
        + f"marks = {marks}"
        + """


async def returns():
    if marks:
        asyncio.current_task().mark = True

    def down(levels):
        return levels and down(levels - 1)

    down(100)


async def main():
    impl._set_clock(lambda: 0.0)
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, future.set_result, None)
    count = 5000
    items = [waits(future) for _ in range(count)] + [returns() for _ in range(count)]
    assert set(await impl.gather(*items, limit=count)) == {None}


asyncio.run(main())
print("ok")
""",
    )


def test_the_pass_comes_while_a_task_is_made_to_wait_for_it(impl):
    """Somebody has it called in a function of the loop's that asyncio.Future() calls: there is nothing to wait for any more."""
    check_script(
        impl,
        COMMON
        + """
class Loop(asyncio.SelectorEventLoop):
    calls = None
    called = False

    def get_debug(self):
        if self.calls is not None:
            self.calls -= 1
            if self.calls == 0:
                self.calls = None
                for handle in [handle for handle in self._ready if "pump" in repr(handle)]:
                    self.called = True
                    handle._run()
                    handle.cancel()
        return super().get_debug()


async def ends_the_wait(loop, future, calls):
    await future
    loop.calls = calls


async def main(loop, calls):
    future = loop.create_future()
    loop.call_soon(loop.call_soon, future.set_result, None)
    items = ends_the_wait(loop, future, calls), waits(future), turns(9), *[turns(1) for _ in range(2)]
    await impl.gather(*items, limit=3)
    await turns(5)
    assert asyncio.all_tasks() == {asyncio.current_task()}, calls


called = []
for calls in range(1, 9):
    loop = Loop()
    loop.run_until_complete(main(loop, calls))
    called.append(loop.called)
    loop.close()
assert any(called)
print("ok")
""",
    )


def test_what_its_item_left_closes_the_queue_when_the_next_one_is_to_go_on_in_its_place(impl):
    """It goes before the next item starts, which does not start then."""
    check_script(
        impl,
        COMMON
        + """
from contract_tools import is_closed


class Closes:
    def __del__(self):
        dropped.append(len(started))
        for task in asyncio.all_tasks():
            if "keeper" in repr(task):
                task.cancel()


async def fails(future):
    await future
    raise LookupError


async def leaves(future):
    await future
    return Closes()


async def follows():
    started.append(1)


dropped, started = [], []


async def main():
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    queued = [follows() for _ in range(4)]
    call = impl.gather(fails(first), leaves(second), leaves(second), turns(20), *queued, limit=3)
    loop.call_soon(loop.call_soon, first.set_result, None)
    try:
        await call
    except LookupError:
        pass
    await turns(4)
    second.set_result(None)
    await turns(4)
    # Where each item has a Task of its own, what it left goes with that, before the pass: then nothing starts.
    assert dropped == [0, 0] and started == [], (dropped, started)
    assert all(map(is_closed, queued))


asyncio.run(main())
print("ok")
""",
    )
