/* Semaphore type: what Python code sees of a Semaphore and of a BoundedSemaphore.

   They are made over asyncio's own classes, so that isinstance() holds; where
   something that is no class stands in their place, over nothing.  The types can be
   changed, as asyncio's can: what is patched is what is called (semaphore.h). */

#ifndef GATEDCORO_SEMAPHORE_TYPE_H
#define GATEDCORO_SEMAPHORE_TYPE_H

#include "coroutines/semaphore_coroutine.h"
#include "surface/method.h"
#include "surface/stream_type.h"

static struct PyModuleDef core_module;

/*** Making one ***/

static PyObject *
semaphore_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                 PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    PyObject *op = module == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        SemaphoreObject *self = SemaphoreObject_CAST(op);
        self->state = (core_state *)PyModule_GetState(module);
    }
    return op;
}

/* The integer that `value` stands for, at most PY_SSIZE_T_MAX, in `*count`; 0 if it is
   negative, with the index in `*index` (new reference); -1 with an exception.
   Runs Python code. */
static int
semaphore_parse_count(PyObject *value, const char *name, Py_ssize_t *count,
                      PyObject **index)
{
    *index = NULL;
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an integer, not %R (%s)",
                     name, value, Py_TYPE(value)->tp_name);
        return -1;
    }
    PyObject *number = PyNumber_Index(value);
    if (number == NULL) {
        return -1;
    }
    int overflow;
    long long wide = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow > 0 || (overflow == 0 && wide > PY_SSIZE_T_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s must be at most %zd, not %S", name,
                     PY_SSIZE_T_MAX, number);
        Py_DECREF(number);
        return -1;
    }
    if (overflow < 0 || wide < 0) {
        *index = number;
        return 0;
    }
    Py_DECREF(number);
    *count = (Py_ssize_t)wide;
    return 1;
}

/* What __init__() is given as `value` (borrowed, or NULL), or TypeError, in the words
   that a Python function has for it. */
static int
semaphore_parse_arguments(SemaphoreObject *self, PyObject *args,
                          PyObject *kwargs, PyObject **value)
{
    const char *name =
        semaphore_is_bounded(self) ? "BoundedSemaphore" : "Semaphore";
    Py_ssize_t given = PyTuple_GET_SIZE(args);
    if (given > 1) {
        PyErr_Format(PyExc_TypeError,
                     "%s.__init__() takes from 1 to 2 positional arguments "
                     "but %zd were given",
                     name, given + 1);
        return -1;
    }
    *value = given == 0 ? NULL : PyTuple_GET_ITEM(args, 0);
    Py_ssize_t position = 0;
    PyObject *key, *of_key;
    while (kwargs != NULL && PyDict_Next(kwargs, &position, &key, &of_key)) {
        bool is_value = PyUnicode_CompareWithASCIIString(key, "value") == 0;
        if (!is_value || *value != NULL) {
            PyErr_Format(PyExc_TypeError, "%s.__init__() got %s '%U'", name,
                         is_value ? "multiple values for argument"
                                  : "an unexpected keyword argument",
                         key);
            return -1;
        }
        *value = of_key;
    }
    return 0;
}

/* Runs Python code. */
static int
semaphore_tp_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    PyObject *value, *index;
    Py_ssize_t count = 1;
    if (semaphore_parse_arguments(self, args, kwargs, &value) < 0) {
        return -1;
    }
    int parsed = value == NULL
                     ? 1
                     : semaphore_parse_count(value, "value", &count, &index);
    if (parsed == 0) { /* in asyncio's words */
        PyErr_SetString(PyExc_ValueError,
                        "Semaphore initial value must be >= 0");
        Py_DECREF(index);
    }
    if (parsed <= 0) {
        return -1;
    }
    self->limit = self->value = count;
    return semaphore_wake_all(self->state, self);
}

/*** Methods ***/

static PyObject *
semaphore_acquire(core_state *state, PyObject *op)
{
    return semaphore_coroutine_new(state, op, SEMAPHORE_ACQUIRES);
}

static PyObject *
semaphore_aenter(core_state *state, PyObject *op)
{
    return semaphore_coroutine_new(state, op, SEMAPHORE_ENTERS);
}

static PyObject *
semaphore_aexit(core_state *state, PyObject *op)
{
    return semaphore_coroutine_new(state, op, SEMAPHORE_LEAVES);
}

static const MethodDescription semaphore_coroutine_methods[] = {
    {"Semaphore", "acquire", semaphore_acquire, 0, {NULL}},
    {"Semaphore", "__aenter__", semaphore_aenter, 0, {NULL}},
    {"Semaphore", "__aexit__", semaphore_aexit, 3, {"exc_type", "exc", "tb"}},
};

