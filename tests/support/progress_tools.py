"""What tests of `progress=` share: items by their milliseconds, a callback that says when it is told what, every call that has it."""

import asyncio
import sys
import types

import pytest

import contract_tools
from virtual_time import FineTimeLoop


def run(main, *, debug=None, loop_factory=FineTimeLoop):
    """contract_tools.run(), in virtual time with fractions of a second."""
    return contract_tools.run(main, debug=debug, loop_factory=loop_factory)


def now():
    """The time of the loop in milliseconds."""
    return round(asyncio.get_running_loop().time() * 1000, 3)


class Told(list):
    """A callback that keeps (milliseconds, number) of each call; *then* is called after that, with itself."""

    def __init__(self, then=None):
        self.then = then

    def __call__(self, number):
        assert type(number) is int
        self.append((now(), number))
        if self.then is not None:
            self.then(self)

    @property
    def sum(self):
        return sum(number for _, number in self)


def fails_at(call, error):
    """A Told that raises *error* in that call, counted from 1, and in none after it."""

    def then(told):
        if len(told) == call:
            raise error

    return Told(then)


class Bar:
    """A bar of the user's: it is no callable."""

    def __init__(self):
        self.told = Told()

    def update(self, number):
        self.told(number)


class StandIn:
    """Takes the place of tqdm's bar, and keeps what is done with it."""

    made = ()

    def __init__(self, total=None):
        self.total = total
        self.done = []
        StandIn.made.append(self)

    def update(self, number):
        self.done.append((now(), number))

    def close(self):
        self.done.append("closed")


def in_place_of_tqdm(monkeypatch):
    """Have progress=True make stand-ins; return the list of those that are made."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=StandIn))
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn.made


async def sleep(milliseconds):
    await asyncio.sleep(milliseconds / 1000)


async def after(milliseconds, end=None):
    """An item: it ends after so many milliseconds, with *end* if that is an error, else with a result."""
    await sleep(milliseconds)
    if isinstance(end, BaseException):
        raise end
    return milliseconds


async def until_cancelled(cleanup=0, end=None):
    """An item: cancelled, it cleans up for so many milliseconds; then it is cancelled, or raises *end*."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        if cleanup:
            await sleep(cleanup)
        if end is not None:
            raise end


def does(word):
    """An item by its word: 5 ends after so many milliseconds, "5!" fails then; "~" waits until cancelled, "~5" cleans up for so many."""
    if isinstance(word, int):
        return after(word)
    if word.startswith("~"):
        return until_cancelled(int(word[1:] or 0))
    return after(int(word[:-1]), ValueError(word))


def end_early(call, how):
    """Close a coroutine, or throw into it; "drop" leaves that to its last reference."""
    if how == "close":
        call.close()
    elif how == "throw":
        with pytest.raises(KeyError):
            call.throw(KeyError("thrown"))


async def all_of(stream):
    return [result async for result in stream]


async def given(words):
    """An async source of them."""
    for word in words:
        yield word


def functions_of(words):
    return [lambda word=word: does(word) for word in words]


# What is called with an implementation, words for does() and options, and returns what to await.
CALLS = {
    "gather": lambda impl, words, **options: impl.gather(*map(does, words), **options),
    "run_all": lambda impl, words, **options: impl.run_all(functions_of(words), **options),
    "run_all, a generator": lambda impl, words, **options: impl.run_all(
        (function for function in functions_of(words)), **options
    ),
    "run_all, an async generator": lambda impl, words, **options: impl.run_all(given(functions_of(words)), **options),
    "amap awaited": lambda impl, words, **options: impl.amap(does, words, **options),
    "amap awaited, an async generator": lambda impl, words, **options: impl.amap(does, given(words), **options),
    "amap": lambda impl, words, **options: all_of(impl.amap(does, words, **options)),
    "amap, an async generator": lambda impl, words, **options: all_of(impl.amap(does, given(words), **options)),
    "amap out of order": lambda impl, words, **options: all_of(impl.amap(does, words, ordered=False, **options)),
}
