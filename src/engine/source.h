/* Source: where the items of a gathering come from.

      LIST       a hidden list of awaitables; an item leaves a hole in it, which
                 its outcome fills.  So a gathering needs no memory per item
                 beyond what the caller passed and what it returns.
      SEQUENCE   a list or tuple of callables; is indexed, so none of its code
                 runs
      ITERATOR   of callables; is the user's code

      OPEN -------> EXHAUSTED       items start while it is OPEN only, until
        |               |           every one has been taken; closing a long
        v               v           list takes several turns
     CLOSING ------> CLOSED

   An item that has been taken is kept here until it runs or is dropped.

   All of an iterable's own code runs in one context: it is made, asked for items
   and dropped there. */

#ifndef GATEDCORO_SOURCE_H
#define GATEDCORO_SOURCE_H

#include "base/hidden_list.h"
#include "coroutines/item.h"
#include "engine/slice.h"

typedef enum {
    SOURCE_LIST,
    SOURCE_SEQUENCE,
    SOURCE_ITERATOR,
} SourceKind;

typedef enum {
    SOURCE_OPEN,
    SOURCE_EXHAUSTED, /* every item has been taken */
    SOURCE_CLOSING,   /* nothing starts any more; the rest is being closed */
    SOURCE_CLOSED,
} SourceState;

typedef enum {
    TAKE_ERROR = -1, /* with an exception: it is at its end */
    TAKE_NONE,       /* nor will there ever be one again */
    TAKE_ITEM,
    TAKE_LATER, /* it says when there is one */
} TakeAnswer;

/* An item that neither runs nor has been dropped. */
typedef struct {
    PyObject *item; /* owned; NULL: there is none */
    Py_ssize_t index;
    ItemDrive drive;
} TakenItem;

typedef struct {
    SourceKind kind;
    SourceState state;
    ItemKind item_kind;
    PyObject *object;  /* owned; NULL at its end */
    PyObject *context; /* in which its code runs; not of a LIST */
    Py_ssize_t next;   /* the next item's index */
    TakenItem taken;
} Source;

/* Does nothing start any more, whether or not everything has started? */
static inline bool
source_is_closed(const Source *self)
{
    return self->state == SOURCE_CLOSING || self->state == SOURCE_CLOSED;
}

/* Is nothing queued any more? */
static inline bool
source_is_empty(const Source *self)
{
    return self->state == SOURCE_EXHAUSTED || self->state == SOURCE_CLOSED;
}

/* Is there an item in the list that has not been taken? */
static inline bool
source_list_goes_on(const Source *self)
{
    return self->object != NULL && self->next < PyList_GET_SIZE(self->object);
}

/*** Opening ***/

/* A list or tuple of callables is indexed, which runs no Python code. */
static inline SourceKind
source_kind_of(PyObject *callables)
{
    return PyList_CheckExact(callables) || PyTuple_CheckExact(callables)
               ? SOURCE_SEQUENCE
               : SOURCE_ITERATOR;
}

/* A source of the awaitables in a hidden list, of which whoever owns it sees to
   what it holds. */
static Source
source_of_list(PyObject *list, ItemKind item_kind)
{
    bool is_empty = PyList_GET_SIZE(list) == 0;
    return (Source){
        .kind = SOURCE_LIST,
        .state = is_empty ? SOURCE_EXHAUSTED : SOURCE_OPEN,
        .item_kind = item_kind,
        .object = is_empty ? NULL : Py_NewRef(list),
    };
}

/* Lets go of the iterable in its own context: a generator is closed by that, and
   anything may have a finalizer.  Both are cleared first.

   The context cannot be entered where it is already.  Then it is the iterable
   that runs, and who runs it has a reference, which goes in the context, too.
   Out of reach is a generator that the collector finds in a cycle with us: it
   may finalize that first.  Keeps the exception being raised.
   Runs Python code. */
static void
source_drop(Source *self)
{
    PyObject *dropped = self->object;
    PyObject *context = self->context;
    self->object = self->context = NULL;
    if (dropped != NULL) {
        PyObject *raised = fetch_exception();
        bool entered = context != NULL && PyContext_Enter(context) == 0;
        PyErr_Clear();
        Py_DECREF(dropped);
        if (entered && PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable(context);
        }
        restore_exception(raised);
    }
    Py_XDECREF(context);
}

/* A source of callables (stolen): iter(callables), in a context of its own,
   where `callables` goes, too.  -1 on error: there is nothing to drop then.
   Runs Python code. */
static int
source_open_calls(Source *self, PyObject *callables)
{
    *self = (Source){
        .kind = source_kind_of(callables),
        .item_kind = ITEM_CALLABLE,
        .context = PyContext_CopyCurrent(),
    };
    if (self->context != NULL && PyContext_Enter(self->context) == 0) {
        self->object = self->kind == SOURCE_SEQUENCE
                           ? Py_NewRef(callables)
                           : PyObject_GetIter(callables);
        PyObject *raised = self->object == NULL ? fetch_exception() : NULL;
        Py_CLEAR(callables);
        if (PyContext_Exit(self->context) < 0) {
            PyErr_WriteUnraisable(self->context);
        }
        restore_exception(raised);
    }
    Py_XDECREF(callables); /* nothing of it has run */
    if (self->object == NULL) {
        source_drop(self);
        return -1;
    }
    return 0;
}

/*** Taking ***/

/* next(iterator), or the next callable of a sequence, in the source's context:
   new reference; NULL at the end, or with an exception: the iterable has been
   dropped then, in its context.  Runs Python code. */
