/* Probe: measures what an untouched Task looks like on this interpreter.

   When the module is imported, it is found out on a Task that is not initialised
   where what can be done to one shows.  Then another one runs five steps on a
   stand-in for a loop: its first, as a worker starts it; one after a bare yield;
   one in which it is resumed (task_wait.h); one after a future; one after a future
   that failed.  In the first, its image is taken (state.h); in each it must look
   untouched, by all that workers look at; and in the last it must not look so when
   something has been done to it.  If it is otherwise, Tasks are never reused in
   this process. */

#ifndef GATEDCORO_PROBE_H
#define GATEDCORO_PROBE_H

#include "coroutines/coroutine_type.h"
#include "coroutines/task_reuse.h"
#include "coroutines/task_wait.h"

typedef struct {
    CoroutineObject base;
    PyObject *asyncio; /* the module _asyncio */
    PyObject *loop;
    PyObject *task;   /* as a worker holds it */
    PyObject *future; /* what the Task waits on */
    int steps;
    bool as_expected;
    bool no_memory;
} ProbeObject;

static inline ProbeObject *
ProbeObject_CAST(PyObject *op)
{
    return (ProbeObject *)op;
}

/* Calls a function of _asyncio with one or two arguments, for its effect.
   Runs Python code. */
static int
probe_call(PyObject *asyncio, const char *name, PyObject *first,
           PyObject *second)
{
    PyObject *ignored = PyObject_CallMethod(
        asyncio, name, second == NULL ? "(O)" : "(OO)", first, second);
    Py_XDECREF(ignored);
    return ignored == NULL ? -1 : 0;
}

/*** The image ***/

/* The number of the only word that is `value`; that of one behind the last where
   none is, or several are. */
static size_t
find_word(const TaskImage *image, PyObject *task, const void *value)
{
    size_t found = image->count;
    for (size_t i = 0; i < image->count; i++) {
        if (task_word(task, word_offset(i)) == (uintptr_t)value) {
            if (found != image->count) {
                return image->count;
            }
            found = i;
        }
    }
    return found;
}

/* Does the list of Tasks run through the last two words of `task`, all of which
   are zero?  They are no part of the image then.  The answers of this and the
   next ones are 1, 0 if it is not as expected, or -1 with an exception.
   Runs Python code. */
static int
probe_find_list(TaskImage *image, PyObject *asyncio, PyObject *task)
{
    if (probe_call(asyncio, "_register_task", task, NULL) < 0) {
        return -1;
    }
    image->count -= 2;
    bool as_expected = true;
    for (size_t i = 0; i < image->count + 2; i++) {
        bool is_zero = task_word(task, word_offset(i)) == 0;
        as_expected &= is_zero == (i < image->count);
    }
    if (probe_call(asyncio, "_unregister_task", task, NULL) < 0) {
        return -1;
    }
    return as_expected && task_word(task, word_offset(image->count)) == 0;
}

/* Where is who awaits the Task?  Here it is itself.  Runs Python code. */
static int
probe_find_awaiter(TaskImage *image, PyObject *asyncio, PyObject *task)
{
    if (probe_call(asyncio, "future_add_to_awaited_by", task, task) < 0) {
        return -1;
    }
    image->awaiter = find_word(image, task, task);
    if (probe_call(asyncio, "future_discard_from_awaited_by", task, task)
        < 0) {
        return -1;
    }
    return image->awaiter < image->count
           && task_word(task, word_offset(image->awaiter)) == 0;
}

