/* Ending: how a gathering closes its queue, and settles.

   Closing the queue and settling are one knot: a queue that is left open when
   the caller is told gets a keeper, the keeper closes the queue if its Task is
   cancelled, and a closed queue may be what the caller still waited for. */

#ifndef GATEDCORO_ENDING_H
#define GATEDCORO_ENDING_H

#include "engine/gathering.h"

static int gathering_settle_if_complete(GatheringObject *self);
static int gathering_stop(GatheringObject *self, PyObject *message);

/*** Calling back ***/

/* Has the loop call one of our functions in its next turn.  -1 on error.
   Runs Python code. */
static int
gathering_call_soon(GatheringObject *self, PyMethodDef *def)
{
    int status = -1;
    PyObject *callback = PyCFunction_New(def, (PyObject *)self);
    PyObject *context = PyContext_Copy(self->context);
    if (callback != NULL && context != NULL) {
        status = call_soon(state_of((PyObject *)self), self->loop, callback,
                           context);
    }
    Py_XDECREF(callback);
    Py_XDECREF(context);
    return status;
}

/* The same in so many seconds: the loop's timer, new reference, or NULL on error.
   Runs Python code. */
static PyObject *
gathering_call_later(GatheringObject *self, double seconds, PyMethodDef *def)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *timer = NULL;
    PyObject *delay = PyFloat_FromDouble(seconds);
    PyObject *callback = PyCFunction_New(def, (PyObject *)self);
    PyObject *context = PyContext_Copy(self->context);
    if (delay != NULL && callback != NULL && context != NULL) {
        PyObject *args[] = {self->loop, delay, callback, context};
        timer = PyObject_VectorcallMethod(state->str_call_later, args,
                                          3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                          state->context_kwname);
    }
    Py_XDECREF(delay);
    Py_XDECREF(callback);
    Py_XDECREF(context);
    return timer;
}

/*** The queue ***/

/* The keeper may go.  -1 if it could not be told: it waits on.
   Runs Python code. */
static int
gathering_release_keeper(GatheringObject *self)
{
    PyObject *keeper = Py_XNewRef(self->keeper);
    int status = keeper == NULL ? 0 : keeper_wake(keeper);
    Py_XDECREF(keeper);
    return status;
}

/* Nothing is queued any more.  -1 if the keeper could not be told.
   Runs Python code. */
static int
gathering_queue_ended(GatheringObject *self)
{
    assert(source_is_empty(&self->source));
    gathering_release_kept(self);
    return gathering_release_keeper(self);
}

/* Every item has been taken.  -1 if the keeper could not be told.
   Runs Python code. */
static int
gathering_exhaust_queue(GatheringObject *self)
{
    source_exhaust(&self->source);
    return gathering_queue_ended(self);
}

static PyObject *gathering_close_callback(PyObject *op, PyObject *ignored);

static PyMethodDef gathering_close_def = {
    "close_queue", gathering_close_callback, METH_NOARGS, NULL};

/* Closes queued items until a slice is used up; the rest has its turn soon, or
   now if the clock or the loop fails.  -1 on an interrupt, or if the keeper
   could not be told; the queue is closed, or goes on closing, all the same.
   Runs Python code. */
