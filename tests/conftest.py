"""Every test of the contract runs on each implementation: it takes the fixture `impl`."""

import gc
import sys

import pytest

from effort import SHORT
from implementations import FREE_THREADED, load_implementation

IMPLEMENTATIONS = ("c", "c-task-per-item") if SHORT else ("c", "c-task-per-item", "python")


@pytest.fixture(autouse=True, scope="module" if FREE_THREADED else "function")
def freeze_what_is_there():
    """Keep what pytest, libraries and other tests made out of the many calls of `gc.collect`: that is most of their time.

    A free-threaded build looks at what is frozen, too: there, once a file.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """A module that says NO_TASK_IS_REUSED has nothing to look at where that is switched off."""
    items[:] = [
        item
        for item in items
        if not (
            getattr(getattr(item, "module", None), "NO_TASK_IS_REUSED", False)
            and getattr(item, "callspec", None) is not None
            and item.callspec.params.get("impl") == "c-task-per-item"
        )
    ]


@pytest.fixture(params=IMPLEMENTATIONS)
def impl(request):
    """A module with the public functions: the C extension, the same without Task reuse, the reference.

    Its clock stands still, or a slow machine would now and then end a slice and change a trace; a test
    that is about slices sets a clock of its own.
    """
    module = load_implementation(request.param)
    reuse = module._set_task_reuse(False)  # as GATEDCORO_TASK_REUSE in the environment has it
    if request.param != "c-task-per-item":
        module._set_task_reuse(reuse)
    module._set_clock(lambda: 0.0)
    try:
        yield module
    finally:
        module._set_full_turns(False)
        module._set_clock(None)
        module._set_task_reuse(reuse)


@pytest.fixture
def unraisables(monkeypatch):
    """The errors that could only be reported."""
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: errors.append(one.exc_value))
    return errors


@pytest.fixture
def full_turns(impl):
    """What had suspended and ends makes room for starts that come in the next turn, together, from the first end on.

    Otherwise a call first looks whether more than one item ends in a turn (tests/contract/test_turns.py).
    """
    impl._set_full_turns(True)


@pytest.fixture(params=["full"] if SHORT else ["unknown", "full"], ids=lambda turns: f"turns-{turns}")
def any_turns(impl, request):
    """Both: a call begins as calls do, and with full turns, where Tasks wait for their next item from the first end on."""
    impl._set_full_turns(request.param == "full")
