"""Where somebody has replaced what a method of asyncio's semaphores does, in whatever way, that is what is done."""

import asyncio

import pytest

from implementations import load_again
from replaced_methods import replace, uses

METHODS = ["acquire", "release", "locked", "_wake_up_next", "__aenter__", "__aexit__"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["the code", "the function"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cls", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_it_is_what_is_called(impl, monkeypatch, cls, name, way, when):
    called = []
    module = load_again(impl) if when == "after" else None
    replace(monkeypatch, cls, name, way, called)
    if module is None:
        module = load_again(impl)
    expected, *ours = uses(module, cls, called)
    assert expected >= 5
    # At most one item waits in a gathering, so fewer may look, or be woken; each takes and gives back a slot.
    if name in ("locked", "_wake_up_next"):
        assert ours[0] == expected
        assert all(count > 0 for count in ours)
    else:
        assert ours == [expected] * 3
    with monkeypatch.context():
        monkeypatch.undo()
    assert uses(module, cls, called) == [0] * 4
