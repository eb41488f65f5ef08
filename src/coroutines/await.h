/* What `await` does, in C: from an awaitable to the object that is driven. */

#ifndef GATEDCORO_AWAIT_H
#define GATEDCORO_AWAIT_H

#include "coroutines/coroutine.h"

/* Is `op` a coroutine by collections.abc.Coroutine?  1, 0, or -1 on error.
   Runs Python code. */
static int
is_coroutine(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(op)) {
        return 1;
    }
    return PyObject_IsInstance(op, state->abc_coroutine);
}

/* predicate(op): 1, 0, or -1 on error.  Runs Python code. */
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

/* asyncio.isfuture().  Runs Python code. */
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

/* Is it done?  It is of asyncio's own type: neither Python code runs, nor can it
   fail. */
static inline bool
future_is_done(core_state *state, PyObject *future)
{
    PyObject *done = state->future_done(future, NULL);
    Py_DECREF(done);
    return done == Py_True;
}

/* Can a Task be made of it?  asyncio.iscoroutine() looks at __class__, which
   may be made up, and on 3.11 takes plain generators, too.
   Runs Python code. */
static int
is_task_coroutine(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(op)) {
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
   the interpreter then words its TypeError in another way.
   Runs Python code. */
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
   an attribute.  Runs Python code. */
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

#endif /* GATEDCORO_AWAIT_H */
