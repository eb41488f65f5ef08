/* Watcher: a Future that a gathering without a limit takes as it is.

   It is a done callback, as asyncio.gather has, instead of a worker; the
   Future needs no Task and no slot. */

#ifndef GATEDCORO_WATCHER_H
#define GATEDCORO_WATCHER_H

#include "engine/gathering.h"

typedef struct {
    PyObject_HEAD
    RunningLink link;           /* link.target is the Future */
    GatheringObject *gathering; /* owned; NULL once the Future is done */
} WatcherObject;

static inline WatcherObject *
WatcherObject_CAST(PyObject *op)
{
    return (WatcherObject *)op;
}

/* The Future's outcome: a value (new reference) or an exception (new
   reference, in `*exception`); -1 if the Future cannot say. */
static int
future_outcome(core_state *state, PyObject *future, PyObject **value,
               PyObject **exception, bool *is_cancelled)
{
    *value = *exception = NULL;
    *is_cancelled = false;
    PyObject *answer = PyObject_CallMethodNoArgs(future, state->str_cancelled);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (truth < 0) {
        return -1;
    }
    *is_cancelled = truth > 0;
    if (*is_cancelled) {
        *exception =
            PyObject_CallMethodNoArgs(future, state->str_make_cancelled_error);
        return *exception == NULL ? -1 : 0;
    }
    *exception = PyObject_CallMethodNoArgs(future, state->str_exception);
    if (*exception == NULL) {
        return -1;
    }
    if (*exception != Py_None) {
        return 0;
    }
    Py_CLEAR(*exception);
    *value = PyObject_CallMethodNoArgs(future, state->str_result);
    return *value == NULL ? -1 : 0;
}

/* May an interrupt that is the Future's outcome have left the loop?  That of a
   Task has, and that of another gathering.  1, 0, or -1 on an interrupt or
   without memory. */
static int
future_may_interrupt(core_state *state, PyObject *future)
{
    if (Py_TYPE(future) == state->outer_type
        || PyObject_TypeCheck(future, state->task_base)) {
        return 1;
    }
    PyObject *coro;
    int is_task = lookup_attribute(future, state->str_get_coro, &coro);
    Py_XDECREF(coro);
    return is_task < 0 ? forget_ordinary_error() : is_task;
}

/* What the Future, which is done, has come to for its gathering: a value or an
   exception (both new), which is a cancellation or one like any other. */
static void
gathering_take_outcome(GatheringObject *self, PyObject *future,
                       PyObject **value, PyObject **exception,
                       bool *is_cancellation)
{
    core_state *state = state_of((PyObject *)self);
    bool reports = outer_reports(state, future);
    if (future_outcome(state, future, value, exception, is_cancellation) < 0) {
        *exception = fetch_exception();
        *is_cancellation = false;
    }
    if (*exception != NULL && is_interrupt(*exception) && !reports) {
        int may = future_may_interrupt(state, future);
        if (may > 0) {
            gathering_note_interrupt(self, *exception);
        }
        else if (may < 0) { /* as one that cannot say */
            Py_SETREF(*exception, fetch_exception());
        }
    }
}

/* The done callback. */
static PyObject *
watcher_done(PyObject *op, PyObject *future)
{
    WatcherObject *self = WatcherObject_CAST(op);
    GatheringObject *gathering = self->gathering;
    if (gathering == NULL || self->link.next == NULL) {
        Py_RETURN_NONE; /* called a second time, or among what is collected */
    }
    self->gathering = NULL;
    gathering_leave(gathering, &self->link);
    PyObject *value, *exception;
    bool is_cancellation;
    gathering_take_outcome(gathering, future, &value, &exception,
                           &is_cancellation);
    int status = gathering_deliver(gathering, &self->link, value, exception,
                                   is_cancellation, future);
    Py_XDECREF(value);
    Py_XDECREF(exception);
    PyObject *target = self->link.target;
    self->link.target = NULL;
    Py_XDECREF(target);
    Py_DECREF(self); /* the list's */
    Py_DECREF(gathering);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef watcher_done_def = {"done", watcher_done, METH_O, NULL};

/* Subscribes to a Future: it is among what runs from now on.  Returns the
   callback (borrowed from nobody: new reference) or NULL. */
static PyObject *
watcher_new(core_state *state, GatheringObject *gathering, PyObject *future,
            Py_ssize_t index)
{
    PyTypeObject *type = state->watcher_type;
    WatcherObject *self = (WatcherObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    PyObject *callback = PyCFunction_New(&watcher_done_def, (PyObject *)self);
    if (callback != NULL) {
        self->gathering = (GatheringObject *)Py_NewRef(gathering);
        self->link.owner = Py_NewRef(self);
        self->link.target = Py_NewRef(future);
        gathering_link(gathering, &self->link, index);
        gathering_join(gathering, &self->link);
    }
    Py_DECREF(self);
    return callback;
}

/* The Future does not take its `callback`. */
static void
watcher_give_up(PyObject *callback)
{
    WatcherObject *self = WatcherObject_CAST(PyCFunction_GET_SELF(callback));
    GatheringObject *gathering = self->gathering;
    if (gathering != NULL) { /* else it called back all the same */
        self->gathering = NULL;
        gathering_unlink(gathering, &self->link);
        gathering_leave(gathering, &self->link);
        Py_DECREF(self); /* the list's */
        Py_DECREF(gathering);
    }
}

/*** Lifecycle ***/

static int
watcher_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    WatcherObject *self = WatcherObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->link.target);
    Py_VISIT(self->link.awaiter);
    Py_VISIT(self->gathering);
    return 0;
}

static int
watcher_tp_clear(PyObject *op)
{
    WatcherObject *self = WatcherObject_CAST(op);
    Py_CLEAR(self->link.awaiter); /* while it is set, so is the target */
    Py_CLEAR(self->link.target);
    Py_CLEAR(self->gathering);
    return 0;
}

static void
watcher_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)watcher_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot watcher_slots[] = {
    {Py_tp_dealloc, watcher_tp_dealloc},
    {Py_tp_traverse, watcher_tp_traverse},
    {Py_tp_clear, watcher_tp_clear},
    {0, NULL},
};

static PyType_Spec watcher_spec = {
    .name = "gatedcoro._core._Watcher",
    .basicsize = sizeof(WatcherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = watcher_slots,
};

#endif /* GATEDCORO_WATCHER_H */
