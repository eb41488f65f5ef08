"""At most `limit` items run at a time, and at most `limit + 2` Tasks exist (point 1 of docs/architecture.md)."""

import asyncio

import pytest

from contract_tools import idle, run


@pytest.mark.parametrize("n", [1, 3, 10])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_at_most_two_tasks_more_than_the_limit_exist(impl, n, turns):
    async def main():
        most = 0
        before = len(asyncio.all_tasks())

        async def counts():
            nonlocal most
            await idle(turns)
            most = max(most, len(asyncio.all_tasks()) - before)

        await impl.gather_with_concurrency(n, *(counts() for _ in range(60)))
        return most

    assert run(main) <= n + 2


def test_coroutines_are_released_as_soon_as_their_items_have_ended(impl):
    import weakref

    async def main():
        async def returns():
            await asyncio.sleep(0)
            return sum(reference() is not None for reference in references)

        items = [returns() for _ in range(10)]
        references = list(map(weakref.ref, items))
        call = impl.gather_with_concurrency(1, *items)
        del items
        alive = await call
        assert alive == sorted(alive, reverse=True)
        assert alive[-1] <= 3

    run(main)
