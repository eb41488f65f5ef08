/* Limit: how many may run at once.

   A number, or async context managers ("gates") which each item holds while it
   runs, entered one after the other; or both.  As long as one item waits for a
   gate, no other one starts.  If the first gate is a semaphore of ours, a gathering
   counts its slots (slots.h). */

#ifndef GATEDCORO_LIMIT_H
#define GATEDCORO_LIMIT_H

#include "engine/slots.h"

/* Of a limit that is no number. */
#define NOT_LIMITED PY_SSIZE_T_MAX

typedef struct {
    Py_ssize_t count;
    PyObject *gates; /* a tuple that is not empty; owned, or NULL */
    Py_ssize_t
        waiting; /* items that started but have not entered all of them */
    Slots slots; /* of what was the first gate */
} Limit;

static void
limit_clear(Limit *self)
{
    Py_CLEAR(self->gates);
    slots_clear(&self->slots);
}

static int
limit_traverse(const Limit *self, visitproc visit, void *arg)
{
    Py_VISIT(self->gates);
    return slots_traverse(&self->slots, visit, arg);
}

/*** Use ***/

/* Does everything start at once? */
static inline bool
limit_is_none(const Limit *self)
{
    return self->count == NOT_LIMITED && self->gates == NULL
           && self->slots.semaphore == NULL;
}

/* Is there room for one more where so many run, as far as it is not for the semaphore
   to say? */
static inline bool
limit_has_room(const Limit *self, Py_ssize_t running)
{
    return self->waiting == 0 && running < self->count;
}

/* Is there room for exactly one more, where there is some?  Nobody can say how much
   there is behind a gate. */
static inline bool
limit_is_filled_by_one(const Limit *self, Py_ssize_t running)
{
    return self->gates == NULL
           && (running + 1 == self->count
               || (self->slots.semaphore != NULL
                   && slots_free(&self->slots) == 1));
}

/* An item starts: it waits for the gates, if there are any. */
static inline void
limit_begin_waiting(Limit *self)
{
    if (self->gates != NULL) {
        self->waiting++;
    }
}

/* It has entered the gates, or never will. */
static inline void
limit_end_waiting(Limit *self)
{
    if (self->gates != NULL) {
        assert(self->waiting > 0);
        self->waiting--;
    }
}

/*** Arguments ***/

/* The integer that `value` stands for, from 0, cut to PY_SSIZE_T_MAX - 1; -1 with an
   exception.  Runs __index__.  Runs Python code. */
static Py_ssize_t
limit_count(PyObject *value, const char *name)
{
    PyObject *index = PyNumber_Index(value);
    if (index == NULL) {
        return -1;
    }
    int overflow;
    long long count = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow > 0 || (overflow == 0 && count >= PY_SSIZE_T_MAX)) {
        count = PY_SSIZE_T_MAX - 1;
    }
    else if (overflow < 0 || count < 0) {
        PyErr_Format(PyExc_ValueError,
                     "%s must be at least 1, or None for no limit, not %S",
                     name, index);
        count = -1;
    }
    Py_DECREF(index);
    return (Py_ssize_t)count;
}

/* `n` of gather_with_concurrency: an integer or None.  Runs Python code. */
static int
parse_n(PyObject *n, Py_ssize_t items, Limit *limit)
{
    *limit = (Limit){.count = NOT_LIMITED};
    if (n == Py_None) {
        return 0;
    }
    if (!PyIndex_Check(n)) {
        PyErr_Format(PyExc_TypeError,
                     "n must be an integer or None, not %R (%s)", n,
                     Py_TYPE(n)->tp_name);
        return -1;
    }
    Py_ssize_t count = limit_count(n, "n");
    if (count < 0) {
        return -1;
    }
    if (count == 0 && items > 0) {
        PyErr_Format(PyExc_ValueError,
                     "n must be at least 1, or None for no limit, not 0: none "
                     "of the %zd items could run",
                     items);
        return -1;
    }
    limit->count = count;
    return 0;
}

/* What a limit may be, on its own or in a row. */
typedef enum {
    LIMIT_ERROR = -1, /* with an exception */
    LIMIT_OTHER,
    LIMIT_NUMBER,
    LIMIT_GATE,
} LimitKind;

/* Runs Python code. */
static LimitKind
limit_kind_of(core_state *state, PyObject *value)
{
    int is_index = PyIndex_Check(value);
    bool is_gate = !PyLong_CheckExact(value)
                   && _PyType_Lookup(Py_TYPE(value), state->str_aenter) != NULL
                   && _PyType_Lookup(Py_TYPE(value), state->str_aexit) != NULL;
    if (is_index && is_gate) {
        /* A proxy can do everything; whose it is, its __class__ tells. */
        PyObject *class = PyObject_GetAttr(value, state->str_dunder_class);
        PyObject *index = NULL;
        is_index =
            class == NULL
                ? -1
                : lookup_attribute(class, state->str_dunder_index, &index);
        Py_XDECREF(class);
        Py_XDECREF(index);
    }
    return is_index < 0   ? LIMIT_ERROR
           : is_index > 0 ? LIMIT_NUMBER
           : is_gate      ? LIMIT_GATE
                          : LIMIT_OTHER;
}

/* An integer from 1 for the limit.  -1 with an exception.  Runs Python code. */
static int
limit_take_number(Limit *limit, PyObject *value, const char *name)
{
    Py_ssize_t count = limit_count(value, name);
    if (count == 0) {
        PyErr_Format(PyExc_ValueError,
                     "%s must be at least 1, or None for no limit, not 0",
                     name);
    }
    if (count <= 0) {
        return -1;
    }
    limit->count = count;
    return 0;
}

