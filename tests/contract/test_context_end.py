"""What an item has put into its context goes with the item, in the same instant; a context that somebody keeps stays that item's."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

from contract_tools import idle, run

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
HAS_GET_CONTEXT = sys.version_info >= (3, 12)


class Thing:
    pass


def set_thing(things):
    thing = Thing()
    things.append(weakref.ref(thing))
    VARIABLE.set(thing)


async def ends(things, turns, how="returns"):
    set_thing(things)
    await idle(turns)
    if how == "raises":
        raise ValueError


async def swallows_an_error(things, turns):
    set_thing(things)
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError())
    try:
        await future
    except ValueError:
        await idle(turns)


async def counts(things, turns):
    """What is alive of the others' things when they have ended."""
    await idle(turns)
    return sum(thing() is not None for thing in things)


ITEMS = {
    "returns": ends,
    "raises": lambda things, turns: ends(things, turns, "raises"),
    "swallows an error": swallows_an_error,
}


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("n", [1, 2, 3, None])
@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("how", ITEMS)
def test_the_context_of_an_item_that_has_ended_is_gone(impl, no_collector, how, turns, n):
    async def main():
        things = []
        items = [ITEMS[how](things, turns) for _ in range(6)]
        *_, alive = await impl.gather(*items, counts(things, 9), limit=n, return_exceptions=True)
        assert len(things) == 6
        return alive

    assert run(main) == 0


@pytest.mark.parametrize("n", [2, 3, None])
@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("how", ITEMS)
def test_also_that_of_the_last_one_that_started(impl, no_collector, how, turns, n):
    async def main():
        things = []
        items = [ITEMS[how](things, turns) for _ in range(4)]
        alive, *_ = await impl.gather(counts(things, 20), *items, limit=n, return_exceptions=True)
        assert len(things) == 4
        return alive

    assert run(main) == 0


@pytest.mark.parametrize("turns", [0, 1])
def test_also_where_the_items_are_callables(impl, no_collector, turns):
    async def main():
        things = []

        def sets_before_it_is_a_coroutine():
            set_thing(things)
            return idle(turns)

        async def last():
            return await counts(things, 3)

        for limit in (1, 2, None):
            functions = [sets_before_it_is_a_coroutine] * 4
            *_, alive = await impl.run_all([*functions, last], limit=limit)
            assert alive == 0 or limit is None and turns
            things.clear()

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_also_where_the_items_have_a_gate(impl, no_collector, turns):
    async def main():
        things = []
        items = [ends(things, turns) for _ in range(6)]
        *_, alive = await impl.gather(*items, counts(things, 9), limit=asyncio.Semaphore(2))
        return alive

    assert run(main) == 0


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("n", [1, 2, None])
def test_items_that_set_nothing_before_one_that_does_change_nothing(impl, no_collector, n, turns):
    async def main():
        things = []
        seen = []

        async def sees():
            seen.append(VARIABLE.get())
            await idle(turns)

        items = [item for _ in range(3) for item in (sees(), ends(things, turns), sees())]
        *_, alive = await impl.gather_with_concurrency(n, *items, counts(things, 9))
        assert seen == ["default"] * 6
        return alive

    assert run(main) == 0


@pytest.mark.skipif(not HAS_GET_CONTEXT, reason="Task.get_context() is new in 3.12")
@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("get_context", ["task.get_context()", "its weak reference"])
@pytest.mark.parametrize("sets", [False, True])
def test_a_context_that_somebody_keeps_is_no_other_item_s(impl, sets, get_context, turns):
    async def main():
        kept = []

        async def keeps(index):
            await idle(turns)
            context = asyncio.current_task().get_context()
            others = [given if isinstance(given, contextvars.Context) else given() for given in kept]
            assert not any(other is context for other in others)
            assert VARIABLE.get() == "default"
            if sets:
                VARIABLE.set(index)
            kept.append(weakref.ref(context) if get_context == "its weak reference" else context)

        for n in (1, 2, None):
            await impl.gather_with_concurrency(n, *map(keeps, range(5)))
            kept.clear()

    run(main)


@pytest.mark.skipif(not HAS_GET_CONTEXT, reason="Task.get_context() is new in 3.12")
@pytest.mark.parametrize("turns", [0, 1])
def test_a_context_that_was_kept_can_be_entered_while_other_items_run(impl, turns):
    async def main():
        kept = []

        async def enters(index):
            await idle(turns)
            assert [context.run(VARIABLE.get) for context in kept] == list(range(index))
            VARIABLE.set(index)
            kept.append(asyncio.current_task().get_context())

        await impl.gather_with_concurrency(1, *map(enters, range(4)))

        async def enters_the_first(index):
            await idle(turns)
            if index == 0:
                kept.append(asyncio.current_task().get_context())  # with nothing set
            else:
                assert kept[0].run(VARIABLE.get) == "default"

        kept.clear()
        await impl.gather_with_concurrency(1, *map(enters_the_first, range(4)))

    run(main)


def test_a_token_is_good_for_one_item_only(impl):
    async def main():
        tokens = []

        async def sets(index):
            if index:
                with pytest.raises(ValueError, match="different Context"):
                    VARIABLE.reset(tokens[-1])
            tokens.append(VARIABLE.set(index))

        await impl.gather_with_concurrency(1, *map(sets, range(4)))

    run(main)
