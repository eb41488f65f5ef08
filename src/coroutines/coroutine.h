/* Coroutine: what all our coroutine types share.

                 send/throw                yields
      CREATED ----------------> RUNNING ----------> SUSPENDED
         |                       |   ^                  |
         | close()/throw()       |   +------------------+
         v        returns/raises v        send/throw/close
      CLOSED <-------------------+

   claim   CREATED|SUSPENDED -> RUNNING, or fail with the reason
   step    the type's own; arbitrary Python code runs here
   settle  RUNNING -> SUSPENDED|CLOSED

   A type gives two functions: step(), which is called with a value or an
   exception and says what came of it, and discard(), which gives up what a
   coroutine that never ran holds.  While RUNNING is set nobody else calls
   step(); the object itself is kept alive around it.

   Words and cases are those of a native coroutine. */

#ifndef GATEDCORO_COROUTINE_H
#define GATEDCORO_COROUTINE_H

#include "coroutines/delegate.h"

typedef enum {
    CORO_CREATED,
    CORO_RUNNING,
    CORO_SUSPENDED,
    CORO_CLOSED,
} CoroutineState;

typedef struct CoroutineObject CoroutineObject;

/* Coroutines of ours that never began and are to be given up, linked through
   themselves: so a chain of them is closed in a loop, whatever its depth. */
typedef struct DiscardList {
    CoroutineObject *first; /* owned, as each next one is */
    CoroutineObject *last;
    unsigned long thread;
    struct DiscardList *next; /* of another thread, or further out */
} DiscardList;

/* What a type's coroutines do; the functions below and those of the protocol
   (coroutine_type.h) and of the Task (task.h) call them. */
typedef struct {
    /* Exactly one of `value` and `exception` is not NULL (both borrowed).  On
       PYGEN_NEXT and PYGEN_RETURN `*result` is a new reference, on PYGEN_ERROR
       it is NULL and an exception is set.  Runs Python code. */
    PySendResult (*step)(CoroutineObject *self, PyObject *value,
                         PyObject *exception, PyObject **result);
    /* Called at most once, instead of step(); `exception` is what was thrown
       (borrowed), or NULL.  Coroutines of ours that it holds go into `rest`.
       Keeps the exception being raised, and returns 0; -1 only if an interrupt
       has to take its place.  Runs Python code. */
    int (*discard)(CoroutineObject *self, PyObject *exception,
                   DiscardList *rest);
    /* It is suspended.  Is it over, for whoever wants to step or close it now?  He
       is answered as if it were closed, and nothing changes.  May be NULL.
       Runs Python code. */
    bool (*is_over)(CoroutineObject *self);
    /* Takes away what it drives, if that is a suspended coroutine of ours and the
       whole of what it does at the moment: owned, or NULL.  It will then be
       stepped with what that one raised.  May be NULL. */
    CoroutineObject *(*detach)(CoroutineObject *self);
    /* Somebody steps the coroutine although it is closed, which is the error
       being raised; it may be replaced.  May be NULL.  Runs Python code. */
    void (*refused)(CoroutineObject *self);
    /* The object goes, and nobody will step it any more.  Keeps the exception
       being raised.  May be NULL.  Runs Python code. */
    void (*dropped)(CoroutineObject *self);
    /* The Task that it drives, if that is one of ours (task.h), is being
       cancelled: called in the call of cancel(), before that does anything.  1 if
       there is nothing to cancel any more, as in a Task that is done; -1 with an
       exception that it raises in its place.  May be NULL.  Runs Python code. */
    int (*cancelled)(CoroutineObject *self, PyObject *message);
    /* What get_coro() of that Task answers: new reference.  May be NULL: it
       answers the coroutine itself.  Runs Python code. */
    PyObject *(*represented)(CoroutineObject *self);
    /* What get_context() of that Task answers: borrowed, or NULL for the Task's
       own.  May be NULL. */
    PyObject *(*context)(CoroutineObject *self);
    /* The name for __qualname__ and the warning: new reference.
       Runs Python code. */
    PyObject *(*name)(CoroutineObject *self);
    /* Whose __name__, cr_code, cr_frame and cr_origin are shown: borrowed or
       NULL. */
    PyObject *(*shown)(CoroutineObject *self);
    /* For cr_await: borrowed or NULL. */
    PyObject *(*awaited)(CoroutineObject *self);
    /* The first step of one that is sent None, if it runs no Python code and
       returns: true, with a new reference in `*result`, and it is closed.  May be
       NULL. */
    bool (*at_once)(CoroutineObject *self, PyObject **result);
    /* Does a drop before the first step deserve a warning? */
    bool warns;
} CoroutineKind;