/* Where do attributes show?  Sets one.  Runs Python code. */
static int
probe_find_attributes(core_state *state, TaskImage *image, PyObject *task)
{
    PyTypeObject *type = Py_TYPE(task);
    bool has_values = PyType_HasFeature(type, INLINE_VALUES_FLAG);
    image->values = has_values ? type->tp_basicsize : 0;
    uintptr_t before = task_word(task, image->values);
    if (PyObject_GenericSetAttr(task, state->str_value, Py_True) < 0) {
        return -1;
    }
    uintptr_t changed = before ^ task_word(task, image->values);
    image->values_bits = 0;
    for (uintptr_t byte = has_values ? 0xff : 0; byte != 0; byte <<= 8) {
        image->values_bits |= (changed & byte) != 0 ? byte : 0;
    }
    image->values_absent = before & image->values_bits;
    PyObject **dict = _PyObject_GetDictPtr(task); /* makes one (3.13+) */
    if (dict == NULL || *dict == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    image->dict = (char *)dict - (char *)task;
    return !has_values || image->values_bits != 0;
}

/* What of the image is the same for all Tasks.  Runs Python code. */
static int
probe_begin_image(core_state *state, PyObject *asyncio)
{
    TaskImage *image = &state->task_image;
    size_t size = (size_t)state->task_base->tp_basicsize - sizeof(PyObject);
    image->count = size / sizeof(uintptr_t);
    if (image->count >= TASK_IMAGE_WORDS) {
        return 0;
    }
    PyObject *task = subclass_alloc(state->task_type);
    if (task == NULL) {
        return -1;
    }
    int status = TASKS_ARE_LISTED ? probe_find_list(image, asyncio, task) : 1;
    image->awaiter = image->weakrefs = image->count;
    Py_ssize_t weakrefs = Py_TYPE(task)->tp_weaklistoffset;
    if (weakrefs > 0) {
        image->weakrefs =
            ((size_t)weakrefs - sizeof(PyObject)) / sizeof(uintptr_t);
    }
    if (status > 0 && HAS_AWAITED_BY) {
        status = probe_find_awaiter(image, asyncio, task);
    }
    if (status > 0) {
        status = probe_find_attributes(state, image, task);
    }
    Py_DECREF(task);
    return status;
}

/* The image of a Task in its first step. */
static bool
probe_take_image(core_state *state, ProbeObject *self)
{
    TaskImage *image = &state->task_image;
    memcpy(image->words, (char *)self->task + word_offset(0),
           image->count * sizeof(uintptr_t));
    image->loop = find_word(image, self->task, self->loop);
    image->driver = find_word(image, self->task, self);
    image->context =
        find_word(image, self->task, task_fields(self->task)->context);
    return image->loop < image->count && image->driver < image->count
           && image->context < image->count;
}

/*** Steps ***/

/* Runs Python code. */
static bool
probe_looks_untouched(core_state *state, ProbeObject *self)
{
    bool first_step = self->steps == 1;
    return task_ends_unseen(state, self->task, first_step)
           && task_is_current(state, self->task, self->loop)
           && task_is_untouched(state, self->task, self->loop, NULL,
                                first_step)
           && Py_REFCNT(self) == TASK_DRIVER_REFERENCES + 1;
}

/* Does it show what is done to the Task?  Runs Python code. */
static bool
probe_shows_traces(core_state *state, ProbeObject *self)
{
    return probe_call(self->asyncio, "_unregister_task", self->task, NULL) == 0
           && !probe_looks_untouched(state, self)
           && probe_call(self->asyncio, "_register_task", self->task, NULL)
                  == 0
           && probe_looks_untouched(state, self)
           && PyObject_GenericSetAttr(self->task, state->str_value, Py_True)
                  == 0
           && !probe_looks_untouched(state, self);
}

/* Runs Python code. */
static PySendResult
probe_step(CoroutineObject *op, PyObject *Py_UNUSED(value),
           PyObject *exception, PyObject **result)
{
    ProbeObject *self = (ProbeObject *)op;
    core_state *state = state_of((PyObject *)op);
    if (op->closing) {
        raise_exception(Py_NewRef(exception));
        return PYGEN_ERROR;
    }
    self->steps++;
    bool as_expected = (exception != NULL) == (self->steps == 5);
    if (self->steps == 1) {
        task_silence(state, self->task);
        as_expected = as_expected && probe_take_image(state, self);
    }
    as_expected = as_expected && probe_looks_untouched(state, self);
    if (self->steps == 5) {
        as_expected = as_expected && probe_shows_traces(state, self);
    }
    self->as_expected &= as_expected;
    if (!PyErr_Occurred() && self->steps >= 2 && self->steps <= 4) {
        Py_XSETREF(self->future, task_waiter_new(state, self->loop));
        if (self->future != NULL) {
            *result = task_waiter_yield(state, self->future);
            return PYGEN_NEXT;
        }
    }
    if (PyErr_Occurred()) {
        self->as_expected = false;
        self->no_memory |= PyErr_ExceptionMatches(PyExc_MemoryError) != 0;
        PyErr_Clear();
    }
    *result = Py_NewRef(Py_None);
    return self->steps == 1 ? PYGEN_NEXT : PYGEN_RETURN;
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
    ProbeObject *self = ProbeObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->asyncio);
    Py_VISIT(self->loop);
    Py_VISIT(self->task);
    Py_VISIT(self->future);
    return 0;
}

