/* Leaving: what becomes of a gathering that nobody wants any more, or waits for. */

#ifndef GATEDCORO_LEAVING_H
#define GATEDCORO_LEAVING_H

#include "engine/outcome.h"

/* The index from which on everything that runs has been cancelled already. */
static Py_ssize_t
gathering_not_stopped_before(const GatheringObject *self)
{
    return gathering_is_cancelled(self) ? NOT_STOPPED : self->stopped_after;
}

/* Nobody wants what is left: cancels what has not been, and ends without an error
   when nothing runs any more; with the first one that is no cancellation, if there is
   one from here on.  -1 on an interrupt, or if something failed.
   Runs Python code. */
static int
gathering_leave(GatheringObject *self)
{
    if (self->state == GATHERING_SETTLED || self->state == GATHERING_LEFT) {
        return 0;
    }
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    Py_ssize_t before = gathering_not_stopped_before(self);
    PyObject *error = gathering_be_left(self);
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (self->state == GATHERING_LEFT
        && running_cancel(state, &self->running, Py_None, -1, before) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    Py_XDECREF(error);
    return raise_collected(failure);
}

/* Time is up: nothing starts any more, and what runs is cancelled, unless it has
   been.  The call ends with TimeoutError when that has ended, unless there is an
   error already.  -1 on an interrupt.  Runs Python code. */
static int
gathering_time_out(core_state *state, GatheringObject *self)
{
    PyObject *failure = NULL;
    Py_ssize_t before = gathering_not_stopped_before(self);
    if (gathering_is_undecided(self)) {
        PyObject *error = PyObject_CallNoArgs(PyExc_TimeoutError);
        if (error == NULL) {
            return gathering_fail_call(self);
        }
        if (gathering_is_undecided(self)) { /* the collector may have run */
            gathering_be_failing(self, error);
        }
        Py_DECREF(error);
    }
    if (!gathering_is_failing(self)) {
        return 0;
    }
    self->stopped_after = -1;
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_is_failing(self)
        && running_cancel(state, &self->running, Py_None, -1, before) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
}

/* As often who waits for the end is taken for somebody who is cancelled by others.
   After that it is what waits for it that does so, by what it has cancelled. */
#define MOST_PASSED_ON 100

/* Who waits for the end has been cancelled: what still runs is, once more, and so
   is the closing of the source.  -1 on error.  Runs Python code. */
static int
gathering_pass_on_cancellation(GatheringObject *self, PyObject *message)
{
    self->passed_on++;
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    if (running_cancel(state, &self->running, message, -1, PY_SSIZE_T_MAX)
        < 0) {
        collect_exception(&failure);
    }
    if (gathering_cancel_closing(self, message) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Is nothing left of it but its error, and the end of what has been cancelled? */
static bool
gathering_only_ends(const GatheringObject *self)
{
    if (!gathering_is_failing(self)) {
        return false;
    }
    const RunningLink *ring = &self->running.ring;
    for (const RunningLink *link = ring->next; link != ring;
         link = link->next) {
        if (link->owner != NULL && link->index <= self->stopped_after) {
            return false;
        }
    }
    return true;
}

/* Nobody waits, or will: cancels what has not been.  What fails in that is reported.
   Keeps the exception being raised.  Runs Python code. */
static void
gathering_drop(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *raised = fetch_exception();
    Py_ssize_t before = gathering_not_stopped_before(self);
    self->abandoned = true;
    progress_stop(state_of((PyObject *)self), &self->progress);
    if (gathering_loop_is_closed(self, (PyObject *)self)) {
        gathering_strand(self);
    }
    else {
        if (self->state != GATHERING_SETTLED) {
            PyObject *error = gathering_be_settled(self);
            gathering_leave_call_graph(state, self);
            self->sink->forget(self->receiver);
            Py_XDECREF(error);
        }
        if (gathering_close_queue(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        if (running_cancel(state, &self->running, Py_None, -1, before) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        gathering_check(self);
    }
    restore_exception(raised);
}

/* Runs Python code. */
static PyObject *
gathering_drop_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    gathering_drop(GatheringObject_CAST(op));
    Py_RETURN_NONE;
}

static PyMethodDef gathering_drop_def = {"drop", gathering_drop_callback,
                                         METH_NOARGS, NULL};

/* The same, by whoever has let go of it, in whatever thread: where the loop does
   not run in this one, in its next turn.  Keeps the exception being raised.
   Runs Python code. */
static void
gathering_drop_from_anywhere(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *raised = fetch_exception();
    int here = loop_runs_here(state, self->loop);
    if (here == 0 && !gathering_loop_is_closed(self, (PyObject *)self)) {
        PyObject *drop =
            PyCFunction_New(&gathering_drop_def, (PyObject *)self);
        if (drop == NULL
            || call_method_for_effect(self->loop,
                                      state->str_call_soon_threadsafe, drop)
                   < 0) {
            here = -1; /* closed in the meantime, say */
        }
        Py_XDECREF(drop);
    }
    else {
        here = 1;
    }
    PyErr_Clear();
    if (here != 0) {
        gathering_drop(self);
    }
    restore_exception(raised);
}

#endif /* GATEDCORO_LEAVING_H */
