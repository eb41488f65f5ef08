"""The functions that stand in LangChain's and langgraph's modules while the swap is installed.

They are native `async def` functions with LangChain's names, parameters and annotations, so that `inspect` and
`mock.patch` treat them as they treat LangChain's, and they are objects of their own, so
that `uninstall()` can tell them from the `gatedcoro` functions that a program imported on purpose. They pickle by name.
They go on working, on gatedcoro, where somebody still holds one after `uninstall()`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import gatedcoro
from gatedcoro.langchain._calls import ainvoke, max_concurrency_as_limit, numbered_output, too_small

__all__ = ["abatch_as_completed", "gated", "gated_coro", "gather_with_concurrency"]

T = TypeVar("T")
# What LangChain's annotations are made of, by the names that they have there.
Input = TypeVar("Input")
Output = TypeVar("Output")
RunnableConfig = Any

# Written by install() and uninstall() alone, under their lock; read when a call takes its first step.
cancel_on_error = False


async def gated_coro(semaphore: asyncio.Semaphore, coro: Coroutine[Any, Any, Any]) -> Any:
    """Await `coro` while holding `semaphore`."""
    return await gatedcoro.gated_coro(semaphore, coro)


async def gather_with_concurrency(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """Await all of `coros`, at most `n` at a time (all at once if None), and return their results in order."""
    try:
        limit = max_concurrency_as_limit(n)
        if limit == 0 and coros:
            raise too_small(n)
    except (TypeError, ValueError):
        close_all(coros)
        raise
    if not coros:
        return []
    if cancel_on_error:
        return await gather_or_cancel(limit, coros)
    results: list[Any] = await gatedcoro.gather_with_concurrency(limit, *coros)
    return results


async def gated(semaphore: asyncio.Semaphore, coro: Coroutine[None, None, T]) -> T:
    """Await `coro` while holding `semaphore` (langgraph's name for it)."""
    result: T = await gatedcoro.gated_coro(semaphore, coro)
    return result


async def abatch_as_completed(  # type: ignore[no-untyped-def]  # self has no annotation there
    self,
    inputs: Sequence[Input],
    config: RunnableConfig | Sequence[RunnableConfig] | None = None,
    *,
    return_exceptions: bool = False,
    **kwargs: Any | None,
) -> AsyncIterator[tuple[int, Output | Exception]]:
    """Call `ainvoke` for each of `inputs`, and yield the index and the output of each as it completes.

    They start in order, at most `max_concurrency` at a time (all at once if None or 0). The first error, or closing the
    generator, cancels what runs and waits for it.
    """
    if not inputs:
        return
    from langchain_core.runnables.config import ensure_config, get_config_list

    count = len(inputs)
    if not count:
        return
    # One config for all is derived from once more for each call, which may change what it gets: the first one, as it may
    # have a run_id, and the second one for the rest. All of them together would take more memory than the calls.
    one_per_input = isinstance(config, Sequence)
    configs = get_config_list(config, count if one_per_input else min(count, 2))
    limit = max_concurrency_as_limit(configs[0].get("max_concurrency")) or None
    calls = (
        partial(
            numbered_output,
            self,
            return_exceptions,
            index,
            value,
            configs[index] if one_per_input else ensure_config(configs[min(index, 1)]),
            **kwargs,
        )
        for index, value in enumerate([*islice(inputs, count)])
    )
    # A slow consumer slows no call down, as in LangChain.
    stream = gatedcoro.amap(ainvoke, calls, limit=limit, ordered=False, buffersize=count)
    loop_closes_it = sys.get_asyncgen_hooks().finalizer is not None
    handed_over: dict[None, tuple[int, Any]] = {}  # not a name, which would keep it alive as long as the consumer works
    try:
        async for handed_over[None] in stream:
            yield handed_over.pop(None)
    except GeneratorExit:
        # Where nobody closes what was dropped, as under nest_asyncio, this may be the collector, who does not wait. Then
        # the stream is dropped as well, which cancels what runs.
        if loop_closes_it:
            await stream.aclose()
        raise
    except BaseException as error:
        await stream.__aexit__(type(error), error, error.__traceback__)
        raise


async def gather_or_cancel(limit: int | None, coros: tuple[Coroutine[Any, Any, Any], ...]) -> list[Any]:
    """Await all of `coros`; the first error cancels the rest, and is raised once they have ended."""
    future: asyncio.Future[list[Any]] = gatedcoro.gather(*coros, limit=limit, cancel_on_error=True)
    try:
        return await future
    finally:
        # Still running only if this coroutine was closed or thrown into: Task.cancel() has reached the future itself.
        if not future.done():
            future.add_done_callback(mark_retrieved)
            future.cancel()


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting the exception of a future whose awaiter has gone."""
    if not future.cancelled():
        future.exception()


def close_all(coros: tuple[Coroutine[Any, Any, Any], ...]) -> None:
    """Close every coroutine among `coros`, as none of them will be awaited."""
    for coro in coros:
        if isinstance(coro, Coroutine):
            coro.close()