static int
probe_tp_clear(PyObject *op)
{
    ProbeObject *self = ProbeObject_CAST(op);
    Py_CLEAR(self->asyncio);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->task);
    Py_CLEAR(self->future);
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

/*** Runs ***/

/* Runs what the stand-in loop has caught.  Runs Python code. */
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

/* What the Task waits on: new reference. */
static PyObject *
probe_awaited(ProbeObject *probe)
{
    if (probe->future == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the Task waits on nothing");
    }
    return Py_XNewRef(probe->future);
}

/* Settles what the Task waits on by that method, and runs the step that this
   schedules.  Runs Python code. */
static int
probe_run_after(CatcherObject *catcher, ProbeObject *probe, PyObject *method,
                PyObject *arg)
{
    PyObject *future = probe_awaited(probe);
    if (future == NULL) {
        return -1;
    }
    int status = call_method_for_effect(future, method, arg);
    if (status == 0) {
        status = probe_run_caught(catcher, future);
    }
    Py_DECREF(future);
    return status;
}

/* Has the Task make a step as one that waits for us.  Runs Python code. */
static int
probe_resume(core_state *state, ProbeObject *probe)
{
    PyObject *future = probe_awaited(probe);
    if (future == NULL) {
        return -1;
    }
    int status = task_find_callback(state, future);
    PyObject *wakeup = status > 0 ? task_take_wakeup(state, future) : NULL;
    if (wakeup != NULL && task_waiter_callback(state, future) == NULL) {
        status = task_resume(state, probe->task, future, wakeup, probe->loop);
    }
    else {
        status = PyErr_Occurred() ? -1 : 0;
        probe->as_expected = false;
    }
    Py_XDECREF(wakeup);
    Py_DECREF(future);
    return status;
}

/* What Tasks are resumed with.  Runs Python code. */
static int
probe_find_means(core_state *state, PyObject *asyncio, PyObject *loop)
{
    Py_XSETREF(state->future_remove_done_callback,
               PyObject_GetAttrString((PyObject *)state->future_base,
                                      "remove_done_callback"));
    if (state->future_remove_done_callback == NULL) {
        return -1;
    }
    if (HAS_AWAITED_BY) {
        Py_XSETREF(state->discard_from_awaited_by,
                   PyObject_GetAttr(
                       asyncio, state->str_future_discard_from_awaited_by));
        if (state->discard_from_awaited_by == NULL) {
            return -1;
        }
    }
    Py_XSETREF(state->done_future, task_waiter_new(state, loop));
    return state->done_future == NULL
               ? -1
               : call_method_for_effect(state->done_future,
                                        state->str_set_result, Py_None);
}

/* Runs a probe on `catcher`, which is the running loop of the thread.
   Runs Python code. */
