/* Semaphore queue: who waits for a slot of a Semaphore, in order of arrival.

      WAITING ------> ADMITTED      a slot has been handed over; whoever waits has
         |                |         not gone on yet, and nobody who comes later
         v                v         is let in meanwhile
                GONE                it went on, gave up, or was cancelled

   Each of the first two is a ring of waiters, so all that is done takes the same
   time however long they are: joining, leaving from anywhere, finding the next.

   As long as nobody looks.  Of asyncio's semaphores anybody may read `_waiters`, a
   deque, add to it, or put another in its place.  So as long as somebody has it who
   has read or set it, or anything of others' is in it, the deque has them all, and is
   searched as asyncio does. */

#ifndef GATEDCORO_SEMAPHORE_QUEUE_H
#define GATEDCORO_SEMAPHORE_QUEUE_H

#include "coroutines/semaphore_waiter.h"

/* What `_waiters` is. */
typedef enum {
    WAITERS_OURS,  /* a deque, which is made when it is asked for */
    WAITERS_GIVEN, /* one that somebody has put there */
    WAITERS_NONE,  /* so did somebody with None, and nobody has waited since */
} WaitersState;

typedef struct {
    PyObject_HEAD
    PyObject *loop; /* in which they wait; NULL as long as nobody has */
    WaiterLink waiting;
    WaiterLink admitted;
    Py_ssize_t count; /* of those on both rings */
    PyObject *deque;  /* has them, in place of the rings; or NULL */
    WaitersState waiters;
} SemaphoreQueueObject;

/*** The deque ***/

/* Goes through both rings beside a list (or NULL), whose items are set if they are
   NULL: is it all the same, in the same order? */
static bool
semaphore_queue_is_listed(SemaphoreQueueObject *self, PyObject *list)
{
    if (PyList_GET_SIZE(list) != self->count) {
        return false;
    }
    Py_ssize_t at = 0;
    WaiterLink *const rings[] = {&self->admitted, &self->waiting};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(rings); i++) {
        for (WaiterLink *link = rings[i]->next; link != rings[i];
             link = link->next, at++) {
            PyObject *waiter = (PyObject *)waiter_of(link);
            if (PyList_GET_ITEM(list, at) == NULL) {
                PyList_SET_ITEM(list, at, Py_NewRef(waiter));
            }
            else if (PyList_GET_ITEM(list, at) != waiter) {
                return false;
            }
        }
    }
    return true;
}

/* Takes everybody off the rings and puts them into a deque, from here on.  -1 on
   error.  Up to 3.11 the collector may run while objects are made, and anything in
   that: then it is done once more. */
static int
semaphore_queue_publish(core_state *state, SemaphoreQueueObject *self)
{
    while (self->deque == NULL) {
        PyObject *list = PyList_New(self->count);
        PyObject *deque = NULL;
        if (list != NULL && semaphore_queue_is_listed(self, list)) {
            deque = PyObject_CallOneArg(state->deque, list);
        }
        if (list == NULL || PyErr_Occurred()) {
            Py_XDECREF(list);
            return -1;
        }
        if (deque != NULL && self->deque == NULL
            && semaphore_queue_is_listed(self, list)) {
            self->deque = Py_NewRef(deque);
            self->waiters = WAITERS_OURS;
            SemaphoreWaiterObject *waiter;
            while ((waiter = waiter_ring_first(&self->admitted)) != NULL
                   || (waiter = waiter_ring_first(&self->waiting)) != NULL) {
                waiter_take_off(waiter);
                Py_DECREF(waiter); /* the list has it, too */
            }
            self->count = 0;
        }
        Py_XDECREF(deque);
        Py_DECREF(list);
    }
    return 0;
}

/* Who is in the deque, as a list: new reference. */
static inline PyObject *
semaphore_queue_listed(SemaphoreQueueObject *self)
{
    return PySequence_List(self->deque);
}

/* Are they all waiters of ours? */
static bool
semaphore_waiters_are_own(core_state *state, PyObject *list)
{
    bool own = true;
    for (Py_ssize_t i = 0; own && i < PyList_GET_SIZE(list); i++) {
        own =
            Py_IS_TYPE(PyList_GET_ITEM(list, i), state->semaphore_waiter_type);
    }
    return own;
}

