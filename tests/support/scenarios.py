"""Items, awaitables and gates of which scenarios are made that run in many ways: in hundreds of rounds, without memory, with bad arguments."""

import asyncio
import types


@types.coroutine
def turn():
    """Wait for the next turn: asyncio.sleep() is a coroutine, which stays unawaited if memory runs out in between."""
    yield


async def turns(number):
    for _ in range(number):
        await turn()


async def value_after(value=None, number=1):
    for _ in range(number):
        await turn()
    return value


async def fails(number=1):
    for _ in range(number):
        await turn()
    raise ValueError("expected")


async def forever():
    await asyncio.get_running_loop().create_future()


async def stubborn(value=None):
    """Goes on for a turn when it is cancelled, and returns."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        await turn()
    return value


class Gate:
    """An async context manager in Python, which takes a turn each way."""

    async def __aenter__(self):
        await turn()

    async def __aexit__(self, error, *rest):
        if error is not GeneratorExit:
            await turn()
