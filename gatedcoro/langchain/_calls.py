"""The calls of a batch: one for each input, with its config, made when it is drawn; and how many may run at once."""

from __future__ import annotations

import asyncio
import inspect
import math
import operator
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from typing import Any, Generic, NoReturn, Protocol, SupportsIndex, TypeVar

from gatedcoro.langchain._project import import_from_project

__all__ = [
    "AsyncRunnable",
    "Call",
    "ainvoke",
    "calls_and_limit",
    "max_concurrency_as_limit",
    "numbered_output",
    "output_or_exception",
    "too_small",
]

InputT_contra = TypeVar("InputT_contra", contravariant=True)
OutputT = TypeVar("OutputT")
OutputT_co = TypeVar("OutputT_co", covariant=True)
IteratorT = TypeVar("IteratorT")

Call = Callable[[], Awaitable[Any]]


class AsyncRunnable(Protocol[InputT_contra, OutputT_co]):
    """What a call needs of a LangChain Runnable."""

    def ainvoke(self, input: InputT_contra, config: Any = None, **kwargs: Any) -> Awaitable[OutputT_co]: ...


# Positional-only, as `kwargs` are the runnable's own and may have any name.


async def output_or_exception(
    runnable: AsyncRunnable[Any, OutputT], /, *args: Any, **kwargs: Any
) -> OutputT | Exception:
    """Await one call; return its exception, unless that is a cancellation or the end of the program."""
    try:
        return await runnable.ainvoke(*args, **kwargs)
    except Exception as error:
        return error


async def numbered_output(
    runnable: AsyncRunnable[Any, OutputT], return_exceptions: bool, index: int, /, *args: Any, **kwargs: Any
) -> tuple[int, OutputT | Exception]:
    """Await one call; return the index of its input with the output, or, if wanted, with the exception."""
    if return_exceptions:
        return index, await output_or_exception(runnable, *args, **kwargs)
    return index, await runnable.ainvoke(*args, **kwargs)


def ainvoke(call: Call) -> Awaitable[Any]:
    """Make one of the calls: what a stream, whose repr has this name, does with each."""
    return call()


class Configs:
    """The config of each input, as LangChain derives it, one at a time."""

    def __init__(self, config: Any) -> None:
        module = import_from_project("langchain_core.runnables.config")
        self.ensure_config: Callable[[Any], Any] = module.ensure_config
        self.get_config_list: Callable[[Any, int], list[Any]] = module.get_config_list
        self.config = config
        self.one_per_input = isinstance(config, Sequence)
        self.has_warned = False
        self.later_config: Any = None
        first = next(iter(config), None) if self.one_per_input else config
        self.max_concurrency = self.ensure_config(first).get("max_concurrency")

    def check_length(self, length: int) -> None:
        """Raise LangChain's ValueError if there are not `length` configs; warn, as it does, if one run_id is for several."""
        if self.one_per_input:
            if len(self.config) != length:
                self.get_config_list(self.config, length)
        elif length > 1 and not self.has_warned:
            self.has_warned = True
            self.get_config_list(self.config, 2)

    def config_for(self, index: int) -> Any:
        """Return the config of the input at `index`; the first comes first."""
        if not self.one_per_input or index >= len(self.config):
            self.check_length(index + 1)
        if self.one_per_input:
            return self.ensure_config(self.config[index])
        if index == 0:
            config = self.config
            if isinstance(config, dict):  # of which LangChain takes the run_id away
                config = {key: value for key, value in config.items() if key != "run_id"}
            self.later_config = self.ensure_config(config)  # whatever becomes of the caller's
            return self.ensure_config(self.config)
        return self.ensure_config(self.later_config)


