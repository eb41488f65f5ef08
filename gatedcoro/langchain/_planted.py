"""The functions that stand in LangChain's and langgraph's modules while the swap is installed.

They are native `async def` functions with LangChain's names, parameters and annotations, so that
`inspect.iscoroutinefunction` and `mock.patch` treat them as they treat LangChain's, and they are objects of their own, so
that `uninstall()` can tell them from the `gatedcoro` functions that a program imported on purpose. They pickle by name.
They go on working, on gatedcoro, where somebody still holds one after `uninstall()`.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Coroutine
from typing import Any, SupportsIndex, TypeVar

import gatedcoro

__all__ = ["gated", "gated_coro", "gather_with_concurrency"]

T = TypeVar("T")

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


def max_concurrency_as_limit(n: SupportsIndex | float | None) -> int | None:
    """Return `n` as an int that is not negative, or None.

    A whole float counts as an integer, since that is what a number in JSON or YAML often becomes.
    """
    if n is None:
        return None
    if isinstance(n, float) and n.is_integer():
        n = int(n)
    try:
        limit = operator.index(n)  # type: ignore[arg-type]  # a float that is not whole is refused here
    except TypeError:
        raise TypeError(f"max_concurrency must be an integer or None, not {n!r}") from None
    if limit < 0:
        raise too_small(n)
    return limit


def too_small(n: object) -> ValueError:
    """Return the error for a limit under which nothing could ever run."""
    return ValueError(f"max_concurrency must be at least 1, or None for no limit; it is {n!r}")


def close_all(coros: tuple[Coroutine[Any, Any, Any], ...]) -> None:
    """Close every coroutine among `coros`, as none of them will be awaited."""
    for coro in coros:
        if isinstance(coro, Coroutine):
            coro.close()
