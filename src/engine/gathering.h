/* Gathering: one call; its items, its limit, what runs, its results.

   Where items come from: the list of awaitables that the caller handed over,
   or an iterator of callables (`source`).  Where outcomes go: the same list.
   A slot of the list holds an item that is queued, then, while the item runs,
   nothing (None for a callable), then its result.  So a gathering needs no
   memory per item beyond what the caller passed and what it returns.  While
   slots may be empty the list is hidden from the garbage collector, and the
   gathering visits its contents.

      queue    OPEN -------> EXHAUSTED           items start while it is OPEN
                 |               |               only, until every one has been
                 v               v               taken; closing a long queue
              CLOSING ------> CLOSED             takes several turns

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
   iterator is asked, the loop is called, or (up to 3.11) the garbage collector
   is: wherever an object is made that it tracks.  It may cancel or close
   anything.  State is therefore changed before each such call, and looked at
   again after it; an item that has been taken starts only if the queue has not
   been closed in the meantime.

   An error that belongs to no item (no memory, a loop that refuses) ends the
   call: what cannot fail is done first, and steps that must all be taken are
   taken whatever fails. */

#ifndef GATEDCORO_GATHERING_H
#define GATEDCORO_GATHERING_H

#include "surface/outer.h"
#include "coroutines/item.h"
#include "coroutines/keeper.h"

#define NO_LIMIT PY_SSIZE_T_MAX

/* How long items may start, or be closed, before the loop gets a turn. */
#define SLICE_SECONDS 0.001

/* The clock costs as much as starting an item that does nothing.  So it is
   read for one start in eight, as long as starts take less than this. */
#define QUICK_START_SECONDS      0.00002
#define QUICK_STARTS_PER_READING 8

typedef enum {
    QUEUE_OPEN,
    QUEUE_EXHAUSTED, /* every item has been taken */
    QUEUE_CLOSING,   /* nothing starts any more; the rest is being closed */
    QUEUE_CLOSED,
} QueueState;

/* Something that runs for a gathering: a link in the list of those. */
typedef struct RunningLink {
    struct RunningLink *previous;
    struct RunningLink *next;
    PyObject *owner;   /* the Worker or Watcher; owned by the list */
    PyObject *target;  /* the Task or Future to cancel; owned, may be NULL */
    PyObject *awaiter; /* shown as awaiting the target; owned, or NULL */
    Py_ssize_t index;
    bool starting;       /* its Task is being made */
    bool cancel_pending; /* it was cancelled before it had a Task */
} RunningLink;

struct GatheringObject {
    PyObject_HEAD
    PyObject *loop;
    PyObject *context;        /* of the caller; never entered itself */
    PyObject *awaiter;        /* the Task that called, while it waits; 3.14+ */
    PyObject *add_awaited_by; /* functions of asyncio.futures, */
    PyObject *discard_awaited_by; /* if there was an awaiter */
    PyObject *task_kwargs;        /* with which Tasks are made, or NULL */
    PyObject *parent; /* who is current while the loop makes Tasks, or NULL */

    /* The queue. */
    QueueState queue;
    PyObject *list;   /* items, then results */
    Py_ssize_t next;  /* the next item's index */
    PyObject *source; /* list, tuple or iterator of callables, or NULL */
    PyObject *source_context; /* in which all of its code runs */
    PyObject *positions;      /* where the results go, if any is repeated */
    Py_ssize_t *arguments; /* the reverse, where errors are noted, or NULL */

    /* The limit. */
    Py_ssize_t limit;
    PyObject *gate;     /* an async context manager, or NULL */
    Py_ssize_t waiting; /* items that started but wait for the gate */

    /* What runs, in the order of start. */
    RunningLink running;
    Py_ssize_t running_count;

    /* The outcome. */
    PyObject *outer; /* NULL once settled */
    PyObject *error; /* what the call will end with, or NULL */
    PyObject *cancel_message;
    PyObject *keeper; /* Task, or NULL */
    double pass_start;
    double pass_read;  /* when the clock was read last */
    int starts_unread; /* so many may go by without reading it */

    /* What was asked for. */
    bool return_exceptions;
    bool cancel_on_error;
    bool calls;             /* items are callables */
    bool as_asyncio_gather; /* takes what that takes, else what `await` does */
    bool own_tasks;         /* of our type; else from loop.create_task() */
    bool reuse_tasks;

