"""An iterable of coroutines that is passed where the coroutines were meant: the TypeError has a note that says so."""

import asyncio
import collections
import sys
import types

import pytest

from contract_tools import run

DOORS = {
    "gather": lambda impl, *items: impl.gather(*items),
    "gather, limit": lambda impl, *items: impl.gather(*items, limit=2),
    "gather, semaphore": lambda impl, *items: impl.gather(*items, limit=asyncio.Semaphore(2)),
    "gather_with_concurrency": lambda impl, *items: impl.gather_with_concurrency(2, *items),
    "gather_with_concurrency(None)": lambda impl, *items: impl.gather_with_concurrency(None, *items),
}


class Untouched:
    """Iterable, as its type says; asking it for anything is an error."""

    def __iter__(self):
        raise AssertionError("iterated")

    def __len__(self):
        raise AssertionError("measured")

    def __getitem__(self, index):
        raise AssertionError("indexed")

    def __bool__(self):
        raise AssertionError("asked for its truth")


class Array(Untouched):
    """As numpy's: no hash, and no truth."""

    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("compared")


def generator():
    raise AssertionError("advanced")
    yield


ITERABLES = {
    "generator": generator,
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict_values": lambda: {}.values(),
    "dict_keys": lambda: {}.keys(),
    "deque": collections.deque,
    "map": lambda: map(None, ()),
    "range": lambda: range(3),
    "list_iterator": lambda: iter([]),
    "Untouched": Untouched,
    "Array": Array,
}


class NotIterable:
    __iter__ = None


async def async_generator():
    yield


OTHERS = {
    "int": 5,
    "None": None,
    "str": "text",
    "bytes": b"bytes",
    "bytearray": bytearray(b"bytes"),
    "dict": {},
    "not iterable": NotIterable(),
    "function": len,
}


async def error_of(awaited):
    with pytest.raises(TypeError) as caught:
        await awaited()
    return caught.value


def what_asyncio_or_await_says(door, item):
    async def awaits():
        await item

    async def gathers():
        await asyncio.gather(item)

    return run(lambda: error_of(awaits if door == "gather_with_concurrency" else gathers))


def error_through(impl, door, *items):
    async def calls():
        await DOORS[door](impl, *items)

    return run(lambda: error_of(calls))


def takes_generators(door):
    return sys.version_info < (3, 12) and door != "gather_with_concurrency"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ITERABLES)
def test_an_iterable_is_to_be_unpacked(impl, door, kind):
    if kind == "generator" and takes_generators(door):
        pytest.skip("a generator is a coroutine to asyncio")
    item = ITERABLES[kind]()
    error = error_through(impl, door, item)
    assert error.__notes__ == [f"to pass what the {kind} contains, unpack it with *"]
    theirs = what_asyncio_or_await_says(door, item)
    assert (type(error), str(error)) == (type(theirs), str(theirs))
    if kind == "generator":
        assert item.gi_frame.f_lasti in (-1, 0, 2, 4, 6), "it has not begun"
        item.close()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", OTHERS)
def test_anything_else_is_not(impl, door, kind):
    error = error_through(impl, door, OTHERS[kind])
    assert not hasattr(error, "__notes__")
    theirs = what_asyncio_or_await_says(door, OTHERS[kind])
    assert (type(error), str(error)) == (type(theirs), str(theirs))


@pytest.mark.parametrize("door", DOORS)
def test_nor_is_an_async_iterable(impl, door):
    assert not hasattr(error_through(impl, door, async_generator()), "__notes__")


@pytest.mark.parametrize("door", DOORS)
def test_the_coroutines_in_a_list_are_left_to_the_caller(impl, door):
    async def item():
        return 1

    coroutines = [item(), item()]
    error = error_through(impl, door, coroutines)
    assert error.__notes__ == ["to pass what the list contains, unpack it with *"]

    async def again():
        return await DOORS[door](impl, *coroutines)

    assert run(again) == [1, 1]


@pytest.mark.parametrize("door", ["gather", "gather_with_concurrency(None)"])
def test_a_generator_s_coroutines_have_not_been_made(impl, door):
    if takes_generators(door):
        pytest.skip("a generator is a coroutine to asyncio")
    made = []
    items = (made.append(index) or asyncio.sleep(0, index) for index in range(3))
    error = error_through(impl, door, asyncio.sleep(0), items)
    assert error.__notes__ == ["to pass what the generator contains, unpack it with *"]
    assert made == []
    assert run(lambda: DOORS[door](impl, *items)) == [0, 1, 2]


def test_what_an_awaitable_iterable_raises_gets_no_note(impl):
    class Both(Untouched):
        def __await__(self):
            raise TypeError("its own")
            yield

    for door in DOORS:
        error = error_through(impl, door, Both())
        assert str(error) == "its own"
        assert not hasattr(error, "__notes__")


class Proxy(Untouched):
    """As those of wrapt: every method, and the class of what it stands for."""

    __class__ = property(lambda self: types.CoroutineType)


def test_a_proxy_of_a_coroutine_contains_nothing(impl):
    error = error_through(impl, "gather_with_concurrency", Proxy())
    assert not hasattr(error, "__notes__")
    assert str(error) == str(what_asyncio_or_await_says("gather_with_concurrency", Proxy()))


class Iterable(type):
    def __iter__(self):
        raise AssertionError("iterated")

    def __await__(self):
        raise AssertionError("awaited")


class Member(metaclass=Iterable):
    """As of an enum, whose class is iterable."""


class Said(Untouched, metaclass=Iterable):
    pass


def test_the_methods_of_a_metaclass_are_not_those_of_the_object(impl):
    for door in DOORS:
        assert not hasattr(error_through(impl, door, Member()), "__notes__")
        assert error_through(impl, door, Said()).__notes__ == ["to pass what the Said contains, unpack it with *"]
