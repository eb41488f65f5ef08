/* Probe: measures what an untouched Task looks like on this interpreter.

   When the module is imported, a Task of ours runs three steps on a stand-in
   for a loop: its first, as a worker starts it, one after a bare yield, one
   after a future.  In each it must have the references and weak references that
   task.h takes for the floor.  If it has not, Tasks are never reused in this
   process. */

#ifndef GATEDCORO_PROBE_H
#define GATEDCORO_PROBE_H

#include "task.h"

typedef struct {
    CoroutineObject base;
    PyObject *task;   /* as a worker holds it */
    PyObject *future; /* what the second step waits on */
    int steps;
    bool as_expected;
} ProbeObject;

static inline ProbeObject *
ProbeObject_CAST(PyObject *op)
{
    return (ProbeObject *)op;
}

static PySendResult
probe_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
           PyObject *exception, PyObject **result)
{
    ProbeObject *self = (ProbeObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (exception != NULL) {
        raise_exception(Py_NewRef(exception));
        return PYGEN_ERROR;
    }
    self->steps++;
    bool first_step = self->steps == 1;
    /* Later there is one reference more: probe_run() still has it. */
    self->as_expected &=
        Py_REFCNT(self->task) == task_references(first_step) + !first_step
        && count_weakrefs(self->task) == task_weak_references(first_step);
    if (self->steps == 2) {
        if (PyObject_SetAttr(self->future, state->str_asyncio_future_blocking,
                             Py_True)
            < 0) {
            return PYGEN_ERROR;
        }
        *result = Py_NewRef(self->future);
        return PYGEN_NEXT;
    }
    *result = Py_NewRef(Py_None);
    return first_step ? PYGEN_NEXT : PYGEN_RETURN;
}

static int
probe_discard(CoroutineObject *Py_UNUSED(op), PyObject *Py_UNUSED(exception),
              DiscardList *Py_UNUSED(rest))
{
    return 0;
}

static PyObject *
probe_name(CoroutineObject *Py_UNUSED(op))
{
    return PyUnicode_InternFromString("gatedcoro.probe");
}

static PyObject *
probe_nothing(CoroutineObject *Py_UNUSED(op))
{
    return NULL;
}

static const CoroutineKind probe_kind = {
    .step = probe_step,
    .discard = probe_discard,
    .name = probe_name,
    .shown = probe_nothing,
    .awaited = probe_nothing,
    .warns = false,
};

static int
probe_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(ProbeObject_CAST(op)->task);
    Py_VISIT(ProbeObject_CAST(op)->future);
    return 0;
}

static int
probe_tp_clear(PyObject *op)
{
    Py_CLEAR(ProbeObject_CAST(op)->task);
    Py_CLEAR(ProbeObject_CAST(op)->future);
    return 0;
}

static void
probe_tp_dealloc(PyObject *op)
{
    coroutine_dealloc(op, probe_tp_clear);
}

static PyType_Slot probe_slots[] = {
    COROUTINE_SLOTS,
    {Py_tp_dealloc, probe_tp_dealloc},
    {Py_tp_traverse, probe_tp_traverse},
    {Py_tp_clear, probe_tp_clear},
    {0, NULL},
};

static PyType_Spec probe_spec = {
    .name = "gatedcoro._core._Probe",
    .basicsize = sizeof(ProbeObject),
    .flags = COROUTINE_FLAGS,
    .slots = probe_slots,
};

/* Runs what the stand-in loop has caught. */
static int
probe_run_caught(CatcherObject *catcher, PyObject *arg)
{
    PyObject *callback = catcher->callback;
    catcher->callback = NULL;
    if (callback == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the Task scheduled no step");
        return -1;
    }
    PyObject *ignored = arg == NULL ? PyObject_CallNoArgs(callback)
                                    : PyObject_CallOneArg(callback, arg);
    Py_DECREF(callback);
    if (ignored == NULL) {
        return -1;
    }
    Py_DECREF(ignored);
    return 0;
}

