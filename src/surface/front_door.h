/* The front doors: how a call becomes a gathering.

   gather() opens it in the call and returns the outer future.  The others
   return a FrontDoor: a coroutine that opens it in its first step and then
   waits on the outer future.

      first step   check the arguments, open the gathering, wait
      throw/close  cancel what runs, close the queue, wait for nobody
      resumed      hand the outer future's outcome over */

#ifndef GATEDCORO_FRONT_DOOR_H
#define GATEDCORO_FRONT_DOOR_H

#include "surface/arguments.h"
#include "coroutines/coroutine_type.h"
#include "base/stock.h"
#include "engine/watcher.h"
#include "engine/worker.h"

typedef enum {
    DOOR_GATHER_WITH_CONCURRENCY,
    DOOR_RUN_ALL,
    DOOR_CONSTRAINED_EXECUTION,
} DoorKind;

/*** Opening ***/

/* Is that asyncio.BaseEventLoop.create_task, and does it make Tasks where it
   always did?  1, 0, or -1 on error. */
static int
create_task_is_stock(core_state *state, PyObject *function)
{
    int intact = stock_is_intact(&state->create_task, function);
    if (intact <= 0) {
        return intact;
    }
    PyObject *tasks = PyDict_GetItemWithError(PyFunction_GET_GLOBALS(function),
                                              state->str_tasks);
    if (tasks == NULL && PyErr_Occurred()) {
        return -1;
    }
    return tasks == state->asyncio_tasks;
}

/* Does the loop make its Tasks as asyncio does?  Then ours may take their
   place.  1, 0, or -1 on error. */
static int
loop_makes_stock_tasks(core_state *state, PyObject *loop)
{
    /* nest_asyncio, for one, puts the Python class there. */
    PyObject *task_type;
    if (lookup_attribute(state->asyncio_tasks, state->str_task, &task_type)
        < 0) {
        return -1;
    }
    Py_XDECREF(task_type);
    if (task_type != (PyObject *)state->task_base) {
        return 0;
    }
    PyObject *create_task = PyObject_GetAttr(loop, state->str_create_task);
    if (create_task == NULL) {
        return -1;
    }
    int stock =
        PyMethod_Check(create_task)
            ? create_task_is_stock(state, PyMethod_GET_FUNCTION(create_task))
            : 0;
    Py_DECREF(create_task);
    if (stock < 0) {
        return -1;
    }
    if (!stock) {
        /* uvloop makes asyncio's own Tasks, in Cython. */
        PyObject *mro = Py_TYPE(loop)->tp_mro;
        Py_ssize_t size = PyTuple_GET_SIZE(mro);
        for (Py_ssize_t i = 0; i < size && !stock; i++) {
            PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
            stock = strcmp(type->tp_name, "uvloop.loop.Loop") == 0
                    && _PyType_Lookup(type, state->str_create_task)
                           == _PyType_Lookup(Py_TYPE(loop),
                                             state->str_create_task);
        }
        if (!stock) {
            return 0;
        }
    }
    PyObject *factory =
        PyObject_CallMethodNoArgs(loop, state->str_get_task_factory);
    if (factory == NULL) {
        return -1;
    }
    Py_DECREF(factory);
    return factory == Py_None;
}

/* Decides where Tasks come from. */
static int
gathering_choose_tasks(core_state *state, GatheringObject *gathering)
{
    int own = loop_makes_stock_tasks(state, gathering->loop);
    if (own < 0) {
        return -1;
    }
    gathering->own_tasks = own;
    if (own && state->reuse_works && state->reuse_wanted) {
        PyObject *debug =
            PyObject_CallMethodNoArgs(gathering->loop, state->str_get_debug);
        int truth = debug == NULL ? -1 : PyObject_IsTrue(debug);
        Py_XDECREF(debug);
        if (truth < 0) {
            return -1;
        }
        gathering->reuse_tasks = !truth;
    }
    return 0;
}

