/* Gathering: one call; starts its items, keeps to its limit, hands their
   outcomes on.

   It is put together from parts, each of which is written in its own file only:

      source      where items come from           sink       where outcomes go
      limit       how many may run                running    what runs
      slice       how long a pass may take        call_graph who is shown to wait
      keeper      a Task that stands for the queue
      progress    who is told how many have ended

      state              will end with                     and may become
      OPEN               all outcomes                      any other
      LOST               CancelledError: something that    CANCELLED, FAILING,
                         ran went with its loop            LEFT
      CANCELLED          CancelledError: so was the        FAILING_CANCELLED, LEFT
                         caller
      FAILING            `error`                           FAILING_CANCELLED, LEFT
      FAILING_CANCELLED  `error`, unless that has left     LEFT
                         the loop already
      LEFT               no error: nobody wants what       FAILING
                         is left
      SETTLED            has ended: from each of the others, once

   It is FAILING by the policy, or for an error that belongs to no item.  After any
   other error it settles at once, and the queue goes on.

   gathering_run_pass() is the engine's loop: it starts items while there is room.
   It never recurses: an item that ends inside another's start finds the pass
   under way and leaves the next start to it, or goes on with the next item in the
   same Task (worker.h).

   An item that ends starts the next one.  But where turns are full (turns.h), one
   that had suspended has a pass scheduled for the next turn, and that starts
   everything for which there is room by then.  So the requests that answers make
   room for are sent together, once all answers of a turn have been read: no answer
   waits for them, and the server that gets them has to be woken less often.  Until
   then a Task that may be reused waits, idle.

   The caller is not suspended on a pending future, and the queue is not empty?
   Then a keeper Task stands for the queue, so that asyncio.run() can close it.

   Python code runs wherever an item starts or is closed, the clock or an
   iterator is asked, the loop is called, or (up to 3.11) the garbage collector
   is: wherever an object is made that it tracks.  It may cancel or close
   anything.  State is therefore changed before each such call, and looked at
   again after it; an item that has been taken starts only if the queue has not
   been closed in the meantime.

   An error that belongs to no item (no memory, a loop that refuses) ends the
   call: what cannot fail is done first, and steps that must all be taken are
   taken whatever fails.

   Invariants (gathering_check):

      1  it has an error while it is FAILING, and only then
      2  what waits for a gate runs, and there is a gate
      3  what is in the ring counts as running
      4  an item is in hand only during a pass
      5  who called is kept only while Tasks are still to be made
      6  once it is SETTLED, nobody is shown as awaiting what runs
      7  a Task is idle only while a pass is scheduled or under way
   8  it stands in a semaphore's queue only while items are to start, and without
      a slot in hand */

#ifndef GATEDCORO_GATHERING_H
#define GATEDCORO_GATHERING_H

#include "coroutines/current.h"
#include "coroutines/keeper.h"
#include "engine/call_graph.h"
#include "engine/limit.h"
#include "engine/progress.h"
#include "engine/sink.h"
#include "engine/slice.h"
#include "engine/source_ending.h"
#include "engine/turns.h"

typedef struct GatheringObject GatheringObject;

/* `stopped_after`, as long as there is no error. */
#define NOT_STOPPED PY_SSIZE_T_MAX

typedef enum {
    GATHERING_OPEN,
    GATHERING_LOST,
    GATHERING_CANCELLED,
    GATHERING_FAILING,
    GATHERING_FAILING_CANCELLED,
    GATHERING_LEFT,
    GATHERING_SETTLED,
} GatheringState;

/* Where Tasks come from. */
typedef enum {
    TASKS_BY_LOOP,    /* loop.create_task() */
    TASKS_OWN,        /* they are of our type */
    TASKS_OWN_REUSED, /* and run one item after the other */
} TaskOrigin;

/* What the first error stops.  The call ends with it when nothing runs any more
   that has been stopped. */
typedef enum {
    STOPS_NOTHING,       /* the call ends with it at once, the others go on */
    STOPS_ALL,           /* everything */
    STOPS_ALL_BUT_TAKEN, /* but one of the source only what is not taken yet */
    STOPS_LATER, /* later items; an error of an earlier one takes its place */
} ErrorStops;

typedef struct {
    bool return_exceptions; /* an item's error is a result like any other */
    ErrorStops stops;
} ErrorPolicy;

typedef enum {
    START_ERROR = -1, /* with an exception */
    START_NONE,       /* there is no item, or no room for one */
    START_ELSEWHERE,  /* in a Task of its own */
    START_HERE,       /* in the Task whose item has just ended */
} StartAnswer;

