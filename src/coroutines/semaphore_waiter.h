/* Semaphore waiter: one place in the queue of a Semaphore.

   It is the Future of an acquire(), or stands for an owner, which is told.  Python code
   finds it in `_waiters`, among others': there it answers as a Future does. */

#ifndef GATEDCORO_SEMAPHORE_WAITER_H
#define GATEDCORO_SEMAPHORE_WAITER_H

#include "coroutines/await.h"

typedef struct WaiterLink {
    struct WaiterLink *previous;
    struct WaiterLink *next;
} WaiterLink;

/* Who waits without a Future. */
typedef struct {
    /* A slot is handed over: 1 if the owner takes it, 0 if it wants none after all,
       -1 with an exception: it has not.  Runs Python code. */
    int (*admitted)(PyObject *owner);
} SemaphoreOwnerCalls;

typedef struct {
    PyObject_HEAD
    WaiterLink link;  /* on a ring of the queue, which owns a reference then */
    PyObject *future; /* on which an acquire() waits; or NULL: there is ... */
    PyObject *owner;  /* ... an owner */
    const SemaphoreOwnerCalls *calls;
    bool is_admitted; /* it has a slot */
} SemaphoreWaiterObject;

/*** Rings ***/

static inline void
waiter_ring_init(WaiterLink *ring)
{
    ring->previous = ring->next = ring;
}

static inline SemaphoreWaiterObject *
waiter_of(WaiterLink *link)
{
    size_t offset = offsetof(SemaphoreWaiterObject, link);
    return (SemaphoreWaiterObject *)(void *)((char *)link - offset);
}

/* The first one on a ring (borrowed), or NULL. */
static inline SemaphoreWaiterObject *
waiter_ring_first(WaiterLink *ring)
{
    return ring->next == ring ? NULL : waiter_of(ring->next);
}

static inline bool
waiter_is_on_ring(const SemaphoreWaiterObject *self)
{
    return self->link.next != NULL;
}

/* Takes over the caller's reference. */
static void
waiter_insert_before(SemaphoreWaiterObject *self, WaiterLink *next)
{
    assert(!waiter_is_on_ring(self));
    self->link.next = next;
    self->link.previous = next->previous;
    self->link.previous->next = &self->link;
    next->previous = &self->link;
}

/* Gives the ring's reference to the caller. */
static void
waiter_take_off(SemaphoreWaiterObject *self)
{
    assert(waiter_is_on_ring(self));
    self->link.previous->next = self->link.next;
    self->link.next->previous = self->link.previous;
    self->link.previous = self->link.next = NULL;
}

/*** Waiters ***/

/* What waits on a Future, or for an owner, told by `calls`; the other is NULL.
   New reference.  Runs no Python code. */
static SemaphoreWaiterObject *
semaphore_waiter_new(core_state *state, PyObject *future, PyObject *owner,
                     const SemaphoreOwnerCalls *calls)
{
    PyTypeObject *type = state->semaphore_waiter_type;
    SemaphoreWaiterObject *self = (SemaphoreWaiterObject *)spares_alloc_of(
        &state->semaphore_waiters, type, sizeof(SemaphoreWaiterObject));
    if (self != NULL) {
        self->future = Py_XNewRef(future);
        self->owner = Py_XNewRef(owner);
        self->calls = calls;
    }
    return self;
}

/* Has it a slot, or will never take one?  1, 0, or -1.  Runs Python code. */
static int
semaphore_waiter_is_done(core_state *state, SemaphoreWaiterObject *self)
{
    PyObject *future = self->future;
    if (self->is_admitted || future == NULL) {
        return self->is_admitted || self->owner == NULL;
    }
    if (Py_IS_TYPE(future, state->future_base)) {
        return future_is_done(state, future);
    }
    Py_INCREF(future);
    int done = answer_of_method(future, state->str_done);
    Py_DECREF(future);
    return done;
}

/* Runs Python code. */
static int
semaphore_waiter_is_cancelled(core_state *state, SemaphoreWaiterObject *self)
{
    if (self->is_admitted || self->future == NULL) {
        return !self->is_admitted && self->owner == NULL;
    }
    PyObject *future = Py_NewRef(self->future);
    int cancelled = answer_of_method(future, state->str_cancelled);
    Py_DECREF(future);
    return cancelled;
}

/* Tells it that it has a slot: 1; 0 if the owner wants none; -1 with an exception.  In
   the last two cases the slot is whose it was, unless `*is_dealt_with`: the waiter has
   it, or has given it back.  Runs Python code. */
