"""Each item has its own copy of the caller's context, as it was at the first step."""

import asyncio
import contextvars

import pytest

from contract_tools import idle, run

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
LIMITS = [1, 2, None]


@pytest.mark.parametrize("n", LIMITS)
def test_an_item_sees_what_the_caller_has_set(impl, n):
    async def main():
        async def sees():
            await asyncio.sleep(0)
            return VARIABLE.get()

        VARIABLE.set("caller's")
        assert await impl.gather_with_concurrency(n, sees(), sees(), sees()) == ["caller's"] * 3

    run(main)


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("turns", [0, 1])
def test_what_an_item_sets_nobody_else_sees(impl, n, turns):
    async def main():
        async def sets(value):
            seen = [VARIABLE.get()]
            VARIABLE.set(value)
            await idle(turns)
            seen.append(VARIABLE.get())
            return seen

        VARIABLE.set("caller's")
        results = await impl.gather_with_concurrency(n, *map(sets, range(6)))
        assert results == [["caller's", value] for value in range(6)]
        assert VARIABLE.get() == "caller's"

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_what_an_item_sets_lasts_over_its_own_steps(impl, n):
    async def main():
        async def counts():
            for value in range(5):
                VARIABLE.set(value)
                await asyncio.sleep(0)
                assert VARIABLE.get() == value
            return contextvars.copy_context()[VARIABLE]

        assert await impl.gather_with_concurrency(n, *(counts() for _ in range(5))) == [4] * 5

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_the_context_is_taken_at_the_first_step(impl, n):
    async def main():
        async def sees():
            return VARIABLE.get()

        VARIABLE.set("before the call")
        call = impl.gather_with_concurrency(n, sees(), sees(), sees())
        VARIABLE.set("at the first step")
        call.send(None)
        VARIABLE.set("later")
        task = asyncio.create_task(asyncio.sleep(0.001))
        await task
        with pytest.raises(StopIteration) as stop:
            call.send(None)
        assert stop.value.value == ["at the first step"] * 3

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_a_token_can_be_reset_in_a_later_step_of_the_same_item(impl, n):
    async def main():
        async def resets():
            token = VARIABLE.set("inside")
            await asyncio.sleep(0)
            VARIABLE.reset(token)
            return VARIABLE.get()

        assert await impl.gather_with_concurrency(n, *(resets() for _ in range(4))) == ["default"] * 4

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_callbacks_and_tasks_made_by_an_item_get_the_item_s_context(impl, n):
    async def main():
        async def makes(value):
            VARIABLE.set(value)
            seen = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: seen.set_result(VARIABLE.get()))

            async def child():
                return VARIABLE.get()

            return await seen, await asyncio.create_task(child())

        assert await impl.gather_with_concurrency(n, *map(makes, range(4))) == [(value, value) for value in range(4)]

    run(main)
