/* What the public functions are called with: names, limits, awaitables.

   Every error names the argument, its value and what would be right. */

#ifndef GATEDCORO_ARGUMENTS_H
#define GATEDCORO_ARGUMENTS_H

#include "coroutines/item.h"
#include "engine/gathering.h"

/*** Binding ***/

/* Binds a vectorcall to parameters, as CPython binds a call to
   `def function(<positional>, *<varargs>, <keyword-only>)`.  CPython's own
   parsers know no *args by vectorcall. */
typedef struct {
    const char *function;
    const char *const *names; /* positional or keyword, then keyword-only */
    Py_ssize_t positional;
    Py_ssize_t total;
    Py_ssize_t required; /* the first so many must be given */
    bool varargs;
} Signature;

/* Fills `values` (borrowed; NULL where nothing was given).  What follows the
   positional parameters in `args` is for *varargs. */
static int
bind_arguments(const Signature *signature, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **values)
{
    for (Py_ssize_t i = 0; i < signature->total; i++) {
        values[i] = i < signature->positional && i < nargs ? args[i] : NULL;
    }
    if (nargs > signature->positional && !signature->varargs) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %zd positional argument%s but %zd %s given",
                     signature->function, signature->positional,
                     signature->positional == 1 ? "" : "s", nargs,
                     nargs == 1 ? "was" : "were");
        return -1;
    }
    Py_ssize_t nkwargs = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < nkwargs; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < signature->total
               && PyUnicode_CompareWithASCIIString(name, signature->names[i])
                      != 0) {
            i++;
        }
        if (i == signature->total) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'",
                         signature->function, name);
            return -1;
        }
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got multiple values for argument '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
        values[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument: '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
    }
    return 0;
}

/*** Limits ***/

typedef struct {
    Py_ssize_t count; /* NO_LIMIT if there is none, or a gate */
    PyObject *gate;   /* borrowed, or NULL */
} Limit;

/* The integer that `value` stands for, from 0, cut to NO_LIMIT - 1; -1 with an
   exception.  Runs __index__. */
static Py_ssize_t
limit_count(PyObject *value, const char *name)
{
    PyObject *index = PyNumber_Index(value);
    if (index == NULL) {
        return -1;
    }
    int overflow;
    long long count = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow > 0 || (overflow == 0 && count >= NO_LIMIT)) {
        count = NO_LIMIT - 1;
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

/* `n` of gather_with_concurrency: an integer or None. */
static int
parse_n(PyObject *n, Py_ssize_t items, Limit *limit)
{
    limit->gate = NULL;
    limit->count = NO_LIMIT;
    if (n == Py_None) {
        return 0;
    }
    if (!PyIndex_Check(n)) {
        PyErr_Format(PyExc_TypeError,
                     "n must be an integer or None, not %R (%s)", n,
                     Py_TYPE(n)->tp_name);
        return -1;
    }
    limit->count = limit_count(n, "n");
    if (limit->count < 0) {
        return -1;
    }
    if (limit->count == 0 && items > 0) {
        PyErr_Format(PyExc_ValueError,
                     "n must be at least 1, or None for no limit, not 0: none "
                     "of the %zd items could run",
                     items);
        return -1;
    }
    return 0;
}

/* Any other limit: an integer from 1, None, or an async context manager. */
static int
parse_limit(core_state *state, PyObject *value, const char *name, Limit *limit)
{
    limit->gate = NULL;
    limit->count = NO_LIMIT;
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
        limit->count = limit_count(value, name);
        if (limit->count == 0) {
            PyErr_Format(PyExc_ValueError,
                         "%s must be at least 1, or None for no limit, not 0",
                         name);
            return -1;
        }
        return limit->count < 0 ? -1 : 0;
    }
    if (is_gate) {
        limit->gate = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s must be an integer, None or an async context manager, "
                 "not %R (%s)",
                 name, value, Py_TYPE(value)->tp_name);
    return -1;
}

static int
parse_flag(PyObject *value, bool by_default, bool *flag)
{
    int truth = value == NULL ? by_default : PyObject_IsTrue(value);
    *flag = truth > 0;
    return truth < 0 ? -1 : 0;
}

