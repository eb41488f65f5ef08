/* Front door: the coroutine that opens a gathering in its first step, and then
   waits on its future.

      first step   check the arguments, open the gathering, wait
      throw/close  cancel what runs, close the queue, wait for nobody
      resumed      hand the future's outcome over */

#ifndef GATEDCORO_FRONT_DOOR_H
#define GATEDCORO_FRONT_DOOR_H

#include "surface/arguments.h"
#include "surface/iterables.h"
#include "surface/opening.h"

typedef enum {
    DOOR_GATHER_WITH_CONCURRENCY,
    DOOR_RUN_ALL,
    DOOR_CONSTRAINED_EXECUTION,
    DOOR_AMAP, /* a Stream that is awaited */
} DoorKind;

typedef struct {
    CoroutineObject base;
    DoorKind door;
    PyObject *limit;    /* as given */
    PyObject *items;    /* hidden list, or an iterable, which may be async */
    PyObject *function; /* for which that has arguments; or NULL */
    PyObject *progress; /* as given, or NULL */
    ErrorPolicy policy;
    PyObject *outer; /* while it waits */
} FrontDoorObject;

static inline FrontDoorObject *
FrontDoorObject_CAST(PyObject *op)
{
    return (FrontDoorObject *)op;
}

/* The first step of gather_with_concurrency(): returns the outer future.
   Runs Python code. */
static PyObject *
open_gather_with_concurrency(core_state *state, PyObject *n, PyObject *list)
{
    Opening opening = {.list = list};
    PyObject *loop = NULL;
    if (parse_n(n, PyList_GET_SIZE(list), &opening.parts.limit) == 0) {
        loop = PyObject_CallNoArgs(state->get_running_loop);
    }
    if (loop == NULL) {
        close_items(state, list);
        return NULL;
    }
    PyObject *outer;
    if (limit_is_none(&opening.parts.limit)) {
        outer = open_awaitables(state, loop, list, &opening);
    }
    else {
        opening.parts.loop = loop;
        opening.parts.source = source_of_list(list, ITEM_AWAITABLE);
        outer = open_gathering(state, &opening);
    }
    Py_DECREF(loop);
    return outer;
}

/* The first step of the others.  `iterable` is stolen.  Runs Python code. */
static PyObject *
open_calls(core_state *state, FrontDoorObject *self, PyObject *iterable)
{
    Opening opening = {.parts.policy = self->policy};
    GatheringParts *parts = &opening.parts;
    bool is_recipe = self->door == DOOR_CONSTRAINED_EXECUTION;
    PyObject *outer = NULL;
    if (parse_limit(state, self->limit, is_recipe ? "max_runs" : "limit",
                    &parts->limit)
            < 0
        || check_iterable(state, iterable,
                          is_recipe                 ? "funcs"
                          : self->door == DOOR_AMAP ? "iterable"
                                                    : "async_fns")
               < 0
        || parse_progress(self->progress, &opening.progress) < 0) {
        Py_DECREF(iterable); /* nothing of it has run */
        limit_clear(&parts->limit);
        return NULL;
    }
    parts->loop = PyObject_CallNoArgs(state->get_running_loop);
    if (parts->loop != NULL
        && total_of(opening.progress, iterable, &opening.total) == 0) {
        opening.list = hidden_list_new(NULL, 0);
    }
    if (opening.list == NULL) {
        Py_DECREF(iterable);
    }
    else if (source_open(state, &parts->source, iterable, self->function)
             == 0) {
        outer = open_gathering(state, &opening);
    }
    Py_XDECREF(parts->loop);
    Py_XDECREF(opening.list);
    Py_XDECREF(opening.progress);
    limit_clear(&parts->limit);
    return outer;
}

/* Runs Python code. */
static PyObject *
front_door_open(core_state *state, FrontDoorObject *self)
{
    PyObject *items = self->items;
    self->items = NULL;
    if (self->door != DOOR_GATHER_WITH_CONCURRENCY) {
        return open_calls(state, self, items);
    }
    PyObject *outer = open_gather_with_concurrency(state, self->limit, items);
    Py_DECREF(items);
    return outer;
}

/* It does not wait any more, because of the exception being raised: what runs
   is cancelled.  Runs Python code. */
static PySendResult
front_door_fail(core_state *state, FrontDoorObject *self)
{
    PyObject *outer = self->outer;
    self->outer = NULL;
    outer_abandon(state, outer);
    Py_DECREF(outer);
    return PYGEN_ERROR;
}