static PyObject *
source_advance(Source *self)
{
    PyObject *object = self->object;
    bool indexed = self->kind == SOURCE_SEQUENCE;
    if (indexed && self->next < PySequence_Fast_GET_SIZE(object)) {
        return Py_NewRef(PySequence_Fast_GET_ITEM(object, self->next));
    }
    PyObject *context = Py_NewRef(self->context);
    PyObject *item = NULL;
    if (PyContext_Enter(context) == 0) {
        Py_INCREF(object);
        if (!indexed) {
            item = PyIter_Next(object);
        }
        PyObject *raised = item == NULL ? fetch_exception() : NULL;
        if (item == NULL && self->object == object) {
            Py_CLEAR(self->object);
        }
        Py_DECREF(object);
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(item);
            Py_XDECREF(raised);
        }
        else {
            restore_exception(raised);
        }
    }
    Py_DECREF(context);
    return item;
}

/* Takes the next item out of the list, and has it as taken. */
static void
source_take_listed(Source *self)
{
    self->taken.index = self->next;
    self->taken.item = hidden_list_pop(self->object, self->next);
    self->next++;
}

/* Takes the next item of an open source: it is in `taken` then.  An iterator may
   have closed the source in the meantime.  Runs Python code. */
static TakeAnswer
source_take(Source *self)
{
    assert(self->state == SOURCE_OPEN && self->taken.item == NULL);
    if (self->kind == SOURCE_LIST) {
        source_take_listed(self);
        return TAKE_ITEM;
    }
    PyObject *item = source_advance(self);
    if (item == NULL) {
        return PyErr_Occurred() ? TAKE_ERROR : TAKE_NONE;
    }
    self->taken.index = self->next;
    self->taken.item = item;
    self->next++;
    return TAKE_ITEM;
}

/* The item that was taken from a list is queued again: it was the last. */
static void
source_put_back(Source *self)
{
    assert(self->kind == SOURCE_LIST && self->state == SOURCE_EXHAUSTED);
    self->next--;
    PyList_SET_ITEM(self->object, self->next, self->taken.item);
    self->taken.item = NULL;
    self->state = SOURCE_OPEN;
}

/* Finds out how the item that has been taken is driven.  -1 on error.
   Runs Python code. */
static int
source_look_at_taken(core_state *state, Source *self)
{
    return item_find_drive(state, self->taken.item, self->item_kind,
                           &self->taken.drive);
}

/* The item that was taken is the caller's (owned). */
static PyObject *
source_hand_over(Source *self)
{
    PyObject *item = self->taken.item;
    self->taken.item = NULL;
    return item;
}

/*** Ending ***/

/* The item that was taken never starts.  Keeps the exception being raised.
   Runs Python code. */
static void
source_drop_taken(core_state *state, Source *self)
{
    PyObject *item = self->taken.item;
    item_close(state, item, self->item_kind);
    self->taken.item = NULL;
    PyObject *raised = fetch_exception();
    Py_DECREF(item);
    restore_exception(raised);
}

/* Every item has been taken. */
static void
source_exhaust(Source *self)
{
    assert(self->state == SOURCE_OPEN);
    self->state = SOURCE_EXHAUSTED;
}

/* A list that nothing will be taken from again is left to who owns it. */
static void
source_leave_list(Source *self)
{
    if (self->kind == SOURCE_LIST && source_is_empty(self)) {
        Py_CLEAR(self->object);
    }
}

/* Nothing starts any more.  What is queued has yet to be closed. */
static void
source_begin_closing(Source *self)
{
    assert(self->state == SOURCE_OPEN || self->state == SOURCE_CLOSING);
    self->state = SOURCE_CLOSING;
}

/* Nothing is queued any more, nor will it be. */
static void
source_be_closed(Source *self)
{
    self->state = SOURCE_CLOSED;
    source_leave_list(self);
}

/* Runs Python code. */
static void
source_close_next(core_state *state, Source *self)
{
    PyObject *item = hidden_list_pop(self->object, self->next);
    self->next++;
    item_close(state, item, self->item_kind);
    Py_DECREF(item);
}

/* Closes what is queued until a slice is used up: 1 if there is more, 0, or -1
   if the clock failed.  Runs Python code. */
static int
source_close_some(core_state *state, Source *self)
{
    assert(self->state == SOURCE_CLOSING);
    double start, now;
    int status = clock_seconds(state, &start);
    while (status == 0 && source_list_goes_on(self)) {
        source_close_next(state, self);
        status = clock_seconds(state, &now);
        if (status == 0 && now - start >= SLICE_SECONDS
            && source_list_goes_on(self)) {
            return 1;
        }
    }
    return status;
}

/* Whatever is queued never starts: closes it all.  Runs Python code. */
static void
source_close_all(core_state *state, Source *self)
{
    if (!source_is_empty(self)) {
        source_begin_closing(self);
        if (self->kind == SOURCE_LIST) {
            while (source_list_goes_on(self)) {
                source_close_next(state, self);
            }
        }
        else {
            source_drop(self);
        }
    }
    source_be_closed(self);
}

/*** Lifecycle ***/

static int
source_traverse(Source *self, visitproc visit, void *arg)
{
    if (self->kind != SOURCE_LIST) {
        Py_VISIT(self->object);
    }
    Py_VISIT(self->context);
    Py_VISIT(self->taken.item);
    return 0;
}

/* Runs Python code. */
static void
source_clear(Source *self)
{
    source_drop(self);
    Py_CLEAR(self->taken.item);
}

#endif /* GATEDCORO_SOURCE_H */
