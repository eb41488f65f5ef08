/* Consumer: the coroutine that asks a Stream for its next result: what
   anext(stream) returns.

   Asking is its first step.  Cancelled while it waits, it leaves what it was about
   to get to the next one; but where nothing is left except the Stream's error, and
   the end of what has been cancelled, it passes the cancellation on to that, waits
   on, and raises it in the end. */

#ifndef GATEDCORO_CONSUMER_H
#define GATEDCORO_CONSUMER_H

#include "surface/stream.h"

typedef struct {
    CoroutineObject base;
    const char *name;
    StreamObject *stream; /* owned */
    WaitingLink link;
    bool has_asked;
    PyObject *cancellation; /* to be raised in the end; or NULL */
} ConsumerObject;

/* Who waits goes on waiting: what its step is to yield, new reference; NULL with
   an exception.  A step of somebody else's does not take the Future from the Task
   that waits on it.  Runs Python code. */
static PyObject *
waiting_link_wait(core_state *state, WaitingLink *link, PyObject *loop)
{
    if (link->future == NULL || future_is_done(state, link->future)) {
        Py_XSETREF(link->future, task_waiter_new(state, loop));
    }
    return link->future == NULL ? NULL
                                : task_waiter_yield(state, link->future);
}

/* How often that Task has been cancelled; 0 if it is none of asyncio's, -1 on an
   interrupt.  Runs Python code. */
static Py_ssize_t
times_cancelled(core_state *state, PyObject *task)
{
    PyObject *times =
        task == Py_None
            ? NULL
            : PyObject_CallMethodNoArgs(task, state->str_cancelling);
    Py_ssize_t count = times == NULL ? 0 : PyLong_AsSsize_t(times);
    Py_XDECREF(times);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear();
        count = 0;
    }
    return count;
}

/* A cancellation that comes while only the end is waited for goes to what still
   runs, and is kept (`*kept`, owned or NULL).  -1 on an interrupt, or where that
   has reached the Task that runs, which would wait for itself, or comes back again
   and again: then it is raised at once.  Runs Python code. */
static int
pass_on(core_state *state, GatheringObject *gathering, PyObject *cancellation,
        PyObject **kept)
{
    if (gathering->passed_on == MOST_PASSED_ON) {
        raise_exception(Py_NewRef(cancellation));
        return -1;
    }
    Py_XSETREF(*kept, Py_NewRef(cancellation));
    PyObject *task = current_task_of(state, gathering->loop);
    Py_ssize_t before = task == NULL ? -1 : times_cancelled(state, task);
    if (before < 0) {
        Py_XDECREF(task);
        return -1;
    }
    PyObject *message = message_of(cancellation);
    int status = gathering_pass_on_cancellation(gathering, message);
    Py_DECREF(message);
    if (status < 0) {
        status = report_error((PyObject *)gathering);
    }
    Py_ssize_t after = status < 0 ? -1 : times_cancelled(state, task);
    Py_DECREF(task);
    if (after > before) {
        raise_exception(Py_NewRef(cancellation));
    }
    return after >= 0 && after <= before ? 0 : -1;
}

/* It does not wait any more; with the exception being raised, whose place an
   interrupt takes: -1; or without one.  Runs Python code. */
static int
consumer_go(ConsumerObject *self)
{
    if (self->link.future == NULL && !waiting_link_is_on(&self->link)) {
        return PyErr_Occurred() == NULL ? 0 : -1; /* it has not waited */
    }
    PyObject *raised = fetch_exception();
    Py_CLEAR(self->link.future);
    if (stream_results_go(self->stream->results, &self->link) < 0) {
        Py_XSETREF(raised, fetch_exception());
    }
    return raise_collected(raised);
}

/* It has waited long enough: the next result, or what comes in its place.
   Runs Python code. */
static PySendResult
consumer_take(ConsumerObject *self, PyObject **result)
{
    StreamObject *stream = self->stream;
    if (self->cancellation != NULL) {
        PyObject *cancellation = self->cancellation;
        self->cancellation = NULL;
        (void)raise_in_step(cancellation);
    }
    else {
        *result = stream_results_take(stream->results);
    }
    if (consumer_go(self) < 0
        || gathering_room_is_made(stream->gathering) < 0) {
        Py_CLEAR(*result);
        return PYGEN_ERROR;
    }
    return PYGEN_RETURN;
}

/* Is it cancelled while only the end is left to be waited for? */
static bool
consumer_waits_for_the_end(core_state *state, ConsumerObject *self,
                           PyObject *exception)
{
    return !self->base.closing
           && PyErr_GivenExceptionMatches(exception, state->cancelled_error)
           && gathering_only_ends(self->stream->gathering);
}

/* Asks: what has room starts in this step, unless somebody waits already; then the
   loop starts it.  -1 on an interrupt.  Runs Python code. */
static int
consumer_asks(ConsumerObject *self, StreamObject *stream)
{
    StreamResultsObject *results = stream->results;
    if (!stream_results_have_one_for(results, &self->link)
        && results->consumers_count == 0
        && gathering_start_ahead(stream->gathering) < 0) {
        stream_results_let_out(results);
        return -1;
    }
    return stream_results_have_one_for(results, &self->link)
               ? 0
               : stream_results_ask(results, &self->link);
}