static int
gathering_close_some(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    int more = source_close_some(state, &self->source);
    if (more > 0) {
        more = gathering_call_soon(self, &gathering_close_def);
        if (more == 0) {
            return 0;
        }
    }
    if (more < 0 && report_error((PyObject *)self) < 0) {
        collect_exception(&failure);
    }
    gathering_close_rest(self);
    if (gathering_queue_ended(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Closes the source, and drops it or begins to close what is queued.  -1 on an
   interrupt, or if the keeper could not be told.  Runs Python code. */
static int
gathering_close_source(GatheringObject *self)
{
    switch (self->source.state) {
    case SOURCE_EXHAUSTED:
        source_be_closed(&self->source);
        gathering_release_kept(self);
        return self->source.kind == SOURCE_TASK /* it has failed */
                   ? gathering_queue_ended(self)
                   : 0;
    case SOURCE_CLOSING:
    case SOURCE_CLOSED:
        return 0;
    case SOURCE_OPEN:
    case SOURCE_WAITING:
        break;
    }
    source_begin_closing(&self->source);
    gathering_release_kept(self);
    if (self->source.kind == SOURCE_LIST) {
        return gathering_close_some(self);
    }
    core_state *state = state_of((PyObject *)self);
    if (self->source.kind == SOURCE_TASK) {
        PyObject *iteration = Py_NewRef(self->source.object);
        int status = self->source.task->close(state, iteration);
        if (status < 0) { /* nobody would make its next step */
            PyObject *failure = NULL;
            if (interrupt_is_raised()) {
                collect_exception(&failure);
            }
            else {
                gathering_cleanup_failed(self, fetch_exception());
            }
            self->source.task->strand(state, iteration);
            if (gathering_queue_ended(self) < 0) {
                collect_exception(&failure);
            }
            status = raise_collected(failure);
        }
        Py_DECREF(iteration);
        return status;
    }
    source_be_closed(&self->source);
    int status = gathering_queue_ended(self);
    PyObject *raised = fetch_exception();
    gathering_cleanup_failed(self, source_drop(state, &self->source));
    restore_exception(raised);
    return status;
}

/* Nothing starts from here on, not even what has been taken and not begun.  -1
   on an interrupt, or if the keeper could not be told.  Runs Python code. */
static int
gathering_close_queue(GatheringObject *self)
{
    int status = gathering_close_source(self);
    gathering_release_idle(self);
    return status;
}

/* Runs Python code. */
static PyObject *
gathering_close_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    PyObject *failure = NULL;
    if (self->source.state == SOURCE_CLOSING) {
        if (gathering_close_some(self) < 0) {
            collect_exception(&failure);
        }
        if (gathering_settle_if_complete(self) < 0) {
            collect_exception(&failure);
        }
    }
    gathering_check(self);
    if (raise_collected(failure) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/*** The keeper ***/

static bool
gathering_needs_keeper(PyObject *owner)
{
    return !source_is_empty(&GatheringObject_CAST(owner)->source);
}

/* Runs Python code. */
static int
gathering_keeper_cancelled(PyObject *owner, PyObject *message)
{
    GatheringObject *self = GatheringObject_CAST(owner);
    if (!source_is_open(&self->source)) {
        return 0;
    }
    return gathering_stop(self, message) < 0 ? report_error(owner) : 0;
}

static void
gathering_keeper_ended(PyObject *owner)
{
    Py_CLEAR(GatheringObject_CAST(owner)->keeper);
}

/* Called by the keeper, for the Task that stands for the queue (keeper.h). */
static const KeeperOwnerCalls gathering_keeper_calls = {
    .needs_it = gathering_needs_keeper,
    .cancelled = gathering_keeper_cancelled,
    .ended = gathering_keeper_ended,
};

/* Has a keeper stand for the queue, if there is one to stand for.
   Runs Python code. */
static int
gathering_keep_queue(GatheringObject *self)
{
    if (!source_is_open(&self->source) || self->keeper != NULL) {
        return 0;
    }
    return keeper_start(state_of((PyObject *)self), (PyObject *)self,
                        &gathering_keeper_calls, self->loop, self->context,
                        &self->keeper);
}

/*** Settling ***/

/* Ends the call, once, even if the keeper could not be made (-1): with an
   exception (borrowed), or, if that is NULL, with all outcomes.  Nobody is told
   where nobody wants to know.  Runs Python code. */
static int
gathering_settle_for(GatheringObject *self, PyObject *exception,
                     bool is_wanted)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    bool is_no_news = false;
    PyObject *error = NULL;
    PyObject *cleanup_error = self->cleanup_error;
    self->cleanup_error = NULL;
    if (exception == NULL) {
        exception = cleanup_error;
    }
    else if (cleanup_error != NULL
             && note_raised(state, exception,
                            PyUnicode_FromString(
                                "while the source was being closed, it"),
                            cleanup_error)
                    < 0) {
        collect_exception(&failure);
    }
    if (exception != NULL) {
        is_no_news =
            gathering_has_let_out(self, exception)
            || PyErr_GivenExceptionMatches(exception, state->cancelled_error);
        error = gathering_error_of(self, exception);
    }
    if (gathering_keep_queue(self) < 0) {
        collect_exception(&failure);
    }
    progress_stop(state_of((PyObject *)self), &self->progress);
    if (self->state
        != GATHERING_SETTLED) { /* else while the keeper was made */
        PyObject *decided = gathering_be_settled(self);
        Py_INCREF(self);
        gathering_leave_call_graph(state, self);
        if (!is_wanted) {
            self->sink->forget(self->receiver);
        }
        else if (self->sink->end(self->receiver, error, is_no_news) < 0) {
            collect_exception(&failure);
        }
        Py_XDECREF(decided);
        gathering_check(self);
        Py_DECREF(self);
    }
    Py_XDECREF(error);
    Py_XDECREF(cleanup_error);
    return raise_collected(failure);
}

/* Is something to be told before the call ends?  Then it ends after that, in the
   next turn, where all is as it is now: 1, 0, or -1 on error.
   Runs Python code. */
static int
gathering_puts_off_end(GatheringObject *self)
{
    Progress *progress = self->progress;
    if (progress == NULL || progress->state == PROGRESS_ENDS) {
        return progress != NULL;
    }
    if (progress->ended == 0 && progress->close == NULL) {
        return 0;
    }
    PyMethodDef *call = progress->call;
    progress->state = PROGRESS_ENDS;
    progress_stop_timer(state_of((PyObject *)self), progress);
    return gathering_call_soon(self, call) < 0 ? -1 : 1;
}

/* For who waits.  What it comes to is in `state` and `error`, or follows from the
   source being empty and nothing running: it may be put off.  Runs Python code. */
static int
gathering_settle(GatheringObject *self, PyObject *exception)
{
    int is_put_off = gathering_puts_off_end(self);
    if (is_put_off > 0) {
        return 0;
    }
    PyObject *failure = is_put_off < 0 ? fetch_exception() : NULL;
    if (failure != NULL && exception == NULL && !is_interrupt(failure)) {
        int status = gathering_settle_for(self, failure, true);
        Py_DECREF(failure);
        return status;
    }
    if (gathering_settle_for(self, exception, true) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Somebody else has told who waits.  Runs Python code. */
static int
gathering_settle_unwanted(GatheringObject *self)
{
    return gathering_settle_for(self, NULL, false);
}

/* Settles with `error`, if there is one.  Runs Python code. */
static int
gathering_settle_with_error(GatheringObject *self)
{
    PyObject *error = Py_XNewRef(self->error);
    if (error == NULL) {
        return 0;
    }
    int status = gathering_settle(self, error);
    Py_DECREF(error);
    return status;
}

/* Runs Python code. */
static int
gathering_settle_cancelled(GatheringObject *self)
{
    PyObject *cancelled = gathering_cancelled_error(self);
    int status = gathering_settle(self, cancelled);
    Py_DECREF(cancelled);
    return status;
}

/* Nothing is queued and nothing runs: settles, unless it has.
   Runs Python code. */
static int
gathering_settle_complete(GatheringObject *self)
{
    switch (self->state) {
    case GATHERING_SETTLED:
        return 0;
    case GATHERING_FAILING:
    case GATHERING_FAILING_CANCELLED:
        return gathering_settle_with_error(self);
    case GATHERING_LOST:
    case GATHERING_CANCELLED:
        return gathering_settle_cancelled(self);
    case GATHERING_LEFT:
        return gathering_settle(self, NULL);
    case GATHERING_OPEN:
        break;
    }
    return self->source.taken.item != NULL ? 0 : gathering_settle(self, NULL);
}

/* Settles if nothing is queued and nothing runs.  A keeper that could not be
   told before is told.  Runs Python code. */
static int
gathering_settle_if_complete(GatheringObject *self)
{
    if (!source_is_empty(&self->source) || self->running.count > 0) {
        return 0;
    }
    PyObject *failure = NULL;
    if (gathering_release_keeper(self) < 0
        && report_error((PyObject *)self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_complete(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* A source that is a Task has come to its end, or is closed.  -1 on an interrupt.
   Runs Python code. */
static int
gathering_source_is_over(GatheringObject *self)
{
    PyObject *failure = NULL;
    if (gathering_queue_ended(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
}

/* The queue is closed, or being closed: if nothing runs, a caller that has been
   cancelled need not wait for the rest of it; but for a Task, which may be in the
   middle of anything.  Runs Python code. */
static int
gathering_settle_if_stopped(GatheringObject *self)
{
    if (self->state == GATHERING_CANCELLED && self->running.count == 0
        && !source_is_being_closed(&self->source)) {
        return gathering_settle_cancelled(self);
    }
    return 0;
}

/*** Cancellation ***/

/* What is queued never starts.  If everything that runs ends normally, the
   outcome is a CancelledError with that message.  Runs Python code. */
static int
gathering_stop(GatheringObject *self, PyObject *message)
{
    PyObject *failure = NULL;
    Py_XSETREF(self->cancel_message, Py_NewRef(message));
    gathering_be_cancelled(self);
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_stopped(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    return raise_collected(failure);
}

/* The closing of a source that is a Task is cancelled.  -1 on error.
   Runs Python code. */
static int
gathering_cancel_closing(GatheringObject *self, PyObject *message)
{
    PyObject *iteration = source_is_being_closed(&self->source)
                              ? Py_XNewRef(self->source.object)
                              : NULL;
    if (iteration == NULL) {
        return 0;
    }
    int status = self->source.task->cancel(state_of((PyObject *)self),
                                           iteration, message);
    Py_DECREF(iteration);
    return status;
}

/* What the caller's cancel() does: everything that runs is cancelled, what is
   queued never starts.  1 if anything was cancelled, 0, or -1 on error.
   Runs Python code. */
static int
gathering_cancel(GatheringObject *self, PyObject *message)
{
    core_state *state = state_of((PyObject *)self);
    if (self->state == GATHERING_SETTLED) {
        return 0;
    }
    PyObject *failure = NULL;
    bool cancelled = gathering_is_cancelled(self);
    bool was_closing = source_is_being_closed(&self->source);
    if (source_is_open(&self->source) || self->running.count == 0) {
        cancelled = true;
        if (gathering_stop(self, message) < 0) {
            collect_exception(&failure);
        }
    }
    else {
        Py_XSETREF(self->cancel_message, Py_NewRef(message));
    }
    if (self->state != GATHERING_SETTLED) {
        int any =
            running_cancel(state, &self->running, message, -1, PY_SSIZE_T_MAX);
        if (any < 0) {
            collect_exception(&failure);
        }
        else if (any > 0) {
            cancelled = true;
            gathering_be_cancelled(self);
            if (gathering_close_queue(self) < 0) {
                collect_exception(&failure);
            }
        }
    }
    if (was_closing && gathering_cancel_closing(self, message) < 0) {
        collect_exception(&failure);
    }
    cancelled |= gathering_is_cancelled(self); /* by what ran in between */
    gathering_check(self);
    return raise_collected(failure) < 0 ? -1 : cancelled;
}

/* The loop will never run again: nothing can be cancelled or called back.
   Runs Python code. */
static void
gathering_strand(GatheringObject *self)
{
    if (self->state != GATHERING_SETTLED) {
        PyObject *error = gathering_be_settled(self);
        self->sink->forget(self->receiver);
        Py_XDECREF(error);
    }
    progress_stop(state_of((PyObject *)self), &self->progress);
    gathering_leave_call_graph(state_of((PyObject *)self), self);
    gathering_close_rest(self);
    running_clear(&self->idle);
    gathering_check(self);
}

/* Is its loop closed?  Runs Python code. */
static bool
gathering_loop_is_closed(GatheringObject *self, PyObject *where)
{
    return loop_is_closed(state_of((PyObject *)self), self->loop, where);
}

/* The Task of the source goes although that has not ended: with its loop, as a rule,
   or closed by hand.  -1 on an interrupt.  Runs Python code. */
static int
gathering_source_is_lost(GatheringObject *self)
{
    gathering_be_lost(self);
    if (gathering_loop_is_closed(self, (PyObject *)self)) {
        gathering_strand(self); /* nobody could be told */
        return 0;
    }
    return gathering_source_is_over(self);
}

/* The caller has gone: cancels what runs.  What fails in that is reported, as of
   `where`.  Keeps the exception being raised.  Runs Python code. */
static void
gathering_abandon(GatheringObject *self, PyObject *where)
{
    PyObject *raised = fetch_exception();
    self->abandoned = true;
    progress_stop(state_of((PyObject *)self), &self->progress);
    gathering_leave_call_graph(state_of((PyObject *)self), self);
    if (gathering_loop_is_closed(self, where)) {
        gathering_strand(self);
    }
    else if (gathering_cancel(self, Py_None) < 0) {
        PyErr_WriteUnraisable(where);
    }
    restore_exception(raised);
}

#endif /* GATEDCORO_ENDING_H */
