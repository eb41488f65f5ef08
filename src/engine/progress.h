/* Progress: whom a call tells how many of its items have ended, if anybody.

      state   is to be told                                     next
      IDLE    nothing                                           WAITS, ENDS
      WAITS   what has ended: ten milliseconds after the first  IDLE, ENDS
      ENDS    in the next turn; then the call ends              gone

   It is told by the loop, not in the step of an item, and in a copy of the
   caller's context.  telling.h does so. */

#ifndef GATEDCORO_PROGRESS_H
#define GATEDCORO_PROGRESS_H

#include "base/call.h"
#include "base/import.h"

/* Between an item's end and its being told, at most; between two calls, at least:
   in seconds. */
#define PROGRESS_INTERVAL 0.01

/* Nobody knows how many items there will be. */
#define UNKNOWN_TOTAL (-1)

typedef enum {
    PROGRESS_IDLE,
    PROGRESS_WAITS,
    PROGRESS_ENDS,
} ProgressState;

typedef struct {
    ProgressState state;
    PyObject *tell;    /* is called with the number */
    PyObject *close;   /* closes what was opened for it; or NULL */
    PyObject *timer;   /* the loop's, or NULL */
    PyMethodDef *call; /* of the gathering: what the loop is to call */
    Py_ssize_t ended;  /* so many items are to be told */
} Progress;

/* Opens what is told, a bar with that total for True.  NULL on error.
   Runs Python code. */
static Progress *
progress_open(PyObject *progress, Py_ssize_t total, PyMethodDef *call)
{
    Progress *self = PyMem_Calloc(1, sizeof(Progress));
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *count = total == UNKNOWN_TOTAL ? Py_NewRef(Py_None)
                                             : PyLong_FromSsize_t(total);
    PyObject *open = import_from("gatedcoro._progress", "open_progress");
    PyObject *opened =
        count == NULL || open == NULL
            ? NULL
            : PyObject_CallFunctionObjArgs(open, progress, count, NULL);
    Py_XDECREF(count);
    Py_XDECREF(open);
    PyObject *tell, *close;
    if (opened == NULL || !PyArg_ParseTuple(opened, "OO", &tell, &close)) {
        Py_XDECREF(opened);
        PyMem_Free(self);
        return NULL;
    }
    self->tell = Py_NewRef(tell);
    self->close = close == Py_None ? NULL : Py_NewRef(close);
    self->call = call;
    Py_DECREF(opened);
    return self;
}

static int
progress_traverse(Progress *self, visitproc visit, void *arg)
{
    if (self != NULL) {
        Py_VISIT(self->tell);
        Py_VISIT(self->close);
        Py_VISIT(self->timer);
    }
    return 0;
}

static void
progress_clear(Progress **progress)
{
    Progress *self = *progress;
    *progress = NULL;
    if (self != NULL) {
        Py_XDECREF(self->tell);
        Py_XDECREF(self->close);
        Py_XDECREF(self->timer);
        PyMem_Free(self);
    }
}

/* The timer (stolen) is not needed, if it is not NULL; what its cancel() raises is
   reported.  Keeps the exception being raised.  Runs Python code. */
static void
progress_cancel_timer(core_state *state, PyObject *timer)
{
    if (timer == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    if (call_method_for_effect(timer, state->str_cancel, NULL) < 0) {
        PyErr_WriteUnraisable(timer);
    }
    Py_DECREF(timer);
    restore_exception(raised);
}

/* It need not be told after a while any more.  Runs Python code. */
static void
progress_stop_timer(core_state *state, Progress *self)
{
    PyObject *timer = self->timer;
    self->timer = NULL;
    progress_cancel_timer(state, timer);
}

/* Nobody is told any more, if anybody was, and what was opened is closed.  Keeps the
   exception being raised.  Runs Python code. */
static void
progress_stop(core_state *state, Progress **progress)
{
    Progress *self = *progress;
    if (self == NULL) {
        return;
    }
    *progress = NULL;
    PyObject *raised = fetch_exception();
    progress_stop_timer(state, self);
    if (self->close != NULL) {
        PyObject *ignored = PyObject_CallNoArgs(self->close);
        if (ignored == NULL) {
            PyErr_WriteUnraisable(self->close);
        }
        Py_XDECREF(ignored);
    }
    progress_clear(&self);
    restore_exception(raised);
}

#endif /* GATEDCORO_PROGRESS_H */