/* Runs Python code. */
static PySendResult
consumer_go_on(ConsumerObject *self, PyObject *exception, PyObject **result)
{
    core_state *state = state_of((PyObject *)self);
    StreamObject *stream = self->stream;
    if (!self->has_asked) {
        self->has_asked = true;
        int opened = stream_be_iterated(state, stream);
        if (opened <= 0) {
            if (opened == 0) {
                PyErr_SetNone(PyExc_StopAsyncIteration);
            }
            return PYGEN_ERROR;
        }
        if (consumer_asks(self, stream) < 0) {
            (void)consumer_go(self);
            return PYGEN_ERROR;
        }
    }
    else if (exception != NULL) {
        if (!consumer_waits_for_the_end(state, self, exception)) {
            raise_exception(Py_NewRef(exception));
            (void)consumer_go(self);
            return PYGEN_ERROR;
        }
        if (pass_on(state, stream->gathering, exception, &self->cancellation)
            < 0) {
            (void)consumer_go(self);
            return PYGEN_ERROR;
        }
    }
    if (!stream_results_have_one_for(stream->results, &self->link)) {
        *result = waiting_link_wait(state, &self->link, stream->loop);
        if (*result == NULL) {
            (void)consumer_go(self);
            return PYGEN_ERROR;
        }
        if (!stream_results_have_one_for(stream->results, &self->link)) {
            return PYGEN_NEXT;
        }
        Py_CLEAR(*result); /* it came while the loop was asked */
    }
    return consumer_take(self, result);
}

/* It has ended: whoever keeps it, as its Task does, does not keep the Stream, which
   may go with that.  Keeps the exception being raised. */
static void
consumer_let_go(ConsumerObject *self)
{
    PyObject *raised = fetch_exception();
    Py_CLEAR(self->stream);
    restore_exception(raised);
}

/* Runs Python code. */
static PySendResult
consumer_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
              PyObject *exception, PyObject **result)
{
    ConsumerObject *self = (ConsumerObject *)op;
    PySendResult answer = consumer_go_on(self, exception, result);
    if (answer != PYGEN_NEXT) {
        consumer_let_go(self);
    }
    return answer;
}

static int
consumer_discard(CoroutineObject *op, PyObject *Py_UNUSED(exception),
                 DiscardList *Py_UNUSED(rest))
{
    consumer_let_go((ConsumerObject *)op);
    return 0;
}

static PyObject *
consumer_name(CoroutineObject *op)
{
    return PyUnicode_InternFromString(((ConsumerObject *)op)->name);
}

static PyObject *
consumer_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
consumer_awaited(CoroutineObject *op)
{
    return ((ConsumerObject *)op)->link.future;
}

static const CoroutineKind consumer_kind = {
    .step = consumer_step,
    .discard = consumer_discard,
    .name = consumer_name,
    .shown = consumer_shown,
    .awaited = consumer_awaited,
    .warns = true,
};

/* One that has just been allocated. */
static void
consumer_init(ConsumerObject *self, const CoroutineKind *kind,
              StreamObject *stream)
{
    coroutine_init(&self->base, kind);
    self->name = stream->kind->anext_name;
    self->stream = (StreamObject *)Py_NewRef(stream);
}

/* Runs no Python code. */
static PyObject *
consumer_new(core_state *state, StreamObject *stream)
{
    ConsumerObject *self = (ConsumerObject *)spares_alloc(
        &state->consumers, state->consumer_type);
    if (self != NULL) {
        consumer_init(self, &consumer_kind, stream);
    }
    return (PyObject *)self;
}

/*** Lifecycle ***/

static int
consumer_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    ConsumerObject *self = (ConsumerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->stream);
    Py_VISIT(self->link.future);
    Py_VISIT(self->cancellation);
    return 0;
}

static int
consumer_tp_clear(PyObject *op)
{
    ConsumerObject *self = (ConsumerObject *)op;
    Py_CLEAR(self->link.future);
    Py_CLEAR(self->cancellation);
    Py_CLEAR(self->stream);
    return 0;
}

static void
consumer_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, consumer_tp_clear);
}

/* The type may have lost its module to the collector, which frees them both. */
static void
consumer_tp_free(void *op)
{
    PyTypeObject *type = Py_TYPE(op);
    bool has_module = ((PyHeapTypeObject *)type)->ht_module != NULL;
    spares_free(has_module ? &state_of_type(type)->consumers : NULL, op);
}

static PyType_Slot consumer_slots[] = {
    /* anext(stream, default) asks it before each of its steps. */
    COROUTINE_SLOTS_AWAITED_BY(PyObject_SelfIter),
    {Py_tp_free, consumer_tp_free},
    {Py_tp_dealloc, consumer_tp_dealloc},
    {Py_tp_traverse, consumer_tp_traverse},
    {Py_tp_clear, consumer_tp_clear},
    {0, NULL},
};

static PyType_Spec consumer_spec = {
    .name = "gatedcoro._core._Consumer",
    .basicsize = sizeof(ConsumerObject),
    .flags = COROUTINE_FLAGS,
    .slots = consumer_slots,
};

#endif /* GATEDCORO_CONSUMER_H */