    /* Where things stand. */
    bool cancel_requested;
    bool interrupted; /* an item raised one: it has left the loop */
    bool abandoned;   /* nobody waits for the outer future */
    bool item_lost;  /* an item's Task went with its loop: it has no outcome */
    bool item_taken; /* one neither runs yet nor has been dropped */
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

/* In worker.h. */
static int worker_start(core_state *state, GatheringObject *gathering,
                        PyObject *item, Py_ssize_t index);
static void worker_leave_future(GatheringObject *gathering, PyObject *worker,
                                PyObject *task);

static int gathering_settle(GatheringObject *self, PyObject *value,
                            PyObject *exception);
static int gathering_settle_with_error(GatheringObject *self);
static int gathering_settle_if_complete(GatheringObject *self);
static int gathering_keep_queue(GatheringObject *self);
static PyObject *gathering_pump_callback(PyObject *op, PyObject *ignored);
static PyObject *gathering_close_callback(PyObject *op, PyObject *ignored);

static PyMethodDef gathering_pump_def = {"pump", gathering_pump_callback,
                                         METH_NOARGS, NULL};
static PyMethodDef gathering_close_def = {
    "close_queue", gathering_close_callback, METH_NOARGS, NULL};

/* What its items are. */
static inline ItemKind
gathering_item_kind(GatheringObject *self)
{
    return self->calls               ? ITEM_CALLABLE
           : self->as_asyncio_gather ? ITEM_GATHER_AWAITABLE
                                     : ITEM_AWAITABLE;
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

static void
running_insert_before(RunningLink *link, RunningLink *next)
{
    link->next = next;
    link->previous = next->previous;
    link->previous->next = link;
    next->previous = link;
}

static void
running_remove(RunningLink *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = NULL;
}

/* Takes over the caller's reference to `link->owner`. */
static void
gathering_link(GatheringObject *self, RunningLink *link, Py_ssize_t index)
{
    link->index = index;
    running_insert_before(link, &self->running);
    self->running_count++;
    self->item_taken = false;
}

/* Gives the list's reference to `link->owner` to the caller. */
static void
gathering_unlink(GatheringObject *self, RunningLink *link)
{
    assert(link->next != NULL);
    running_remove(link);
    self->running_count--;
}

/* A walk over what runs now, in the order of start, whatever changes in the
   meantime: two links without an owner, which stand in the list for the place
   that the walk has reached and for its end.  It needs no memory. */
typedef struct {
    RunningLink place;
    RunningLink end;
} RunningWalk;

static void
running_walk_begin(GatheringObject *self, RunningWalk *walk)
{
    walk->place.owner = walk->place.target = NULL;
    walk->end.owner = walk->end.target = NULL;
    /* Volatile: GCC takes them for links that outlive the walk. */
    RunningLink *volatile place = &walk->place;
    RunningLink *volatile end = &walk->end;
    running_insert_before(place, self->running.next);
    running_insert_before(end, &self->running);
}

/* The next link, with a new reference to its owner; NULL, once, at the end. */
static RunningLink *
running_walk_next(RunningWalk *walk)
{
    RunningLink *link = walk->place.next;
    while (link != &walk->end && link->owner == NULL) {
        link = link->next; /* of another walk */
    }
    RunningLink *after = link == &walk->end ? link : link->next;
    running_remove(&walk->place);
    if (link == &walk->end) {
        running_remove(&walk->end);
        return NULL;
    }
    running_insert_before(&walk->place, after);
    Py_INCREF(link->owner);
    return link;
}

/* Cancels everything that runs.  1 if anything could be, 0, or -1 if anything
   failed; the rest has been cancelled all the same. */
static int
gathering_cancel_running(GatheringObject *self, PyObject *message)
{
    core_state *state = state_of((PyObject *)self);
    int cancelled = 0;
    PyObject *failure = NULL;
    RunningLink *link;
    RunningWalk walk;
    running_walk_begin(self, &walk);
    while ((link = running_walk_next(&walk)) != NULL) {
        PyObject *owner = link->owner;
        bool has_begun =
            !link->starting
            || (Py_TYPE(owner) == state->worker_type
                && CoroutineObject_CAST(owner)->state != CORO_CREATED);
        if (link->target == NULL || !has_begun) {
            link->cancel_pending = true;
            cancelled = 1;
        }
        else {
            PyObject *target = Py_NewRef(link->target);
            PyObject *args[] = {target, message};
            PyObject *answer = PyObject_VectorcallMethod(
                state->str_cancel, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                state->msg_kwname);
            int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
            Py_XDECREF(answer);
            Py_DECREF(target);
            if (truth < 0) {
                collect_exception(&failure);
            }
            else {
                cancelled |= truth;
            }
        }
        Py_DECREF(owner);
    }
    return raise_collected(failure) < 0 ? -1 : cancelled;
}

/*** Awaited-by edges (3.14+) ***/

/* Adds or discards the edge "`awaiter` awaits `target`" in the call graph;
   `function` is one of asyncio.futures.  Keeps the exception being raised. */
static void
change_edge(PyObject *function, PyObject *target, PyObject *awaiter)
{
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

/* What runs under `link` is not shown as awaited any more.  An edge is there
   as long as `link->awaiter` is set, so that it is discarded once; it stays if
   the collector has cleared one of us.  Keeps the exception being raised. */
static void
gathering_leave(GatheringObject *self, RunningLink *link)
{
    PyObject *awaiter = link->awaiter;
    if (awaiter != NULL && link->target != NULL
        && self->discard_awaited_by != NULL) {
        PyObject *target = Py_NewRef(link->target);
        link->awaiter = NULL;
        change_edge(self->discard_awaited_by, target, awaiter);
        Py_DECREF(target);
        Py_DECREF(awaiter);
    }
}

/* The caller waits no more: nobody awaits what still runs, or what starts from
   here on.  Keeps the exception being raised. */
static void
gathering_leave_all(GatheringObject *self)
{
    PyObject *awaiter = self->awaiter;
    self->awaiter = NULL;
    if (awaiter == NULL) {
        return;
    }
    Py_DECREF(awaiter);
    core_state *state = state_of((PyObject *)self);
    RunningLink *link;
    RunningWalk walk;
    running_walk_begin(self, &walk);
    while ((link = running_walk_next(&walk)) != NULL) {
        PyObject *owner = link->owner;
        if (link->awaiter != NULL && link->target != NULL) {
            PyObject *target = Py_NewRef(link->target);
            gathering_leave(self, link);
            if (Py_TYPE(owner) == state->worker_type) {
                worker_leave_future(self, owner, target);
            }
            Py_DECREF(target);
        }
        Py_DECREF(owner);
    }
}

/* Shows what runs under `link` as awaited by the caller, if that waits. */
static void
gathering_join(GatheringObject *self, RunningLink *link)
{
    PyObject *awaiter = self->awaiter;
    if (awaiter == NULL || link->awaiter != NULL || link->target == NULL) {
        return;
    }
    assert(self->outer != NULL);
    if (!outer_is_unset(state_of((PyObject *)self), self->outer)) {
        gathering_leave_all(self); /* somebody else has set it */
        return;
    }
    link->awaiter = Py_NewRef(awaiter);
    change_edge(self->add_awaited_by, link->target, awaiter);
}

/*** The queue ***/

/* The Task that called is kept for those that are yet to be made, no longer:
   it may hold what holds us.  Keeps the exception being raised. */
static void
gathering_release_parent(GatheringObject *self)
{
    if (self->parent == NULL || self->queue == QUEUE_OPEN || self->pumping) {
        return;
    }
    PyObject *raised = fetch_exception();
    Py_CLEAR(self->parent);
    if (raised != NULL) {
        raise_exception(raised);
    }
}

/* Does nothing start any more, whether or not everything has started? */
static inline bool
gathering_is_closed(GatheringObject *self)
{
    return self->queue == QUEUE_CLOSING || self->queue == QUEUE_CLOSED;
}

/* Is nothing queued any more? */
static inline bool
gathering_has_no_queue(GatheringObject *self)
{
    return self->queue == QUEUE_EXHAUSTED || self->queue == QUEUE_CLOSED;
}

/* The keeper may go.  -1 if it could not be told: it waits on. */
static int
gathering_release_keeper(GatheringObject *self)
{
    PyObject *keeper = Py_XNewRef(self->keeper);
    int status = keeper == NULL ? 0 : keeper_wake(keeper);
    Py_XDECREF(keeper);
    return status;
}

/* Lets go of an iterable of callables in its own context: a generator is closed
   by that, and anything may have a finalizer.  Both are cleared first.

   The context cannot be entered where it is already.  Then it is the iterable
   that runs, and who runs it has a reference, which goes in the context, too.
   Out of reach is a generator that the collector finds in a cycle with us: it
   may finalize that first.  Keeps the exception being raised. */
static void
drop_source(PyObject **source, PyObject **context)
{
    PyObject *dropped = *source;
    PyObject *own = *context;
    *source = *context = NULL;
    if (dropped != NULL) {
        PyObject *raised = fetch_exception();
        bool entered = own != NULL && PyContext_Enter(own) == 0;
        PyErr_Clear();
        Py_DECREF(dropped);
        if (entered && PyContext_Exit(own) < 0) {
            PyErr_WriteUnraisable(own);
        }
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    Py_XDECREF(own);
}

/* Nothing is queued any more, since `state` says so.  -1 if the keeper could
   not be told. */
static int
gathering_end_queue(GatheringObject *self, QueueState state)
{
    self->queue = state;
    gathering_release_parent(self);
    return gathering_release_keeper(self);
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

/* Is there an item in the list that has not been taken? */
static inline bool
gathering_list_goes_on(GatheringObject *self)
{
    return self->list != NULL && self->next < PyList_GET_SIZE(self->list);
}

/* Whatever is queued never starts: closes it all. */
static void
gathering_close_rest(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    if (gathering_has_no_queue(self)) {
        self->queue = QUEUE_CLOSED;
        return;
    }
    self->queue = QUEUE_CLOSING;
    drop_source(&self->source, &self->source_context);
    while (gathering_list_goes_on(self)) {
        PyObject *item = gathering_pop_item(self);
        item_close(state, item, gathering_item_kind(self));
        Py_DECREF(item);
    }
    self->queue = QUEUE_CLOSED;
    gathering_release_parent(self);
}

/* Closes queued items until a slice is used up; the rest has its turn soon, or
   now if the clock or the loop fails.  -1 on an interrupt, or if the keeper
   could not be told; the queue is closed, or goes on closing, all the same. */
static int
gathering_close_some(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    double start, now;
    assert(self->queue == QUEUE_CLOSING);
    PyObject *failure = NULL;
    int status = now_seconds(state, &start);
    while (status == 0 && gathering_list_goes_on(self)) {
        PyObject *item = gathering_pop_item(self);
        item_close(state, item, gathering_item_kind(self));
        Py_DECREF(item);
        status = now_seconds(state, &now);
        if (status == 0 && now - start >= SLICE_SECONDS
            && gathering_list_goes_on(self)) {
            status = gathering_call_soon(self, &gathering_close_def);
            if (status == 0) {
                return 0;
            }
        }
    }
    if (status < 0) {
        if (report_error((PyObject *)self) < 0) {
            collect_exception(&failure);
        }
        gathering_close_rest(self);
    }
    if (gathering_end_queue(self, QUEUE_CLOSED) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Nothing starts from here on, not even what has been taken and not begun.  -1
   on an interrupt, or if the keeper could not be told. */
static int
gathering_close_queue(GatheringObject *self)
{
    if (self->queue == QUEUE_EXHAUSTED) {
        self->queue = QUEUE_CLOSED;
        return 0;
    }
    if (self->queue != QUEUE_OPEN) {
        return 0;
    }
    self->queue = QUEUE_CLOSING;
    gathering_release_parent(self);
    if (self->source != NULL) {
        int status = gathering_end_queue(self, QUEUE_CLOSED);
        drop_source(&self->source, &self->source_context);
        return status;
    }
    return gathering_close_some(self);
}

static PyObject *
gathering_close_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    PyObject *failure = NULL;
    if (self->queue == QUEUE_CLOSING) {
        if (gathering_close_some(self) < 0) {
            collect_exception(&failure);
        }
        if (gathering_settle_if_complete(self) < 0) {
            collect_exception(&failure);
        }
    }
    if (raise_collected(failure) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Before an outcome: is it an interrupt, which leaves the loop by itself? */
static inline void
gathering_note_interrupt(GatheringObject *self, PyObject *exception)
{
    if (is_interrupt(exception)) {
        self->interrupted = true;
    }
}

/* An error that belongs to no item ends the call, whatever return_exceptions
   says; what is queued never starts.  The exception being raised is taken.  -1
   on an interrupt. */
static int
gathering_fail_call(GatheringObject *self)
{
    make_raisable();
    PyObject *exception = fetch_exception();
    gathering_note_interrupt(self, exception);
    PyObject *failure = NULL;
    bool decides = self->outer != NULL && self->error == NULL;
    if (decides) {
        /* First of all: there is an outcome now, whatever fails below, and
           nobody takes what is there of the results for it. */
        self->error = Py_NewRef(exception);
    }
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (decides) {
        int status = self->cancel_on_error
                         ? gathering_cancel_running(self, Py_None)
                         : gathering_settle_with_error(self);
        if (status < 0) {
            collect_exception(&failure);
        }
    }
    if (is_interrupt(exception)) {
        raise_exception(exception);
        collect_exception(&failure);
    }
    else {
        Py_DECREF(exception);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
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

/* The item that has been taken never starts.  Keeps the exception being
   raised. */
static void
gathering_drop_item(GatheringObject *self, PyObject *item)
{
    item_close(state_of((PyObject *)self), item, gathering_item_kind(self));
    self->item_taken = false;
}

/* The iterator of callables has ended.  -1 if the keeper could not be told. */
static int
gathering_end_source(GatheringObject *self)
{
    if (self->queue != QUEUE_OPEN) {
        return 0;
    }
    int status = gathering_end_queue(self, QUEUE_EXHAUSTED);
    drop_source(&self->source, &self->source_context);
    return status;
}

/* Takes the next item: 1 with new reference and index; 0 if there is none
   after all; -1 on an interrupt.  The caller looks whether the queue is OPEN
   first; the iterator may have closed it in the meantime. */
static int
gathering_take(GatheringObject *self, PyObject **item, Py_ssize_t *index)
{
    assert(self->queue == QUEUE_OPEN && self->pumping && !self->item_taken);
    int status;
    if (self->source == NULL) {
        *index = self->next;
        *item = gathering_pop_item(self);
        self->item_taken = true;
        if (gathering_list_goes_on(self)) {
            return 1;
        }
        status = gathering_end_queue(self, QUEUE_EXHAUSTED);
        if (status < 0) {
            status = report_error((PyObject *)self);
        }
        if (status < 0 && self->queue == QUEUE_EXHAUSTED) {
            /* It has its turn when the loop runs again. */
            self->next--;
            PyList_SET_ITEM(self->list, self->next, *item);
            self->queue = QUEUE_OPEN;
            self->item_taken = false;
            return -1;
        }
    }
    else {
        *index = PyList_GET_SIZE(self->list);
        *item = gathering_advance_source(self);
        if (*item == NULL) {
            return PyErr_Occurred() ? gathering_fail_call(self)
                                    : gathering_end_source(self);
        }
        self->item_taken = true;
        status = 0;
        if (self->queue == QUEUE_OPEN
            && PyList_Append(self->list, Py_None) < 0) {
            status = gathering_fail_call(self);
        }
    }
    if (status < 0 || gathering_is_closed(self)) {
        gathering_drop_item(self, *item);
        Py_CLEAR(*item);
        return status;
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

/* The loop or the clock has failed, so no pass is scheduled.  If there is room
   for an item nevertheless, nobody would start it, and what runs may wait for
   it: the call ends with the exception being raised.  Otherwise that is
   reported, and a pass begins at the next end.  -1 on an interrupt. */
static int
gathering_pass_failed(GatheringObject *self)
{
    if (gathering_has_room(self) && !self->pump_scheduled) {
        return gathering_fail_call(self);
    }
    return report_error((PyObject *)self);
}

/* An interrupt leaves the loop: nothing more starts in this step, but if the
   loop is run again the queue goes on.  The exception being raised is kept. */
static void
gathering_interrupted(GatheringObject *self)
{
    PyObject *raised = fetch_exception();
    if (gathering_keep_queue(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (gathering_schedule_pump(self) < 0 && gathering_pass_failed(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    raise_exception(raised);
}

/* What an item puts into its context goes with its Task: the arguments for the
   next one must not keep it.  Keeps the exception being raised. */
static void
gathering_release_context(GatheringObject *self)
{
    if (self->task_kwargs == NULL || self->reuse_tasks) {
        return; /* no item runs in the Tasks' own contexts */
    }
    PyObject *raised = fetch_exception();
    core_state *state = state_of((PyObject *)self);
    if (PyDict_SetItem(self->task_kwargs, state->str_context, Py_None) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (raised != NULL) {
        raise_exception(raised);
    }
}

/* Ends the pass.  -1 on an interrupt. */
static int
gathering_end_pass(GatheringObject *self, int status)
{
    self->pumping = false;
    gathering_release_parent(self);
    gathering_release_context(self);
    if (status == 0) {
        return 0;
    }
    if (interrupt_is_raised()) {
        gathering_interrupted(self);
        return -1;
    }
    return gathering_pass_failed(self);
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

/* Goes on after an outcome; `delivered` is -1 if that was interrupted.  -1 on an
   interrupt. */
static int
gathering_go_on(GatheringObject *self, int delivered)
{
    if (delivered == 0) {
        return gathering_pump(self);
    }
    if (!self->pumping) {
        gathering_interrupted(self);
    }
    return -1;
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

/* A CancelledError with the message of the cancellation: new reference.  Where
   it cannot be made, the error that says so takes its place. */
static PyObject *
gathering_cancelled_error(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *message = Py_XNewRef(self->cancel_message);
    PyObject *cancelled =
        message == NULL || message == Py_None
            ? PyObject_CallNoArgs(state->cancelled_error)
            : PyObject_CallOneArg(state->cancelled_error, message);
    Py_XDECREF(message);
    return cancelled == NULL ? fetch_exception() : cancelled;
}

/* Ends the outer future with a value or an exception (borrowed), even if the
   keeper could not be made (-1).

   An interrupt of an item has left the loop: nobody need look at it again, as
   at a cancellation.  A caller that is being cancelled, as asyncio.run() does
   then, gets a CancelledError: it would end with the interrupt, which would
   leave the loop once more. */
static int
gathering_settle(GatheringObject *self, PyObject *value, PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    PyObject *cancelled = NULL;
    bool is_no_news = self->abandoned;
    if (exception != NULL && self->interrupted && is_interrupt(exception)) {
        is_no_news = true;
        if (self->cancel_requested) {
            exception = cancelled = gathering_cancelled_error(self);
        }
    }
    else if (exception != NULL) {
        is_no_news |=
            PyErr_GivenExceptionMatches(exception, state->cancelled_error);
    }
    if (gathering_keep_queue(self) < 0) {
        collect_exception(&failure);
    }
    PyObject *outer = self->outer;
    if (outer != NULL) { /* else settled while the keeper was made */
        self->outer = NULL;
        Py_INCREF(self);
        outer_forget(outer);
        gathering_leave_all(self);
        int pending = outer_is_pending(state, outer);
        if (pending < 0) {
            collect_exception(&failure);
        }
        if (pending != 0) { /* else somebody has set it: leave it */
            if (outer_end(state, outer, value, exception) < 0) {
                collect_exception(&failure);
            }
            if (is_no_news) {
                outer_silence(state, outer);
            }
        }
        Py_DECREF(outer);
        Py_CLEAR(self->error);
        Py_DECREF(self);
    }
    Py_XDECREF(cancelled);
    return raise_collected(failure);
}

/* Settles with `error`, if there is one. */
static int
gathering_settle_with_error(GatheringObject *self)
{
    PyObject *error = Py_XNewRef(self->error);
    if (error == NULL) {
        return 0;
    }
    int status = gathering_settle(self, NULL, error);
    Py_DECREF(error);
    return status;
}

static int
gathering_settle_cancelled(GatheringObject *self)
{
    PyObject *cancelled = gathering_cancelled_error(self);
    int status = gathering_settle(self, NULL, cancelled);
    Py_DECREF(cancelled);
    return status;
}

/* Nothing is queued and nothing runs: settles, unless it has. */
static int
gathering_settle_complete(GatheringObject *self)
{
    if (self->outer == NULL) {
        return 0;
    }
    if (self->error != NULL) {
        return gathering_settle_with_error(self);
    }
    if (self->cancel_requested || self->item_lost) {
        return gathering_settle_cancelled(self);
    }
    if (self->item_taken) {
        return 0;
    }
    PyObject *results = gathering_results(self);
    PyObject *exception = results == NULL ? fetch_exception() : NULL;
    int status = gathering_settle(self, results, exception);
    Py_XDECREF(results);
    Py_XDECREF(exception);
    return status;
}

/* Settles if nothing is queued and nothing runs.  A keeper that could not be
   told before is told. */
static int
gathering_settle_if_complete(GatheringObject *self)
{
    if (!gathering_has_no_queue(self) || self->running_count > 0) {
        return 0;
    }
    PyObject *failure = NULL;
    if (gathering_release_keeper(self) < 0
        && report_error((PyObject *)self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_complete(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Which argument of the call an item is, its first where it was given twice:
   Futures and repetitions are sorted out before anything starts.  -1 without
   memory. */
static Py_ssize_t
gathering_argument_index(GatheringObject *self, Py_ssize_t index)
{
    if (self->positions == NULL) {
        return index;
    }
    if (self->arguments == NULL) {
        Py_ssize_t items = PyList_GET_SIZE(self->list);
        self->arguments = PyMem_New(Py_ssize_t, (size_t)items);
        if (self->arguments == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t i = PyList_GET_SIZE(self->positions) - 1; i >= 0;
             i--) {
            PyObject *at = PyList_GET_ITEM(self->positions, i);
            self->arguments[PyLong_AsSsize_t(at)] = i;
        }
    }
    return self->arguments[index];
}

/* Notes on the first error that a sibling failed while it was cancelled. */
static int
gathering_note_error(GatheringObject *self, Py_ssize_t index,
                     PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    Py_ssize_t argument = gathering_argument_index(self, index);
    if (argument < 0) {
        return -1;
    }
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
                argument, Py_TYPE(exception)->tp_name, text);
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
    PyObject *failure = NULL;
    self->error = Py_NewRef(exception);
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (!self->cancel_requested /* else cancelled with the caller */
        && gathering_cancel_running(self, Py_None) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
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

/* What ran under `link` has ended with a value or an exception (borrowed).  If
   that is a cancellation, `child` is the Task or Future that was cancelled (NULL
   for a Task whose coroutine raised CancelledError: it no longer knows the
   message).  Takes it off the list; the caller gets the reference to
   `link->owner`.  Runs Python code, which may end everything else: the item
   counts as running until its outcome is there.  -1 on an interrupt. */
static int
gathering_deliver(GatheringObject *self, RunningLink *link, PyObject *value,
                  PyObject *exception, bool is_cancellation, PyObject *child)
{
    core_state *state = state_of((PyObject *)self);
    Py_ssize_t index = link->index;
    assert(link->next != NULL);
    running_remove(link);
    int status = 0;
    if (self->outer != NULL && !outer_is_unset(state, self->outer)) {
        status = gathering_settle(self, Py_None, NULL); /* somebody else did */
    }
    if (self->outer == NULL) {
        /* dropped */
    }
    else if (exception != NULL && !self->return_exceptions) {
        status = self->cancel_on_error
                     ? gathering_fail(self, index, exception)
                     : gathering_settle(self, NULL, exception);
    }
    else {
        PyObject *outcome;
        if (is_cancellation) {
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
        }
        else {
            PyObject *empty = PyList_GET_ITEM(self->list, index);
            assert(empty == NULL || empty == Py_None);
            PyList_SET_ITEM(self->list, index, outcome);
            Py_XDECREF(empty);
        }
    }
    self->running_count--;
    PyObject *failure = NULL;
    if (status < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? report_error((PyObject *)self) : 0;
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
    PyObject *failure = NULL;
    if (self->queue == QUEUE_OPEN || self->running_count == 0) {
        gathering_request_cancel(self, message);
        if (gathering_close_queue(self) < 0) {
            collect_exception(&failure);
        }
        if (gathering_settle_if_stopped(self) < 0) {
            collect_exception(&failure);
        }
    }
    else {
        Py_XSETREF(self->cancel_message, Py_NewRef(message));
    }
    if (self->outer != NULL) {
        int cancelled = gathering_cancel_running(self, message);
        if (cancelled < 0) {
            collect_exception(&failure);
        }
        else if (cancelled > 0) {
            self->cancel_requested = true;
            if (gathering_close_queue(self) < 0) {
                collect_exception(&failure);
            }
        }
    }
    return raise_collected(failure) < 0 ? -1 : self->cancel_requested;
}

static bool
gathering_needs_keeper(PyObject *owner)
{
    return !gathering_has_no_queue(GatheringObject_CAST(owner));
}

/* What was queued never starts, so the outer future, if it is pending, ends
   cancelled when what runs has ended. */
static int
gathering_keeper_cancelled(PyObject *owner, PyObject *message)
{
    GatheringObject *self = GatheringObject_CAST(owner);
    if (self->queue != QUEUE_OPEN) {
        return 0;
    }
    gathering_request_cancel(self, message);
    PyObject *failure = NULL;
    if (gathering_close_queue(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_stopped(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? report_error(owner) : 0;
}

static void
gathering_keeper_ended(PyObject *owner)
{
    Py_CLEAR(GatheringObject_CAST(owner)->keeper);
}

/* keeper.h calls them, for the Task that stands for the queue. */
static const KeeperOwnerCalls gathering_keeper_calls = {
    .needs_it = gathering_needs_keeper,
    .cancelled = gathering_keeper_cancelled,
    .ended = gathering_keeper_ended,
};

/* Has the keeper stand for the queue, if there is one to stand for. */
static int
gathering_keep_queue(GatheringObject *self)
{
    if (self->queue != QUEUE_OPEN || self->keeper != NULL) {
        return 0;
    }
    return keeper_start(state_of((PyObject *)self), (PyObject *)self,
                        &gathering_keeper_calls, self->loop, self->context,
                        &self->keeper);
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
    gathering_leave_all(self);
    gathering_close_rest(self);
}

/* Somebody else has set the future, and who waited for it goes on.  What runs
   does so, too, and what is queued, as after an error.  -1 on an interrupt. */
static int
gathering_lost_outer(PyObject *outer)
{
    GatheringObject *self = outer_fields(outer)->gathering;
    if (self == NULL) {
        return 0;
    }
    Py_INCREF(self);
    int status = gathering_settle(self, Py_None, NULL);
    if (status < 0) {
        status = report_error((PyObject *)self);
    }
    Py_DECREF(self);
    return status;
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
        gathering_leave_all(self);
        PyObject *closed =
            PyObject_CallMethodNoArgs(self->loop, state->str_is_closed);
        if (closed == Py_True) {
            gathering_strand(self);
        }
        else {
            if (closed == NULL) {
                PyErr_WriteUnraisable(outer);
            }
            if (gathering_cancel(self, Py_None) < 0) {
                PyErr_WriteUnraisable(outer);
            }
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
    self->queue = PyList_GET_SIZE(list) > 0 ? QUEUE_OPEN : QUEUE_EXHAUSTED;
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
    Py_VISIT(self->parent);
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
    return 0;
}

static int
gathering_tp_clear(PyObject *op)
{
    GatheringObject *self = GatheringObject_CAST(op);
    while (self->running.next != NULL
           && self->running.next != &self->running) {
        RunningLink *link = self->running.next;
        PyObject *owner = link->owner;
        gathering_unlink(self, link);
        Py_CLEAR(link->awaiter);
        Py_DECREF(owner);
    }
    Py_CLEAR(self->loop);
    Py_CLEAR(self->context);
    Py_CLEAR(self->awaiter);
    Py_CLEAR(self->add_awaited_by);
    Py_CLEAR(self->discard_awaited_by);
    Py_CLEAR(self->task_kwargs);
    Py_CLEAR(self->parent);
    Py_CLEAR(self->list);
    drop_source(&self->source, &self->source_context);
    Py_CLEAR(self->positions);
    PyMem_Free(self->arguments);
    self->arguments = NULL;
    Py_CLEAR(self->gate);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->error);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->keeper);
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
