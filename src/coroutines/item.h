/* Item: what one slot of a call is given to run; how it begins, what is noted on
   its errors, how it is closed when it is given up.

      kind   what the caller handed over       (of the whole call)
      drive  how to get to what is driven      (of each item, before it begins) */

#ifndef GATEDCORO_ITEM_H
#define GATEDCORO_ITEM_H

#include "coroutines/await.h"

typedef enum {
    ITEM_AWAITABLE,        /* what `await` takes */
    ITEM_GATHER_AWAITABLE, /* what asyncio.gather takes */
    ITEM_HANDED_OUT, /* the same; its Task is, or the Future that it is, which is
                        only waited for */
    ITEM_CALLABLE,   /* returns what `await` takes, called with an argument or
                      without */
} ItemKind;

typedef enum {
    DRIVE_BY_AWAIT,
    DRIVE_ITSELF,          /* as a Task drives its coroutine */
    DRIVE_BY_AWAIT_METHOD, /* `yield from item.__await__()` */
    DRIVE_BY_WAITING, /* a Future of the loop's is done, and not cancelled */
} ItemDrive;

/* Does the type have what generators and coroutines have?  Runs no Python code. */
static bool
has_coroutine_methods(core_state *state, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    return _PyType_Lookup(type, state->str_send) != NULL
           && _PyType_Lookup(type, state->str_throw) != NULL
           && _PyType_Lookup(type, state->str_close) != NULL;
}

/*** Beginning ***/

/* Which of these does asyncio.gather do?  It makes a Task of a coroutine, which
   drives it from where it stands, and does not ask whether `await` would take
   it.  A Future runs already; one that `await` does not take may say by an
   attribute how it is waited for.  -1 on error.  Runs Python code. */
static int
gather_item_drive(core_state *state, PyObject *op)
{
    if (PyCoro_CheckExact(op) || is_own_coroutine(op)) {
        return DRIVE_ITSELF;
    }
    if (is_iterable_coroutine(op)
        || PyObject_TypeCheck(op, state->future_base)) {
        return DRIVE_BY_AWAIT;
    }
    int future = is_future(state, op);
    if (future < 0) {
        return -1;
    }
    if (future) {
        if (has_am_await(op)) {
            return DRIVE_BY_AWAIT;
        }
        PyObject *method;
        int found = lookup_attribute(op, state->str_dunder_await, &method);
        Py_XDECREF(method);
        return found <= 0 ? found : DRIVE_BY_AWAIT_METHOD;
    }
    int coroutine = is_task_coroutine(state, op);
    if (coroutine != 0) {
        return coroutine < 0 ? -1 : DRIVE_ITSELF;
    }
    return GATHER_CALLS_AWAIT_METHOD ? DRIVE_BY_AWAIT_METHOD : DRIVE_BY_AWAIT;
}

/* The loop of a Future: new reference.  Runs Python code. */
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

/* Is it a Future of that loop?  1, 0, or -1 on error.  Runs Python code. */
static int
is_future_of(core_state *state, PyObject *op, PyObject *loop)
{
    int future = is_future(state, op);
    if (future <= 0) {
        return future;
    }
    PyObject *own = loop_of_future(state, op);
    Py_XDECREF(own);
    return own == NULL ? -1 : own == loop;
}

/* Finds out how an item of that kind is driven on that loop.  -1 on error.
   Runs Python code. */
static int
item_find_drive(core_state *state, PyObject *item, ItemKind kind,
                PyObject *loop, ItemDrive *drive)
{
    *drive = DRIVE_BY_AWAIT;
    if (kind == ITEM_HANDED_OUT) {
        int future = is_future_of(state, item, loop);
        if (future != 0) {
            *drive = DRIVE_BY_WAITING;
            return future < 0 ? -1 : 0;
        }
    }
    if (kind == ITEM_GATHER_AWAITABLE || kind == ITEM_HANDED_OUT) {
        int found = gather_item_drive(state, item);
        if (found < 0) {
            return -1;
        }
        *drive = (ItemDrive)found;
    }
    if (kind == ITEM_HANDED_OUT && *drive == DRIVE_BY_AWAIT_METHOD
        && !can_be_awaited(item)) {
        *drive = DRIVE_BY_AWAIT; /* whose TypeError says so */
    }
    return 0;
}

/* Says on the exception being raised which item it comes from.
   Runs Python code. */
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
   every method; no other code of its runs.  1, 0, or -1 on an interrupt or without
   memory.  Runs Python code. */
