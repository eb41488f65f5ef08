"""What is kept of an item's Task for the next ones (the memory of its worker, the arguments of its constructor) keeps nothing of the item.

A worker is what drives an item: Task.get_coro() gives it where the item is no coroutine.
"""

import asyncio
import gc
import inspect
import sys
import weakref

import pytest

from contract_tools import idle, run

pytestmark = pytest.mark.usefixtures("any_turns")

MORE_THAN_ARE_KEPT = 200


class Item:
    """Notes what drives it, and awaits `turns` turns of the loop."""

    def __init__(self, note, turns=0):
        self.note = note
        self.turns = turns

    def __await__(self):
        self.note(asyncio.current_task().get_coro())
        yield from [None] * self.turns
        return self.turns


@pytest.mark.parametrize("turns", [0, 1])
def test_what_drives_an_item_is_as_new(impl, turns):
    watched = []

    def note(driver):
        assert inspect.getcoroutinestate(driver) == inspect.CORO_RUNNING
        assert weakref.getweakrefcount(driver) == 0
        watched.append(weakref.ref(driver))

    async def main():
        for _ in range(3):
            await impl.gather_with_concurrency(2, *[Item(note, turns) for _ in range(5)])
            await idle(3)
            gc.collect()  # the reference's Tasks are in cycles with what drives them
            assert [driver() for driver in watched] == [None] * len(watched)

    run(main)
    assert len(watched) == 15


def test_who_keeps_what_drove_an_item_has_it_for_good(impl):
    kept = []

    async def main():
        for _ in range(3):
            await impl.gather_with_concurrency(2, *[Item(kept.append, 1) for _ in range(5)])
        await idle(3)

    run(main)
    assert len(set(map(id, kept))) == len(kept) == 15
    assert {inspect.getcoroutinestate(driver) for driver in kept} == {inspect.CORO_CLOSED}


def test_more_come_and_go_than_are_kept(impl):
    async def main():
        for _ in range(3):
            results = await impl.gather_with_concurrency(
                None, *[Item(lambda driver: None, 1 + index % 2) for index in range(MORE_THAN_ARE_KEPT)]
            )
            assert results == [1, 2] * (MORE_THAN_ARE_KEPT // 2)

    run(main)


def test_one_after_another_that_is_lost_with_its_loop_closes_its_item(impl):
    closed = []

    async def waits(index):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(index)

    for index in range(3):
        loop = asyncio.new_event_loop()
        call = impl.gather_with_concurrency(1, waits(index))

        async def main(call=call):
            call.send(None)
            await idle(2)

        loop.run_until_complete(main())
        loop.close()
        del call, main
        gc.collect()
        assert closed == list(range(index + 1))


def test_items_that_start_others_in_their_first_step_have_arguments_of_their_own(impl):
    async def nests(depth):
        if depth == 0:
            return [asyncio.current_task().get_coro().__name__]
        [inner] = await impl.gather_with_concurrency(1, nests(depth - 1))
        return [*inner, depth]

    async def main():
        for _ in range(2):
            assert await impl.gather_with_concurrency(2, nests(3), nests(0)) == [["nests", 1, 2, 3], ["nests"]]

    run(main)


def test_the_arguments_of_a_task_are_not_to_be_had(impl):
    async def main():
        found = []

        def note(driver):
            # A frame of the reference's has its arguments in a tuple, too, but not one that the collector knows.
            found.extend(holder for holder in gc.get_referrers(driver) if type(holder) is tuple)

        for _ in range(2):
            await impl.gather_with_concurrency(2, *[Item(note) for _ in range(3)])
        return found

    if impl.__name__.endswith("_core"):
        assert run(main) == []


@pytest.mark.parametrize("turns", [0, 1])
def test_an_item_and_its_task_are_gone_when_the_call_has_ended(impl, turns):
    watched = []

    async def main():
        async def item():
            watched.append(weakref.ref(asyncio.current_task()))
            for _ in range(turns):
                await asyncio.sleep(0)

        class Function:
            async def __call__(self):
                watched.append(weakref.ref(self))
                await item()

        await impl.gather_with_concurrency(2, *[item() for _ in range(3)])
        await impl.run_all([Function() for _ in range(3)], limit=2)
        await idle(3)
        gc.collect()
        return [reference for reference in watched if reference() is not None]

    assert run(main) == []
    assert len(watched) == 9


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="counts references of a debug build")
def test_spares_hold_no_reference(impl):
    async def main():
        for _ in range(MORE_THAN_ARE_KEPT):
            await impl.gather_with_concurrency(2, *[Item(lambda driver: None, 1) for _ in range(3)])
        await idle(3)

    for _ in range(2):
        run(main)
    gc.collect()
    before = sys.gettotalrefcount()
    run(main)
    gc.collect()
    assert sys.gettotalrefcount() - before < MORE_THAN_ARE_KEPT // 2