/* Is the Future done, where asyncio.gather asks?  1, 0, or -1 on error. */
static int
watched_future_is_done(core_state *state, PyObject *future)
{
    if (!GATHER_TAKES_DONE_FUTURES_AT_ONCE) {
        return 0;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(future, state->str_done);
    int is_done = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return is_done;
}

/* Takes the first `count` items, which are Futures, as they are.  Theirs may be
   any code: a Future that fails in the middle of this closes the queue, and
   those behind it are left alone, as what is queued. */
static int
gathering_watch_futures(core_state *state, GatheringObject *gathering,
                        Py_ssize_t count)
{
    int status = -1;
    PyObject *done = PyList_New(0); /* callback, future, callback, ... */
    if (done == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count && gathering->queue == QUEUE_OPEN; i++) {
        PyObject *future = gathering_pop_item(gathering);
        gathering->item_taken = true;
        PyObject *callback = watcher_new(state, gathering, future, i);
        int added = -1;
        if (callback != NULL) {
            int is_done = watched_future_is_done(state, future);
            if (is_done > 0) {
                added = PyList_Append(done, callback) < 0
                                || PyList_Append(done, future) < 0
                            ? -1
                            : 0;
            }
            else if (is_done == 0) {
                added = call_method_for_effect(
                    future, state->str_add_done_callback, callback);
            }
            if (added < 0) {
                watcher_give_up(callback);
            }
            Py_DECREF(callback);
        }
        gathering->item_taken = false;
        Py_DECREF(future);
        if (added < 0) {
            goto done;
        }
    }
    if (gathering->queue == QUEUE_OPEN && !gathering_list_goes_on(gathering)
        && gathering_end_queue(gathering, QUEUE_EXHAUSTED) < 0) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(done); i += 2) {
        PyObject *ignored = PyObject_CallOneArg(PyList_GET_ITEM(done, i),
                                                PyList_GET_ITEM(done, i + 1));
        if (ignored == NULL) {
            goto done;
        }
        Py_DECREF(ignored);
    }
    status = 0;
done:
    Py_DECREF(done);
    return status;
}

/* Notes the current Task of the running loop, if there is one: it will be shown
   as the one that awaits the items (3.14+).  Whatever stands in for asyncio's
   functions at the moment is used. */
static int
gathering_note_awaiter(core_state *state, GatheringObject *gathering)
{
    if (!HAS_AWAITED_BY) {
        return 0;
    }
    PyObject *task = PyObject_CallMethodNoArgs(state->asyncio_tasks,
                                               state->str_current_task);
    if (task == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)
            || PyErr_ExceptionMatches(PyExc_MemoryError)) {
            return -1;
        }
        PyErr_Clear(); /* no running loop, or nothing that could say so */
        return 0;
    }
    if (task == Py_None) {
        Py_DECREF(task);
        return 0;
    }
    PyObject *add, *discard = NULL;
    int status = lookup_attribute(state->asyncio_futures,
                                  state->str_future_add_to_awaited_by, &add);
    if (status == 1) {
        status = lookup_attribute(state->asyncio_futures,
                                  state->str_future_discard_from_awaited_by,
                                  &discard);
    }
    if (status == 1 && PyCallable_Check(add) && PyCallable_Check(discard)) {
        gathering->awaiter = task;
        gathering->add_awaited_by = add;
        gathering->discard_awaited_by = discard;
        return 0;
    }
    Py_DECREF(task);
    Py_XDECREF(add);
    Py_XDECREF(discard);
    return status < 0 ? -1 : 0;
}

/* Notes who calls, for the Tasks that somebody else's code will make. */
static int
gathering_note_parent(core_state *state, GatheringObject *gathering)
{
    if (gathering->own_tasks) {
        return 0;
    }
    gathering->parent = current_task_of(state, gathering->loop);
    return gathering->parent == NULL ? -1 : 0;
}

/* What a gathering is opened with (all borrowed). */
typedef struct {
    PyObject *loop;
    PyObject *list;   /* items, hidden from the garbage collector */
    PyObject *source; /* of callables (see GatheringObject), not items */
    PyObject *source_context;
    PyObject *positions; /* see Awaitables */
    Py_ssize_t futures; /* so many items are Futures to be taken as they are */
    Limit limit;
    bool return_exceptions;
    bool cancel_on_error;
    bool as_asyncio_gather; /* what are awaitables? */
    bool returns_future;    /* nobody waits yet */
} Opening;

static int
gathering_begin(core_state *state, GatheringObject *gathering,
                const Opening *opening)
{
    gathering->limit = opening->limit.count;
    gathering->gate = Py_XNewRef(opening->limit.gate);
    gathering->return_exceptions = opening->return_exceptions;
    gathering->cancel_on_error = opening->cancel_on_error;
    gathering->as_asyncio_gather = opening->as_asyncio_gather;
    gathering->positions = Py_XNewRef(opening->positions);
    if (opening->source != NULL) {
        gathering->source_context = Py_NewRef(opening->source_context);
        gathering->source = Py_NewRef(opening->source);
        gathering->calls = true;
        gathering->queue = QUEUE_OPEN;
    }
    if (gathering_choose_tasks(state, gathering) < 0
        || gathering_note_parent(state, gathering) < 0
        || gathering_note_awaiter(state, gathering) < 0) {
        return -1;
    }
    if (opening->futures > 0
        && gathering_watch_futures(state, gathering, opening->futures) < 0) {
        return -1;
    }
    /* Tasks of the loop start a turn after they are made, ours at once. */
    int status = gathering->own_tasks ? gathering_schedule_pump(gathering)
                                      : gathering_pump(gathering);
    if (status == 0 && opening->returns_future) {
        status = gathering_keep_queue(gathering);
    }
    if (status == 0) {
        status = gathering_settle_if_complete(gathering); /* no items */
    }
    return status;
}

