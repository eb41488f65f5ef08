"""What tests of streams share: items by their names, a source that says what is asked of it, a consumer that says what it gets, a strict run."""

import asyncio
import re

import contract_tools
from contract_tools import failing, item, sleeping
from virtual_time import VirtualTimeLoop

WORD = re.compile(r"(?P<name>[a-z])(?P<waits>~?)(?P<turns>\d*)(?P<ends>[!=]?)")


def run(main, *, debug=None):
    """contract_tools.run(), in virtual time: what waits for ever is an error at once."""
    return contract_tools.run(main, debug=debug, loop_factory=VirtualTimeLoop)


def doing(trace):
    """An async function that does as it is told.

    "a2": return "a" after two turns of the loop. "a2!": raise ValueError("a") then. "a~": wait until cancelled; "a~2":
    then clean up for two turns; "a~2!": and raise ValueError("a"); "a~2=": and return "a" in spite of the cancellation.
    """

    def does(word):
        name, waits, turns, ends = WORD.fullmatch(word).groups()
        if waits:
            return sleeping(trace, name, int(turns or 0), {"": None, "!": ValueError(name), "=": name}[ends])
        return (failing if ends == "!" else item)(trace, name, int(turns or 1))

    return does


def drawn(trace, words, error=None):
    """A generator of *words* (a string with spaces, or an iterable) that says when it is asked, when it ends and when it is closed."""
    try:
        for word in words.split() if isinstance(words, str) else words:
            trace(f"?{word[0]}")
            yield word
    except GeneratorExit:
        trace("close")
        raise
    trace("end")
    if error is not None:
        raise error


async def consume(trace, stream):
    """Say what is handed over and how it ends; return the error, or None."""
    try:
        async for result in stream:
            trace(f"={result}")
    except BaseException as error:
        trace(f"{type(error).__name__}({error})")
        return error
    trace("over")
    return None


class Doors:
    """An async function each of whose items waits until it is opened."""

    def __init__(self, trace):
        self.trace = trace
        self.futures = {}

    async def __call__(self, name):
        self.trace(f"+{name}")
        self.futures[name] = asyncio.get_running_loop().create_future()
        await self.futures[name]
        self.trace(f"-{name}")
        return name

    def open(self, names):
        for name in names:
            self.futures.pop(name).set_result(None)


# as_completed: what it is given, and the two loops over it


def coroutines(trace, words):
    """A list of what doing() does for each of *words*."""
    return list(map(doing(trace), words.split()))


def made(trace, words, error=None):
    """A generator of the same, each of which is made when it is drawn."""
    return of_generator(doing(trace), drawn(trace, words, error))


def of_generator(does, source):
    try:
        for word in source:
            yield does(word)
    finally:
        source.close()


async def made_async(trace, words, error=None, turns=0):
    """The same as an async generator, which takes some turns for each."""
    does = doing(trace)
    source = drawn(trace, words, error)
    try:
        for word in source:
            await contract_tools.idle(turns)
            yield does(word)
    finally:
        source.close()


def said(error):
    return f"{type(error).__name__}({error})"


def came_to(future):
    """What a Future that is done has come to, as text."""
    assert future.done()
    if future.cancelled():
        return "CancelledError()"
    error = future.exception()
    return str(future.result()) if error is None else said(error)


async def loop_async(trace, iterator):
    """`async for`: say what each Task or Future has come to, and how it ends; return the error, or None."""
    try:
        async for future in iterator:
            trace(f"={came_to(future)}")
            del future
    except BaseException as error:
        trace(said(error))
        return error
    trace("over")
    return None


async def loop_plain(trace, iterator):
    """`for`: the same of each coroutine; return the last error of one, or None."""
    last = None
    for coroutine in iterator:
        try:
            trace(f"={await coroutine}")
        except (Exception, asyncio.CancelledError) as error:
            if asyncio.current_task().cancelling():
                raise
            trace(f"={said(error)}")
            last = error
        del coroutine
    trace("over")
    return last


LOOPS = {"async": loop_async, "plain": loop_plain}
