/* What `await` does, in C: from an awaitable to the object that is driven,
   and one way each to send and to throw into it.

   Everything here but delegate_is_future() may run Python code. */

#ifndef GATEDCORO_AWAIT_H
#define GATEDCORO_AWAIT_H

#include "base/call.h"

/* Is `op` a coroutine by collections.abc.Coroutine?  1, 0, or -1 on error. */
static int
is_coroutine(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(state, op)) {
        return 1;
    }
    return PyObject_IsInstance(op, state->abc_coroutine);
}

/* predicate(op): 1, 0, or -1 on error. */
static int
answer_of(PyObject *predicate, PyObject *op)
{
    PyObject *answer = PyObject_CallOneArg(predicate, op);
    if (answer == NULL) {
        return -1;
    }
    int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* asyncio.isfuture() */
static int
is_future(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op)) {
        return 0;
    }
    if (PyObject_TypeCheck(op, state->future_base)) {
        return 1;
    }
    return answer_of(state->isfuture, op);
}

/* Can a Task be made of it?  asyncio.iscoroutine() looks at __class__, which
   may be made up, and on 3.11 takes plain generators, too. */
static int
is_task_coroutine(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(state, op)) {
        return 1;
    }
    return answer_of(state->iscoroutine, op);
}

/* A generator made by types.coroutine() can be awaited, a plain one cannot. */
static bool
is_iterable_coroutine(PyObject *op)
{
    if (!PyGen_CheckExact(op)) {
        return false;
    }
    PyCodeObject *code = generator_code(op);
    bool iterable = (code->co_flags & CO_ITERABLE_COROUTINE) != 0;
    Py_DECREF(code);
    return iterable;
}

/* Does `await op` call a method of the type? */
static bool
has_am_await(PyObject *op)
{
    PyAsyncMethods *methods = Py_TYPE(op)->tp_as_async;
    return methods != NULL && methods->am_await != NULL;
}

/* Does `await op` start?  It may fail then; that is the awaitable's own error. */
static bool
can_be_awaited(PyObject *op)
{
    return PyCoro_CheckExact(op) || has_am_await(op)
           || is_iterable_coroutine(op);
}

/* A native coroutine that somebody else awaits must not be resumed from here:
   a plain send would do so silently.  Returns 0, or -1 with RuntimeError. */
static int
check_not_awaited(core_state *state, PyObject *coro)
{
    PyObject *awaited = state->coro_get_await(coro, state->coro_await_closure);
    if (awaited == NULL) {
        return -1;
    }
    bool is_awaited = awaited != Py_None;
    Py_DECREF(awaited);
    if (is_awaited) {
        PyErr_SetString(PyExc_RuntimeError,
                        "coroutine is being awaited already");
        return -1;
    }
    return 0;
}

/* Returns a new reference to what has to be driven for `await awaitable`.
   `source` is NULL, or the method of `async with` that gave the awaitable:
   the interpreter then words its TypeError in another way. */
static PyObject *
await_iterator(core_state *state, PyObject *awaitable, const char *source)
{
    if (PyCoro_CheckExact(awaitable)) {
        if (check_not_awaited(state, awaitable) < 0) {
            return NULL;
        }
        return Py_NewRef(awaitable);
    }
    if (is_iterable_coroutine(awaitable)) {
        return Py_NewRef(awaitable);
    }
    if (!has_am_await(awaitable)) {
        if (source != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "'async with' received an object from %s "
                         "that does not implement __await__: %.100s",
                         source, Py_TYPE(awaitable)->tp_name);
        }
        else {
            PyErr_Format(PyExc_TypeError, NOT_AWAITABLE_FORMAT,
                         Py_TYPE(awaitable)->tp_name);
        }
        return NULL;
    }
    PyObject *iterator = Py_TYPE(awaitable)->tp_as_async->am_await(awaitable);
    if (iterator == NULL) {
        return NULL;
    }
    bool is_coro =
        PyCoro_CheckExact(iterator) || is_iterable_coroutine(iterator);
    if (is_coro || !PyIter_Check(iterator)) {
        set_no_iterator_error(awaitable, iterator, is_coro);
        Py_DECREF(iterator);
        return NULL;
    }
    return iterator;
}

