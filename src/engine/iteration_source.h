/* What a gathering asks of an iteration (iteration.h), its source. */

#ifndef GATEDCORO_ITERATION_SOURCE_H
#define GATEDCORO_ITERATION_SOURCE_H

#include "engine/iteration_step.h"
#include "engine/watcher.h"

/*** What a gathering calls ***/

/* The done callback of a Task that is not of our making.  Its maker may have wrapped
   the iteration, and then the Task may have ended without it, or in the middle of
   it.  Runs Python code. */
static PyObject *
iteration_task_done(PyObject *op, PyObject *task)
{
    IterationObject *self = IterationObject_CAST(op);
    core_state *state = state_of(op);
    Outcome outcome;
    if (future_outcome(state, task, &outcome) < 0) {
        outcome.exception = fetch_exception();
    }
    int status = 0;
    if (self->phase != ITERATION_OVER && self->base.state == CORO_CREATED) {
        status = coroutine_discard(&self->base, outcome.exception);
    }
    else if (self->phase != ITERATION_OVER
             && self->base.state == CORO_SUSPENDED) {
        PyObject *closed = coroutine_close(&self->base);
        status = closed == NULL ? report_error(op) : 0;
        Py_XDECREF(closed);
    }
    outcome_clear(&outcome);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef iteration_task_done_def = {"task_done", iteration_task_done,
                                              METH_O, NULL};

/* Has the loop make the Task: new reference.  Runs Python code. */
static PyObject *
iteration_create_task(core_state *state, IterationObject *self,
                      PyObject *context)
{
    GatheringObject *gathering = self->gathering;
    PyObject *op = (PyObject *)self;
    PyObject *task = create_task_for(state, gathering->loop, op, context,
                                     gathering->parent);
    if (task == NULL) {
        return NULL;
    }
    PyObject *callback = PyCFunction_New(&iteration_task_done_def, op);
    if (callback == NULL
        || PyObject_SetAttr(task, state->str_log_destroy_pending, Py_False) < 0
        || call_method_for_effect(task, state->str_add_done_callback, callback)
               < 0) {
        Py_CLEAR(task);
    }
    Py_XDECREF(callback);
    return task;
}

/* Makes the Task: in its first step it gets idle, or asks for an element itself
   where it cannot be resumed at once.  Runs Python code. */
static int
iteration_begin(core_state *state, PyObject *op, PyObject *owner)
{
    IterationObject *self = IterationObject_CAST(op);
    GatheringObject *gathering = GatheringObject_CAST(owner);
    self->gathering = (GatheringObject *)Py_NewRef(owner);
    PyObject *context = PyContext_Copy(gathering->context);
    int status = context == NULL ? -1 : 0;
    if (status == 0 && gathering->tasks != TASKS_BY_LOOP) {
        PyObject *task = task_new(state, &self->base, context);
        self->task = Py_XNewRef(task);
        status =
            task == NULL ? -1 : task_start_soon(state, task, gathering->loop);
        Py_XDECREF(task);
    }
    else if (status == 0) {
        PyObject *task = iteration_create_task(state, self, context);
        Py_DECREF(context);
        status = task == NULL ? -1 : 0;
        if (task != NULL && self->phase != ITERATION_OVER) {
            Py_XSETREF(self->task, Py_NewRef(task));
        }
        Py_XDECREF(task);
    }
    if (status < 0) {
        PyObject *raised = fetch_exception();
        iteration_be_over(self);
        gathering_release_kept(gathering);
        self->base.state = CORO_CLOSED;
        Py_CLEAR(self->gathering);
        gathering_release_kept(gathering);
        restore_exception(raised);
        return -1;
    }
    return iteration_is_resumed_at_once(state, gathering);
}

/* Asks for an element as in a step of the idle Task's, without one: that is the
   current Task meanwhile, and its context the current one.  -1 with an exception:
   an interrupt of the iterable's, or why that could not be.  Runs Python code. */
static int
iteration_ask_for_task(core_state *state, IterationObject *self,
                       GatheringObject *gathering)
{
    PyObject *task = Py_NewRef(self->task);
    PyObject *context = Py_NewRef(task_fields(task)->context);
    PyObject *current = current_task_exchange(state, gathering->loop, task);
    int status = current == NULL ? -1 : PyContext_Enter(context);
    if (status == 0) {
        self->is_taken_from = self->is_asked = true;
        self->base.state = CORO_RUNNING;
        self->phase = ITERATION_AT_WORK;
        status = iteration_go_on(state, self, gathering, NULL);
        self->base.state = CORO_SUSPENDED;
        self->is_taken_from = self->is_asked = false;
        PyObject *raised = fetch_exception();
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        restore_exception(raised);
    }
    if (current != NULL) {
        PyObject *raised = fetch_exception();
        PyObject *found =
            current_task_exchange(state, gathering->loop, current);
        if (found == NULL) { /* without memory, say */
            PyErr_Clear();
            current_task_leave(state, gathering->loop, Py_NewRef(current));
        }
        Py_XDECREF(found);
        Py_DECREF(current);
        restore_exception(raised);
    }
    Py_DECREF(context);
    Py_DECREF(task);
    return status;
}

/* Has the Task, which waits as if it were idle, make its step: in the middle of
   that of another one, or else soon.  What that raises has left the loop, or is
   reported.  -1 on an interrupt.  Runs Python code. */
static int
iteration_resume(core_state *state, IterationObject *self,
                 GatheringObject *gathering, PyObject *task, PyObject *waiter)
{
    PyObject *wakeup = self->wakeup;
    self->wakeup = NULL;
    if (wakeup == NULL) {
        wakeup = task_take_wakeup(state, waiter);
    }
    int status = PyErr_Occurred() ? -1 : 0;
    if (wakeup != NULL) {
        self->is_taken_from = true;
        status = task_resume(state, task, waiter, wakeup, gathering->loop);
        self->is_taken_from = false;
        if (status < 0 && !interrupt_is_raised()) {
            PyErr_WriteUnraisable((PyObject *)self);
            status = task_resume_soon(state, task, waiter, wakeup);
        }
        Py_DECREF(wakeup);
    }
    return status < 0 ? report_error((PyObject *)self) : 0;
}

/* Asks for an element while the Task is idle.  -1 with an exception.
   Runs Python code. */
static int
iteration_call(core_state *state, IterationObject *self,
               GatheringObject *gathering)
{
    PyObject *waiter = Py_NewRef(self->waiter);
    if (!iteration_is_resumed_at_once(state, gathering)) {
        int woken = waiter_wake(waiter);
        Py_DECREF(waiter);
        source_task_waits(&gathering->source);
        return woken;
    }
    if (future_is_done(state, waiter)) { /* the loop has its next step */
        source_task_waits(&gathering->source);
        Py_DECREF(waiter);
        return 0;
    }
    PyObject *task = Py_NewRef(self->task);
    int status = iteration_ask_for_task(state, self, gathering);
    PyObject *raised = fetch_exception();
    if (self->phase == ITERATION_AT_WORK && self->yielded == NULL
        && self->pending == NULL) {
        self->phase = ITERATION_IDLE; /* it has an element, or is closed */
        PyObject *wakeup = self->wakeup;
        self->wakeup = NULL;
        if ((wakeup != NULL || source_is_closed(&gathering->source))
            && task_resume_soon(state, task, waiter, wakeup) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(wakeup);
    }
    else if (self->phase != ITERATION_IDLE
             && iteration_resume(state, self, gathering, task, waiter) < 0) {
        Py_XSETREF(raised, fetch_exception());
        status = -1;
    }
    restore_exception(raised);
    Py_DECREF(task);
    Py_DECREF(waiter);
    return status;
}

/* Runs Python code. */
static TakeAnswer
iteration_take(core_state *state, PyObject *op, PyObject **element)
{
    IterationObject *self = IterationObject_CAST(op);
    GatheringObject *gathering = self->gathering;
    if (self->element == NULL && gathering != NULL) {
        int status = 0;
        Py_INCREF(gathering);
        if (self->phase == ITERATION_IDLE) {
            status = iteration_call(state, self, gathering);
        }
        else if (self->phase == ITERATION_AT_WORK && self->yielded == NULL
                 && self->base.state == CORO_RUNNING && !self->is_taken_from
                 && task_is_current(state, self->task, gathering->loop)) {
            status = iteration_go_on(state, self, gathering, NULL);
            if (status == 0 && self->element != NULL
                && iteration_is_resumed_at_once(state, gathering)) {
                /* Items that go on in the same Task cannot ask from here. */
                status = gathering_schedule_pump(gathering);
                Py_DECREF(gathering);
                return status < 0 ? TAKE_ERROR : TAKE_LATER;
            }
        }
        Py_DECREF(gathering);
        if (status < 0) {
            return TAKE_ERROR;
        }
    }
    if (self->failure != NULL) {
        PyObject *failure = self->failure;
        self->failure = NULL;
        raise_exception(failure);
        return TAKE_ERROR;
    }
    *element = self->element;
    self->element = NULL;
    if (*element != NULL) {
        return TAKE_ITEM;
    }
    return self->phase == ITERATION_OVER ? TAKE_NONE : TAKE_LATER;
}

static bool
iteration_is_stepping(PyObject *op)
{
    return IterationObject_CAST(op)->base.state == CORO_RUNNING;
}

/* Cancels what the iterable has been asked for, and closes it.
   Runs Python code. */
static int
iteration_close(core_state *state, PyObject *op)
{
    IterationObject *self = IterationObject_CAST(op);
    PyObject *element = self->element;
    self->element = NULL;
    int status = 0;
    if (self->phase == ITERATION_IDLE) {
        PyObject *waiter = Py_NewRef(self->waiter);
        PyObject *task = Py_NewRef(self->task);
        status = iteration_is_resumed_at_once(state, self->gathering)
                     ? task_resume_soon(state, task, waiter, NULL)
                     : waiter_wake(waiter);
        Py_DECREF(task);
        Py_DECREF(waiter);
    }
    else if (self->phase == ITERATION_AT_WORK
             && self->base.state != CORO_RUNNING) {
        self->phase = ITERATION_CLOSING;
        PyObject *task = Py_NewRef(self->task);
        status = call_method_for_effect(task, state->str_cancel, NULL);
        Py_DECREF(task);
    }
    iteration_drop(self, element);
    return status;
}

/* Runs Python code. */
static int
iteration_cancel(core_state *state, PyObject *op, PyObject *message)
{
    IterationObject *self = IterationObject_CAST(op);
    if (self->task == NULL || self->base.state == CORO_RUNNING) {
        return 0;
    }
    PyObject *task = Py_NewRef(self->task);
    int status = call_method_for_effect(task, state->str_cancel, message);
    Py_DECREF(task);
    return status;
}

/* Closes what the iterable was asked for, as when the coroutine of a Task goes.
   Keeps the exception being raised.  Runs Python code. */
static void
iteration_strand(core_state *state, PyObject *op)
{
    IterationObject *self = IterationObject_CAST(op);
    PyObject *pending = Py_XNewRef(self->pending);
    iteration_be_over(self);
    if (pending == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *closed = NULL;
    if (self->base.state != CORO_RUNNING
        && call_method_if_any(pending, state->str_close, NULL, &closed) != 0
        && closed == NULL) {
        PyErr_WriteUnraisable(op);
    }
    Py_XDECREF(closed);
    Py_DECREF(pending);
    restore_exception(raised);
}

/* Called by a gathering whose source this is (source.h). */
static const SourceTask iteration_source = {
    .begin = iteration_begin,
    .take = iteration_take,
    .is_stepping = iteration_is_stepping,
    .close = iteration_close,
    .cancel = iteration_cancel,
    .strand = iteration_strand,
};

/*** Lifecycle ***/

/* `iterable` is stolen, also on failure. */
static PyObject *
iteration_new(core_state *state, PyObject *iterable)
{
    PyTypeObject *type = state->iteration_type;
    IterationObject *self = (IterationObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(iterable);
        return NULL;
    }
    coroutine_init(&self->base, &iteration_kind);
    self->iterable = iterable;
    return (PyObject *)self;
}

static int
iteration_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    IterationObject *self = IterationObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->gathering);
    Py_VISIT(self->iterable);
    Py_VISIT(self->iterator);
    Py_VISIT(self->pending);
    Py_VISIT(self->yielded);
    Py_VISIT(self->element);
    Py_VISIT(self->failure);
    Py_VISIT(self->waiter);
    Py_VISIT(self->wakeup);
    Py_VISIT(self->cancellation);
    Py_VISIT(self->task);
    return 0;
}

static int
iteration_tp_clear(PyObject *op)
{
    IterationObject *self = IterationObject_CAST(op);
    Py_CLEAR(self->gathering);
    Py_CLEAR(self->iterable);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->yielded);
    Py_CLEAR(self->element);
    Py_CLEAR(self->failure);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->wakeup);
    Py_CLEAR(self->cancellation);
    Py_CLEAR(self->task);
    return 0;
}

static void
iteration_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, iteration_tp_clear);
}

static PyType_Slot iteration_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, iteration_tp_dealloc},
    {Py_tp_traverse, iteration_tp_traverse},
    {Py_tp_clear, iteration_tp_clear},
    {0, NULL},
};

static PyType_Spec iteration_spec = {
    .name = "gatedcoro._core._Iteration",
    .basicsize = sizeof(IterationObject),
    .flags = COROUTINE_FLAGS,
    .slots = iteration_slots,
};

#endif /* GATEDCORO_ITERATION_SOURCE_H */
