/* Task: the asyncio.Task of an item, and of the queue's keeper.

   A C subclass of asyncio.Task.  It starts eagerly on every version, and
   answers get_name(), get_coro() and get_context() for the item that it runs at
   the moment: its driver knows (CoroutineKind).  What is done to it by its
   methods is noted (`touched`), for task_reuse.h. */

#ifndef GATEDCORO_TASK_H
#define GATEDCORO_TASK_H

#include "base/subclass.h"
#include "coroutines/catcher.h"
#include "coroutines/coroutine.h"

typedef struct {
    CoroutineObject *driver; /* owned */
    PyObject *context;       /* the Task's own; owned */
    PyObject *name;          /* given when asked; owned or NULL */
    bool touched;            /* something was done to the Task */
    bool is_handed_out;      /* to somebody who may look at what it came to */
} TaskFields;

static inline TaskFields *
task_fields(PyObject *task)
{
    return (TaskFields *)subclass_fields(task);
}

static inline bool
is_own_task(core_state *state, PyObject *task)
{
    return Py_TYPE(task) == state->task_type;
}

/*** Construction and start ***/

/* Returns a Task that belongs to `driver` and is not initialised: the driver
   can know it before anything runs in it.  Takes over the caller's reference to
   `context`. */
static PyObject *
task_new(core_state *state, CoroutineObject *driver, PyObject *context)
{
    PyObject *task = subclass_alloc(state->task_type);
    if (task == NULL) {
        Py_DECREF(context);
        return NULL;
    }
    TaskFields *fields = task_fields(task);
    fields->driver = (CoroutineObject *)Py_NewRef(driver);
    fields->context = context;
    return task;
}

/* Keyword arguments for Task.__init__() on that loop, for any number of Tasks;
   each puts its own context there. */
static PyObject *
task_kwargs_new(core_state *state, PyObject *loop, bool eager)
{
    PyObject *kwargs = PyDict_New();
    if (kwargs != NULL
        && (PyDict_SetItem(kwargs, state->str_loop, loop) < 0
            || PyDict_SetItem(kwargs, state->str_name, state->task_name) < 0
            || (eager
                && PyDict_SetItem(kwargs, state->str_eager_start, Py_True)
                       < 0))) {
        Py_CLEAR(kwargs);
    }
    return kwargs;
}

/* What asyncio.gather sets on its children: a Task that is destroyed with its
   loop, or because it could not be started, is not reported.
   Runs Python code. */
static void
task_silence(core_state *state, PyObject *task)
{
    if (state->task_set_log_destroy_pending(task, Py_False, NULL) < 0) {
        PyErr_WriteUnraisable(task);
    }
}

/* (driver,), for the Task's __init__(): new reference.  The tuple of an earlier
   Task, if there is one.  The collector does not see it: nor does anybody who
   asks that for its objects, so that nobody else has it, and it need not own the
   driver, which is the Task's. */
static PyObject *
task_args_new(core_state *state, CoroutineObject *driver)
{
    PyObject *args = state->task_args;
    state->task_args = NULL;
    if (args == NULL) {
        args = PyTuple_New(1);
        if (args == NULL) {
            return NULL;
        }
        PyObject_GC_UnTrack(args);
    }
    PyTuple_SET_ITEM(args, 0, (PyObject *)driver);
    return args;
}

/* Keeps the tuple (stolen) for another Task, without what it held. */
static void
task_args_done(core_state *state, PyObject *args)
{
    assert(Py_REFCNT(args) == 1);
    PyTuple_SET_ITEM(args, 0, NULL);
    if (KEEPS_SPARES && state->task_args == NULL) {
        state->task_args = args;
    }
    else {
        Py_DECREF(args);
    }
}

/* Task.__init__(driver, loop=..., name=..., context=..., [eager_start=True]).
   Runs Python code; when eager, the first step of the driver, which may
   initialise other Tasks with the same `kwargs`: the base class has taken all
   of them by then. */
static int
task_init(core_state *state, PyObject *task, PyObject *kwargs)
{
    TaskFields *fields = task_fields(task);
    PyObject *args = task_args_new(state, fields->driver);
    int status = -1;
    if (args != NULL
        && PyDict_SetItem(kwargs, state->str_context, fields->context) == 0) {
        status = state->task_base->tp_init(task, args, kwargs);
    }
    PyObject *raised = status < 0 ? fetch_exception() : NULL;
    if (raised != NULL) {
        task_silence(state, task);
    }
    if (args != NULL) {
        task_args_done(state, args);
    }
    restore_exception(raised);
    return status;
}

/* Runs step(argument), or step() if that is NULL, as asyncio runs a callback of
   `context`, in the middle of the step of another Task, if there is one.
   Runs Python code. */