/* If nobody else has the deque any more, nor has put anything into it, the rings have
   them all again. */
static void
semaphore_queue_withdraw(core_state *state, SemaphoreQueueObject *self)
{
    if (self->deque == NULL || self->waiters != WAITERS_OURS
        || Py_REFCNT(self->deque) != 1) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *list = semaphore_queue_listed(self);
    if (list == NULL) {
        PyErr_Clear(); /* later, then */
    }
    /* What the collector has run meanwhile may have changed it, up to 3.11. */
    else if (self->deque != NULL && self->waiters == WAITERS_OURS
             && Py_REFCNT(self->deque) == 1
             && PyObject_Size(self->deque) == PyList_GET_SIZE(list)
             && semaphore_waiters_are_own(state, list)) {
        PyObject *deque = self->deque;
        self->deque = NULL;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            SemaphoreWaiterObject *waiter =
                SemaphoreWaiterObject_CAST(PyList_GET_ITEM(list, i));
            if (!waiter_is_on_ring(waiter)) { /* else it was there twice */
                waiter_insert_before(
                    (SemaphoreWaiterObject *)Py_NewRef(waiter),
                    waiter->is_admitted ? &self->admitted : &self->waiting);
                self->count++;
            }
        }
        Py_DECREF(deque);
    }
    Py_XDECREF(list);
    restore_exception(raised);
}

/* Does one of the deque wait, or has one been admitted?  Runs Python code. */
static int
semaphore_deque_is_occupied(core_state *state, SemaphoreQueueObject *self)
{
    PyObject *list = semaphore_queue_listed(self);
    int cancelled = list == NULL ? -1 : 1;
    for (Py_ssize_t i = 0; cancelled > 0 && i < PyList_GET_SIZE(list); i++) {
        cancelled =
            answer_of_method(PyList_GET_ITEM(list, i), state->str_cancelled);
    }
    Py_XDECREF(list);
    return cancelled < 0 ? -1 : !cancelled;
}

/* The first one of the deque that waits: 1, with a new reference; 0, or -1.
   Runs Python code. */
static int
semaphore_deque_first(core_state *state, SemaphoreQueueObject *self,
                      PyObject **first)
{
    *first = NULL;
    PyObject *list = semaphore_queue_listed(self);
    int done = list == NULL ? -1 : 1;
    for (Py_ssize_t i = 0; done > 0 && i < PyList_GET_SIZE(list); i++) {
        PyObject *waiter = PyList_GET_ITEM(list, i);
        done = answer_of_method(waiter, state->str_done);
        if (done == 0) {
            *first = Py_NewRef(waiter);
        }
    }
    Py_XDECREF(list);
    return done < 0 ? -1 : !done;
}

/*** The queue ***/

/* An empty one: new reference. */
static SemaphoreQueueObject *
semaphore_queue_new(core_state *state)
{
    PyTypeObject *type = state->semaphore_queue_type;
    SemaphoreQueueObject *self =
        (SemaphoreQueueObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        waiter_ring_init(&self->waiting);
        waiter_ring_init(&self->admitted);
    }
    return self;
}

/* Puts a waiter at the end.  Runs no Python code of others. */
static int
semaphore_queue_join(core_state *state, SemaphoreQueueObject *self,
                     SemaphoreWaiterObject *waiter)
{
    assert(!waiter->is_admitted);
    semaphore_queue_withdraw(state, self);
    if (self->waiters == WAITERS_NONE) {
        self->waiters = WAITERS_OURS;
    }
    if (self->deque != NULL) {
        return call_method_for_effect(self->deque, state->str_append,
                                      (PyObject *)waiter);
    }
    waiter_insert_before((SemaphoreWaiterObject *)Py_NewRef(waiter),
                         &self->waiting);
    self->count++;
    return 0;
}

/* Takes a waiter from wherever it is; it need not be there any more.  Keeps the
   exception being raised.  Runs Python code. */
static void
semaphore_queue_leave(core_state *state, SemaphoreQueueObject *self,
                      SemaphoreWaiterObject *waiter)
{
    if (waiter_is_on_ring(waiter)) {
        waiter_take_off(waiter);
        self->count--;
        Py_DECREF(waiter); /* the caller has it */
        return;
    }
    if (self->deque == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *deque = Py_NewRef(self->deque);
    if (call_method_for_effect(deque, state->str_remove, (PyObject *)waiter)
        < 0) {
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
        }
        else {
            PyErr_WriteUnraisable(deque);
        }
    }
    Py_DECREF(deque);
    semaphore_queue_withdraw(state, self);
    restore_exception(raised);
}