/* Opens a gathering, everything being checked.  Returns the outer future, or
   NULL: every item is closed then. */
static PyObject *
gathering_open(core_state *state, const Opening *opening)
{
    GatheringObject *gathering =
        gathering_new(state, opening->loop, opening->list);
    if (gathering == NULL) {
        close_items(state, opening->list);
        return NULL;
    }
    PyObject *outer = Py_NewRef(gathering->outer);
    if (gathering_begin(state, gathering, opening) < 0) {
        gathering_abandon(state, outer);
        Py_CLEAR(outer);
    }
    Py_DECREF(gathering);
    return outer;
}

/*** gather ***/

static const char *const gather_names[] = {
    "limit",
    "return_exceptions",
    "cancel_on_error",
};

static const Signature gather_signature = {
    .function = "gather",
    .names = gather_names,
    .positional = 0,
    .total = 3,
    .required = 0,
    .varargs = true,
};

/* Opens a gathering of awaitables as asyncio.gather takes them.  `loop` is
   NULL or the loop on which they must be.  Every item is closed on failure. */
static PyObject *
open_awaitables(core_state *state, PyObject *loop, PyObject *list,
                Opening *opening)
{
    Awaitables awaitables = {.loop = Py_XNewRef(loop)};
    bool unlimited =
        opening->limit.count == NO_LIMIT && opening->limit.gate == NULL;
    PyObject *outer = NULL;
    if (sort_out_awaitables(state, list, unlimited, &awaitables) < 0) {
        close_items(state, list);
    }
    else {
        opening->loop = awaitables.loop;
        opening->list = awaitables.list;
        opening->positions = awaitables.positions;
        opening->futures = awaitables.futures;
        opening->as_asyncio_gather = true;
        outer = gathering_open(state, opening);
    }
    awaitables_clear(&awaitables);
    return outer;
}

/* What asyncio.gather() returns: a future that is done already. */
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

static PyObject *
gather_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *list = hidden_list(args, nargs);
    if (list == NULL) {
        close_arguments(state, args, nargs);
        return NULL;
    }
    PyObject *values[3];
    PyObject *outer = NULL;
    PyObject *loop = NULL;
    Opening opening = {.returns_future = true};
    if (bind_arguments(&gather_signature, args, nargs, kwnames, values) < 0
        || parse_limit(state, values[0], "limit", &opening.limit) < 0
        || parse_flag(values[1], false, &opening.return_exceptions) < 0
        || parse_flag(values[2], false, &opening.cancel_on_error) < 0) {
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
    Py_DECREF(list);
    return outer;
}

/*** The coroutines ***/

typedef struct {
    CoroutineObject base;
    DoorKind door;
    PyObject *limit; /* as given */
    PyObject *items; /* hidden list, or an iterable of callables */
    bool return_exceptions;
    bool cancel_on_error;
    PyObject *outer; /* while it waits */
} FrontDoorObject;

static inline FrontDoorObject *
FrontDoorObject_CAST(PyObject *op)
{
    return (FrontDoorObject *)op;
}

/* The first step of gather_with_concurrency(): returns the outer future. */
static PyObject *
open_gather_with_concurrency(core_state *state, PyObject *n, PyObject *list)
{
    Opening opening = {.list = list};
    PyObject *loop = NULL;
    if (parse_n(n, PyList_GET_SIZE(list), &opening.limit) == 0) {
        loop = PyObject_CallNoArgs(state->get_running_loop);
    }
    if (loop == NULL) {
        close_items(state, list);
        return NULL;
    }
    PyObject *outer;
    if (opening.limit.count == NO_LIMIT) {
        outer = open_awaitables(state, loop, list, &opening);
    }
    else {
        opening.loop = loop;
        outer = gathering_open(state, &opening);
    }
    Py_DECREF(loop);
    return outer;
}

/* iter(callables) in `context`: new reference.  `callables` is stolen, and goes
   there, too. */
static PyObject *
open_source(PyObject *callables, PyObject *context)
{
    PyObject *source = NULL;
    if (PyContext_Enter(context) == 0) {
        source = source_is_indexed(callables) ? Py_NewRef(callables)
                                              : PyObject_GetIter(callables);
        PyObject *raised = source == NULL ? fetch_exception() : NULL;
        Py_CLEAR(callables);
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable(context);
        }
        if (raised != NULL) {
            raise_exception(raised);
        }
    }
    Py_XDECREF(callables);
    return source;
}

/* The first step of run_all() and constrained_execution().  `callables` is
   stolen. */
