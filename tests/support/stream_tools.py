"""What tests of streams share: items by their names, a source that says what is asked of it, a consumer that says what it gets, a strict run."""

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
