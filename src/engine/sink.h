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
    bool is_cancellation;
} Outcome;

/* For one that owns its value or exception. */
static inline void
outcome_clear(Outcome *self)
{
    Py_CLEAR(self->value);
    Py_CLEAR(self->exception);
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
       like one.  Runs Python code, which may end the receiver. */
    void (*put)(PyObject *receiver, Py_ssize_t index, const Outcome *outcome);

    /* There will be no more: all outcomes are there, or there is an exception in
       their place (borrowed).  `is_no_news`: nobody need look at it.  Runs Python
       code.  -1 on error. */
    int (*end)(PyObject *receiver, PyObject *exception, bool is_no_news);

    /* The loop will never run again, and nobody can be told. */
    void (*forget)(PyObject *receiver);

    /* Which argument of the call an item is, for messages.  -1 without memory. */
    Py_ssize_t (*argument_index)(PyObject *receiver, Py_ssize_t index);
} Sink;

#endif /* GATEDCORO_SINK_H */