struct CoroutineObject {
    PyObject_HEAD
    const CoroutineKind *kind;
    CoroutineState state;
    bool closing; /* by close(), not by a GeneratorExit that was thrown */
    bool finalized;
    PyObject *weakreflist;
    CoroutineObject *next_discarded; /* in a DiscardList, or while closing */
    bool never_awaited;              /* dropped, and still to be reported */
    char for_debuggers[32];          /* see coroutine_init() */
};

static inline CoroutineObject *
CoroutineObject_CAST(PyObject *op)
{
    return (CoroutineObject *)op;
}

/* A coroutine that has just been allocated. */
static void
coroutine_init(CoroutineObject *self, const CoroutineKind *kind)
{
    self->kind = kind;
    self->state = CORO_CREATED;
    /* `python -m asyncio ps` (3.14+) reads any Task's coroutine in another
       process as if it were a native one.  Here it finds that there is no
       frame to look at. */
    static const size_t at = NATIVE_FRAME_STATE_OFFSET;
    static const size_t from = offsetof(CoroutineObject, for_debuggers);
    if (from <= at && at < from + sizeof(self->for_debuggers)) {
        self->for_debuggers[at - from] = NATIVE_FRAME_CLEARED;
    }
}

/*** Transitions ***/

/* It is suspended: is it over, for the one who asks?  Runs Python code. */
static inline bool
coroutine_is_over(CoroutineObject *self)
{
    return self->kind->is_over != NULL && self->kind->is_over(self);
}

/* CREATED|SUSPENDED -> RUNNING.  Returns -1 with the state untouched.
   Runs Python code. */
static int
coroutine_claim(CoroutineObject *self)
{
    switch (self->state) {
    case CORO_SUSPENDED:
        if (coroutine_is_over(self)) {
            PyErr_SetString(PyExc_RuntimeError,
                            "cannot reuse already awaited coroutine");
            return -1;
        }
        if (self->state != CORO_SUSPENDED) { /* by what ran in between */
            return coroutine_claim(self);
        }
        self->state = CORO_RUNNING;
        return 0;
    case CORO_CREATED:
        self->state = CORO_RUNNING;
        return 0;
    case CORO_RUNNING:
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return -1;
    case CORO_CLOSED:
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot reuse already awaited coroutine");
        if (self->kind->refused != NULL) {
            Py_INCREF(self);
            self->kind->refused(self);
            Py_DECREF(self);
        }
        return -1;
    }
    Py_UNREACHABLE();
}

/* RUNNING -> SUSPENDED|CLOSED. */
static PySendResult
coroutine_settle(CoroutineObject *self, PySendResult status)
{
    assert(self->state == CORO_RUNNING);
    self->state = status == PYGEN_NEXT ? CORO_SUSPENDED : CORO_CLOSED;
    if (status == PYGEN_ERROR) {
        make_raisable();
    }
    return status;
}

/*** Steps ***/

/* Runs Python code. */
static PySendResult
coroutine_step(CoroutineObject *self, PyObject *value, PyObject *exception,
               PyObject **result)
{
    assert(self->state == CORO_RUNNING);
    *result = NULL;
    Py_INCREF(self); /* the step may drop the last reference */
    PySendResult status = self->kind->step(self, value, exception, result);
    assert((status == PYGEN_ERROR) == (*result == NULL));
    status = coroutine_settle(self, status);
    assert((status == PYGEN_ERROR) == (PyErr_Occurred() != NULL));
    Py_DECREF(self);
    return status;
}

