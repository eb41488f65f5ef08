/* AsCompleted: what as_completed() returns: an iterator of coroutines, and an async
   iterator of Tasks and Futures that are done.

   It is a Stream whose results are the Tasks (completed_tasks.h), in the order in
   which they are done, of awaitables that the caller has passed.  What has a length
   is taken whole in the first step, and whatever a plain loop goes through.  So many
   results may then be claimed, by next() and by anext(), each of which has one as
   soon as it has asked. */

#ifndef GATEDCORO_AS_COMPLETED_H
#define GATEDCORO_AS_COMPLETED_H

#include "surface/awaitables.h"
#include "surface/completed_tasks.h"
#include "surface/stream.h"

#define NOT_COUNTED (-1)

typedef struct {
    StreamObject stream;
    bool takes_whole;
    bool has_timeout;
    double timeout;   /* seconds */
    Py_ssize_t count; /* taken whole: how many they are; or NOT_COUNTED */
    Py_ssize_t claimed;
} AsCompletedObject;

static inline AsCompletedObject *
AsCompletedObject_CAST(PyObject *op)
{
    return (AsCompletedObject *)op;
}

/*** Arguments ***/

/* `timeout`: a number of seconds, or None: `*is_given` is false then.  -1 with an
   exception.  Runs Python code. */
static int
parse_timeout(PyObject *value, bool *is_given, double *seconds)
{
    *is_given = value != NULL && value != Py_None;
    *seconds = 0.0;
    if (!*is_given) {
        return 0;
    }
    bool is_number = PyNumber_Check(value);
    *seconds = is_number ? PyFloat_AsDouble(value) : 0.0;
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    if (PyErr_Occurred() || !is_number) { /* a complex number, say */
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError,
                     "timeout must be a number of seconds or None, not %R "
                     "(%s)",
                     value, Py_TYPE(value)->tp_name);
        return -1;
    }
    if (*seconds != *seconds) {
        PyErr_Format(PyExc_ValueError,
                     "timeout must be a number of seconds or None, not %R",
                     value);
        return -1;
    }
    return 0;
}

/*** Claims ***/

/* Is there a result for one more?  Then it is claimed. */
static bool
as_completed_claim(AsCompletedObject *self)
{
    if (self->count != NOT_COUNTED && self->claimed >= self->count) {
        return false;
    }
    self->claimed++;
    return true;
}

/* Who has claimed one goes without it. */
static void
as_completed_give_back(AsCompletedObject *self)
{
    assert(self->claimed > 0);
    self->claimed--;
}

/*** Opening ***/

/* Will all of the iterable be taken in the first step? */
static bool
takes_whole(core_state *state, const AsCompletedObject *self,
            PyObject *iterable)
{
    return self->takes_whole
           || (!is_async_iterable(state, iterable)
               && has_method(iterable, state->str_dunder_len));
}

static PyObject *
as_completed_new_results(core_state *state, StreamObject *stream,
                         PyObject *iterable, const Sink **sink)
{
    *sink = &completed_tasks_sink;
    AsCompletedObject *self = (AsCompletedObject *)stream;
    Window window = stream->window;
    if (takes_whole(state, self, iterable)) {
        window = (Window){PY_SSIZE_T_MAX, PY_SSIZE_T_MAX};
    }
    return completed_tasks_new(state, &window, stream->loop);
}

/* All that is in an iterable (stolen), as a hidden list: new reference.  NULL on
   error: every coroutine that it gave is closed.  Runs Python code. */
static PyObject *
list_of_awaitables(core_state *state, PyObject *iterable)
{
    PyObject *list = hidden_list_new(NULL, 0);
    PyObject *iterator = list == NULL ? NULL : PyObject_GetIter(iterable);
    PyObject *item = NULL;
    int status = iterator == NULL ? -1 : 0;
    while (status == 0 && (item = PyIter_Next(iterator)) != NULL) {
        status = PyList_Append(list, item);
        if (status < 0) {
            close_unstarted(state, item);
        }
        Py_DECREF(item);
    }
    if (PyErr_Occurred() && list != NULL) {
        close_items(state, list);
        PyObject *raised = fetch_exception();
        Py_CLEAR(list);
        restore_exception(raised);
    }
    PyObject *raised = fetch_exception();
    Py_XDECREF(iterator);
    Py_DECREF(iterable);
    restore_exception(raised);
    return list;
}

/* A source of all that is in an iterable (stolen), each of it once.  Futures that
   would start in the first pass are watched from the first step on, as by
   asyncio.as_completed.  -1 on error: every coroutine in it is closed.
   Runs Python code. */
