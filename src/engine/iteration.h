/* Iteration: the coroutine of the Task that goes through an async iterable; a
   source (source.h).

      UNBEGUN ----> IDLE <----> AT_WORK      IDLE: until an element is wanted; else
         |           |             |         the iterable has been asked for one
         +------> CLOSING <--------+         its aclose() has been called, or what
                     |             |         it was asked for is being cancelled
                     +--> OVER <---+         or anywhere, if its loop has gone

   Every step of the iterable is one of this Task, or looks like one, and is in its
   one context: a timeout, a cancel scope or a context variable inside an async
   generator needs that.

   A pass that wants an element asks for it in place of the idle Task, if Tasks are
   ours: that is the current one meanwhile.  So an iterable that does not suspend
   costs neither a turn of the loop nor a step.  If it suspends, the Task makes its
   step in the middle of that of another one (task_wait.h), and waits.  Where the
   loop makes Tasks, the first step asks, and an idle Task makes its step in the next
   turn.  What arrives after a suspension starts a pass in the step in which it
   arrives, and that pass asks for more at once. */

#ifndef GATEDCORO_ITERATION_H
#define GATEDCORO_ITERATION_H

#include "coroutines/current.h"
#include "coroutines/task_wait.h"
#include "coroutines/waiter.h"
#include "engine/pass.h"

typedef enum {
    ITERATION_UNBEGUN,
    ITERATION_AT_WORK,
    ITERATION_IDLE,
    ITERATION_CLOSING,
    ITERATION_OVER,
} IterationPhase;

typedef struct {
    CoroutineObject base;
    IterationPhase phase;
    bool is_taken_from; /* by a pass, which has this step made */
    bool is_asked;      /* by a pass, without a step of the Task's */
    bool closes;        /* `pending` is aclose()'s */
    GatheringObject
        *gathering;     /* owned; NULL before it begins, and when OVER */
    PyObject *iterable; /* until it has been asked for its iterator */
    PyObject *iterator;
    PyObject *pending; /* what is driven: asks for an element, or closes */
    PyObject *yielded; /* what the step is to end with; or NULL */
    PyObject *element; /* it has arrived, and is to be taken; or NULL */
    PyObject *failure; /* the iterable has raised it; until it is told */
    PyObject *waiter;  /* on which the Task waits while it is idle; or NULL */
    PyObject
        *wakeup; /* taken from that: what was asked has cancelled the Task */
    PyObject *cancellation; /* to be raised in the next step; or NULL */
    PyObject *task;         /* NULL before it is known */
} IterationObject;

static inline IterationObject *
IterationObject_CAST(PyObject *op)
{
    return (IterationObject *)op;
}

/*** Its end ***/

/* An element (stolen, or NULL) that has arrived never starts.  Keeps the exception
   being raised.  Runs Python code. */
static void
iteration_drop(IterationObject *self, PyObject *element)
{
    if (element == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    if (self->gathering != NULL) {
        item_close(state_of((PyObject *)self), element,
                   self->gathering->source.item_kind);
    }
    Py_DECREF(element);
    restore_exception(raised);
}

/* Keeps the exception being raised.  Runs Python code. */
static void
iteration_be_over(IterationObject *self)
{
    PyObject *raised = fetch_exception();
    PyObject *element = self->element;
    self->element = NULL;
    self->phase = ITERATION_OVER;
    if (self->gathering != NULL) {
        source_task_ended(&self->gathering->source);
    }
    Py_CLEAR(self->iterable);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->yielded);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->cancellation);
    Py_CLEAR(self->task);
    iteration_drop(self, element);
    restore_exception(raised);
}

/* Nobody will make its next step: it never looks as if the iterable had ended.
   Keeps the exception being raised.  Runs Python code. */
static void
iteration_be_lost(IterationObject *self)
{
    GatheringObject *gathering = self->gathering;
    iteration_be_over(self);
    if (gathering != NULL) {
        gathering_be_lost(gathering);
        gathering_release_kept(gathering);
    }
}

