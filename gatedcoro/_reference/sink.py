"""Where outcomes go.  Twin of src/engine/sink.h."""

import dataclasses

from .state import CancelledError, Future, cancelled_error


@dataclasses.dataclass(slots=True)
class Outcome:
    """How one item has ended: with a value, or with an error."""

    value: object = None
    error: BaseException | None = None
    as_result: BaseException | None = None
    """What return_exceptions returns for the error."""
    has_left_the_loop: bool = True
    """Whether it has, if the error is an interrupt."""
    task: object = None
    """The Task or Future that has ended, if there is one; a Task may be in its last step."""
    task_is_done: bool = False
    """Its done callback says so."""
    is_callers: bool = False
    """That is a Future of the caller's, who has not asked to be told what it came to."""
    is_kept: bool = False
    """The sink has kept the Task: what it raised is for who gets that."""

    @classmethod
    def of_error(cls, error):
        return cls(error=error, as_result=CancelledError("") if isinstance(error, CancelledError) else error)

    @classmethod
    def of_cancellation(cls, message):
        """The outcome of an item that was cancelled after its last step had begun."""
        return cls(error=cancelled_error(message), as_result=CancelledError(message or ""))

    @classmethod
    def of_future(cls, future):
        """What *future*, which is done, has come to, be it that it cannot say."""
        try:
            if future.cancelled():
                message = getattr(future, "_cancel_message", None)
                error = future._make_cancelled_error()
                return cls(None, error, CancelledError("" if message is None else message), has_left_the_loop=False)
            # It has where the future is a Task; so has what another gathering does not report.
            has_left = not future._log_traceback if isinstance(future, Receiver) else hasattr(future, "get_coro")
            error = future.exception()
            value = None if error is not None else future.result()
            return cls(value, error, error, has_left)
        except BaseException as failure:
            return cls(error=failure, as_result=failure, has_left_the_loop=False)


def note_raised(error, who, raised):
    """Say on *error* what somebody else raised: *who* begins the sentence."""
    try:
        message = str(raised)
    except Exception:
        message = "<exception str() failed>"
    error.add_note(f"{who} raised {type(raised).__name__}: {message}")


class Receiver(Future):
    """The Future of a call, which a sink settles."""


class Sink:
    """Takes the outcomes of a gathering's items; this one, of items that nobody waits for, drops them."""

    def has_room(self):
        """Whether it could take the outcome of one more item."""
        return True

    def is_over(self):
        """Whether somebody else has ended it."""
        return False

    def expect(self, index):
        """The item has been taken and is about to start."""

    def put(self, index, outcome):
        """Take the outcome of an item; as *outcome* that it ended with an error is no error here."""

    def note(self, error, index, outcome, *, was_cancelled):
        """Say on *error*, with which it will end, how an item ended after it: while it was being cancelled, or by itself."""

    def cut(self, index):
        """Items with a larger index are being cancelled."""

    def end(self, error, *, was_seen):
        """There are no more outcomes.  If *error* is not None and *was_seen*, it need not be reported."""

    def forget(self):
        """Keep no reference to the gathering, which has settled."""


NOWHERE = Sink()
