/* Gathering: one call; its items, its limit, what runs, its results.

   Where items come from: the list of awaitables that the caller handed over,
   or an iterator of callables (`source`).  Where outcomes go: the same list.
   A slot of the list holds an item that is queued, then, while the item runs,
   nothing (None for a callable), then its result.  So a gathering needs no
   memory per item beyond what the caller passed and what it returns.  While
   slots may be empty the list is hidden from the garbage collector, and the
   gathering visits its contents.

      queue    OPEN ---> CLOSING ---> EMPTY      items start while it is OPEN
                 |                      ^        only; closing a long queue
                 +----------------------+        takes several turns

      outer    pending ---> settled, once: with all results, with the first
               error, or cancelled.  After an error the queue goes on.

   pump() starts items while there is room.  It never recurses: an item that
   ends inside another's start finds `pumping` set and leaves the next start
   to the pass that is under way (or takes the next item in the same Task,
   worker.h).  A pass ends after about a millisecond if there is a limit, so
   that items which never suspend do not starve the loop; the other passes of
   that turn then start one item each.

   A coroutine of ours is not suspended on a pending outer future, and the
   queue is not empty?  Then a keeper Task stands for the queue (keeper.h), so
   that asyncio.run() can close it.

   Python code runs wherever an item starts or is closed, the clock or an
   iterator is asked, or the loop is called; it may cancel or close anything.
   State is therefore changed before each such call, and looked at again after
   it. */

#ifndef GATEDCORO_GATHERING_H
#define GATEDCORO_GATHERING_H

#include "outer.h"
#include "task.h"

#define NO_LIMIT PY_SSIZE_T_MAX

/* How long items may start, or be closed, before the loop gets a turn. */
#define SLICE_SECONDS 0.001

/* The clock costs as much as starting an item that does nothing.  So it is
   read for one start in eight, as long as starts take less than this. */
#define QUICK_START_SECONDS      0.00002
#define QUICK_STARTS_PER_READING 8

typedef enum {
    QUEUE_OPEN,
    QUEUE_CLOSING,
    QUEUE_EMPTY,
} QueueState;

/* Something that runs for a gathering: a link in the list of those. */
typedef struct RunningLink {
    struct RunningLink *previous;
    struct RunningLink *next;
    PyObject *owner;  /* the Worker or Watcher; owned by the list */
    PyObject *target; /* the Task or Future to cancel; owned, may be NULL */
    Py_ssize_t index;
    bool starting;       /* its Task is being made */
    bool cancel_pending; /* it was cancelled before it had a Task */
} RunningLink;

struct GatheringObject {
    PyObject_HEAD
    PyObject *loop;
    PyObject *context;            /* of the caller; never entered itself */
    PyObject *awaiter;            /* the Task that called; 3.14+, else NULL */
    PyObject *add_awaited_by;     /* functions of asyncio.futures, */
    PyObject *discard_awaited_by; /* if there is an awaiter */
    PyObject *task_kwargs;        /* with which Tasks are made, or NULL */

    /* The queue. */
    QueueState queue;
    PyObject *list;   /* items, then results */
    Py_ssize_t next;  /* the next item's index */
    PyObject *source; /* list, tuple or iterator of callables, or NULL */
    PyObject *source_context; /* in which its Python code runs */
    PyObject *positions;      /* where the results go, if any is repeated */

    /* The limit. */
    Py_ssize_t limit;
    PyObject *gate;     /* an async context manager, or NULL */
    Py_ssize_t waiting; /* items that started but wait for the gate */

    /* What runs, in the order of start. */
    RunningLink running;
    Py_ssize_t running_count;

    /* The outcome. */
    PyObject *outer; /* NULL once settled */
    PyObject *error; /* with cancel_on_error: the first one */
    PyObject *cancel_message;
    PyObject *keeper;        /* Task, or NULL */
    PyObject *keeper_wakeup; /* Future that it waits on, or NULL */
    double pass_start;
    double pass_read;  /* when the clock was read last */
    int starts_unread; /* so many may go by without reading it */

    /* What was asked for. */
    bool return_exceptions;
    bool cancel_on_error;
    bool calls;            /* items are callables */
    bool plain_generators; /* are coroutines, as for asyncio.gather <= 3.11 */
    bool own_tasks;        /* of our type; else from loop.create_task() */
    bool reuse_tasks;

    /* Where things stand. */
    bool cancel_requested;
    bool abandoned; /* nobody waits for the outer future */
    bool item_lost; /* an item's worker was closed: it has no outcome */
    bool pumping;
    bool pass_started; /* has started an item */
    bool pass_timed;
    bool pass_over; /* its slice is used up */
    bool pump_scheduled;
};