/*** Asking ***/

/* One step of what is pending.  Runs Python code, which may end everything. */
static PySendResult
iteration_drive(core_state *state, IterationObject *self, PyObject *exception,
                PyObject **result)
{
    PyObject *pending = Py_NewRef(self->pending);
    PySendResult status = drive(state, pending, Py_None, exception, result);
    if (status != PYGEN_NEXT) {
        PyObject *raised = fetch_exception();
        if (self->pending == pending) {
            Py_CLEAR(self->pending);
        }
        Py_DECREF(pending);
        restore_exception(raised);
    }
    else {
        Py_DECREF(pending);
    }
    if (self->phase == ITERATION_OVER && status != PYGEN_ERROR) {
        Py_CLEAR(*result); /* it has been stranded meanwhile */
        *result = Py_NewRef(Py_None);
        status = PYGEN_RETURN;
    }
    return status;
}

/* iter(iterable).__anext__(): new reference to what is to be driven for that.
   Runs Python code. */
static PyObject *
iteration_ask(core_state *state, IterationObject *self)
{
    if (self->iterator == NULL) {
        PyObject *iterable = self->iterable;
        if (iterable == NULL) { /* it is over, by what ran just before */
            PyErr_SetNone(PyExc_StopAsyncIteration);
            return NULL;
        }
        self->iterable = NULL;
        PyObject *iterator = PyObject_GetAIter(iterable);
        if (iterator == NULL && !interrupt_is_raised()) {
            self->failure = fetch_exception();
        }
        Py_DECREF(iterable);
        if (iterator == NULL) {
            return NULL;
        }
        self->iterator = iterator;
    }
    PyObject *iterator = Py_NewRef(self->iterator);
    PyAsyncMethods *methods = Py_TYPE(iterator)->tp_as_async;
    PyObject *awaitable = NULL;
    if (methods != NULL && methods->am_anext != NULL) {
        awaitable = methods->am_anext(iterator);
    }
    else { /* it had one when it was made */
        PyErr_Format(PyExc_TypeError,
                     "'%.200s' object is not an async iterator",
                     Py_TYPE(iterator)->tp_name);
    }
    PyObject *pending =
        awaitable == NULL ? NULL : await_iterator(state, awaitable, NULL);
    Py_XDECREF(awaitable);
    Py_DECREF(iterator);
    return pending;
}

/* Cancelled while nothing was wanted of it, a generator raises that where it stands:
   a timeout in there needs its cancellation.  New reference to what is to be driven
   for that; anything else raises it here: NULL.  Runs Python code. */
static PyObject *
iteration_throw(core_state *state, IterationObject *self, PyObject *exception)
{
    PyObject *athrow;
    PyObject *pending = NULL;
    if (self->iterator == NULL) { /* it has not been asked for anything yet */
        raise_exception(Py_NewRef(exception));
        return NULL;
    }
    PyObject *iterator = Py_NewRef(self->iterator);
    int found = lookup_attribute(iterator, state->str_athrow, &athrow);
    if (found > 0 && athrow != Py_None) {
        PyObject *awaitable = PyObject_CallOneArg(athrow, exception);
        if (awaitable != NULL) {
            pending = await_iterator(state, awaitable, NULL);
            Py_DECREF(awaitable);
        }
    }
    else if (found >= 0) {
        raise_exception(Py_NewRef(exception));
    }
    Py_XDECREF(athrow);
    Py_DECREF(iterator);
    return pending;
}

/*** Closing ***/

/* iterator.aclose(), if there is one: what is to be driven for that, new
   reference; NULL if there is none, or with an exception.  Runs Python code. */
