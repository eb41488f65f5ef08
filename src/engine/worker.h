/* Worker: the coroutine of one Task; it drives items and reports how each of
   them ended.

   One step of a worker:

      drive the item --- yields ------------------------> suspended
            |
       returns/raises: deliver the outcome to the gathering
            |
            +-- may the Task go on? (task.h) --- yes: take the next item ---+
            |                                                               |
            |   <----------------------- drive it, in the same step --------+
            no
            |
       end as the item did, and start what there is room for in other Tasks

   Each item has a copy of the caller's context.  Where Tasks are reused, the
   worker enters it around each step, and drops it when the item has ended; the
   Task's own is another copy, in which no item runs.  Otherwise it is the Task's
   own, and goes with the Task.

   A worker belongs to its gathering before its Task exists, so that whatever
   happens in an eager first step finds it there.

   Who closes a worker by hand (Task.get_coro() gives it, for an item that is no
   coroutine) does not end its Task: that finds the worker closed in its next
   step, and that error is the item's outcome. */

#ifndef GATEDCORO_WORKER_H
#define GATEDCORO_WORKER_H

#include "coroutines/current.h"
#include "coroutines/gated.h"
#include "coroutines/coroutine_type.h"
#include "coroutines/task_reuse.h"
#include "engine/watcher.h"

typedef struct {
    CoroutineObject base;
    RunningLink link;           /* link.target is the Task */
    GatheringObject *gathering; /* owned; NULL when the last item has ended */
    PyObject *item;             /* what the user handed over */
    ItemDrive drive;
    PyObject *delegate; /* what is driven; NULL before the first step */
    PyObject *context;  /* of the item, entered around each step; or NULL */
} WorkerObject;

static inline WorkerObject *
WorkerObject_CAST(PyObject *op)
{
    return (WorkerObject *)op;
}

/*** Introspection ***/