static int
run_nested_step(core_state *state, PyObject *loop, PyObject *step,
                PyObject *argument, PyObject *context)
{
    PyObject *current = PyObject_CallOneArg(state->current_task, loop);
    if (current == NULL) {
        return -1;
    }
    PyObject *switched[] = {loop, current};
    PyObject *ignored = NULL;
    int status = -1;
    if (current != Py_None) {
        ignored = PyObject_Vectorcall(state->leave_task, switched, 2, NULL);
        if (ignored == NULL) {
            Py_DECREF(current);
            return -1;
        }
        Py_DECREF(ignored);
    }
    if (PyContext_Enter(context) == 0) {
        PyObject *args[] = {NULL, argument};
        PyObject *done = PyObject_Vectorcall(
            step, args + 1,
            (size_t)(argument != NULL) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        PyObject *raised = done == NULL ? fetch_exception() : NULL;
        Py_XDECREF(done);
        int exited = PyContext_Exit(context);
        if (raised != NULL) {
            raise_exception(raised);
        }
        else {
            status = exited;
        }
    }
    if (current != Py_None) {
        /* Else asyncio takes it amiss at the end of the other step. */
        PyObject *raised = fetch_exception();
        if (put_back(state->enter_task, switched, 2) < 0) {
            PyErr_WriteUnraisable(current);
        }
        restore_exception(raised);
    }
    Py_DECREF(current);
    return status;
}

/* Makes the Task and runs its first step, on versions where eager_start is
   missing or crashes: its first step is caught, the Task is given its real
   loop (Future.__init__ may be called again until 3.14), and the step runs.
   Runs Python code. */
static int
task_start_caught(core_state *state, PyObject *task, PyObject *loop)
{
    int status = -1;
    PyObject *kwargs = NULL;
    CatcherObject *catcher = catcher_new(state);
    if (catcher == NULL) {
        return -1;
    }
    kwargs = task_kwargs_new(state, (PyObject *)catcher, false);
    if (kwargs == NULL || task_init(state, task, kwargs) < 0) {
        goto done;
    }
    task_silence(state, task);
    Py_SETREF(kwargs, PyDict_New());
    if (kwargs == NULL || PyDict_SetItem(kwargs, state->str_loop, loop) < 0
        || state->future_base->tp_init(task, state->empty_tuple, kwargs) < 0) {
        goto done;
    }
    PyObject *step = catcher->callback;
    catcher->callback = NULL;
    Py_CLEAR(catcher);
    Py_CLEAR(kwargs);
    status =
        run_nested_step(state, loop, step, NULL, task_fields(task)->context);
    Py_DECREF(step);
done:
    Py_XDECREF(catcher);
    Py_XDECREF(kwargs);
    return status;
}

/* Runs the first step of the Task's driver.  `loop` is the running loop,
   `*kwargs` NULL or what an earlier call left there, where it stays for the next
   one.  Returns -1 if that let KeyboardInterrupt or SystemExit out, or if the
   Task could not be made.  Runs Python code. */
static int
task_start(core_state *state, PyObject *task, PyObject *loop,
           PyObject **kwargs)
{
    if (!has_eager_tasks()) {
        return task_start_caught(state, task, loop);
    }
    if (*kwargs == NULL) {
        *kwargs = task_kwargs_new(state, loop, true);
        if (*kwargs == NULL) {
            return -1;
        }
    }
    return task_init(state, task, *kwargs);
}

/* The first step runs in the next turn of the loop.  Runs Python code. */
static int
task_start_soon(core_state *state, PyObject *task, PyObject *loop)
{
    PyObject *kwargs = task_kwargs_new(state, loop, false);
    int status = kwargs == NULL ? -1 : task_init(state, task, kwargs);
    Py_XDECREF(kwargs);
    if (status == 0) {
        task_silence(state, task);
    }
    return status;
}

/*** Methods ***/

/* Calls the base's method of that name.  Runs Python code. */
static PyObject *
task_call_base(PyObject *op, const char *name, PyObject *args,
               PyObject *kwargs)
{
    PyObject *base = (PyObject *)Py_TYPE(op)->tp_base;
    PyObject *method = PyObject_GetAttrString(base, name);
    if (method == NULL) {
        return NULL;
    }
    Py_ssize_t size = PyTuple_GET_SIZE(args);
    PyObject *with_self = PyTuple_New(size + 1);
    PyObject *result = NULL;
    if (with_self != NULL) {
        PyTuple_SET_ITEM(with_self, 0, Py_NewRef(op));
        for (Py_ssize_t i = 0; i < size; i++) {
            PyTuple_SET_ITEM(with_self, i + 1,
                             Py_NewRef(PyTuple_GET_ITEM(args, i)));
        }
        result = PyObject_Call(method, with_self, kwargs);
        Py_DECREF(with_self);
    }
    Py_DECREF(method);
    return result;
}

/* Runs Python code. */
static PyObject *
task_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"msg", NULL};
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords,
                                     &message)) {
        return NULL;
    }
    TaskFields *fields = task_fields(op);
    fields->touched = true;
    CoroutineObject *driver = fields->driver;
    if (driver != NULL && driver->kind->cancelled != NULL) {
        int answer = driver->kind->cancelled(driver, message);
        if (answer != 0) {
            return answer < 0 ? NULL : Py_NewRef(Py_False);
        }
    }
    return task_call_base(op, "cancel", args, kwargs);
}