/* Runs a probe on `catcher`, which is the running loop of the thread. */
static int
probe_run(core_state *state, CatcherObject *catcher, bool *as_expected)
{
    int status = -1;
    PyObject *kwargs = NULL, *task = NULL;
    PyObject *context = PyContext_CopyCurrent();
    PyTypeObject *type = state->probe_type;
    ProbeObject *probe = (ProbeObject *)type->tp_alloc(type, 0);
    if (context == NULL || probe == NULL) {
        goto done;
    }
    coroutine_init(&probe->base, &probe_kind);
    probe->as_expected = true;
    kwargs = PyDict_New();
    if (kwargs == NULL
        || PyDict_SetItem(kwargs, state->str_loop, (PyObject *)catcher) < 0) {
        goto done;
    }
    probe->future = PyObject_Call((PyObject *)state->future_base,
                                  state->empty_tuple, kwargs);
    if (probe->future == NULL) {
        goto done;
    }
    task = task_new(state, &probe->base, context);
    if (task == NULL) {
        goto done;
    }
    probe->task = Py_NewRef(task);
    Py_CLEAR(kwargs);
    if (task_start(state, task, (PyObject *)catcher, &kwargs) < 0
        || probe_run_caught(catcher, NULL) < 0
        || call_method_for_effect(probe->future, state->str_set_result,
                                  Py_None)
               < 0
        || probe_run_caught(catcher, probe->future) < 0) {
        goto done;
    }
    *as_expected = probe->as_expected && probe->steps == 3;
    status = 0;
done:
    if (probe != NULL) {
        Py_CLEAR(probe->task);
    }
    Py_XDECREF(task);
    Py_XDECREF(probe);
    Py_XDECREF(kwargs);
    Py_XDECREF(context);
    return status;
}

/* Runs a probe in place of what the thread is running.  -1 if it could not be
   put back, or if there was no memory; where measuring fails for any other
   reason, nothing is as expected. */
static int
probe_aside(core_state *state, PyObject *set_running_loop, PyObject *running,
            PyObject *current, bool *as_expected)
{
    PyObject *failure = NULL;
    PyObject *switched[] = {running, current};
    CatcherObject *catcher = catcher_new(state);
    if (catcher == NULL) {
        return -1;
    }
    if (current != Py_None) {
        PyObject *ignored =
            PyObject_Vectorcall(state->leave_task, switched, 2, NULL);
        if (ignored == NULL) {
            Py_DECREF(catcher);
            return -1;
        }
        Py_DECREF(ignored);
    }
    PyObject *ignored =
        PyObject_CallOneArg(set_running_loop, (PyObject *)catcher);
    if (ignored == NULL || probe_run(state, catcher, as_expected) < 0) {
        *as_expected = false;
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            collect_exception(&failure);
        }
        PyErr_Clear();
    }
    Py_XDECREF(ignored);
    if (put_back(set_running_loop, &running, 1) < 0) {
        collect_exception(&failure);
    }
    if (current != Py_None && put_back(state->enter_task, switched, 2) < 0) {
        collect_exception(&failure);
    }
    Py_DECREF(catcher);
    return raise_collected(failure);
}

/* Measures, whatever loop and Task this thread is running. */
static int
probe_tasks(core_state *state, PyObject *set_running_loop, bool *as_expected)
{
    int status = -1;
    *as_expected = false;
    PyObject *running = PyObject_CallNoArgs(state->get_running_loop_or_none);
    if (running == NULL) {
        return -1;
    }
    PyObject *current =
        running == Py_None ? Py_NewRef(Py_None)
                           : PyObject_CallOneArg(state->current_task, running);
    if (current != NULL) {
        status = probe_aside(state, set_running_loop, running, current,
                             as_expected);
        Py_DECREF(current);
    }
    Py_DECREF(running);
    return status;
}

#endif /* GATEDCORO_PROBE_H */
