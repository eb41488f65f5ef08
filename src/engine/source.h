/* Source: where the items of a gathering come from.

      LIST       a hidden list of awaitables; an item leaves a hole in it, which
                 its outcome may fill.  So a gathering needs no memory per item
                 beyond what the caller passed and what it returns.
      SEQUENCE   a list or tuple of callables; is indexed, so none of its code
                 runs
      ITERATOR   of callables; is the user's code
      TASK       one of callables that are not there yet, too: an async iterable,
                 which a Task of its own goes through (iteration.h)

   Instead of callables the last three may have arguments for one `function`, and
   the last two awaitables.

     WAITING                        the next item is on its way
        ^
        v
      OPEN -------> EXHAUSTED       items start while it is OPEN only, until
        |               |           every one has been taken; closing a long
        v               v           list, or a Task, takes several turns
     CLOSING ------> CLOSED

   An item that has been taken is kept here until it runs or is dropped.  What has
   been drawn from an iterable before there was a slot for it is kept, too: so the
   end of the iterable is found without one.

   All of an iterable's own code runs in one context: it is made, asked for items,
   closed and dropped there. */

#ifndef GATEDCORO_SOURCE_H
#define GATEDCORO_SOURCE_H

#include "base/hidden_list.h"
#include "coroutines/item.h"
#include "engine/slice.h"

typedef enum {
    SOURCE_LIST,
    SOURCE_SEQUENCE,
    SOURCE_ITERATOR,
    SOURCE_TASK,
} SourceKind;

