"""`abatch` for one runnable over any iterable of inputs, with a coroutine only for what is running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Literal, Protocol, SupportsIndex, TypeVar, overload

import gatedcoro
from gatedcoro.langchain._planted import max_concurrency_as_limit, too_small

__all__ = ["abatch"]

InputT = TypeVar("InputT")
InputT_contra = TypeVar("InputT_contra", contravariant=True)
OutputT = TypeVar("OutputT")
OutputT_co = TypeVar("OutputT_co", covariant=True)

# LangChain's RunnableConfig, or one per input.
Config = Any
Limit = SupportsIndex | AbstractAsyncContextManager[Any, Any] | None


class AsyncRunnable(Protocol[InputT_contra, OutputT_co]):
    """What `abatch` needs of a LangChain Runnable."""

    def ainvoke(self, input: InputT_contra, config: Any = None, **kwargs: Any) -> Awaitable[OutputT_co]: ...


@overload
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Iterable[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    **kwargs: Any,
) -> list[OutputT]: ...
@overload
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Iterable[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    **kwargs: Any,
) -> list[OutputT | Exception]: ...
async def abatch(
    runnable: AsyncRunnable[InputT, OutputT],
    inputs: Iterable[InputT],
    config: Config = None,
    *,
    limit: Limit = None,
    return_exceptions: bool = False,
    cancel_on_error: bool = False,
    **kwargs: Any,
) -> list[OutputT] | list[OutputT | Exception]:
    """Call `runnable.ainvoke` for each of `inputs`, each when a slot is free, and return the outputs in order.

    For a single runnable the outputs, the errors, what is done with `config` and `kwargs`, the callbacks and their
    parents are those of `runnable.abatch(inputs, config, return_exceptions=..., **kwargs)`. What differs:

    - `inputs` may be any iterable; it is drawn as slots become free. Coroutines and configs exist for the running
      inputs only.
    - `limit` is an int, an async context manager that every input holds while it runs (a Semaphore shared with other
      calls, say), or None: then the `max_concurrency` of the first config counts, as in LangChain.
    - A RunnableSequence is run input by input, from its first step to its last. `RunnableSequence.abatch` runs each
      step for all inputs before the next step, and calls the step's own `abatch`: a model that sends several inputs in
      one request does so there, and does not here. With `return_exceptions=True` the order of callbacks differs in the
      same way. The limit is one for the whole sequence, not one for each step.
    - More generally, an `abatch` of the runnable's own is not called.
    - `cancel_on_error`: the first error cancels and awaits the running inputs and starts no more, then is raised.
      Without it the error is raised at once and everything else runs on, as in LangChain.

    With a list of configs, its length must be that of `inputs`; for inputs without a length this is known, and a
    ValueError, only when the shorter of the two ends. Before anything starts it raises TypeError for a `limit` of
    another kind, and ValueError for one, or a `max_concurrency`, of less than 1. Cancelled, it cancels the running inputs
    and starts no more, as `gatedcoro.run_all` does.
    """
    if isinstance(inputs, Sized) and not len(inputs):
        return []
    configs = Configs(config)
    if isinstance(inputs, Sized):
        configs.check_length(len(inputs))
    if limit is None:
        limit = max_concurrency_as_limit(configs.max_concurrency)
        if limit == 0:
            raise too_small(configs.max_concurrency)
    call: Callable[..., Awaitable[Any]] = (
        partial(output_or_exception, runnable) if return_exceptions else runnable.ainvoke
    )
    outputs: list[Any] = await gatedcoro.run_all(
        calls(call, inputs, configs, kwargs), limit=limit, cancel_on_error=cancel_on_error
    )
    return outputs


def calls(
    call: Callable[..., Awaitable[Any]], inputs: Iterable[Any], configs: Configs, kwargs: dict[str, Any]
) -> Iterator[Callable[[], Awaitable[Any]]]:
    """Yield one callable for each input. What it needs is made when it is drawn, not before."""
    count = 0
    for value in inputs:
        yield partial(call, value, configs.config_for(count), **kwargs)
        count += 1
    if count:
        configs.check_length(count)


async def output_or_exception(
    runnable: AsyncRunnable[InputT, OutputT], *args: Any, **kwargs: Any
) -> OutputT | Exception:
    """Await one call; return its exception, unless that is a cancellation or the end of the program."""
    try:
        return await runnable.ainvoke(*args, **kwargs)
    except Exception as error:
        return error


class Configs:
    """The config of each input, as LangChain derives it, one at a time."""

    def __init__(self, config: Config) -> None:
        from langchain_core.runnables.config import ensure_config, get_config_list

        self.ensure_config: Callable[[Any], Any] = ensure_config
        self.get_config_list: Callable[[Any, int], list[Any]] = get_config_list
        self.config = config
        self.one_per_input = isinstance(config, Sequence)
        first = next(iter(config), None) if self.one_per_input else config
        self.max_concurrency = self.ensure_config(first).get("max_concurrency")

    def check_length(self, length: int) -> None:
        """Raise LangChain's ValueError if there are not `length` configs."""
        if self.one_per_input and len(self.config) != length:
            self.get_config_list(self.config, length)

    def config_for(self, index: int) -> Any:
        """Return the config of the input at `index`."""
        if self.one_per_input:
            if index >= len(self.config):
                self.check_length(index + 1)
            return self.ensure_config(self.config[index])
        if index == 0 or self.config is None or self.config.get("run_id") is None:
            return self.ensure_config(self.config)
        if index == 1:
            # LangChain's own warning that a run_id can be the id of one run only.
            return self.get_config_list(self.config, 2)[1]
        return self.ensure_config({key: value for key, value in self.config.items() if key != "run_id"})
