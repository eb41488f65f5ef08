"""The Future that the caller waits for.  Twin of src/surface/outer.h."""

from .call import Unraisable, is_closed
from .sink import Receiver
from .state import CancelledError


class _GatheringFuture(Receiver):
    """What the caller waits for: cancel() cancels the items and leaves the rest to them."""

    def __init__(self, gathering, *, loop):
        super().__init__(loop=loop)
        self._gathering = gathering  # until that has settled
        self._nobody_waits = False

    def cancel(self, msg=None):
        if self.done() or self._gathering is None:
            return False
        return self._gathering.cancel(msg)

    def abandon(self):
        """Nobody will look at the outcome: cancel what runs, and report no error."""
        self._nobody_waits = True
        if self._gathering is None:
            self._log_traceback = False
            return
        self._gathering.is_abandoned = True
        self._gathering.stop_progress()
        self._gathering.leave_call_graph()
        if is_closed(self._loop):
            self._gathering.close_queue_at_once()
            return
        try:
            self._gathering.cancel(None)
        except BaseException as error:
            Unraisable(error)

    def has_raised(self, error):
        """Whether *error* is that of the future, which has thrown it into who waits."""
        if not self.done():
            return False
        return isinstance(error, CancelledError) if self.cancelled() else error is self.exception()

    def was_set_by_somebody(self):
        """Who waited goes on; so does what runs, and what is queued, as after an error."""
        if self._gathering is not None:
            self._gathering.lost_sink()

    def forget(self):
        self._gathering = None

    def settle(self, results, error, *, was_seen):
        """End with *results* or *error*; one that *was_seen* is not reported, nor a cancellation."""
        if self.done():  # by somebody else
            return
        if error is None:
            self.set_result(results)
            return
        self.set_exception(error)
        if self._nobody_waits or was_seen or isinstance(error, CancelledError):
            self._log_traceback = False
