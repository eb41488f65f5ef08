/* Completion: the coroutines of an AsCompleted: what anext() and next() return.

   A consumer (consumer.h) that has a claim: that of next() has it from the start, and
   returns the result of its Task; that of anext() claims in its first step, and
   returns the Task. */

#ifndef GATEDCORO_COMPLETION_H
#define GATEDCORO_COMPLETION_H

#include "surface/as_completed.h"
#include "surface/consumer.h"

typedef struct {
    ConsumerObject base;
    bool gives_result;
} CompletionObject;

static inline AsCompletedObject *
completion_iterator(const CompletionObject *self)
{
    return (AsCompletedObject *)self->base.stream;
}

/* The first step of anext() claims a result.  1, 0 if there is none for it, or -1 on
   error.  Runs Python code. */
static int
completion_claims(core_state *state, CompletionObject *self)
{
    int opened = stream_be_iterated(state, self->base.stream);
    if (opened <= 0) {
        return opened;
    }
    return as_completed_claim(completion_iterator(self));
}

/* There is no Task for it, and never will be: raises what it has to be told.  The
   error with which they ended has been raised, once; but next() has promised a
   result to each of its coroutines, and an `async for` that ended quietly would look
   complete.  Runs Python code. */
static void
completion_goes_without(CompletionObject *self)
{
    StreamObject *stream = self->base.stream;
    CompletedTasksObject *tasks = (CompletedTasksObject *)stream->results;
    bool has_failed =
        tasks != NULL && tasks->end != ENDS_WELL && !tasks->base.is_left;
    if (!self->gives_result) {
        if (!has_failed || tasks->is_told) {
            return;
        }
        tasks->is_told = true;
    }
    PyErr_Clear();
    if (has_failed && tasks->end == ENDS_TIMED_OUT) {
        PyErr_SetNone(PyExc_TimeoutError);
    }
    else if (has_failed) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R has failed, as somebody has been told", stream);
    }
    else {
        PyErr_Format(PyExc_RuntimeError,
                     "%R has been closed: there is no result for this "
                     "coroutine",
                     stream);
    }
}

/* It has raised what they ended with, unless that was something else. */
static void
completion_is_told(CompletionObject *self)
{
    CompletedTasksObject *tasks =
        (CompletedTasksObject *)self->base.stream->results;
    if (!self->gives_result && tasks != NULL && tasks->end != ENDS_WELL
        && tasks->base.is_over && tasks->base.error == NULL) {
        tasks->is_told = true;
    }
}

/* What the Task (stolen) has come to: new reference, or NULL with its error.
   Runs Python code. */
static PyObject *
result_of_task(core_state *state, PyObject *task)
{
    PyObject *result = PyObject_CallMethodNoArgs(task, state->str_result);
    PyObject *raised = result == NULL ? fetch_exception() : NULL;
    Py_DECREF(task);
    if (raised != NULL) {
        (void)raise_in_step(raised);
    }
    return result;
}

/* Runs Python code. */
static PySendResult
completion_go_on(core_state *state, CompletionObject *self,
                 PyObject *exception, PyObject **result)
{
    AsCompletedObject *iterator = completion_iterator(self);
    ConsumerObject *consumer = &self->base;
    if (!consumer->has_asked && !self->gives_result) {
        int claims = completion_claims(state, self);
        if (claims <= 0) {
            if (claims == 0) {
                PyErr_SetNone(PyExc_StopAsyncIteration);
            }
            return PYGEN_ERROR;
        }
    }
    bool is_cancelled = exception != NULL || consumer->cancellation != NULL;
    PySendResult answer = consumer_go_on(consumer, exception, result);
    if (answer == PYGEN_ERROR) {
        if (is_cancelled) {
            as_completed_give_back(iterator);
        }
        else if (PyErr_ExceptionMatches(PyExc_StopAsyncIteration)) {
            completion_goes_without(self);
        }
        else {
            completion_is_told(self);
        }
    }
    else if (answer == PYGEN_RETURN) {
        completed_tasks_note_seen(
            (CompletedTasksObject *)iterator->stream.results, *result);
        if (self->gives_result) {
            *result = result_of_task(state, *result);
            answer = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        }
    }
    return answer;
}

/* Runs Python code. */
static PySendResult
completion_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
                PyObject *exception, PyObject **result)
{
    CompletionObject *self = (CompletionObject *)op;
    PyObject *iterator = Py_NewRef(self->base.stream);
    PySendResult answer =
        completion_go_on(state_of((PyObject *)op), self, exception, result);
    if (answer != PYGEN_NEXT) {
        consumer_let_go(&self->base);
    }
    PyObject *raised = fetch_exception();
    Py_DECREF(iterator);
    restore_exception(raised);
    return answer;
}

/* Its Task may have been cancelled before the first step: then the claim is for
   another one.  Who closes coroutines by hand gets an end of them. */
static int
completion_discard(CoroutineObject *op, PyObject *exception,
                   DiscardList *Py_UNUSED(rest))
{
    CompletionObject *self = (CompletionObject *)op;
    if (self->gives_result && exception != NULL
        && PyErr_GivenExceptionMatches(
            exception, state_of((PyObject *)op)->cancelled_error)) {
        as_completed_give_back(completion_iterator(self));
    }
    consumer_let_go(&self->base);
    return 0;
}

static const CoroutineKind completion_kind = {
    .step = completion_step,
    .discard = completion_discard,
    .name = consumer_name,
    .shown = consumer_shown,
    .awaited = consumer_awaited,
    .warns = true,
};

/* That of next(), if `gives_result`, has its claim already.  Runs no Python code. */
static PyObject *
completion_new(core_state *state, AsCompletedObject *iterator,
               bool gives_result)
{
    PyTypeObject *type = state->completion_type;
    CompletionObject *self = (CompletionObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        consumer_init(&self->base, &completion_kind, &iterator->stream);
        self->gives_result = gives_result;
        if (gives_result) {
            self->base.name = "AsCompleted.__next__";
        }
    }
    return (PyObject *)self;
}

/*** Lifecycle ***/

/* anext(iterator, default) asks it before each of its steps; that of next() is
   awaited by one Task.  Runs Python code. */
static PyObject *
completion_am_await(PyObject *op)
{
    return ((CompletionObject *)op)->gives_result ? coroutine_am_await(op)
                                                  : Py_NewRef(op);
}

static PyType_Slot completion_slots[] = {
    COROUTINE_SLOTS_AWAITED_BY(completion_am_await),
    {Py_tp_dealloc, consumer_tp_dealloc},
    {Py_tp_traverse, consumer_tp_traverse},
    {Py_tp_clear, consumer_tp_clear},
    {0, NULL},
};

static PyType_Spec completion_spec = {
    .name = "gatedcoro._core._Completion",
    .basicsize = sizeof(CompletionObject),
    .flags = COROUTINE_FLAGS,
    .slots = completion_slots,
};

#endif /* GATEDCORO_COMPLETION_H */
