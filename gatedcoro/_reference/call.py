"""Calls into other people's code, and errors that belong to no item.  Twin of src/base/call.h."""

INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What asyncio lets leave the event loop."""


class Unraisable:
    """Hands an error that could not be raised to sys.unraisablehook, which takes it from finalizers only."""

    def __init__(self, error):
        self._error = error

    def __del__(self):
        raise self._error


def is_closed(loop):
    try:
        return loop.is_closed()
    except Exception as error:  # it may still do what it is asked to
        Unraisable(error)
        return False


def raisable(error):
    """Return what a coroutine may raise for *error*: a StopIteration must not look like a return (PEP 479)."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError("coroutine raised StopIteration")
    instead.__cause__ = error
    return instead
