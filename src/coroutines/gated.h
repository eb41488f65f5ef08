/* GatedCoroutine: `async with gate: return await item`, as one object.

      phase    ENTERING ------> BODY ------> EXITING ------> (closed)
                  | acquire()     | the        | __aexit__()
                  | __aenter__()  | item       | of other gates

   It drives one iterator at a time (`delegate`).  Any async context manager
   gates.  Semaphores of ours are counted (semaphore.h).  asyncio's are entered by
   acquire() and left by release(), or, where nobody could tell, by counting
   directly (asyncio_semaphore.h).  When one is contended, its own acquire()
   queues, so all its users are served in order.

   Defects of asyncio.Semaphore that are cured here (cpython: Lib/asyncio/
   locks.py): CancelledError thrown into a pending acquire() counts a slot
   twice until 3.12; close() and other exceptions lose a slot that release()
   has already handed over.

   An item that never ran is closed on every way out. */

#ifndef GATEDCORO_GATED_H
#define GATEDCORO_GATED_H

#include "coroutines/async_with.h"
#include "coroutines/asyncio_semaphore.h"
#include "coroutines/item.h"
#include "coroutines/semaphore_coroutine.h"

typedef enum {
    GATED_ENTERING,
    GATED_BODY,
    GATED_EXITING,
} GatedPhase;

/* How the gate is entered and left; known once it is being entered. */
typedef enum {
    GATE_ANY,               /* as `async with` does */
    GATE_ASYNCIO_SEMAPHORE, /* by its counter, acquire() and release() */
    GATE_SEMAPHORE,         /* of ours, by its counter */
} GateKind;

/* For whom an item waits at the gate. */
typedef struct {
    /* The owner is told once of each item: that it holds a slot of the gate and
       begins (`entered`), or that it has been given up and does not wait any
       more.  -1 on an interrupt.  Runs Python code. */
    int (*told)(PyObject *owner, bool entered);
} GatedOwnerCalls;

typedef struct {
    CoroutineObject base;
    GatedPhase phase;
    GateKind gate_kind;
    ItemKind kind;
    ItemDrive drive;
    PyObject *gate;
    PyObject *item;
    PyObject *argument;  /* with which a callable is called, or NULL */
    bool holds_gated;    /* the item is one for the next gate of a row */
    Py_ssize_t index;    /* of the item in its call */
    PyObject *delegate;  /* what is driven now, or NULL */
    PyObject *waiter;    /* what acquire() yielded last, or NULL */
    PyObject *aexit;     /* gate.__aexit__, bound */
    PyObject *value;     /* what the body returned ... */
    PyObject *exception; /* ... or raised, while EXITING */
    PyObject *owner;     /* owned; NULL: there is none, or it has been told */
    const GatedOwnerCalls *owner_calls;
} GatedObject;

static inline GatedObject *
GatedObject_CAST(PyObject *op)
{
    return (GatedObject *)op;
}

/* It is new; the owner is told what comes of it. */
static void
gated_set_owner(GatedObject *self, PyObject *owner,
                const GatedOwnerCalls *calls)
{
    self->owner = Py_NewRef(owner);
    self->owner_calls = calls;
}

/* -1 on an interrupt, only if it has entered.  Tells it once.
   Runs Python code. */
static int
gated_tell_owner(GatedObject *self, bool entered)
{
    PyObject *owner = self->owner;
    self->owner = NULL;
    if (owner == NULL) {
        return 0;
    }
    int status = self->owner_calls->told(owner, entered);
    Py_DECREF(owner);
    return status;
}

/*** Entering ***/

/* Goes into the body: a slot is held from here on.  -1 on an interrupt.
   Runs Python code. */
static int
gated_entered(GatedObject *self)
{
    self->phase = GATED_BODY;
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->waiter);
    return gated_tell_owner(self, true);
}

/* How to enter, and whether that is done: 1; 0 if it is not; -1 on error.
   Runs Python code. */
static int
gated_try_to_enter(core_state *state, GatedObject *self)
{
    if (semaphore_is_plain(state, self->gate)
        && semaphore_count(SemaphoreObject_CAST(self->gate), -1)) {
        self->gate_kind = GATE_SEMAPHORE;
        return 1;
    }
    self->gate_kind = GATE_ASYNCIO_SEMAPHORE;
    int taken = asyncio_semaphore_count(state, self->gate, -1);
    if (taken == 0 && semaphore_is_counted(state, self->gate)) {
        self->gate_kind = GATE_SEMAPHORE;
        return semaphore_take(state, SemaphoreObject_CAST(self->gate));
    }
    if (taken == 0
        && !asyncio_semaphore_acquire_is_intact(state, self->gate)) {
        self->gate_kind = GATE_ANY;
    }
    return taken;
}

