"""An event loop whose clock jumps to the next timer instead of waiting for it.

The loop is asyncio's own `SelectorEventLoop`; only its clock and its selector differ, so that
everything which looks at the type of the loop (`create_task`, `call_soon`) sees the stock one.
Times may be integers of any size: they are added and compared, never rounded.
"""

import asyncio
import selectors


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is pending: the loop would wait for ever."""


class _Instant(int):
    """A time of the loop. From 3.15 on the loop runs what is due within the time's float spacing: none here."""

    def __float__(self):
        return 0.0


class _JumpingSelector(selectors.DefaultSelector):
    """Where the stock selector would sleep until the next timer, move the clock there."""

    loop = None

    def select(self, timeout=None):
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        scheduled = self.loop._scheduled
        if timeout is None or not scheduled:
            raise DeadlockError("nothing is ready and no timer is pending")
        self.loop.virtual_now = max(self.loop.virtual_now, scheduled[0]._when)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A `SelectorEventLoop` in virtual time. It starts at 0 and overrides no way of making Tasks."""

    def __init__(self):
        self.virtual_now = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        # An integer, so that the exact integer times of a program stay exact.
        self._clock_resolution = 1

    def time(self):
        return _Instant(self.virtual_now) if type(self.virtual_now) is int else self.virtual_now


def run_in_virtual_time(main, *, debug=False):
    """Run the coroutine `main` on a new loop in virtual time, then close the loop as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop, debug=debug) as runner:
        return runner.run(main)


class FineTimeLoop(VirtualTimeLoop):
    """The same with times in seconds that need not be whole: what is due is what is due to the nanosecond."""

    def __init__(self):
        super().__init__()
        self._clock_resolution = 1e-9
