/* asyncio's Semaphore and BoundedSemaphore, without their coroutines.

   A slot of an exact semaphore, for which nobody waits, is taken and given back
   by changing its counter, as acquire() and release() would.  Nobody may be
   able to tell: so the class must have the methods that it had at import, which
   were asyncio's own then, and the instance must not hide them
   (mock.patch.object(semaphore, "acquire")). */

#ifndef GATEDCORO_SEMAPHORE_H
#define GATEDCORO_SEMAPHORE_H

#include "base/call.h"

/* Does nothing of the class come between an instance's attributes and its
   dict? */
static bool
semaphore_attributes_are_plain(core_state *state, PyTypeObject *type)
{
    return type->tp_getattro == PyObject_GenericGetAttr
           && type->tp_setattro == PyObject_GenericSetAttr
           && _PyType_Lookup(type, state->str_value) == NULL
           && _PyType_Lookup(type, state->str_bound_value) == NULL
           && _PyType_Lookup(type, state->str_waiters) == NULL;
}

/* Do the methods still do what asyncio has them do (stock.h)?  Those from
   `first` to `last`, and the release() of a BoundedSemaphore. */
static bool
semaphore_code_is_known(core_state *state, SemaphoreMethod first,
                        SemaphoreMethod last)
{
    if (state->bounded_release_code == NULL) {
        return false;
    }
    for (SemaphoreMethod i = first; i <= last; i++) {
        if (PyFunction_GET_CODE(state->semaphore_methods[i])
            != state->semaphore_code[i]) {
            return false;
        }
    }
    PyObject *release = state->bounded_semaphore_methods[SEMAPHORE_RELEASE];
    return PyFunction_GET_CODE(release) == state->bounded_release_code;
}

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
    if (plain == NULL) {
        return false; /* something else stood in its place */
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
        /* BoundedSemaphore.release() goes on to that of its base. */
        if (!semaphore_attributes_are_plain(state, type)
            || (type == bounded
                && _PyType_Lookup(type->tp_base,
                                  state->semaphore_names[SEMAPHORE_RELEASE])
                       != state->semaphore_methods[SEMAPHORE_RELEASE])) {
            return false;
        }
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
           && semaphore_code_is_known(state, SEMAPHORE_ACQUIRE,
                                      SEMAPHORE_AEXIT)
           && method_is_intact(state, op, SEMAPHORE_ACQUIRE)
           && method_is_intact(state, op, SEMAPHORE_LOCKED);
}

/*** Counting ***/

/* What is looked at and changed for the attributes of an exact semaphore, as a
   new reference: its __dict__, which costs a third of what getattr() does.  But
   once somebody has looked at it, Python code finds the attributes more slowly
   (acquire() and release() together by a third on 3.11 and 3.12, a tenth on
   3.13, nothing to speak of later); so before 3.13 it is the semaphore. */
static PyObject *
semaphore_attributes(PyObject *op)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyObject_GenericGetDict(op, NULL);
#else
    return Py_NewRef(op);
#endif
}

static int
get_attribute(PyObject *attributes, PyObject *name, PyObject **value)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_GetItemRef(attributes, name, value);
#else
    return lookup_attribute(attributes, name, value);
#endif
}

static int
set_attribute(PyObject *attributes, PyObject *name, PyObject *value)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_SetItem(attributes, name, value);
#else
    return PyObject_SetAttr(attributes, name, value);
#endif
}

/* Does one of these attributes hide a method of the class?  `expected` is how
   many they are if there are no others than were looked at.  -1 on error. */
static int
attributes_hide_method(core_state *state, PyObject *attributes,
                       Py_ssize_t expected, SemaphoreMethod first,
                       SemaphoreMethod last)
{
    int hidden = 0;
#if PY_VERSION_HEX >= 0x030D0000
    if (PyDict_GET_SIZE(attributes) == expected) {
        return 0;
    }
    for (SemaphoreMethod i = first; i <= last && hidden == 0; i++) {
        hidden = PyDict_Contains(attributes, state->semaphore_names[i]);
    }
#else
    (void)expected;
    for (SemaphoreMethod i = first; i <= last && hidden == 0; i++) {
        hidden = !method_is_intact(state, attributes, i);
    }
    if (hidden && PyErr_Occurred()) {
        return -1;
    }
#endif
    return hidden;
}

/* The value of an int attribute; `*usable` is false if it is none. */
static int
read_count(PyObject *attributes, PyObject *name, long *count, bool *usable)
{
    PyObject *value;
    if (get_attribute(attributes, name, &value) < 0) {
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

static int
nobody_waits(core_state *state, PyObject *attributes)
{
    PyObject *waiters;
    if (get_attribute(attributes, state->str_waiters, &waiters) < 0) {
        return -1;
    }
    int nobody =
        waiters == Py_None
        || (waiters != NULL && (PyObject *)Py_TYPE(waiters) == state->deque
            && PyObject_Size(waiters) == 0);
    Py_XDECREF(waiters);
    return nobody;
}

static int
count_attribute(core_state *state, PyObject *attributes, bool bounded,
                long change)
{
    int status = nobody_waits(state, attributes);
    if (status <= 0) {
        return status;
    }
    long value = 0, bound = LONG_MAX;
    bool usable = false;
    if (read_count(attributes, state->str_value, &value, &usable) < 0) {
        return -1;
    }
    if (usable && bounded
        && read_count(attributes, state->str_bound_value, &bound, &usable)
               < 0) {
        return -1;
    }
    if (!usable || (change < 0 ? value < 1 : value < 0 || value >= bound)) {
        return 0;
    }
    status = attributes_hide_method(
        state, attributes, bounded ? 3 : 2,
        change < 0 ? SEMAPHORE_ACQUIRE : SEMAPHORE_RELEASE,
        change < 0 ? SEMAPHORE_LOCKED : SEMAPHORE_WAKE_UP_NEXT);
    if (status != 0) {
        return status < 0 ? -1 : 0;
    }
    PyObject *changed = PyLong_FromLong(value + change);
    if (changed == NULL) {
        return -1;
    }
    status = set_attribute(attributes, state->str_value, changed);
    Py_DECREF(changed);
    return status < 0 ? -1 : 1;
}

/* Takes (-1) or gives back (1) a slot of an exact semaphore: 1 if that could be
   done here, 0 if its own methods have to, -1 on error.  Runs no Python code
   (but what compares a key of the dict that is no str). */
static int
semaphore_count(core_state *state, PyObject *op, long change)
{
    PyTypeObject *type = Py_TYPE(op);
    bool bounded = (PyObject *)type == state->bounded_semaphore_type;
    if ((!bounded && (PyObject *)type != state->semaphore_type)
        || !semaphore_class_is_known(state, type)) {
        return 0; /* a subclass may count in its own way */
    }
    /* When a slot is given back, it is known how the gate is left. */
    if (change < 0 ? !semaphore_code_is_known(state, SEMAPHORE_ACQUIRE,
                                              SEMAPHORE_AEXIT)
                   : !semaphore_code_is_known(state, SEMAPHORE_RELEASE,
                                              SEMAPHORE_WAKE_UP_NEXT)) {
        return 0;
    }
    PyObject *attributes = semaphore_attributes(op);
    if (attributes == NULL) {
        return -1;
    }
    int status = count_attribute(state, attributes, bounded, change);
    Py_DECREF(attributes);
    return status;
}

#endif /* GATEDCORO_SEMAPHORE_H */