/* Enters at once (1), or leaves an iterator to be driven (0); -1 on error.
   Runs Python code. */
static int
gated_enter(core_state *state, GatedObject *self)
{
    int entered = gated_try_to_enter(state, self);
    if (entered != 0) {
        return entered;
    }
    switch (self->gate_kind) {
    case GATE_SEMAPHORE:
        self->delegate =
            semaphore_coroutine_new(state, self->gate, SEMAPHORE_ACQUIRES);
        break;
    case GATE_ANY:
        if (!PyErr_Occurred()) {
            self->delegate = async_with_enter(state, self->gate, &self->aexit);
        }
        break;
    case GATE_ASYNCIO_SEMAPHORE: {
        PyObject *acquiring =
            PyObject_CallMethodNoArgs(self->gate, state->str_acquire);
        if (acquiring != NULL) {
            self->delegate = await_iterator(state, acquiring, NULL);
            Py_DECREF(acquiring);
        }
        break;
    }
    }
    return self->delegate == NULL ? -1 : 0;
}

/* Drives the iterator that enters.  Runs Python code. */
static PySendResult
gated_step_entering(core_state *state, GatedObject *self, PyObject *value,
                    PyObject *exception, PyObject **result)
{
    PyObject *delegate = Py_NewRef(self->delegate);
    bool has_waiter =
        self->gate_kind == GATE_ASYNCIO_SEMAPHORE && self->waiter != NULL;
    if (ACQUIRE_MISCOUNTS_A_THROWN_CANCELLATION && exception != NULL
        && has_waiter
        && PyErr_GivenExceptionMatches(exception, state->cancelled_error)
        && !ask_future(self->waiter, state->str_done)) {
        (void)ask_future(self->waiter, state->str_cancel);
    }
    PySendResult status = drive(state, delegate, value, exception, result);
    Py_DECREF(delegate);
    if (status == PYGEN_NEXT) {
        Py_XSETREF(self->waiter, Py_NewRef(*result));
    }
    else if (status == PYGEN_ERROR && has_waiter) {
        asyncio_semaphore_return_slot(state, self->gate, self->waiter);
    }
    return status;
}

/*** Leaving ***/

/* Makes the body's exception, if it ended with one, the handled one, as
   it is in `async with`: what the gate raises has it as its context. */
static PyObject *
gated_begin_handling(GatedObject *self)
{
    if (self->exception == NULL) {
        return NULL;
    }
    return swap_handled_exception(Py_NewRef(self->exception));
}

static void
gated_end_handling(GatedObject *self, PyObject *before)
{
    if (self->exception != NULL) {
        Py_XDECREF(swap_handled_exception(before));
    }
}

/* The body has ended: `value` or `exception` is set.  Gives the slot back: the
   final outcome, or PYGEN_NEXT with nothing in `*result` if an iterator has to
   be driven first.  Runs Python code. */
static PySendResult
gated_leave(core_state *state, GatedObject *self)
{
    Py_CLEAR(self->delegate);
    self->phase = GATED_EXITING;
    PyObject *handled = gated_begin_handling(self);
    PySendResult status = PYGEN_ERROR;
    switch (self->gate_kind) {
    case GATE_SEMAPHORE:
        if (semaphore_leave(state, self->gate) == 0) {
            status = PYGEN_RETURN;
        }
        break;
    case GATE_ANY:
        self->delegate = async_with_leave(state, self->aexit, self->exception);
        if (self->delegate != NULL) {
            status = PYGEN_NEXT;
        }
        break;
    case GATE_ASYNCIO_SEMAPHORE: {
        int given = asyncio_semaphore_count(state, self->gate, 1);
        if (given == 0) {
            given =
                1
                + call_method_for_effect(self->gate, state->str_release, NULL);
        }
        if (given > 0) {
            status = PYGEN_RETURN;
        }
        break;
    }
    }
    gated_end_handling(self, handled);
    return status;
}

/* The gate is left: hands the body's outcome over.  `suppress` is what
   __aexit__() returned, or NULL.  Runs Python code. */
static PySendResult
gated_outcome(GatedObject *self, PyObject *suppress, PyObject **result)
{
    PyObject *exception = self->exception;
    if (exception == NULL) {
        *result = self->value;
        self->value = NULL;
        return PYGEN_RETURN;
    }
    int suppressed = suppress == NULL ? 0 : PyObject_IsTrue(suppress);
    if (suppressed < 0) {
        return PYGEN_ERROR;
    }
    if (suppressed) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    self->exception = NULL;
    raise_exception(exception);
    return PYGEN_ERROR;
}

