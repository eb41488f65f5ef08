"""`abatch` and `abatch_as_completed` for one runnable over any iterable of inputs, with a coroutine only for what is running."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Literal, Protocol, SupportsIndex, TypeVar, overload

import gatedcoro
from gatedcoro.langchain._calls import (
    AsyncRunnable,
    Call,
    ainvoke,
    calls_and_limit,
    numbered_output,
    output_or_exception,
)

__all__ = ["abatch", "abatch_as_completed"]

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

# LangChain's RunnableConfig, or one per input.
Config = Any
Inputs = Iterable[InputT] | AsyncIterable[InputT]
OneLimit = SupportsIndex | AbstractAsyncContextManager[Any, Any]
Limit = OneLimit | Sequence[OneLimit] | None


class Bar(Protocol):
    """A bar of tqdm's, say."""

    def update(self, n: int, /) -> object: ...


Progress = Callable[[int], object] | Bar | bool | None


@overload
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: Progress = None,
    **kwargs: Any,
) -> list[OutputT]: ...
@overload
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: Progress = None,
    **kwargs: Any,
) -> list[OutputT | Exception]: ...
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool = False,
    cancel_on_error: bool = False,
    progress: Progress = None,
    **kwargs: Any,
) -> list[OutputT] | list[OutputT | Exception]:
    """Call `runnable.ainvoke` for each of `inputs`, each when a slot is free, and return the outputs in order.

    For a single runnable the outputs, the errors, what is done with `config` and `kwargs`, the callbacks and their
    parents are those of `runnable.abatch(inputs, config, return_exceptions=..., **kwargs)`. What differs:

    - `inputs` may be any iterable or async iterable; it is drawn as slots become free. Coroutines and configs exist for
      the running inputs only. Closed or cancelled early, it closes a generator, and an async iterator by its `aclose()`,
      as `gatedcoro.run_all` does.
    - `limit` is an int; an async context manager that every input holds while it runs (a Semaphore shared with other
      calls, say); a tuple or list of these, as for `gatedcoro.gather`; or None: then the `max_concurrency` of the first
      config counts, as in LangChain.
    - A RunnableSequence is run input by input, from its first step to its last. `RunnableSequence.abatch` runs each
      step for all inputs before the next step, and calls the step's own `abatch`: a model that sends several inputs in
      one request does so there, and does not here. With `return_exceptions=True` the order of callbacks differs in the
      same way. The limit is one for the whole sequence, not one for each step.
    - More generally, an `abatch` of the runnable's own is not called. Every other keyword goes to its `ainvoke`.
    - `cancel_on_error`: the first error cancels and awaits the running inputs and starts no more, then is raised.
      Without it the error is raised at once and everything else runs on, as in LangChain.
    - `progress`: told how many more inputs have ended, as for `gatedcoro.gather`: a function of that number, a bar with
      an `update()`, or True for a bar of tqdm's.

    With a list of configs, its length must be that of `inputs`; for inputs without a length this is known, and a
    ValueError, only when the shorter of the two ends. Before anything starts it raises TypeError for a `runnable`, `inputs`,
    a `limit` or a `progress` of another kind, and ValueError for a `limit`, or a `max_concurrency`, of less than 1. Cancelled, it
    cancels the running inputs and starts no more, as `gatedcoro.run_all` does.
    """

    def make(index: int, value: InputT, config: Any) -> Call:
        call = partial(output_or_exception, runnable) if return_exceptions else runnable.ainvoke
        return partial(call, value, config, **kwargs)

    calls, limit = calls_and_limit(runnable, inputs, config, limit, make)
    outputs: list[Any] = await gatedcoro.run_all(calls, limit=limit, cancel_on_error=cancel_on_error, progress=progress)
    return outputs


@overload
def abatch_as_completed(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: Literal[False] = False,
    buffersize: SupportsIndex | None = None,
    progress: Progress = None,
    **kwargs: Any,
) -> gatedcoro.Stream[tuple[int, OutputT]]: ...
@overload
def abatch_as_completed(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool,
    buffersize: SupportsIndex | None = None,
    progress: Progress = None,
    **kwargs: Any,
) -> gatedcoro.Stream[tuple[int, OutputT | Exception]]: ...
def abatch_as_completed(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Inputs[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool = False,
    buffersize: SupportsIndex | None = None,
    progress: Progress = None,
    **kwargs: Any,
) -> gatedcoro.Stream[tuple[int, OutputT]] | gatedcoro.Stream[tuple[int, OutputT | Exception]]:
    """Call `runnable.ainvoke` for each of `inputs`, each when a slot is free, and give `(index, output)` as they complete.

    A plain function: it returns a `gatedcoro.Stream`, an async iterator and async context manager. Nothing starts before
    it is used; leaving its `async with` block cancels what runs, waits for it, and closes `inputs`:

        async with abatch_as_completed(chain, questions, limit=20) as answers:
            async for index, answer in answers:
                ...

    Awaited, it is the list of all pairs, in the order of the inputs.

    The indices are those of `inputs`. `inputs`, `config`, `limit`, `return_exceptions` and `progress` are as for `abatch`.
    Configs are derived in the context of the stream's first step; `max_concurrency` alone is read at the call.
    `buffersize` is the room that a slow consumer leaves for results, as for `gatedcoro.amap`: an input is drawn only
    while fewer than limit + buffersize have not been handed over. Every other keyword goes to the runnable.

    Unlike `runnable.abatch_as_completed` it draws inputs as slots become free, in order; it makes a Task only for an input
    that runs; and it leaves nothing running: the first error cancels what runs and waits for it, and is raised after
    every result that there is. As for `gatedcoro.amap(..., ordered=False)`, errors of siblings meanwhile become notes on
    it. An `abatch_as_completed` of the runnable's own is not called, so what `with_retry()` returns does retry here.

    The call raises TypeError for a `runnable`, `inputs`, a `limit`, a `buffersize` or a `progress` of another kind, and
    ValueError for a `limit`, or a `max_concurrency`, of less than 1, or a negative `buffersize`. A list of configs of another
    length is a ValueError as in `abatch`.
    """

    def make(index: int, value: InputT, config: Any) -> Call:
        return partial(numbered_output, runnable, return_exceptions, index, value, config, **kwargs)

    calls, limit = calls_and_limit(runnable, inputs, config, limit, make)
    stream: gatedcoro.Stream[Any] = gatedcoro.amap(
        ainvoke, calls, limit=limit, ordered=False, buffersize=buffersize, progress=progress
    )
    return stream
