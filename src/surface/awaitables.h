/* Awaitables: the arguments of a call that are to be awaited.

   asyncio.gather takes coroutines, Futures and other awaitables, the same one
   several times, all of one loop. */

#ifndef GATEDCORO_AWAITABLES_H
#define GATEDCORO_AWAITABLES_H

#include "base/hidden_list.h"
#include "coroutines/item.h"

/*** Giving up ***/

/* Closes every coroutine among the arguments of a call that fails.
   Runs Python code. */
static void
close_arguments(core_state *state, PyObject *const *args, Py_ssize_t nargs)
{
    for (Py_ssize_t i = 0; i < nargs; i++) {
        close_unstarted(state, args[i]);
    }
}

/* Closes every coroutine in the list, which nobody else sees; a gathering that
   came to nothing may have taken some out.  Runs Python code. */
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

/*** As asyncio.gather takes them ***/

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
   `await` does: __class__ may be made up.  1, 0, or -1 on error.
   Runs Python code. */
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

/* Can this argument be awaited, and on which loop?  1 for a Future, else 0.
   Runs Python code. */
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
   Futures among the first `most` go to the front.  Nothing has started.
   Runs Python code. */
static int
sort_out_awaitables(core_state *state, PyObject *list, Py_ssize_t most,
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
    PyObject *places = PyDict_New(); /* argument -> index */
    PyObject *futures = hidden_list_new(NULL, 0);
    PyObject *others = hidden_list_new(NULL, 0);
    PyObject *positions = hidden_list_new(NULL, 0);
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
        bool goes_first =
            future
            && PyList_GET_SIZE(futures) + PyList_GET_SIZE(others) < most;
        place = append_with_index(goes_first ? futures : others, op);
        if (place != NULL && goes_first) {
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

#endif /* GATEDCORO_AWAITABLES_H */
