"""One call: what runs, what is queued, what becomes of it.  Twin of src/engine/gathering.h.

      OPEN ----> CANCELLED      what its outcome will be if nothing else comes between: all results,
        |           |           or a CancelledError;
        +-> FAILING <           an error that stops the rest, once nothing runs any more;
        |   |  |    |
        +-> LEFT    |           no error, for nobody wants what is left, once nothing runs any more
        |      |    |
        v      v    v
           SETTLED              its sink has had the outcome; the rest of the queue goes on

Items come from a source, and start while the limit has room; their outcomes go to a sink.  pump() starts items: it is the one
loop, which runs when the call begins, in the last step of an item, and in a turn of its own after a slice, and where turns are
full: there once for all items that ended in the turn before.  Any of this runs other people's code, which may cancel or close
anything: the state is changed before, and looked at again after.
"""

import contextvars
import dataclasses
import enum
import math

from gatedcoro._progress import open_progress

from .call import INTERRUPTS, Unraisable, is_closed, raisable
from .call_graph import CallGraph
from .compat import HAS_AWAITED_BY
from .current import functions_of_the_current_task
from .item import close_item
from .keeper import _Keeper
from .limit import Limit
from .progress import Progress
from .running import Running
from .sink import NOWHERE, note_raised
from .slice_ import PASS_OVER, Slice, Timer
from .source import SOURCE_OPEN, TAKE_NONE
from .state import CancelledError, cancelled_error, running_loop_or_none
from .turns import TURNS_FULL, TURNS_SPARSE, Turns


class GatheringState(enum.Enum):
    OPEN = "to end with its results"
    CANCELLED = "to end with a CancelledError"
    FAILING = "to end with an error"
    LEFT = "to end without one, as nobody wants what is left"
    SETTLED = "ended"


GATHERING_OPEN, GATHERING_CANCELLED, GATHERING_FAILING, GATHERING_LEFT, GATHERING_SETTLED = GatheringState


class TaskOrigin(enum.Enum):
    BY_LOOP = "loop.create_task()"
    OWN = "our own type"
    OWN_REUSED = "our own type, one for several items: in C only"


TASKS_BY_LOOP, TASKS_OWN, TASKS_OWN_REUSED = TaskOrigin


MOST_PASSED_ON = 100
"""As often who waits for the end is taken for somebody who is cancelled by others.

After that it is what waits for it that does so, by what it has cancelled.
"""


class PumpState(enum.Enum):
    NONE = "no pass is scheduled"
    COUNTS = "one that tells that this turn is over; nothing need start in it"
    STARTS = "one in which something is to start"
    AHEAD = "the same, but what it would start does so in this step"


PUMP_NONE, PUMP_COUNTS, PUMP_STARTS, PUMP_AHEAD = PumpState


class ErrorStops(enum.Enum):
    """What the first error stops; the call ends with it when nothing runs any more that has been stopped."""

    NOTHING = "nothing: the call ends with it at once, and the other items go on"
    ALL = "everything"
    ALL_BUT_TAKEN = "everything; that of the source lets go on what has been taken before it"
    LATER = "every later item; an error of an earlier one takes its place"


STOPS_NOTHING, STOPS_ALL, STOPS_ALL_BUT_TAKEN, STOPS_LATER = ErrorStops


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """What an item's error does."""

    return_exceptions: bool = False
    """It is a result.  An error that belongs to no item ends the call all the same."""
    stops: ErrorStops = STOPS_NOTHING


NOT_STOPPED = math.inf


def error_policy(return_exceptions, cancel_on_error):
    """Return what the arguments of these names mean."""
    return ErrorPolicy(bool(return_exceptions), STOPS_ALL if cancel_on_error else STOPS_NOTHING)


