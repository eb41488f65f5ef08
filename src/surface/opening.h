/* Opening: how a call that is in order becomes a gathering.

   It is decided where its Tasks come from; its future, its results and the
   gathering are made; Futures are taken as they are; and the first items start. */

#ifndef GATEDCORO_OPENING_H
#define GATEDCORO_OPENING_H

#include "base/stock.h"
#include "coroutines/current.h"
#include "engine/leaving.h"
#include "engine/runner.h"
#include "engine/telling.h"
#include "surface/awaitables.h"
#include "surface/results.h"

/*** Where Tasks come from ***/

/* Is that asyncio.BaseEventLoop.create_task, and does it make Tasks where it
   always did?  1, 0, or -1 on error.  Runs Python code. */
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
   place.  1, 0, or -1 on error.  Runs Python code. */
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

/* Decides where Tasks come from.  -1 on error.  Runs Python code. */
static int
choose_tasks(core_state *state, PyObject *loop, TaskOrigin *tasks)
{
    *tasks = TASKS_BY_LOOP;
    int own = loop_makes_stock_tasks(state, loop);
    if (own <= 0) {
        return own;
    }
    *tasks = TASKS_OWN;
    if (!state->reuse_works || !state->reuse_wanted) {
        return 0;
    }
    int truth = answer_of_method(loop, state->str_get_debug);
    if (truth == 0) {
        *tasks = TASKS_OWN_REUSED;
    }
    return truth < 0 ? -1 : 0;
}

/*** Futures ***/

/* Is the Future done, where asyncio.gather asks?  1, 0, or -1 on error.
   Runs Python code. */
static int
watched_future_is_done(core_state *state, GatheringObject *gathering,
                       PyObject *future)
{
    if (!GATHER_TAKES_DONE_FUTURES_AT_ONCE
        || gathering->source.item_kind == ITEM_HANDED_OUT) {
        return 0;
    }
    return answer_of_method(future, state->str_done);
}

/* Has the Future in hand called back when it is done.  If it is so already, the
   callback and the Future go to `done`: they are called later.
   Runs Python code. */
static int
watch_taken(core_state *state, GatheringObject *gathering, PyObject *done)
{
    PyObject *future = Py_NewRef(gathering->source.taken.item);
    PyObject *callback = watcher_new(state, gathering);
    int added = -1;
    if (callback == NULL) {
        PyObject *given_up = source_hand_over(&gathering->source);
        Py_DECREF(given_up);
    }
    else {
        int is_done = watched_future_is_done(state, gathering, future);
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
            watcher_let_go(callback);
        }
        Py_DECREF(callback);
    }
    Py_DECREF(future);
    return added;
}

/* Takes the first `count` items, which are Futures, as they are.  Theirs may be
   any code: a Future that fails in the middle of this closes the queue, and
   those behind it are left alone, as what is queued.  Runs Python code. */
