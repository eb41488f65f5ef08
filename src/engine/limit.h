/* Limit: how many may run at once.

      NONE    everything starts at once
      COUNT   so many
      GATE    an async context manager around each item; as long as one item
              waits for it, no other one starts */

#ifndef GATEDCORO_LIMIT_H
#define GATEDCORO_LIMIT_H

#include "base/call.h"

typedef enum {
    LIMIT_NONE,
    LIMIT_COUNT,
    LIMIT_GATE,
} LimitKind;

typedef struct {
    LimitKind kind;
    Py_ssize_t count;   /* of a COUNT; more than can be, of the others */
    PyObject *gate;     /* of a GATE, else NULL; owned by a gathering's */
    Py_ssize_t waiting; /* items that started but wait for the gate */
} Limit;

/*** Use ***/

/* Is there room for one more where so many run? */
static inline bool
limit_has_room(const Limit *self, Py_ssize_t running)
{
    return self->kind == LIMIT_GATE ? self->waiting == 0
                                    : running < self->count;
}

/* Was that the last slot, which one more would take?  Nobody can say how many
   there are behind a gate. */
static inline bool
limit_is_filled_by_one(const Limit *self, Py_ssize_t running)
{
    return self->kind == LIMIT_COUNT && running + 1 == self->count;
}

/* An item starts: it waits for the gate, if there is one. */
static inline void
limit_begin_waiting(Limit *self)
{
    if (self->kind == LIMIT_GATE) {
        self->waiting++;
    }
}

/* It has entered the gate, or never will. */
static inline void
limit_end_waiting(Limit *self)
{
    if (self->kind == LIMIT_GATE) {
        assert(self->waiting > 0);
        self->waiting--;
    }
}

/*** Arguments ***/

static void
limit_set(Limit *self, LimitKind kind, Py_ssize_t count, PyObject *gate)
{
    *self = (Limit){.kind = kind, .count = count, .gate = gate};
}

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
    limit_set(limit, LIMIT_NONE, PY_SSIZE_T_MAX, NULL);
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
    limit_set(limit, LIMIT_COUNT, count, NULL);
    return 0;
}

/* Any other limit: an integer from 1, None, or an async context manager
   (borrowed).  Runs Python code. */
static int
parse_limit(core_state *state, PyObject *value, const char *name, Limit *limit)
{
    limit_set(limit, LIMIT_NONE, PY_SSIZE_T_MAX, NULL);
    if (value == NULL || value == Py_None) {
        return 0;
    }
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
        if (is_index < 0) {
            return -1;
        }
    }
    if (is_index) {
        Py_ssize_t count = limit_count(value, name);
        if (count == 0) {
            PyErr_Format(PyExc_ValueError,
                         "%s must be at least 1, or None for no limit, not 0",
                         name);
        }
        if (count <= 0) {
            return -1;
        }
        limit_set(limit, LIMIT_COUNT, count, NULL);
        return 0;
    }
    if (is_gate) {
        limit_set(limit, LIMIT_GATE, PY_SSIZE_T_MAX, value);
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s must be an integer, None or an async context manager, "
                 "not %R (%s)",
                 name, value, Py_TYPE(value)->tp_name);
    return -1;
}

#endif /* GATEDCORO_LIMIT_H */
