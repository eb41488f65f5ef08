/* Delegate: what a coroutine of ours drives, and how to send and to throw into
   it, as `yield from` does. */

#ifndef GATEDCORO_DELEGATE_H
#define GATEDCORO_DELEGATE_H

#include "base/call.h"

/* Makes the exception being raised one that a coroutine may raise: a
   StopIteration must not look like a return (PEP 479).  An awaitable may have
   failed and set none; 3.12.1's own coroutines do, when memory runs out. */
static void
make_raisable(void)
{
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError,
                        "an awaitable failed without setting an exception");
        return;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return;
    }
    PyObject *stop = fetch_exception();
    PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    PyObject *error = fetch_exception();
    PyException_SetCause(error, Py_NewRef(stop));
    PyException_SetContext(error, stop);
    raise_exception(error);
}

/* A StopIteration being raised is a return from `delegate`.  Any other
   exception stays an error. */
static PySendResult
stop_iteration_to_return(PyObject **result)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyObject *stop = fetch_exception();
    /* NULL if a subclass did not call __init__(). */
    PyObject *value = ((PyStopIterationObject *)stop)->value;
    *result = Py_NewRef(value == NULL ? Py_None : value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

/* op.<name>([arg]), if there is such a method: 1, with what it returned in
   `*result`, or NULL with an exception.  0 if there is none, -1 on error.  The
   method is not bound, so that a coroutine can be thrown into and closed when
   there is no memory.  Runs Python code. */
static int
call_method_if_any(PyObject *op, PyObject *name, PyObject *arg,
                   PyObject **result)
{
    *result = NULL;
    PyObject *method = NULL;
    int unbound = _PyObject_GetMethod(op, name, &method);
    if (method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    PyObject *args[] = {NULL, op, arg}; /* the first for the callee's use */
    size_t count = arg != NULL ? 1 : 0;
    count += unbound ? 1 : 0;
    *result =
        PyObject_Vectorcall(method, unbound ? args + 1 : args + 2,
                            count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(method);
    return 1;
}

/* Throws into `delegate` as `yield from` does: one without throw() has the
   exception raised in its place.  GeneratorExit closes it instead.
   Runs Python code. */
static PySendResult
delegate_throw(core_state *state, PyObject *delegate, PyObject *exception,
               PyObject **result)
{
    bool exiting = PyErr_GivenExceptionMatches(exception, PyExc_GeneratorExit);
    int called =
        exiting ? call_method_if_any(delegate, state->str_close, NULL, result)
                : call_method_if_any(delegate, state->str_throw, exception,
                                     result);
    if (called < 0) {
        return PYGEN_ERROR;
    }
    if (called && !exiting) {
        return *result != NULL ? PYGEN_NEXT : stop_iteration_to_return(result);
    }
    if (called && *result == NULL) {
        return PYGEN_ERROR;
    }
    Py_CLEAR(*result);
    raise_exception(Py_NewRef(exception));
    return PYGEN_ERROR;
}

/* Sends `value`, or throws `exception` if that is not NULL.
   Runs Python code. */
static PySendResult
delegate_step(core_state *state, PyObject *delegate, PyObject *value,
              PyObject *exception, PyObject **result)
{
    if (exception == NULL) {
        return PyIter_Send(delegate, value, result);
    }
    return delegate_throw(state, delegate, exception, result);
}

#endif /* GATEDCORO_DELEGATE_H */
