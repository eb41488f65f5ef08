"""Who is shown as awaiting what runs, in the call graph of Python 3.14+.  Twin of src/engine/call_graph.h."""

from .state import add_to_awaited_by, discard_from_awaited_by


class CallGraph:
    """The edges from a caller that waits, or None, to what runs for it."""

    def __init__(self, awaiter):
        self._awaiter = awaiter

    def lacks(self, child):
        """Whether the caller waits, and is not shown as awaiting *child*."""
        return self._awaiter is not None and child.awaiter is None

    def join(self, child):
        """Show *child*, which it lacks, as awaited by the caller."""
        child.awaiter = self._awaiter
        add_to_awaited_by(child.task, child.awaiter)

    @staticmethod
    def leave(child):
        """Discard the edge that was added, if there is one, once."""
        awaiter, child.awaiter = child.awaiter, None
        if awaiter is not None:
            discard_from_awaited_by(child.task, awaiter)

    def leave_all(self, children):
        """The caller waits no more: nobody awaits what still runs, or what starts later."""
        self._awaiter = None
        for child in children:
            if child.awaiter is not None:
                self.leave(child)
                child.leave_call_graph_of_future()