/* Runs Python code. */
static PySendResult
coroutine_send(CoroutineObject *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    if (self->state == CORO_CREATED) {
        if (value != Py_None) {
            PyErr_SetString(
                PyExc_TypeError,
                "can't send non-None value to a just-started coroutine");
            return PYGEN_ERROR;
        }
        if (self->kind->at_once != NULL && self->kind->at_once(self, result)) {
            return PYGEN_RETURN;
        }
    }
    if (coroutine_claim(self) < 0) {
        return PYGEN_ERROR;
    }
    return coroutine_step(self, value, NULL, result);
}

/* Runs Python code. */
static void
warn_never_awaited(CoroutineObject *self)
{
    PyObject *name = self->kind->name(self);
    if (name == NULL
        || PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                            "coroutine '%S' was never awaited", name)
               < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(name);
}

/* If the object goes without having been awaited: says so, and lets go of what
   it belongs to.  Keeps the exception being raised.  Runs Python code. */
static void
coroutine_is_dropped(CoroutineObject *self)
{
    if (!self->never_awaited) {
        return;
    }
    self->never_awaited = false;
    PyObject *raised = fetch_exception();
    if (self->kind->dropped != NULL) {
        self->kind->dropped(self);
    }
    if (self->kind->warns) {
        warn_never_awaited(self);
    }
    restore_exception(raised);
}

/* CREATED -> CLOSED, for a coroutine that the loop over `list` will give up. */
static void
discard_later(DiscardList *list, CoroutineObject *self)
{
    assert(self->state == CORO_CREATED);
    self->state = CORO_CLOSED;
    Py_INCREF(self);
    if (list->last == NULL) {
        list->first = self;
    }
    else {
        list->last->next_discarded = self;
    }
    list->last = self;
}

/* The list of the loop that this thread is in, or NULL. */
static DiscardList *
current_discard_list(core_state *state)
{
    unsigned long thread = PyThread_get_thread_ident();
    DiscardList *list = state->discard_lists;
    while (list != NULL && list->thread != thread) {
        list = list->next;
    }
    return list;
}

/* CREATED -> CLOSED without a step, for it and for the coroutines of ours that
   it holds, and so on.  Keeps the exception being raised (0), unless an
   interrupt has to take its place (-1).  Runs Python code. */
static int
coroutine_discard(CoroutineObject *self, PyObject *exception)
{
    core_state *state = state_of((PyObject *)self);
    /* What is closed may drop others of ours: their finalizers find this. */
    DiscardList list = {
        .thread = PyThread_get_thread_ident(),
        .next = state->discard_lists,
    };
    int status = 0;
    state->discard_lists = &list;
    discard_later(&list, self);
    while (list.first != NULL) {
        CoroutineObject *op = list.first;
        list.first = op->next_discarded;
        if (list.first == NULL) {
            list.last = NULL;
        }
        op->next_discarded = NULL;
        if (op->kind->discard(op, op == self ? exception : NULL, &list) < 0) {
            status = -1;
        }
        coroutine_is_dropped(op);
        Py_DECREF(op);
    }
    DiscardList **link = &state->discard_lists;
    while (*link != &list) { /* other threads may be in the middle of theirs */
        link = &(*link)->next;
    }
    *link = list.next;
    return status;
}

/* Runs Python code. */
static PySendResult
coroutine_throw(CoroutineObject *self, PyObject *exception, PyObject **result)
{
    *result = NULL;
    if (self->state == CORO_CREATED) {
        if (coroutine_discard(self, exception) == 0) {
            raise_exception(Py_NewRef(exception));
            make_raisable();
        }
        return PYGEN_ERROR;
    }
    if (coroutine_claim(self) < 0) {
        return PYGEN_ERROR;
    }
    return coroutine_step(self, NULL, exception, result);
}

/* Throws `exception` into a claimed coroutine so as to close it, and returns what
   close() returns.  Runs Python code. */