/* Drives the iterator that leaves.  Runs Python code. */
static PySendResult
gated_step_exiting(core_state *state, GatedObject *self, PyObject *value,
                   PyObject *exception, PyObject **result)
{
    PyObject *delegate = Py_NewRef(self->delegate);
    PyObject *handled = gated_begin_handling(self);
    PySendResult status = drive(state, delegate, value, exception, result);
    gated_end_handling(self, handled);
    Py_DECREF(delegate);
    return status;
}

/*** Steps ***/

/* The item is never reached: nobody waits for the gate any more, and the item
   is the caller's (owned; NULL for a callable).  Runs Python code. */
static PyObject *
gated_give_up(GatedObject *self)
{
    PyObject *item = self->item;
    self->item = NULL;
    (void)gated_tell_owner(self, false);
    if (self->kind == ITEM_CALLABLE) {
        Py_CLEAR(item);
        Py_CLEAR(self->argument);
    }
    return item;
}

/* The same, and the item is closed.  Keeps the exception being raised.
   Runs Python code. */
static void
gated_close_item(core_state *state, GatedObject *self)
{
    PyObject *raised = fetch_exception();
    PyObject *item = gated_give_up(self);
    if (item != NULL) {
        close_given_up(state, item, self->drive == DRIVE_ITSELF);
        Py_DECREF(item);
    }
    restore_exception(raised);
}

/* Drives the item.  A chain of gated coroutines is a recursion in C, of which
   the interpreter knows nothing by itself.  Runs Python code. */
static PySendResult
gated_step_body(core_state *state, GatedObject *self, bool first,
                PyObject *value, PyObject *exception, PyObject **result)
{
    if (!first && self->delegate == NULL) { /* it was detached, and raised */
        raise_exception(Py_NewRef(exception));
        return PYGEN_ERROR;
    }
    /* What is closed runs on one level more, however deep that is. */
    bool counts =
        exception == NULL
        || !PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit);
    if (counts && enter_coroutine_recursion() < 0) {
        if (first) {
            gated_close_item(state, self);
        }
        return PYGEN_ERROR;
    }
    PySendResult status = PYGEN_ERROR;
    if (first) {
        value = Py_None;
        exception = NULL;
        self->delegate = item_begin(state, &self->item, &self->argument,
                                    self->kind, self->drive, self->index);
    }
    if (self->delegate != NULL) {
        PyObject *delegate = Py_NewRef(self->delegate);
        status = drive(state, delegate, value, exception, result);
        Py_DECREF(delegate);
    }
    if (counts) {
        leave_coroutine_recursion();
    }
    return status;
}

static void
gated_clear_iteration(GatedObject *self)
{
    Py_CLEAR(self->delegate);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->aexit);
    Py_CLEAR(self->gate);
    Py_CLEAR(self->value);
    Py_CLEAR(self->exception);
}