/* Would whoever comes now overtake somebody?  1, 0, or -1.  Runs Python code. */
static int
semaphore_queue_is_occupied(core_state *state, SemaphoreQueueObject *self)
{
    semaphore_queue_withdraw(state, self);
    while (self->deque == NULL) {
        SemaphoreWaiterObject *first = waiter_ring_first(&self->waiting);
        if (self->count == 0) {
            return 0;
        }
        if (first == NULL || waiter_ring_first(&self->admitted) != NULL) {
            return 1;
        }
        Py_INCREF(first);
        int cancelled = semaphore_waiter_is_done(state, first);
        if (cancelled > 0) {
            cancelled = semaphore_waiter_is_cancelled(state, first);
        }
        if (cancelled > 0) {
            semaphore_queue_leave(state, self, first);
        }
        Py_DECREF(first);
        if (cancelled <= 0) {
            return cancelled < 0 ? -1 : 1;
        }
    }
    return semaphore_deque_is_occupied(state, self);
}

/* The first one on the ring that can be handed a slot: 1, with a new reference; 0 if
   there is none, or -1.  Those that have been cancelled go; what somebody else has
   set is let past.  Runs Python code. */
static int
semaphore_queue_first(core_state *state, SemaphoreQueueObject *self,
                      PyObject **first)
{
    SemaphoreWaiterObject *waiter;
    *first = NULL;
    while ((waiter = waiter_ring_first(&self->waiting)) != NULL) {
        Py_INCREF(waiter);
        int done = semaphore_waiter_is_done(state, waiter);
        if (done == 0 && waiter_is_on_ring(waiter)) {
            *first = (PyObject *)waiter;
            return 1;
        }
        int cancelled =
            done > 0 ? semaphore_waiter_is_cancelled(state, waiter) : done;
        if (cancelled > 0) {
            semaphore_queue_leave(state, self, waiter);
        }
        else if (cancelled == 0 && waiter_is_on_ring(waiter)) {
            waiter_take_off(waiter);
            waiter_insert_before(waiter, &self->admitted);
        }
        Py_DECREF(waiter);
        if (cancelled < 0) {
            return -1;
        }
    }
    return 0;
}

/*** Lifecycle ***/

static inline SemaphoreQueueObject *
SemaphoreQueueObject_CAST(PyObject *op)
{
    return (SemaphoreQueueObject *)op;
}

static int
semaphore_queue_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    SemaphoreQueueObject *self = SemaphoreQueueObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->deque);
    WaiterLink *const rings[] = {&self->admitted, &self->waiting};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(rings); i++) {
        for (WaiterLink *link = rings[i]->next;
             link != NULL && link != rings[i]; link = link->next) {
            Py_VISIT(waiter_of(link));
        }
    }
    return 0;
}

static int
semaphore_queue_tp_clear(PyObject *op)
{
    SemaphoreQueueObject *self = SemaphoreQueueObject_CAST(op);
    WaiterLink *const rings[] = {&self->admitted, &self->waiting};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(rings); i++) {
        SemaphoreWaiterObject *waiter;
        while ((waiter = waiter_ring_first(rings[i])) != NULL) {
            waiter_take_off(waiter);
            self->count--;
            Py_DECREF(waiter);
        }
    }
    Py_CLEAR(self->loop);
    Py_CLEAR(self->deque);
    return 0;
}

static void
semaphore_queue_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)semaphore_queue_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot semaphore_queue_slots[] = {
    {Py_tp_dealloc, semaphore_queue_tp_dealloc},
    {Py_tp_traverse, semaphore_queue_tp_traverse},
    {Py_tp_clear, semaphore_queue_tp_clear},
    {0, NULL},
};

static PyType_Spec semaphore_queue_spec = {
    .name = "gatedcoro._core._SemaphoreQueue",
    .basicsize = sizeof(SemaphoreQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = semaphore_queue_slots,
};

#endif /* GATEDCORO_SEMAPHORE_QUEUE_H */
