/* Stream: what amap() returns: an async iterator, an async context manager, and an
   awaitable of all results, of which it is one, once.

      NONE ----> ENTERED ----> ITERATED       by its first consumer, or
        |           |                         AWAITED, or
        +-----------+----------------------   CLOSED before either, or where it could
                                              not be opened

   The user's references end here: a gathering knows the results only
   (stream_results.h), so that a Stream that goes can tell it. */

#ifndef GATEDCORO_STREAM_H
#define GATEDCORO_STREAM_H

#include "engine/leaving.h"
#include "surface/iterables.h"
#include "surface/opening.h"
#include "surface/stream_results.h"

typedef enum {
    STREAM_USE_NONE,
    STREAM_USE_ENTERED,
    STREAM_USE_ITERATED,
    STREAM_USE_AWAITED,
    STREAM_USE_CLOSED,
} StreamUse;

typedef struct StreamObject StreamObject;

/* What differs between the two of them, amap()'s and as_completed()'s
   (as_completed.h).  Called by the functions of this file, and by the block that
   closes it. */
typedef struct {
    /* Of their coroutines. */
    const char *anext_name;
    const char *aenter_name;
    const char *aexit_name;
    const char *aclose_name;

    /* The receiver, and the sink that it is of, of the results of what is in the
       iterable: new reference. */
    PyObject *(*new_results)(core_state *state, StreamObject *stream,
                             PyObject *iterable, const Sink **sink);

    /* Nobody wants what is left of the results.  -1 on an interrupt.
       Runs Python code. */
    int (*leave_results)(StreamResultsObject *results);

    /* Makes the source of what is in the iterable (stolen), under the limit that
       the parts have.  -1 on error: there is nothing to drop then.
       Runs Python code. */
    int (*open_source)(core_state *state, StreamObject *stream,
                       PyObject *iterable, GatheringParts *parts);

    /* The gathering has begun.  -1 on error.  Runs Python code. */
    int (*begun)(core_state *state, StreamObject *stream);

    /* It is closed before it has been opened, and goes through no async iterator:
       closes the iterable (stolen).  -1 on error.  Runs Python code. */
    int (*close_iterable)(core_state *state, PyObject *iterable);

    bool warns; /* if it is never used */
} StreamKind;

struct StreamObject {
    PyObject_HEAD
    const StreamKind *kind;
    StreamUse use;
    ErrorPolicy policy; /* when it is iterated over */
    bool is_ordered;
    Window window;
    PyObject *function;           /* NULL: the items are in the iterable */
    PyObject *iterable;           /* until it is used */
    PyObject *progress;           /* see parse_progress(); or NULL */
    Py_ssize_t futures;           /* so many items are, and taken at once */
    PyObject *limit;              /* see limit_as_object() */
    PyObject *loop;               /* of its first step; or NULL */
    GatheringObject *gathering;   /* NULL unless it is ITERATED */
    StreamResultsObject *results; /* likewise */
    PyObject *weakreflist;
};

static inline StreamObject *
StreamObject_CAST(PyObject *op)
{
    return (StreamObject *)op;
}

/* Has it neither been iterated over nor awaited? */
static inline bool
stream_is_unopened(const StreamObject *self)
{
    return self->use == STREAM_USE_NONE || self->use == STREAM_USE_ENTERED;
}

/* Is there something of it that runs, or may run? */
static inline bool
stream_goes_on(const StreamObject *self)
{
    return self->gathering != NULL
           && self->gathering->state != GATHERING_SETTLED;
}

/*** Making ***/

/* `buffersize`: an integer from 0, or None: -1 with an exception.
   Runs Python code. */
