/* Completed Tasks: the results of as_completed(), which are the Tasks themselves, and
   the Futures that the caller passed.

   An item has ended, and its slot is free, before its Task is done: that is told by
   a done callback of the Task, as in asyncio.as_completed.  Until then the Task is
   `undone`, and the end of them all has to wait.  What starts in the last step of a
   Task may be done before that is: so who is done takes along what has ended before
   it, and is done by now.

   The timer of the call goes with the results: whoever ends them does so in the
   loop's thread. */

#ifndef GATEDCORO_COMPLETED_TASKS_H
#define GATEDCORO_COMPLETED_TASKS_H

#include "coroutines/task.h"
#include "surface/stream_results.h"

typedef enum {
    ENDS_WELL,
    ENDS_TIMED_OUT,
    ENDS_WITH_ERROR, /* any other one */
} CompletedEnd;

typedef struct {
    StreamResultsObject base;
    PyObject *loop;
    PyObject *timer;  /* a handle of the loop's, or NULL */
    PyObject *unseen; /* dict; see below; or NULL */
    PyObject *error;  /* with which they end when nothing is undone, or NULL */
    bool is_ending;   /* as soon as nothing is undone */
    CompletedEnd end;
    bool is_told; /* an `async for`, that they have failed */
    bool is_handing_out;
    bool is_asked; /* to hand out more, by what ran meanwhile */

    /* Owned, in the order in which they ended, from `undone_first` on. */
    PyObject **undone;
    Py_ssize_t undone_size;
    Py_ssize_t undone_first;
    Py_ssize_t undone_used;
} CompletedTasksObject;

static inline CompletedTasksObject *
CompletedTasksObject_CAST(PyObject *op)
{
    return (CompletedTasksObject *)op;
}

/*** What is handed out ***/

/* A Future that has come to what the item did, for which there is no Task: new
   reference.  Runs Python code. */
static PyObject *
future_of_outcome(core_state *state, PyObject *loop, const Outcome *outcome)
{
    PyObject *future =
        PyObject_CallMethodNoArgs(loop, state->str_create_future);
    if (future == NULL) {
        return NULL;
    }
    int status;
    if (outcome->is_cancellation) {
        status = call_method_for_effect(future, state->str_cancel, NULL);
    }
    else if (outcome->exception != NULL) {
        status = call_method_for_effect(future, state->str_set_exception,
                                        outcome->exception);
    }
    else {
        status = call_method_for_effect(future, state->str_set_result,
                                        outcome->value);
    }
    if (status < 0) {
        Py_CLEAR(future);
    }
    return future;
}

/*** Undone Tasks ***/

static int completed_tasks_end_now(CompletedTasksObject *self);

/* Is there none any more? */
static inline bool
nothing_is_undone(const CompletedTasksObject *self)
{
    return self->undone_first == self->undone_used;
}

