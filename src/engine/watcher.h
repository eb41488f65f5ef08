/* Watcher: a Future that a gathering takes as it is.

   It is a done callback, as asyncio.gather has, instead of a worker: the Future
   needs no Task.  That of a gather() without a limit is the call's to cancel, and
   its outcome one of the results.  One that is handed out (ITEM_HANDED_OUT) stays
   the caller's: it has a slot, but is neither cancelled nor asked what it came
   to. */

#ifndef GATEDCORO_WATCHER_H
#define GATEDCORO_WATCHER_H

#include "engine/pass.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    RunningLink link;           /* link.target is the Future */
    GatheringObject *gathering; /* owned; NULL once the Future is done */
} WatcherObject;

static inline WatcherObject *
WatcherObject_CAST(PyObject *op)
{
    return (WatcherObject *)op;
}

/* What the Future, which is done, has come to (owned).  -1 if it cannot say.
   Runs Python code. */
static int
future_outcome(core_state *state, PyObject *future, Outcome *outcome)
{
    *outcome = (Outcome){.child = future};
    int truth = answer_of_method(future, state->str_cancelled);
    if (truth < 0) {
        return -1;
    }
    if (truth > 0) {
        outcome->is_cancellation = true;
        outcome->exception =
            PyObject_CallMethodNoArgs(future, state->str_make_cancelled_error);
        return outcome->exception == NULL ? -1 : 0;
    }
    PyObject *exception =
        PyObject_CallMethodNoArgs(future, state->str_exception);
    if (exception == NULL) {
        return -1;
    }
    if (exception != Py_None) {
        outcome->exception = exception;
        return 0;
    }
    Py_DECREF(exception);
    outcome->value = PyObject_CallMethodNoArgs(future, state->str_result);
    return outcome->value == NULL ? -1 : 0;
}

/* Is `future` one of ours, and will it be reported if nobody retrieves its
   exception? */
static bool
future_is_reported(core_state *state, PyObject *future)
{
    if (Py_TYPE(future) != state->outer_type) {
        return false;
    }
    PyObject *reports = state->future_get_log_traceback(future, NULL);
    Py_XDECREF(reports); /* True or False */
    return reports == Py_True;
}

/* May an interrupt that is the Future's outcome have left the loop?  That of a
   Task has, and that of another gathering.  1, 0, or -1 on an interrupt or without
   memory.  Runs Python code. */
static int
future_may_interrupt(core_state *state, PyObject *future)
{
    if (Py_TYPE(future) == state->outer_type
        || PyObject_TypeCheck(future, state->task_base)) {
        return 1;
    }
    PyObject *coro;
    int is_task = lookup_attribute(future, state->str_get_coro, &coro);
    Py_XDECREF(coro);
    return is_task < 0 ? forget_ordinary_error() : is_task;
}

/* The same for its gathering: where the Future cannot say, its error is the
   outcome.  Runs Python code. */
static void
gathering_outcome_of(GatheringObject *self, PyObject *future, Outcome *outcome)
{
    core_state *state = state_of((PyObject *)self);
    bool is_reported = future_is_reported(state, future);
    if (future_outcome(state, future, outcome) < 0) {
        outcome->exception = fetch_exception();
        outcome->is_cancellation = false;
    }
    if (outcome->exception == NULL || !is_interrupt(outcome->exception)
        || is_reported) {
        return;
    }
    int has_left = future_may_interrupt(state, future);
    if (has_left < 0) {
        Py_SETREF(outcome->exception, fetch_exception());
    }
    else if (has_left) {
        gathering_note_interrupt(self, outcome->exception);
    }
}