/* Runs Python code. */
static PyObject *
semaphore_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    if (semaphore_give_back(self->state, self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Runs Python code. */
static PyObject *
semaphore_locked(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    int locked = semaphore_is_locked(self->state, self);
    return locked < 0 ? NULL : PyBool_FromLong(locked);
}

/* For classes that are derived from asyncio's.  Runs Python code. */
static PyObject *
semaphore_wake_up_next(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    int woken = semaphore_wake_next(self->state, self);
    return woken < 0 ? NULL : PyBool_FromLong(woken);
}

/* What copy and pickle take beside what any object has: not who waits.
   Runs Python code. */
static PyObject *
semaphore_getstate(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    PyObject *state = PyObject_CallMethod((PyObject *)&PyBaseObject_Type,
                                          "__getstate__", "O", op);
    PyObject *slots = NULL;
    if (state != NULL && PyTuple_Check(state)
        && PyTuple_GET_SIZE(state) == 2) {
        slots = Py_NewRef(PyTuple_GET_ITEM(state, 1)); /* of a subclass */
        Py_SETREF(state, Py_NewRef(PyTuple_GET_ITEM(state, 0)));
    }
    PyObject *counts = state == NULL
                           ? NULL
                           : Py_BuildValue("{snsn}", "limit", self->limit,
                                           "_value", self->value);
    if (counts != NULL && slots != NULL && PyDict_Update(counts, slots) < 0) {
        Py_CLEAR(counts);
    }
    PyObject *both = counts == NULL ? NULL : PyTuple_Pack(2, state, counts);
    Py_XDECREF(counts);
    Py_XDECREF(slots);
    Py_XDECREF(state);
    return both;
}

/* The first two protocols know nothing of types that are made in C.
   Runs Python code. */
static PyObject *
semaphore_reduce_ex(PyObject *op, PyObject *protocol)
{
    long number = PyLong_AsLong(protocol);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyObject_CallMethod((PyObject *)&PyBaseObject_Type, "__reduce_ex__",
                               "Ol", op, number < 2 ? 2L : number);
}

/* asyncio's, but for the class.  Runs Python code. */
static PyObject *
semaphore_tp_repr(PyObject *op)
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    PyObject *repr = PyBaseObject_Type.tp_repr(op);
    int locked =
        repr == NULL ? -1 : answer_of_method(op, self->state->str_locked);
    if (locked < 0) {
        Py_XDECREF(repr);
        return NULL;
    }
    SemaphoreQueueObject *queue = semaphore_queue_of(self);
    Py_ssize_t waiters = queue == NULL          ? 0
                         : queue->deque == NULL ? queue->count
                                                : PyObject_Size(queue->deque);
    PyObject *state =
        locked ? PyUnicode_FromString("locked")
               : PyUnicode_FromFormat("unlocked, value:%zd", self->value);
    PyObject *extra = state == NULL || waiters < 0 ? NULL
                      : waiters == 0               ? Py_NewRef(state)
                                     : PyUnicode_FromFormat("%U, waiters:%zd",
                                                            state, waiters);
    PyObject *inner =
        extra == NULL
            ? NULL
            : PyUnicode_Substring(repr, 1, PyUnicode_GET_LENGTH(repr) - 1);
    PyObject *result =
        inner == NULL ? NULL : PyUnicode_FromFormat("<%U [%U]>", inner, extra);
    Py_XDECREF(inner);
    Py_XDECREF(extra);
    Py_XDECREF(state);
    Py_DECREF(repr);
    return result;
}

/*** Attributes ***/

static PyObject *
semaphore_get_limit(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(SemaphoreObject_CAST(op)->limit);
}

/* Runs Python code. */
static int
semaphore_put_limit(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError,
                        "limit cannot be deleted; 0 pauses");
        return -1;
    }
    PyObject *index;
    Py_ssize_t count;
    int parsed = semaphore_parse_count(value, "limit", &count, &index);
    if (parsed == 0) {
        PyErr_Format(PyExc_ValueError, "limit must be at least 0, not %S",
                     index);
        Py_DECREF(index);
    }
    return parsed <= 0 ? -1 : semaphore_set_limit(self->state, self, count);
}

/* Without a change of the slots that are free, as by asyncio's.
   Runs Python code. */
static int
semaphore_put_bound(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_ssize_t bound = value == NULL || !PyIndex_Check(value)
                           ? -1
                           : PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (bound == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (bound < 0) {
        PyErr_Format(PyExc_TypeError,
                     "_bound_value must be an integer of at least 0, not %R",
                     value == NULL ? Py_None : value);
        return -1;
    }
    SemaphoreObject_CAST(op)->limit = bound;
    return 0;
}

static PyObject *
semaphore_get_value(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(SemaphoreObject_CAST(op)->value);
}

/* Nobody is woken, as by asyncio's.  Runs Python code. */
static int
semaphore_put_value(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "_value must be an integer, not %R",
                     value == NULL ? Py_None : value);
        return -1;
    }
    Py_ssize_t count = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) {
        return -1;
    }
    SemaphoreObject_CAST(op)->value = count;
    return 0;
}

