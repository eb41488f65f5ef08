"""Where somebody has replaced what a method of our semaphores does, that is what is done; and what becomes of them where asyncio's have been replaced."""

import asyncio
import copy
import pickle

import pytest

from contract_tools import run
from implementations import load_again
from replaced_methods import item, note_calls, replace, uses
from semaphore_tools import KINDS

METHODS = ["acquire", "release", "locked", "__aenter__", "__aexit__"]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_KIND
@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_is_called(impl, monkeypatch, kind, name):
    called = []
    cls = getattr(impl, kind)
    assert uses(impl, cls, called) == [0] * 4
    with monkeypatch.context() as patch:
        replace(patch, cls, name, "the function", called)
        expected, *ours = uses(impl, cls, called)
        assert expected >= 5
        if name == "locked":
            assert ours[0] == expected
            assert all(count > 0 for count in ours)
        else:
            assert ours == [expected] * 3
    assert uses(impl, cls, called) == [0] * 4


@EACH_KIND
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_put_on_the_subclass_later_is_called_too(impl, kind, name):
    """Whether it is overridden is not what it was when the class or the object was made."""
    called = []
    cls = getattr(impl, kind)
    subclass = type("Own", (cls,), {})
    assert uses(impl, subclass, called) == [0] * 4
    setattr(subclass, name, note_calls(getattr(cls, name), called))
    assert min(uses(impl, subclass, called)) > 0
    delattr(subclass, name)
    assert uses(impl, subclass, called) == [0] * 4


@EACH_KIND
@pytest.mark.parametrize("way", ["the code", "the function"])
@pytest.mark.parametrize("name", METHODS)
def test_what_asyncios_do_is_not_what_ours_do(impl, monkeypatch, kind, name, way):
    called = []
    replace(monkeypatch, getattr(asyncio, kind), name, way, called)
    module = load_again(impl)
    assert uses(module, getattr(module, kind), called) == [0] * 4
    assert max(uses(module, getattr(asyncio, kind), called)) > 0


@pytest.mark.parametrize("replaced", ["both", *KINDS])
def test_where_asyncios_are_no_classes_ours_are_classes_all_the_same(impl, monkeypatch, replaced):
    for kind in KINDS if replaced == "both" else [replaced]:
        monkeypatch.setattr(asyncio.locks, kind, lambda value=1: pytest.fail("it is not to be called"))
        monkeypatch.setattr(asyncio, kind, getattr(asyncio.locks, kind))
    module = load_again(impl)
    assert issubclass(module.BoundedSemaphore, module.Semaphore)
    for kind in KINDS:
        assert uses(module, getattr(module, kind), []) == [0] * 4

    async def main():
        for kind in KINDS:
            s = getattr(module, kind)(2)
            assert await module.gather(item(1), item(2), item(3), limit=(5, s)) == [1, 2, 3]
            s.limit = 1
            other = copy.copy(s)
            assert (other.limit, other._value, s.limit, s._value) == (1, 1, 1, 1)

    run(main)


@EACH_KIND
def test_a_subclass_in_asyncios_place_is_what_ours_are_based_on(impl, monkeypatch, kind):
    """As tools put it there that want to see every semaphore."""

    class Seen(getattr(asyncio, kind)):
        seen = "by the tool"

    monkeypatch.setattr(asyncio.locks, kind, Seen)
    module = load_again(impl)
    cls = getattr(module, kind)
    assert issubclass(cls, Seen)
    assert uses(module, cls, []) == [0] * 4


@EACH_KIND
def test_it_is_pickled_by_its_public_name(impl, kind):
    s = getattr(impl, kind)(3)
    if impl.__name__ == "gatedcoro._core":
        other = pickle.loads(pickle.dumps(s))
        assert (type(other), other.limit, other._value) == (type(s), 3, 3)
    other = copy.deepcopy(s)
    assert (type(other), other.limit, other._value) == (type(s), 3, 3)