static int
semaphore_waiter_tell(core_state *state, SemaphoreWaiterObject *self,
                      bool *is_dealt_with)
{
    self->is_admitted = true;
    *is_dealt_with = false;
    if (self->future == NULL) {
        PyObject *owner = Py_XNewRef(self->owner);
        int taken = owner == NULL ? 0 : self->calls->admitted(owner);
        Py_XDECREF(owner);
        self->is_admitted = false; /* it is the owner's now, or nobody's */
        return taken;
    }
    PyObject *future = Py_NewRef(self->future);
    int status =
        call_method_for_effect(future, state->str_set_result, Py_True);
    if (status < 0) {
        PyObject *raised = fetch_exception();
        if (self->is_admitted
            && answer_of_method(future, state->str_done) == 0) {
            self->is_admitted = false; /* nobody would make it go on */
        }
        else {
            *is_dealt_with = true;
        }
        PyErr_Clear();
        restore_exception(raised);
    }
    Py_DECREF(future);
    return status < 0 ? -1 : 1;
}

/*** What Python code sees of a waiter ***/

static inline SemaphoreWaiterObject *
SemaphoreWaiterObject_CAST(PyObject *op)
{
    return (SemaphoreWaiterObject *)op;
}

/* Runs Python code. */
static PyObject *
semaphore_waiter_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int done =
        semaphore_waiter_is_done(state_of(op), SemaphoreWaiterObject_CAST(op));
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* Runs Python code. */
static PyObject *
semaphore_waiter_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int cancelled = semaphore_waiter_is_cancelled(
        state_of(op), SemaphoreWaiterObject_CAST(op));
    return cancelled < 0 ? NULL : PyBool_FromLong(cancelled);
}

/* Who releases the semaphore hands a slot over.  Runs Python code. */
static PyObject *
semaphore_waiter_set_result(PyObject *op, PyObject *Py_UNUSED(value))
{
    if (Py_EnterRecursiveCall(" while a semaphore's slot is handed over")) {
        return NULL;
    }
    bool ignored;
    int taken = semaphore_waiter_tell(
        state_of(op), SemaphoreWaiterObject_CAST(op), &ignored);
    Py_LeaveRecursiveCall();
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

/* Runs Python code. */
static PyObject *
semaphore_waiter_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"msg", NULL};
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords,
                                     &message)) {
        return NULL;
    }
    PyObject *future = Py_XNewRef(SemaphoreWaiterObject_CAST(op)->future);
    if (future == NULL) {
        Py_RETURN_FALSE;
    }
    PyObject *answer =
        PyObject_CallMethodOneArg(future, state_of(op)->str_cancel, message);
    Py_DECREF(future);
    return answer;
}

static int
semaphore_waiter_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    SemaphoreWaiterObject *self = SemaphoreWaiterObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->future);
    Py_VISIT(self->owner);
    return 0;
}

static int
semaphore_waiter_tp_clear(PyObject *op)
{
    SemaphoreWaiterObject *self = SemaphoreWaiterObject_CAST(op);
    Py_CLEAR(self->future);
    Py_CLEAR(self->owner);
    return 0;
}

static void
semaphore_waiter_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    assert(!waiter_is_on_ring(SemaphoreWaiterObject_CAST(op)));
    PyObject_GC_UnTrack(op);
    (void)semaphore_waiter_tp_clear(op);
    core_state *state = state_of_type(type);
    spares_keep(state != NULL ? &state->semaphore_waiters : NULL, op);
    Py_DECREF(type);
}

static PyMethodDef semaphore_waiter_methods[] = {
    {"done", semaphore_waiter_done, METH_NOARGS, NULL},
    {"cancelled", semaphore_waiter_cancelled, METH_NOARGS, NULL},
    {"set_result", semaphore_waiter_set_result, METH_O, NULL},
    {"cancel", (PyCFunction)(void (*)(void))semaphore_waiter_cancel,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot semaphore_waiter_slots[] = {
    {Py_tp_dealloc, semaphore_waiter_tp_dealloc},
    {Py_tp_traverse, semaphore_waiter_tp_traverse},
    {Py_tp_clear, semaphore_waiter_tp_clear},
    {Py_tp_methods, semaphore_waiter_methods},
    {0, NULL},
};

static PyType_Spec semaphore_waiter_spec = {
    .name = "gatedcoro._core._SemaphoreWaiter",
    .basicsize = sizeof(SemaphoreWaiterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = semaphore_waiter_slots,
};

#endif /* GATEDCORO_SEMAPHORE_WAITER_H */