static PyObject *
coroutine_close_step(CoroutineObject *self, PyObject *exception)
{
    PyObject *result;
    self->closing = true;
    PySendResult status = coroutine_step(self, NULL, exception, &result);
    self->closing = false;
    switch (status) {
    case PYGEN_NEXT:
        Py_DECREF(result);
        PyErr_SetString(PyExc_RuntimeError, "coroutine ignored GeneratorExit");
        return NULL;
    case PYGEN_RETURN:
        if (CLOSE_RETURNS_A_VALUE) {
            return result;
        }
        Py_DECREF(result);
        Py_RETURN_NONE;
    case PYGEN_ERROR:
        if (PyErr_ExceptionMatches(PyExc_GeneratorExit)) {
            PyErr_Clear();
            Py_RETURN_NONE;
        }
        return NULL;
    }
    Py_UNREACHABLE();
}

/* Closes a suspended coroutine, and first of all the chain of ours that it
   drives, from the innermost one out: a loop, for the stack may be too small
   for a recursion.  Runs Python code. */
static PyObject *
coroutine_close_suspended(CoroutineObject *self)
{
    PyObject *exiting = PyObject_CallNoArgs(PyExc_GeneratorExit);
    if (exiting == NULL) {
        exiting = fetch_exception(); /* no memory: it must end all the same */
    }
    self->state = CORO_RUNNING;
    CoroutineObject *inner = (CoroutineObject *)Py_NewRef(self);
    while (inner->kind->detach != NULL) {
        CoroutineObject *driven = inner->kind->detach(inner);
        if (driven == NULL) {
            break;
        }
        assert(driven->state == CORO_SUSPENDED);
        driven->state = CORO_RUNNING;
        driven->next_discarded = inner;
        inner = driven;
    }
    PyObject *thrown = Py_NewRef(exiting);
    PyObject *closed;
    for (;;) {
        CoroutineObject *outer = inner->next_discarded;
        inner->next_discarded = NULL;
        closed = coroutine_close_step(inner, thrown);
        PyObject *raised = closed == NULL ? fetch_exception() : NULL;
        Py_DECREF(inner);
        if (outer == NULL) {
            restore_exception(raised);
            break;
        }
        Py_XDECREF(closed);
        Py_SETREF(thrown, raised != NULL ? raised : Py_NewRef(exiting));
        inner = outer;
    }
    Py_DECREF(thrown);
    Py_DECREF(exiting);
    return closed;
}

/* Returns what close() returns.  Runs Python code. */
static PyObject *
coroutine_close(CoroutineObject *self)
{
    switch (self->state) {
    case CORO_CREATED:
        return coroutine_discard(self, NULL) < 0 ? NULL : Py_NewRef(Py_None);
    case CORO_CLOSED:
        Py_RETURN_NONE;
    case CORO_RUNNING:
        (void)coroutine_claim(self);
        return NULL;
    case CORO_SUSPENDED:
        if (coroutine_is_over(self)) {
            Py_RETURN_NONE;
        }
        return self->state == CORO_SUSPENDED ? coroutine_close_suspended(self)
                                             : coroutine_close(self);
    }
    Py_UNREACHABLE();
}

/* Only our types have this slot.  Runs Python code. */
static PySendResult
coroutine_am_send(PyObject *op, PyObject *value, PyObject **result)
{
    return coroutine_send(CoroutineObject_CAST(op), value, result);
}

/* Is `op` a coroutine of one of our types? */
static inline bool
is_own_coroutine(PyObject *op)
{
    PyAsyncMethods *methods = Py_TYPE(op)->tp_as_async;
    return methods != NULL && methods->am_send == coroutine_am_send;
}

/* One step of an iterator that another coroutine drives (see delegate_step()):
   into one of ours there is no need to look for a method.
   Runs Python code. */
static PySendResult
drive(core_state *state, PyObject *delegate, PyObject *value,
      PyObject *exception, PyObject **result)
{
    if (exception == NULL || !is_own_coroutine(delegate)) {
        return delegate_step(state, delegate, value, exception, result);
    }
    CoroutineObject *op = CoroutineObject_CAST(delegate);
    if (!PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit)) {
        return coroutine_throw(op, exception, result);
    }
    *result = NULL;
    PyObject *closed = coroutine_close(op);
    if (closed != NULL) {
        Py_DECREF(closed);
        raise_exception(Py_NewRef(exception));
    }
    return PYGEN_ERROR;
}

#endif /* GATEDCORO_COROUTINE_H */
