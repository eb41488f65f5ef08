/* How a Task of ours waits for us, and goes on without the loop.

   It awaits a Future of asyncio's own type: for that asyncio looks nothing up by
   name.  The Future gets no result.  It keeps the Task's wake-up, as the callback
   that it was given, and we call that, with a Future that is done, as the loop
   would.  So nothing is scheduled for the Task, and it makes its step when we
   say so.

   Anybody may find the Future, and cancel it or give it a result: then the loop
   has the Task's next step. */

#ifndef GATEDCORO_TASK_WAIT_H
#define GATEDCORO_TASK_WAIT_H

#include "coroutines/task.h"

/* A Future that is to be yielded to a Task of `loop`: new reference.
   Runs Python code. */
static PyObject *
task_waiter_new(core_state *state, PyObject *loop)
{
    PyObject *args[] = {NULL, loop};
    return PyObject_Vectorcall((PyObject *)state->future_base, args + 1,
                               PY_VECTORCALL_ARGUMENTS_OFFSET,
                               state->loop_kwname);
}

/* What a step yields so as to wait: new reference. */
static PyObject *
task_waiter_yield(core_state *state, PyObject *waiter)
{
    /* Cannot fail: it is a bool. */
    (void)state->future_set_blocking(waiter, Py_True, NULL);
    return Py_NewRef(waiter);
}

/* The wake-up of the Task that awaits it (borrowed); NULL if that has been called,
   or is the loop's. */
static inline PyObject *
task_waiter_callback(core_state *state, PyObject *waiter)
{
    PyObject *callback;
    memcpy(&callback, (char *)waiter + state->future_callback,
           sizeof(callback));
    return callback;
}

/* The Task is not shown as awaiting the Future any more (3.14+): asyncio sees to
   that with the Future that it is called with.  -1 on error.
   Runs Python code. */
static int
task_leaves_waiter(core_state *state, PyObject *waiter, PyObject *task)
{
    if (!HAS_AWAITED_BY) {
        return 0;
    }
    PyObject *args[] = {waiter, task};
    PyObject *ignored =
        PyObject_Vectorcall(state->discard_from_awaited_by, args, 2, NULL);
    Py_XDECREF(ignored);
    return ignored == NULL ? -1 : 0;
}

/* Has the Task begun to wait, so that it will make another step? */
static bool
task_has_wakeup(core_state *state, PyObject *waiter)
{
    if (task_waiter_callback(state, waiter) != NULL) {
        return true;
    }
    PyObject *done = state->future_done(waiter, NULL); /* cannot fail */
    Py_XDECREF(done);
    return done == Py_True;
}

/* A Task of `loop` (borrowed, and kept by nobody here, for its references are
   counted) makes the step for which it waits, in the middle of that of another
   one, if there is one.  1; 0 if the loop has that step; -1 with an exception, of
   the step or because it could not be made.  Runs Python code. */
static int
task_resume(core_state *state, PyObject *task, PyObject *waiter,
            PyObject *loop)
{
    PyObject *callback = Py_XNewRef(task_waiter_callback(state, waiter));
    if (callback == NULL) {
        return 0;
    }
    PyObject *context = Py_NewRef(task_fields(task)->context);
    Py_INCREF(waiter);
    int status = task_leaves_waiter(state, waiter, task);
    if (status == 0) {
        status = run_nested_step(state, loop, callback, state->done_future,
                                 context);
    }
    if (status == 0) {
        PyObject *args[] = {waiter, callback};
        PyObject *removed = PyObject_Vectorcall(
            state->future_remove_done_callback, args, 2, NULL);
        status = removed == NULL ? -1 : 1;
        Py_XDECREF(removed);
    }
    Py_DECREF(waiter);
    Py_DECREF(context);
    Py_DECREF(callback);
    return status;
}

/* It could not be resumed: the loop has its next step, or will have it, should the
   Task be in the middle of the step that yields the Future.
   Runs Python code. */
static int
task_resume_soon(core_state *state, PyObject *waiter)
{
    PyObject *done = state->future_done(waiter, NULL); /* cannot fail */
    Py_XDECREF(done);
    return done == Py_True ? 0
                           : call_method_for_effect(
                               waiter, state->str_set_result, Py_None);
}

#endif /* GATEDCORO_TASK_WAIT_H */