static int
is_to_be_unpacked(core_state *state, PyObject *op)
{
    if (Py_TYPE(op)->tp_iter == NULL || can_be_awaited(op)
        || PyUnicode_Check(op) || PyBytes_Check(op) || PyByteArray_Check(op)
        || PyDict_Check(op)
        || _PyType_Lookup(Py_TYPE(op), state->str_dunder_iter) == Py_None) {
        return 0;
    }
    int is_proxy = is_coroutine(state, op);
    return is_proxy < 0 ? forget_ordinary_error() : !is_proxy;
}

/* Says on the TypeError being raised about an item what may have been meant.  An
   interrupt takes its place.  Runs Python code. */
static void
note_unpacking(core_state *state, PyObject *op)
{
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
        return;
    }
    PyObject *raised = fetch_exception();
    int meant = is_to_be_unpacked(state, op);
    if (meant < 0) {
        Py_DECREF(raised);
        return;
    }
    if (meant) {
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

/* asyncio.wait((future,)), which neither cancels the Future nor looks at what it
   comes to, as it is driven: new reference.  Runs Python code. */
static PyObject *
waiting_iterator(core_state *state, PyObject *future)
{
    PyObject *futures = PyTuple_Pack(1, future);
    PyObject *coroutine =
        futures == NULL ? NULL
                        : PyObject_CallMethodOneArg(state->asyncio_tasks,
                                                    state->str_wait, futures);
    PyObject *iterator =
        coroutine == NULL ? NULL : await_iterator(state, coroutine, NULL);
    Py_XDECREF(coroutine);
    Py_XDECREF(futures);
    return iterator;
}

/* Begins `*item`, of whatever kind: a new reference to what has to be driven.  A
   callable is called with `*argument`, if there is one, which goes; and `*item` is
   replaced by what it returned.  `index` is which item of its call it is.
   Runs Python code. */
static PyObject *
item_begin(core_state *state, PyObject **item, PyObject **argument,
           ItemKind kind, ItemDrive drive, Py_ssize_t index)
{
    if (kind == ITEM_CALLABLE) {
        PyObject *given = *argument;
        *argument = NULL;
        PyObject *awaitable = given == NULL
                                  ? PyObject_CallNoArgs(*item)
                                  : PyObject_CallOneArg(*item, given);
        Py_XDECREF(given);
        if (awaitable == NULL) {
            note_item(state, index);
            return NULL;
        }
        Py_SETREF(*item, awaitable);
    }
    PyObject *iterator = NULL;
    switch (drive) {
    case DRIVE_BY_AWAIT:
        iterator = await_iterator(state, *item, NULL);
        break;
    case DRIVE_ITSELF:
        return Py_NewRef(*item);
    case DRIVE_BY_AWAIT_METHOD:
        return await_method_iterator(state, *item);
    case DRIVE_BY_WAITING:
        return waiting_iterator(state, *item);
    }
    if (iterator == NULL && kind == ITEM_CALLABLE && !can_be_awaited(*item)) {
        note_item(state, index);
    }
    return iterator;
}

/*** Giving items up ***/

/* One that runs is not ours to close, nor is one that somebody else awaits: it
   has begun, and unless `begun_too`, was not given to go on with.  1, 0, or -1
   on error.  Runs Python code. */
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
   goes to sys.unraisablehook.  The exception being raised is kept.
   Runs Python code. */
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

/* Closes an item of that kind that never started.  asyncio.gather's may have
   begun before they were given.  Runs Python code. */
static void
item_close(core_state *state, PyObject *item, ItemKind kind)
{
    switch (kind) {
    case ITEM_AWAITABLE:
        close_given_up(state, item, false);
        break;
    case ITEM_GATHER_AWAITABLE:
    case ITEM_HANDED_OUT:
        close_given_up(state, item, true);
        break;
    case ITEM_CALLABLE:
        break;
    }
}

/* Closes an argument of a call that comes to nothing.  Runs Python code. */
static void
close_unstarted(core_state *state, PyObject *awaitable)
{
    close_given_up(state, awaitable, false);
}

/* Closes an item that is given up, if it is a coroutine: one of ours that never
   ran later, with the rest of the list.  Keeps the exception being raised.
   Runs Python code. */
static void
discard_given_up(core_state *state, PyObject *awaitable, bool begun_too,
                 DiscardList *list)
{
    bool is_own = is_own_coroutine(awaitable);
    if (is_own && CoroutineObject_CAST(awaitable)->state == CORO_CREATED) {
        discard_later(list, CoroutineObject_CAST(awaitable));
    }
    else if (!is_own || begun_too) {
        close_given_up(state, awaitable, begun_too);
    }
}

#endif /* GATEDCORO_ITEM_H */