/* One limit of a row; its gates go into the list.  -1 with an exception.
   Runs Python code. */
static int
limit_take_one_of_row(core_state *state, Limit *limit, PyObject *gates,
                      PyObject *value, Py_ssize_t index, const char *name)
{
    switch (limit_kind_of(state, value)) {
    case LIMIT_ERROR:
        return -1;
    case LIMIT_GATE:
        return PyList_Append(gates, value);
    case LIMIT_NUMBER:
        if (limit->count == NOT_LIMITED) {
            return limit_take_number(limit, value, name);
        }
        PyErr_Format(PyExc_TypeError,
                     "%s[%zd] must be an async context manager, not %R: "
                     "there is an integer in the row already",
                     name, index, value);
        return -1;
    case LIMIT_OTHER:
        PyErr_Format(PyExc_TypeError,
                     "%s[%zd] must be an integer or an async context manager, "
                     "not %R (%s)",
                     name, index, value, Py_TYPE(value)->tp_name);
        return -1;
    }
    Py_UNREACHABLE();
}

/* A tuple or list of limits, all of which each item keeps to.
   Runs Python code. */
static int
limit_take_row(core_state *state, Limit *limit, PyObject *value,
               const char *name)
{
    PyObject *row = PySequence_Tuple(value); /* a list may change */
    PyObject *gates = row == NULL ? NULL : PyList_New(0);
    int status = gates == NULL ? -1 : 0;
    Py_ssize_t size = status < 0 ? 0 : PyTuple_GET_SIZE(row);
    if (status == 0 && size == 0) {
        PyErr_Format(PyExc_ValueError,
                     "%s must have at least one limit in its row, or be None "
                     "for no limit, not %R",
                     name, value);
        status = -1;
    }
    for (Py_ssize_t i = 0; i < size && status == 0; i++) {
        status = limit_take_one_of_row(state, limit, gates,
                                       PyTuple_GET_ITEM(row, i), i, name);
    }
    if (status == 0 && PyList_GET_SIZE(gates) > 0) {
        limit->gates = PyList_AsTuple(gates);
        status = limit->gates == NULL ? -1 : 0;
    }
    Py_XDECREF(gates);
    Py_XDECREF(row);
    return status;
}

/* Any other limit: an integer from 1, None, an async context manager, or a row of
   these.  -1 with an exception: there is nothing to clear then.
   Runs Python code. */
static int
parse_limit(core_state *state, PyObject *value, const char *name, Limit *limit)
{
    *limit = (Limit){.count = NOT_LIMITED};
    if (value == NULL || value == Py_None) {
        return 0;
    }
    switch (limit_kind_of(state, value)) {
    case LIMIT_ERROR:
        return -1;
    case LIMIT_NUMBER:
        return limit_take_number(limit, value, name);
    case LIMIT_GATE:
        limit->gates = PyTuple_Pack(1, value);
        return limit->gates == NULL ? -1 : 0;
    case LIMIT_OTHER:
        break;
    }
    if (PyTuple_Check(value) || PyList_Check(value)) {
        return limit_take_row(state, limit, value, name);
    }
    PyErr_Format(PyExc_TypeError,
                 "%s must be an integer, an async context manager, a tuple or "
                 "list of these, or None, not %R (%s)",
                 name, value, Py_TYPE(value)->tp_name);
    return -1;
}

/* The limit (borrowed) as that of a gathering on that loop, which is to be cleared: it
   counts the slots of a semaphore of ours, unless that is bound to another loop.  -1
   with an exception: there is nothing to clear then.  Runs Python code. */
static int
limit_of_gathering(core_state *state, const Limit *given, PyObject *loop,
                   Limit *limit)
{
    *limit = (Limit){.count = given->count, .gates = Py_XNewRef(given->gates)};
    if (given->gates == NULL) {
        return 0;
    }
    PyObject *first = PyTuple_GET_ITEM(given->gates, 0);
    if (!semaphore_is_counted(state, first)
        || !semaphore_can_wait_in(SemaphoreObject_CAST(first), loop)) {
        return 0;
    }
    Py_ssize_t size = PyTuple_GET_SIZE(given->gates);
    PyObject *rest =
        size == 1 ? NULL : PyTuple_GetSlice(given->gates, 1, size);
    if (rest == NULL && size > 1) {
        Py_CLEAR(limit->gates);
        return -1;
    }
    limit->slots.semaphore = Py_NewRef(first);
    Py_SETREF(limit->gates, rest);
    return 0;
}

/* It as parse_limit() takes it: new reference. */
static PyObject *
limit_as_object(const Limit *self)
{
    if (limit_is_none(self)) {
        return Py_NewRef(Py_None);
    }
    if (self->gates == NULL) {
        return PyLong_FromSsize_t(self->count);
    }
    if (self->count == NOT_LIMITED) {
        return Py_NewRef(self->gates);
    }
    PyObject *count = PyLong_FromSsize_t(self->count);
    PyObject *first = count == NULL ? NULL : PyTuple_Pack(1, count);
    PyObject *row =
        first == NULL ? NULL : PySequence_Concat(first, self->gates);
    Py_XDECREF(first);
    Py_XDECREF(count);
    return row;
}

#endif /* GATEDCORO_LIMIT_H */