static PyObject *
semaphore_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    SemaphoreQueueObject *queue = semaphore_queue_of(SemaphoreObject_CAST(op));
    PyObject *loop = queue == NULL ? NULL : queue->loop;
    return Py_NewRef(loop == NULL ? Py_None : loop);
}

/* asyncio's own acquire() may be called for it, which does that. */
static int
semaphore_put_loop(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    SemaphoreQueueObject *queue = semaphore_ensure_queue(self->state, self);
    if (queue == NULL) {
        return -1;
    }
    bool is_loop = value != NULL && value != Py_None;
    Py_XSETREF(queue->loop, is_loop ? Py_NewRef(value) : NULL);
    return 0;
}

/* From here on the deque has all who wait. */
static PyObject *
semaphore_get_waiters(PyObject *op, void *Py_UNUSED(closure))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    SemaphoreQueueObject *queue = semaphore_queue_of(self);
    if (queue == NULL || queue->waiters == WAITERS_NONE) {
        Py_RETURN_NONE;
    }
    Py_INCREF(queue);
    PyObject *deque = semaphore_queue_publish(self->state, queue) < 0
                          ? NULL
                          : Py_XNewRef(queue->deque);
    Py_DECREF(queue);
    return deque;
}

/* None, or a deque: who waited before is in it, or waits for nothing.
   Runs Python code. */
static int
semaphore_set_waiters(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    SemaphoreObject *self = SemaphoreObject_CAST(op);
    core_state *state = self->state;
    bool is_deque =
        value != NULL && (PyObject *)Py_TYPE(value) == state->deque;
    if (value != Py_None && !is_deque) {
        PyErr_Format(PyExc_TypeError,
                     "_waiters must be a collections.deque or None, not %R",
                     value == NULL ? Py_None : value);
        return -1;
    }
    SemaphoreQueueObject *queue = semaphore_ensure_queue(state, self);
    if (queue == NULL) {
        return -1;
    }
    Py_INCREF(queue);
    int status = semaphore_queue_publish(state, queue);
    if (status == 0) {
        queue->waiters = is_deque ? WAITERS_GIVEN : WAITERS_NONE;
        Py_XSETREF(queue->deque, is_deque ? Py_NewRef(value) : NULL);
    }
    Py_DECREF(queue);
    return status;
}

/*** The types ***/

