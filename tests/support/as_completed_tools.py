"""What tests of `abatch_as_completed` share: the ways to call it, and to leave it. Needs langchain-core."""

import asyncio
import contextlib
import uuid
from unittest import mock

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager
from langchain_core.runnables import Runnable

import gatedcoro
from gatedcoro.langchain import abatch_as_completed

THEIRS = vars(Runnable)["abatch_as_completed"]


async def pairs_of(stream):
    return [pair async for pair in stream]


async def pairs_by_index(runnable, way, inputs, config, **kwargs):
    found = {}
    async for index, value in way(runnable, inputs, config, **kwargs):
        assert index not in found
        found[index] = value
    return [found[index] for index in range(len(inputs))]


async def long_after():
    """Whatever runs, or could start, has had the time to show itself."""
    await asyncio.sleep(10_000)


async def agenerated(values):
    for value in values:
        await asyncio.sleep(0)
        yield value


WAYS = {
    "LangChain's": lambda runnable, inputs, config, **kwargs: THEIRS(runnable, [*inputs], config, **kwargs),
    "swapped": lambda runnable, inputs, config, **kwargs: runnable.abatch_as_completed([*inputs], config, **kwargs),
    "gatedcoro's": abatch_as_completed,
    "gatedcoro's, an iterator": lambda runnable, inputs, config, **kwargs: abatch_as_completed(
        runnable, iter(inputs), config, **kwargs
    ),
    "gatedcoro's, an async generator": lambda runnable, inputs, config, **kwargs: abatch_as_completed(
        runnable, agenerated(inputs), config, **kwargs
    ),
}
OURS = {name: way for name, way in WAYS.items() if name != "LangChain's"}


def in_order(as_completed=asyncio.as_completed):
    """Have LangChain's start its calls in the order of the inputs: asyncio makes a set of the coroutines."""
    return mock.patch.object(
        asyncio, "as_completed", lambda coroutines: as_completed([*map(asyncio.ensure_future, coroutines)])
    )


def block(results):
    """The block in which they are used, and closed at its end."""
    return results if isinstance(results, gatedcoro.Stream) else contextlib.aclosing(results)


async def leave_by_break(results):
    async with block(results) as stream:
        async for _ in stream:
            break


async def leave_by_return(results):
    async with block(results) as stream:
        async for pair in stream:
            return pair


async def leave_by_an_error(results):
    with pytest.raises(ZeroDivisionError):
        async with block(results) as stream:
            async for _ in stream:
                1 / 0


async def leave_by_aclose(results):
    await anext(results)
    await results.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(results)
    await results.aclose()


async def leave_by_a_timeout(results):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            async with block(results) as stream:
                async for _ in stream:
                    pass


async def leave_by_a_timeout_of_the_consumer(results):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            async with block(results) as stream:
                async for _ in stream:
                    await long_after()


async def leave_by_cancellation(results):
    async def uses():
        async with block(results) as stream:
            async for _ in stream:
                pass

    task = asyncio.ensure_future(uses())
    await asyncio.sleep(3)
    task.cancel("message")
    with pytest.raises(asyncio.CancelledError, match="message"):
        await task


LEAVES = [
    leave_by_break,
    leave_by_return,
    leave_by_an_error,
    leave_by_aclose,
    leave_by_a_timeout,
    leave_by_a_timeout_of_the_consumer,
    leave_by_cancellation,
]


def plain(config):
    """A config that can be compared: callbacks by what is in them."""

    def copy(value):
        if isinstance(value, AsyncCallbackManager):
            names = ("handlers", "inheritable_handlers", "parent_run_id", "tags", "inheritable_tags", "metadata")
            return {name: copy(vars(value)[name]) for name in names}
        return value.copy() if isinstance(value, list | dict) else value

    return {key: copy(value) for key, value in config.items()}


class Silent(AsyncCallbackHandler):
    pass


class Seen(Runnable):
    """Keeps the config of each call, and spoils it."""

    def __init__(self):
        self.configs = {}

    def invoke(self, input, config=None, **kwargs):
        raise AssertionError("only ainvoke is to be used")

    async def ainvoke(self, input, config=None, **kwargs):
        self.configs[input] = plain(config)
        config["tags"].append("spoilt")
        config["metadata"]["spoilt"] = config["configurable"]["spoilt"] = True
        if isinstance(config["callbacks"], list):
            config["callbacks"].append(Silent())
        elif config["callbacks"] is not None:
            config["callbacks"].add_tags(["spoilt"])
            config["callbacks"].add_handler(Silent())
        config["run_name"] = config["max_concurrency"] = "spoilt"
        await asyncio.sleep(input)
        return input


PARENT = uuid.UUID(int=77)
