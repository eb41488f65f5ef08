/* Keeper: the coroutine of a Task that stands for a gathering's queue.

   asyncio.run() cancels every Task before it closes the loop.  A queue whose
   caller is not among them would go on starting items in the meantime; so it
   has a Task of its own, whose cancel() closes the queue in the call itself.
   Closing it in the keeper's own step would be too late: other Tasks end
   before that, and each would have the next item started.

   The keeper waits until gathering_release_keeper() wakes it. */

#ifndef GATEDCORO_KEEPER_H
#define GATEDCORO_KEEPER_H

#include "coroutines/coroutine_type.h"
#include "engine/gathering.h"

typedef struct {
    CoroutineObject base;
    GatheringObject *gathering; /* owned; NULL when it has ended */
} KeeperObject;

static inline KeeperObject *
KeeperObject_CAST(PyObject *op)
{
    return (KeeperObject *)op;
}

/* Its Task is being cancelled: what was queued never starts, so the outer
   future, if it is pending, ends cancelled when what runs has ended. */
static int
keeper_cancelled(CoroutineObject *op, PyObject *message)
{
    GatheringObject *gathering = ((KeeperObject *)op)->gathering;
    if (gathering == NULL || gathering->queue != QUEUE_OPEN) {
        return 0;
    }
    Py_INCREF(gathering);
    gathering_request_cancel(gathering, message);
    PyObject *failure = NULL;
    if (gathering_close_queue(gathering) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_stopped(gathering) < 0) {
        collect_exception(&failure);
    }
    int status =
        raise_collected(failure) < 0 ? report_error((PyObject *)gathering) : 0;
    Py_DECREF(gathering);
    return status;
}

static void
keeper_finish(KeeperObject *self)
{
    GatheringObject *gathering = self->gathering;
    self->gathering = NULL;
    if (gathering != NULL) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(gathering->keeper_waiter);
        Py_CLEAR(gathering->keeper);
        Py_DECREF(gathering);
        restore_exception(raised);
    }
}

static PySendResult
keeper_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
            PyObject *exception, PyObject **result)
{
    KeeperObject *self = (KeeperObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (exception != NULL) {
        raise_exception(Py_NewRef(exception));
        keeper_finish(self);
        return PYGEN_ERROR;
    }
    GatheringObject *gathering = self->gathering;
    /* NULL: making the Task failed when its step had been scheduled. */
    if (gathering == NULL || gathering_has_no_queue(gathering)) {
        keeper_finish(self);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    PyObject *waiter = waiter_new(state, gathering->loop);
    if (waiter == NULL) {
        keeper_finish(self);
        return PYGEN_ERROR;
    }
    Py_XSETREF(gathering->keeper_waiter, Py_NewRef(waiter));
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
    GatheringObject *gathering = ((KeeperObject *)op)->gathering;
    return gathering == NULL ? NULL : gathering->keeper_waiter;
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

static int
keeper_start(core_state *state, GatheringObject *gathering)
{
    PyTypeObject *type = state->keeper_type;
    KeeperObject *self = (KeeperObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return -1;
    }
    coroutine_init(&self->base, &keeper_kind);
    self->gathering = (GatheringObject *)Py_NewRef(gathering);
    PyObject *context = PyContext_Copy(gathering->context);
    PyObject *task =
        context == NULL ? NULL : task_new(state, &self->base, context);
    Py_XDECREF(context);
    Py_DECREF(self);
    if (task == NULL) {
        return -1;
    }
    Py_XSETREF(gathering->keeper, Py_NewRef(task));
    int status = task_start_soon(state, task, gathering->loop);
    if (status < 0) {
        keeper_finish((KeeperObject *)task_fields(task)->driver);
    }
    Py_DECREF(task);
    return status;
}

/*** Lifecycle ***/

static int
keeper_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(KeeperObject_CAST(op)->gathering);
    return 0;
}

static int
keeper_tp_clear(PyObject *op)
{
    Py_CLEAR(KeeperObject_CAST(op)->gathering);
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
