"""structlog.contextvars: what is bound in one item is not seen by another, nor by the caller."""

import asyncio
import functools

import pytest

from contract_tools import run
from doors import all_doors
from tools import needs

needs("structlog")

import structlog  # noqa: E402
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, get_contextvars  # noqa: E402


@pytest.fixture(autouse=True)
def captured():
    """The entries that were logged, with what was bound when they were."""
    clear_contextvars()
    entries = []

    def keep(logger, name, entry):
        entries.append(entry)
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield entries
    structlog.reset_defaults()
    clear_contextvars()


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_each_item_logs_what_it_and_its_caller_have_bound(impl, captured, turns):
    async def item(i):
        bind_contextvars(item=i)
        if i % 2:
            bind_contextvars(odd=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        structlog.get_logger().info("bound", number=i)
        clear_contextvars()
        with bound_contextvars(within=i):
            await asyncio.sleep(0)
            structlog.get_logger().info("cleared", number=i)

    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                captured.clear()
                with bound_contextvars(caller=name):
                    await call(limit, [functools.partial(item, i) for i in range(6)])
                    assert get_contextvars() == {"caller": name}
                assert get_contextvars() == {}
                captured.sort(key=lambda entry: (entry["event"], entry["number"]))
                bound = [{"event": "bound", "number": i, "caller": name, "item": i} for i in range(6)]
                for i in 1, 3, 5:
                    bound[i]["odd"] = True
                assert captured == bound + [{"event": "cleared", "number": i, "within": i} for i in range(6)], limit

    run(main)


def test_a_call_s_binding_is_that_of_its_time(impl, captured):
    """Items that start later do not see what the caller has bound, or unbound, since."""

    async def item(i):
        await asyncio.sleep(0)
        return get_contextvars()

    async def main():
        for limit in 1, 2, None:
            with bound_contextvars(request=1):
                outer = impl.gather(*map(item, range(6)), limit=limit)
            with bound_contextvars(request=2):
                assert await outer == [{"request": 1}] * 6
            # A coroutine begins when it is awaited.
            with bound_contextvars(request=1):
                call = impl.gather_with_concurrency(limit, *map(item, range(6)))
            with bound_contextvars(request=2):
                assert await call == [{"request": 2}] * 6

    run(main)


def test_bindings_under_a_gate_and_in_functions(impl, captured):
    async def main():
        async def item():
            return get_contextvars()

        def function(i):
            bind_contextvars(function=i)
            return item()

        gate = asyncio.Semaphore(2)
        with bound_contextvars(caller="me"):
            expected = [{"caller": "me", "function": i} for i in range(5)]
            for limit in 1, gate, None:
                functions = [functools.partial(function, i) for i in range(5)]
                assert await impl.run_all(functions, limit=limit) == expected
                assert await impl.constrained_execution(functions, limit) == expected
            assert get_contextvars() == {"caller": "me"}

    run(main)