/* Makes room for one more.  -1 without memory. */
static int
completed_tasks_grow(CompletedTasksObject *self)
{
    Py_ssize_t first = self->undone_first;
    Py_ssize_t count = self->undone_used - first;
    if (self->undone_used < self->undone_size) {
        return 0;
    }
    if (first > count && !self->is_handing_out) { /* nobody counts on places */
        memcpy(self->undone, self->undone + first,
               (size_t)count * sizeof(PyObject *));
        self->undone_first = 0;
        self->undone_used = count;
        return 0;
    }
    Py_ssize_t size = self->undone_size == 0 ? 8 : 2 * self->undone_size;
    PyObject **undone = self->undone;
    PyMem_Resize(undone, PyObject *, (size_t)size);
    if (undone == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->undone = undone;
    self->undone_size = size;
    return 0;
}

/* Lets go of them. */
static void
completed_tasks_drop_undone(CompletedTasksObject *self)
{
    while (!nothing_is_undone(self)) {
        self->undone_used--;
        Py_DECREF(self->undone[self->undone_used]);
    }
}

/*** What nobody has seen ***/

/* A Task of an item's that is not of our type, or a Future in its place: nobody is to
   hear of its exception, unless somebody gets it.  -1 without memory. */
static int
completed_tasks_note_unseen(CompletedTasksObject *self, PyObject *task)
{
    if (self->unseen == NULL) {
        PyObject *unseen = PyDict_New();
        if (self->unseen != NULL) { /* by what the collector ran */
            Py_XDECREF(unseen);
        }
        else {
            self->unseen = unseen;
        }
    }
    PyObject *key = self->unseen == NULL ? NULL : PyLong_FromVoidPtr(task);
    int status = key == NULL ? -1 : PyDict_SetItem(self->unseen, key, task);
    Py_XDECREF(key);
    return status;
}

/* Somebody gets the Task. */
static void
completed_tasks_note_seen(CompletedTasksObject *self, PyObject *task)
{
    if (is_own_task(state_of((PyObject *)self), task)) {
        task_fields(task)->is_handed_out = true;
        return;
    }
    PyObject *key = self->unseen == NULL ? NULL : PyLong_FromVoidPtr(task);
    if (key == NULL || PyDict_DelItem(self->unseen, key) < 0) {
        PyErr_Clear(); /* it is the caller's */
    }
    Py_XDECREF(key);
}

/* Nobody gets any more of them.  Keeps the exception being raised.
   Runs Python code. */
static void
completed_tasks_are_unwanted(CompletedTasksObject *self)
{
    if (self->unseen == NULL) {
        return;
    }
    core_state *state = state_of((PyObject *)self);
    PyObject *raised = fetch_exception();
    PyObject *tasks = PyDict_Values(self->unseen);
    Py_ssize_t size = tasks == NULL ? 0 : PyList_GET_SIZE(tasks);
    for (Py_ssize_t i = 0; i < size; i++) {
        if (PyObject_SetAttr(PyList_GET_ITEM(tasks, i),
                             state->str_log_traceback, Py_False)
            < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    Py_XDECREF(tasks);
    PyErr_Clear();
    restore_exception(raised);
}

/* Where the Task is among them; behind them if it is not. */
static Py_ssize_t
completed_tasks_find(const CompletedTasksObject *self, const PyObject *task)
{
    Py_ssize_t at = self->undone_first;
    while (at < self->undone_used && self->undone[at] != task) {
        at++;
    }
    return at;
}

/* Takes one of them out: owned. */
static PyObject *
completed_tasks_take_out(CompletedTasksObject *self, Py_ssize_t at)
{
    PyObject *task = self->undone[at];
    for (; at > self->undone_first; at--) { /* there are hardly any */
        self->undone[at] = self->undone[at - 1];
    }
    self->undone_first++;
    return task;
}

/* Is it done?  One that cannot say is taken for it, and why is reported.  -1 on an
   interrupt.  Runs Python code. */
static int
undone_is_done(CompletedTasksObject *self, PyObject *task)
{
    int is_done = answer_of_method(task, state_of((PyObject *)self)->str_done);
    return is_done >= 0                         ? is_done
           : report_error((PyObject *)self) < 0 ? -1
                                                : 1;
}

/* Hands out, without waking anybody, what is done by now of those that have ended
   before `task` (borrowed), or of all if that is NULL; and that one.  -1 on an
   interrupt.  Runs Python code. */
static int
completed_tasks_sort_out(CompletedTasksObject *self, PyObject *task)
{
    PyObject *failure = NULL;
    Py_ssize_t end = completed_tasks_find(self, task);
    if (task != NULL && end == self->undone_used) {
        return 0; /* it has been taken along */
    }
    for (Py_ssize_t at = self->undone_first; at < end; at++) {
        int is_done = undone_is_done(self, self->undone[at]);
        if (is_done < 0) {
            collect_exception(&failure);
        }
        if (self->base.is_over) { /* by what ran there */
            return raise_collected(failure);
        }
        if (is_done != 0) {
            stream_results_append(&self->base,
                                  completed_tasks_take_out(self, at));
        }
    }
    if (task != NULL) {
        stream_results_append(&self->base,
                              completed_tasks_take_out(self, end));
    }
    return raise_collected(failure);
}

/* The Task is done.  -1 on an interrupt.  Runs Python code. */
static int
completed_tasks_hand_out(CompletedTasksObject *self, PyObject *task)
{
    PyObject *failure = NULL;
    if (self->is_handing_out) {
        self->is_asked = true;
        return 0; /* by whoever is about it */
    }
    self->is_handing_out = true;
    self->is_asked = !self->base.is_over;
    while (self->is_asked) {
        self->is_asked = false;
        if (completed_tasks_sort_out(self, task) < 0) {
            collect_exception(&failure);
        }
        task = NULL;
    }
    self->is_handing_out = false;
    if (self->base.is_left) {
        completed_tasks_are_unwanted(self);
        completed_tasks_drop_undone(self);
    }
    if (stream_results_wake(&self->base) < 0) {
        collect_exception(&failure);
    }
    if (self->is_ending && nothing_is_undone(self)
        && completed_tasks_end_now(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* The done callback of a Task that was undone.  Runs Python code. */
static PyObject *
completed_task_done(PyObject *op, PyObject *task)
{
    if (completed_tasks_hand_out(CompletedTasksObject_CAST(op), task) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef completed_task_done_def = {"done", completed_task_done,
                                              METH_O, NULL};

/* It is handed out when it is done: true, or if it has been, maybe with an exception.
   False with one: it is not waited for.  Runs Python code. */
static bool
completed_tasks_wait_for(CompletedTasksObject *self, PyObject *task)
{
    PyObject *callback =
        PyCFunction_New(&completed_task_done_def, (PyObject *)self);
    if (callback == NULL || completed_tasks_grow(self) < 0) {
        Py_XDECREF(callback);
        return false;
    }
    self->undone[self->undone_used] = Py_NewRef(task);
    self->undone_used++;
    int status = call_method_for_effect(
        task, state_of((PyObject *)self)->str_add_done_callback, callback);
    Py_DECREF(callback);
    Py_ssize_t at =
        status < 0 ? completed_tasks_find(self, task) : self->undone_used;
    if (at == self->undone_used) { /* or it has called back */
        return true;
    }
    self->undone_used--;
    for (; at < self->undone_used; at++) {
        self->undone[at] = self->undone[at + 1];
    }
    Py_DECREF(task);
    return false;
}

/*** What a gathering calls ***/

/* An error by which something of the results went wrong: it is raised, if it is an
   interrupt (-1), or reported.  Runs Python code. */
static int
completed_tasks_failed(CompletedTasksObject *self, PyObject *error)
{
    raise_exception(error);
    return report_error((PyObject *)self);
}

/* A Task that cannot say when it is done is handed out at once: in its last step.
   Where there is nothing to hand out, the error that says why is what they all end
   with.  Runs Python code. */
static int
completed_tasks_put(PyObject *op, Py_ssize_t Py_UNUSED(index),
                    Outcome *outcome)
{
    CompletedTasksObject *self = CompletedTasksObject_CAST(op);
    core_state *state = state_of(op);
    if (self->base.is_over) {
        return 0;
    }
    PyObject *error = NULL;
    PyObject *task = outcome->task == NULL
                         ? future_of_outcome(state, self->loop, outcome)
                         : Py_NewRef(outcome->task);
    if (task != NULL && !outcome->is_callers && !is_own_task(state, task)
        && completed_tasks_note_unseen(self, task) < 0) {
        PyErr_Clear(); /* it may be reported */
    }
    int is_done = task == NULL ? -1
                  : outcome->task == NULL || outcome->task_is_done
                      ? 1
                      : answer_of_method(task, state->str_done);
    bool waits = false;
    if (is_done == 0 && !self->base.is_over) {
        self->base.finished++;
        waits = completed_tasks_wait_for(self, task);
        outcome->is_kept = waits;
        self->base.finished -= !waits;
    }
    collect_exception(&error);
    int status = 0;
    if (waits || self->base.is_over) { /* meanwhile */
    }
    else if (task != NULL) {
        self->base.finished++;
        outcome->is_kept = true;
        stream_results_append(&self->base, Py_NewRef(task));
        status = stream_results_wake(&self->base);
    }
    else {
        /* Or it would take its place in the window for ever. */
        self->base.drawn--;
        if (self->error == NULL && !is_interrupt(error)) {
            self->error = error;
            error = NULL;
        }
    }
    if (error != NULL) {
        PyObject *failure = status < 0 ? fetch_exception() : NULL;
        if (completed_tasks_failed(self, error) < 0) {
            collect_exception(&failure);
        }
        status = raise_collected(failure);
    }
    Py_XDECREF(task);
    return status;
}

/* The call needs no timer any more.  What fails in that is reported.
   Runs Python code. */
static void
completed_tasks_stop_timer(CompletedTasksObject *self)
{
    PyObject *timer = self->timer;
    self->timer = NULL;
    if (timer == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    if (call_method_for_effect(timer, state_of((PyObject *)self)->str_cancel,
                               NULL)
        < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF(timer);
    restore_exception(raised);
}

/* Nothing is undone any more.  -1 on an interrupt.  Runs Python code. */
static int
completed_tasks_end_now(CompletedTasksObject *self)
{
    PyObject *error = self->error;
    self->error = NULL;
    self->is_ending = false;
    if (error != NULL && self->end == ENDS_WELL) {
        self->end = ENDS_WITH_ERROR;
    }
    int status = stream_results_end((PyObject *)self, error, false);
    Py_XDECREF(error);
    return status;
}

/* Runs Python code. */
static int
completed_tasks_end(PyObject *op, PyObject *exception,
                    bool Py_UNUSED(is_no_news))
{
    CompletedTasksObject *self = CompletedTasksObject_CAST(op);
    completed_tasks_stop_timer(self);
    if (exception != NULL) {
        Py_XSETREF(self->error, Py_NewRef(exception));
    }
    if (nothing_is_undone(self) || self->base.is_left) {
        return completed_tasks_end_now(self);
    }
    self->is_ending = true;
    return stream_results_wake_closers(&self->base);
}

/* They never end any more: what they would end with is not wanted, either.
   Runs Python code. */
static int
completed_tasks_leave(StreamResultsObject *results)
{
    CompletedTasksObject *self =
        CompletedTasksObject_CAST((PyObject *)results);
    completed_tasks_stop_timer(self);
    completed_tasks_are_unwanted(self);
    self->is_ending = false;
    Py_CLEAR(self->error);
    return stream_results_leave(results);
}

/* Runs Python code. */
static void
completed_tasks_forget(PyObject *op)
{
    completed_tasks_stop_timer(CompletedTasksObject_CAST(op));
    completed_tasks_are_unwanted(CompletedTasksObject_CAST(op));
    stream_results_forget(op);
    if (!CompletedTasksObject_CAST(op)->is_handing_out) {
        completed_tasks_drop_undone(CompletedTasksObject_CAST(op));
    }
}

/* Called by a gathering, for each item and at its end (sink.h). */
static const Sink completed_tasks_sink = {
    .is_wanted = stream_results_are_wanted,
    .has_room = stream_results_have_room,
    .expect = stream_results_expect,
    .put = completed_tasks_put,
    .cut = stream_results_cut,
    .end = completed_tasks_end,
    .forget = completed_tasks_forget,
    .argument_index = stream_results_argument_index,
};

/*** Lifecycle ***/

/* New reference. */
static PyObject *
completed_tasks_new(core_state *state, const Window *window, PyObject *loop)
{
    PyObject *op =
        stream_results_new(state->completed_tasks_type, window, false);
    if (op != NULL) {
        CompletedTasksObject_CAST(op)->loop = Py_NewRef(loop);
    }
    return op;
}

static int
completed_tasks_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    CompletedTasksObject *self = CompletedTasksObject_CAST(op);
    Py_VISIT(self->loop);
    Py_VISIT(self->timer);
    Py_VISIT(self->unseen);
    Py_VISIT(self->error);
    for (Py_ssize_t i = self->undone_first; i < self->undone_used; i++) {
        Py_VISIT(self->undone[i]);
    }
    return stream_results_tp_traverse(op, visit, arg);
}

static int
completed_tasks_tp_clear(PyObject *op)
{
    CompletedTasksObject *self = CompletedTasksObject_CAST(op);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->timer);
    Py_CLEAR(self->unseen);
    Py_CLEAR(self->error);
    completed_tasks_drop_undone(self);
    return stream_results_tp_clear(op);
}

/* Runs Python code. */
static void
completed_tasks_tp_finalize(PyObject *op)
{
    completed_tasks_are_unwanted(CompletedTasksObject_CAST(op));
}

static void
completed_tasks_tp_dealloc(PyObject *op)
{
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    (void)completed_tasks_tp_clear(op);
    PyMem_Free(CompletedTasksObject_CAST(op)->undone);
    stream_results_tp_dealloc(op);
}

static PyType_Slot completed_tasks_slots[] = {
    {Py_tp_dealloc, completed_tasks_tp_dealloc},
    {Py_tp_finalize, completed_tasks_tp_finalize},
    {Py_tp_traverse, completed_tasks_tp_traverse},
    {Py_tp_clear, completed_tasks_tp_clear},
    {0, NULL},
};

static PyType_Spec completed_tasks_spec = {
    .name = "gatedcoro._core._CompletedTasks",
    .basicsize = sizeof(CompletedTasksObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = completed_tasks_slots,
};

#endif /* GATEDCORO_COMPLETED_TASKS_H */
