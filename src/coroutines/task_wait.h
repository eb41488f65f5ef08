/* How a Task of ours waits for us, and goes on without the loop.

   It awaits a Future of asyncio's own type: for that asyncio looks nothing up by
   name.  The Future gets no result.  It keeps the Task's wake-up, as the callback
   that it was given; we take that, and call it with a Future that is done, as the
   loop would.  So nothing is scheduled for the Task, and it makes its step when we
   say so.

   Anybody may find the Future, and cancel it or give it a result: then the loop
   has the Task's next step. */

#ifndef GATEDCORO_TASK_WAIT_H
#define GATEDCORO_TASK_WAIT_H

#include "coroutines/await.h"
#include "coroutines/task_reuse.h"

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

/* Where does a Future have the callback that it got first?  This one has
   the wake-up of the Task that awaits it.  1, 0 if it is not as expected, or -1. */
static int
task_find_callback(core_state *state, PyObject *future)
{
    PyObject *callbacks = state->future_get_callbacks(future, NULL);
    if (callbacks == NULL) {
        return -1;
    }
    int found = 0;
    if (PyList_CheckExact(callbacks) && PyList_GET_SIZE(callbacks) == 1) {
        PyObject *first = PyList_GET_ITEM(callbacks, 0);
        PyObject *callback =
            PyTuple_CheckExact(first) && PyTuple_GET_SIZE(first) > 0
                ? PyTuple_GET_ITEM(first, 0)
                : NULL;
        Py_ssize_t end = Py_TYPE(future)->tp_basicsize;
        for (size_t i = 0; word_offset(i + 1) <= end; i++) {
            if (task_word(future, word_offset(i)) == (uintptr_t)callback) {
                state->future_callback = word_offset(i);
                found++;
            }
        }
    }
    Py_DECREF(callbacks);
    return found == 1;
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
    return task_waiter_callback(state, waiter) != NULL
           || future_is_done(state, waiter);
}

/* Takes the wake-up of the Task that awaits it: new reference; NULL if there is
   none, or with an exception: it is left there.  Runs Python code. */
static PyObject *
task_take_wakeup(core_state *state, PyObject *waiter)
{
    PyObject *wakeup = Py_XNewRef(task_waiter_callback(state, waiter));
    if (wakeup == NULL) {
        return NULL;
    }
    PyObject *args[] = {waiter, wakeup};
    PyObject *removed =
        PyObject_Vectorcall(state->future_remove_done_callback, args, 2, NULL);
    if (removed == NULL) {
        Py_CLEAR(wakeup);
    }
    Py_XDECREF(removed);
    return wakeup;
}

/* A Task of `loop` (borrowed, and kept by nobody here, for its references are
   counted) makes the step for which it waits, in the middle of that of another
   one, if there is one; `wakeup` has been taken.  -1 with an exception, of the
   step or because it could not be made.  Runs Python code. */
static int
task_resume(core_state *state, PyObject *task, PyObject *waiter,
            PyObject *wakeup, PyObject *loop)
{
    PyObject *context = Py_NewRef(task_fields(task)->context);
    int status = task_leaves_waiter(state, waiter, task);
    if (status == 0) {
        status =
            run_nested_step(state, loop, wakeup, state->done_future, context);
    }
    Py_DECREF(context);
    return status;
}

/* It could not be resumed: the loop has its next step, or will have it, should the
   Task be in the middle of the step that yields the Future.  `wakeup` is put back,
   if it has been taken.  Runs Python code. */
static int
task_resume_soon(core_state *state, PyObject *task, PyObject *waiter,
                 PyObject *wakeup)
{
    if (wakeup != NULL) {
        PyObject *args[] = {waiter, wakeup, task_fields(task)->context};
        PyObject *added = PyObject_VectorcallMethod(
            state->str_add_done_callback, args, 2, state->context_kwname);
        if (added == NULL) {
            return -1;
        }
        Py_DECREF(added);
    }
    return future_is_done(state, waiter)
               ? 0
               : call_method_for_effect(waiter, state->str_set_result,
                                        Py_None);
}

#endif /* GATEDCORO_TASK_WAIT_H */