/* Returns a new reference to what has to be driven for
   `yield from op.__await__()`, which knows no difference between a method and
   an attribute. */
static PyObject *
await_method_iterator(core_state *state, PyObject *op)
{
    /* Not bound: nothing is made before the call. */
    PyObject *method = NULL;
    int unbound = _PyObject_GetMethod(op, state->str_dunder_await, &method);
    if (method == NULL) {
        return NULL;
    }
    PyObject *iterable = unbound ? PyObject_CallOneArg(method, op)
                                 : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (iterable == NULL || PyCoro_CheckExact(iterable)) {
        return iterable;
    }
    PyObject *iterator = PyObject_GetIter(iterable);
    Py_DECREF(iterable);
    return iterator;
}

/* How to get from an item to what is driven. */
typedef enum {
    ITEM_IS_AWAITED,
    ITEM_IS_DRIVEN,                /* itself, as a Task drives its coroutine */
    ITEM_IS_AWAITED_BY_ITS_METHOD, /* `yield from item.__await__()` */
} ItemKind;

/* Which of these does asyncio.gather do?  It makes a Task of a coroutine, which
   drives it from where it stands, and does not ask whether `await` would take
   it.  A Future runs already; one that `await` does not take may say by an
   attribute how it is waited for.  -1 on error. */
static int
gather_item_kind(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(state, op)) {
        return ITEM_IS_DRIVEN;
    }
    if (is_iterable_coroutine(op)
        || PyObject_TypeCheck(op, state->future_base)) {
        return ITEM_IS_AWAITED;
    }
    int future = is_future(state, op);
    if (future < 0) {
        return -1;
    }
    if (future) {
        if (has_am_await(op)) {
            return ITEM_IS_AWAITED;
        }
        PyObject *method;
        int found = lookup_attribute(op, state->str_dunder_await, &method);
        Py_XDECREF(method);
        return found <= 0 ? found : ITEM_IS_AWAITED_BY_ITS_METHOD;
    }
    int coroutine = is_task_coroutine(state, op);
    if (coroutine != 0) {
        return coroutine < 0 ? -1 : ITEM_IS_DRIVEN;
    }
    return GATHER_CALLS_AWAIT_METHOD ? ITEM_IS_AWAITED_BY_ITS_METHOD
                                     : ITEM_IS_AWAITED;
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
   there is no memory. */
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
   exception raised in its place.  GeneratorExit closes it instead. */
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

/* Sends `value`, or throws `exception` if that is not NULL. */
static PySendResult
delegate_step(core_state *state, PyObject *delegate, PyObject *value,
              PyObject *exception, PyObject **result)
{
    if (exception == NULL) {
        return PyIter_Send(delegate, value, result);
    }
    return delegate_throw(state, delegate, exception, result);
}

/*** Items ***/

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

