/* asyncio's Semaphore and BoundedSemaphore, without their coroutines.

   A slot of an exact semaphore, for which nobody waits, is taken and given back
   by changing its counter, as acquire() and release() would.  Nobody may be
   able to tell: so the class must have the methods that it had at import, and
   the instance must not hide them (mock.patch.object(semaphore, "acquire")).
   Attributes are only read and set as any other code does: looking at the
   instance's __dict__ would make it slower for everybody. */

#ifndef GATEDCORO_SEMAPHORE_H
#define GATEDCORO_SEMAPHORE_H

#include "state.h"

/* Are the methods of a semaphore class those that it had at import?  A subclass
   may inherit them. */
static bool
semaphore_class_is_known(core_state *state, PyTypeObject *type)
{
    PyTypeObject *bounded = (PyTypeObject *)state->bounded_semaphore_type;
    PyTypeObject *plain = (PyTypeObject *)state->semaphore_type;
    unsigned int *version = type == plain     ? &state->semaphore_version
                            : type == bounded ? &state->bounded_version
                                              : NULL;
    /* The interpreter gives a changed class another version. */
    if (version != NULL && type->tp_version_tag != 0
        && type->tp_version_tag == *version) {
        return true;
    }
    PyObject *const *known = state->semaphore_methods;
    if (PyType_IsSubtype(type, bounded)) {
        known = state->bounded_semaphore_methods;
    }
    else if (!PyType_IsSubtype(type, plain)) {
        return false;
    }
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        if (_PyType_Lookup(type, state->semaphore_names[i]) != known[i]) {
            return false;
        }
    }
    if (version != NULL) {
        *version = type->tp_version_tag;
    }
    return true;
}

/* Has the instance no attribute in place of that method of its class?  False
   also with an exception. */
static bool
method_is_intact(core_state *state, PyObject *op, SemaphoreMethod method)
{
    PyTypeObject *bounded = (PyTypeObject *)state->bounded_semaphore_type;
    PyObject *const *known = PyObject_TypeCheck(op, bounded)
                                 ? state->bounded_semaphore_methods
                                 : state->semaphore_methods;
    PyObject *found = NULL;
    (void)_PyObject_GetMethod(op, state->semaphore_names[method], &found);
    bool intact = found == known[method];
    Py_XDECREF(found);
    return intact;
}

/* Does acquire() do what asyncio's does?  False also with an exception. */
static bool
semaphore_acquire_is_intact(core_state *state, PyObject *op)
{
    return semaphore_class_is_known(state, Py_TYPE(op))
           && method_is_intact(state, op, SEMAPHORE_ACQUIRE)
           && method_is_intact(state, op, SEMAPHORE_LOCKED);
}

/* Does release() do what asyncio's does?  False also with an exception. */
static bool
semaphore_release_is_intact(core_state *state, PyObject *op)
{
    return semaphore_class_is_known(state, Py_TYPE(op))
           && method_is_intact(state, op, SEMAPHORE_RELEASE);
}

/* The value of an int attribute; `*usable` is false if it is none. */
static int
read_count(PyObject *op, PyObject *name, long *count, bool *usable)
{
    PyObject *value;
    if (lookup_attribute(op, name, &value) < 0) {
        return -1;
    }
    int overflow = 1;
    if (value != NULL && PyLong_CheckExact(value)) {
        *count = PyLong_AsLongAndOverflow(value, &overflow);
    }
    *usable = overflow == 0;
    Py_XDECREF(value);
    return 0;
}

/* Takes (-1) or gives back (1) a slot of an intact semaphore: 1 if that could
   be done here, 0 if its own methods have to, -1 on error.  Runs no Python
   code. */
static int
semaphore_count(core_state *state, PyObject *op, long change)
{
    bool bounded = (PyObject *)Py_TYPE(op) == state->bounded_semaphore_type;
    if (!bounded && (PyObject *)Py_TYPE(op) != state->semaphore_type) {
        return 0; /* a subclass may count in its own way */
    }
    PyObject *waiters;
    if (lookup_attribute(op, state->str_waiters, &waiters) < 0) {
        return -1;
    }
    bool nobody_waits =
        waiters == Py_None
        || (waiters != NULL && (PyObject *)Py_TYPE(waiters) == state->deque
            && PyObject_Size(waiters) == 0);
    Py_XDECREF(waiters);
    long value = 0, bound = LONG_MAX;
    bool usable = false;
    if (!nobody_waits) {
        return 0;
    }
    if (read_count(op, state->str_value, &value, &usable) < 0) {
        return -1;
    }
    if (usable && change > 0 && bounded
        && read_count(op, state->str_bound_value, &bound, &usable) < 0) {
        return -1;
    }
    if (!usable || value < (change < 0 ? 1 : 0) || value >= bound) {
        return 0;
    }
    PyObject *changed = PyLong_FromLong(value + change);
    int status =
        changed == NULL ? -1 : PyObject_SetAttr(op, state->str_value, changed);
    Py_XDECREF(changed);
    return status < 0 ? -1 : 1;
}

#endif /* GATEDCORO_SEMAPHORE_H */
