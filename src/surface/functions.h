/* The public functions: what each is called with, and what it does with that.

   gather() opens a gathering in the call and returns its future; the others return
   a coroutine. */

#ifndef GATEDCORO_FUNCTIONS_H
#define GATEDCORO_FUNCTIONS_H

#include "coroutines/gated.h"
#include "surface/arguments.h"
#include "surface/as_completed_type.h"
#include "surface/front_door.h"
#include "surface/stream_type.h"

/* `cancel_on_error`.  Runs Python code. */
static int
parse_error_stops(PyObject *value, bool by_default, ErrorStops *stops)
{
    bool cancels;
    if (parse_flag(value, by_default, &cancels) < 0) {
        return -1;
    }
    *stops = cancels ? STOPS_ALL : STOPS_NOTHING;
    return 0;
}

/*** gather ***/

static const char *const gather_names[] = {
    "limit",
    "return_exceptions",
    "cancel_on_error",
    "progress",
};

static const Signature gather_signature = {
    .function = "gather",
    .names = gather_names,
    .positional = 0,
    .total = 4,
    .required = 0,
    .varargs = true,
};

/* What asyncio.gather() returns: a future that is done already.
   Runs Python code. */
static PyObject *
gather_nothing(core_state *state)
{
    PyObject *loop = PyObject_CallNoArgs(state->get_event_loop);
    if (loop == NULL) {
        return NULL;
    }
    PyObject *future =
        PyObject_CallMethodNoArgs(loop, state->str_create_future);
    PyObject *results = PyList_New(0);
    if (future != NULL
        && (results == NULL
            || call_method_for_effect(future, state->str_set_result, results)
                   < 0)) {
        Py_CLEAR(future);
    }
    Py_DECREF(loop);
    Py_XDECREF(results);
    return future;
}

/* Runs Python code. */
static PyObject *
gather_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *list = hidden_list_new(args, nargs);
    if (list == NULL) {
        close_arguments(state, args, nargs);
        return NULL;
    }
    PyObject *values[4];
    PyObject *outer = NULL;
    PyObject *loop = NULL;
    Opening opening = {.returns_future = true};
    ErrorPolicy *policy = &opening.parts.policy;
    if (bind_arguments(&gather_signature, args, nargs, kwnames, values) < 0
        || parse_limit(state, values[0], "limit", &opening.parts.limit) < 0
        || parse_flag(values[1], false, &policy->return_exceptions) < 0
        || parse_error_stops(values[2], false, &policy->stops) < 0
        || parse_progress(values[3], &opening.progress) < 0) {
        close_items(state, list);
    }
    else if (nargs == 0) {
        outer = gather_nothing(state);
    }
    else {
        if (HAS_AWAITED_BY) { /* where asyncio.gather asks for it first */
            loop = PyObject_CallNoArgs(state->get_running_loop_or_none);
            if (loop == Py_None) {
                Py_CLEAR(loop);
            }
        }
        outer = open_awaitables(state, loop, list, &opening);
        Py_XDECREF(loop);
    }
    limit_clear(&opening.parts.limit);
    Py_XDECREF(opening.progress);
    Py_DECREF(list);
    return outer;
}

/*** amap ***/

static const char *const amap_names[] = {
    "async_fn",   "iterable",          "limit",    "ordered",
    "buffersize", "return_exceptions", "progress",
};

static const Signature amap_signature = {
    .function = "amap",
    .names = amap_names,
    .positional = 2,
    .total = 7,
    .required = 2,
};