/* The coroutine that the user handed over: new reference. */
static PyObject *
worker_represented(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    core_state *state = state_of((PyObject *)op);
    PyObject *item = self->item;
    if (self->delegate != NULL && Py_TYPE(self->delegate) == state->gated_type
        && self->delegate != item) {
        item = GatedObject_CAST(self->delegate)->item;
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

static PyObject *
worker_name(CoroutineObject *op)
{
    PyObject *item = Py_XNewRef(((WorkerObject *)op)->item);
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
    return ((WorkerObject *)op)->item;
}

/*** The Task ***/

/* Was the Task cancelled while the item ran to its end?  The outcome is then a
   CancelledError: new reference.  NULL without an exception: it was not. */
static PyObject *
worker_pending_cancellation(core_state *state, WorkerObject *self)
{
    PyObject *task = Py_XNewRef(self->link.target);
    PyObject *must_cancel = NULL;
    if (task != NULL && is_own_task(state, task)) {
        must_cancel = state->task_get_must_cancel(task, NULL);
        if (must_cancel == Py_False) {
            Py_DECREF(must_cancel);
            Py_DECREF(task);
            return NULL;
        }
    }
    else {
        if (task == NULL) {
            task = PyObject_CallMethodOneArg(state->asyncio_tasks,
                                             state->str_current_task,
                                             self->gathering->loop);
        }
        if (task != NULL) {
            (void)lookup_attribute(task, state->str_must_cancel, &must_cancel);
        }
    }
    PyObject *cancelled = NULL;
    if (must_cancel == Py_True) {
        cancelled =
            PyObject_CallMethodNoArgs(task, state->str_make_cancelled_error);
        if (cancelled == NULL) {
            cancelled = fetch_exception(); /* in its place */
        }
    }
    Py_XDECREF(must_cancel);
    Py_XDECREF(task);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return cancelled;
}

/* The call is over.  A Future that its Task awaits in the caller's name must
   not show that any more (gh-157213). */
static void
worker_leave_future(GatheringObject *gathering, PyObject *worker,
                    PyObject *task)
{
    core_state *state = state_of(worker);
    PyObject *item = Py_XNewRef(WorkerObject_CAST(worker)->item);
    int future = item == NULL ? 0 : is_future(state, item);
    if (future > 0) {
        change_edge(gathering->discard_awaited_by, item, task);
    }
    else if (future < 0) {
        PyErr_WriteUnraisable(item);
    }
    Py_XDECREF(item);
}

/*** Steps ***/

/* An item that never began is given up; its worker may have ended already, by
   a step of somebody's.  Keeps the exception being raised. */
static void
worker_forget_item(core_state *state, WorkerObject *self)
{
    GatheringObject *gathering = self->gathering;
    assert(self->delegate == NULL);
    if (gathering != NULL && gathering->gate != NULL) {
        gathering->waiting--;
    }
    item_close(state, self->item,
               gathering == NULL ? ITEM_AWAITABLE
                                 : gathering_item_kind(gathering));
}

/* Has the queue been closed since the item was taken?  Then it must not start,
   and its Task ends as one that was cancelled before its first step.  A Task of
   the loop's begins in a turn of its own, and can be cancelled until then. */
static bool
worker_comes_too_late(WorkerObject *self, GatheringObject *gathering)
{
    return gathering_is_closed(gathering)
           && (gathering->own_tasks || self->link.starting);
}

/* An item does not wait for the gate any more.  -1 on an interrupt. */
static int
worker_gate_told(PyObject *owner, bool entered)
{
    GatheringObject *gathering = GatheringObject_CAST(owner);
    gathering->waiting--;
    if (!entered || gathering->pumping
        || gathering_schedule_pump(gathering) == 0) {
        return 0;
    }
    return gathering_pass_failed(gathering);
}

/* gated.h calls it, once for each item that waits for the limit's gate. */
static const GatedOwnerCalls worker_gate_calls = {
    .told = worker_gate_told,
};

/* Has the item that starts in this step run its first step. */
static PySendResult
worker_begin_item(core_state *state, WorkerObject *self, PyObject **result)
{
    GatheringObject *gathering = self->gathering;
    ItemKind kind = gathering_item_kind(gathering);
    PyObject *gated = NULL;
    if (gathering->gate != NULL) {
        gated = gated_new(state, gathering->gate, self->item, kind,
                          self->drive, self->link.index);
        if (gated == NULL) {
            worker_forget_item(state, self);
            return PYGEN_ERROR;
        }
        gated_set_owner(gated, (PyObject *)gathering, &worker_gate_calls);
    }
    if (worker_comes_too_late(self, gathering)) {
        if (gated != NULL) {
            (void)coroutine_discard(CoroutineObject_CAST(gated), NULL);
            Py_DECREF(gated);
        }
        else {
            worker_forget_item(state, self);
        }
        raise_exception(gathering_cancelled_error(gathering));
        return PYGEN_ERROR;
    }
    if (gated != NULL) {
        self->delegate = gated;
    }
    else {
        PyObject *item = Py_NewRef(self->item);
        PyObject *iterator =
            item_begin(state, &item, kind, self->drive, self->link.index);
        if (iterator == NULL && kind != ITEM_CALLABLE) {
            note_unpacking(state, item);
        }
        Py_SETREF(self->item, item);
        self->delegate = iterator;
    }
    if (self->delegate == NULL) {
        return PYGEN_ERROR;
    }
    return PyIter_Send(self->delegate, Py_None, result);
}

/* One step of the item, in its context. */
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
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    return status;
}

/* The item has ended with `*result` or with the exception being raised, which
   is put into `*raised`.  Afterwards the list's reference to the worker is the
   caller's.  -1 if an interrupt has to leave the loop. */
static int
worker_deliver(core_state *state, WorkerObject *self, PyObject *result,
               PyObject **raised)
{
    PyObject *exception;
    if (result == NULL) {
        make_raisable();
        *raised = fetch_exception();
        exception = Py_NewRef(*raised);
        gathering_note_interrupt(self->gathering, exception);
    }
    else {
        exception = worker_pending_cancellation(state, self);
    }
    int status = gathering_deliver(
        self->gathering, &self->link, exception == NULL ? result : NULL,
        exception,
        exception != NULL
            && PyErr_GivenExceptionMatches(exception, state->cancelled_error),
        *raised == NULL ? self->link.target : NULL);
    Py_XDECREF(exception);
    if (status == 0 && *raised != NULL && is_interrupt(*raised)) {
        raise_exception(Py_NewRef(*raised));
        status = -1;
    }
    return status;
}

/* May an item's own code run where it is asked what it is? */
static inline bool
item_may_answer(GatheringObject *gathering, PyObject *item)
{
    return gathering->as_asyncio_gather && !PyCoro_CheckExact(item);
}

/* Finds out how an item will be driven, before it belongs to any Task.  -1 on
   error. */
static int
worker_look_at_item(core_state *state, WorkerObject *self, PyObject *item)
{
    return item_find_drive(state, item, gathering_item_kind(self->gathering),
                           &self->drive);
}

/* References to the worker of an untouched Task when its item has ended: the
   list's is the caller's, and who starts the Task has one. */
static inline Py_ssize_t
worker_references(bool first_step)
{
    return task_driver_references(first_step) + 1 + first_step;
}

/* May the Task, whose item has ended, go on with another one?  The worker, too,
   must be as new: get_coro() hands it out for an item that is no coroutine. */
static bool
worker_may_go_on(core_state *state, WorkerObject *self, bool first_step)
{
    GatheringObject *gathering = self->gathering;
    return task_is_untouched(state, self->link.target, gathering->loop,
                             self->link.awaiter, first_step)
           && Py_REFCNT(self) == worker_references(first_step)
           && self->base.weakreflist == NULL;
}

/* The worker and its Task go ahead with another item (stolen).  The list gets
   its reference to the worker back. */
static void
worker_go_on(WorkerObject *self, PyObject *item, Py_ssize_t index)
{
    GatheringObject *gathering = self->gathering;
    gathering_link(gathering, &self->link, index);
    if (gathering->gate != NULL) {
        gathering->waiting++;
    }
    task_renew(self->link.target);
    self->item = item;
}

/* Does the type have what a coroutine has?  Runs no Python code. */
static bool
has_coroutine_methods(core_state *state, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    return _PyType_Lookup(type, state->str_send) != NULL
           && _PyType_Lookup(type, state->str_throw) != NULL
           && _PyType_Lookup(type, state->str_close) != NULL;
}

/* An item has ended: drops it before another one starts, so that destructors
   come first.  A coroutine is kept, for the Task may be asked for it; it has
   dropped what it held. */
static void
worker_drop_item(core_state *state, WorkerObject *self)
{
    Py_CLEAR(self->delegate);
    if (self->item != NULL && !PyCoro_CheckExact(self->item)
        && self->drive != DRIVE_ITSELF
        && !has_coroutine_methods(state, self->item)) {
        Py_CLEAR(self->item);
    }
}

/* Has an item ended in a way after which its Task may go on? */
static bool
ended_ordinarily(core_state *state, PyObject *raised)
{
    return raised == NULL
           || (PyErr_GivenExceptionMatches(raised, PyExc_Exception)
               && !PyErr_GivenExceptionMatches(raised,
                                               state->cancelled_error));
}

/* Would exactly one item start?  In the middle of the loop's own call of a
   step, the Task can go on only then: were there more to start, they would be
   scheduled before this Task is, though they come after its item. */
static bool
one_slot_is_free(GatheringObject *gathering)
{
    return gathering->gate == NULL
           && gathering->running_count + 1 == gathering->limit;
}

/* An item has ended with `*result` or `*raised`.  Takes the next one, if there
   is room for it and the Task may go on: 1.  0 if not, -1 on an interrupt.

   If nobody holds the Task, nobody will see how it ends: what the item left
   is dropped before the next one starts, so that destructors run as they
   would with a Task for each item; and they may touch the Task, too, as may what
   the collector runs while a context is made (3.11). */
static int
worker_next_item(core_state *state, WorkerObject *self, bool began_pass,
                 PyObject **result, PyObject **raised, bool first_step)
{
    GatheringObject *gathering = self->gathering;
    PyObject *task = self->link.target;
    if (!gathering->reuse_tasks || !ended_ordinarily(state, *raised)
        || (began_pass && !one_slot_is_free(gathering))
        || !task_ends_unseen(state, task, gathering->loop, first_step)) {
        return 0;
    }
    Py_CLEAR(*raised);
    Py_XSETREF(*result, Py_NewRef(Py_None));
    Py_CLEAR(self->item);
    Py_XSETREF(self->context, PyContext_Copy(gathering->context));
    if (self->context == NULL) {
        PyErr_Clear();
        return 0;
    }
    PyObject *item;
    Py_ssize_t index;
    int status = gathering_admits(gathering);
    bool may_go_on = status > 0 && worker_may_go_on(state, self, first_step);
    if (status > 0) {
        status = gathering_take(gathering, &item, &index);
    }
    if (status > 0) {
        /* An iterator may be the user's code, and so may be what an item
           answers, and the loop, which is told when the queue is at its end. */
        bool ran_python = gathering->queue != QUEUE_OPEN
                          || (gathering->source != NULL
                              && !source_is_indexed(gathering->source))
                          || item_may_answer(gathering, item);
        if (worker_look_at_item(state, self, item) < 0) {
            status = gathering_fail_call(gathering);
            gathering_drop_item(gathering, item);
        }
        else if (may_go_on
                 && (!ran_python
                     || (worker_may_go_on(state, self, first_step)
                         && !gathering_is_closed(gathering)))) {
            worker_go_on(self, item, index);
            return 1;
        }
        else {
            status = worker_start(state, gathering, item, index);
        }
        Py_DECREF(item);
    }
    if (status == 0) {
        return 0;
    }
    return interrupt_is_raised() ? -1 : gathering_pass_failed(gathering);
}

/* The last item has ended, and the list's reference is ours: lets go of
   everything but the item, for which the Task may be asked.  Keeps the exception
   being raised. */
static void
worker_finish(WorkerObject *self)
{
    PyObject *raised = fetch_exception();
    GatheringObject *gathering = self->gathering;
    PyObject *task = self->link.target;
    self->gathering = NULL;
    gathering_leave(gathering, &self->link);
    self->link.target = NULL;
    Py_CLEAR(self->delegate);
    Py_XDECREF(task);
    Py_DECREF(gathering);
    Py_DECREF(self);
    if (raised != NULL) {
        raise_exception(raised);
    }
}

/* The object goes with its Task, and so does the loop that ran it: there is
   nobody to tell.  Nothing starts any more; should something else end
   nevertheless, the gathering does so as if this item had been cancelled. */
static void
worker_dropped(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    if (self->gathering == NULL || self->link.next == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    op->state = CORO_CLOSED; /* even if the item refuses to end */
    gathering->item_lost = true;
    gathering_unlink(gathering, &self->link);
    worker_finish(self);
    gathering_close_rest(gathering);
    Py_DECREF(gathering);
    if (raised != NULL) {
        raise_exception(raised);
    }
}

/* Unless it has ended or is ending, the item does so with an exception
   (borrowed) outside of any step, and what there is room for starts.  -1 on an
   interrupt. */
static int
worker_end_with(WorkerObject *self, PyObject *exception)
{
    if (self->gathering == NULL || self->link.next == NULL) {
        return 0;
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    gathering_note_interrupt(gathering, exception);
    self->base.state = CORO_CLOSED; /* even if the item refuses to end */
    core_state *state = state_of((PyObject *)self);
    int status = gathering_deliver(
        gathering, &self->link, NULL, exception,
        PyErr_GivenExceptionMatches(exception, state->cancelled_error), NULL);
    worker_finish(self);
    status = gathering_go_on(gathering, status);
    Py_DECREF(gathering);
    return status;
}

/* The Task has found its coroutine closed. */
static void
worker_refused(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    PyObject *raised = fetch_exception();
    if (worker_end_with(self, raised) < 0) {
        Py_DECREF(raised);
        return;
    }
    raise_exception(raised);
}

/* Closes the item. */
static PySendResult
worker_step_exiting(core_state *state, WorkerObject *self, PyObject *exception,
                    PyObject **result)
{
    PySendResult status = worker_drive(state, self, NULL, exception, result);
    if (status != PYGEN_NEXT) {
        PyObject *raised = fetch_exception();
        worker_drop_item(state, self);
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    return status;
}

/* The Task ended without the worker, which somebody else drives. */
static PySendResult
worker_step_alone(core_state *state, WorkerObject *self, PyObject *value,
                  PyObject *exception, PyObject **result)
{
    PySendResult status = worker_drive(state, self, value, exception, result);
    if (status != PYGEN_NEXT) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->delegate);
        Py_CLEAR(self->context);
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    return status;
}

static PySendResult
worker_step(CoroutineObject *op, PyObject *value, PyObject *exception,
            PyObject **result)
{
    WorkerObject *self = (WorkerObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (self->gathering == NULL) {
        return worker_step_alone(state, self, value, exception, result);
    }
    if (op->closing) {
        return worker_step_exiting(state, self, exception, result);
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    bool first_step = self->link.starting && gathering->own_tasks;
    if (first_step) {
        task_silence(state, self->link.target); /* as in later steps */
    }
    gathering_join(gathering, &self->link);

    bool began_pass = false;
    bool interrupted = false;
    PyObject *raised = NULL;
    PySendResult status;
    for (;;) {
        status = worker_drive(state, self, value, exception, result);
        if (status == PYGEN_NEXT) {
            break;
        }
        if (self->gathering == NULL) { /* its Task has ended without it */
            raised = status == PYGEN_ERROR ? fetch_exception() : NULL;
            Py_CLEAR(self->delegate);
            Py_CLEAR(self->context);
            break;
        }
        int next = worker_deliver(state, self, *result, &raised);
        if (gathering->awaiter == NULL) {
            gathering_leave(gathering, &self->link); /* it waits no more */
        }
        if (next == 0) {
            worker_drop_item(state, self);
            if (!gathering->pumping) {
                gathering_begin_pass(gathering);
                began_pass = true;
            }
            next = worker_next_item(state, self, began_pass, result, &raised,
                                    first_step);
        }
        if (next <= 0) {
            interrupted = next < 0;
            status = raised == NULL ? PYGEN_RETURN : PYGEN_ERROR;
            worker_finish(self);
            break;
        }
        Py_CLEAR(*result);
        value = Py_None;
        exception = NULL;
    }
    if (interrupted) {
        if (began_pass) {
            (void)gathering_end_pass(gathering, -1);
        }
        else if (!gathering->pumping) {
            gathering_interrupted(gathering);
        }
    }
    else if (began_pass && status == PYGEN_NEXT) {
        (void)gathering_end_pass(gathering, 0);
        if (gathering_has_room(gathering)
            && gathering_schedule_pump(gathering) < 0
            && gathering_pass_failed(gathering) < 0) {
            PyErr_WriteUnraisable((PyObject *)gathering);
        }
    }
    else if (began_pass) {
        interrupted = gathering_finish_pass(gathering) < 0;
    }
    if (interrupted) {
        /* The exception being raised takes the place of the item's outcome. */
        Py_CLEAR(*result);
        Py_CLEAR(raised);
        status = PYGEN_ERROR;
    }
    else if (raised != NULL) {
        raise_exception(raised);
    }
    Py_DECREF(gathering);
    return status;
}

/* The Task was cancelled before its first step; or the worker is closed, and
   either the Task will find it so or it is lost with its loop. */
static int
worker_discard(CoroutineObject *op, PyObject *exception,
               DiscardList *Py_UNUSED(rest))
{
    WorkerObject *self = (WorkerObject *)op;
    PyObject *raised = fetch_exception();
    worker_forget_item(state_of((PyObject *)op), self);
    if (exception != NULL && worker_end_with(self, exception) < 0) {
        Py_XDECREF(raised);
        return -1;
    }
    if (raised != NULL) {
        raise_exception(raised);
    }
    return 0;
}

static PyObject *
worker_awaited(CoroutineObject *op)
{
    return ((WorkerObject *)op)->delegate;
}

static const CoroutineKind worker_kind = {
    .step = worker_step,
    .discard = worker_discard,
    .refused = worker_refused,
    .dropped = worker_dropped,
    .represented = worker_represented,
    .context = worker_context,
    .name = worker_name,
    .shown = worker_shown,
    .awaited = worker_awaited,
    .warns = false,
};

/*** Start ***/

static WorkerObject *
worker_new(core_state *state, GatheringObject *gathering, PyObject *item)
{
    PyTypeObject *type = state->worker_type;
    WorkerObject *self = (WorkerObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        coroutine_init(&self->base, &worker_kind);
        self->gathering = (GatheringObject *)Py_NewRef(gathering);
        self->item = Py_NewRef(item);
        if (gathering->reuse_tasks) {
            self->context = PyContext_Copy(gathering->context);
            if (self->context == NULL) {
                self->base.state = CORO_CLOSED;
                Py_CLEAR(self);
            }
        }
    }
    return self;
}

/* The done callback of a Task that is not of our type.  Its maker may have
   wrapped the worker, and then the Task may have ended without it: cancelled
   before the first step, say.  What the Task came to is then the item's outcome,
   be it that it cannot say.  A worker that had begun is left to whoever drives
   it, and reports nothing any more. */
static PyObject *
worker_task_done(PyObject *op, PyObject *task)
{
    WorkerObject *self = WorkerObject_CAST(op);
    core_state *state = state_of(op);
    PyObject *value, *exception;
    bool is_cancellation;
    if (self->gathering == NULL || self->link.next == NULL) {
        /* It has ended, or is ending: marks the exception as retrieved. */
        if (future_outcome(state, task, &value, &exception, &is_cancellation)
            < 0) {
            return NULL;
        }
        Py_XDECREF(value);
        Py_XDECREF(exception);
        Py_RETURN_NONE;
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    Py_INCREF(self);
    if (self->base.state == CORO_CREATED) {
        (void)coroutine_discard(&self->base, NULL);
    }
    else if (self->delegate != NULL
             && Py_TYPE(self->delegate) == state->gated_type) {
        (void)gated_tell_owner(GatedObject_CAST(self->delegate), false);
    }
    gathering_take_outcome(gathering, task, &value, &exception,
                           &is_cancellation);
    int status = 0;
    if (self->link.next != NULL) { /* else it came to an end meanwhile */
        Py_CLEAR(self->gathering); /* who drives the worker does so alone */
        gathering_leave(gathering, &self->link);
        status = gathering_deliver(gathering, &self->link, value, exception,
                                   is_cancellation, task);
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->link.target);
        if (self->base.state == CORO_CLOSED) {
            Py_CLEAR(self->delegate);
            Py_CLEAR(self->context);
        }
        Py_DECREF(self); /* the list's */
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    status = gathering_go_on(gathering, status);
    Py_XDECREF(value);
    Py_XDECREF(exception);
    Py_DECREF(self);
    Py_DECREF(gathering);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef worker_task_done_def = {"task_done", worker_task_done,
                                           METH_O, NULL};

/* Has the loop make the Task, as any create_task() of the caller's would: new
   reference. */
static PyObject *
worker_create_task(core_state *state, WorkerObject *self, PyObject *context)
{
    PyObject *loop = self->gathering->loop;
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *task = NULL, *before;
    if (current_task_enter(state, loop, self->gathering->parent, &before)
        == 0) {
        task = PyObject_CallMethodOneArg(loop, state->str_create_task,
                                         (PyObject *)self);
    }
    current_task_leave(state, loop, before);
    PyObject *raised = task == NULL ? fetch_exception() : NULL;
    if (PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable(loop);
    }
    if (raised != NULL) {
        raise_exception(raised);
        return NULL;
    }
    PyObject *callback =
        PyCFunction_New(&worker_task_done_def, (PyObject *)self);
    if (callback == NULL
        || PyObject_SetAttr(task, state->str_log_destroy_pending, Py_False) < 0
        || call_method_for_effect(task, state->str_add_done_callback, callback)
               < 0) {
        Py_CLEAR(task); /* it is no Task to asyncio.gather either */
    }
    Py_XDECREF(callback);
    return task;
}

/* Why a Task could not be made, from the exception being raised: new
   reference. */
static PyObject *
error_of_start(void)
{
    make_raisable();
    PyObject *raised = fetch_exception();
    if (EAGER_TASKS_HIDE_ERRORS
        && PyErr_GivenExceptionMatches(raised, PyExc_SystemError)) {
        PyObject *cause = PyException_GetCause(raised);
        if (cause != NULL) {
            Py_SETREF(raised, cause);
        }
    }
    return raised;
}

/* The Task could not be made, or failed in its first step: the exception being
   raised is the item's outcome, unless it has one.  -1 on an interrupt. */
static int
worker_not_started(WorkerObject *self)
{
    PyObject *raised = error_of_start();
    PyObject *failure = NULL;
    if (self->base.state == CORO_CREATED) {
        if (coroutine_discard(&self->base, raised) < 0) {
            collect_exception(&failure);
        }
    }
    else if (self->gathering != NULL) {
        /* Nobody will take the Task's next step. */
        PyObject *closed = coroutine_close(&self->base);
        if (closed == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(closed);
        if (self->gathering != NULL && worker_end_with(self, raised) < 0) {
            collect_exception(&failure);
        }
    }
    if (is_interrupt(raised)) {
        raise_exception(raised);
        collect_exception(&failure);
    }
    else {
        Py_DECREF(raised);
    }
    return raise_collected(failure);
}

/* The Task has been made: it can be cancelled now.  -1 on an interrupt. */
static int
worker_is_started(WorkerObject *self, PyObject *task)
{
    GatheringObject *gathering = self->gathering;
    gathering_join(gathering, &self->link);
    if (self->base.state == CORO_CLOSED) {
        /* Whoever made the Task closed it, and may have made none. */
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot reuse already awaited coroutine");
        return worker_not_started(self);
    }
    if (!self->link.cancel_pending) {
        return 0;
    }
    self->link.cancel_pending = false;
    PyObject *message = Py_XNewRef(gathering->cancel_message);
    int status = call_method_for_effect(
        task, state_of((PyObject *)self)->str_cancel, message);
    Py_XDECREF(message);
    return status < 0 ? report_error(task) : 0;
}

/* Makes a Task for the worker, which belongs to its gathering, and a new
   reference to it in `*task` (NULL if there is none); `context` is its own.  -1
   on an interrupt. */
static int
worker_make_task(core_state *state, WorkerObject *self, PyObject *context,
                 PyObject **task)
{
    GatheringObject *gathering = self->gathering;
    int status = -1;
    self->link.starting = true;
    if (gathering->own_tasks) {
        *task = task_new(state, &self->base, context);
        if (*task != NULL) {
            self->link.target = Py_NewRef(*task);
            status = task_start(state, *task, gathering->loop,
                                &gathering->task_kwargs);
        }
    }
    else {
        *task = worker_create_task(state, self, context);
        if (*task != NULL) {
            status = 0;
            if (self->gathering != NULL) {
                Py_XSETREF(self->link.target, Py_NewRef(*task));
            }
        }
    }
    self->link.starting = false;
    if (status < 0) {
        return worker_not_started(self);
    }
    if (self->gathering == NULL) {
        return 0; /* the item has ended */
    }
    return worker_is_started(self, *task);
}

/* Starts an item that has been taken in a Task of its own.  -1 on an
   interrupt. */
static int
worker_start(core_state *state, GatheringObject *gathering, PyObject *item,
             Py_ssize_t index)
{
    PyObject *context = PyContext_Copy(gathering->context);
    WorkerObject *self =
        context == NULL ? NULL : worker_new(state, gathering, item);
    bool looked = self != NULL && worker_look_at_item(state, self, item) == 0;
    if (!looked || gathering_is_closed(gathering)) {
        int status = !looked ? gathering_fail_call(gathering) : 0;
        gathering_drop_item(gathering, item);
        if (self != NULL) {
            self->base.state = CORO_CLOSED;
            Py_DECREF(self);
        }
        Py_XDECREF(context);
        return status;
    }
    self->link.owner = Py_NewRef(self);
    gathering_link(gathering, &self->link, index);
    if (gathering->gate != NULL) {
        gathering->waiting++;
    }
    PyObject *task;
    int status = worker_make_task(state, self, context, &task);
    Py_DECREF(context);
    Py_XDECREF(task);
    Py_DECREF(self);
    return status;
}

/*** Lifecycle ***/

static int
worker_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = WorkerObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->link.target);
    Py_VISIT(self->link.awaiter);
    Py_VISIT(self->gathering);
    Py_VISIT(self->item);
    Py_VISIT(self->delegate);
    Py_VISIT(self->context);
    return 0;
}

/* The finalizer has closed the item: nothing is linked any more, unless the
   gathering is part of the same cycle and unlinks it. */
static int
worker_tp_clear(PyObject *op)
{
    WorkerObject *self = WorkerObject_CAST(op);
    Py_CLEAR(self->link.awaiter); /* while it is set, so is the target */
    Py_CLEAR(self->link.target);
    Py_CLEAR(self->gathering);
    Py_CLEAR(self->item);
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->context);
    return 0;
}

static void
worker_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, worker_tp_clear);
}

static PyType_Slot worker_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, worker_tp_dealloc},
    {Py_tp_traverse, worker_tp_traverse},
    {Py_tp_clear, worker_tp_clear},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "gatedcoro._core.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = COROUTINE_FLAGS,
    .slots = worker_slots,
};

#endif /* GATEDCORO_WORKER_H */