class _Gathering:
    """One call.  It does not know what runs an item (worker.py): make_child(gathering, index, item) makes that."""

    def __init__(self, loop, source, limits, policy, make_child):
        self.loop = loop
        self.source = source
        self.policy = policy
        self.slice = Slice()
        self.turns = Turns()
        self.running = Running()
        self.sink = NOWHERE
        self.state = GATHERING_OPEN
        self.error = None  # with which it will end, while it is FAILING
        self.stopped_after = NOT_STOPPED  # items with a larger index have been cancelled by _stop_after() or leave()
        self.passed_on = 0  # cancellations, by those who wait for the end
        self.cleanup_error = None  # that the source has raised while it was being closed
        self.cancel_requested = False  # in whatever state
        self.cancel_message = None
        self.was_interrupted = False  # by an item's error, which has left the loop
        self.is_abandoned = False  # nobody will look at the outcome
        self.item_is_taken = False  # one that neither runs yet nor has been dropped
        self.pump_state = PUMP_NONE
        self.keeper = None
        self.progress = None  # who is told of it, if anybody
        self.task_origin = TASKS_OWN
        self.parent = None  # who is the current Task while the loop makes Tasks
        self._make_child = make_child
        self.limit = Limit(limits, loop)
        self.is_timed = not self.limit.is_none or source.may_be_endless
        self.context = contextvars.copy_context()  # never entered, only copied
        caller = None
        if HAS_AWAITED_BY and running_loop_or_none() is loop:
            caller = functions_of_the_current_task()[0](loop)
        self.call_graph = CallGraph(caller)

    def __del__(self):
        self.stop_progress()
        self.close_queue_at_once()

    # Starting items

    def may_start(self):
        """Whether there is an item, or may be one, that is yet to start."""
        return self.source.is_open

    def has_room(self):
        """Whether there is something to do for a pass: an item to start, or, without a slot, to find out whether there is one."""
        return self._has_room_but_for_slots() and (self.limit.slots.has_one or not self.source.has_next)

    def _has_room_but_for_slots(self):
        return self.source.state is SOURCE_OPEN and self.limit.has_room(len(self.running)) and self.sink.has_room()

    def schedule_pump(self, pump=PUMP_STARTS):
        """Have a pass in the next turn of the event loop."""
        if not self.may_start():
            return
        is_scheduled = self.pump_is_scheduled
        if self.pump_state is PUMP_NONE or self.pump_state is PUMP_COUNTS:
            self.pump_state = pump
        if is_scheduled:
            return
        try:
            self.loop.call_soon(self._scheduled_pump, context=self.context.copy())
        except BaseException:
            self.pump_state = PUMP_NONE
            raise

    @property
    def pump_is_scheduled(self):
        return self.pump_state is not PUMP_NONE

    def _scheduled_pump(self):
        self.pump_state = PUMP_NONE
        self.turns.note_pass()
        self.pump()

    def pump(self):
        """Run a pass, unless one is under way: an item that ends while another is being started does not recurse into this."""
        if not self.slice.is_in_use:
            self.slice.begin()
            self._run_pass()

    def start_ahead(self):
        """Somebody wants a result, and none is there: what is to start in the next turn does so in this step.

        That is until a slice is used up in the turn: then the event loop gets its turn.
        """
        if (
            self.pump_state is PUMP_STARTS
            and self.slice.last is not PASS_OVER
            and not self.slice.is_in_use
            and self.has_room()
        ):
            self.pump_state = PUMP_AHEAD
            self.slice.begin_rest()
            self._run_pass()

    def _run_pass(self):
        """Take items and start them, while there is room and the slice lasts."""
        try:
            while (child := self._next()) is not None:
                child.start()
                del child  # it goes before the next item is asked for
        except INTERRUPTS:
            self.interrupted()
            raise
        except Exception as error:
            self._pass_failed(error)
        finally:
            if self.pump_state is PUMP_AHEAD:
                self.pump_state = PUMP_STARTS
            self.slice.end()
            self._release_kept()
            self._wait_for_slot()
        self.settle_if_over()

    def _next(self):
        """Return what is to run the next item that may start in this pass, None if there is none."""
        if not self.has_room():
            return None
        if not self.slice.lasts(is_timed=self.is_timed, next_is_scheduled=self.pump_state is PUMP_STARTS):
            self.schedule_pump()
            return None
        return self._take() if self._takes_slot() else None

    def _takes_slot(self):
        """Return whether there is an item that may start: its slot is in hand then."""
        if not self.has_room():  # the clock may be the user's
            return False
        slots = self.limit.slots
        if not slots.has_one and not (self._draw() and self.source.state is SOURCE_OPEN and slots.has_one):
            return False  # there may be one when the source has been asked
        slots.take()
        return True

    def _draw(self):
        """Return whether the source has an item at hand."""
        answer = None
        try:
            answer = self.source.draw()
        except BaseException as error:
            self.fail_call(error)
            if isinstance(error, INTERRUPTS):
                raise
        finally:
            if self.source.is_stopped:
                self.source.drop_ahead()
                if self.source.closes_at_once:
                    self._close_source()  # it was running when it was stopped
        if answer is TAKE_NONE:
            self._queue_is_gone()
        return answer is True and not self.source.is_stopped

    def _take(self):
        """Take the next item out of the source, and return what is to run it, None if there is none, or that cannot be."""
        if not self._draw():
            return None
        taken = self.source.take()
        self.item_is_taken = True
        self.sink.expect(taken[0])
        if not self.source.has_more:
            self._queue_is_gone()
        return self._child_for(*taken)

    def _child_for(self, index, item):
        """Return what is to run the item, which has been taken; None, and drop the item, if that cannot be."""
        try:
            child = self._make_child(self, index, item)
        except BaseException as error:
            self.fail_call(error)
            self._drop_item(item)
            if isinstance(error, INTERRUPTS):
                raise
            return None
        if self.source.is_stopped:
            child.give_up()
            self._drop_item(item)
            return None
        self.running.add(child)
        self.item_is_taken = False
        self.limit.starts(child)
        return child

    def _drop_item(self, item):
        """The item that was taken never starts."""
        close_item(self.source.kind, item)
        self.item_is_taken = False

    def _pass_failed(self, error):
        """The loop or the clock has failed, so no pass is scheduled.

        If there is room for an item nevertheless, nobody would start it, and what runs may
        wait for it: the call ends with *error*.  Otherwise that is reported, and a pass
        begins at the next end.
        """
        if self.has_room() and not self.pump_is_scheduled:
            self.fail_call(error)
        else:
            Unraisable(error)

    def gates_passed(self, child):
        if self.limit.no_longer_waits(child) and not self.slice.is_in_use and self.may_start():
            try:
                self.schedule_pump()
            except Exception as error:
                self._pass_failed(error)

    def _release_kept(self):
        """Keep what is for items that are yet to start no longer than there are any.

        That is the caller, which may hold what holds this; and a slot, or a place in the queue for one.
        """
        if not self.slice.is_in_use and not self.may_start():
            self.parent = None
            self.limit.slots.let_go()

    # Slots of a semaphore

    def _is_admitted(self):
        """It has stood in the queue, and is handed a slot; return whether it takes that.

        What starts with it does so in the next turn, or in this step, where that is one of an item that gives one back, or in
        the pass that is under way.
        """
        slots = self.limit.slots
        slots.leave_queue()
        if slots.in_hand or not self.may_start():
            return False
        slots.in_hand = True
        if slots.gives_back or self.slice.is_in_use:
            return True
        try:
            self.schedule_pump()
        except BaseException as error:
            slots.in_hand = False  # first of all: the next one is told when this has returned
            self.fail_call(error)
            if isinstance(error, INTERRUPTS):
                raise
            return False
        return True

    def _wait_for_slot(self):
        """Stand in the queue if nothing but a slot is missing for the next item; where more is, no slot is kept, either."""
        slots = self.limit.slots
        if not slots.are_counted or self.slice.is_in_use:
            return
        try:
            if (
                self._has_room_but_for_slots()
                and not slots.has_one
                and not slots.stands_in_queue
                and not slots.try_to_take()
            ):
                slots.join(self.loop, self._is_admitted)
            if not self._has_room_but_for_slots():
                slots.let_go()
            elif self.has_room():  # by what somebody has done meanwhile; or the source is to be asked
                self.schedule_pump()
        except BaseException as error:
            self.fail_call(error)
            if isinstance(error, INTERRUPTS):
                raise

    def room_is_made(self):
        """An item may start: have that done by the pass under way, or else in the next turn; return whether that is scheduled."""
        if self.slice.is_in_use:
            return False
        if not self.has_room():
            self._wait_for_slot()
            return False
        try:
            self.schedule_pump()
        except INTERRUPTS:
            self.interrupted()
            raise
        except Exception as error:
            self._pass_failed(error)
            return False
        return True

    # Outcomes

    def ends(self, child):
        """*child* has ended; it counts as running until deliver() has its outcome."""
        self.running.begin_ending(child)
        self.forget(child)

    def forget(self, child):
        self.running.remove(child)
        try:
            self.limit.slots.give_back(child)
        except Exception as error:
            Unraisable(error)
        self.limit.no_longer_waits(child)
        self.call_graph.leave(child)
        child.detach()

    def child_lost(self, child):
        """The item's Task was destroyed, so the loop is gone: it has no outcome, and nothing starts any more."""
        if self.state is GATHERING_OPEN:
            self.state = GATHERING_CANCELLED
        self.stop_progress()
        self.forget(child)
        self.close_queue_at_once()

    def deliver(self, index, outcome):
        """Take the outcome of the item at *index*, which has ended."""
        try:
            try:
                if self.progress is not None:
                    self._note_progress()
            finally:
                self._take_outcome(index, outcome)
        except INTERRUPTS:
            self.interrupted()
            raise
        finally:
            self.running.end_ending()
            self.settle_if_over()

    def _take_outcome(self, index, outcome):
        """Hand it on, or let the call fail."""
        error = outcome.error
        self.was_interrupted |= outcome.has_left_the_loop and isinstance(error, INTERRUPTS)
        if self.state is GATHERING_SETTLED:
            pass
        elif self.sink.is_over():
            self.lost_sink()
        elif error is None:
            self.sink.put(index, outcome)
        elif self.state is GATHERING_LEFT:
            if not isinstance(error, CancelledError):
                self.state, self.error = GATHERING_FAILING, error
        elif self.state is GATHERING_FAILING:
            self._fails_too(index, outcome)
        elif self.policy.return_exceptions:
            self.sink.put(index, outcome)
        elif self.policy.stops is STOPS_NOTHING:
            self.state, self.error = GATHERING_FAILING, error
            self._settle(error)
        else:
            self._fail(error, index)

    def _fail(self, error, index):
        """Stop what the policy says because of *error*, and raise it when none of that runs any more."""
        self.state, self.error = GATHERING_FAILING, error
        self.close_queue()
        self._stop_after(index if self.policy.stops is STOPS_LATER else -1)

    def _stop_after(self, index):
        """Cancel what runs, but for items with a smaller index than *index*, and for what has been cancelled before."""
        before, self.stopped_after = self.stopped_after, index
        self.sink.cut(index)
        if not self.cancel_requested:  # else all has been cancelled
            self.running.cancel_all(None, after=index, before=before)

    def _not_stopped_before(self):
        """The index from which on everything that runs has been cancelled by _stop_after()."""
        return NOT_STOPPED if self.cancel_requested else self.stopped_after

    def _fails_too(self, index, outcome):
        """An item has failed although there is an error already."""
        if self.policy.stops is STOPS_NOTHING:
            return
        is_earlier = index < self.stopped_after < NOT_STOPPED
        if is_earlier and self.policy.return_exceptions:
            self.sink.put(index, outcome)
        elif is_earlier and self.policy.stops is STOPS_LATER:
            self.error = outcome.error
            self._stop_after(index)
        else:
            self.sink.note(self.error, index, outcome, was_cancelled=not is_earlier)
            if is_earlier:
                self._stop_after(-1)

    def fail_call(self, error):
        """An error that belongs to no item ends the call, whatever return_exceptions says.

        There is an outcome first of all, whatever fails below, so that nobody takes what
        there is of the results for it.
        """
        error = raisable(error)
        self.was_interrupted |= isinstance(error, INTERRUPTS)
        is_decided = self.state in (GATHERING_FAILING, GATHERING_LEFT, GATHERING_SETTLED)
        decides = not is_decided and not self.sink.is_over()
        if decides:
            self.state, self.error = GATHERING_FAILING, error
        self.close_queue()
        if decides and self.policy.stops is STOPS_NOTHING:
            if self.state is not GATHERING_SETTLED:
                self._settle(error)
        elif decides:
            self._stop_after(-1 if self.policy.stops is STOPS_ALL else self.source.position)
        self.settle_if_over()

    @property
    def is_undecided(self):
        """Whether there is no error with which it will end, and somebody waits for what it comes to."""
        return self.state is GATHERING_OPEN or self.state is GATHERING_CANCELLED

    def time_out(self):
        """Time is up: nothing starts any more, and what runs is cancelled.

        It ends with a TimeoutError when that has ended, unless there is an error already.
        """
        if self.is_undecided:
            self.state, self.error = GATHERING_FAILING, TimeoutError()
        elif self.state is not GATHERING_FAILING:
            return
        before, self.stopped_after = self._not_stopped_before(), -1
        self.close_queue()
        if self.state is GATHERING_FAILING:
            self.running.cancel_all(None, before=before)
        self.settle_if_over()

    def cleanup_failed(self, error):
        """The source has raised *error* while it was being closed: it is the call's, or becomes a note on that."""
        if self.is_abandoned or self.state is GATHERING_SETTLED or self.cleanup_error is not None:
            Unraisable(error)
        else:
            self.cleanup_error = error

    def settle_if_over(self):
        """Settle if nothing runs and nothing is left."""
        if self.state is GATHERING_SETTLED or self.running or self.source.has_more:
            return
        if self.sink.is_over():
            self._let_go()
        elif self.state is GATHERING_FAILING:
            self._settle(self.error)
        elif self.state is GATHERING_CANCELLED:
            self._settle(cancelled_error(self.cancel_message))
        elif self.state is GATHERING_LEFT or not self.item_is_taken:
            self._settle(None)

    def _settle(self, error):
        """Have the sink end with *error*, or with the results.

        An interrupt of an item has left the loop, so nobody need look at it again.  A caller
        that is being cancelled, as asyncio.run() does then, gets a CancelledError: it would
        end with the interrupt, which would leave the loop once more.
        """
        if self.progress is not None:
            error, is_put_off = self._put_off_end(error)
            if is_put_off:
                return
        cleanup_error, self.cleanup_error = self.cleanup_error, None
        if error is None:
            error = cleanup_error
        elif cleanup_error is not None:
            note_raised(error, "while the source was being closed, it", cleanup_error)
        was_seen = self.was_interrupted and isinstance(error, INTERRUPTS)
        if was_seen and self.cancel_requested:
            error = cancelled_error(self.cancel_message)
        if error is not None and self.may_start():
            try:
                self.ensure_keeper()
            except Exception as failure:
                Unraisable(failure)
        if self.state is not GATHERING_SETTLED:  # else while the keeper was made
            self._let_go().end(error, was_seen=was_seen)

    def lost_sink(self):
        """Somebody else has ended the sink, and who waited for it goes on; so does what runs, and what is queued."""
        if self.state is not GATHERING_SETTLED:
            if self.may_start():
                self.ensure_keeper()
            self._let_go()

    def _let_go(self):
        """Keep no reference to what the caller owns from now on, so as to leave no cycle; return the sink."""
        sink, self.sink, self.error = self.sink, NOWHERE, None
        self.state = GATHERING_SETTLED
        self.stop_progress()
        sink.forget()
        self.leave_call_graph()
        return sink

    def go_on_after(self, error, *, had_suspended=False):
        """An item has ended: start what may start now.

        If it had suspended, that is left to one pass in the next turn, for all that ends in this one.  Where nothing
        else runs, or turns are not known to be full, there is nothing to wait for.
        """
        if isinstance(error, INTERRUPTS):
            self.interrupted()
        elif had_suspended and self._collects():
            self._start_in_the_next_turn()
        else:
            self.pump()

    def _collects(self):
        if not self.running:
            return self.pump_state is PUMP_STARTS
        if self.turns.state is TURNS_FULL:
            return True
        if self.turns.state is TURNS_SPARSE:
            self.turns.note_uncounted()
            return self.pump_state is PUMP_STARTS
        try:
            self.schedule_pump(PUMP_COUNTS)
        except INTERRUPTS:
            self.interrupted()
            raise
        except Exception as error:
            Unraisable(error)
            return False
        self.turns.note_end()
        return self.turns.state is TURNS_FULL

    def _start_in_the_next_turn(self):
        if self.room_is_made() and self.turns.state is TURNS_FULL:
            self.turns.note_end()

    def interrupted(self):
        """An interrupt leaves the loop; if that is run again, the queue goes on."""
        if not self.may_start():
            return
        try:
            self.ensure_keeper()
        except Exception as failure:
            Unraisable(failure)
        try:
            self.schedule_pump()
        except Exception as failure:
            self._pass_failed(failure)

    # Progress

    def open_progress(self, progress, total):
        """Tell *progress*, of what is to begin; *total* is how many items there will be, or None."""
        if progress is not None:
            self.progress = Progress(*open_progress(progress, total))

    def _note_progress(self):
        try:
            self.progress.note_end(self)
        except BaseException as error:
            self.progress_failed(error)
            if isinstance(error, INTERRUPTS):
                raise

    def _put_off_end(self, error):
        """Return the error with which the call ends, and whether it does so in the next turn only."""
        try:
            if self.progress.puts_off_end(self):
                return error, True
        except INTERRUPTS:
            self.stop_progress()
            self._settle(error)
            raise
        except BaseException as failure:
            if error is None:
                error = failure
            else:
                Unraisable(failure)
        self.stop_progress()
        return error, False

    def end_as_put_off(self):
        """What was to be told has been."""
        self.stop_progress()
        if self.state is GATHERING_FAILING and self.policy.stops is STOPS_NOTHING:
            self._settle(self.error)
        else:
            self.settle_if_over()
            self._settle_if_nothing_ran()

    def progress_failed(self, error):
        """Telling has failed: that is the call's error, or becomes a note on it; where nobody waits any more it is reported."""
        self.stop_progress()
        error = raisable(error)
        if isinstance(error, INTERRUPTS) or self.is_undecided:
            self.fail_call(error)
        elif self.state is GATHERING_FAILING:
            if error is not self.error:
                note_raised(self.error, "after that, progress", error)
        elif self.state is GATHERING_LEFT:
            self.state, self.error = GATHERING_FAILING, error
        else:
            Unraisable(error)

    def stop_progress(self):
        """Nobody is told any more."""
        progress, self.progress = self.progress, None
        if progress is not None:
            progress.stop()

    # Cancelling

    def cancel(self, msg):
        """The caller cancels what it waits for, which is pending; return whether that had any effect."""
        failures = []
        self.cancel_message = msg
        source_is_closing = self.source.is_being_closed
        if self.may_start() or not self.running:
            self._request_cancel()
            self.close_queue()
            self._settle_if_nothing_ran()
        if self.state is not GATHERING_SETTLED and self.running.cancel_all(msg, failures):
            self._request_cancel()
            self.close_queue()
        if source_is_closing:
            self.source.cancel_closing(msg)
        if failures:
            raise failures[0]
        return self.cancel_requested

    def cancelled_by_keeper(self, msg):
        """The keeper was cancelled: items that run go on, the rest never starts."""
        if self.state is not GATHERING_SETTLED and not self.cancel_requested:
            self._request_cancel()
            self.cancel_message = msg
        self.close_queue()
        self._settle_if_nothing_ran()

    def _request_cancel(self):
        self.cancel_requested = True
        if self.state is GATHERING_OPEN:
            self.state = GATHERING_CANCELLED

    def _settle_if_nothing_ran(self):
        """Settle a cancelled gathering without waiting until its long queue is closed."""
        if self.running or self.state is GATHERING_SETTLED or self.state is GATHERING_FAILING:
            return
        if self.source.takes_turns and self.source.has_more:  # what it has been asked for is awaited
            return
        if self.sink.is_over():
            self._let_go()
        elif self.state is GATHERING_CANCELLED:
            self._settle(cancelled_error(self.cancel_message))

    def leave(self):
        """Nobody wants what is left: cancel what has not been, and end without an error when nothing runs any more."""
        if self.state is GATHERING_SETTLED or self.state is GATHERING_LEFT:
            return
        self.state, self.error = GATHERING_LEFT, None
        before, self.stopped_after = self._not_stopped_before(), -1
        self.close_queue()
        if self.state is GATHERING_LEFT:
            self.running.cancel_all(None, before=before)
            self.settle_if_over()

    def pass_on_cancellation(self, msg):
        """Who waits for the end has been cancelled: cancel what still runs once more, and the closing of the source."""
        self.passed_on += 1
        self.running.cancel_all(msg)
        if self.source.is_being_closed:
            self.source.cancel_closing(msg)

    def drop(self):
        """Nobody waits, or will: cancel what has not been."""
        self.is_abandoned = True
        if self.state is not GATHERING_SETTLED:
            self._let_go()
        if is_closed(self.loop):
            self.close_queue_at_once()
            return
        try:
            self.close_queue()
            self.running.cancel_all(None, before=self._not_stopped_before())
        except BaseException as error:
            Unraisable(error)

    # Closing the queue

    def close_queue(self):
        """From now on nothing starts; close what was queued, one slice now, the rest later."""
        if self.source.is_stopped:
            return
        self.source.stop()
        self.source.drop_ahead()
        self._release_kept()
        if is_closed(self.loop):  # there is no later
            self.close_queue_at_once()
        elif self.source.closes_at_once:
            self._close_source()
            self._queue_is_gone()
        elif self.source.takes_turns:
            try:
                self.source.begin_closing()
            except BaseException as error:  # nobody would make its next step
                self.source.close_one()
                if isinstance(error, INTERRUPTS):
                    self._queue_is_gone()
                    raise
                self.cleanup_failed(error)
            if not self.source.has_more:  # it has failed
                self._queue_is_gone()
        elif self.source.has_more:
            self._close_slice()

    def _close_slice(self):
        try:
            timer = Timer()
            while self.source.has_more:
                self.source.close_one()
                if timer.is_over() and self.source.has_more:
                    self.loop.call_soon(self._scheduled_close_slice, context=self.context.copy())
                    return
        except BaseException as error:
            self.close_queue_at_once()
            self._queue_is_gone()
            if isinstance(error, INTERRUPTS):
                raise
            Unraisable(error)
        else:
            self._queue_is_gone()

    def _scheduled_close_slice(self):
        self._close_slice()
        self.settle_if_over()

    def close_queue_at_once(self):
        self.source.stop()
        self.source.drop_ahead()
        self._release_kept()
        while self.source.has_more:
            self._close_source()

    def _close_source(self):
        try:
            self.source.close_one()
        except BaseException as error:
            self.cleanup_failed(error)

    def source_is_over(self):
        """A source that takes turns has come to its end, or is closed."""
        self._queue_is_gone()
        self._release_kept()
        self.settle_if_over()

    def source_is_lost(self):
        """The Task of the source was destroyed, so the loop is gone, or closed by hand: nothing starts any more."""
        if self.state is GATHERING_OPEN:
            self.state = GATHERING_CANCELLED
        if is_closed(self.loop):
            self._release_kept()
        else:
            self.source_is_over()

    # The keeper, a Task that stands for the queue while nothing else does

    def ensure_keeper(self):
        if self.keeper is None:
            self.keeper = _Keeper(self, self.loop, self.context.copy())

    def _queue_is_gone(self):
        keeper, self.keeper = self.keeper, None
        if keeper is None:
            return
        try:
            keeper.owner_is_done()
        except Exception as error:
            # It waits on; whoever cancels it, as asyncio.run() does, wakes it again.
            Unraisable(error)

    # The call graph

    def join_call_graph(self, child):
        """Show what runs as awaited by the caller, if that waits."""
        if not self.call_graph.lacks(child):
            return
        if self.state is GATHERING_SETTLED or self.sink.is_over():
            self.leave_call_graph()
        else:
            self.call_graph.join(child)

    def leave_call_graph(self):
        self.call_graph.leave_all(self.running)
