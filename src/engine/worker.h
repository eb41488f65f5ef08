/* Worker: the coroutine of one Task; it drives items and reports how each of
   them ended.

   One step of a worker:

      drive the item --- yields ------------------------> suspended
            |   ^
            |   +-------------------------------------------------------+
       returns/raises: deliver the outcome to the gathering             |
            |                                                           |
            +-- may the Task go on? (task_reuse.h) -- no: end as the    |
            |                                         item did          |
           yes                                                          |
            |                                                           |
            +-- had it suspended, and are turns full (turns.h)?         |
            |   no: take the next item ---------------------------------+
            |                                                           |
           yes: the Task is idle until the pass in the next turn        |
            |                                                           |
            +-- may the Task still go on? -- yes: take the item in hand-+
            |
            no: end as the item did

   While it is idle, a Task keeps how its item ended, and shows that item.

   Who closes a worker by hand (Task.get_coro() gives it, for an item that is no
   coroutine) does not end its Task: that finds the worker closed in its next
   step, and that error is the item's outcome. */

#ifndef GATEDCORO_WORKER_H
#define GATEDCORO_WORKER_H

#include "engine/worker_reuse.h"

/*** The Task ***/

/* Was the Task cancelled while the item ran to its end?  The outcome is then a
   CancelledError: new reference, and `*asked` is the Task: new reference, or NULL.
   NULL without an exception: it was not.  Runs Python code. */
static PyObject *
worker_pending_cancellation(core_state *state, WorkerObject *self,
                            PyObject **asked)
{
    PyObject *task = self->link.target;
    PyObject *must_cancel = NULL;
    if (task != NULL && is_own_task(state, task)) {
        must_cancel = state->task_get_must_cancel(task, NULL);
        if (must_cancel == Py_False) {
            Py_DECREF(must_cancel);
            return NULL;
        }
        Py_INCREF(task);
    }
    else {
        Py_XINCREF(task);
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
    *asked = task;
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return cancelled;
}

/* What is handed out for the item, which has ended with `exception` (or NULL): new
   reference; NULL if there is no Task, or with an interrupt.  One that the loop
   makes may run before anybody has it: it is the current one then, unless who
   makes it makes its first step, too.  Runs Python code. */
static PyObject *
worker_handed_out(core_state *state, WorkerObject *self, PyObject *exception)
{
    GatheringObject *gathering = self->gathering;
    if (self->drive == DRIVE_BY_WAITING && exception == NULL) {
        return Py_NewRef(self->link.item);
    }
    if (self->link.target != NULL || self->has_no_task) {
        return self->has_no_task ? NULL : Py_NewRef(self->link.target);
    }
    PyObject *task = current_task_of(state, gathering->loop);
    if (task == Py_None || task == gathering->parent) {
        Py_CLEAR(task);
    }
    return task;
}

/* The same as gathering_deliver(), of an item that is handed out.
   Runs Python code. */
static Py_NO_INLINE int
worker_hand_out(core_state *state, WorkerObject *self, Outcome *outcome)
{
    PyObject *task = worker_handed_out(state, self, outcome->exception);
    PyObject *failure = NULL;
    if (task == NULL && PyErr_Occurred()) {
        collect_exception(&failure);
    }
    outcome->task = task;
    outcome->is_callers = task != NULL && task == self->link.item;
    if (gathering_deliver(state, self->gathering, &self->link, outcome) < 0) {
        collect_exception(&failure);
    }
    self->task_is_kept = outcome->is_kept;
    Py_XDECREF(task);
    return raise_collected(failure);
}

/* The item has ended, and is off the ring when that is with the sink.  The caller
   gets the ring's reference to the worker.  -1 on an interrupt.
   Runs Python code. */
static inline int
worker_give_outcome(core_state *state, WorkerObject *self, Outcome *outcome)
{
    GatheringObject *gathering = self->gathering;
    return gathering->source.item_kind == ITEM_HANDED_OUT
               ? worker_hand_out(state, self, outcome)
               : gathering_deliver(state, gathering, &self->link, outcome);
}

/*** Steps ***/

/* The item has ended with `*result` or the exception being raised.  If it cannot give
   back its slot of a semaphore, that is how it ends, as in `async with`.
   Runs Python code. */
static PySendResult
worker_leave_limit(core_state *state, WorkerObject *self, PySendResult status,
                   PyObject **result)
{
    PyObject *before = fetch_exception();
    if (gathering_leave_limit(state, self->gathering, &self->link) == 0) {
        restore_exception(before);
        return status;
    }
    Py_CLEAR(*result);
    if (before != NULL) {
        PyObject *raised = fetch_exception();
        PyException_SetContext(raised, before);
        raise_exception(raised);
    }
    return PYGEN_ERROR;
}

/* The item has ended with `*result` or with the exception being raised, which
   is put into `*raised`.  Afterwards the list's reference to the worker is the
   caller's.  -1 if an interrupt has to leave the loop.  Runs Python code. */
static int
worker_deliver(core_state *state, WorkerObject *self, PyObject *result,
               PyObject **raised)
{
    PyObject *exception, *child = NULL;
    if (result == NULL) {
        make_raisable();
        *raised = fetch_exception();
        exception = Py_NewRef(*raised);
        gathering_note_interrupt(self->gathering, exception);
    }
    else {
        exception = worker_pending_cancellation(state, self, &child);
    }
    Outcome outcome = {
        .value = exception == NULL ? result : NULL,
        .exception = exception,
        .child = child,
        .is_cancellation =
            exception != NULL
            && PyErr_GivenExceptionMatches(exception, state->cancelled_error),
    };
    int status = worker_give_outcome(state, self, &outcome);
    Py_XDECREF(exception);
    Py_XDECREF(child);
    if (status == 0 && *raised != NULL && is_interrupt(*raised)) {
        raise_exception(Py_NewRef(*raised));
        status = -1;
    }
    return status;
}

/* The object goes with its Task, and so does the loop that ran it: there is
   nobody to tell.  Nothing starts any more; should something else end
   nevertheless, the gathering does so as if this item had been cancelled.
   Runs Python code. */
static void
worker_dropped(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    if (self->gathering == NULL || !link_is_running(&self->link)) {
        return;
    }
    PyObject *raised = fetch_exception();
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    op->state = CORO_CLOSED; /* even if the item refuses to end */
    gathering_lose(gathering, &self->link);
    worker_finish(self);
    gathering_close_rest(gathering);
    Py_DECREF(gathering);
    restore_exception(raised);
}

/* Unless it has ended or is ending, the item does so with an exception
   (borrowed) outside of any step, and what there is room for starts.  -1 on an
   interrupt.  Runs Python code. */
static int
worker_end_with(WorkerObject *self, PyObject *exception)
{
    if (self->gathering == NULL || !link_is_running(&self->link)) {
        return 0;
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    gathering_note_interrupt(gathering, exception);
    self->base.state = CORO_CLOSED; /* even if the item refuses to end */
    core_state *state = state_of((PyObject *)self);
    Outcome outcome = {
        .exception = exception,
        .is_cancellation =
            PyErr_GivenExceptionMatches(exception, state->cancelled_error),
    };
    int status = worker_give_outcome(state, self, &outcome);
    worker_finish(self);
    status = gathering_go_on(gathering, status);
    Py_DECREF(gathering);
    return status;
}

/* The Task has found its coroutine closed.  Runs Python code. */
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

/* Closes the item.  Runs Python code. */
static PySendResult
worker_step_exiting(core_state *state, WorkerObject *self, PyObject *exception,
                    PyObject **result)
{
    PySendResult status = worker_drive(state, self, NULL, exception, result);
    if (status != PYGEN_NEXT) {
        PyObject *raised = fetch_exception();
        worker_release_item(state, self);
        restore_exception(raised);
    }
    return status;
}

/* The Task ended without the worker, which somebody else drives.
   Runs Python code. */
static PySendResult
worker_step_alone(core_state *state, WorkerObject *self, PyObject *value,
                  PyObject *exception, PyObject **result)
{
    PySendResult status = worker_drive(state, self, value, exception, result);
    if (status != PYGEN_NEXT) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->delegate);
        Py_CLEAR(self->context);
        restore_exception(raised);
    }
    return status;
}