static inline GatheringObject *
GatheringObject_CAST(PyObject *op)
{
    return (GatheringObject *)op;
}

/* In worker.h and keeper.h. */
static int worker_start(core_state *state, GatheringObject *gathering,
                        PyObject *item, Py_ssize_t index);
static void worker_leave_future(GatheringObject *gathering, PyObject *worker,
                                PyObject *task);
static int keeper_start(core_state *state, GatheringObject *gathering);

static int gathering_settle(GatheringObject *self, PyObject *value,
                            PyObject *exception);
static int gathering_settle_if_complete(GatheringObject *self);
static int gathering_keep_queue(GatheringObject *self);
static PyObject *gathering_pump_callback(PyObject *op, PyObject *ignored);
static PyObject *gathering_close_callback(PyObject *op, PyObject *ignored);

static PyMethodDef gathering_pump_def = {"pump", gathering_pump_callback,
                                         METH_NOARGS, NULL};
static PyMethodDef gathering_close_def = {
    "close_queue", gathering_close_callback, METH_NOARGS, NULL};

/*** Errors of our own work ***/

/* An error that belongs to no item: from the loop, or from memory.  An
   interrupt keeps being raised (-1); anything else is reported. */
static int
report_error(PyObject *where)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(PyExc_SystemExit)) {
        return -1;
    }
    PyErr_WriteUnraisable(where);
    return 0;
}

/*** The clock ***/

static int
now_seconds(core_state *state, double *seconds)
{
    if (state->clock == NULL) {
        *seconds = (double)monotonic_ns() * 1e-9;
        return 0;
    }
    PyObject *clock = Py_NewRef(state->clock);
    PyObject *value = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    if (value == NULL) {
        return -1;
    }
    *seconds = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/*** Calling back ***/

static int
gathering_call_soon(GatheringObject *self, PyMethodDef *def)
{
    int status = -1;
    PyObject *callback = PyCFunction_New(def, (PyObject *)self);
    PyObject *context = PyContext_Copy(self->context);
    if (callback != NULL && context != NULL) {
        status = call_soon(state_of((PyObject *)self), self->loop, callback,
                           context);
    }
    Py_XDECREF(callback);
    Py_XDECREF(context);
    return status;
}

/* Has a pass in the next turn of the loop. */
static int
gathering_schedule_pump(GatheringObject *self)
{
    if (self->pump_scheduled || self->queue != QUEUE_OPEN) {
        return 0;
    }
    self->pump_scheduled = true;
    if (gathering_call_soon(self, &gathering_pump_def) < 0) {
        self->pump_scheduled = false;
        return -1;
    }
    return 0;
}

/*** What runs ***/

/* Takes over the caller's reference to `link->owner`. */
static void
gathering_link(GatheringObject *self, RunningLink *link, Py_ssize_t index)
{
    link->index = index;
    link->previous = self->running.previous;
    link->next = &self->running;
    link->previous->next = link;
    link->next->previous = link;
    self->running_count++;
}

/* Gives the list's reference to `link->owner` to the caller. */
static void
gathering_unlink(GatheringObject *self, RunningLink *link)
{
    assert(link->next != NULL);
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = NULL;
    self->running_count--;
}

/* Cancels everything that runs.  1 if anything could be, 0, or -1. */
static int
gathering_cancel_running(GatheringObject *self, PyObject *message)
{
    core_state *state = state_of((PyObject *)self);
    int cancelled = 0;
    /* cancel() runs Python code, which may change the list. */
    PyObject *targets = PyList_New(0);
    if (targets == NULL) {
        return -1;
    }
    for (RunningLink *link = self->running.next; link != &self->running;
         link = link->next) {
        bool has_begun =
            !link->starting
            || (Py_TYPE(link->owner) == state->worker_type
                && CoroutineObject_CAST(link->owner)->state != CORO_CREATED);
        if (link->target == NULL || !has_begun) {
            link->cancel_pending = true;
            cancelled = 1;
        }
        else if (PyList_Append(targets, link->target) < 0) {
            Py_DECREF(targets);
            return -1;
        }
    }
    Py_ssize_t size = PyList_GET_SIZE(targets);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *args[] = {PyList_GET_ITEM(targets, i), message};
        PyObject *answer = PyObject_VectorcallMethod(
            state->str_cancel, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
            state->msg_kwname);
        int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (truth < 0) {
            Py_DECREF(targets);
            return -1;
        }
        cancelled |= truth;
    }
    Py_DECREF(targets);
    return cancelled;
}

