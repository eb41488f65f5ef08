/* Iterables: arguments that are iterated over, and the sources of what is in
   them. */

#ifndef GATEDCORO_ITERABLES_H
#define GATEDCORO_ITERABLES_H

#include "engine/iteration_source.h"

/* Has its type this method?  One that is None says that it has not. */
static bool
has_method(PyObject *op, PyObject *name)
{
    PyObject *method = _PyType_Lookup(Py_TYPE(op), name);
    return method != NULL && method != Py_None;
}

/* Is it an async iterable?  What is both is one, too. */
static bool
is_async_iterable(core_state *state, PyObject *op)
{
    return has_method(op, state->str_dunder_aiter);
}

/* Was a generator function given, and not called?  NULL if not; or what to call
   it. */
static const char *
uncalled_generator(PyObject *op)
{
    if (!PyFunction_Check(op)) {
        return NULL;
    }
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(op);
    return (code->co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR)) != 0
               ? "the generator function"
               : NULL;
}

/* What would be right where one awaitable was given: as_completed()'s argument is an
   iterable of such, the others' are not. */
static const char *
remedy_for_awaitable(const char *name)
{
    return strcmp(name, "aws") == 0 ? "put it into a list"
                                    : "await it, and pass what it returns";
}

/* A TypeError that says what would be right, unless it is an iterable, or an async
   one; nothing of it is run.  Runs Python code. */
static int
check_iterable(core_state *state, PyObject *op, const char *name)
{
    /* Python can iterate over a Future: until it is done. */
    int future = is_future(state, op);
    if (future != 0) {
        if (future > 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s must be an iterable or an async iterable, not a "
                         "Future: %s",
                         name, remedy_for_awaitable(name));
        }
        return -1;
    }
    if (is_async_iterable(state, op) || has_method(op, state->str_dunder_iter)
        || (_PyType_Lookup(Py_TYPE(op), state->str_dunder_iter) == NULL
            && has_method(op, state->str_getitem))) {
        return 0;
    }
    int coroutine = is_task_coroutine(state, op);
    if (coroutine < 0) {
        return -1;
    }
    if (coroutine) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be an iterable or an async iterable, not a "
                     "coroutine: %s",
                     name, remedy_for_awaitable(name));
        return -1;
    }
    const char *generator = uncalled_generator(op);
    if (generator != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be an iterable or an async iterable, not %s %U: "
                     "call it, and pass what it returns",
                     name, generator, ((PyFunctionObject *)op)->func_qualname);
        return -1;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s must be an iterable or an async iterable, not %R (%s)",
                 name, op, Py_TYPE(op)->tp_name);
    return -1;
}

/* A source of what is in an iterable or async iterable (stolen): of arguments for
   `function` (borrowed), or of callables if that is NULL.  -1 on error: there is
   nothing to drop then.  Runs Python code. */
static int
source_open(core_state *state, Source *source, PyObject *iterable,
            PyObject *function)
{
    if (!is_async_iterable(state, iterable)) {
        return source_open_iterable(state, source, iterable, function);
    }
    PyObject *iteration = iteration_new(state, iterable);
    if (iteration == NULL) {
        return -1;
    }
    *source = source_of_task(iteration, &iteration_source, function);
    return 0;
}

#endif /* GATEDCORO_ITERABLES_H */