static PyObject *
iteration_aclose(core_state *state, IterationObject *self)
{
    PyObject *iterator = self->iterator;
    self->iterator = NULL;
    if (iterator == NULL) {
        iterator = self->iterable; /* it has not been asked for anything yet */
        self->iterable = NULL;
        PyAsyncMethods *methods =
            iterator == NULL ? NULL : Py_TYPE(iterator)->tp_as_async;
        if (methods == NULL || methods->am_anext == NULL) {
            Py_CLEAR(iterator);
        }
    }
    if (iterator == NULL) {
        return NULL;
    }
    PyObject *aclose;
    PyObject *pending = NULL;
    if (lookup_attribute(iterator, state->str_aclose, &aclose) > 0) {
        PyObject *awaitable =
            aclose == Py_None ? NULL : PyObject_CallNoArgs(aclose);
        if (awaitable != NULL) {
            pending = await_iterator(state, awaitable, NULL);
            Py_DECREF(awaitable);
        }
        Py_DECREF(aclose);
    }
    PyObject *raised = fetch_exception();
    Py_DECREF(iterator);
    restore_exception(raised);
    return pending;
}

/* What closing has raised is told, unless it is a cancellation.  -1 on an
   interrupt, and it is over.  Runs Python code. */
static int
iteration_cleanup_failed(core_state *state, IterationObject *self,
                         GatheringObject *gathering)
{
    if (interrupt_is_raised()) {
        iteration_be_over(self);
        return -1;
    }
    if (PyErr_ExceptionMatches(state->cancelled_error)
        || (!self->closes
            && PyErr_ExceptionMatches(PyExc_StopAsyncIteration))) {
        PyErr_Clear();
    }
    else {
        make_raisable();
        gathering_cleanup_failed(gathering, fetch_exception());
    }
    return 0;
}

/* One step of what is pending while closing.  1 if it was the last, 0 if it
   suspends, -1 on an interrupt: it is over then.  Runs Python code. */
static int
iteration_drive_to_its_end(core_state *state, IterationObject *self,
                           GatheringObject *gathering, PyObject *exception)
{
    PyObject *result;
    switch (iteration_drive(state, self, exception, &result)) {
    case PYGEN_NEXT:
        self->yielded = result;
        return 0;
    case PYGEN_RETURN:
        if (self->closes) {
            Py_DECREF(result);
        }
        else {
            iteration_drop(self, result);
        }
        return 1;
    case PYGEN_ERROR:
        return iteration_cleanup_failed(state, self, gathering) < 0 ? -1 : 1;
    }
    Py_UNREACHABLE();
}

/* Goes on with closing: what the iterable was asked for comes to its end first.
   -1 on an interrupt: it is over then.  Runs Python code. */
static int
iteration_close_on(core_state *state, IterationObject *self,
                   GatheringObject *gathering, PyObject *exception)
{
    int ended = 1;
    self->phase = ITERATION_CLOSING;
    if (!self->closes) {
        if (self->pending != NULL) {
            ended =
                iteration_drive_to_its_end(state, self, gathering, exception);
            if (ended <= 0) {
                return ended;
            }
        }
        exception = NULL;
        self->closes = true;
        self->pending = iteration_aclose(state, self);
        if (PyErr_Occurred()
            && iteration_cleanup_failed(state, self, gathering) < 0) {
            return -1;
        }
    }
    if (self->pending != NULL) {
        ended = iteration_drive_to_its_end(state, self, gathering, exception);
    }
    if (ended > 0) {
        iteration_be_over(self);
    }
    return ended < 0 ? -1 : 0;
}

/* The source has been closed in this step.  -1 on an interrupt.
   Runs Python code. */
static int
iteration_be_closing(core_state *state, IterationObject *self,
                     GatheringObject *gathering)
{
    if (self->pending == NULL) {
        return iteration_close_on(state, self, gathering, NULL);
    }
    self->phase = ITERATION_CLOSING;
    PyObject *task = Py_NewRef(self->task);
    int status = call_method_for_effect(task, state->str_cancel, NULL);
    Py_DECREF(task);
    return status < 0 ? report_error((PyObject *)self) : 0;
}

#endif /* GATEDCORO_ITERATION_H */
