/* What becomes of a worker and its Task when its item has ended.

   If the Task may be reused (task_reuse.h), it goes on with the next item at once,
   or is idle until the next pass: it awaits a Future of ours (task_wait.h), and
   keeps how its item ended.  The pass calls it when it has an item in hand; then
   it is asked once more whether the Task may go on.  Whoever has taken, watched or
   cancelled it meanwhile sees it end as its item did.  It does so, too, if there
   is no item for it, or if anybody else steps it. */

#ifndef GATEDCORO_WORKER_REUSE_H
#define GATEDCORO_WORKER_REUSE_H

#include "coroutines/task_reuse.h"
#include "coroutines/task_wait.h"
#include "engine/worker_item.h"

/*** May it go on? ***/

/* Does nobody hold or watch the worker, whose item has ended?  get_coro() hands it
   out for an item that is no coroutine, and whoever steps it by hand holds it.
   The list's reference is the caller's, and who starts or resumes the Task in this
   step has one. */
static inline bool
worker_is_unseen(WorkerObject *self)
{
    bool first_step = self->in_first_step;
    bool is_ours = first_step || self->is_resumed;
    return Py_REFCNT(self) == TASK_DRIVER_REFERENCES + 1 + is_ours
           && self->base.weakreflist == NULL;
}

/* May the Task, whose item has ended, go on with another one? */
static bool
worker_may_go_on(core_state *state, WorkerObject *self)
{
    return task_is_untouched(state, self->link.target, self->gathering->loop,
                             self->link.awaiter, self->in_first_step)
           && worker_is_unseen(self);
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

/*** From one item to the next ***/

/* The item in hand is the worker's, which has none.  The ring gets a reference
   to the worker, which is the caller's. */
static void
worker_take_item(WorkerObject *self)
{
    GatheringObject *gathering = self->gathering;
    assert(self->link.item == NULL);
    self->drive = gathering->source.taken.drive;
    self->argument = source_hand_over_argument(&gathering->source);
    self->link.item = gathering_run_taken(gathering, &self->link);
    limit_begin_waiting(&gathering->limit);
}

/* An item has ended: drops it before another one starts, so that destructors
   come first.  A coroutine is kept, for the Task may be asked for it; it has
   dropped what it held. */
static void
worker_release_item(core_state *state, WorkerObject *self)
{
    Py_CLEAR(self->delegate);
    PyObject *item = self->link.item;
    if (item != NULL && !PyCoro_CheckExact(item) && self->drive != DRIVE_ITSELF
        && !has_coroutine_methods(state, item)) {
        Py_CLEAR(self->link.item);
    }
}

/* What the item left goes before another one starts, which gets a context of its
   own; false without memory for that. */
static bool
worker_forget_item(WorkerObject *self)
{
    Py_CLEAR(self->link.item);
    Py_XSETREF(self->context, PyContext_Copy(self->gathering->context));
    if (self->context == NULL) {
        PyErr_Clear();
    }
    return self->context != NULL;
}

/* Nothing else runs in this step, and with it the Task ends, if it is the Task's.
   If nobody has that, or will get it, nobody sees whether it is still shown as
   awaited: it goes, and that with it (3.14+). */
static void
worker_leave_edge(core_state *state, WorkerObject *self)
{
    PyObject *task = self->link.target;
    if (self->link.awaiter != NULL && state->reuse_works && task != NULL
        && is_own_task(state, task)
        && task_is_unseen(task, self->in_first_step)
        && worker_is_unseen(self) /* else the step may not be the Task's */
        && !task_may_have_callback(state, task)) {
        Py_CLEAR(self->link.awaiter);
    }
}

/* The last item has ended, and the list's reference is ours: lets go of
   everything but the item, for which the Task may be asked.  Keeps the exception
   being raised.  Runs Python code. */
static void
worker_finish(WorkerObject *self)
{
    PyObject *raised = fetch_exception();
    GatheringObject *gathering = self->gathering;
    PyObject *task = self->link.target;
    self->gathering = NULL;
    call_graph_leave(&gathering->call_graph, &self->link);
    self->link.target = NULL;
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->waiter);
    Py_XDECREF(task);
    Py_DECREF(gathering);
    Py_DECREF(self);
    restore_exception(raised);
}

/*** At once ***/

/* An item has ended with `*result` or `*raised`, in a pass that is under way.
   Does the Task go on with the next one?  1, 0, or -1 on an interrupt.  An item
   for which there is room, but not in this Task, may have been started elsewhere.

   In the middle of the loop's own call of a step, the Task can go on only if
   exactly one item would start: were there more, they would be scheduled before
   this Task is, though they come after its item.

   Within a pass that began elsewhere, what the Task cannot take is left to that:
   it would be started in here, and so on.  So is what a source gives in a step of
   its own, in the middle of which this is.

   If nobody holds the Task, nobody will see how it ends: what the item left
   is dropped before the next one starts, so that destructors run as they
   would with a Task for each item; and they may touch the Task, too, as may what
   the collector runs while a context is made (3.11).  Runs Python code. */
