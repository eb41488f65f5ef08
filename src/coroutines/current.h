/* The current Task, while somebody else's code makes a Task for us.

   A task factory, or a loop's own create_task(), may hand state of the current
   Task on to the one that it makes.  asyncio.gather makes its Tasks in the
   call, so that is the caller's.  Ours are made later, in the last step of some
   item or in a callback: so the caller is made the current Task around it, and
   whatever was in its place afterwards, however the factory has left things.

   Not where the loop does not run in this thread: then nothing is current on
   it, or it is not ours to touch. */

#ifndef GATEDCORO_CURRENT_H
#define GATEDCORO_CURRENT_H

#include "base/call.h"

/* asyncio.current_task(loop): new reference, None if there is none; NULL with
   an exception.  Runs Python code. */
static PyObject *
current_task_get(core_state *state, PyObject *loop, bool of_python_tasks)
{
    return of_python_tasks ? PyObject_CallMethodOneArg(
               state->asyncio_tasks, state->str_current_task, loop)
                           : PyObject_CallOneArg(state->current_task, loop);
}

/* Leaves (`enters` is false) or enters `task`.  Runs Python code. */
static int
current_task_switch(core_state *state, PyObject *loop, PyObject *task,
                    bool enters, bool of_python_tasks)
{
    PyObject *ignored;
    if (of_python_tasks) {
        ignored = PyObject_CallMethodObjArgs(state->asyncio_tasks,
                                             enters ? state->str_py_enter_task
                                                    : state->str_py_leave_task,
                                             loop, task, NULL);
    }
    else {
        PyObject *args[] = {loop, task};
        ignored = PyObject_Vectorcall(
            enters ? state->enter_task : state->leave_task, args, 2, NULL);
    }
    Py_XDECREF(ignored);
    return ignored == NULL ? -1 : 0;
}

/* Do Python Tasks say which one is current, and not C ones (3.14+)?  Somebody
   has put asyncio's Python function in its place then.  Keeps no exception.
   Runs Python code. */
static bool
python_tasks_are_current(core_state *state)
{
    if (!PYTHON_TASKS_ARE_CURRENT_APART) {
        return false;
    }
    PyObject *current, *of_python;
    if (lookup_attribute(state->asyncio_tasks, state->str_current_task,
                         &current)
        < 0) {
        PyErr_Clear();
    }
    if (lookup_attribute(state->asyncio_tasks, state->str_py_current_task,
                         &of_python)
        < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(current);
    Py_XDECREF(of_python);
    return current != NULL && current == of_python;
}

/* Makes `wanted` (None for none) the current Task of `loop`, which runs in this
   thread.  `*found` is what was (new reference; NULL if nobody could say).  0,
   or -1 with an exception.  Runs Python code. */
static int
current_task_set(core_state *state, PyObject *loop, PyObject *wanted,
                 PyObject **found)
{
    bool of_python_tasks = python_tasks_are_current(state);
    *found = current_task_get(state, loop, of_python_tasks);
    if (*found == NULL) {
        return -1;
    }
    if (*found == wanted) {
        return 0;
    }
    if (*found != Py_None
        && current_task_switch(state, loop, *found, false, of_python_tasks)
               < 0) {
        return -1;
    }
    if (wanted == Py_None) {
        return 0;
    }
    return current_task_switch(state, loop, wanted, true, of_python_tasks);
}

/* Does the loop run in this thread?  1, 0, or -1.  Runs Python code. */
static int
loop_runs_here(core_state *state, PyObject *loop)
{
    PyObject *running = PyObject_CallNoArgs(state->get_running_loop_or_none);
    Py_XDECREF(running);
    return running == NULL ? -1 : running == loop;
}

/* The Task that runs on `loop` at the moment: new reference, None if there is
   none or nobody can say; NULL on an interrupt.  Runs Python code. */
static PyObject *
current_task_of(core_state *state, PyObject *loop)
{
    PyObject *task = NULL;
    int runs = loop_runs_here(state, loop);
    if (runs > 0) {
        task = current_task_get(state, loop, python_tasks_are_current(state));
    }
    if (task == NULL && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return NULL;
        }
        PyErr_Clear();
    }
    return task == NULL ? Py_NewRef(Py_None) : task;
}

/* Makes `task` (None or NULL for none) the current one until
   current_task_leave(), which is due also after an interrupt (-1).  `*before` is
   NULL where nothing was done.  Runs Python code. */
static int
current_task_enter(core_state *state, PyObject *loop, PyObject *task,
                   PyObject **before)
{
    *before = NULL;
    int runs = loop_runs_here(state, loop);
    if (task == NULL) {
        task = Py_None;
    }
    if (runs > 0 && current_task_set(state, loop, task, before) == 0) {
        return 0;
    }
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Clear(); /* asyncio's functions are not what they were */
    return 0;
}

/* Makes `before` (stolen; may be NULL) the current Task again, whichever is now.
   That may need memory: it is tried again, some times, if there is none.  Keeps
   the exception being raised.  Runs Python code. */
static void
current_task_leave(core_state *state, PyObject *loop, PyObject *before)
{
    if (before == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *found;
    int status = current_task_set(state, loop, before, &found);
    for (int i = 0;
         i < 100 && status < 0 && PyErr_ExceptionMatches(PyExc_MemoryError);
         i++) {
        PyErr_Clear();
        Py_XDECREF(found);
        status = current_task_set(state, loop, before, &found);
    }
    if (status < 0) {
        PyErr_WriteUnraisable(loop);
    }
    Py_XDECREF(found);
    Py_DECREF(before);
    restore_exception(raised);
}

/* Makes `wanted`, one of asyncio's C Tasks or None, the current Task of the loop
   that runs in this thread, and returns what was: new reference, None for none.
   NULL with an exception: then it is as it was, as far as that can be had.
   Runs Python code. */
static PyObject *
current_task_exchange(core_state *state, PyObject *loop, PyObject *wanted)
{
    if (state->swap_current_task != NULL) {
        PyObject *args[] = {loop, wanted};
        return PyObject_Vectorcall(state->swap_current_task, args, 2, NULL);
    }
    PyObject *current = PyObject_CallOneArg(state->current_task, loop);
    if (current == NULL
        || (current != Py_None
            && current_task_switch(state, loop, current, false, false) < 0)) {
        Py_XDECREF(current);
        return NULL;
    }
    if (wanted != Py_None
        && current_task_switch(state, loop, wanted, true, false) < 0) {
        PyObject *raised = fetch_exception();
        PyObject *args[] = {loop, current};
        if (current != Py_None && put_back(state->enter_task, args, 2) < 0) {
            PyErr_WriteUnraisable(loop);
        }
        restore_exception(raised);
        Py_CLEAR(current);
    }
    return current;
}

/* Has the loop make a Task of a coroutine in a context, as `parent` would (None or
   NULL for nobody): new reference.  Runs Python code. */
static PyObject *
create_task_for(core_state *state, PyObject *loop, PyObject *coroutine,
                PyObject *context, PyObject *parent)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *task = NULL, *before;
    if (current_task_enter(state, loop, parent, &before) == 0) {
        task =
            PyObject_CallMethodOneArg(loop, state->str_create_task, coroutine);
    }
    current_task_leave(state, loop, before);
    PyObject *raised = task == NULL ? fetch_exception() : NULL;
    if (PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable(loop);
    }
    restore_exception(raised);
    return task;
}

#endif /* GATEDCORO_CURRENT_H */