/* It is called when the Future is done.  Runs Python code. */
static PyObject *
watcher_done(PyObject *op, PyObject *const *args, size_t nargsf,
             PyObject *kwnames)
{
    if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "a done callback has one argument");
        return NULL;
    }
    PyObject *future = args[0];
    WatcherObject *self = WatcherObject_CAST(op);
    GatheringObject *gathering = self->gathering;
    if (gathering == NULL || !link_is_running(&self->link)) {
        Py_RETURN_NONE; /* called a second time, or among what is collected */
    }
    self->gathering = NULL;
    call_graph_leave(&gathering->call_graph, &self->link);
    bool is_handed_out = self->link.run == RUN_WATCHED;
    Outcome outcome = {
        .task = self->link.target, .task_is_done = true, .is_callers = true};
    if (!is_handed_out) {
        gathering_outcome_of(gathering, future, &outcome);
    }
    int status =
        gathering_deliver(state_of(op), gathering, &self->link, &outcome);
    outcome_clear(&outcome);
    PyObject *target = self->link.target;
    self->link.target = NULL;
    Py_XDECREF(target);
    Py_DECREF(self); /* the ring's */
    if (is_handed_out) {
        status = gathering_go_on(gathering, status);
    }
    Py_DECREF(gathering);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Has the Future in hand run: it is among what does from now on.  Returns the
   callback to be given to it (new reference), or NULL.  Runs Python code. */
static PyObject *
watcher_new(core_state *state, GatheringObject *gathering)
{
    PyTypeObject *type = state->watcher_type;
    WatcherObject *self = (WatcherObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = watcher_done;
    self->gathering = (GatheringObject *)Py_NewRef(gathering);
    self->link.owner = Py_NewRef(self);
    if (gathering->source.item_kind == ITEM_HANDED_OUT) {
        self->link.run = RUN_WATCHED;
    }
    self->link.target = gathering_run_taken(gathering, &self->link);
    gathering_join(gathering, &self->link);
    return (PyObject *)self;
}

/* Nobody waits for the Future any more.  Runs Python code. */
static void
watcher_let_go(PyObject *op)
{
    WatcherObject *self = WatcherObject_CAST(op);
    GatheringObject *gathering = self->gathering;
    if (gathering != NULL) { /* else it has called back */
        self->gathering = NULL;
        running_remove(&gathering->running, &self->link);
        gathering_return_slot(state_of(op), gathering, &self->link);
        call_graph_leave(&gathering->call_graph, &self->link);
        Py_CLEAR(self->link.target); /* that may keep the callback */
        Py_DECREF(self);             /* the ring's */
        Py_DECREF(gathering);
    }
}

/* What becomes of one that is handed out when all that runs is cancelled.
   Runs Python code. */
static PyObject *
watcher_cancel(PyObject *op, PyObject *const *Py_UNUSED(args),
               Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    WatcherObject *self = WatcherObject_CAST(op);
    if (self->gathering == NULL || !link_is_running(&self->link)) {
        Py_RETURN_FALSE;
    }
    PyObject *future = Py_NewRef(self->link.target);
    watcher_let_go(op);
    int status = call_method_for_effect(
        future, state_of(op)->str_remove_done_callback, op);
    Py_DECREF(future);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef watcher_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))watcher_cancel,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

/*** Lifecycle ***/

static int
watcher_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    WatcherObject *self = WatcherObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->gathering);
    return link_traverse(&self->link, visit, arg);
}

static int
watcher_tp_clear(PyObject *op)
{
    WatcherObject *self = WatcherObject_CAST(op);
    link_clear(&self->link);
    Py_CLEAR(self->gathering);
    return 0;
}

static void
watcher_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)watcher_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef watcher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(WatcherObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot watcher_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, watcher_methods},
    {Py_tp_members, watcher_members},
    {Py_tp_dealloc, watcher_tp_dealloc},
    {Py_tp_traverse, watcher_tp_traverse},
    {Py_tp_clear, watcher_tp_clear},
    {0, NULL},
};

static PyType_Spec watcher_spec = {
    .name = "gatedcoro._core._Watcher",
    .basicsize = sizeof(WatcherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = watcher_slots,
};

#endif /* GATEDCORO_WATCHER_H */