typedef enum {
    SOURCE_OPEN,
    SOURCE_WAITING,
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

/* What a source that is a Task does.  Called by the gathering, which lives through
   each call, as the iteration does. */
typedef struct {
    /* Begins: has the Task made.  1 if passes ask it, 0 if its first step does so
       itself, and begins one; -1 on error.  Runs Python code. */
    int (*begin)(core_state *state, PyObject *iteration, PyObject *gathering);
    /* The next element: `*element` is a new reference if there is one.
       Runs Python code. */
    TakeAnswer (*take)(core_state *state, PyObject *iteration,
                       PyObject **element);
    /* Is it in the middle of a step?  Then nothing can be taken from it but in
       that.  Runs no Python code. */
    bool (*is_stepping)(PyObject *iteration);
    /* The source is being closed: it says when it is over.  -1 on error.
       Runs Python code. */
    int (*close)(core_state *state, PyObject *iteration);
    /* Cancels that once more.  -1 on error.  Runs Python code. */
    int (*cancel)(core_state *state, PyObject *iteration, PyObject *message);
    /* The loop will not run again: it is over.  Keeps the exception being raised.
       Runs Python code. */
    void (*strand)(core_state *state, PyObject *iteration);
} SourceTask;

/* An item that neither runs nor has been dropped. */
typedef struct {
    PyObject *item;     /* owned; NULL: there is none */
    PyObject *argument; /* with which it is called; owned, or NULL */
    Py_ssize_t index;
    ItemDrive drive;
} TakenItem;

typedef struct {
    SourceKind kind;
    SourceState state;
    ItemKind item_kind;
    PyObject *object;   /* owned; NULL at its end, and while it is asked */
    PyObject *context;  /* in which its code runs; not of a LIST or a TASK */
    PyObject *function; /* for which its items are arguments; owned, or NULL */
    const SourceTask *task; /* of a TASK, whose `object` is the iteration */
    PyObject *ahead;        /* has been drawn for the next item; or NULL */
    Py_ssize_t next;        /* the next item's index */
    TakenItem taken;
} Source;

/* Is there an item, or may there be one, that has yet to start? */
static inline bool
source_is_open(const Source *self)
{
    return self->state == SOURCE_OPEN || self->state == SOURCE_WAITING;
}

/* Could it starve the loop if all of it started in one turn? */
static inline bool
source_may_be_endless(const Source *self)
{
    return self->function != NULL || self->kind == SOURCE_TASK
           || (self->kind == SOURCE_ITERATOR
               && self->item_kind == ITEM_HANDED_OUT);
}

/* Need the sink be told of each item?  Of a list it knows them all, unless it is the
   source's own. */
static inline bool
source_is_expected(const Source *self)
{
    return self->kind != SOURCE_LIST || self->item_kind == ITEM_HANDED_OUT;
}

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

/* Is it a Task in the middle of a step? */
static inline bool
source_is_stepping(const Source *self)
{
    return self->kind == SOURCE_TASK && self->object != NULL
           && self->task->is_stepping(self->object);
}

/* Is there an item in the list that has not been taken? */
static inline bool
source_list_goes_on(const Source *self)
{
    return self->object != NULL && self->next < PyList_GET_SIZE(self->object);
}

/* Does its closing take turns, as that of a Task, which can be cancelled? */
static inline bool
source_is_being_closed(const Source *self)
{
    return self->kind == SOURCE_TASK && self->state == SOURCE_CLOSING;
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
   what it holds: the source itself, if they are to be handed out. */
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

/* Closes an iterator (stolen), if it is a generator, and lets go of it: anything
   may have a finalizer.  -1 on error.  Runs Python code. */
static int
source_close_iterator(core_state *state, PyObject *iterator)
{
    int status =
        PyGen_CheckExact(iterator) || has_coroutine_methods(state, iterator)
            ? call_method_for_effect(iterator, state->str_close, NULL)
            : 0;
    PyObject *raised = status < 0 ? fetch_exception() : NULL;
    Py_DECREF(iterator);
    restore_exception(raised);
    return status;
}

/* Closes what is left of the iterable in its own context, and lets go of both.
   Both are cleared first.  What that raises: new reference, or NULL.

   The context cannot be entered where it is already.  Then something else of the
   iterable's runs in it, or has done so until now.  Out of reach is a generator
   that the collector finds in a cycle with us: it may finalize that first.  Keeps
   the exception being raised.  Runs Python code. */
static PyObject *
source_drop(core_state *state, Source *self)
{
    PyObject *dropped = self->object;
    PyObject *context = self->context;
    PyObject *failure = NULL;
    self->object = self->context = NULL;
    if (dropped != NULL) {
        PyObject *raised = fetch_exception();
        bool entered = context != NULL && PyContext_Enter(context) == 0;
        PyErr_Clear();
        if (source_close_iterator(state, dropped) < 0) {
            collect_exception(&failure);
        }
        if (entered && PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable(context);
        }
        restore_exception(raised);
    }
    Py_XDECREF(context);
    return failure;
}

/* A source of what is in an iterable (stolen): iter(iterable), in a context of its
   own, where `iterable` goes, too.  It is of arguments for `function` (borrowed),
   or of callables if that is NULL.  -1 on error: there is nothing to drop then.
   Runs Python code. */
static int
source_open_iterable(core_state *state, Source *self, PyObject *iterable,
                     PyObject *function)
{
    *self = (Source){
        .kind = source_kind_of(iterable),
        .item_kind = ITEM_CALLABLE,
        .context = PyContext_CopyCurrent(),
    };
    if (self->context != NULL && PyContext_Enter(self->context) == 0) {
        self->object = self->kind == SOURCE_SEQUENCE
                           ? Py_NewRef(iterable)
                           : PyObject_GetIter(iterable);
        PyObject *raised = self->object == NULL ? fetch_exception() : NULL;
        Py_CLEAR(iterable);
        if (PyContext_Exit(self->context) < 0) {
            PyErr_WriteUnraisable(self->context);
        }
        restore_exception(raised);
    }
    Py_XDECREF(iterable); /* nothing of it has run */
    if (self->object == NULL) {
        Py_XDECREF(source_drop(state, self));
        return -1;
    }
    self->function = Py_XNewRef(function);
    return 0;
}

/* A source of what an iteration (stolen) comes to. */
static Source
source_of_task(PyObject *iteration, const SourceTask *task, PyObject *function)
{
    return (Source){
        .kind = SOURCE_TASK,
        .state = SOURCE_WAITING,
        .item_kind = ITEM_CALLABLE,
        .object = iteration,
        .task = task,
        .function = Py_XNewRef(function),
    };
}

/*** Taking ***/

/* next(iterator), or the next item of a sequence, in the source's context: new
   reference; NULL at the end, or with an exception: the iterator has been dropped
   then, in its context.  One that is asked is nobody's to close: it has to be
   looked at afterwards whether the source is still open.  Runs Python code. */
static PyObject *
source_advance(Source *self)
{
    PyObject *object = self->object;
    if (self->kind == SOURCE_SEQUENCE
        && self->next < PySequence_Fast_GET_SIZE(object)) {
        return Py_NewRef(PySequence_Fast_GET_ITEM(object, self->next));
    }
    PyObject *context = Py_NewRef(self->context);
    PyObject *item = NULL;
    if (PyContext_Enter(context) == 0) {
        self->object = NULL;
        if (self->kind == SOURCE_ITERATOR) {
            item = PyIter_Next(object);
        }
        PyObject *raised = item == NULL ? fetch_exception() : NULL;
        if (item != NULL) {
            self->object = object;
            if (self->context == NULL) { /* the source has been closed */
                self->context = Py_NewRef(context);
            }
        }
        else {
            Py_DECREF(object);
        }
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

/* Is there a next item, for all that is known without asking? */
static inline bool
source_has_next(const Source *self)
{
    switch (self->kind) {
    case SOURCE_LIST:
        return true;
    case SOURCE_SEQUENCE:
        return self->ahead != NULL
               || self->next < PySequence_Fast_GET_SIZE(self->object);
    case SOURCE_ITERATOR:
    case SOURCE_TASK:
        return self->ahead != NULL;
    }
    Py_UNREACHABLE();
}

/* Draws what the next item of an open source will be made of, unless that is there
   already.  An iterator may have closed the source in the meantime.
   Runs Python code. */
static TakeAnswer
source_draw(core_state *state, Source *self)
{
    assert(self->state == SOURCE_OPEN && self->kind != SOURCE_LIST);
    if (self->ahead != NULL) {
        return TAKE_ITEM;
    }
    PyObject *drawn;
    if (self->kind == SOURCE_TASK) {
        PyObject *iteration = Py_NewRef(self->object);
        TakeAnswer answer = self->task->take(state, iteration, &drawn);
        Py_DECREF(iteration);
        if (answer != TAKE_ITEM) {
            return answer;
        }
    }
    else {
        drawn = source_advance(self);
        if (drawn == NULL) {
            return PyErr_Occurred() ? TAKE_ERROR : TAKE_NONE;
        }
    }
    assert(self->ahead == NULL);
    self->ahead = drawn;
    return TAKE_ITEM;
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
source_take(core_state *state, Source *self)
{
    assert(self->state == SOURCE_OPEN && self->taken.item == NULL);
    if (self->kind == SOURCE_LIST) {
        source_take_listed(self);
        return TAKE_ITEM;
    }
    TakeAnswer answer = source_draw(state, self);
    if (answer != TAKE_ITEM) {
        return answer;
    }
    PyObject *item = self->ahead;
    self->ahead = NULL;
    self->taken.index = self->next;
    if (self->function == NULL) {
        self->taken.item = item;
    }
    else {
        self->taken.item = Py_NewRef(self->function);
        self->taken.argument = item;
    }
    self->next++;
    return TAKE_ITEM;
}

/* The Task asks the iterable for the next item. */
static inline void
source_task_asks(Source *self)
{
    if (self->state == SOURCE_WAITING) {
        self->state = SOURCE_OPEN;
    }
}

/* It waits for that. */
static inline void
source_task_waits(Source *self)
{
    if (self->state == SOURCE_OPEN) {
        self->state = SOURCE_WAITING;
    }
}

/* It has come to its end, or has been closed. */
static void
source_task_ended(Source *self)
{
    PyObject *iteration = self->object;
    self->object = NULL;
    if (source_is_open(self)) {
        self->state = SOURCE_EXHAUSTED;
    }
    else if (self->state == SOURCE_CLOSING) {
        self->state = SOURCE_CLOSED;
    }
    Py_XDECREF(iteration);
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

/* Finds out how the item that has been taken is driven on that loop.  -1 on error.
   Runs Python code. */
static int
source_look_at_taken(core_state *state, Source *self, PyObject *loop)
{
    return item_find_drive(state, self->taken.item, self->item_kind, loop,
                           &self->taken.drive);
}

/* What the item that was taken is called with is the caller's (owned, or NULL). */
static PyObject *
source_hand_over_argument(Source *self)
{
    PyObject *argument = self->taken.argument;
    self->taken.argument = NULL;
    return argument;
}

/* The item that was taken is the caller's (owned). */
static PyObject *
source_hand_over(Source *self)
{
    PyObject *item = self->taken.item;
    self->taken.item = NULL;
    return item;
}

/*** Lifecycle ***/

static int
source_traverse(Source *self, visitproc visit, void *arg)
{
    if (self->kind != SOURCE_LIST) {
        Py_VISIT(self->object);
    }
    else if (self->item_kind
             == ITEM_HANDED_OUT) { /* nobody else has the list */
        int stop = hidden_list_visit(self->object, visit, arg);
        if (stop != 0) {
            return stop;
        }
    }
    Py_VISIT(self->context);
    Py_VISIT(self->function);
    Py_VISIT(self->ahead);
    Py_VISIT(self->taken.item);
    Py_VISIT(self->taken.argument);
    return 0;
}

static void
source_clear(Source *self)
{
    Py_CLEAR(self->object); /* the finalizer has closed it */
    Py_CLEAR(self->context);
    Py_CLEAR(self->function);
    Py_CLEAR(self->ahead);
    Py_CLEAR(self->taken.item);
    Py_CLEAR(self->taken.argument);
}

#endif /* GATEDCORO_SOURCE_H */
