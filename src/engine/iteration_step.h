/* The steps of an iteration's Task (iteration.h). */

#ifndef GATEDCORO_ITERATION_STEP_H
#define GATEDCORO_ITERATION_STEP_H

#include "engine/iteration.h"

/*** Steps ***/

/* Asks the iterable for an element, or goes on with that.  -1 on an interrupt,
   which may have been the iterable's: then it is over.  Runs Python code. */
static int
iteration_go_on(core_state *state, IterationObject *self,
                GatheringObject *gathering, PyObject *exception)
{
    PyObject *result = NULL;
    PySendResult status = PYGEN_ERROR;
    if (self->element != NULL && exception == NULL) {
        return 0; /* nobody wants another one */
    }
    if (self->pending == NULL) {
        self->pending = exception == NULL
                            ? iteration_ask(state, self)
                            : iteration_throw(state, self, exception);
        exception = NULL;
    }
    if (self->pending != NULL) {
        status = iteration_drive(state, self, exception, &result);
    }
    switch (status) {
    case PYGEN_NEXT:
        self->yielded = result;
        return 0;
    case PYGEN_RETURN:
        if (source_is_closed(&gathering->source)
            || self->phase == ITERATION_OVER) {
            iteration_drop(self, result);
        }
        else {
            Py_XSETREF(self->element, result);
        }
        return 0;
    case PYGEN_ERROR:
        break;
    }
    if (self->failure == NULL) {
        if (PyErr_ExceptionMatches(PyExc_StopAsyncIteration)) {
            PyErr_Clear();
            iteration_be_over(self);
            return 0;
        }
        make_raisable();
        if (interrupt_is_raised()) {
            iteration_be_over(self);
            return self->is_taken_from ? -1 : gathering_fail_call(gathering);
        }
        self->failure = fetch_exception();
    }
    return iteration_close_on(state, self, gathering, NULL);
}

/* Tells the gathering what has come of a step that it has not asked for.  -1 on
   an interrupt.  Runs Python code. */
static int
iteration_tell(IterationObject *self, GatheringObject *gathering)
{
    if (self->failure != NULL) {
        PyObject *failure = self->failure;
        self->failure = NULL;
        raise_exception(failure);
        return gathering_fail_call(gathering);
    }
    return self->element == NULL ? 0 : gathering_pump(gathering);
}

/* Is it resumed in the middle of other steps? */
static inline bool
iteration_is_resumed_at_once(core_state *state, GatheringObject *gathering)
{
    return gathering->tasks != TASKS_BY_LOOP && state->reuse_works;
}

/* What the Task is to wait on until an element is wanted: new reference.
   Runs Python code. */
static PyObject *
iteration_be_idle(core_state *state, IterationObject *self,
                  GatheringObject *gathering)
{
    if (!iteration_is_resumed_at_once(state, gathering)) {
        if (self->waiter == NULL) {
            self->waiter = waiter_new(state, gathering->loop);
        }
        if (self->waiter == NULL) {
            return NULL;
        }
        self->phase = ITERATION_IDLE;
        return waiter_yield(self->waiter);
    }
    if (self->waiter == NULL || future_is_done(state, self->waiter)) {
        Py_XSETREF(self->waiter, task_waiter_new(state, gathering->loop));
        if (self->waiter == NULL) {
            return NULL;
        }
    }
    self->phase = ITERATION_IDLE;
    return task_waiter_yield(state, self->waiter);
}

/* A pass has asked the iterable, which suspends: this step is to end with what that
   waits for.  If the Task has been cancelled meanwhile, so is that, as a Task does
   it: what cannot be has the next step raise it.  -1 on an interrupt.
   Runs Python code. */