/* Runs Python code. */
static PyObject *
task_uncancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    task_fields(op)->touched = true;
    return task_call_base(op, "uncancel", args, kwargs);
}

/* Runs Python code. */
static PyObject *
task_add_done_callback(PyObject *op, PyObject *args, PyObject *kwargs)
{
    task_fields(op)->touched = true;
    return task_call_base(op, "add_done_callback", args, kwargs);
}

/* Runs Python code. */
static PyObject *
task_set_name(PyObject *op, PyObject *args, PyObject *kwargs)
{
    task_fields(op)->touched = true;
    return task_call_base(op, "set_name", args, kwargs);
}

static PyObject *
task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskFields *fields = task_fields(op);
    core_state *state = state_of(op);
    PyObject *given = state->task_get_name(op, NULL);
    if (given != state->task_name) {
        return given;
    }
    Py_DECREF(given);
    if (fields->name == NULL) {
        fields->name =
            PyUnicode_FromFormat("gatedcoro-%llu", ++state->task_names);
    }
    return Py_XNewRef(fields->name);
}

/* Runs Python code. */
static PyObject *
task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CoroutineObject *driver = task_fields(op)->driver;
    if (driver == NULL) {
        Py_RETURN_NONE;
    }
    if (driver->kind->represented != NULL) {
        return driver->kind->represented(driver);
    }
    return Py_NewRef(driver);
}

/* Runs Python code. */
static PyObject *
task_get_coro_attribute(PyObject *op, void *Py_UNUSED(closure))
{
    return task_get_coro(op, NULL);
}

static PyObject *
task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskFields *fields = task_fields(op);
    CoroutineObject *driver = fields->driver;
    PyObject *context = NULL;
    if (driver != NULL && driver->kind->context != NULL) {
        context = driver->kind->context(driver);
    }
    if (context == NULL) {
        context = fields->context;
    }
    return Py_NewRef(context == NULL ? Py_None : context);
}

/*** Lifecycle ***/

static int
task_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    TaskFields *fields = task_fields(op);
    Py_VISIT(fields->driver);
    Py_VISIT(fields->context);
    Py_VISIT(fields->name);
    return subclass_traverse_base(op, visit, arg);
}

static int
task_tp_clear(PyObject *op)
{
    TaskFields *fields = task_fields(op);
    Py_CLEAR(fields->driver);
    Py_CLEAR(fields->context);
    Py_CLEAR(fields->name);
    return Py_TYPE(op)->tp_base->tp_clear(op);
}

/* Every outcome is retrieved by the gathering, as asyncio.gather does; but for
   that of a Task that is handed out.  Runs Python code. */
static void
task_tp_finalize(PyObject *op)
{
    if (!task_fields(op)->is_handed_out) {
        /* Cannot fail: only True is refused. */
        (void)state_of(op)->future_set_log_traceback(op, Py_False, NULL);
    }
    Py_TYPE(op)->tp_base->tp_finalize(op);
}

/* The last of what the base's tp_dealloc() does: the fields are there until its
   finalizer has run. */
static void
task_tp_free(void *op)
{
    TaskFields fields = *task_fields(op);
    PyObject_GC_Del(op);
    Py_XDECREF(fields.driver);
    Py_XDECREF(fields.context);
    Py_XDECREF(fields.name);
}

#define TASK_METHOD(name) \
    { \
#name, (PyCFunction)(void (*)(void))task_##name, \
            METH_VARARGS | METH_KEYWORDS, NULL \
    }

static PyMethodDef task_methods[] = {
    TASK_METHOD(cancel),
    TASK_METHOD(uncancel),
    TASK_METHOD(add_done_callback),
    TASK_METHOD(set_name),
    {"get_name", task_get_name, METH_NOARGS, NULL},
    {"get_coro", task_get_coro, METH_NOARGS, NULL},
    {"get_context", task_get_context, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_getset[] = {
    {"_coro", task_get_coro_attribute, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The asyncio.Task of an item.")},
    {Py_tp_dealloc, subclass_tp_dealloc},
    {Py_tp_free, task_tp_free},
    {Py_tp_finalize, task_tp_finalize},
    {Py_tp_traverse, task_tp_traverse},
    {Py_tp_clear, task_tp_clear},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getset},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "gatedcoro._core.Task",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = task_slots,
};

#endif /* GATEDCORO_TASK_H */