/* Runs Python code. */
static PyObject *
amap_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    PyObject *values[7];
    PyObject *progress;
    Limit limit = {0};
    bool is_ordered, return_exceptions, is_given;
    Py_ssize_t buffersize;
    if (bind_arguments(&amap_signature, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    if (!PyCallable_Check(values[0])) {
        PyErr_Format(PyExc_TypeError, "async_fn must be callable, not %R (%s)",
                     values[0], Py_TYPE(values[0])->tp_name);
        return NULL;
    }
    if (check_iterable(state, values[1], "iterable") < 0
        || parse_limit(state, values[2], "limit", &limit) < 0
        || parse_buffersize(values[4], &is_given, &buffersize) < 0
        || parse_flag(values[3], true, &is_ordered) < 0
        || parse_flag(values[5], false, &return_exceptions) < 0
        || parse_progress(values[6], &progress) < 0) {
        limit_clear(&limit);
        return NULL;
    }
    Window window = window_of(&limit, is_given, buffersize);
    StreamObject *stream =
        stream_new(state->stream_type, &stream_kind, values[1], &limit,
                   &window, is_ordered, return_exceptions);
    limit_clear(&limit);
    if (stream != NULL) {
        stream->function = Py_NewRef(values[0]);
        stream->progress = Py_XNewRef(progress);
    }
    Py_XDECREF(progress);
    return (PyObject *)stream;
}

/*** as_completed ***/

static const char *const as_completed_names[] = {"aws", "limit", "timeout"};

static const Signature as_completed_signature = {
    .function = "as_completed",
    .names = as_completed_names,
    .positional = 1,
    .total = 3,
    .required = 1,
};

/* Runs Python code. */
static PyObject *
as_completed_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyObject *values[3];
    Limit limit = {0};
    bool has_timeout;
    double timeout;
    if (bind_arguments(&as_completed_signature, args, nargs, kwnames, values)
            < 0
        || (AS_COMPLETED_CHECKS_AT_ONCE
            && check_iterable(state, values[0], "aws") < 0)
        || parse_limit(state, values[1], "limit", &limit) < 0
        || parse_timeout(values[2], &has_timeout, &timeout) < 0) {
        limit_clear(&limit);
        return NULL;
    }
    AsCompletedObject *self = as_completed_new(state, values[0], &limit);
    limit_clear(&limit);
    if (self != NULL) {
        self->has_timeout = has_timeout;
        self->timeout = timeout;
    }
    return (PyObject *)self;
}

/*** The coroutines ***/

static const char *const gather_with_concurrency_names[] = {"n"};

static const Signature gather_with_concurrency_signature = {
    .function = "gather_with_concurrency",
    .names = gather_with_concurrency_names,
    .positional = 1,
    .total = 1,
    .required = 1,
    .varargs = true,
};

/* Runs Python code. */
static PyObject *
gather_with_concurrency_call(core_state *state, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *n;
    if (bind_arguments(&gather_with_concurrency_signature, args, nargs,
                       kwnames, &n)
        < 0) {
        return NULL;
    }
    PyObject *list = nargs > 1 ? hidden_list_new(args + 1, nargs - 1)
                               : hidden_list_new(NULL, 0);
    PyObject *op = front_door_new(state, DOOR_GATHER_WITH_CONCURRENCY, n, list,
                                  NULL, NULL, (ErrorPolicy){0});
    if (op == NULL && nargs > 1) {
        close_arguments(state, args + 1, nargs - 1);
    }
    return op;
}

static const char *const run_all_names[] = {
    "async_fns", "limit", "return_exceptions", "cancel_on_error", "progress",
};

static const Signature run_all_signature = {
    .function = "run_all",
    .names = run_all_names,
    .positional = 1,
    .total = 5,
    .required = 1,
};

/* Runs Python code. */
static PyObject *
run_all_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    PyObject *values[5];
    ErrorPolicy policy;
    if (bind_arguments(&run_all_signature, args, nargs, kwnames, values) < 0
        || parse_flag(values[2], false, &policy.return_exceptions) < 0
        || parse_error_stops(values[3], true, &policy.stops) < 0) {
        return NULL;
    }
    return front_door_new(state, DOOR_RUN_ALL,
                          values[1] == NULL ? Py_None : values[1],
                          Py_NewRef(values[0]), NULL, values[4], policy);
}

static const char *const constrained_execution_names[] = {
    "funcs",
    "max_runs",
};

static const Signature constrained_execution_signature = {
    .function = "constrained_execution",
    .names = constrained_execution_names,
    .positional = 2,
    .total = 2,
    .required = 2,
};

static PyObject *
constrained_execution_call(core_state *state, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *values[2];
    if (bind_arguments(&constrained_execution_signature, args, nargs, kwnames,
                       values)
        < 0) {
        return NULL;
    }
    return front_door_new(state, DOOR_CONSTRAINED_EXECUTION, values[1],
                          Py_NewRef(values[0]), NULL, NULL, (ErrorPolicy){0});
}

static const char *const gated_coro_names[] = {"semaphore", "coro"};

static const Signature gated_coro_signature = {
    .function = "gated_coro",
    .names = gated_coro_names,
    .positional = 2,
    .total = 2,
    .required = 2,
};

/* Runs Python code. */
static PyObject *
gated_coro_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *values[2];
    if (bind_arguments(&gated_coro_signature, args, nargs, kwnames, values)
        < 0) {
        return NULL;
    }
    PyObject *op = gated_new(state, values[0], values[1], NULL, ITEM_AWAITABLE,
                             DRIVE_BY_AWAIT, 0);
    if (op == NULL) {
        close_unstarted(state, values[1]);
    }
    return op;
}

#endif /* GATEDCORO_FUNCTIONS_H */