static int
iteration_wait_as_asked(core_state *state, IterationObject *self,
                        GatheringObject *gathering, PyObject *exception)
{
    int status = 0;
    if (exception != NULL) {
        PyObject *awaited = Py_NewRef(self->yielded);
        int accepted = 0;
        if (awaited != Py_None) {
            PyObject *message = message_of(exception);
            PyObject *answer =
                PyObject_CallMethodOneArg(awaited, state->str_cancel, message);
            accepted = answer == NULL ? -1 : PyObject_IsTrue(answer);
            Py_XDECREF(answer);
            Py_DECREF(message);
        }
        Py_DECREF(awaited);
        if (accepted == 0) {
            Py_XSETREF(self->cancellation, Py_NewRef(exception));
        }
        status = accepted < 0 ? -1 : 0;
    }
    else if (source_is_closed(&gathering->source)
             && self->phase == ITERATION_AT_WORK) {
        return iteration_be_closing(state, self, gathering);
    }
    return status < 0 ? report_error((PyObject *)self) : 0;
}

/* What a step does.  -1 on an interrupt.  Runs Python code. */
static int
iteration_work(core_state *state, IterationObject *self,
               GatheringObject *gathering, PyObject *exception,
               bool is_taken_from)
{
    Source *source = &gathering->source;
    if (self->phase == ITERATION_OVER) {
        return 0; /* as a pass has found out */
    }
    if (self->yielded != NULL) { /* that has asked: the answer is to come */
        return iteration_wait_as_asked(state, self, gathering, exception);
    }
    if (self->phase == ITERATION_CLOSING) {
        return iteration_close_on(state, self, gathering, exception);
    }
    if (source_is_closed(source) && self->pending == NULL) {
        return iteration_close_on(state, self, gathering, NULL);
    }
    if (self->phase == ITERATION_UNBEGUN
        && iteration_is_resumed_at_once(state, gathering)) {
        source_task_asks(source);
        return 0; /* a pass is to come, which asks */
    }
    self->phase = ITERATION_AT_WORK;
    source_task_asks(source);
    int status = iteration_go_on(state, self, gathering, exception);
    if (status == 0 && !is_taken_from) {
        status = iteration_tell(self, gathering);
    }
    if (status == 0 && source_is_closed(source)
        && self->phase == ITERATION_AT_WORK) {
        status = iteration_be_closing(state, self, gathering);
    }
    return status;
}

