"""The ways into gatedcoro with one signature, beside the usual recipe, which says what a tool's users are used to."""

import asyncio


async def recipe(limit, functions):
    """A semaphore around each coroutine, and asyncio.gather over all of them."""
    gate = asyncio.Semaphore(limit) if limit is not None else None

    async def gated(coroutine):
        if gate is None:
            return await coroutine
        async with gate:
            return await coroutine

    return await asyncio.gather(*[gated(function()) for function in functions])


async def cancelled_after(turns, awaitable):
    """Await it in a Task that is cancelled after some turns of the loop."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await asyncio.wait_for(task, 60)
    except asyncio.CancelledError:
        pass


def all_doors(impl):
    """The usual recipe and the ways into gatedcoro: pairs of name and call."""
    return {"recipe": recipe, **doors(impl)}.items()


def doors(impl):
    """{name: call} with call(limit, functions), a coroutine for the list of what the functions' coroutines return."""

    async def gather(limit, functions):
        return await impl.gather(*[function() for function in functions], limit=limit)

    async def gather_with_a_semaphore(limit, functions):
        gate = None if limit is None else asyncio.Semaphore(limit)
        return await impl.gather(*[function() for function in functions], limit=gate)

    async def gated_coro(limit, functions):
        gate = asyncio.Semaphore(len(functions) if limit is None else limit)
        return await asyncio.gather(*[impl.gated_coro(gate, function()) for function in functions])

    return {
        "gather_with_concurrency": lambda limit, functions: impl.gather_with_concurrency(
            limit, *[function() for function in functions]
        ),
        "gather": gather,
        "gather(limit=semaphore)": gather_with_a_semaphore,
        "gated_coro": gated_coro,
        "run_all": lambda limit, functions: impl.run_all(iter(functions), limit=limit),
        "constrained_execution": lambda limit, functions: impl.constrained_execution(functions, limit),
    }
