/* Sink: where the outcomes of a gathering go.

   The gathering knows its receiver by this table only.  It asks whether there is
   room before an item starts, puts each outcome, and ends the receiver once:
   with an error, or when every outcome has been put. */

#ifndef GATEDCORO_SINK_H
#define GATEDCORO_SINK_H

#include "base/call.h"

/* How an item ended: one of the first two. */
typedef struct {
    PyObject *value;
    PyObject *exception;
    /* The Task or Future that was cancelled; NULL where nobody knows the message,
       as in a Task whose coroutine raised CancelledError. */
    PyObject *child;
    /* What is handed out for an ITEM_HANDED_OUT: a Task may be in its last step;
       NULL where there is none. */
    PyObject *task;
    bool task_is_done; /* its done callback says so */
    bool is_cancellation;
    bool is_callers; /* the task is the caller's own */
    bool is_kept;    /* the sink has the task */
} Outcome;

/* For one that owns its value or exception. */
static inline void
outcome_clear(Outcome *self)
{
    Py_CLEAR(self->value);
    Py_CLEAR(self->exception);
}

/* What asyncio.gather puts among the results for a cancelled child: a
   CancelledError with the message that the child, if any, still knows.
   Runs Python code. */
static PyObject *
cancellation_as_result(core_state *state, PyObject *child)
{
    PyObject *message = NULL;
    if (child != NULL
        && lookup_attribute(child, state->str_cancel_message, &message) < 0) {
        return NULL;
    }
    if (message == NULL || message == Py_None) {
        Py_XSETREF(message, PyUnicode_FromString(""));
    }
    PyObject *cancelled =
        message == NULL ? NULL
                        : PyObject_CallOneArg(state->cancelled_error, message);
    Py_XDECREF(message);
    return cancelled;
}

/* An outcome as it is among the results: new reference.  Runs Python code. */
static PyObject *
outcome_as_result(core_state *state, const Outcome *outcome)
{
    PyObject *result = NULL;
    if (outcome->is_cancellation) {
        result = cancellation_as_result(state, outcome->child);
        if (result == NULL) {
            PyErr_Clear();
        }
    }
    return result != NULL
               ? result
               : Py_NewRef(outcome->value != NULL ? outcome->value
                                                  : outcome->exception);
}

typedef struct {
    /* Does anybody wait for outcomes, as far as the gathering was not told?  Runs
       no Python code. */
    bool (*is_wanted)(core_state *state, PyObject *receiver);

    /* Is there room for the outcome of one more item?  Runs no Python code. */
    bool (*has_room)(PyObject *receiver);

    /* The item with that index has been taken and is about to start.  -1 without
       memory for its outcome. */
    int (*expect)(PyObject *receiver, Py_ssize_t index);

    /* Such an item has ended: with a value, or with an exception that is wanted
       like one.  -1 on an interrupt.  Runs Python code, which may end the
       receiver. */
    int (*put)(PyObject *receiver, Py_ssize_t index, Outcome *outcome);

    /* Items with an index larger than this are being cancelled: not even what some
       of them have come to already is wanted of a sink in order. */
    void (*cut)(PyObject *receiver, Py_ssize_t after);

    /* There will be no more: all outcomes are there, or there is an exception in
       their place (borrowed).  `is_no_news`: nobody need look at it.  Runs Python
       code.  -1 on error. */
    int (*end)(PyObject *receiver, PyObject *exception, bool is_no_news);

    /* The loop will never run again, and nobody can be told.  Runs Python code. */
    void (*forget)(PyObject *receiver);

    /* Which argument of the call an item is, for messages.  -1 without memory. */
    Py_ssize_t (*argument_index)(PyObject *receiver, Py_ssize_t index);
} Sink;

#endif /* GATEDCORO_SINK_H */
