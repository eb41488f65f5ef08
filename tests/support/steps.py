"""Coroutines stepped by hand: what an operation on one shows."""

import asyncio


def step(do, of_future):
    """What `do()` shows: a yielded future, as a Task takes it, with what *of_future* says of it; a returned value or an error."""
    try:
        value = do()
    except StopIteration as stop:
        return ("returned", stop.value)
    except BaseException as error:
        return ("raised", type(error).__name__, str(error))
    if asyncio.isfuture(value):
        blocking = value._asyncio_future_blocking
        value._asyncio_future_blocking = False
        return ("yielded a future", blocking, of_future(value))
    return ("value", value)


async def awaiter(coro):
    return await coro
