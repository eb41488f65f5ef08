/* Semaphore coroutine: what acquire(), __aenter__() and __aexit__() of a Semaphore
   return.  Nothing happens before its first step.

      acquire, enter   takes a slot, or waits in the queue until one is handed
                       over; however it ends while it waits, no slot is lost
      leave            gives one back

   `async with` calls acquire() and release(), and acquire() calls locked(), where
   somebody has replaced them. */

#ifndef GATEDCORO_SEMAPHORE_COROUTINE_H
#define GATEDCORO_SEMAPHORE_COROUTINE_H

#include "coroutines/coroutine_type.h"
#include "coroutines/semaphore.h"

typedef enum {
    SEMAPHORE_ACQUIRES,
    SEMAPHORE_ENTERS,
    SEMAPHORE_LEAVES,
} SemaphoreAction;

typedef struct {
    CoroutineObject base;
    SemaphoreAction action;
    PyObject *semaphore;
    SemaphoreWaiterObject *waiter; /* in the queue; or NULL */
    PyObject *delegate; /* what is driven: of a Future, or of an acquire() */
} SemaphoreCoroutineObject;

/*** Steps ***/

/* There was no slot.  Puts a waiter into the queue, whose Future is to be driven: 0;
   1 if it has a slot after all (`looks`: the loop may have run anything since); -1 on
   error.  Runs Python code. */
static int
semaphore_coroutine_wait(core_state *state, SemaphoreCoroutineObject *self,
                         bool looks)
{
    SemaphoreObject *semaphore = SemaphoreObject_CAST(self->semaphore);
    SemaphoreWaiterObject *waiter = semaphore_make_waiter(state, semaphore);
    if (waiter == NULL) {
        return -1;
    }
    self->delegate = await_iterator(state, waiter->future, NULL);
    int taken = self->delegate == NULL ? -1
                : looks                ? semaphore_take(state, semaphore)
                                       : 0;
    SemaphoreQueueObject *queue = semaphore_queue_of(semaphore);
    if (taken == 0 && queue != NULL) {
        taken = semaphore_queue_join(state, queue, waiter);
        if (taken == 0) {
            self->waiter = (SemaphoreWaiterObject *)Py_NewRef(waiter);
        }
    }
    Py_DECREF(waiter);
    return taken;
}

/* 1 if it has a slot now, 0 if something is to be driven for one, -1 on error.
   Runs Python code. */
static int
semaphore_coroutine_begin(core_state *state, SemaphoreCoroutineObject *self)
{
    PyObject *op = self->semaphore;
    if (self->action == SEMAPHORE_ENTERS
        && !semaphore_uses_own(state, op, OWN_ACQUIRE)) {
        PyObject *acquiring =
            PyObject_CallMethodNoArgs(op, state->str_acquire);
        if (acquiring != NULL) {
            self->delegate = await_iterator(state, acquiring, NULL);
            Py_DECREF(acquiring);
        }
        return self->delegate == NULL ? -1 : 0;
    }
    int taken;
    bool counts = semaphore_uses_own(state, op, OWN_LOCKED);
    if (counts) {
        taken = semaphore_take(state, SemaphoreObject_CAST(op));
    }
    else {
        int locked = answer_of_method(op, state->str_locked);
        taken = locked < 0 ? -1 : !locked;
        if (taken > 0) {
            taken = semaphore_add(SemaphoreObject_CAST(op), -1) < 0 ? -1 : 1;
        }
    }
    return taken != 0 ? taken : semaphore_coroutine_wait(state, self, counts);
}

/* Gives a slot back, by release() where that has been replaced.  -1 on error.
   Runs Python code. */
static int
semaphore_leave(core_state *state, PyObject *op)
{
    if (semaphore_uses_own(state, op, OWN_RELEASE)) {
        return semaphore_give_back(state, SemaphoreObject_CAST(op));
    }
    return call_method_for_effect(op, state->str_release, NULL);
}

static inline void
semaphore_coroutine_clear(SemaphoreCoroutineObject *self)
{
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->semaphore);
}

/* Drives what it waits for.  Runs Python code. */
static PySendResult
semaphore_coroutine_drive(core_state *state, SemaphoreCoroutineObject *self,
                          PyObject *value, PyObject *exception,
                          PyObject **result)
{
    /* An acquire() of somebody's may lead back to here, in C.  What is closed runs
       on one level more, however deep that is. */
    bool counts =
        self->waiter == NULL
        && (exception == NULL
            || !PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit));
    if (counts && enter_coroutine_recursion() < 0) {
        return PYGEN_ERROR;
    }
    PyObject *delegate = Py_NewRef(self->delegate);
    PySendResult status = drive(state, delegate, value, exception, result);
    Py_DECREF(delegate);
    if (counts) {
        leave_coroutine_recursion();
    }
    if (status != PYGEN_NEXT && self->waiter != NULL) {
        PyObject *semaphore = self->semaphore;
        semaphore_end_waiting(state, SemaphoreObject_CAST(semaphore),
                              self->waiter, status == PYGEN_RETURN);
    }
    return status;
}