/* Runs Python code. */
static PySendResult
iteration_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
               PyObject *exception, PyObject **result)
{
    IterationObject *self = (IterationObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (self->gathering == NULL) { /* it is over */
        if (exception != NULL) {
            raise_exception(Py_NewRef(exception));
            return PYGEN_ERROR;
        }
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    GatheringObject *gathering = (GatheringObject *)Py_NewRef(self->gathering);
    bool is_taken_from = self->is_taken_from;
    int status = 0;
    if (op->closing) { /* its Task goes, and so does the loop */
        PyObject *pending = Py_XNewRef(self->pending);
        iteration_be_lost(self);
        if (pending != NULL) {
            (void)drive(state, pending, NULL, exception, result);
            Py_XDECREF(*result);
            *result = NULL;
            Py_DECREF(pending);
        }
        if (!PyErr_Occurred()) {
            raise_exception(Py_NewRef(exception));
        }
        status = -1;
    }
    else {
        if (self->task == NULL && self->phase != ITERATION_OVER) {
            /* an eager one, which is being made */
            self->task = current_task_of(state, gathering->loop);
            status = self->task == NULL ? -1 : 0;
        }
        PyObject *cancellation = self->cancellation;
        self->cancellation = NULL;
        if (exception == NULL) {
            exception = cancellation;
        }
        if (status == 0) {
            status = iteration_work(state, self, gathering, exception,
                                    is_taken_from);
        }
        Py_XDECREF(cancellation);
        if (status < 0) {
            iteration_be_lost(self); /* so is the Task */
        }
        else if (self->yielded != NULL) {
            *result = self->yielded;
            self->yielded = NULL;
            source_task_waits(&gathering->source);
        }
        else if (self->phase != ITERATION_OVER) {
            *result = iteration_be_idle(state, self, gathering);
            if (*result == NULL) {
                iteration_be_over(self);
                status = gathering_fail_call(gathering);
            }
            else if (source_is_closed(&gathering->source)) {
                /* By the loop, which has been asked for what it is to wait on. */
                Py_CLEAR(*result);
                status = iteration_close_on(state, self, gathering, NULL);
                if (status == 0) {
                    *result = self->yielded;
                    self->yielded = NULL;
                }
                else {
                    iteration_be_lost(self);
                }
            }
        }
    }
    PySendResult end = status < 0        ? PYGEN_ERROR
                       : *result != NULL ? PYGEN_NEXT
                                         : PYGEN_RETURN;
    if (self->phase == ITERATION_OVER) {
        PyObject *raised = fetch_exception();
        Py_CLEAR(self->gathering);
        int told = is_taken_from ? 0
                   : op->closing ? gathering_source_is_lost(gathering)
                                 : gathering_source_is_over(gathering);
        if (told < 0) {
            Py_XSETREF(raised, fetch_exception());
            end = PYGEN_ERROR;
        }
        restore_exception(raised);
    }
    if (end == PYGEN_RETURN) {
        *result = Py_NewRef(Py_None);
    }
    Py_DECREF(gathering);
    return end;
}

/* Its Task was cancelled before the first step, or is not made after all: the
   iterable is closed as far as that takes no turn.  Runs Python code. */
static int
iteration_discard(CoroutineObject *op, PyObject *exception,
                  DiscardList *Py_UNUSED(rest))
{
    IterationObject *self = (IterationObject *)op;
    core_state *state = state_of((PyObject *)op);
    GatheringObject *gathering = self->gathering;
    if (self->phase == ITERATION_OVER || gathering == NULL) {
        return 0;
    }
    PyObject *raised = fetch_exception();
    PyObject *closing = iteration_aclose(state, self);
    if (closing != NULL) {
        PyObject *result;
        (void)PyIter_Send(closing, Py_None, &result);
        Py_XDECREF(result);
        Py_DECREF(closing);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)op);
    }
    self->gathering = NULL;
    Py_INCREF(op);
    source_task_ended(&gathering->source);
    iteration_be_over(self);
    int status;
    if (exception == NULL) {
        status = gathering_source_is_lost(gathering);
    }
    else {
        raise_exception(Py_NewRef(exception));
        status = gathering_fail_call(gathering);
        if (status == 0) {
            status = gathering_source_is_over(gathering);
        }
    }
    Py_DECREF(gathering);
    Py_DECREF(op);
    if (status < 0) {
        Py_XDECREF(raised);
        return -1;
    }
    restore_exception(raised);
    return 0;
}

/* Its Task is being cancelled.  In the middle of what a pass asks without a step of
   the Task, that is as in a step: what the Task waits on is done, so that it takes
   the cancellation for its next step.  Runs Python code. */
static int
iteration_cancelled(CoroutineObject *op, PyObject *Py_UNUSED(message))
{
    IterationObject *self = (IterationObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (!self->is_asked || self->wakeup != NULL || self->waiter == NULL) {
        return 0;
    }
    PyObject *waiter = Py_NewRef(self->waiter);
    self->wakeup = task_take_wakeup(state, waiter);
    int status = PyErr_Occurred() ? -1 : 0;
    if (self->wakeup != NULL) {
        status =
            call_method_for_effect(waiter, state->str_set_result, Py_None);
    }
    Py_DECREF(waiter);
    return status;
}

static PyObject *
iteration_name(CoroutineObject *Py_UNUSED(op))
{
    return PyUnicode_InternFromString("gatedcoro.source");
}

static PyObject *
iteration_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
iteration_awaited(CoroutineObject *op)
{
    IterationObject *self = (IterationObject *)op;
    return self->pending != NULL ? self->pending : self->waiter;
}

static const CoroutineKind iteration_kind = {
    .step = iteration_step,
    .discard = iteration_discard,
    .name = iteration_name,
    .shown = iteration_shown,
    .awaited = iteration_awaited,
    .cancelled = iteration_cancelled,
    .warns = false,
};

#endif /* GATEDCORO_ITERATION_STEP_H */
