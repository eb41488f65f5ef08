"""A Future among the items: it runs already.  Twin of src/engine/watcher.h.

That of a gather() without a limit is the call's to cancel, and what it comes to is one of the results.  One that is handed
out stays the caller's: it has a slot, but is neither cancelled nor asked what it came to.
"""

from .call import INTERRUPTS
from .compat import GATHER_TAKES_DONE_FUTURES_AT_ONCE
from .item import ITEM_HANDED_OUT
from .running import RUN_WATCHED, Child
from .sink import Outcome


class _Watcher(Child):
    def ended(self, future):
        gathering = self.gathering
        if gathering is not None:  # else it calls back a second time
            gathering.ends(self)
            gathering.deliver(self.index, Outcome.of_future(future))


class HandedOutWatcher(Child):
    def __init__(self, gathering, index, future):
        super().__init__(gathering, index, future)
        self.state = RUN_WATCHED

    def start(self):
        gathering = self.gathering
        gathering.join_call_graph(self)
        try:
            self.task.add_done_callback(self.ended)
        except BaseException as error:
            if self.gathering is not None:  # else it has called back all the same
                gathering.forget(self)
            gathering.fail_call(error)
            if isinstance(error, INTERRUPTS):
                raise

    def ended(self, future):
        gathering = self.gathering
        if gathering is not None:
            gathering.ends(self)
            gathering.deliver(self.index, Outcome(task=future, task_is_done=True, is_callers=True))
            gathering.pump()

    def cancel(self, msg):
        """Let go of the Future."""
        gathering, future = self.gathering, self.task
        if gathering is None:
            return False
        gathering.forget(self)
        future.remove_done_callback(self.ended)
        return True

    def give_up(self):
        """It is not to be watched after all."""
        self.detach()


def watch_futures(gathering, futures):
    """Deliver what *futures* come to: pairs with their indexes, which have been taken out of the source."""
    is_handed_out = gathering.source.kind is ITEM_HANDED_OUT
    kind = HandedOutWatcher if is_handed_out else _Watcher
    done = []
    # Theirs may be any code: one that fails in the middle of this closes the queue, and
    # those behind it are left alone, as what is queued.
    while futures and not gathering.source.is_stopped:
        index, future = futures.popleft()
        watcher = kind(gathering, index, future)
        gathering.item_is_taken = bool(futures)
        gathering.sink.expect(index)
        gathering.running.add(watcher)
        gathering.join_call_graph(watcher)
        try:
            if GATHER_TAKES_DONE_FUTURES_AT_ONCE and not is_handed_out and future.done():
                done.append(watcher)
            else:
                future.add_done_callback(watcher.ended)
        except BaseException:
            if watcher.gathering is not None:
                gathering.forget(watcher)
            raise
    gathering.item_is_taken = False
    for watcher in done:
        watcher.ended(watcher.task)