static PyMethodDef semaphore_methods[] = {
    {"release", semaphore_release, METH_NOARGS,
     PyDoc_STR(
         "release($self, /)\n--\n\n"
         "Give a slot back, and wake whoever has waited longest for "
         "one.\n\n"
         "Whoever holds a slot calls this once for each acquire(); every "
         "further call adds a slot,\n"
         "which *limit* does not count.  A BoundedSemaphore raises "
         "ValueError instead, and does nothing,\n"
         "if as many slots as *limit* are free.")},
    {"locked", semaphore_locked, METH_NOARGS,
     PyDoc_STR("locked($self, /)\n--\n\n"
               "Return whether acquire() would have to wait: because no slot "
               "is free, or because somebody waits.")},
    {"_wake_up_next", semaphore_wake_up_next, METH_NOARGS, NULL},
    {"__getstate__", semaphore_getstate, METH_NOARGS, NULL},
    {"__reduce_ex__", semaphore_reduce_ex, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef semaphore_getset[] = {
    {"limit", semaphore_get_limit, semaphore_put_limit,
     PyDoc_STR(
         "How many slots there are: the number given or last assigned, an "
         "integer of at least 0.\n\n"
         "It may be assigned while the semaphore is in use.  Raised, it wakes "
         "those that wait, in order.\n"
         "Lowered, it takes no slot from whoever holds one: nobody is "
         "admitted "
         "until enough came back.  0\n"
         "admits nobody.  A gathering or stream whose limit the semaphore is "
         "follows at once.\n\n"
         "Assigning raises TypeError for what is not an integer, and "
         "ValueError for a negative one or one greater\n"
         "than sys.maxsize; deleting raises AttributeError."),
     NULL},
    {"_loop", semaphore_get_loop, semaphore_put_loop, NULL, NULL},
    {"_value", semaphore_get_value, semaphore_put_value, NULL, NULL},
    {"_waiters", semaphore_get_waiters, semaphore_set_waiters, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef semaphore_members[] = {
    {"_queue", T_OBJECT_EX, offsetof(SemaphoreObject, queue), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef bounded_semaphore_getset[] = {
    {"_bound_value", semaphore_get_limit, semaphore_put_bound, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot semaphore_slots[] = {
    {Py_tp_new, semaphore_tp_new},
    {Py_tp_init, semaphore_tp_init},
    {Py_tp_repr, semaphore_tp_repr},
    {Py_tp_methods, semaphore_methods},
    {Py_tp_getset, semaphore_getset},
    {Py_tp_members, semaphore_members},
    {0, NULL},
};

static PyType_Slot bounded_semaphore_slots[] = {
    {Py_tp_getset, bounded_semaphore_getset},
    {0, NULL},
};

static PyType_Spec semaphore_spec = {
    .name = "gatedcoro.Semaphore",
    .basicsize = sizeof(SemaphoreObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = semaphore_slots,
};

static PyType_Spec bounded_semaphore_spec = {
    .name = "gatedcoro.BoundedSemaphore",
    .basicsize = sizeof(SemaphoreObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = bounded_semaphore_slots,
};

/* asyncio's class of that name, if our fields fit behind its own; otherwise NULL without
   an exception: new reference.  Runs Python code. */
static PyObject *
semaphore_base(const char *name)
{
    PyObject *base = import_class("asyncio.locks", name);
    if (base == NULL) {
        (void)can_do_without();
    }
    else if (((PyTypeObject *)base)->tp_basicsize
                 > (Py_ssize_t)offsetof(SemaphoreObject, state)
             || ((PyTypeObject *)base)->tp_itemsize != 0) {
        Py_CLEAR(base);
    }
    return base;
}

/* The types over which one of ours is made: our own, if it is not NULL, and asyncio's;
   what is not there an empty class takes the place of: new reference.
   Runs Python code. */
static PyObject *
semaphore_bases(const char *name, PyTypeObject *own, bool of_asyncio)
{
    PyObject *base = of_asyncio ? semaphore_base(name) : NULL;
    if (base == NULL && !PyErr_Occurred() && own == NULL) {
        base = PyObject_CallFunction((PyObject *)&PyType_Type, "s(){}", name);
    }
    PyObject *bases = NULL;
    if (!PyErr_Occurred()) {
        bases = own == NULL    ? PyTuple_Pack(1, base)
                : base == NULL ? PyTuple_Pack(1, (PyObject *)own)
                               : PyTuple_Pack(2, (PyObject *)own, base);
    }
    Py_XDECREF(base);
    return bases;
}

/* One of the types: new reference.  Runs Python code. */
static PyTypeObject *
semaphore_type_new(PyObject *module, const char *name, const char *signature,
                   PyTypeObject *own, const PyType_Spec *spec,
                   const PyType_Slot *given, size_t size)
{
    PyObject *type = NULL;
    for (int of_asyncio = 1; type == NULL && of_asyncio >= 0; of_asyncio--) {
        if (PyErr_Occurred() && forget_ordinary_error() < 0) {
            break; /* asyncio's class will not have it as a base otherwise */
        }
        PyType_Slot slots[Py_ARRAY_LENGTH(semaphore_slots) + 1];
        memcpy(slots + 1, given, size);
        PyObject *bases = semaphore_bases(name, own, of_asyncio);
        if (bases != NULL) {
            type = type_with_docstring(module, name, signature, spec, slots,
                                       bases);
            Py_DECREF(bases);
        }
    }
    /* In errors CPython gives the whole name of a type that is made here; of
       asyncio's, which is a Python class, the last part. */
    PyObject *last = type == NULL ? NULL : PyUnicode_FromString(name);
    if (last == NULL || PyObject_SetAttrString(type, "__name__", last) < 0) {
        Py_CLEAR(type);
    }
    Py_XDECREF(last);
    return (PyTypeObject *)type;
}

/* Makes both.  -1 on error.  Runs Python code. */
static int
semaphore_types_make(PyObject *module, core_state *state)
{
    state->semaphore_type = semaphore_type_new(
        module, "Semaphore", "Semaphore(value=1)\n--\n\n", NULL,
        &semaphore_spec, semaphore_slots, sizeof(semaphore_slots));
    if (state->semaphore_type == NULL) {
        return -1;
    }
    /* Its place among the members is what the base classes look at. */
    if (PyObject_DelAttrString((PyObject *)state->semaphore_type, "_queue")
        < 0) {
        return -1;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(semaphore_coroutine_methods); i++) {
        if (method_add(state, state->semaphore_type,
                       &semaphore_coroutine_methods[i])
            < 0) {
            return -1;
        }
    }
    state->bounded_semaphore_type = semaphore_type_new(
        module, "BoundedSemaphore", "BoundedSemaphore(value=1)\n--\n\n",
        state->semaphore_type, &bounded_semaphore_spec,
        bounded_semaphore_slots, sizeof(bounded_semaphore_slots));
    return state->bounded_semaphore_type == NULL ? -1
                                                 : own_semaphores_note(state);
}

#endif /* GATEDCORO_SEMAPHORE_TYPE_H */