static int
parse_buffersize(PyObject *value, bool *is_given, Py_ssize_t *size)
{
    *is_given = value != NULL && value != Py_None;
    *size = 0;
    if (!*is_given) {
        return 0;
    }
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError,
                     "buffersize must be an integer or None, not %R (%s)",
                     value, Py_TYPE(value)->tp_name);
        return -1;
    }
    PyObject *index = PyNumber_Index(value);
    if (index == NULL) {
        return -1;
    }
    int overflow;
    long long count = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow < 0 || (overflow == 0 && count < 0)) {
        PyErr_Format(PyExc_ValueError,
                     "buffersize must be at least 0, or None for as many as "
                     "the limit, not %S",
                     index);
        Py_DECREF(index);
        return -1;
    }
    *size = overflow > 0 || count > PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX
                                                   : (Py_ssize_t)count;
    Py_DECREF(index);
    return 0;
}

/* How many may be drawn, or have finished, with that limit. */
static Window
window_of(const Limit *limit, bool is_given, Py_ssize_t size)
{
    Window window = {PY_SSIZE_T_MAX, PY_SSIZE_T_MAX};
    if (limit_is_none(limit)) {
        if (is_given) {
            window.drawn = size == 0 ? 1 : size;
        }
    }
    else if (limit->count != NOT_LIMITED) {
        Py_ssize_t more = is_given ? size : limit->count;
        if (more < PY_SSIZE_T_MAX - limit->count) {
            window.drawn = limit->count + more;
        }
    }
    else {
        window.finished = is_given ? size : FINISHED_BY_DEFAULT;
    }
    return window;
}

/* A Stream of that type, of arguments that are in order: new reference. */
static StreamObject *
stream_new(PyTypeObject *type, const StreamKind *kind, PyObject *iterable,
           const Limit *limit, const Window *window, bool is_ordered,
           bool return_exceptions)
{
    PyObject *given = limit_as_object(limit);
    StreamObject *self =
        given == NULL ? NULL : (StreamObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(given);
        return NULL;
    }
    self->kind = kind;
    self->iterable = Py_NewRef(iterable);
    self->limit = given;
    self->window = *window;
    self->is_ordered = is_ordered;
    self->policy = (ErrorPolicy){
        .return_exceptions = return_exceptions,
        .stops = is_ordered ? STOPS_LATER : STOPS_ALL_BUT_TAKEN,
    };
    return self;
}

/*** Opening ***/

/* Opens it for its first consumer: -1 on error.  Runs Python code. */
static int
stream_open(core_state *state, StreamObject *self)
{
    PyObject *iterable = self->iterable;
    self->iterable = NULL;
    GatheringParts parts = {.loop = self->loop, .policy = self->policy};
    PyObject *results =
        self->kind->new_results(state, self, iterable, &parts.sink);
    parts.receiver = results;
    GatheringObject *gathering = NULL;
    Py_ssize_t total;
    if (results == NULL || total_of(self->progress, iterable, &total) < 0
        || parse_limit(state, self->limit, "limit", &parts.limit) < 0) {
        Py_DECREF(iterable);
    }
    else if (self->kind->open_source(state, self, iterable, &parts) == 0) {
        gathering = make_stream_gathering(state, &parts);
    }
    limit_clear(&parts.limit);
    if (gathering == NULL) {
        Py_XDECREF(results);
        return -1;
    }
    int opened = gathering_open_progress(gathering, self->progress, total);
    self->gathering = gathering;
    self->results = (StreamResultsObject *)results;
    self->use = STREAM_USE_ITERATED; /* an eager item may look at it now */
    if (opened < 0
        || begin_gathering(state, gathering, self->futures, true) < 0
        || (self->kind->begun != NULL && self->kind->begun(state, self) < 0)) {
        gathering_drop(gathering);
        PyObject *raised = fetch_exception();
        if (self->kind->leave_results(self->results) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        restore_exception(raised);
        return -1;
    }
    return 0;
}

/* Opens it on that loop (stolen).  -1 on error: it is closed then.
   Runs Python code. */
static int
stream_open_on(core_state *state, StreamObject *self, PyObject *loop)
{
    self->loop = loop;
    self->use = STREAM_USE_CLOSED; /* if it cannot be opened */
    return stream_open(state, self);
}

/* -1 if the loop that runs is another one than its own, or there is none.
   Runs Python code. */
static int
stream_check_loop(core_state *state, StreamObject *self)
{
    PyObject *loop = PyObject_CallNoArgs(state->get_running_loop);
    if (loop == NULL) {
        return -1;
    }
    bool is_own = loop == self->loop;
    Py_DECREF(loop);
    if (!is_own) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R belongs to a different event loop", self);
    }
    return is_own ? 0 : -1;
}

