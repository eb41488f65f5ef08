/* The block of a Stream: the coroutines of its __aenter__(), __aexit__() and
   aclose().

   The last two end it early, and wait until nothing of it runs.  What cancels them
   meanwhile goes to what still runs, and is raised in the end; so is the first
   error of the cleanup, which becomes a note if another one is on its way. */

#ifndef GATEDCORO_STREAM_BLOCK_H
#define GATEDCORO_STREAM_BLOCK_H

#include "surface/consumer.h"

typedef enum {
    BLOCK_ENTER,
    BLOCK_EXIT,
    BLOCK_CLOSE,
} BlockKind;

typedef struct {
    CoroutineObject base;
    BlockKind kind;
    const char *name;
    bool has_begun;
    StreamObject *stream; /* owned */
    PyObject *raised;     /* with which the block is left; or NULL */
    PyObject *pending;    /* closes the source of an unopened one; or NULL */
    WaitingLink link;
    PyObject *cancellation; /* to be raised in the end; or NULL */
} BlockObject;

/* Notes on what leaves the block what the cleanup has raised (stolen).  What fails
   in that is reported.  Runs Python code. */
static void
block_note_cleanup(core_state *state, BlockObject *self, PyObject *error,
                   PyObject *cleanup_error)
{
    if (note_raised(
            state, error,
            PyUnicode_FromString("while the stream was being closed, it"),
            cleanup_error)
        < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF(cleanup_error);
}

/* The source of a Stream that has never been opened could not be closed: -1, or 0 if
   that is a note on what leaves the block.  Runs Python code. */
static int
block_unopened_failed(core_state *state, BlockObject *self)
{
    if (self->raised == NULL || !PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    block_note_cleanup(state, self, self->raised, fetch_exception());
    return 0;
}

/* What a Stream that has never been opened would go through: new reference.  It is
   closed; so is a Stream that it would go through, if that has not been opened
   either, and so on: a loop, for the stack may be too small for a recursion. */
static PyObject *
block_take_unopened(StreamObject *stream)
{
    PyTypeObject *type = Py_TYPE(stream);
    PyObject *iterable = Py_NewRef(stream);
    do {
        StreamObject *inner = StreamObject_CAST(iterable);
        PyObject *next = inner->iterable;
        inner->iterable = NULL;
        inner->use = STREAM_USE_CLOSED;
        Py_SETREF(iterable, next);
    } while (Py_TYPE(iterable) == type
             && stream_is_unopened(StreamObject_CAST(iterable)));
    return iterable;
}

/* The source of a Stream that has never been opened is its own, too: closes it, or
   has in `pending` what is to be driven for that.  -1 on error.
   Runs Python code. */
static int
block_close_unopened(core_state *state, BlockObject *self)
{
    const StreamKind *kind = self->stream->kind;
    PyObject *iterable = block_take_unopened(self->stream);
    PyAsyncMethods *methods = Py_TYPE(iterable)->tp_as_async;
    PyObject *aclose = NULL;
    if (methods == NULL || methods->am_anext == NULL) {
        return kind->close_iterable(state, iterable);
    }
    int status = lookup_attribute(iterable, state->str_aclose, &aclose);
    PyObject *awaitable =
        status > 0 && aclose != Py_None ? PyObject_CallNoArgs(aclose) : NULL;
    if (awaitable != NULL) {
        self->pending = await_iterator(state, awaitable, NULL);
        Py_DECREF(awaitable);
    }
    Py_XDECREF(aclose);
    PyObject *raised = fetch_exception();
    Py_DECREF(iterable);
    restore_exception(raised);
    return raised != NULL ? -1 : 0;
}

/* Has everything of the Stream cancelled.  1 if there is something to wait for, 0,
   or -1 on error.  Runs Python code. */
static int
block_begin(core_state *state, BlockObject *self)
{
    StreamObject *stream = self->stream;
    if (self->kind == BLOCK_ENTER) {
        if (stream->use == STREAM_USE_NONE) {
            stream->use = STREAM_USE_ENTERED;
        }
        return 0;
    }
    if (stream_is_unopened(stream)) {
        return block_close_unopened(state, self) < 0
                   ? block_unopened_failed(state, self)
                   : 0;
    }
    if (stream->gathering == NULL) {
        return 0;
    }
    if (stream_check_loop(state, stream) < 0) {
        return -1;
    }
    if (stream_goes_on(stream)) {
        int is_own = stream_is_in_own_task(state, stream);
        if (is_own != 0) {
            if (is_own > 0) {
                PyErr_Format(PyExc_RuntimeError,
                             "%R cannot be closed by one of its items or by "
                             "its source, for which that would wait",
                             stream);
            }
            return -1;
        }
    }
    if (stream->results->is_left) { /* what that raises is not given up */
        return stream_goes_on(stream);
    }
    PyObject *failure = NULL;
    if (stream->kind->leave_results(stream->results) < 0) {
        collect_exception(&failure);
    }
    if (gathering_leave(stream->gathering) < 0
        && report_error((PyObject *)self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? -1 : stream_goes_on(stream);
}

/* The block's own error, or the cancellation (owned, or NULL), and what the
   cleanup has raised: which one is raised?  0 if there is none, -1.
   Runs Python code. */
static int
block_end(core_state *state, BlockObject *self)
{
    StreamResultsObject *results = self->stream->results;
    PyObject *error = NULL;
    if (results != NULL && self->kind != BLOCK_ENTER) {
        error = results->error;
        results->error = NULL;
    }
    PyObject *first =
        self->cancellation != NULL ? self->cancellation : self->raised;
    if (error != NULL && first != NULL) {
        block_note_cleanup(state, self, first, error);
        error = NULL;
    }
    if (self->cancellation != NULL) {
        error = self->cancellation;
        self->cancellation = NULL;
    }
    return raise_in_step(error);
}

/* It does not wait any more. */
static void
block_go(BlockObject *self)
{
    if (waiting_link_is_on(&self->link)) {
        waiting_link_remove(&self->link);
    }
    PyObject *raised = fetch_exception();
    Py_CLEAR(self->link.future);
    Py_CLEAR(self->pending);
    restore_exception(raised);
}

/* What a step does.  Runs Python code. */
static PySendResult
block_work(core_state *state, BlockObject *self, PyObject *value,
           PyObject *exception, PyObject **result)
{
    StreamObject *stream = self->stream;
    int waits;
    if (!self->has_begun) {
        self->has_begun = true;
        waits = block_begin(state, self);
        value = Py_None;
    }
    else if (self->pending != NULL) {
        waits = 0;
    }
    else if (exception != NULL
             && (self->base.closing
                 || !PyErr_GivenExceptionMatches(exception,
                                                 state->cancelled_error))) {
        raise_exception(Py_NewRef(exception));
        waits = -1;
    }
    else {
        if (exception != NULL) {
            waits = pass_on(state, stream->gathering, exception,
                            &self->cancellation);
        }
        else {
            waits = 0;
        }
        if (waits == 0) {
            waits = stream_goes_on(stream);
        }
    }
    if (waits == 0 && self->pending != NULL) {
        PyObject *pending = Py_NewRef(self->pending);
        PySendResult status = drive(state, pending, value, exception, result);
        Py_DECREF(pending);
        if (status == PYGEN_NEXT) {
            return PYGEN_NEXT;
        }
        Py_CLEAR(*result);
        waits = status == PYGEN_ERROR ? block_unopened_failed(state, self) : 0;
    }
    if (waits > 0) {
        if (!waiting_link_is_on(&self->link)) {
            waiting_link_add(&stream->results->closers, &self->link);
        }
        *result = waiting_link_wait(state, &self->link, stream->loop);
        if (*result != NULL && stream_goes_on(stream)) {
            return PYGEN_NEXT;
        }
        waits =
            *result == NULL ? -1 : 0; /* it ended while the loop was asked */
        Py_CLEAR(*result);
    }
    block_go(self);
    if (waits < 0 || block_end(state, self) < 0) {
        return PYGEN_ERROR;
    }
    *result =
        self->kind == BLOCK_ENTER ? Py_NewRef(stream) : Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* It has ended, and keeps nothing, whoever keeps it.  Keeps the exception being
   raised. */
static void
block_let_go(BlockObject *self)
{
    PyObject *raised = fetch_exception();
    Py_CLEAR(self->cancellation);
    Py_CLEAR(self->raised);
    Py_CLEAR(self->stream);
    restore_exception(raised);
}

/* Runs Python code. */
static PySendResult
block_step(CoroutineObject *op, PyObject *value, PyObject *exception,
           PyObject **result)
{
    BlockObject *self = (BlockObject *)op;
    PySendResult status =
        block_work(state_of((PyObject *)op), self, value, exception, result);
    if (status != PYGEN_NEXT) {
        block_let_go(self);
    }
    return status;
}

static int
block_discard(CoroutineObject *op, PyObject *Py_UNUSED(exception),
              DiscardList *Py_UNUSED(rest))
{
    block_let_go((BlockObject *)op);
    return 0;
}

static PyObject *
block_name(CoroutineObject *op)
{
    return PyUnicode_InternFromString(((BlockObject *)op)->name);
}

static PyObject *
block_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
block_awaited(CoroutineObject *op)
{
    BlockObject *self = (BlockObject *)op;
    return self->pending != NULL ? self->pending : self->link.future;
}

static const CoroutineKind block_kind = {
    .step = block_step,
    .discard = block_discard,
    .name = block_name,
    .shown = block_shown,
    .awaited = block_awaited,
    .warns = true,
};

static const char *
block_name_of(const StreamKind *stream_kind, BlockKind kind)
{
    switch (kind) {
    case BLOCK_ENTER:
        return stream_kind->aenter_name;
    case BLOCK_EXIT:
        return stream_kind->aexit_name;
    case BLOCK_CLOSE:
        return stream_kind->aclose_name;
    }
    Py_UNREACHABLE();
}

/* `raised` is what leaves the block: borrowed, or NULL. */
static PyObject *
block_new(core_state *state, BlockKind kind, StreamObject *stream,
          PyObject *raised)
{
    PyTypeObject *type = state->block_type;
    BlockObject *self = (BlockObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        coroutine_init(&self->base, &block_kind);
        self->kind = kind;
        self->name = block_name_of(stream->kind, kind);
        self->stream = (StreamObject *)Py_NewRef(stream);
        self->raised = Py_XNewRef(raised);
    }
    return (PyObject *)self;
}

/*** Lifecycle ***/

static int
block_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    BlockObject *self = (BlockObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->stream);
    Py_VISIT(self->raised);
    Py_VISIT(self->pending);
    Py_VISIT(self->link.future);
    Py_VISIT(self->cancellation);
    return 0;
}

static int
block_tp_clear(PyObject *op)
{
    BlockObject *self = (BlockObject *)op;
    Py_CLEAR(self->raised);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->link.future);
    Py_CLEAR(self->cancellation);
    Py_CLEAR(self->stream);
    return 0;
}

static void
block_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, block_tp_clear);
}

static PyType_Slot block_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, block_tp_dealloc},
    {Py_tp_traverse, block_tp_traverse},
    {Py_tp_clear, block_tp_clear},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "gatedcoro._core._Block",
    .basicsize = sizeof(BlockObject),
    .flags = COROUTINE_FLAGS,
    .slots = block_slots,
};

#endif /* GATEDCORO_STREAM_BLOCK_H */
