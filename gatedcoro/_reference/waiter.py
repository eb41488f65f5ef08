"""What a Task of ours waits for.  Twin of src/coroutines/waiter.h."""

from .current import AsCurrentTask


class _Waiter:
    """The least that a Task takes for a Future: it keeps its callback until the Task has made its step.

    A Future that is set loses its callbacks if the loop's call_soon() fails, and the Task
    that waits never goes on; nor does it if the loop loses the callback.  A waiter can be
    woken again.
    """

    _asyncio_future_blocking = False

    def __init__(self, loop):
        self._loop = loop
        self._callback = self._context = None
        self.is_woken = False  # the loop has the Task's next step

    def __await__(self):
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context=None):
        self._callback, self._context = callback, context
        self.is_woken = False

    def wake(self):
        if self._callback is not None:
            self._loop.call_soon(self._go_on, context=self._context)
            self.is_woken = True

    def resume(self):
        """Have the Task make its step now, in the middle of that of another one, if there is one."""
        if self._callback is not None:
            with AsCurrentTask(self._loop, None):
                self._context.run(self._go_on)

    def _go_on(self):
        callback, self._callback = self._callback, None
        if callback is None:  # woken twice
            return
        try:
            callback(self)
        except BaseException:
            if self._callback is None:
                self._callback = callback
            raise

    def cancel(self, msg=None):
        """Have the Task raise CancelledError by itself."""
        self.wake()
        return False

    def result(self):
        return None