static int
watch_futures(core_state *state, GatheringObject *gathering, Py_ssize_t count)
{
    Source *source = &gathering->source;
    int status = -1;
    PyObject *done = PyList_New(0); /* callback, future, callback, ... */
    if (done == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count && source->state == SOURCE_OPEN; i++) {
        (void)source_take(state, source); /* a list has it at once */
        if (gathering->sink->expect(gathering->receiver, source->taken.index)
            < 0) {
            source_drop_taken(state, source);
            goto done;
        }
        if (watch_taken(state, gathering, done) < 0) {
            goto done;
        }
    }
    if (source->state == SOURCE_OPEN && !source_list_goes_on(source)) {
        if (gathering_exhaust_queue(gathering) < 0) {
            goto done;
        }
        source_leave_list(source);
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

/*** Opening ***/

/* What a gathering is opened with. */
typedef struct {
    GatheringParts parts; /* but for its Tasks, and what it is to be told */
    PyObject *list;       /* for results; hidden; borrowed */
    PyObject *positions;  /* see Awaitables; borrowed */
    Py_ssize_t futures; /* so many items are Futures to be taken as they are */
    bool returns_future; /* nobody waits yet */
    PyObject *progress;  /* see parse_progress(); borrowed */
    Py_ssize_t total;    /* see total_of() */
} Opening;

/* How many elements there will be, where that is to be shown and known, else
   UNKNOWN_TOTAL.  -1 on error.  Runs Python code. */
static int
total_of(PyObject *progress, PyObject *iterable, Py_ssize_t *total)
{
    *total = progress == Py_True ? PyObject_LengthHint(iterable, UNKNOWN_TOTAL)
                                 : UNKNOWN_TOTAL;
    return *total < 0 && PyErr_Occurred() ? -1 : 0;
}

/* A gathering with its future, neither of which has begun anything: the future
   (new reference), or NULL: the source is as it was.  Runs Python code. */
static PyObject *
make_gathering(core_state *state, Opening *opening)
{
    GatheringParts *parts = &opening->parts;
    if (choose_tasks(state, parts->loop, &parts->tasks) < 0) {
        return NULL;
    }
    PyObject *outer = outer_new(state, parts->loop);
    PyObject *results = outer == NULL ? NULL
                                      : results_new(state, opening->list,
                                                    opening->positions, outer);
    GatheringObject *gathering = NULL;
    if (results != NULL) {
        parts->runner = &worker_runner;
        parts->sink = &results_sink;
        parts->receiver = results;
        gathering = gathering_new(state, parts);
        Py_DECREF(results);
    }
    if (gathering == NULL) {
        Py_XDECREF(outer);
        return NULL;
    }
    outer_fields(outer)->gathering = gathering;
    return outer;
}

/* Has the Task of the source made.  -1 on error.  Runs Python code. */
static int
begin_source(core_state *state, GatheringObject *gathering)
{
    PyObject *iteration = Py_NewRef(gathering->source.object);
    int status =
        gathering->source.task->begin(state, iteration, (PyObject *)gathering);
    if (status < 0) {
        gathering_release_kept(gathering);
    }
    PyObject *raised = fetch_exception();
    Py_DECREF(iteration);
    restore_exception(raised);
    return status;
}

/* Notes who calls, for the Tasks that somebody else's code will make.  -1 on an
   interrupt.  Runs Python code. */
static int
gathering_note_parent(core_state *state, GatheringObject *self)
{
    if (self->tasks != TASKS_BY_LOOP) {
        return 0;
    }
    self->parent = current_task_of(state, self->loop);
    return self->parent == NULL ? -1 : 0;
}

/* Runs Python code. */
static int
begin_gathering(core_state *state, GatheringObject *gathering,
                Py_ssize_t futures, bool keeps_queue)
{
    Source *source = &gathering->source;
    if (gathering_note_parent(state, gathering) < 0) {
        return -1;
    }
    if (futures > 0) {
        if (source->item_kind == ITEM_HANDED_OUT
            && gathering->tasks != TASKS_BY_LOOP
            && futures < PyList_GET_SIZE(source->object)
            && gathering_schedule_pump(gathering) < 0) {
            return -1; /* Futures that are done call back after the items start */
        }
        slice_begin(&gathering->slice);
        int watched = watch_futures(state, gathering, futures);
        slice_init(&gathering->slice); /* that was no pass */
        gathering_release_kept(gathering);
        if (watched < 0) {
            return -1;
        }
    }
    /* Tasks of the loop start a turn after they are made, ours at once. */
    int status = 1;
    if (source->kind == SOURCE_TASK) {
        status = begin_source(state, gathering);
    }
    if (status > 0) {
        status = gathering->tasks == TASKS_BY_LOOP
                     ? gathering_pump(gathering)
                     : gathering_schedule_pump(gathering);
    }
    if (status == 0 && keeps_queue) {
        status = gathering_keep_queue(gathering);
    }
    if (status == 0) {
        status = gathering_settle_if_complete(gathering); /* no items */
    }
    gathering_check(gathering);
    return status;
}

/* The source of a gathering that could not be made.  Runs Python code. */
static void
close_unopened(core_state *state, Source *source)
{
    PyObject *failure = source_close_all(state, source);
    if (failure != NULL) {
        raise_exception(failure);
        PyErr_WriteUnraisable(NULL);
    }
    Py_CLEAR(source->function);
}

/* The gathering of a Stream, whose results are its receiver, that has not begun
   anything: new reference.  NULL on error: the source is closed then.
   Runs Python code. */
static GatheringObject *
make_stream_gathering(core_state *state, GatheringParts *parts)
{
    GatheringObject *gathering = NULL;
    parts->runner = &worker_runner;
    if (choose_tasks(state, parts->loop, &parts->tasks) == 0) {
        if (parts->source.item_kind == ITEM_HANDED_OUT
            && parts->tasks == TASKS_OWN_REUSED) {
            parts->tasks = TASKS_OWN;
        }
        gathering = gathering_new(state, parts);
    }
    if (gathering != NULL && parts->source.item_kind == ITEM_HANDED_OUT
        && call_graph_open(state, &gathering->call_graph) < 0) {
        gathering->abandoned = true; /* it closes the source as it goes */
        PyObject *raised = fetch_exception();
        Py_DECREF(gathering);
        restore_exception(raised);
        return NULL;
    }
    if (gathering == NULL) {
        PyObject *raised = fetch_exception();
        close_unopened(state, &parts->source);
        restore_exception(raised);
    }
    return gathering;
}

/* Opens a gathering, everything being checked, and returns its future.  NULL on
   error: every item is closed, or is being closed, then.  Runs Python code. */
static PyObject *
open_gathering(core_state *state, Opening *opening)
{
    PyObject *outer = make_gathering(state, opening);
    if (outer == NULL) {
        PyObject *raised = fetch_exception();
        close_unopened(state, &opening->parts.source);
        restore_exception(raised);
        return NULL;
    }
    GatheringObject *gathering =
        (GatheringObject *)Py_NewRef(outer_fields(outer)->gathering);
    if (call_graph_open(state, &gathering->call_graph) < 0
        || gathering_open_progress(gathering, opening->progress,
                                   opening->total)
               < 0
        || begin_gathering(state, gathering, opening->futures,
                           opening->returns_future)
               < 0) {
        outer_abandon(state, outer);
        Py_CLEAR(outer);
    }
    Py_DECREF(gathering);
    return outer;
}

/* Opens a gathering of awaitables as asyncio.gather takes them.  `loop` is
   NULL or the loop on which they must be.  Every item is closed on failure.
   Runs Python code. */
static PyObject *
open_awaitables(core_state *state, PyObject *loop, PyObject *list,
                Opening *opening)
{
    Awaitables awaitables = {.loop = Py_XNewRef(loop)};
    Py_ssize_t most =
        limit_is_none(&opening->parts.limit) ? PY_SSIZE_T_MAX : 0;
    PyObject *outer = NULL;
    if (sort_out_awaitables(state, list, most, &awaitables) < 0) {
        close_items(state, list);
    }
    else {
        opening->parts.loop = awaitables.loop;
        opening->parts.source =
            source_of_list(awaitables.list, ITEM_GATHER_AWAITABLE);
        opening->list = awaitables.list;
        opening->positions = awaitables.positions;
        opening->futures = awaitables.futures;
        opening->total = PyList_GET_SIZE(awaitables.list);
        outer = open_gathering(state, opening);
    }
    awaitables_clear(&awaitables);
    return outer;
}

#endif /* GATEDCORO_OPENING_H */