/* Runs Python code. */
static PySendResult
semaphore_coroutine_step(CoroutineObject *op, PyObject *value,
                         PyObject *exception, PyObject **result)
{
    SemaphoreCoroutineObject *self = (SemaphoreCoroutineObject *)op;
    core_state *state = state_of((PyObject *)op);
    PySendResult status = PYGEN_RETURN;
    if (self->delegate != NULL) {
        status =
            semaphore_coroutine_drive(state, self, value, exception, result);
    }
    else if (self->action == SEMAPHORE_LEAVES) {
        if (semaphore_leave(state, self->semaphore) < 0) {
            status = PYGEN_ERROR;
        }
    }
    else {
        int taken = semaphore_coroutine_begin(state, self);
        if (taken < 0) {
            status = PYGEN_ERROR;
        }
        else if (taken == 0) {
            status =
                semaphore_coroutine_drive(state, self, Py_None, NULL, result);
        }
    }
    if (status == PYGEN_NEXT) {
        return status;
    }
    if (status == PYGEN_RETURN) {
        Py_XSETREF(
            *result,
            Py_NewRef(self->action == SEMAPHORE_ACQUIRES ? Py_True : Py_None));
        semaphore_coroutine_clear(self);
        return status;
    }
    PyObject *raised = fetch_exception();
    semaphore_coroutine_clear(self);
    restore_exception(raised);
    return status;
}

/* A free slot is taken, or one that nobody waits for is given back, in no time. */
static inline bool
semaphore_coroutine_at_once(CoroutineObject *op, PyObject **result)
{
    SemaphoreCoroutineObject *self = (SemaphoreCoroutineObject *)op;
    SemaphoreObject *semaphore = SemaphoreObject_CAST(self->semaphore);
    if (!semaphore_is_plain(semaphore->state, self->semaphore)
        || !semaphore_count(semaphore,
                            self->action == SEMAPHORE_LEAVES ? 1 : -1)) {
        return false;
    }
    *result =
        Py_NewRef(self->action == SEMAPHORE_ACQUIRES ? Py_True : Py_None);
    op->state = CORO_CLOSED;
    Py_CLEAR(self->semaphore);
    return true;
}

static int
semaphore_coroutine_discard(CoroutineObject *op,
                            PyObject *Py_UNUSED(exception),
                            DiscardList *Py_UNUSED(rest))
{
    PyObject *raised = fetch_exception();
    semaphore_coroutine_clear((SemaphoreCoroutineObject *)op);
    restore_exception(raised);
    return 0;
}

static PyObject *
semaphore_coroutine_name(CoroutineObject *op)
{
    static const char *const names[] = {
        [SEMAPHORE_ACQUIRES] = "Semaphore.acquire",
        [SEMAPHORE_ENTERS] = "Semaphore.__aenter__",
        [SEMAPHORE_LEAVES] = "Semaphore.__aexit__",
    };
    return PyUnicode_InternFromString(
        names[((SemaphoreCoroutineObject *)op)->action]);
}

static PyObject *
semaphore_coroutine_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
semaphore_coroutine_awaited(CoroutineObject *op)
{
    return ((SemaphoreCoroutineObject *)op)->delegate;
}

static const CoroutineKind semaphore_coroutine_kind = {
    .at_once = semaphore_coroutine_at_once,
    .step = semaphore_coroutine_step,
    .discard = semaphore_coroutine_discard,
    .name = semaphore_coroutine_name,
    .shown = semaphore_coroutine_shown,
    .awaited = semaphore_coroutine_awaited,
    .warns = true,
};

/* New reference.  Runs no Python code. */
static PyObject *
semaphore_coroutine_new(core_state *state, PyObject *semaphore,
                        SemaphoreAction action)
{
    SemaphoreCoroutineObject *self =
        (SemaphoreCoroutineObject *)spares_alloc_of(
            &state->semaphore_coroutines, state->semaphore_coroutine_type,
            sizeof(SemaphoreCoroutineObject));
    if (self != NULL) {
        coroutine_init(&self->base, &semaphore_coroutine_kind);
        self->action = action;
        self->semaphore = Py_NewRef(semaphore);
    }
    return (PyObject *)self;
}

/* What `await` calls first.  Runs Python code. */
static PyObject *
semaphore_coroutine_tp_iternext(PyObject *op)
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    PyObject *result;
    if (self->state == CORO_CREATED
        && semaphore_coroutine_at_once(self, &result)) {
        return coroutine_return(op, result);
    }
    return coroutine_tp_iternext(op);
}

/*** Lifecycle ***/

static int
semaphore_coroutine_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    SemaphoreCoroutineObject *self = (SemaphoreCoroutineObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->semaphore);
    Py_VISIT(self->waiter);
    Py_VISIT(self->delegate);
    return 0;
}

static inline int
semaphore_coroutine_tp_clear(PyObject *op)
{
    semaphore_coroutine_clear((SemaphoreCoroutineObject *)op);
    return 0;
}

static void
semaphore_coroutine_tp_dealloc(PyObject *op)
{
    coroutine_dealloc_to(op, semaphore_coroutine_tp_clear,
                         offsetof(core_state, semaphore_coroutines));
}

static PyType_Slot semaphore_coroutine_slots[] = {
    COROUTINE_SLOTS_STEPPED_BY(coroutine_am_await,
                               semaphore_coroutine_tp_iternext),
    {Py_tp_dealloc, semaphore_coroutine_tp_dealloc},
    {Py_tp_traverse, semaphore_coroutine_tp_traverse},
    {Py_tp_clear, semaphore_coroutine_tp_clear},
    {0, NULL},
};

static PyType_Spec semaphore_coroutine_spec = {
    .name = "gatedcoro._core._SemaphoreCoroutine",
    .basicsize = sizeof(SemaphoreCoroutineObject),
    .flags = COROUTINE_FLAGS,
    .slots = semaphore_coroutine_slots,
};

#endif /* GATEDCORO_SEMAPHORE_COROUTINE_H */
