/* How a source ends: what has been taken or drawn and never starts, and what is queued
   and never will be taken, is closed. */

#ifndef GATEDCORO_SOURCE_ENDING_H
#define GATEDCORO_SOURCE_ENDING_H

#include "engine/source.h"

/* The item that was taken never starts.  Keeps the exception being raised.
   Runs Python code. */
static void
source_drop_taken(core_state *state, Source *self)
{
    PyObject *item = self->taken.item;
    PyObject *argument = source_hand_over_argument(self);
    item_close(state, item, self->item_kind);
    self->taken.item = NULL;
    PyObject *raised = fetch_exception();
    Py_DECREF(item);
    Py_XDECREF(argument);
    restore_exception(raised);
}

/* Nothing will be made of what has been drawn ahead.  Keeps the exception being
   raised.  Runs Python code. */
static void
source_drop_ahead(core_state *state, Source *self)
{
    PyObject *ahead = self->ahead;
    if (ahead == NULL) {
        return;
    }
    self->ahead = NULL;
    PyObject *raised = fetch_exception();
    if (self->function == NULL) {
        item_close(state, ahead, self->item_kind);
    }
    Py_DECREF(ahead);
    restore_exception(raised);
}

/* Every item has been taken. */
static void
source_exhaust(Source *self)
{
    assert(source_is_open(self));
    self->state = SOURCE_EXHAUSTED;
}

/* A list that nothing will be taken from again is left to who owns it. */
static void
source_leave_list(Source *self)
{
    if (self->kind == SOURCE_LIST && source_is_empty(self)) {
        Py_CLEAR(self->object);
    }
}

/* Nothing starts any more.  What is queued has yet to be closed. */
static void
source_begin_closing(Source *self)
{
    assert(source_is_open(self) || self->state == SOURCE_CLOSING);
    self->state = SOURCE_CLOSING;
}

/* Nothing is queued any more, nor will it be. */
static void
source_be_closed(Source *self)
{
    self->state = SOURCE_CLOSED;
    source_leave_list(self);
}

/* Runs Python code. */
static void
source_close_next(core_state *state, Source *self)
{
    PyObject *item = hidden_list_pop(self->object, self->next);
    self->next++;
    item_close(state, item, self->item_kind);
    Py_DECREF(item);
}

/* Closes what is queued until a slice is used up: 1 if there is more, 0, or -1
   if the clock failed.  Runs Python code. */
static int
source_close_some(core_state *state, Source *self)
{
    assert(self->state == SOURCE_CLOSING);
    double start, now;
    int status = clock_seconds(state, &start);
    while (status == 0 && source_list_goes_on(self)) {
        source_close_next(state, self);
        status = clock_seconds(state, &now);
        if (status == 0 && now - start >= SLICE_SECONDS
            && source_list_goes_on(self)) {
            return 1;
        }
    }
    return status;
}

/* Whatever is queued never starts: closes it all.  What that raises: new
   reference, or NULL.  Runs Python code. */
static PyObject *
source_close_all(core_state *state, Source *self)
{
    PyObject *failure = NULL;
    if (!source_is_empty(self)) {
        source_begin_closing(self);
        if (self->kind == SOURCE_LIST) {
            while (source_list_goes_on(self)) {
                source_close_next(state, self);
            }
        }
        else if (self->kind == SOURCE_TASK) {
            PyObject *iteration = self->object;
            self->object = NULL;
            if (iteration != NULL) {
                self->task->strand(state, iteration);
                Py_DECREF(iteration);
            }
        }
        else {
            failure = source_drop(state, self);
        }
    }
    source_be_closed(self);
    return failure;
}

#endif /* GATEDCORO_SOURCE_ENDING_H */