static int
worker_goes_on(core_state *state, WorkerObject *self, bool began_pass,
               PyObject **result, PyObject **raised)
{
    GatheringObject *gathering = self->gathering;
    if (gathering->tasks != TASKS_OWN_REUSED
        || !ended_ordinarily(state, *raised)
        || (began_pass ? !limit_is_filled_by_one(&gathering->limit,
                                                 gathering->running.count)
                       : task_has_attributes(state, self->link.target)
                             || source_is_stepping(&gathering->source))
        || !task_ends_unseen(state, self->link.target, self->in_first_step)
        || !task_is_current(state, self->link.target, gathering->loop)) {
        return 0;
    }
    Py_CLEAR(*raised);
    Py_XSETREF(*result, Py_NewRef(Py_None));
    if (!worker_forget_item(self)) {
        return 0;
    }
    switch (gathering_start_next(state, gathering, (PyObject *)self)) {
    case START_HERE:
        return 1;
    case START_ELSEWHERE:
    case START_NONE:
        return 0;
    case START_ERROR:
        break;
    }
    return interrupt_is_raised() ? -1 : gathering_pass_failed(gathering);
}

/*** Later ***/

/* An item that had suspended has ended with `*result` or `*raised`, and what
   starts next does so later.  Does the Task wait for that?  1: it is idle, and
   `*result` is what it is to yield; 0, or -1 on an interrupt.
   Runs Python code. */
static int
worker_waits(core_state *state, WorkerObject *self, PyObject **result,
             PyObject **raised)
{
    GatheringObject *gathering = self->gathering;
    int status = gathering_starts_later(gathering);
    if (status <= 0) {
        return status;
    }
    if (gathering->tasks != TASKS_OWN_REUSED
        || !ended_ordinarily(state, *raised)
        || !task_is_unseen(self->link.target, false)
        || !worker_is_unseen(self)) {
        return 0; /* what more there is to it is asked in the pass */
    }
    if (self->waiter == NULL) {
        self->waiter = task_waiter_new(state, gathering->loop);
        if (self->waiter == NULL) {
            if (interrupt_is_raised()) {
                return -1;
            }
            PyErr_Clear(); /* it need not wait: it ends, as without reuse */
            return 0;
        }
    }
    if (!gathering_has_room(gathering)) {
        return 0; /* what has run may have closed the queue */
    }
    self->kept_raised = *raised != NULL;
    self->kept = *raised != NULL ? *raised : *result;
    *raised = NULL;
    *result = task_waiter_yield(state, self->waiter);
    idle_add(&gathering->idle, &self->link);
    return 1;
}

/* A Task that was idle has been called for the item in hand.  Does it go on with
   that?  It may have been taken, watched or touched meanwhile.
   Runs Python code. */
static bool
worker_takes_up(core_state *state, WorkerObject *self)
{
    GatheringObject *gathering = self->gathering;
    if (gathering->call_graph.awaiter == NULL) { /* it waits no more */
        call_graph_leave(&gathering->call_graph, &self->link);
    }
    if (!worker_is_unseen(self) /* else the step may not be the Task's */
        || !task_ends_unseen(state, self->link.target, false)) {
        return false;
    }
    self->kept_raised = false;
    Py_XSETREF(self->kept, Py_NewRef(Py_None));
    if (!worker_forget_item(self) || gathering->source.taken.item == NULL
        || source_is_closed(&gathering->source)
        || !worker_may_go_on(state, self)) {
        return false;
    }
    Py_CLEAR(self->kept);
    task_renew(self->link.target);
    idle_goes_on(&self->link);
    worker_take_item(self);
    return true;
}

/* To anybody but its Task, and to that before it waits, an idle worker is over, as
   its item is: a step by hand would leave the Task waiting for ever.
   Runs Python code. */
static bool
worker_is_over(CoroutineObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    if (!link_is_idle(&self->link) || self->gathering == NULL) {
        return false;
    }
    core_state *state = state_of((PyObject *)op);
    return (!self->is_resumed && !task_has_wakeup(state, self->waiter))
           || !task_is_current(state, self->link.target,
                               self->gathering->loop);
}

/* A Task that was idle makes a step.  1 if it goes on with the item in hand; else
   it ends as its item did: 0 with `*result` or `*raised`.  Runs Python code. */
static int
worker_wakes(core_state *state, WorkerObject *self, PyObject *exception,
             PyObject **result, PyObject **raised)
{
    if (link_is_on(&self->link)) {
        running_remove(&self->gathering->idle, &self->link);
    }
    else {
        Py_INCREF(self); /* as if from the ring */
    }
    self->in_first_step = false;
    if (self->link.run == RUN_CALLED && exception == NULL
        && worker_takes_up(state, self)) {
        return 1;
    }
    *(self->kept_raised ? raised : result) = self->kept;
    self->kept = NULL;
    worker_finish(self);
    return 0;
}

#endif /* GATEDCORO_WORKER_REUSE_H */
