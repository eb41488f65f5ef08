/* Keeper: the coroutine of a Task that stands for an owner which has none.

   asyncio.run() cancels every Task before it closes the loop.  What goes on by
   callbacks, and whose caller is not among the Tasks, would do so in the
   meantime: a queue would go on starting items.  So it has a Task of its own,
   whose cancel() tells the owner in the call itself.  In the keeper's own step
   it would be too late: other Tasks end before that, and each would have the
   next item started.

      keeper_start ---> the Task waits ---> keeper_wake ---> it ends, unless its
                            ^                                owner needs it
                            +--------------------------------- still

   The owner holds the Task until it is told that the keeper has ended. */

#ifndef GATEDCORO_KEEPER_H
#define GATEDCORO_KEEPER_H

#include "coroutines/coroutine_type.h"
#include "coroutines/task.h"
#include "coroutines/waiter.h"

/* What a keeper asks and tells its owner; the owner lives through each call. */
typedef struct {
    /* Is there still something to stand for?  Asked in each of its steps.  Runs
       no Python code. */
    bool (*needs_it)(PyObject *owner);
    /* The Task is being cancelled: called in the call of cancel(), before that
       does anything.  -1 on an interrupt. */
    int (*cancelled)(PyObject *owner, PyObject *message);
    /* The keeper has ended, or could not begin; called once.  The owner lets go
       of the Task. */
    void (*ended)(PyObject *owner);
} KeeperOwnerCalls;

typedef struct {
    CoroutineObject base;
    PyObject *owner; /* owned; NULL when it has ended */
    const KeeperOwnerCalls *owner_calls;
    PyObject *loop;
    PyObject *waiter; /* on which the Task waits, or NULL */
} KeeperObject;

static inline KeeperObject *
KeeperObject_CAST(PyObject *op)
{
    return (KeeperObject *)op;
}

/* Runs Python code. */
static int
keeper_cancelled(CoroutineObject *op, PyObject *message)
{
    KeeperObject *self = (KeeperObject *)op;
    PyObject *owner = Py_XNewRef(self->owner);
    int status =
        owner == NULL ? 0 : self->owner_calls->cancelled(owner, message);
    Py_XDECREF(owner);
    return status;
}

/* Keeps the exception being raised. */
static void
keeper_finish(KeeperObject *self)
{
    PyObject *owner = self->owner;
    self->owner = NULL;
    if (owner != NULL) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->waiter);
        self->owner_calls->ended(owner);
        Py_DECREF(owner);
        restore_exception(raised);
    }
}

static PySendResult
keeper_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
            PyObject *exception, PyObject **result)
{
    KeeperObject *self = (KeeperObject *)op;
    if (exception != NULL) {
        raise_exception(Py_NewRef(exception));
        keeper_finish(self);
        return PYGEN_ERROR;
    }
    /* NULL: making the Task failed when its step had been scheduled. */
    if (self->owner == NULL || !self->owner_calls->needs_it(self->owner)) {
        keeper_finish(self);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    PyObject *waiter = waiter_new(state_of((PyObject *)op), self->loop);
    if (waiter == NULL) {
        keeper_finish(self);
        return PYGEN_ERROR;
    }
    Py_XSETREF(self->waiter, Py_NewRef(waiter));
    *result = waiter;
    return PYGEN_NEXT;
}

static int
keeper_discard(CoroutineObject *op, PyObject *Py_UNUSED(exception),
               DiscardList *Py_UNUSED(rest))
{
    keeper_finish((KeeperObject *)op);
    return 0;
}

static PyObject *
keeper_name(CoroutineObject *Py_UNUSED(op))
{
    return PyUnicode_InternFromString("gatedcoro.keeper");
}

static PyObject *
keeper_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
keeper_awaited(CoroutineObject *op)
{
    return ((KeeperObject *)op)->waiter;
}

static const CoroutineKind keeper_kind = {
    .step = keeper_step,
    .discard = keeper_discard,
    .cancelled = keeper_cancelled,
    .name = keeper_name,
    .shown = keeper_shown,
    .awaited = keeper_awaited,
    .warns = false,
};

/*** For the owner ***/

/* Has a Task of `loop` stand for `owner`, in a copy of `context`: `*task`, which
   is the owner's (NULL before) and is set before the loop is called.  -1 if it
   could not be made: `*task` is NULL again.  Runs Python code. */
static int
keeper_start(core_state *state, PyObject *owner, const KeeperOwnerCalls *calls,
             PyObject *loop, PyObject *context, PyObject **task)
{
    assert(*task == NULL);
    PyTypeObject *type = state->keeper_type;
    KeeperObject *self = (KeeperObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return -1;
    }
    coroutine_init(&self->base, &keeper_kind);
    self->owner = Py_NewRef(owner);
    self->owner_calls = calls;
    self->loop = Py_NewRef(loop);
    PyObject *own_context = PyContext_Copy(context);
    PyObject *made =
        own_context == NULL ? NULL : task_new(state, &self->base, own_context);
    int status = -1;
    if (made != NULL && *task != NULL) {
        Py_CLEAR(self->owner); /* what the collector ran has made another */
        Py_DECREF(made);
        status = 0;
    }
    else if (made != NULL) {
        *task = Py_NewRef(made);
        status = task_start_soon(state, made, loop);
        if (status < 0) {
            keeper_finish(self);
        }
        Py_DECREF(made);
    }
    Py_DECREF(self);
    return status;
}

/* Has the keeper of that Task look whether its owner still needs it.  -1 if the
   loop refuses: it waits on, and may be told again.  Runs Python code. */
static int
keeper_wake(PyObject *task)
{
    KeeperObject *self = (KeeperObject *)task_fields(task)->driver;
    if (self == NULL || self->waiter == NULL) {
        return 0;
    }
    Py_INCREF(self);
    PyObject *waiter = Py_NewRef(self->waiter);
    int status = waiter_wake(waiter);
    if (status == 0 && self->waiter == waiter) {
        Py_CLEAR(self->waiter);
    }
    Py_DECREF(waiter);
    Py_DECREF(self);
    return status;
}

/*** Lifecycle ***/

static int
keeper_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    KeeperObject *self = KeeperObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->loop);
    Py_VISIT(self->waiter);
    return 0;
}

static int
keeper_tp_clear(PyObject *op)
{
    KeeperObject *self = KeeperObject_CAST(op);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->waiter);
    return 0;
}

static void
keeper_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, keeper_tp_clear);
}

static PyType_Slot keeper_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, keeper_tp_dealloc},
    {Py_tp_traverse, keeper_tp_traverse},
    {Py_tp_clear, keeper_tp_clear},
    {0, NULL},
};

static PyType_Spec keeper_spec = {
    .name = "gatedcoro._core._Keeper",
    .basicsize = sizeof(KeeperObject),
    .flags = COROUTINE_FLAGS,
    .slots = keeper_slots,
};

#endif /* GATEDCORO_KEEPER_H */