/*** Awaited-by edges (3.14+) ***/

/* Adds or discards the edge "`awaiter` awaits `target`" in the call graph;
   `function` is one of asyncio.futures.  Keeps the exception being raised. */
static void
change_edge(PyObject *function, PyObject *target, PyObject *awaiter)
{
    if (awaiter == NULL || target == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *args[] = {target, awaiter};
    PyObject *ignored = PyObject_Vectorcall(function, args, 2, NULL);
    if (ignored == NULL) {
        PyErr_WriteUnraisable(target);
    }
    Py_XDECREF(ignored);
    if (raised != NULL) {
        raise_exception(raised);
    }
}

static void
gathering_add_edge(GatheringObject *self, PyObject *target)
{
    change_edge(self->add_awaited_by, target, self->awaiter);
}

static void
gathering_discard_edge(GatheringObject *self, PyObject *target)
{
    change_edge(self->discard_awaited_by, target, self->awaiter);
}

/* The call is over: nobody awaits what still runs. */
static void
gathering_discard_edges(GatheringObject *self)
{
    if (self->awaiter == NULL) {
        return;
    }
    /* Python code may run, which may change the list. */
    core_state *state = state_of((PyObject *)self);
    PyObject *running = PyList_New(0); /* owner, target, owner, ... */
    for (RunningLink *link = self->running.next;
         running != NULL && link != &self->running; link = link->next) {
        if (link->target != NULL
            && (PyList_Append(running, link->owner) < 0
                || PyList_Append(running, link->target) < 0)) {
            Py_CLEAR(running);
        }
    }
    if (running == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    Py_ssize_t size = PyList_GET_SIZE(running);
    for (Py_ssize_t i = 0; i < size; i += 2) {
        PyObject *owner = PyList_GET_ITEM(running, i);
        PyObject *target = PyList_GET_ITEM(running, i + 1);
        gathering_discard_edge(self, target);
        if (Py_TYPE(owner) == state->worker_type) {
            worker_leave_future(self, owner, target);
        }
    }
    Py_DECREF(running);
}

/*** The queue ***/

/* Nothing is queued any more: the keeper may go. */
static int
gathering_queue_is_empty(GatheringObject *self)
{
    self->queue = QUEUE_EMPTY;
    Py_CLEAR(self->source_context);
    PyObject *wakeup = self->keeper_wakeup;
    self->keeper_wakeup = NULL;
    if (wakeup == NULL) {
        return 0;
    }
    core_state *state = state_of((PyObject *)self);
    int status = -1;
    PyObject *done = PyObject_CallMethodNoArgs(wakeup, state->str_done);
    if (done != NULL) {
        status = done == Py_True ? 0
                                 : call_method_for_effect(
                                     wakeup, state->str_set_result, Py_None);
        Py_DECREF(done);
    }
    Py_DECREF(wakeup);
    return status;
}

/* Takes the item at `next` out of the list: new reference. */
static PyObject *
gathering_pop_item(GatheringObject *self)
{
    PyObject *item = PyList_GET_ITEM(self->list, self->next);
    PyList_SET_ITEM(self->list, self->next, NULL);
    self->next++;
    return item;
}

/* Whatever is queued never starts: closes it all. */
static void
gathering_close_rest(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    if (self->queue == QUEUE_EMPTY) {
        return;
    }
    self->queue = QUEUE_CLOSING;
    Py_CLEAR(self->source);
    while (self->list != NULL && self->next < PyList_GET_SIZE(self->list)) {
        PyObject *item = gathering_pop_item(self);
        close_unstarted(state, item);
        Py_DECREF(item);
    }
    self->queue = QUEUE_EMPTY;
}

/* Closes queued items until a slice is used up; the rest has its turn soon, or
   now if the clock or the loop fails.  -1 on an interrupt, or if the keeper
   could not be told. */
static int
gathering_close_some(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    double start, now;
    assert(self->queue == QUEUE_CLOSING);
    int status = now_seconds(state, &start);
    while (status == 0 && self->next < PyList_GET_SIZE(self->list)) {
        PyObject *item = gathering_pop_item(self);
        close_unstarted(state, item);
        Py_DECREF(item);
        status = now_seconds(state, &now);
        if (status == 0 && now - start >= SLICE_SECONDS
            && self->next < PyList_GET_SIZE(self->list)) {
            status = gathering_call_soon(self, &gathering_close_def);
            if (status == 0) {
                return 0;
            }
        }
    }
    if (status == 0) {
        return gathering_queue_is_empty(self);
    }
    status = report_error((PyObject *)self);
    PyObject *raised = fetch_exception();
    gathering_close_rest(self);
    if (gathering_queue_is_empty(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (raised != NULL) {
        raise_exception(raised);
    }
    return status;
}

/* OPEN -> CLOSING or EMPTY: nothing starts from here on. */
static int
gathering_close_queue(GatheringObject *self)
{
    if (self->queue != QUEUE_OPEN) {
        return 0;
    }
    self->queue = QUEUE_CLOSING;
    if (self->source != NULL) {
        int status = gathering_queue_is_empty(self);
        Py_CLEAR(self->source); /* may be a generator, which closes now */
        return status;
    }
    return gathering_close_some(self);
}

static PyObject *
gathering_close_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    if (self->queue == QUEUE_CLOSING
        && (gathering_close_some(self) < 0
            || gathering_settle_if_complete(self) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The iterator of callables failed: an error of the call, whatever
   return_exceptions says.  The exception being raised is taken. */
static int
gathering_source_failed(GatheringObject *self)
{
    make_raisable();
    PyObject *exception = fetch_exception();
    int status = gathering_close_queue(self);
    if (status == 0 && self->outer != NULL && self->error == NULL) {
        if (self->cancel_on_error) {
            self->error = Py_NewRef(exception);
            status = gathering_cancel_running(self, Py_None) < 0 ? -1 : 0;
        }
        else {
            status = gathering_settle(self, NULL, exception);
        }
    }
    if (status == 0 && is_interrupt(exception)) {
        raise_exception(exception);
        return -1;
    }
    Py_DECREF(exception);
    return status;
}

/* A list or tuple of callables is indexed, which runs no Python code. */
static inline bool
source_is_indexed(PyObject *source)
{
    return PyList_CheckExact(source) || PyTuple_CheckExact(source);
}

/* next(source) in the context that is kept for it: new reference; NULL at the
   end, or with an exception. */
static PyObject *
gathering_advance_source(GatheringObject *self)
{
    PyObject *source = self->source;
    bool indexed = source_is_indexed(source);
    Py_ssize_t index = PyList_GET_SIZE(self->list);
    if (indexed && index < PySequence_Fast_GET_SIZE(source)) {
        return Py_NewRef(PySequence_Fast_GET_ITEM(source, index));
    }
    PyObject *context = Py_NewRef(self->source_context);
    PyObject *item = NULL;
    if (PyContext_Enter(context) == 0) {
        Py_INCREF(source);
        if (!indexed) {
            item = PyIter_Next(source);
        }
        PyObject *raised = item == NULL ? fetch_exception() : NULL;
        if (item == NULL && self->source == source) {
            /* At its end it goes, and callables with it: destructors run. */
            Py_SETREF(self->source, Py_NewRef(Py_None));
        }
        Py_DECREF(source);
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(item);
            Py_XDECREF(raised);
        }
        else if (raised != NULL) {
            raise_exception(raised);
        }
    }
    Py_DECREF(context);
    return item;
}

/* Takes the next item: 1 with new reference and index; 0 if there is none
   after all; -1 on an interrupt.  The caller looks whether the queue is OPEN
   first; the iterator may have closed it in the meantime. */
static int
gathering_take(GatheringObject *self, PyObject **item, Py_ssize_t *index)
{
    assert(self->queue == QUEUE_OPEN && self->pumping);
    if (self->source == NULL) {
        *index = self->next;
        *item = gathering_pop_item(self);
        if (self->next == PyList_GET_SIZE(self->list)
            && gathering_queue_is_empty(self) < 0
            && report_error((PyObject *)self) < 0) {
            /* It has its turn when the loop runs again. */
            self->next--;
            PyList_SET_ITEM(self->list, self->next, *item);
            *item = NULL;
            self->queue = QUEUE_OPEN;
            return -1;
        }
        return 1;
    }
    *index = PyList_GET_SIZE(self->list);
    *item = gathering_advance_source(self);
    if (*item == NULL) {
        if (PyErr_Occurred()) {
            return gathering_source_failed(self);
        }
        return gathering_close_queue(self);
    }
    if (self->queue != QUEUE_OPEN) {
        Py_CLEAR(*item);
        return 0;
    }
    if (PyList_Append(self->list, Py_None) < 0) {
        Py_CLEAR(*item);
        return gathering_source_failed(self);
    }
    return 1;
}

/*** The pump ***/

static bool
gathering_has_room(GatheringObject *self)
{
    return self->queue == QUEUE_OPEN
           && (self->gate != NULL ? self->waiting == 0
                                  : self->running_count < self->limit);
}

/* May another item start now?  1, 0, or -1 on error.  When the slice is used
   up, the next pass is scheduled. */
static int
gathering_admits(GatheringObject *self)
{
    assert(self->pumping);
    if (self->pass_over || !gathering_has_room(self)) {
        return 0;
    }
    if (self->limit == NO_LIMIT && self->gate == NULL) {
        return 1; /* all first steps happen in one turn */
    }
    if (self->pass_started && self->pump_scheduled) {
        self->pass_over = true; /* so is the slice of this turn */
        return 0;
    }
    self->pass_started = true;
    core_state *state = state_of((PyObject *)self);
    if (self->starts_unread > 0 && state->clock == NULL) {
        self->starts_unread--;
        return 1;
    }
    double now;
    if (now_seconds(state, &now) < 0) {
        return -1;
    }
    if (!self->pass_timed) {
        self->pass_timed = true;
        self->pass_start = now;
    }
    else if (now - self->pass_start >= SLICE_SECONDS) {
        self->pass_over = true;
        return gathering_schedule_pump(self);
    }
    else if (now - self->pass_read < QUICK_START_SECONDS) {
        self->starts_unread = QUICK_STARTS_PER_READING - 1;
    }
    self->pass_read = now;
    return self->queue == QUEUE_OPEN; /* the clock may be the user's */
}

static void
gathering_begin_pass(GatheringObject *self)
{
    assert(!self->pumping);
    self->pumping = true;
    self->pass_started = false;
    self->pass_timed = false;
    self->pass_over = false;
    self->starts_unread = 1; /* most passes start one item */
}

/* An interrupt leaves the loop: nothing more starts in this step, but if the
   loop is run again the queue goes on.  The exception being raised is kept. */
static void
gathering_interrupted(GatheringObject *self)
{
    PyObject *raised = fetch_exception();
    if (gathering_keep_queue(self) < 0 || gathering_schedule_pump(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    raise_exception(raised);
}

/* Ends the pass.  -1 on an interrupt. */
static int
gathering_end_pass(GatheringObject *self, int status)
{
    self->pumping = false;
    if (status < 0 && report_error((PyObject *)self) < 0) {
        gathering_interrupted(self);
        return -1;
    }
    return 0;
}

/* Starts items while there is room, and ends the pass.  -1 on an interrupt. */
static int
gathering_finish_pass(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    int status = 0;
    for (;;) {
        status = gathering_admits(self);
        if (status <= 0) {
            break;
        }
        PyObject *item;
        Py_ssize_t index;
        status = gathering_take(self, &item, &index);
        if (status < 0) {
            break;
        }
        if (status == 0) {
            continue;
        }
        status = worker_start(state, self, item, index);
        Py_DECREF(item);
        if (status < 0) {
            break;
        }
    }
    if (gathering_end_pass(self, status) < 0) {
        return -1;
    }
    if (gathering_settle_if_complete(self) < 0) {
        return report_error((PyObject *)self);
    }
    return 0;
}

/* Runs a pass, unless one is under way.  -1 on an interrupt. */
static int
gathering_pump(GatheringObject *self)
{
    if (self->pumping) {
        return 0;
    }
    gathering_begin_pass(self);
    return gathering_finish_pass(self);
}

static PyObject *
gathering_pump_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    self->pump_scheduled = false;
    if (gathering_pump(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/*** Outcomes ***/

/* The list of results, each where the caller expects it: new reference.  The
   gathering keeps its list on failure. */
static PyObject *
gathering_results(GatheringObject *self)
{
    PyObject *results = NULL;
    Py_ssize_t size = 0;
    if (self->positions != NULL) {
        size = PyList_GET_SIZE(self->positions);
        results = PyList_New(size);
        if (results == NULL) {
            return NULL;
        }
    }
    PyObject *list = self->list;
    self->list = NULL;
    PyObject_GC_Track(list);
    if (results == NULL) {
        return list;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        Py_ssize_t at = PyLong_AsSsize_t(PyList_GET_ITEM(self->positions, i));
        PyList_SET_ITEM(results, i, Py_NewRef(PyList_GET_ITEM(list, at)));
    }
    Py_DECREF(list);
    return results;
}

/* Has the keeper stand for the queue, if there is one to stand for. */
static int
gathering_keep_queue(GatheringObject *self)
{
    if (self->queue != QUEUE_OPEN || self->keeper != NULL) {
        return 0;
    }
    return keeper_start(state_of((PyObject *)self), self);
}

/* Ends a future of ours with a value or an exception (borrowed). */
static int
outer_end(core_state *state, PyObject *outer, PyObject *value,
          PyObject *exception)
{
    if (exception == NULL) {
        return call_method_for_effect(outer, state->str_set_result, value);
    }
    int status =
        call_method_for_effect(outer, state->str_set_exception, exception);
    if (status < 0 && PyErr_ExceptionMatches(PyExc_TypeError)) {
        /* What a Future of the user's called its exception is none. */
        PyObject *refusal = fetch_exception();
        status =
            call_method_for_effect(outer, state->str_set_exception, refusal);
        Py_DECREF(refusal);
    }
    return status;
}

/* Ends the outer future with a value or an exception (borrowed), even if the
   keeper could not be made (-1). */
static int
gathering_settle(GatheringObject *self, PyObject *value, PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *raised =
        gathering_keep_queue(self) < 0 ? fetch_exception() : NULL;
    PyObject *outer = self->outer;
    int status = 0;
    if (outer != NULL) { /* else settled while the keeper was made */
        self->outer = NULL;
        Py_INCREF(self);
        outer_forget(outer);
        gathering_discard_edges(self);
        PyObject *done = PyObject_CallMethodNoArgs(outer, state->str_done);
        if (done == NULL) {
            status = -1;
        }
        else if (done != Py_True) { /* else by somebody: leave it */
            status = outer_end(state, outer, value, exception);
            if (self->abandoned) {
                outer_silence(state, outer);
            }
        }
        Py_XDECREF(done);
        Py_DECREF(outer);
        Py_DECREF(self);
    }
    if (raised != NULL) {
        if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        raise_exception(raised);
        status = -1;
    }
    return status;
}

static int
gathering_settle_cancelled(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *message = self->cancel_message;
    PyObject *cancelled =
        message == NULL || message == Py_None
            ? PyObject_CallNoArgs(state->cancelled_error)
            : PyObject_CallOneArg(state->cancelled_error, message);
    if (cancelled == NULL) {
        return -1;
    }
    int status = gathering_settle(self, NULL, cancelled);
    Py_DECREF(cancelled);
    return status;
}

/* Settles if nothing is queued and nothing runs. */
static int
gathering_settle_if_complete(GatheringObject *self)
{
    if (self->outer == NULL || self->queue != QUEUE_EMPTY
        || self->running_count > 0) {
        return 0;
    }
    if (self->error != NULL) {
        PyObject *error = self->error;
        self->error = NULL;
        int status = gathering_settle(self, NULL, error);
        Py_DECREF(error);
        return status;
    }
    if (self->cancel_requested || self->item_lost) {
        return gathering_settle_cancelled(self);
    }
    PyObject *results = gathering_results(self);
    PyObject *exception = results == NULL ? fetch_exception() : NULL;
    int status = gathering_settle(self, results, exception);
    Py_XDECREF(results);
    Py_XDECREF(exception);
    return status;
}

/* Which argument of the call an item is: Futures and what is given twice are
   sorted out before anything starts. */
static Py_ssize_t
gathering_argument_index(GatheringObject *self, Py_ssize_t index)
{
    Py_ssize_t size =
        self->positions == NULL ? 0 : PyList_GET_SIZE(self->positions);
    for (Py_ssize_t i = 0; i < size; i++) {
        if (PyLong_AsSsize_t(PyList_GET_ITEM(self->positions, i)) == index) {
            return i;
        }
    }
    return index;
}

/* Notes on the first error that a sibling failed while it was cancelled. */
static int
gathering_note_error(GatheringObject *self, Py_ssize_t index,
                     PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *error = Py_NewRef(self->error);
    PyObject *text = PyObject_Str(exception);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        text = PyUnicode_FromString("<exception str() failed>");
    }
    PyObject *note =
        text == NULL
            ? NULL
            : PyUnicode_FromFormat(
                "while it was being cancelled, item %zd raised %s: %U",
                gathering_argument_index(self, index),
                Py_TYPE(exception)->tp_name, text);
    int status =
        note == NULL
            ? -1
            : call_method_for_effect(error, state->str_add_note, note);
    Py_XDECREF(note);
    Py_XDECREF(text);
    Py_DECREF(error);
    return status;
}

/* With cancel_on_error: the first error stops everything else. */
static int
gathering_fail(GatheringObject *self, Py_ssize_t index, PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    if (self->error != NULL) {
        if (exception == self->error
            || PyErr_GivenExceptionMatches(exception,
                                           state->cancelled_error)) {
            return 0;
        }
        return gathering_note_error(self, index, exception);
    }
    self->error = Py_NewRef(exception);
    if (gathering_close_queue(self) < 0) {
        return -1;
    }
    if (self->cancel_requested) {
        return 0; /* they have been cancelled with the caller */
    }
    return gathering_cancel_running(self, Py_None) < 0 ? -1 : 0;
}

/* What asyncio.gather puts among the results for a cancelled child: a
   CancelledError with the message that the child, if any, still knows. */
static PyObject *
gathering_cancellation_as_result(core_state *state, PyObject *child)
{
    PyObject *message = NULL;
    if (child != NULL
        && lookup_attribute(child, state->str_cancel_message, &message) < 0) {
        return NULL;
    }
    if (message == NULL || message == Py_None) {
        Py_XSETREF(message, PyUnicode_FromString(""));
    }
    PyObject *cancelled =
        message == NULL ? NULL
                        : PyObject_CallOneArg(state->cancelled_error, message);
    Py_XDECREF(message);
    return cancelled;
}

/* What ran under `link` has ended with a value or an exception (borrowed);
   `child` is the Task or Future that was cancelled, if it was (a Task whose
   coroutine raised CancelledError no longer knows the message).  Takes it off
   the list; the caller gets the reference to `link->owner`.  Runs Python code.
   -1 on an interrupt. */
static int
gathering_deliver(GatheringObject *self, RunningLink *link, PyObject *value,
                  PyObject *exception, PyObject *child)
{
    Py_ssize_t index = link->index;
    gathering_unlink(self, link);
    if (self->outer == NULL) {
        return 0; /* dropped */
    }
    int status = 0;
    if (exception != NULL && !self->return_exceptions) {
        status = self->cancel_on_error
                     ? gathering_fail(self, index, exception)
                     : gathering_settle(self, NULL, exception);
    }
    else {
        core_state *state = state_of((PyObject *)self);
        PyObject *outcome;
        if (exception != NULL
            && PyErr_GivenExceptionMatches(exception,
                                           state->cancelled_error)) {
            outcome = gathering_cancellation_as_result(state, child);
            if (outcome == NULL) {
                PyErr_Clear();
                outcome = Py_NewRef(exception);
            }
        }
        else {
            outcome = Py_NewRef(value != NULL ? value : exception);
        }
        if (self->outer == NULL) {
            Py_DECREF(outcome);
            return 0;
        }
        PyObject *empty = PyList_GET_ITEM(self->list, index);
        assert(empty == NULL || empty == Py_None);
        PyList_SET_ITEM(self->list, index, outcome);
        Py_XDECREF(empty);
    }
    if (status < 0 && report_error((PyObject *)self) < 0) {
        return -1;
    }
    if (gathering_settle_if_complete(self) < 0) {
        return report_error((PyObject *)self);
    }
    return 0;
}

/*** Cancellation ***/

/* If everything that runs ends normally, the outcome is a CancelledError. */
static void
gathering_request_cancel(GatheringObject *self, PyObject *message)
{
    self->cancel_requested = true;
    Py_XSETREF(self->cancel_message, Py_NewRef(message));
}

/* The queue is closed, or being closed: if nothing runs, the outcome need not
   wait for the rest of it. */
static int
gathering_settle_if_stopped(GatheringObject *self)
{
    if (self->outer != NULL && self->cancel_requested && self->error == NULL
        && self->running_count == 0) {
        return gathering_settle_cancelled(self);
    }
    return 0;
}

static int
gathering_cancel(GatheringObject *self, PyObject *message)
{
    if (self->outer == NULL) {
        return 0;
    }
    if (self->queue == QUEUE_OPEN || self->running_count == 0) {
        gathering_request_cancel(self, message);
        if (gathering_close_queue(self) < 0
            || gathering_settle_if_stopped(self) < 0) {
            return -1;
        }
        if (self->outer == NULL) {
            return 1;
        }
    }
    else {
        Py_XSETREF(self->cancel_message, Py_NewRef(message));
    }
    int cancelled = gathering_cancel_running(self, message);
    if (cancelled > 0) {
        self->cancel_requested = true;
    }
    return cancelled < 0 ? -1 : self->cancel_requested;
}

/* The loop will never run again: nothing can be cancelled or called back. */
static void
gathering_strand(GatheringObject *self)
{
    PyObject *outer = self->outer;
    self->outer = NULL;
    if (outer != NULL) {
        outer_forget(outer);
        Py_DECREF(outer);
    }
    gathering_close_rest(self);
}

/* The caller has gone: cancel what runs, report nothing. */
static void
gathering_abandon(core_state *state, PyObject *outer)
{
    GatheringObject *self = outer_fields(outer)->gathering;
    PyObject *raised = fetch_exception();
    if (self == NULL) {
        outer_silence(state, outer);
    }
    else {
        Py_INCREF(self);
        self->abandoned = true;
        PyObject *closed =
            PyObject_CallMethodNoArgs(self->loop, state->str_is_closed);
        if (closed == Py_True) {
            gathering_strand(self);
        }
        else if (closed == NULL || gathering_cancel(self, Py_None) < 0) {
            PyErr_WriteUnraisable(outer);
        }
        Py_XDECREF(closed);
        Py_DECREF(self);
    }
    if (raised != NULL) {
        raise_exception(raised);
    }
}

/*** Lifecycle ***/

/* A gathering of the items in `list` on `loop`, in the current context.  The
   list is hidden from the garbage collector and belongs to the gathering from
   here on. */
static GatheringObject *
gathering_new(core_state *state, PyObject *loop, PyObject *list)
{
    PyTypeObject *type = state->gathering_type;
    GatheringObject *self = (GatheringObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->list = Py_NewRef(list);
    self->running.previous = self->running.next = &self->running;
    self->limit = NO_LIMIT;
    self->queue = PyList_GET_SIZE(list) > 0 ? QUEUE_OPEN : QUEUE_EMPTY;
    self->loop = Py_NewRef(loop);
    self->context = PyContext_CopyCurrent();
    if (self->context == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->outer = outer_new(state, loop);
    if (self->outer == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    outer_fields(self->outer)->gathering = (GatheringObject *)Py_NewRef(self);
    return self;
}

static int
gathering_visit_list(PyObject *list, visitproc visit, void *arg)
{
    if (list != NULL) {
        Py_ssize_t size = PyList_GET_SIZE(list);
        for (Py_ssize_t i = 0; i < size; i++) {
            Py_VISIT(PyList_GET_ITEM(list, i));
        }
    }
    return 0;
}

static int
gathering_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    GatheringObject *self = GatheringObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->awaiter);
    Py_VISIT(self->add_awaited_by);
    Py_VISIT(self->discard_awaited_by);
    Py_VISIT(self->task_kwargs);
    int stop = gathering_visit_list(self->list, visit, arg);
    if (stop != 0) {
        return stop;
    }
    Py_VISIT(self->source);
    Py_VISIT(self->source_context);
    Py_VISIT(self->positions);
    Py_VISIT(self->gate);
    for (RunningLink *link = self->running.next;
         link != NULL && link != &self->running; link = link->next) {
        Py_VISIT(link->owner);
    }
    Py_VISIT(self->outer);
    Py_VISIT(self->error);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->keeper);
    Py_VISIT(self->keeper_wakeup);
    return 0;
}

static int
gathering_tp_clear(PyObject *op)
{
    GatheringObject *self = GatheringObject_CAST(op);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->context);
    Py_CLEAR(self->awaiter);
    Py_CLEAR(self->add_awaited_by);
    Py_CLEAR(self->discard_awaited_by);
    Py_CLEAR(self->task_kwargs);
    Py_CLEAR(self->list);
    Py_CLEAR(self->source);
    Py_CLEAR(self->source_context);
    Py_CLEAR(self->positions);
    Py_CLEAR(self->gate);
    while (self->running.next != NULL
           && self->running.next != &self->running) {
        RunningLink *link = self->running.next;
        gathering_unlink(self, link);
        Py_DECREF(link->owner);
    }
    Py_CLEAR(self->outer);
    Py_CLEAR(self->error);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->keeper);
    Py_CLEAR(self->keeper_wakeup);
    return 0;
}

static void
gathering_tp_finalize(PyObject *op)
{
    gathering_close_rest(GatheringObject_CAST(op));
}

static void
gathering_tp_dealloc(PyObject *op)
{
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)gathering_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot gathering_slots[] = {
    {Py_tp_dealloc, gathering_tp_dealloc},
    {Py_tp_finalize, gathering_tp_finalize},
    {Py_tp_traverse, gathering_tp_traverse},
    {Py_tp_clear, gathering_tp_clear},
    {0, NULL},
};

static PyType_Spec gathering_spec = {
    .name = "gatedcoro._core._Gathering",
    .basicsize = sizeof(GatheringObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = gathering_slots,
};

#endif /* GATEDCORO_GATHERING_H */