/* Runs Python code. */
static PySendResult
front_door_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
                PyObject *exception, PyObject **result)
{
    FrontDoorObject *self = (FrontDoorObject *)op;
    core_state *state = state_of((PyObject *)op);
    bool resumed = self->outer != NULL;
    if (!resumed) {
        self->outer = front_door_open(state, self);
        if (self->outer == NULL) {
            return PYGEN_ERROR;
        }
    }
    PyObject *outer = self->outer;
    if (exception != NULL) {
        int raised = outer_fields(outer)->gathering == NULL
                         ? 0
                         : outer_has_raised(state, outer, exception);
        if (raised > 0) {
            raised = outer_lose(outer);
        }
        if (raised == 0) {
            raise_exception(Py_NewRef(exception));
        }
        return front_door_fail(state, self);
    }
    int pending = outer_fields(outer)->gathering != NULL;
    if (pending && resumed) {
        /* Somebody else may have set it. */
        pending = outer_is_pending(state, outer);
        if (pending == 0) {
            pending = outer_lose(outer) < 0 ? -1 : 0;
        }
        if (pending < 0) {
            return front_door_fail(state, self);
        }
    }
    if (pending) {
        /* As a Future does: whoever drives us takes its mark away. */
        PyObject *blocking =
            PyObject_GetAttr(outer, state->str_asyncio_future_blocking);
        Py_XDECREF(blocking);
        if (blocking != NULL && blocking != Py_False) {
            PyErr_SetString(PyExc_RuntimeError,
                            "await wasn't used with future");
        }
        if (blocking != Py_False
            || PyObject_SetAttr(outer, state->str_asyncio_future_blocking,
                                Py_True)
                   < 0) {
            return front_door_fail(state, self);
        }
        *result = Py_NewRef(outer);
        return PYGEN_NEXT;
    }
    self->outer = NULL;
    *result = PyObject_CallMethodNoArgs(outer, state->str_result);
    Py_DECREF(outer);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* Runs Python code. */
static int
front_door_discard(CoroutineObject *op, PyObject *Py_UNUSED(exception),
                   DiscardList *rest)
{
    FrontDoorObject *self = (FrontDoorObject *)op;
    core_state *state = state_of((PyObject *)op);
    PyObject *items = self->items;
    PyObject *raised = fetch_exception();
    self->items = NULL;
    if (self->door == DOOR_GATHER_WITH_CONCURRENCY) {
        Py_ssize_t size = PyList_GET_SIZE(items);
        for (Py_ssize_t i = 0; i < size; i++) {
            discard_given_up(state, PyList_GET_ITEM(items, i), false, rest);
        }
    }
    Py_DECREF(items);
    restore_exception(raised);
    return 0;
}

static PyObject *
front_door_name(CoroutineObject *op)
{
    static const char *const names[] = {
        [DOOR_GATHER_WITH_CONCURRENCY] = "gather_with_concurrency",
        [DOOR_RUN_ALL] = "run_all",
        [DOOR_CONSTRAINED_EXECUTION] = "constrained_execution",
        [DOOR_AMAP] = "amap",
    };
    return PyUnicode_InternFromString(names[((FrontDoorObject *)op)->door]);
}

static PyObject *
front_door_shown(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static PyObject *
front_door_awaited(CoroutineObject *op)
{
    return ((FrontDoorObject *)op)->outer;
}

static const CoroutineKind front_door_kind = {
    .step = front_door_step,
    .discard = front_door_discard,
    .name = front_door_name,
    .shown = front_door_shown,
    .awaited = front_door_awaited,
    .warns = true,
};

/* `items` is stolen, also on failure; `function` and `progress` may be NULL. */
static PyObject *
front_door_new(core_state *state, DoorKind door, PyObject *limit,
               PyObject *items, PyObject *function, PyObject *progress,
               ErrorPolicy policy)
{
    PyTypeObject *type = state->front_door_type;
    FrontDoorObject *self =
        items == NULL ? NULL : (FrontDoorObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(items);
        return NULL;
    }
    coroutine_init(&self->base, &front_door_kind);
    self->door = door;
    self->limit = Py_NewRef(limit);
    self->items = items;
    self->function = Py_XNewRef(function);
    self->progress = Py_XNewRef(progress);
    self->policy = policy;
    return (PyObject *)self;
}

/*** Lifecycle ***/

static int
front_door_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    FrontDoorObject *self = FrontDoorObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->limit);
    Py_VISIT(self->function);
    Py_VISIT(self->progress);
    if (self->door != DOOR_GATHER_WITH_CONCURRENCY) {
        Py_VISIT(self->items);
    }
    else {
        int stop = hidden_list_visit(self->items, visit, arg);
        if (stop != 0) {
            return stop;
        }
    }
    Py_VISIT(self->outer);
    return 0;
}

static int
front_door_tp_clear(PyObject *op)
{
    FrontDoorObject *self = FrontDoorObject_CAST(op);
    Py_CLEAR(self->limit);
    Py_CLEAR(self->function);
    Py_CLEAR(self->progress);
    Py_CLEAR(self->items);
    Py_CLEAR(self->outer);
    return 0;
}

static void
front_door_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, front_door_tp_clear);
}

static PyType_Slot front_door_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, front_door_tp_dealloc},
    {Py_tp_traverse, front_door_tp_traverse},
    {Py_tp_clear, front_door_tp_clear},
    {0, NULL},
};

static PyType_Spec front_door_spec = {
    .name = "gatedcoro._core.GatherCoroutine",
    .basicsize = sizeof(FrontDoorObject),
    .flags = COROUTINE_FLAGS,
    .slots = front_door_slots,
};

#endif /* GATEDCORO_FRONT_DOOR_H */
