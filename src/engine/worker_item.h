/* The item of a worker: what its Task shows of it, how it begins, how it is
   driven, how it is given up.

   Each item has a copy of the caller's context.  Where Tasks are reused, the
   worker enters it around each step, and drops it when the item has ended; the
   Task's own is another copy, in which no item runs.  Otherwise it is the Task's
   own, and goes with the Task. */

#ifndef GATEDCORO_WORKER_ITEM_H
#define GATEDCORO_WORKER_ITEM_H

#include "coroutines/gated_row.h"
#include "engine/step.h"

typedef struct {
    CoroutineObject base;
    RunningLink link;           /* its target is the Task */
    GatheringObject *gathering; /* owned; NULL when the last item has ended */
    ItemDrive drive;
    bool task_is_kept;  /* by somebody to whom its exception may be news */
    bool has_no_task;   /* it could not be made, or nobody will step it */
    bool in_first_step; /* of a Task of ours */
    bool is_resumed;    /* by who called or released it, and has a reference */
    bool
        begun_by_starter; /* its first step was in the call that made its Task */
    PyObject *argument;   /* with which a callable is called, or NULL */
    PyObject *delegate;   /* what is driven; NULL before the first step */
    PyObject *context;    /* of the item, entered around each step; or NULL */
    PyObject *waiter; /* on which the Task waits while it is idle; or NULL */
    PyObject *kept;   /* how its item ended, while it is idle; or NULL */
    bool kept_raised;
} WorkerObject;

static inline WorkerObject *
WorkerObject_CAST(PyObject *op)
{
    return (WorkerObject *)op;
}

/*** What its Task shows ***/

/* The coroutine that the user handed over: new reference.
   Runs Python code. */
static PyObject *
worker_represented(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    core_state *state = state_of((PyObject *)op);
    PyObject *item = self->link.item;
    if (self->delegate != NULL && Py_TYPE(self->delegate) == state->gated_type
        && self->delegate != item) {
        item = gated_innermost(self->delegate)->item;
    }
    Py_XINCREF(item);
    int is_coro = item == NULL ? 0 : is_coroutine(state, item);
    if (is_coro > 0) {
        return item;
    }
    Py_XDECREF(item);
    return is_coro < 0 ? NULL : Py_NewRef(self);
}

/* The context of the item, if it is not the Task's own (borrowed), or NULL. */
static PyObject *
worker_context(CoroutineObject *op)
{
    return ((WorkerObject *)op)->context;
}

/* Runs Python code. */
static PyObject *
worker_name(CoroutineObject *op)
{
    PyObject *item = Py_XNewRef(((WorkerObject *)op)->link.item);
    PyObject *name;
    core_state *state = state_of((PyObject *)op);
    if (item == NULL) {
        return PyUnicode_InternFromString("gather_with_concurrency");
    }
    if (lookup_attribute(item, state->str_dunder_qualname, &name) == 0) {
        name = PyType_GetName(Py_TYPE(item));
    }
    Py_DECREF(item);
    return name;
}

static PyObject *
worker_shown(CoroutineObject *op)
{
    return ((WorkerObject *)op)->link.item;
}

/*** Its steps ***/

/* An item that never began is given up; its worker may have ended already, by
   a step of somebody's.  Keeps the exception being raised.
   Runs Python code. */
static void
worker_give_up_item(core_state *state, WorkerObject *self)
{
    GatheringObject *gathering = self->gathering;
    assert(self->delegate == NULL);
    if (self->argument != NULL) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->argument);
        restore_exception(raised);
    }
    if (gathering == NULL) {
        item_close(state, self->link.item, ITEM_AWAITABLE);
        return;
    }
    limit_end_waiting(&gathering->limit);
    item_close(state, self->link.item, gathering->source.item_kind);
}

/* Has the queue been closed since the item was taken?  Then it must not start,
   and its Task ends as one that was cancelled before its first step.  A Task of
   the loop's begins in a turn of its own, and can be cancelled until then. */
static bool
worker_comes_too_late(WorkerObject *self, GatheringObject *gathering)
{
    return source_is_closed(&gathering->source)
           && (gathering->tasks != TASKS_BY_LOOP
               || self->link.run != RUN_RUNNING);
}

/* An item does not wait for the gates any more.  -1 on an interrupt.
   Runs Python code. */
static int
worker_gate_told(PyObject *owner, bool entered)
{
    GatheringObject *gathering = GatheringObject_CAST(owner);
    limit_end_waiting(&gathering->limit);
    if (!entered || slice_is_under_way(&gathering->slice)
        || gathering_schedule_pump(gathering) == 0) {
        return 0;
    }
    return gathering_pass_failed(gathering);
}

/* Called by a gated coroutine, once for each item that waits for the limit's
   gates (gated.h). */
static const GatedOwnerCalls worker_gate_calls = {
    .told = worker_gate_told,
};

/* Has the item that starts in this step run its first step.
   Runs Python code. */
static PySendResult
worker_begin_item(core_state *state, WorkerObject *self, PyObject **result)
{
    GatheringObject *gathering = self->gathering;
    ItemKind kind = gathering->source.item_kind;
    PyObject *gated = NULL;
    if (gathering->limit.gates != NULL) {
        PyObject *argument = self->argument;
        self->argument = NULL;
        gated = gated_row_new(state, gathering->limit.gates, self->link.item,
                              argument, kind, self->drive, self->link.index);
        if (gated == NULL) {
            worker_give_up_item(state, self);
            return PYGEN_ERROR;
        }
        gated_set_owner(gated_innermost(gated), (PyObject *)gathering,
                        &worker_gate_calls);
    }
    if (worker_comes_too_late(self, gathering)) {
        if (gated != NULL) {
            (void)coroutine_discard(CoroutineObject_CAST(gated), NULL);
            Py_DECREF(gated);
        }
        else {
            worker_give_up_item(state, self);
        }
        raise_exception(gathering_cancelled_error(gathering));
        return PYGEN_ERROR;
    }
    (void)link_has_started(&self->link);
    if (gated != NULL) {
        self->delegate = gated;
    }
    else {
        PyObject *item = Py_NewRef(self->link.item);
        PyObject *iterator = item_begin(state, &item, &self->argument, kind,
                                        self->drive, self->link.index);
        if (iterator == NULL && kind != ITEM_CALLABLE) {
            note_unpacking(state, item);
        }
        Py_SETREF(self->link.item, item);
        self->delegate = iterator;
    }
    if (self->delegate == NULL) {
        return PYGEN_ERROR;
    }
    return PyIter_Send(self->delegate, Py_None, result);
}

/* One step of the item, in its context.  Runs Python code. */
static PySendResult
worker_drive(core_state *state, WorkerObject *self, PyObject *value,
             PyObject *exception, PyObject **result)
{
    PyObject *context = self->context;
    if (context != NULL && PyContext_Enter(context) < 0) {
        return PYGEN_ERROR;
    }
    PySendResult status =
        self->delegate == NULL
            ? worker_begin_item(state, self, result)
            : drive(state, self->delegate, value, exception, result);
    if (context != NULL) {
        PyObject *raised = status == PYGEN_ERROR ? fetch_exception() : NULL;
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        restore_exception(raised);
    }
    return status;
}

#endif /* GATEDCORO_WORKER_ITEM_H */
