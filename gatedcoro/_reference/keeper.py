"""A Task that stands for a queue.  Twin of src/coroutines/keeper.h."""

from .state import BaseTask
from .waiter import _Waiter


async def _wait_while(condition, waiter):
    while condition():
        await waiter


class _Keeper(BaseTask):
    """Stands for a queue among all_tasks(), so that who cancels them all stops it too.

    The owner of the queue says owner_is_done() when it is gone, and is told if the keeper is
    cancelled before: owner.cancelled_by_keeper(msg).
    """

    def __init__(self, owner, loop, context):
        self._owner = owner
        self._waiter = _Waiter(loop)
        self._cancellation = None
        self._waits = _wait_while(self._is_needed, self._waiter)
        super().__init__(self._waits, loop=loop, name="gatedcoro queue", context=context)
        self._log_destroy_pending = False

    def __del__(self):
        self._waits.close()  # it may never have had its first step
        self._log_destroy_pending = False  # it may not have been made completely
        super().__del__()

    def _is_needed(self):
        return self._owner is not None

    def cancel(self, msg=None):
        if self._owner is None:
            return super().cancel(msg=msg)
        self._cancellation = (msg,)
        self._owner.cancelled_by_keeper(msg)
        return True

    def owner_is_done(self):
        """End: cancelled if cancel() was called, else normally."""
        self._owner = None
        if self._cancellation is not None:
            (msg,), self._cancellation = self._cancellation, None
            super().cancel(msg=msg)
        else:
            self._waiter.wake()
