/* Outcomes: what happens when something that ran has ended.

   Its outcome goes to the sink, or its error ends the call, as the policy says;
   and if it was the last, the gathering settles. */

#ifndef GATEDCORO_OUTCOME_H
#define GATEDCORO_OUTCOME_H

#include "engine/ending.h"

/*** Errors ***/

/* There is an error: cancels what runs, but for earlier items than that index, and
   for what has been cancelled before.  Runs Python code. */
static int
gathering_stop_after(core_state *state, GatheringObject *self,
                     Py_ssize_t index)
{
    Py_ssize_t before = self->stopped_after;
    self->stopped_after = index;
    self->sink->cut(self->receiver, index);
    return gathering_is_cancelled(self) /* else all was, with the caller */
               ? 0
               : running_cancel(state, &self->running, Py_None, index, before);
}

/* An error that belongs to no item ends the call, whatever return_exceptions
   says; what is queued never starts.  The exception being raised is taken.  -1
   on an interrupt.  Runs Python code. */
static int
gathering_fail_call(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    make_raisable();
    PyObject *exception = fetch_exception();
    gathering_note_interrupt(self, exception);
    PyObject *failure = NULL;
    bool decides = gathering_is_undecided(self);
    if (decides) {
        /* First of all: there is an outcome now, whatever fails below, and
           nobody takes what is there of the results for it. */
        gathering_be_failing(self, exception);
    }
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (decides) {
        int status = 0;
        switch (self->policy.stops) {
        case STOPS_NOTHING:
            status = gathering_settle_with_error(self);
            break;
        case STOPS_ALL:
            status = gathering_stop_after(state, self, -1);
            break;
        case STOPS_ALL_BUT_TAKEN:
        case STOPS_LATER: /* no item is later than the source's end */
            status = gathering_stop_after(state, self, self->source.next);
            break;
        }
        if (status < 0) {
            collect_exception(&failure);
        }
    }
    if (is_interrupt(exception)) {
        raise_exception(exception);
        collect_exception(&failure);
    }
    else {
        Py_DECREF(exception);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
}

/* Notes on the error with which the call ends that an item failed, too: while it was
   being cancelled, or after the source had failed.  Runs Python code. */
static int
gathering_note_error(GatheringObject *self, Py_ssize_t index,
                     PyObject *exception, bool was_cancelled)
{
    core_state *state = state_of((PyObject *)self);
    if (exception == self->error
        || PyErr_GivenExceptionMatches(exception, state->cancelled_error)) {
        return 0;
    }
    Py_ssize_t argument = self->sink->argument_index(self->receiver, index);
    if (argument < 0) {
        return -1;
    }
    PyObject *error = Py_NewRef(self->error);
    int status = note_raised(
        state, error,
        PyUnicode_FromFormat(was_cancelled
                                 ? "while it was being cancelled, item %zd"
                                 : "after that, item %zd",
                             argument),
        exception);
    Py_DECREF(error);
    return status;
}

/* An item has failed although there is an error already.  Runs Python code. */
static int
gathering_fails_too(core_state *state, GatheringObject *self, Py_ssize_t index,
                    Outcome *outcome)
{
    if (self->policy.stops == STOPS_NOTHING) {
        return 0; /* it is to end in the next turn */
    }
    bool is_earlier =
        index < self->stopped_after && self->stopped_after != NOT_STOPPED;
    if (is_earlier && self->policy.return_exceptions) {
        return self->sink->put(self->receiver, index, outcome);
    }
    if (is_earlier && self->policy.stops == STOPS_LATER) {
        Py_XSETREF(self->error, Py_NewRef(outcome->exception));
        return gathering_stop_after(state, self, index);
    }
    PyObject *failure = NULL;
    if (gathering_note_error(self, index, outcome->exception, !is_earlier)
        < 0) {
        collect_exception(&failure);
    }
    if (is_earlier && gathering_stop_after(state, self, -1) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* The first error stops what the policy says.  Runs Python code. */
static int
gathering_fail(core_state *state, GatheringObject *self, Py_ssize_t index,
               PyObject *exception)
{
    PyObject *failure = NULL;
    gathering_be_failing(self, exception);
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_stop_after(state, self,
                             self->policy.stops == STOPS_LATER ? index : -1)
        < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/*** Progress ***/

/* Telling has failed, with the exception being raised: that is the call's error, or
   becomes a note on it; it is reported where nobody waits any more.  -1 on an
   interrupt.  Runs Python code. */
static int
gathering_progress_failed(core_state *state, GatheringObject *self)
{
    progress_stop(state_of((PyObject *)self), &self->progress);
    make_raisable();
    PyObject *exception = fetch_exception();
    if (is_interrupt(exception) || gathering_is_undecided(self)) {
        raise_exception(exception);
        return gathering_fail_call(self);
    }
    int status = 0;
    if (gathering_is_failing(self)) {
        PyObject *error = Py_NewRef(self->error);
        if (exception != error) {
            status = note_raised(state, error,
                                 PyUnicode_FromString("after that, progress"),
                                 exception);
        }
        Py_DECREF(error);
        Py_DECREF(exception);
    }
    else if (self->state == GATHERING_LEFT) {
        gathering_be_failing(self, exception);
        Py_DECREF(exception);
    }
    else {
        raise_exception(exception);
        status = -1;
    }
    return status < 0 ? report_error((PyObject *)self) : 0;
}

/* An item has ended: has the loop tell that, unless it is going to.  -1 on an
   interrupt.  Runs Python code. */
static int
gathering_note_progress(core_state *state, GatheringObject *self)
{
    Progress *progress = self->progress;
    progress->ended++;
    if (progress->state != PROGRESS_IDLE) {
        return 0;
    }
    progress->state = PROGRESS_WAITS;
    PyObject *timer =
        gathering_call_later(self, PROGRESS_INTERVAL, progress->call);
    if (timer == NULL) {
        return gathering_progress_failed(state, self);
    }
    progress = self->progress; /* the loop may be anybody's */
    if (progress != NULL && progress->state == PROGRESS_WAITS) {
        Py_XSETREF(progress->timer, timer);
        return 0;
    }
    progress_cancel_timer(state, timer);
    return 0;
}

/*** Delivery ***/

/* What ran under `link` has left the limit: its slot of a semaphore goes back.  -1
   with an exception.  Runs Python code. */
static inline int
gathering_leave_limit(core_state *state, GatheringObject *self,
                      RunningLink *link)
{
    if (link->slot == SLOT_NONE) {
        return 0;
    }
    link->slot = SLOT_NONE;
    return slots_give_back(state, &self->limit.slots);
}

/* The same, and an error is only reported: it is too late for the item to have it.
   Keeps the exception being raised.  Runs Python code. */
static void
gathering_return_slot(core_state *state, GatheringObject *self,
                      RunningLink *link)
{
    if (link->slot == SLOT_NONE) {
        return;
    }
    PyObject *raised = fetch_exception();
    if (gathering_leave_limit(state, self, link) < 0) {
        PyErr_WriteUnraisable(self->limit.slots.semaphore);
    }
    restore_exception(raised);
}

/* Hands the outcome on, or lets the call fail.  Runs Python code. */
static int
gathering_take_outcome(core_state *state, GatheringObject *self,
                       Py_ssize_t index, Outcome *outcome)
{
    if (self->state == GATHERING_SETTLED) {
        return 0; /* it is dropped */
    }
    if (!self->sink->is_wanted(state, self->receiver)) {
        return gathering_settle_unwanted(self);
    }
    PyObject *exception = outcome->exception;
    if (exception == NULL) {
        return self->sink->put(self->receiver, index, outcome);
    }
    if (self->state == GATHERING_LEFT) {
        if (!outcome->is_cancellation) {
            gathering_be_failing(self, exception);
        }
        return 0;
    }
    if (gathering_is_failing(self)) {
        return gathering_fails_too(state, self, index, outcome);
    }
    if (self->policy.return_exceptions) {
        return self->sink->put(self->receiver, index, outcome);
    }
    if (self->policy.stops == STOPS_NOTHING) {
        gathering_be_failing(self, exception);
        return gathering_settle_with_error(self);
    }
    return gathering_fail(state, self, index, exception);
}

/* What ran under `link` has ended.  Takes it off the ring; the caller gets the
   reference to `link->owner`.  Runs Python code, which may end everything else:
   the item counts as running until its outcome is there.  -1 on an interrupt. */
static int
gathering_deliver(core_state *state, GatheringObject *self, RunningLink *link,
                  Outcome *outcome)
{
    PyObject *failure = NULL;
    running_take_off(link);
    gathering_return_slot(state, self, link);
    if (self->progress != NULL && gathering_note_progress(state, self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_take_outcome(state, self, link->index, outcome) < 0) {
        collect_exception(&failure);
    }
    running_ended(&self->running);
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
}

/* Something that ran went with its loop, and has no outcome.  Nothing starts any
   more; should something else end nevertheless, the gathering does so as if this
   had been cancelled.  The caller gets the reference to `link->owner`.
   Runs Python code. */
static void
gathering_lose(GatheringObject *self, RunningLink *link)
{
    gathering_be_lost(self);
    progress_stop(state_of((PyObject *)self), &self->progress);
    running_remove(&self->running, link);
    gathering_return_slot(state_of((PyObject *)self), self, link);
}

#endif /* GATEDCORO_OUTCOME_H */