/* Runs Python code. */
static PySendResult
worker_step(CoroutineObject *op, PyObject *value, PyObject *exception,
            PyObject **result)
{
    WorkerObject *self = (WorkerObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (self->gathering == NULL) {
        return worker_step_alone(state, self, value, exception, result);
    }
    PyObject *raised = NULL;
    if (link_is_idle(&self->link)) {
        if (!worker_wakes(state, self, exception, result, &raised)) {
            restore_exception(raised);
            return raised == NULL ? PYGEN_RETURN : PYGEN_ERROR;
        }
        value = Py_None;
    }
    else if (op->closing) {
        return worker_step_exiting(state, self, exception, result);
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    self->in_first_step =
        self->link.run != RUN_RUNNING && gathering->tasks != TASKS_BY_LOOP;
    self->begun_by_starter |= self->link.run != RUN_RUNNING;
    if (self->in_first_step && gathering->tasks == TASKS_OWN_REUSED) {
        task_silence(state, self->link.target); /* as in later steps */
    }
    gathering_join(gathering, &self->link);

    bool began_pass = false;
    StepEnd end = STEP_SUSPENDED;
    PySendResult status;
    for (;;) {
        bool begins = self->delegate == NULL;
        status = worker_drive(state, self, value, exception, result);
        if (status == PYGEN_NEXT) {
            if (self->in_first_step && gathering->tasks == TASKS_OWN
                && self->link.target != NULL) {
                task_silence(state, self->link.target);
            }
            break;
        }
        if (self->link.slot == SLOT_HELD && self->gathering != NULL) {
            status = worker_leave_limit(state, self, status, result);
        }
        if (self->gathering == NULL) { /* its Task has ended without it */
            raised = status == PYGEN_ERROR ? fetch_exception() : NULL;
            end = STEP_ENDED;
            Py_CLEAR(self->delegate);
            Py_CLEAR(self->context);
            break;
        }
        int next = worker_deliver(state, self, *result, &raised);
        if (gathering->call_graph.awaiter == NULL) { /* it waits no more */
            call_graph_leave(&gathering->call_graph, &self->link);
        }
        if (next == 0) {
            worker_release_item(state, self);
            int collects = begins || !self->begun_by_starter
                               ? 0
                               : gathering_collects(gathering);
            if (collects < 0) {
                next = -1;
            }
            else if (collects > 0) {
                next = worker_waits(state, self, result, &raised);
                if (next > 0) {
                    status = PYGEN_NEXT;
                    break;
                }
            }
            else {
                began_pass |= gathering_enter_pass(gathering);
                next =
                    worker_goes_on(state, self, began_pass, result, &raised);
            }
        }
        if (next <= 0) {
            end = next < 0 ? STEP_INTERRUPTED : STEP_ENDED;
            status = raised == NULL ? PYGEN_RETURN : PYGEN_ERROR;
            if (next == 0 && !began_pass) {
                worker_leave_edge(state, self);
            }
            worker_finish(self);
            break;
        }
        Py_CLEAR(*result);
        value = Py_None;
        exception = NULL;
    }
    if (gathering_leave_step(gathering, end, began_pass) < 0) {
        /* The exception being raised takes the place of the item's outcome. */
        Py_CLEAR(*result);
        Py_CLEAR(raised);
        status = PYGEN_ERROR;
    }
    else {
        restore_exception(raised);
    }
    Py_DECREF(gathering);
    return status;
}

/* The Task was cancelled before its first step; or the worker is closed, and
   either the Task will find it so or it is lost with its loop.
   Runs Python code. */
static int
worker_discard(CoroutineObject *op, PyObject *exception,
               DiscardList *Py_UNUSED(rest))
{
    WorkerObject *self = (WorkerObject *)op;
    PyObject *raised = fetch_exception();
    worker_give_up_item(state_of((PyObject *)op), self);
    if (exception != NULL && worker_end_with(self, exception) < 0) {
        Py_XDECREF(raised);
        return -1;
    }
    restore_exception(raised);
    return 0;
}

/* An item that has ended cannot be cancelled, though its Task waits for the next
   one.  Its cancel() has made it end as the item did. */
static int
worker_cancelled(CoroutineObject *op, PyObject *Py_UNUSED(message))
{
    return link_is_idle(&((WorkerObject *)op)->link);
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
    .is_over = worker_is_over,
    .cancelled = worker_cancelled,
    .represented = worker_represented,
    .context = worker_context,
    .name = worker_name,
    .shown = worker_shown,
    .awaited = worker_awaited,
    .warns = false,
};

/*** Lifecycle ***/

static WorkerObject *
worker_new(core_state *state, GatheringObject *gathering)
{
    WorkerObject *self =
        (WorkerObject *)spares_alloc(&state->workers, state->worker_type);
    if (self != NULL) {
        coroutine_init(&self->base, &worker_kind);
        self->gathering = (GatheringObject *)Py_NewRef(gathering);
        if (gathering->tasks == TASKS_OWN_REUSED) {
            self->context = PyContext_Copy(gathering->context);
            if (self->context == NULL) {
                self->base.state = CORO_CLOSED;
                Py_CLEAR(self);
            }
        }
    }
    return self;
}

static int
worker_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = WorkerObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->gathering);
    Py_VISIT(self->argument);
    Py_VISIT(self->delegate);
    Py_VISIT(self->context);
    Py_VISIT(self->waiter);
    Py_VISIT(self->kept);
    return link_traverse(&self->link, visit, arg);
}

/* The finalizer has closed the item: nothing is linked any more, unless the
   gathering is part of the same cycle and unlinks it. */
static int
worker_tp_clear(PyObject *op)
{
    WorkerObject *self = WorkerObject_CAST(op);
    link_clear(&self->link);
    Py_CLEAR(self->gathering);
    Py_CLEAR(self->argument);
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->context);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->kept);
    return 0;
}

static void
worker_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, worker_tp_clear);
}

/* The type may have lost its module to the collector, which frees them both. */
static void
worker_tp_free(void *op)
{
    PyTypeObject *type = Py_TYPE(op);
    bool has_module = ((PyHeapTypeObject *)type)->ht_module != NULL;
    spares_free(has_module ? &state_of_type(type)->workers : NULL, op);
}

static PyType_Slot worker_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_free, worker_tp_free},
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
