/* Outcomes: what happens when something that ran has ended.

   Its outcome goes to the sink, or its error ends the call, as the policy says;
   and if it was the last, the gathering settles. */

#ifndef GATEDCORO_OUTCOME_H
#define GATEDCORO_OUTCOME_H

#include "engine/ending.h"

/*** Errors ***/

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
        int status = self->policy.cancel_on_error
                         ? running_cancel(state, &self->running, Py_None)
                         : gathering_settle_with_error(self);
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

/* Notes on the first error that a sibling failed while it was cancelled.
   Runs Python code. */
static int
gathering_note_error(GatheringObject *self, Py_ssize_t index,
                     PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    Py_ssize_t argument = self->sink->argument_index(self->receiver, index);
    if (argument < 0) {
        return -1;
    }
    PyObject *error = Py_NewRef(self->error);
    PyObject *text = PyObject_Str(exception);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        text = PyUnicode_FromString("<exception str() failed>");
    }
    PyObject *note =
        text == NULL
            ? NULL
            : PyUnicode_FromFormat(
                "while it was being cancelled, item %zd raised %s: %U",
                argument, Py_TYPE(exception)->tp_name, text);
    int status =
        note == NULL
            ? -1
            : call_method_for_effect(error, state->str_add_note, note);
    Py_XDECREF(note);
    Py_XDECREF(text);
    Py_DECREF(error);
    return status;
}

/* With cancel_on_error: the first error stops everything else.
   Runs Python code. */
static int
gathering_fail(GatheringObject *self, Py_ssize_t index, PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    if (gathering_is_failing(self)) {
        if (exception == self->error
            || PyErr_GivenExceptionMatches(exception,
                                           state->cancelled_error)) {
            return 0;
        }
        return gathering_note_error(self, index, exception);
    }
    PyObject *failure = NULL;
    gathering_be_failing(self, exception);
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (!gathering_is_cancelled(self) /* else cancelled with the caller */
        && running_cancel(state, &self->running, Py_None) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/*** Delivery ***/

/* Hands the outcome on, or lets the call fail.  Runs Python code. */
static int
gathering_take_outcome(core_state *state, GatheringObject *self,
                       Py_ssize_t index, const Outcome *outcome)
{
    if (self->state == GATHERING_SETTLED) {
        return 0; /* it is dropped */
    }
    if (!self->sink->is_wanted(state, self->receiver)) {
        return gathering_settle_unwanted(self);
    }
    if (outcome->exception == NULL || self->policy.return_exceptions) {
        self->sink->put(self->receiver, index, outcome);
        return 0;
    }
    return self->policy.cancel_on_error
               ? gathering_fail(self, index, outcome->exception)
               : gathering_settle(self, outcome->exception);
}

/* What ran under `link` has ended.  Takes it off the ring; the caller gets the
   reference to `link->owner`.  Runs Python code, which may end everything else:
   the item counts as running until its outcome is there.  -1 on an interrupt. */
static int
gathering_deliver(core_state *state, GatheringObject *self, RunningLink *link,
                  const Outcome *outcome)
{
    PyObject *failure = NULL;
    running_take_off(link);
    int status = gathering_take_outcome(state, self, link->index, outcome);
    running_ended(&self->running);
    if (status < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
}

/* Something that ran went with its loop, and has no outcome.  Nothing starts any
   more; should something else end nevertheless, the gathering does so as if this
   had been cancelled.  The caller gets the reference to `link->owner`. */
static void
gathering_lose(GatheringObject *self, RunningLink *link)
{
    gathering_be_lost(self);
    running_remove(&self->running, link);
}

#endif /* GATEDCORO_OUTCOME_H */