/* What a pass in the next turn of the loop is scheduled for. */
typedef enum {
    PUMP_NONE,   /* there is none */
    PUMP_COUNTS, /* it tells that this turn is over; nothing need start then */
    PUMP_STARTS,
    PUMP_AHEAD, /* the same, but what it would start does so in this step */
} PumpState;

/* Who runs items.  Called by the loop below, for the item that the source has in
   hand; it is out of hand afterwards, whatever is answered.  `current` is the
   runner whose item has just ended, and which is in a step of its own; or NULL.
   Runs Python code. */
typedef struct {
    /* Runs Python code. */
    StartAnswer (*start)(core_state *state, GatheringObject *gathering,
                         PyObject *current);
    /* Has a runner (an owner in the idle ring, borrowed) end: there is no item
       for it.  It is off the ring afterwards.  Runs Python code. */
    void (*release)(core_state *state, PyObject *idle);
} Runner;

struct GatheringObject {
    PyObject_HEAD
    PyObject *loop;
    PyObject *context;     /* of the caller; never entered itself */
    PyObject *task_kwargs; /* with which Tasks are made, or NULL */
    PyObject *parent; /* who is current while the loop makes Tasks, or NULL */

    GatheringState state;
    TaskOrigin tasks;
    ErrorPolicy policy;

    Source source;
    Limit limit;
    Slice slice;
    Turns turns;
    Running running;
    Running idle; /* Tasks that wait for the next item */
    CallGraph call_graph;

    const Runner *runner;
    const Sink *sink;
    PyObject *receiver; /* the sink's */

    PyObject *error;          /* what the call will end with, while FAILING */
    Py_ssize_t stopped_after; /* later items have been, because of an error */
    PyObject *cleanup_error;  /* the source raised it when closed; or NULL */
    int passed_on; /* cancellations, by those who wait for the end */
    PyObject *cancel_message; /* of the last cancel(), or NULL */
    PyObject *keeper;         /* the Task that stands for the queue, or NULL */
    Progress *progress;       /* NULL: nobody is told */

    bool interrupted; /* an item raised one: it has left the loop */
    bool abandoned;   /* nobody will look at the outcome */
    PumpState pump_state;
};

static inline GatheringObject *
GatheringObject_CAST(PyObject *op)
{
    return (GatheringObject *)op;
}

/*** State ***/

/* Before an outcome: is it an interrupt, which leaves the loop by itself? */
static inline void
gathering_note_interrupt(GatheringObject *self, PyObject *exception)
{
    if (is_interrupt(exception)) {
        self->interrupted = true;
    }
}

/* A CancelledError with the message of the cancellation: new reference.  Where
   it cannot be made, the error that says so takes its place.
   Runs Python code. */
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

/* Is it an interrupt of an item's?  It has left the loop: nobody need look at it
   again, as at a cancellation. */
static inline bool
gathering_has_let_out(GatheringObject *self, PyObject *exception)
{
    return self->interrupted && is_interrupt(exception);
}

/* Has the caller been cancelled, as far as that is not yet over? */
static inline bool
gathering_is_cancelled(const GatheringObject *self)
{
    return self->state == GATHERING_CANCELLED
           || self->state == GATHERING_FAILING_CANCELLED;
}

/* Has an error decided, with which it will end when nothing runs any more? */
static inline bool
gathering_is_failing(const GatheringObject *self)
{
    return self->state == GATHERING_FAILING
           || self->state == GATHERING_FAILING_CANCELLED;
}

/* An error decides, unless one has before. */
static inline bool
gathering_is_undecided(const GatheringObject *self)
{
    return !gathering_is_failing(self) && self->state != GATHERING_LEFT
           && self->state != GATHERING_SETTLED;
}

/* There will be no result: something that ran was lost with its loop. */
static void
gathering_be_lost(GatheringObject *self)
{
    if (self->state == GATHERING_OPEN) {
        self->state = GATHERING_LOST;
    }
}

/* The caller is being cancelled. */
static void
gathering_be_cancelled(GatheringObject *self)
{
    switch (self->state) {
    case GATHERING_OPEN:
    case GATHERING_LOST:
        self->state = GATHERING_CANCELLED;
        break;
    case GATHERING_FAILING:
        self->state = GATHERING_FAILING_CANCELLED;
        break;
    case GATHERING_CANCELLED:
    case GATHERING_FAILING_CANCELLED:
    case GATHERING_LEFT:
    case GATHERING_SETTLED:
        break;
    }
}

/* The call will end with an exception (borrowed). */
static void
gathering_be_failing(GatheringObject *self, PyObject *exception)
{
    assert(gathering_is_undecided(self) || self->state == GATHERING_LEFT);
    self->state = self->state == GATHERING_CANCELLED
                      ? GATHERING_FAILING_CANCELLED
                      : GATHERING_FAILING;
    self->error = Py_NewRef(exception);
}