/*** Awaitables ***/

/* A list that the garbage collector does not see (gathering.h). */
static PyObject *
hidden_list(PyObject *const *items, Py_ssize_t size)
{
    PyObject *list = PyList_New(size);
    if (list == NULL) {
        return NULL;
    }
    PyObject_GC_UnTrack(list);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(items[i]));
    }
    return list;
}

/* Closes every coroutine among the arguments of a call that fails. */
static void
close_arguments(core_state *state, PyObject *const *args, Py_ssize_t nargs)
{
    for (Py_ssize_t i = 0; i < nargs; i++) {
        close_unstarted(state, args[i]);
    }
}

/* Closes every coroutine in the list, which nobody else sees; a gathering that
   came to nothing may have taken some out. */
static void
close_items(core_state *state, PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *item = PyList_GET_ITEM(list, i);
        if (item != NULL) {
            close_unstarted(state, item);
        }
    }
}

/* The loop of a Future: new reference. */
static PyObject *
loop_of_future(core_state *state, PyObject *future)
{
    PyObject *get_loop;
    if (lookup_attribute(future, state->str_get_loop, &get_loop) < 0) {
        return NULL;
    }
    if (get_loop == NULL) {
        return PyObject_GetAttr(future, state->str_private_loop);
    }
    PyObject *loop = PyObject_CallNoArgs(get_loop);
    Py_DECREF(get_loop);
    return loop;
}

/* Awaitables as asyncio.gather takes them. */
typedef struct {
    PyObject *loop;      /* owned; NULL until known */
    Py_ssize_t futures;  /* how many Futures lead the list */
    PyObject *list;      /* hidden; each awaitable once; owned */
    PyObject *positions; /* where each argument went, or NULL: in order */
} Awaitables;

static void
awaitables_clear(Awaitables *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->list);
    Py_CLEAR(self->positions);
}

/* Is each of them an exact coroutine, and none given twice?  1, 0, -1.

   What the list alone refers to cannot be there twice.  The others go through
   a hash table of pointers, as PySet_New() would do with twice the memory and
   eight times the instructions. */
static int
are_distinct_coroutines(PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    size_t shared = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *op = PyList_GET_ITEM(list, i);
        if (!PyCoro_CheckExact(op)) {
            return 0;
        }
        shared += Py_REFCNT(op) > 1;
    }
    size_t slots = 8;
    while (slots < shared + shared / 2) {
        slots *= 2;
    }
    PyObject **table = PyMem_Calloc(slots, sizeof(PyObject *));
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int distinct = 1;
    for (Py_ssize_t i = 0; i < size && distinct; i++) {
        PyObject *op = PyList_GET_ITEM(list, i);
        if (Py_REFCNT(op) <= 1) {
            continue;
        }
        /* Fibonacci hashing, without the bits that alignment leaves zero. */
        uint64_t hash = ((uint64_t)(uintptr_t)op >> 4) * 0x9E3779B97F4A7C15u;
        size_t slot = (size_t)(hash >> 32) & (slots - 1);
        while (table[slot] != NULL && table[slot] != op) {
            slot = (slot + 1) & (slots - 1);
        }
        distinct = table[slot] == NULL;
        table[slot] = op;
    }
    PyMem_Free(table);
    return distinct;
}

/* Does asyncio.gather take `op`, which is no Future?  That is no promise that
   `await` does: __class__ may be made up.  1, 0, or -1 on error. */
static int
is_gather_awaitable(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(op)
        || is_iterable_coroutine(op)) {
        return 1;
    }
    if (has_am_await(op)
        && _PyType_Lookup(Py_TYPE(op), state->str_dunder_await) != Py_None) {
        return 1;
    }
    int awaitable = is_task_coroutine(state, op);
    return awaitable != 0 ? awaitable : answer_of(state->isawaitable, op);
}