static int
as_completed_take_whole(core_state *state, AsCompletedObject *self,
                        PyObject *iterable, GatheringParts *parts)
{
    PyObject *list = list_of_awaitables(state, iterable);
    if (list == NULL) {
        return -1;
    }
    Awaitables awaitables = {.loop = Py_NewRef(self->stream.loop)};
    Py_ssize_t most = parts->limit.gates != NULL ? 0 : parts->limit.count;
    int status = sort_out_awaitables(state, list, most, &awaitables);
    if (status < 0) {
        close_items(state, list);
    }
    else {
        self->count = PyList_GET_SIZE(awaitables.list);
        self->stream.futures = awaitables.futures;
        parts->source = source_of_list(awaitables.list, ITEM_HANDED_OUT);
    }
    PyObject *raised = fetch_exception();
    awaitables_clear(&awaitables);
    Py_DECREF(list);
    restore_exception(raised);
    return status;
}

/* Runs Python code. */
static int
as_completed_open_source(core_state *state, StreamObject *stream,
                         PyObject *iterable, GatheringParts *parts)
{
    AsCompletedObject *self = (AsCompletedObject *)stream;
    if (!AS_COMPLETED_CHECKS_AT_ONCE
        && check_iterable(state, iterable, "aws") < 0) {
        Py_DECREF(iterable); /* nothing of it has run */
        return -1;
    }
    if (self->takes_whole && is_async_iterable(state, iterable)
        && !has_method(iterable, state->str_dunder_iter)) {
        PyErr_SetString(PyExc_TypeError,
                        "aws is an async iterable: only 'async for' can "
                        "iterate over it");
        Py_DECREF(iterable);
        return -1;
    }
    if (takes_whole(state, self, iterable)) {
        return as_completed_take_whole(state, self, iterable, parts);
    }
    if (source_open(state, &parts->source, iterable, NULL) < 0) {
        return -1;
    }
    parts->source.item_kind = ITEM_HANDED_OUT;
    return 0;
}

/*** The timeout ***/

/* Runs Python code. */
static PyObject *
as_completed_timed_out(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *gathering = GatheringObject_CAST(op);
    if (gathering->receiver != NULL) { /* else among what is collected */
        CompletedTasksObject *tasks =
            CompletedTasksObject_CAST(gathering->receiver);
        Py_CLEAR(tasks->timer);
        if (gathering_is_undecided(gathering)) {
            tasks->end = ENDS_TIMED_OUT;
        }
        if (gathering_time_out(state_of(op), gathering) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef as_completed_timed_out_def = {
    "timed_out", as_completed_timed_out, METH_NOARGS, NULL};

/* Has the loop call it when time is up.  -1 on error.  Runs Python code. */
static int
as_completed_begun(core_state *Py_UNUSED(state), StreamObject *stream)
{
    AsCompletedObject *self = (AsCompletedObject *)stream;
    if (!self->has_timeout || !stream_goes_on(stream)) {
        return 0;
    }
    PyObject *timer = gathering_call_later(stream->gathering, self->timeout,
                                           &as_completed_timed_out_def);
    if (timer == NULL) {
        return -1;
    }
    CompletedTasksObject *tasks =
        CompletedTasksObject_CAST((PyObject *)stream->results);
    tasks->timer = timer;
    if (!stream_goes_on(stream)) { /* the loop may be anybody's */
        completed_tasks_stop_timer(tasks);
    }
    return 0;
}

/*** Making ***/

/* Closes what has never been begun: a generator, or each coroutine among what has a
   length.  Nothing is done with what would have been refused.  Runs Python code. */
static int
as_completed_close_iterable(core_state *state, PyObject *iterable)
{
    if (!AS_COMPLETED_CHECKS_AT_ONCE
        && check_iterable(state, iterable, "aws") < 0) {
        bool is_refused = PyErr_ExceptionMatches(PyExc_TypeError);
        PyObject *raised = fetch_exception();
        Py_DECREF(iterable);
        if (is_refused) {
            Py_DECREF(raised);
            return 0;
        }
        restore_exception(raised);
        return -1;
    }
    if (is_async_iterable(state, iterable)
        || !has_method(iterable, state->str_dunder_len)) {
        return source_close_iterator(state, iterable);
    }
    PyObject *list = list_of_awaitables(state, iterable);
    if (list == NULL) {
        return -1;
    }
    close_items(state, list);
    Py_DECREF(list);
    return 0;
}

static const StreamKind as_completed_kind = {
    .anext_name = "AsCompleted.__anext__",
    .aenter_name = "AsCompleted.__aenter__",
    .aexit_name = "AsCompleted.__aexit__",
    .aclose_name = "AsCompleted.aclose",
    .new_results = as_completed_new_results,
    .leave_results = completed_tasks_leave,
    .open_source = as_completed_open_source,
    .begun = as_completed_begun,
    .close_iterable = as_completed_close_iterable,
    .warns = false,
};

/* Of arguments that are in order: new reference. */
static AsCompletedObject *
as_completed_new(core_state *state, PyObject *iterable, const Limit *limit)
{
    Window window = window_of(limit, false, 0);
    AsCompletedObject *self = (AsCompletedObject *)stream_new(
        state->as_completed_type, &as_completed_kind, iterable, limit, &window,
        false, true);
    if (self != NULL) {
        self->count = NOT_COUNTED;
    }
    return self;
}

#endif /* GATEDCORO_AS_COMPLETED_H */