/* Runs Python code. */
static PySendResult
gated_run(core_state *state, GatedObject *self, PyObject *value,
          PyObject *exception, PyObject **result)
{
    PySendResult status;
    bool first = false; /* is this the first step of `delegate`? */

    if (self->phase == GATED_ENTERING) {
        int entered = 0;
        if (self->delegate == NULL) {
            entered = gated_enter(state, self);
        }
        if (entered < 0) {
            gated_close_item(state, self);
            return PYGEN_ERROR;
        }
        if (!entered) {
            status =
                gated_step_entering(state, self, value, exception, result);
            if (status == PYGEN_NEXT) {
                return status;
            }
            if (status == PYGEN_ERROR) {
                gated_close_item(state, self);
                return status;
            }
            Py_CLEAR(*result); /* what __aenter__() returned */
        }
        if (gated_entered(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        first = true;
    }
    if (self->phase == GATED_BODY) {
        status = gated_step_body(state, self, first, value, exception, result);
        if (status == PYGEN_NEXT) {
            return status;
        }
        if (status == PYGEN_RETURN) {
            self->value = *result;
            *result = NULL;
        }
        else {
            make_raisable();
            self->exception = fetch_exception();
        }
        Py_CLEAR(self->item);
        status = gated_leave(state, self);
        if (status == PYGEN_RETURN) {
            return gated_outcome(self, NULL, result);
        }
        if (status == PYGEN_ERROR) {
            return status;
        }
        value = Py_None;
        exception = NULL;
    }
    status = gated_step_exiting(state, self, value, exception, result);
    if (status == PYGEN_RETURN) {
        PyObject *suppress = *result;
        *result = NULL;
        status = gated_outcome(self, suppress, result);
        Py_DECREF(suppress);
    }
    return status;
}

/* Runs Python code. */
static PySendResult
gated_step(CoroutineObject *op, PyObject *value, PyObject *exception,
           PyObject **result)
{
    GatedObject *self = (GatedObject *)op;
    PySendResult status =
        gated_run(state_of((PyObject *)op), self, value, exception, result);
    if (status == PYGEN_RETURN) {
        gated_clear_iteration(self);
    }
    else if (status == PYGEN_ERROR) {
        PyObject *raised = fetch_exception();
        gated_clear_iteration(self);
        raise_exception(raised);
    }
    return status;
}

/* Runs Python code. */
static int
gated_discard(CoroutineObject *op, PyObject *Py_UNUSED(exception),
              DiscardList *rest)
{
    GatedObject *self = (GatedObject *)op;
    PyObject *raised = fetch_exception();
    PyObject *item = gated_give_up(self);
    if (item != NULL) {
        discard_given_up(state_of((PyObject *)op), item,
                         self->drive == DRIVE_ITSELF, rest);
        Py_DECREF(item);
    }
    gated_clear_iteration(self);
    restore_exception(raised);
    return 0;
}

static CoroutineObject *
gated_detach(CoroutineObject *op)
{
    GatedObject *self = (GatedObject *)op;
    PyObject *delegate = self->delegate;
    if (self->phase != GATED_BODY || delegate == NULL
        || Py_TYPE(delegate) != Py_TYPE(op)
        || CoroutineObject_CAST(delegate)->state != CORO_SUSPENDED) {
        return NULL;
    }
    self->delegate = NULL;
    return (CoroutineObject *)delegate;
}

static PyObject *
gated_name(CoroutineObject *Py_UNUSED(op))
{
    return PyUnicode_InternFromString("gated_coro");
}

static PyObject *
gated_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
gated_awaited(CoroutineObject *op)
{
    return ((GatedObject *)op)->delegate;
}

static const CoroutineKind gated_kind = {
    .step = gated_step,
    .discard = gated_discard,
    .detach = gated_detach,
    .name = gated_name,
    .shown = gated_shown,
    .awaited = gated_awaited,
    .warns = true,
};

/* `async with gate: return await item`, or of an item of another kind; the
   caller's reference to `argument`, which may be NULL, is taken over. */
static PyObject *
gated_new(core_state *state, PyObject *gate, PyObject *item,
          PyObject *argument, ItemKind kind, ItemDrive drive, Py_ssize_t index)
{
    GatedObject *self = (GatedObject *)spares_alloc_of(
        &state->gated_coroutines, state->gated_type, sizeof(GatedObject));
    if (self == NULL) {
        Py_XDECREF(argument);
        return NULL;
    }
    coroutine_init(&self->base, &gated_kind);
    self->gate = Py_NewRef(gate);
    self->item = Py_NewRef(item);
    self->argument = argument;
    self->kind = kind;
    self->drive = drive;
    self->index = index;
    return (PyObject *)self;
}

/*** Lifecycle ***/

static int
gated_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    GatedObject *self = GatedObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->gate);
    Py_VISIT(self->item);
    Py_VISIT(self->argument);
    Py_VISIT(self->delegate);
    Py_VISIT(self->waiter);
    Py_VISIT(self->aexit);
    Py_VISIT(self->value);
    Py_VISIT(self->exception);
    Py_VISIT(self->owner);
    return 0;
}

static int
gated_tp_clear(PyObject *op)
{
    GatedObject *self = GatedObject_CAST(op);
    gated_clear_iteration(self);
    Py_CLEAR(self->item);
    Py_CLEAR(self->argument);
    Py_CLEAR(self->owner);
    return 0;
}

static void
gated_tp_dealloc(PyObject *op)
{
    coroutine_dealloc_to(op, gated_tp_clear,
                         offsetof(core_state, gated_coroutines));
}

static PyType_Slot gated_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, gated_tp_dealloc},
    {Py_tp_traverse, gated_tp_traverse},
    {Py_tp_clear, gated_tp_clear},
    {0, NULL},
};

static PyType_Spec gated_spec = {
    .name = "gatedcoro._core.GatedCoroutine",
    .basicsize = sizeof(GatedObject),
    .flags = COROUTINE_FLAGS,
    .slots = gated_slots,
};

#endif /* GATEDCORO_GATED_H */