/* Can this argument be awaited, and on which loop?  1 for a Future, else 0. */
static int
check_awaitable(core_state *state, PyObject *op, Awaitables *awaitables)
{
    int future = is_future(state, op);
    if (future < 0) {
        return -1;
    }
    if (future) {
        PyObject *loop = loop_of_future(state, op);
        if (loop == NULL) {
            return -1;
        }
        if (awaitables->loop == NULL) {
            awaitables->loop = loop;
            return 1;
        }
        Py_DECREF(loop);
        if (loop != awaitables->loop) {
            PyErr_SetString(PyExc_ValueError,
                            "The future belongs to a different loop than the "
                            "one specified as the loop argument");
            return -1;
        }
        return 1;
    }
    int awaitable = is_gather_awaitable(state, op);
    if (awaitable < 0) {
        return -1;
    }
    if (!awaitable) {
        PyErr_SetString(
            PyExc_TypeError,
            "An asyncio.Future, a coroutine or an awaitable is required");
        return -1;
    }
    if (awaitables->loop == NULL) {
        awaitables->loop = PyObject_CallNoArgs(state->get_event_loop);
        if (awaitables->loop == NULL) {
            return -1;
        }
    }
    return 0;
}

/* Appends `op` to one of the two lists, and returns its index there. */
static PyObject *
append_with_index(PyObject *list, PyObject *op)
{
    PyObject *index = PyLong_FromSsize_t(PyList_GET_SIZE(list));
    if (index != NULL && PyList_Append(list, op) < 0) {
        Py_CLEAR(index);
    }
    return index;
}

/* Sorts out the arguments of asyncio.gather in `list` (borrowed): what can be
   awaited, what was given twice (by hash and equality), which loop it is on.
   With `futures_first`, Futures go to the front.  Nothing has started. */
static int
sort_out_awaitables(core_state *state, PyObject *list, bool futures_first,
                    Awaitables *awaitables)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    int distinct = are_distinct_coroutines(list);
    if (distinct < 0) {
        return -1;
    }
    if (distinct && size > 0) {
        awaitables->list = Py_NewRef(list);
        return check_awaitable(state, PyList_GET_ITEM(list, 0), awaitables) < 0
                   ? -1
                   : 0;
    }
    int status = -1;
    PyObject *places = PyDict_New();   /* argument -> index */
    PyObject *futures = PyList_New(0); /* hold no NULL, and are tracked */
    PyObject *others = PyList_New(0);
    PyObject *positions = PyList_New(0);
    if (places == NULL || futures == NULL || others == NULL
        || positions == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *op = PyList_GET_ITEM(list, i);
        PyObject *place = PyDict_GetItemWithError(places, op);
        if (place != NULL) {
            if (PyList_Append(positions, place) < 0) {
                goto done;
            }
            continue;
        }
        int future =
            PyErr_Occurred() ? -1 : check_awaitable(state, op, awaitables);
        if (future < 0) {
            note_unpacking(state, op);
            goto done;
        }
        /* A Future's place is its index less the number of arguments. */
        place =
            append_with_index(future && futures_first ? futures : others, op);
        if (place != NULL && future && futures_first) {
            Py_ssize_t at = PyLong_AsSsize_t(place);
            Py_SETREF(place, PyLong_FromSsize_t(at - size));
        }
        if (place == NULL) {
            goto done;
        }
        int noted = PyList_Append(positions, place) < 0
                            || PyDict_SetItem(places, op, place) < 0
                        ? -1
                        : 0;
        Py_DECREF(place);
        if (noted < 0) {
            goto done;
        }
    }
    awaitables->futures = PyList_GET_SIZE(futures);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *place = PyList_GET_ITEM(positions, i);
        Py_ssize_t at = PyLong_AsSsize_t(place);
        at = at < 0 ? at + size : at + awaitables->futures;
        place = PyLong_FromSsize_t(at);
        if (place == NULL) {
            goto done;
        }
        PyList_SetItem(positions, i, place);
    }
    if (PyList_SetSlice(futures, awaitables->futures, awaitables->futures,
                        others)
        < 0) {
        goto done;
    }
    PyObject_GC_UnTrack(futures);
    awaitables->list = Py_NewRef(futures);
    awaitables->positions = Py_NewRef(positions);
    status = 0;
done:
    Py_XDECREF(places);
    Py_XDECREF(futures);
    Py_XDECREF(others);
    Py_XDECREF(positions);
    return status;
}

#endif /* GATEDCORO_ARGUMENTS_H */
