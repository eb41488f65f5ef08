/* Runner: how an item gets a Task.

   Either the worker whose item has just ended goes on with it, or it has a worker
   and a Task of its own: one of our type, or, where the loop makes its Tasks in
   a way of its own, one that the loop makes.

   A worker belongs to its gathering before its Task exists, so that whatever
   happens in an eager first step finds it there. */

#ifndef GATEDCORO_RUNNER_H
#define GATEDCORO_RUNNER_H

#include "coroutines/current.h"
#include "engine/watcher.h"
#include "engine/worker.h"

/*** A Task that the loop makes ***/

/* The done callback of a Task that is not of our type.  Its maker may have
   wrapped the worker, and then the Task may have ended without it: cancelled
   before the first step, say.  What the Task came to is then the item's outcome,
   be it that it cannot say.  A worker that had begun is left to whoever drives
   it, and reports nothing any more.  Runs Python code. */
static PyObject *
worker_task_done(PyObject *op, PyObject *task)
{
    WorkerObject *self = WorkerObject_CAST(op);
    core_state *state = state_of(op);
    Outcome outcome;
    if (self->gathering == NULL || !link_is_running(&self->link)) {
        /* It has ended, or is ending: marks the exception as retrieved. */
        if (future_outcome(state, task, &outcome) < 0) {
            return NULL;
        }
        outcome_clear(&outcome);
        Py_RETURN_NONE;
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    Py_INCREF(self);
    if (self->base.state == CORO_CREATED) {
        (void)coroutine_discard(&self->base, NULL);
    }
    else if (self->delegate != NULL
             && Py_TYPE(self->delegate) == state->gated_type) {
        (void)gated_tell_owner(gated_innermost(self->delegate), false);
    }
    gathering_outcome_of(gathering, task, &outcome);
    int status = 0;
    if (link_is_running(&self->link)) { /* else it came to an end meanwhile */
        Py_CLEAR(self->gathering); /* who drives the worker does so alone */
        call_graph_leave(&gathering->call_graph, &self->link);
        outcome.task = task;
        outcome.task_is_done = true;
        status = gathering_deliver(state, gathering, &self->link, &outcome);
        PyObject *before = fetch_exception();
        Py_CLEAR(self->link.target);
        if (self->base.state == CORO_CLOSED) {
            Py_CLEAR(self->delegate);
            Py_CLEAR(self->context);
        }
        Py_DECREF(self); /* the ring's */
        restore_exception(before);
    }
    status = gathering_go_on(gathering, status);
    outcome_clear(&outcome);
    Py_DECREF(self);
    Py_DECREF(gathering);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef worker_task_done_def = {"task_done", worker_task_done,
                                           METH_O, NULL};

/* The same of a Task that is handed out: an exception of its own is for who gets
   it.  Runs Python code. */
static PyObject *
worker_handed_out_done(PyObject *op, PyObject *task)
{
    WorkerObject *self = WorkerObject_CAST(op);
    if (self->task_is_kept) {
        Py_RETURN_NONE;
    }
    return worker_task_done(op, task);
}

static PyMethodDef worker_handed_out_done_def = {
    "task_done", worker_handed_out_done, METH_O, NULL};

/* Has the loop make the Task, as any create_task() of the caller's would: new
   reference.  Runs Python code. */
static PyObject *
worker_create_task(core_state *state, WorkerObject *self, PyObject *context)
{
    GatheringObject *gathering = self->gathering;
    bool is_handed_out = gathering->source.item_kind == ITEM_HANDED_OUT;
    PyObject *task = create_task_for(state, gathering->loop, (PyObject *)self,
                                     context, gathering->parent);
    if (task == NULL) {
        return NULL;
    }
    PyObject *callback = PyCFunction_New(
        is_handed_out ? &worker_handed_out_done_def : &worker_task_done_def,
        (PyObject *)self);
    if (callback == NULL
        || PyObject_SetAttr(task, state->str_log_destroy_pending, Py_False) < 0
        || call_method_for_effect(task, state->str_add_done_callback, callback)
               < 0) {
        Py_CLEAR(task); /* it is no Task to asyncio.gather either */
    }
    Py_XDECREF(callback);
    return task;
}

/*** Starting ***/

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
   raised is the item's outcome, unless it has one.  -1 on an interrupt.
   Runs Python code. */
static int
worker_not_started(WorkerObject *self)
{
    PyObject *raised = error_of_start();
    PyObject *failure = NULL;
    self->has_no_task = true;
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

/* The Task has been made: it can be cancelled now.  -1 on an interrupt.
   Runs Python code. */
static int
worker_is_started(WorkerObject *self, PyObject *task)
{
    GatheringObject *gathering = self->gathering;
    bool has_started = link_has_started(&self->link);
    gathering_join(gathering, &self->link);
    if (self->base.state == CORO_CLOSED) {
        /* Whoever made the Task closed it, and may have made none. */
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot reuse already awaited coroutine");
        return worker_not_started(self);
    }
    if (has_started) {
        return 0;
    }
    link_take_pending_cancel(&self->link);
    PyObject *message = Py_XNewRef(gathering->cancel_message);
    int status = call_method_for_effect(
        task, state_of((PyObject *)self)->str_cancel, message);
    Py_XDECREF(message);
    return status < 0 ? report_error(task) : 0;
}

/* Makes a Task for the worker, which belongs to its gathering, and a new
   reference to it in `*task` (NULL if there is none); `context` is its own
   (stolen).  -1 on an interrupt.  Runs Python code. */
static int
worker_make_task(core_state *state, WorkerObject *self, PyObject *context,
                 PyObject **task)
{
    GatheringObject *gathering = self->gathering;
    int status = -1;
    link_is_starting(&self->link);
    if (gathering->tasks != TASKS_BY_LOOP) {
        *task = task_new(state, &self->base, context);
        if (*task != NULL) {
            self->link.target = Py_NewRef(*task);
            status = task_start(state, *task, gathering->loop,
                                &gathering->task_kwargs);
        }
    }
    else {
        *task = worker_create_task(state, self, context);
        Py_DECREF(context);
        if (*task != NULL) {
            status = 0;
            if (self->gathering != NULL) {
                Py_XSETREF(self->link.target, Py_NewRef(*task));
            }
        }
    }
    if (status < 0) {
        return worker_not_started(self);
    }
    if (self->gathering == NULL) {
        return 0; /* the item has ended */
    }
    return worker_is_started(self, *task);
}

/* Starts the item in hand in a Task of its own, unless the queue has been closed
   in the meantime.  -1 on an interrupt.  Runs Python code. */
static int
worker_start_new(core_state *state, GatheringObject *gathering)
{
    PyObject *context = PyContext_Copy(gathering->context);
    WorkerObject *self = context == NULL ? NULL : worker_new(state, gathering);
    if (self == NULL || source_is_closed(&gathering->source)) {
        int status = self == NULL ? gathering_fail_call(gathering) : 0;
        source_drop_taken(state, &gathering->source);
        if (self != NULL) {
            self->base.state = CORO_CLOSED;
            Py_DECREF(self);
        }
        Py_XDECREF(context);
        return status;
    }
    self->link.owner = Py_NewRef(self);
    worker_take_item(self);
    PyObject *task;
    int status = worker_make_task(state, self, context, &task);
    Py_XDECREF(task);
    Py_DECREF(self);
    return status;
}

/*** Idle Tasks ***/

/* Has the Task of an idle worker make a step.  If that cannot be, the worker is
   off the ring all the same, and the step, in which it ends, comes later.  -1 if
   the step failed, with an exception.  Runs Python code. */
static int
worker_step_now(core_state *state, WorkerObject *self)
{
    PyObject *waiter = Py_NewRef(self->waiter);
    GatheringObject *gathering = self->gathering;
    PyObject *wakeup = task_take_wakeup(state, waiter);
    int status = PyErr_Occurred() ? -1 : 0;
    if (wakeup != NULL) {
        self->is_resumed = true;
        status = task_resume(state, self->link.target, waiter, wakeup,
                             gathering->loop);
        self->is_resumed = false;
    }
    if (self->gathering == gathering && link_is_idle(&self->link)) {
        /* Where the loop does not run, say. */
        PyObject *failure = NULL;
        if (status < 0 && forget_ordinary_error() < 0) {
            collect_exception(&failure);
        }
        self->link.run = RUN_IDLE; /* it is not called any more */
        if (link_is_on(&self->link)) {
            running_remove(&gathering->idle, &self->link);
            Py_DECREF(self);
        }
        if (task_resume_soon(state, self->link.target, waiter, wakeup) < 0) {
            collect_exception(&failure);
        }
        status = raise_collected(failure);
    }
    Py_XDECREF(wakeup);
    Py_DECREF(waiter);
    return status;
}

/* There is no item for it: the Task ends.  Runs Python code. */
static void
worker_release(core_state *state, PyObject *idle)
{
    WorkerObject *self = WorkerObject_CAST(idle);
    self->link.run = RUN_IDLE; /* even if it had been called */
    if (worker_step_now(state, self) < 0) {
        PyErr_WriteUnraisable(idle);
    }
}

/* Has the Task that is idle for longest make the step in which it goes on with
   the item in hand, or else ends as its own did.  -1 on an interrupt.
   Runs Python code. */
static int
worker_call(core_state *state, GatheringObject *gathering)
{
    RunningLink *link = idle_first(&gathering->idle);
    WorkerObject *self = WorkerObject_CAST(Py_NewRef(link->owner));
    link->run = RUN_CALLED;
    int status = worker_step_now(state, self);
    if (status < 0) {
        status = link_is_idle(&self->link) ? report_error((PyObject *)self)
                                           : worker_not_started(self);
    }
    Py_DECREF(self);
    return status;
}

/*** Futures that are handed out ***/

/* The Future in hand is watched, unless the queue has been closed in the meantime.
   -1 on an interrupt.  Runs Python code. */
static int
watcher_start(core_state *state, GatheringObject *gathering)
{
    PyObject *future = Py_NewRef(gathering->source.taken.item);
    PyObject *callback = watcher_new(state, gathering);
    int status = 0;
    if (callback == NULL) {
        source_drop_taken(state, &gathering->source);
        status = gathering_fail_call(gathering);
    }
    else if (source_is_closed(&gathering->source)) {
        watcher_let_go(callback);
    }
    else if (call_method_for_effect(future, state->str_add_done_callback,
                                    callback)
             < 0) {
        watcher_let_go(callback);
        status = gathering_fail_call(gathering);
    }
    Py_XDECREF(callback);
    Py_DECREF(future);
    return status;
}

/* Does what is in hand need no Task, but to hold a gate? */
static inline bool
taken_is_watched(const GatheringObject *gathering)
{
    return gathering->source.taken.drive == DRIVE_BY_WAITING
           && gathering->limit.gates == NULL;
}

/*** Any item ***/

/* The item in hand is run by the worker whose item has just ended, if there is
   one and its Task may go on; or by one that is idle; or else in a Task of its
   own.  Runs Python code. */
static StartAnswer
worker_start(core_state *state, GatheringObject *gathering, PyObject *current)
{
    if (current != NULL
        && worker_may_go_on(state, WorkerObject_CAST(current))) {
        task_renew(WorkerObject_CAST(current)->link.target);
        worker_take_item(WorkerObject_CAST(current));
        return START_HERE;
    }
    if (taken_is_watched(gathering)) {
        return watcher_start(state, gathering) < 0 ? START_ERROR
                                                   : START_ELSEWHERE;
    }
    PyObject *failure = NULL;
    while (gathering->idle.count > 0 && gathering->source.taken.item != NULL) {
        if (worker_call(state, gathering) < 0) {
            collect_exception(&failure);
        }
    }
    if (gathering->source.taken.item != NULL
        && worker_start_new(state, gathering) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? START_ERROR : START_ELSEWHERE;
}

/* Called by the engine's loop (pass.h), for each item. */
static const Runner worker_runner = {
    .start = worker_start,
    .release = worker_release,
};

#endif /* GATEDCORO_RUNNER_H */