static int
probe_run(core_state *state, PyObject *asyncio, CatcherObject *catcher,
          bool *as_expected)
{
    int status = -1;
    PyObject *kwargs = NULL, *task = NULL;
    PyObject *context = PyContext_CopyCurrent();
    PyTypeObject *type = state->probe_type;
    ProbeObject *probe = NULL;
    if (context == NULL
        || probe_find_means(state, asyncio, (PyObject *)catcher) < 0) {
        goto done;
    }
    probe = (ProbeObject *)type->tp_alloc(type, 0);
    if (probe == NULL) {
        goto done;
    }
    coroutine_init(&probe->base, &probe_kind);
    probe->asyncio = Py_NewRef(asyncio);
    probe->loop = Py_NewRef(catcher);
    probe->as_expected = true;
    task = task_new(state, &probe->base, Py_NewRef(context));
    if (task == NULL) {
        goto done;
    }
    probe->task = Py_NewRef(task);
    if (task_start(state, task, (PyObject *)catcher, &kwargs) < 0) {
        goto done;
    }
    Py_CLEAR(task);
    if (probe_run_caught(catcher, NULL) < 0 || probe_resume(state, probe) < 0
        || probe_run_after(catcher, probe, state->str_set_result, Py_None) < 0
        || probe_run_after(catcher, probe, state->str_set_exception,
                           PyExc_Exception)
               < 0) {
        goto done;
    }
    *as_expected = probe->as_expected && probe->steps == 5;
    status = 0;
done:
    if (probe != NULL) {
        Py_CLEAR(probe->task);
        if (probe->no_memory) {
            PyErr_NoMemory();
            status = -1;
        }
    }
    Py_XDECREF(task);
    Py_XDECREF(probe);
    Py_XDECREF(kwargs);
    Py_XDECREF(context);
    return status;
}

/* Finds one of asyncio's sets: 1, 0 if it is something else, or -1.
   Runs Python code. */
static int
probe_find_set(PyObject *owner, const char *name, PyObject **found)
{
    Py_XSETREF(*found, PyObject_GetAttrString(owner, name));
    return *found == NULL ? -1 : PySet_CheckExact(*found);
}

/* Where does asyncio have its Tasks, until 3.13?  Runs Python code. */
static int
probe_find_registers(core_state *state, PyObject *asyncio)
{
    PyObject *weak_set = PyObject_GetAttrString(asyncio, TASK_REGISTER);
    if (weak_set == NULL) {
        return -1;
    }
    int status = probe_find_set(weak_set, "data", &state->task_register);
    Py_DECREF(weak_set);
    if (status > 0 && has_eager_tasks()) {
        status = probe_find_set(asyncio, "_eager_tasks",
                                &state->eager_task_register);
    }
    return status;
}

/* Takes the image, and verifies it.  Runs Python code. */
static int
probe_all(core_state *state, PyObject *set_running_loop,
          CatcherObject *catcher, bool *as_expected)
{
    PyObject *asyncio = PyImport_ImportModule("_asyncio");
    int status = asyncio == NULL    ? -1
                 : TASKS_ARE_LISTED ? 1
                                    : probe_find_registers(state, asyncio);
    if (status > 0) {
        status = probe_begin_image(state, asyncio);
    }
    if (status > 0) {
        PyObject *ignored =
            PyObject_CallOneArg(set_running_loop, (PyObject *)catcher);
        status = ignored == NULL
                     ? -1
                     : probe_run(state, asyncio, catcher, as_expected);
        Py_XDECREF(ignored);
    }
    Py_XDECREF(asyncio);
    return status < 0 ? -1 : 0;
}

/* Runs a probe in place of what the thread is running.  -1 if it could not be
   put back, or if there was no memory; where measuring fails for any other
   reason, nothing is as expected.  Runs Python code. */
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
    if (probe_all(state, set_running_loop, catcher, as_expected) < 0) {
        *as_expected = false;
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            collect_exception(&failure);
        }
        PyErr_Clear();
    }
    if (put_back(set_running_loop, &running, 1) < 0) {
        collect_exception(&failure);
    }
    if (current != Py_None && put_back(state->enter_task, switched, 2) < 0) {
        collect_exception(&failure);
    }
    Py_DECREF(catcher);
    return raise_collected(failure);
}

/* Measures, whatever loop and Task this thread is running.
   Runs Python code. */
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
