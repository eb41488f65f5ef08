/* What `async with` does around its body, in C; what await.h is to `await`. */

#ifndef GATEDCORO_ASYNC_WITH_H
#define GATEDCORO_ASYNC_WITH_H

#include "coroutines/await.h"

/* type(gate).<name>, bound to the gate: new reference.  `with` looks on the
   type, not on the instance.  Runs Python code. */
static PyObject *
special_method(PyObject *gate, PyObject *name)
{
    PyObject *found = _PyType_Lookup(Py_TYPE(gate), name);
    if (found == NULL) {
        return NULL;
    }
    descrgetfunc get = Py_TYPE(found)->tp_descr_get;
    Py_INCREF(found);
    if (get != NULL) {
        Py_SETREF(found, get(found, gate, (PyObject *)Py_TYPE(gate)));
    }
    return found;
}

/* Runs Python code. */
static PyObject *
async_with_method(core_state *state, PyObject *gate, PyObject *name)
{
    PyObject *method = special_method(gate, name);
    if (method == NULL && !PyErr_Occurred()) {
        PyTypeObject *type = Py_TYPE(gate);
        set_no_gate_error(gate, name, name == state->str_aexit,
                          _PyType_Lookup(type, state->str_enter) != NULL
                              && _PyType_Lookup(type, state->str_exit)
                                     != NULL);
    }
    return method;
}

/* gate.__aenter__(): a new reference to what has to be driven.  What is to be
   called in the end goes into `*aexit` (NULL before; owned, also on failure).
   Runs Python code. */
static PyObject *
async_with_enter(core_state *state, PyObject *gate, PyObject **aexit)
{
    if (ASYNC_WITH_LOOKS_FOR_AEXIT_FIRST) {
        *aexit = async_with_method(state, gate, state->str_aexit);
        if (*aexit == NULL) {
            return NULL;
        }
    }
    PyObject *aenter = async_with_method(state, gate, state->str_aenter);
    if (aenter == NULL) {
        return NULL;
    }
    if (!ASYNC_WITH_LOOKS_FOR_AEXIT_FIRST) {
        *aexit = async_with_method(state, gate, state->str_aexit);
    }
    PyObject *entering = *aexit == NULL ? NULL : PyObject_CallNoArgs(aenter);
    Py_DECREF(aenter);
    if (entering == NULL) {
        return NULL;
    }
    PyObject *iterator = await_iterator(state, entering, "__aenter__");
    Py_DECREF(entering);
    return iterator;
}

/* aexit(...) after a body that raised `exception` (borrowed), or nothing if that
   is NULL: a new reference to what has to be driven.  Runs Python code. */
static PyObject *
async_with_leave(core_state *state, PyObject *aexit, PyObject *exception)
{
    PyObject *traceback =
        exception == NULL ? NULL : PyException_GetTraceback(exception);
    PyObject *args[] = {
        exception == NULL ? Py_None : (PyObject *)Py_TYPE(exception),
        exception == NULL ? Py_None : exception,
        traceback == NULL ? Py_None : traceback,
    };
    PyObject *leaving = PyObject_Vectorcall(aexit, args, 3, NULL);
    Py_XDECREF(traceback);
    if (leaving == NULL) {
        return NULL;
    }
    PyObject *iterator = await_iterator(state, leaving, "__aexit__");
    Py_DECREF(leaving);
    return iterator;
}

#endif /* GATEDCORO_ASYNC_WITH_H */