/* The exception (borrowed) with which the call ends, as the caller gets it: new
   reference.  One that is being cancelled after an interrupt, as asyncio.run()
   does then, gets a CancelledError: it would end with the interrupt, which would
   leave the loop once more.  Runs Python code. */
static PyObject *
gathering_error_of(GatheringObject *self, PyObject *exception)
{
    return gathering_is_cancelled(self)
                   && gathering_has_let_out(self, exception)
               ? gathering_cancelled_error(self)
               : Py_NewRef(exception);
}

/* Nobody wants what is left: gives the error up (owned, or NULL). */
static PyObject *
gathering_be_left(GatheringObject *self)
{
    PyObject *error = self->error;
    self->state = GATHERING_LEFT;
    self->error = NULL;
    self->stopped_after = -1;
    return error;
}

/* It has ended for who waits: gives the error up (owned, or NULL). */
static PyObject *
gathering_be_settled(GatheringObject *self)
{
    PyObject *error = self->error;
    self->state = GATHERING_SETTLED;
    self->error = NULL;
    return error;
}

/*** What holds ***/

#ifdef NDEBUG
#define gathering_check(self) ((void)(self))
#else
/* Asserts the invariants by their numbers above. */
static void
gathering_check(GatheringObject *self)
{
    bool pass = slice_is_under_way(&self->slice);
    assert(gathering_is_failing(self) == (self->error != NULL));   /* 1 */
    assert(self->limit.waiting <= self->running.count);            /* 2 */
    assert(self->limit.waiting == 0 || self->limit.gates != NULL); /* 2 */
    assert(self->running.count > 0                                 /* 3 */
           || self->running.ring.next == &self->running.ring
           || self->running.ring.next->owner == NULL /* a walk's */);
    assert(self->source.taken.item == NULL || pass); /* 4 */
    assert(self->parent == NULL || pass              /* 5 */
           || source_is_open(&self->source));
    assert(self->call_graph.awaiter == NULL /* 6 */
           || self->state != GATHERING_SETTLED);
    assert(self->idle.count == 0 || pass || self->pump_state); /* 7 */
    assert(self->limit.slots.waiter == NULL                    /* 8 */
           || (self->limit.slots.in_hand == SLOT_NONE
               && (pass || source_is_open(&self->source))));
}
#endif

/*** What runs ***/

/* The caller waits no more.  Keeps the exception being raised.
   Runs Python code. */
static void
gathering_leave_call_graph(core_state *state, GatheringObject *self)
{
    PyObject *awaiter = self->call_graph.awaiter;
    self->call_graph.awaiter = NULL;
    if (awaiter != NULL) {
        Py_DECREF(awaiter);
        call_graph_leave_ring(state, &self->call_graph, &self->running);
        call_graph_leave_ring(state, &self->call_graph, &self->idle);
    }
}

/* Shows what runs under `link` as awaited by the caller, if that waits.
   Runs Python code. */
static void
gathering_join(GatheringObject *self, RunningLink *link)
{
    if (!call_graph_lacks(&self->call_graph, link)) {
        return;
    }
    core_state *state = state_of((PyObject *)self);
    if (self->sink->is_wanted(state, self->receiver)) {
        call_graph_join(&self->call_graph, link);
    }
    else { /* somebody else has set the caller's future */
        gathering_leave_call_graph(state, self);
    }
}

/* The item in hand runs from here on: it is the caller's (owned).  The caller's
   reference to `link->owner` is the ring's. */
static PyObject *
gathering_run_taken(GatheringObject *self, RunningLink *link)
{
    running_add(&self->running, link, self->source.taken.index);
    link->slot = slots_hand_on(&self->limit.slots);
    return source_hand_over(&self->source);
}

/* What is kept for items that are yet to start goes if there are none any more: the
   Task that called, which may hold what holds us; what has been drawn ahead; the
   place in the queue of a semaphore, or a slot of it.  Keeps the exception being raised.
   Runs Python code. */
static void
gathering_release_kept(GatheringObject *self)
{
    if (source_is_open(&self->source) || slice_is_under_way(&self->slice)) {
        return;
    }
    PyObject *raised = fetch_exception();
    core_state *state = state_of((PyObject *)self);
    Py_CLEAR(self->parent);
    source_drop_ahead(state, &self->source);
    slots_leave_queue(state, &self->limit.slots);
    slots_let_go(state, &self->limit.slots);
    restore_exception(raised);
}

/* There is no item any more for the Tasks that wait: they end, in this step.
   Keeps the exception being raised.  Runs Python code. */
