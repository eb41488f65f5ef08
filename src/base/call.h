/* Calls and errors: what every file does with attributes and methods, and with
   exceptions that belong to no item. */

#ifndef GATEDCORO_CALL_H
#define GATEDCORO_CALL_H

#include "base/state.h"

/*** Attributes and methods ***/

/* getattr(op, name) into `*value` as a new reference: 1; NULL and 0 where there
   is no such attribute; -1 with an exception.  Runs Python code. */
static int
lookup_attribute(PyObject *op, PyObject *name, PyObject **value)
{
    *value = PyObject_GetAttr(op, name);
    if (*value != NULL) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* Calls a method for its effect.  Runs Python code. */
static int
call_method_for_effect(PyObject *op, PyObject *name, PyObject *arg)
{
    PyObject *ignored = arg == NULL ? PyObject_CallMethodNoArgs(op, name)
                                    : PyObject_CallMethodOneArg(op, name, arg);
    if (ignored == NULL) {
        return -1;
    }
    Py_DECREF(ignored);
    return 0;
}

/* op.name(), as a truth value: 1, 0, or -1 on error.  Runs Python code. */
static int
answer_of_method(PyObject *op, PyObject *name)
{
    PyObject *answer = PyObject_CallMethodNoArgs(op, name);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return truth;
}

/* Calls a function of asyncio's that puts back what was changed before.  It may
   need memory for that; so it is called again, some times, if there is none.
   Runs Python code. */
static int
put_back(PyObject *function, PyObject *const *args, size_t nargs)
{
    PyObject *ignored = PyObject_Vectorcall(function, args, nargs, NULL);
    for (int i = 0; i < 100 && ignored == NULL
                    && PyErr_ExceptionMatches(PyExc_MemoryError);
         i++) {
        PyErr_Clear();
        ignored = PyObject_Vectorcall(function, args, nargs, NULL);
    }
    if (ignored == NULL) {
        return -1;
    }
    Py_DECREF(ignored);
    return 0;
}

/* loop.call_soon(callback, context=context).  Runs Python code. */
static int
call_soon(core_state *state, PyObject *loop, PyObject *callback,
          PyObject *context)
{
    PyObject *args[] = {loop, callback, context};
    PyObject *handle = PyObject_VectorcallMethod(
        state->str_call_soon, args, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        state->context_kwname);
    if (handle == NULL) {
        return -1;
    }
    Py_DECREF(handle);
    return 0;
}

/*** Errors ***/

/* Raises what fetch_exception() returned (stolen), which may be nothing. */
static inline void
restore_exception(PyObject *exception)
{
    if (exception != NULL) {
        raise_exception(exception);
    }
}

/* Raises an exception (stolen) as `raise` does, which may be nothing: -1, or 0 then.
   What is being handled becomes its context. */
static int
raise_in_step(PyObject *exception)
{
    if (exception == NULL) {
        return 0;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_DECREF(exception);
    return -1;
}

/* KeyboardInterrupt and SystemExit leave the event loop. */
static inline bool
is_interrupt(PyObject *exception)
{
    return PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt)
           || PyErr_GivenExceptionMatches(exception, PyExc_SystemExit);
}

/* Is the exception being raised one that leaves the event loop? */
static bool
interrupt_is_raised(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
           || PyErr_ExceptionMatches(PyExc_SystemExit);
}

/* Takes the exception being raised, which does not matter (0), unless it is an
   interrupt or there is no memory (-1). */
static int
forget_ordinary_error(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)
        || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* Notes on an error what somebody else raised meanwhile: `who` (stolen, or NULL
   with an exception) begins the sentence.  -1 on error.  Runs Python code. */
static int
note_raised(core_state *state, PyObject *error, PyObject *who,
            PyObject *exception)
{
    PyObject *text = who == NULL ? NULL : PyObject_Str(exception);
    if (who != NULL && text == NULL
        && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        text = PyUnicode_FromString("<exception str() failed>");
    }
    PyObject *name = text == NULL ? NULL : PyType_GetName(Py_TYPE(exception));
    PyObject *note = name == NULL ? NULL
                                  : PyUnicode_FromFormat("%U raised %U: %U",
                                                         who, name, text);
    int status =
        note == NULL
            ? -1
            : call_method_for_effect(error, state->str_add_note, note);
    Py_XDECREF(note);
    Py_XDECREF(name);
    Py_XDECREF(text);
    Py_XDECREF(who);
    return status;
}

/* An error that belongs to no item: from the loop, or from memory.  An
   interrupt keeps being raised (-1); anything else is reported.
   Runs Python code. */
static int
report_error(PyObject *where)
{
    if (interrupt_is_raised()) {
        return -1;
    }
    PyErr_WriteUnraisable(where);
    return 0;
}

/* Is the loop closed?  Nobody can say of one that fails, which is reported as of
   `where`: it may still do what it is asked to.  Runs Python code. */
static bool
loop_is_closed(core_state *state, PyObject *loop, PyObject *where)
{
    PyObject *closed = PyObject_CallMethodNoArgs(loop, state->str_is_closed);
    if (closed == NULL) {
        PyErr_WriteUnraisable(where);
    }
    Py_XDECREF(closed);
    return closed == Py_True;
}

/* Steps that must all be taken, whatever fails.  Takes the exception being
   raised: `*first` (owned, or NULL) is the one to raise in the end, and the
   others are reported.  An interrupt goes before any other.
   Runs Python code. */
static void
collect_exception(PyObject **first)
{
    PyObject *exception = fetch_exception();
    if (exception == NULL) {
        return;
    }
    if (*first == NULL) {
        *first = exception;
        return;
    }
    PyObject *other = exception;
    if (is_interrupt(exception) && !is_interrupt(*first)) {
        other = *first;
        *first = exception;
    }
    raise_exception(other);
    PyErr_WriteUnraisable(NULL);
}

/* Raises what was collected (stolen): -1, or 0 if that is nothing. */
static int
raise_collected(PyObject *exception)
{
    if (exception == NULL) {
        return 0;
    }
    raise_exception(exception);
    return -1;
}

/* The message of a CancelledError: new reference.  Runs Python code. */
static PyObject *
message_of(PyObject *cancellation)
{
    PyObject *args = PyObject_GetAttrString(cancellation, "args");
    PyObject *message =
        args != NULL && PyTuple_Check(args) && PyTuple_GET_SIZE(args) > 0
            ? Py_NewRef(PyTuple_GET_ITEM(args, 0))
            : NULL;
    Py_XDECREF(args);
    PyErr_Clear();
    return message == NULL ? Py_NewRef(Py_None) : message;
}

#endif /* GATEDCORO_CALL_H */