class CallsOfInputs(Generic[IteratorT]):
    """What an iterable of calls and an asynchronous one have in common.

    They stand in the place of the inputs, with which gatedcoro closes them and of which it asks the length.
    """

    def __init__(self, inputs: Any, configs: Configs, make: Callable[[int, Any, Any], Call]) -> None:
        self.inputs = inputs
        self.iterator: IteratorT | None = None  # nothing of the inputs runs before the first call is drawn
        self.configs = configs
        self.make = make
        self.count = 0

    def __length_hint__(self) -> int:
        hint = operator.length_hint(self.inputs, -1)
        return NotImplemented if hint < 0 else hint

    def call_with(self, value: Any) -> Call:
        """Return the call for the next input."""
        index = self.count
        call = self.make(index, value, self.configs.config_for(index))
        self.count += 1
        return call

    def end(self) -> None:
        """There is no further input, and there must not be a further config."""
        if self.count:
            self.configs.check_length(self.count)


class Calls(CallsOfInputs[Iterator[Any]], Generator[Call, None, None]):
    """The calls for an iterable. A Generator, so that it is closed as a generator that the inputs may be would be."""

    def send(self, _: None) -> Call:
        if self.iterator is None:
            self.iterator = iter(self.inputs)
        try:
            value = next(self.iterator)
        except StopIteration:
            self.end()
            raise
        return self.call_with(value)

    def throw(self, *exception: Any) -> NoReturn:
        raise NotImplementedError("nobody throws into what gives calls")

    def close(self) -> None:
        iterator = self.inputs if self.iterator is None else self.iterator
        if isinstance(iterator, Generator):
            iterator.close()


class AsyncCalls(CallsOfInputs[AsyncIterator[Any]], AsyncIterator[Call]):
    """The calls for an asynchronous iterable, with the aclose() of its iterator."""

    async def __anext__(self) -> Call:
        if self.iterator is None:
            self.iterator = aiter(self.inputs)
        try:
            value = await anext(self.iterator)
        except StopAsyncIteration:
            self.end()
            raise
        return self.call_with(value)

    async def aclose(self) -> None:
        # As gatedcoro closes what it has not begun: only what is an iterator itself.
        iterator = self.inputs if self.iterator is None and isinstance(self.inputs, AsyncIterator) else self.iterator
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()


def calls_and_limit(
    runnable: Any,
    inputs: Iterable[Any] | AsyncIterable[Any],
    config: Any,
    limit: Any,
    make: Callable[[int, Any, Any], Call],
) -> tuple[Iterable[Call] | AsyncIterable[Call], Any]:
    """Return the calls, and how many of them may run at once: without a `limit`, as many as the first config says."""
    if not callable(getattr(runnable, "ainvoke", None)):
        raise TypeError(f"runnable must have an ainvoke(), not be {runnable!r} ({type(runnable).__name__})")
    check_inputs(inputs)
    if isinstance(inputs, Sized) and not len(inputs):
        return (), limit  # LangChain does not look at the config then
    configs = Configs(config)
    if isinstance(inputs, Sized):
        configs.check_length(len(inputs))
    if limit is None:
        limit = max_concurrency_as_limit(configs.max_concurrency)
        if limit == 0:
            raise too_small(configs.max_concurrency)
    # What is both kinds of iterable is asynchronous, as for gatedcoro.amap.
    return (AsyncCalls if isinstance(inputs, AsyncIterable) else Calls)(inputs, configs, make), limit


def check_inputs(inputs: Any) -> None:
    """Raise a TypeError that says what would be right, unless `inputs` can be iterated over; nothing of it is run."""
    if asyncio.isfuture(inputs):
        found = "a Future: await it, and pass what it returns"
    elif isinstance(inputs, Iterable | AsyncIterable) or hasattr(type(inputs), "__getitem__"):
        return
    elif inspect.iscoroutine(inputs):
        found = "a coroutine: await it, and pass what it returns"
    elif inspect.isgeneratorfunction(inputs) or inspect.isasyncgenfunction(inputs):
        found = f"the generator function {inputs.__qualname__}: call it, and pass what it returns"
    else:
        found = f"{inputs!r} ({type(inputs).__name__})"
    raise TypeError(f"inputs must be an iterable or an async iterable, not {found}")


def max_concurrency_as_limit(n: SupportsIndex | float | None) -> int | None:
    """Return `n` as an int that is not negative, or None, which infinity is, too.

    A whole float counts as an integer, since that is what a number in JSON or YAML often becomes.
    """
    if n is None or n == math.inf:
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