/* Says on the exception being raised which item it comes from. */
static void
note_item(core_state *state, Py_ssize_t index)
{
    make_raisable();
    PyObject *raised = fetch_exception();
    PyObject *note = PyUnicode_FromFormat("raised by item %zd", index);
    if (note == NULL
        || call_method_for_effect(raised, state->str_add_note, note) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(note);
    raise_exception(raised);
}

/* Is it an iterable that was meant to be unpacked?  A string's or a dict's
   contents are no items.  What says that it is a coroutine is a proxy, which has
   every method; no other code of its runs.  Keeps no exception. */
static bool
is_to_be_unpacked(core_state *state, PyObject *op)
{
    if (Py_TYPE(op)->tp_iter == NULL || can_be_awaited(op)
        || PyUnicode_Check(op) || PyBytes_Check(op) || PyByteArray_Check(op)
        || PyDict_Check(op)
        || _PyType_Lookup(Py_TYPE(op), state->str_dunder_iter) == Py_None) {
        return false;
    }
    int is_proxy = is_coroutine(state, op);
    if (is_proxy < 0) {
        PyErr_Clear();
    }
    return is_proxy == 0;
}

/* Says on the TypeError being raised about an item what may have been meant. */
static void
note_unpacking(core_state *state, PyObject *op)
{
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
        return;
    }
    PyObject *raised = fetch_exception();
    if (is_to_be_unpacked(state, op)) {
        PyObject *name = PyType_GetName(Py_TYPE(op));
        PyObject *note =
            name == NULL
                ? NULL
                : PyUnicode_FromFormat(
                    "to pass what the %U contains, unpack it with *", name);
        if (note == NULL
            || call_method_for_effect(raised, state->str_add_note, note) < 0) {
            PyErr_Clear();
        }
        Py_XDECREF(name);
        Py_XDECREF(note);
    }
    raise_exception(raised);
}

/* Returns a new reference to what has to be driven for `*item`.  If that is a
   callable (`call_index` >= 0 is its index), it is called, and `*item` is
   replaced by what it returned. */
static PyObject *
item_iterator(core_state *state, PyObject **item, Py_ssize_t call_index,
              ItemKind kind)
{
    if (call_index >= 0) {
        PyObject *awaitable = PyObject_CallNoArgs(*item);
        if (awaitable == NULL) {
            note_item(state, call_index);
            return NULL;
        }
        Py_SETREF(*item, awaitable);
    }
    PyObject *iterator = NULL;
    switch (kind) {
    case ITEM_IS_AWAITED:
        iterator = await_iterator(state, *item, NULL);
        break;
    case ITEM_IS_DRIVEN:
        return Py_NewRef(*item);
    case ITEM_IS_AWAITED_BY_ITS_METHOD:
        return await_method_iterator(state, *item);
    }
    if (iterator == NULL && call_index >= 0 && !can_be_awaited(*item)) {
        note_item(state, call_index);
    }
    return iterator;
}

/*** Giving items up ***/

/* One that runs is not ours to close, nor is one that somebody else awaits: it
   has begun, and unless `begun_too`, was not given to go on with.  1, 0, or -1
   on error. */
static int
is_not_ours(core_state *state, PyObject *coroutine, bool begun_too)
{
    PyObject *running, *awaited;
    if (lookup_attribute(coroutine, state->str_cr_running, &running) < 0) {
        return -1;
    }
    int truth = running == NULL ? 0 : PyObject_IsTrue(running);
    Py_XDECREF(running);
    if (truth != 0 || begun_too) {
        return truth;
    }
    if (lookup_attribute(coroutine, state->str_cr_await, &awaited) < 0) {
        return -1;
    }
    bool is_awaited = awaited != NULL && awaited != Py_None;
    Py_XDECREF(awaited);
    return is_awaited;
}

/* Closes an item that is given up, if it is a coroutine; what close() raises
   goes to sys.unraisablehook.  The exception being raised is kept. */
static void
close_given_up(core_state *state, PyObject *awaitable, bool begun_too)
{
    PyObject *raised = fetch_exception();
    int closable = is_coroutine(state, awaitable);
    if (closable > 0) {
        int foreign = is_not_ours(state, awaitable, begun_too);
        closable = foreign < 0 ? -1 : !foreign;
    }
    if (closable > 0
        && call_method_for_effect(awaitable, state->str_close, NULL) < 0) {
        closable = -1;
    }
    if (closable < 0) {
        PyErr_WriteUnraisable(awaitable);
    }
    restore_exception(raised);
}

/* The same for one that has not begun. */
static void
close_unstarted(core_state *state, PyObject *awaitable)
{
    close_given_up(state, awaitable, false);
}

#endif /* GATEDCORO_AWAIT_H */
