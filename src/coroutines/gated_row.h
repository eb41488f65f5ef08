/* Gated rows: an item behind several gates, which are entered one after the other: a
   gated coroutine whose item is another one, and so on. */

#ifndef GATEDCORO_GATED_ROW_H
#define GATEDCORO_GATED_ROW_H

#include "coroutines/gated.h"

/* It is new, and comes to nothing: the item is still the caller's. */
static void
gated_row_forget(PyObject *op)
{
    GatedObject *self = GatedObject_CAST(op);
    self->base.state = CORO_CLOSED;
    while (self->holds_gated) {
        self = GatedObject_CAST(self->item);
        self->base.state = CORO_CLOSED;
    }
}

/* `async with` each gate of a tuple, in its order, around the item: see gated_new(). */
static PyObject *
gated_row_new(core_state *state, PyObject *gates, PyObject *item,
              PyObject *argument, ItemKind kind, ItemDrive drive,
              Py_ssize_t index)
{
    Py_ssize_t at = PyTuple_GET_SIZE(gates) - 1;
    PyObject *op = gated_new(state, PyTuple_GET_ITEM(gates, at), item,
                             argument, kind, drive, index);
    while (op != NULL && at > 0) {
        at--;
        PyObject *outer = gated_new(state, PyTuple_GET_ITEM(gates, at), op,
                                    NULL, ITEM_AWAITABLE, DRIVE_ITSELF, index);
        if (outer == NULL) {
            gated_row_forget(op);
        }
        else {
            GatedObject_CAST(outer)->holds_gated = true;
        }
        Py_SETREF(op, outer);
    }
    return op;
}

/* The one of them that holds the item: borrowed; another one, if it has ended. */
static GatedObject *
gated_innermost(PyObject *op)
{
    GatedObject *self = GatedObject_CAST(op);
    while (self->holds_gated && self->item != NULL) {
        self = GatedObject_CAST(self->item);
    }
    return self;
}

#endif /* GATEDCORO_GATED_ROW_H */
