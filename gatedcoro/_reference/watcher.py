"""A Future among the items of a call without a limit: it runs already.  Twin of src/engine/watcher.h."""

from .compat import GATHER_TAKES_DONE_FUTURES_AT_ONCE
from .running import Child
from .sink import Outcome


class _Watcher(Child):
    def ended(self, future):
        gathering = self.gathering
        if gathering is not None:  # else it calls back a second time
            gathering.ends(self)
            gathering.deliver(self.index, Outcome.of_future(future))


def watch_futures(gathering):
    """Take the Futures out of the source, and deliver what they come to."""
    done = []
    futures = gathering.source.remove_futures()
    # Theirs may be any code: one that fails in the middle of this closes the queue, and
    # those behind it are left alone, as what is queued.
    while futures and not gathering.source.is_stopped:
        index, future = futures.popleft()
        watcher = _Watcher(gathering, index, future)
        gathering.item_is_taken = bool(futures)
        gathering.running.add(watcher)
        gathering.join_call_graph(watcher)
        try:
            if GATHER_TAKES_DONE_FUTURES_AT_ONCE and future.done():
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