/* A consumer asks.  1 if there is, or was, something to iterate over; 0 if not,
   -1 on error.  Runs Python code. */
static int
stream_be_iterated(core_state *state, StreamObject *self)
{
    switch (self->use) {
    case STREAM_USE_AWAITED:
        PyErr_Format(PyExc_RuntimeError,
                     "%R has been awaited: it cannot be iterated over, too",
                     self);
        return -1;
    case STREAM_USE_CLOSED:
        return 0;
    case STREAM_USE_ITERATED:
        return stream_check_loop(state, self) < 0 ? -1 : 1;
    case STREAM_USE_NONE:
    case STREAM_USE_ENTERED:
        break;
    }
    PyObject *loop = PyObject_CallNoArgs(state->get_running_loop);
    if (loop == NULL) {
        return -1;
    }
    if (!stream_is_unopened(self)) { /* that may be anybody's function */
        Py_DECREF(loop);
        return stream_be_iterated(state, self);
    }
    return stream_open_on(state, self, loop) < 0 ? -1 : 1;
}

/* Is that Task one of its items', or its source's?  One that the caller has made is
   not. */
static bool
gathering_runs_in(const GatheringObject *self, PyObject *task)
{
    const RunningLink *ring = &self->running.ring;
    const Source *source = &self->source;
    bool found = source->kind == SOURCE_TASK && source->object != NULL
                 && IterationObject_CAST(source->object)->task == task;
    for (const RunningLink *link = ring->next; link != ring && !found;
         link = link->next) {
        found = link->owner != NULL && link->run != RUN_WATCHED
                && (link->target == task
                    || link->target == NULL); /* its Task is being made */
    }
    return found;
}

/* The Stream that it goes through, if its source is one that has been opened
   (borrowed), or NULL. */
static StreamObject *
stream_source(core_state *state, const StreamObject *self)
{
    const Source *source = &self->gathering->source;
    PyObject *iterator = source->kind == SOURCE_TASK && source->object != NULL
                             ? IterationObject_CAST(source->object)->iterator
                             : NULL;
    if (iterator == NULL
        || (Py_TYPE(iterator) != state->stream_type
            && Py_TYPE(iterator) != state->as_completed_type)) {
        return NULL;
    }
    StreamObject *stream = StreamObject_CAST(iterator);
    return stream->gathering == NULL ? NULL : stream;
}

/* Is the Task that runs one of its items', or its source's, or those of a Stream
   that it goes through?  Who closes it waits for all of these.  1, 0, or -1 on an
   interrupt.  Runs Python code. */
static int
stream_is_in_own_task(core_state *state, StreamObject *self)
{
    PyObject *current = current_task_of(state, self->loop);
    if (current == NULL) {
        return -1;
    }
    bool found = false;
    const StreamObject *seen = NULL;
    size_t steps = 0;
    for (const StreamObject *stream = self; stream != NULL && stream != seen;
         stream = stream_source(state, stream)) {
        if (gathering_runs_in(stream->gathering, current)) {
            found = true;
            break;
        }
        if ((steps & (steps + 1)) == 0) { /* it may go through itself */
            seen = stream;
        }
        steps++;
    }
    Py_DECREF(current);
    return found;
}

#endif /* GATEDCORO_STREAM_H */