static PyObject *
open_calls(core_state *state, FrontDoorObject *self, PyObject *callables)
{
    Opening opening = {
        .return_exceptions = self->return_exceptions,
        .cancel_on_error = self->cancel_on_error,
    };
    const char *name =
        self->door == DOOR_CONSTRAINED_EXECUTION ? "max_runs" : "limit";
    PyObject *outer = NULL;
    if (parse_limit(state, self->limit, name, &opening.limit) < 0) {
        goto done;
    }
    opening.loop = PyObject_CallNoArgs(state->get_running_loop);
    opening.list = opening.loop == NULL ? NULL : hidden_list(NULL, 0);
    opening.source_context =
        opening.list == NULL ? NULL : PyContext_CopyCurrent();
    if (opening.source_context == NULL) {
        goto done;
    }
    opening.source = open_source(callables, opening.source_context);
    callables = NULL;
    if (opening.source != NULL) {
        outer = gathering_open(state, &opening);
    }
done:
    Py_XDECREF(callables); /* nothing of it has run */
    drop_source(&opening.source, &opening.source_context);
    Py_XDECREF(opening.loop);
    Py_XDECREF(opening.list);
    return outer;
}

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
   is cancelled. */
static PySendResult
front_door_fail(core_state *state, FrontDoorObject *self)
{
    PyObject *outer = self->outer;
    self->outer = NULL;
    gathering_abandon(state, outer);
    Py_DECREF(outer);
    return PYGEN_ERROR;
}

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
            raised = gathering_lost_outer(outer);
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
            pending = gathering_lost_outer(outer) < 0 ? -1 : 0;
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
    if (raised != NULL) {
        raise_exception(raised);
    }
    return 0;
}

static PyObject *
front_door_name(CoroutineObject *op)
{
    static const char *const names[] = {
        [DOOR_GATHER_WITH_CONCURRENCY] = "gather_with_concurrency",
        [DOOR_RUN_ALL] = "run_all",
        [DOOR_CONSTRAINED_EXECUTION] = "constrained_execution",
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

/* `items` is stolen, also on failure. */
static PyObject *
front_door_new(core_state *state, DoorKind door, PyObject *limit,
               PyObject *items)
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
    return (PyObject *)self;
}

static const char *const gather_with_concurrency_names[] = {"n"};

static const Signature gather_with_concurrency_signature = {
    .function = "gather_with_concurrency",
    .names = gather_with_concurrency_names,
    .positional = 1,
    .total = 1,
    .required = 1,
    .varargs = true,
};

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
    PyObject *list =
        nargs > 1 ? hidden_list(args + 1, nargs - 1) : hidden_list(NULL, 0);
    PyObject *op =
        front_door_new(state, DOOR_GATHER_WITH_CONCURRENCY, n, list);
    if (op == NULL && nargs > 1) {
        close_arguments(state, args + 1, nargs - 1);
    }
    return op;
}

static const char *const run_all_names[] = {
    "async_fns",
    "limit",
    "return_exceptions",
    "cancel_on_error",
};

static const Signature run_all_signature = {
    .function = "run_all",
    .names = run_all_names,
    .positional = 1,
    .total = 4,
    .required = 1,
};

static PyObject *
run_all_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    PyObject *values[4];
    bool return_exceptions, cancel_on_error;
    if (bind_arguments(&run_all_signature, args, nargs, kwnames, values) < 0
        || parse_flag(values[2], false, &return_exceptions) < 0
        || parse_flag(values[3], true, &cancel_on_error) < 0) {
        return NULL;
    }
    PyObject *op = front_door_new(state, DOOR_RUN_ALL,
                                  values[1] == NULL ? Py_None : values[1],
                                  Py_NewRef(values[0]));
    if (op != NULL) {
        FrontDoorObject_CAST(op)->return_exceptions = return_exceptions;
        FrontDoorObject_CAST(op)->cancel_on_error = cancel_on_error;
    }
    return op;
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
                          Py_NewRef(values[0]));
}

static const char *const gated_coro_names[] = {"semaphore", "coro"};

static const Signature gated_coro_signature = {
    .function = "gated_coro",
    .names = gated_coro_names,
    .positional = 2,
    .total = 2,
    .required = 2,
};

static PyObject *
gated_coro_call(core_state *state, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *values[2];
    if (bind_arguments(&gated_coro_signature, args, nargs, kwnames, values)
        < 0) {
        return NULL;
    }
    PyObject *op = gated_new(state, values[0], values[1], ITEM_AWAITABLE,
                             DRIVE_BY_AWAIT, 0);
    if (op == NULL) {
        close_unstarted(state, values[1]);
    }
    return op;
}

/*** Lifecycle ***/

static int
front_door_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    FrontDoorObject *self = FrontDoorObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->limit);
    if (self->door != DOOR_GATHER_WITH_CONCURRENCY) {
        Py_VISIT(self->items);
    }
    else {
        int stop = gathering_visit_list(self->items, visit, arg);
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