static void
gathering_release_idle(GatheringObject *self)
{
    if (self->idle.count == 0) {
        return;
    }
    PyObject *raised = fetch_exception();
    core_state *state = state_of((PyObject *)self);
    RunningLink *link;
    while ((link = idle_first(&self->idle)) != NULL) {
        PyObject *owner = Py_NewRef(link->owner);
        self->runner->release(state, owner);
        assert(idle_first(&self->idle) != link);
        Py_DECREF(owner);
    }
    restore_exception(raised);
}

/* The source has raised an exception (stolen; or NULL) when it was closed: it is
   the call's, or becomes a note on that.  Keeps the exception being raised.
   Runs Python code. */
static void
gathering_cleanup_failed(GatheringObject *self, PyObject *failure)
{
    if (failure == NULL) {
        return;
    }
    if (self->abandoned || self->state == GATHERING_SETTLED
        || self->cleanup_error != NULL) {
        PyObject *raised = fetch_exception();
        raise_exception(failure);
        PyErr_WriteUnraisable((PyObject *)self);
        restore_exception(raised);
    }
    else {
        self->cleanup_error = failure;
    }
}

/* Whatever is queued never starts: closes it all.  Runs Python code. */
static void
gathering_close_rest(GatheringObject *self)
{
    if (!source_is_empty(&self->source)) {
        source_begin_closing(&self->source);
        gathering_release_kept(self);
    }
    PyObject *failure =
        source_close_all(state_of((PyObject *)self), &self->source);
    gathering_cleanup_failed(self, failure);
}

/*** Lifecycle ***/

/* What a gathering is made of. */
typedef struct {
    PyObject *loop;
    Source source; /* is the gathering's from here on */
    Limit limit;   /* borrowed */
    ErrorPolicy policy;
    TaskOrigin tasks;
    const Runner *runner;
    const Sink *sink;
    PyObject *receiver; /* borrowed */
} GatheringParts;

/* A gathering on `loop` in the current context.  On failure the source is as it
   was.  Runs Python code. */
static GatheringObject *
gathering_new(core_state *state, const GatheringParts *parts)
{
    PyTypeObject *type = state->gathering_type;
    Limit limit;
    if (limit_of_gathering(state, &parts->limit, parts->loop, &limit) < 0) {
        return NULL;
    }
    PyObject *context = PyContext_CopyCurrent();
    GatheringObject *self =
        context == NULL ? NULL : (GatheringObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(context);
        limit_clear(&limit);
        return NULL;
    }
    self->loop = Py_NewRef(parts->loop);
    self->context = context;
    self->source = parts->source;
    self->limit = limit;
    self->policy = parts->policy;
    self->tasks = parts->tasks;
    slice_init(&self->slice);
    turns_become(&self->turns,
                 state->turns_begin_full ? TURNS_FULL : TURNS_UNKNOWN);
    running_init(&self->running);
    running_init(&self->idle);
    self->runner = parts->runner;
    self->sink = parts->sink;
    self->receiver = Py_NewRef(parts->receiver);
    self->stopped_after = NOT_STOPPED;
    return self;
}

static int
gathering_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    GatheringObject *self = GatheringObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->task_kwargs);
    Py_VISIT(self->parent);
    Py_VISIT(self->receiver);
    Py_VISIT(self->error);
    Py_VISIT(self->cleanup_error);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->keeper);
    int stop = source_traverse(&self->source, visit, arg);
    stop = stop != 0 ? stop : limit_traverse(&self->limit, visit, arg);
    stop = stop != 0 ? stop : running_traverse(&self->running, visit, arg);
    stop = stop != 0 ? stop : running_traverse(&self->idle, visit, arg);
    stop = stop != 0 ? stop : progress_traverse(self->progress, visit, arg);
    return stop != 0 ? stop
                     : call_graph_traverse(&self->call_graph, visit, arg);
}

static int
gathering_tp_clear(PyObject *op)
{
    GatheringObject *self = GatheringObject_CAST(op);
    PyObject *error = gathering_be_settled(self);
    running_clear(&self->running);
    running_clear(&self->idle);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->context);
    call_graph_clear(&self->call_graph);
    Py_CLEAR(self->task_kwargs);
    Py_CLEAR(self->parent);
    source_clear(&self->source);
    limit_clear(&self->limit);
    Py_CLEAR(self->receiver);
    Py_XDECREF(error);
    Py_CLEAR(self->cleanup_error);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->keeper);
    progress_clear(&self->progress);
    return 0;
}

/* Runs Python code. */
static void
gathering_tp_finalize(PyObject *op)
{
    GatheringObject_CAST(op)->abandoned = true;
    progress_stop(state_of(op), &GatheringObject_CAST(op)->progress);
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
