/* Task: the asyncio.Task of an item, and of the queue's keeper.

   A C subclass of asyncio.Task.  It starts eagerly on every version, and
   answers get_name(), get_coro() and get_context() for the item that it runs at
   the moment.

   Reuse.  When an item has ended, its worker may run the next one in the same
   Task if nobody can tell: task_ends_unseen() and task_is_untouched() decide.
   Three things can tell: somebody who holds the Task, who watches it by a weak
   reference, or who did something to it.  What is told to our methods is noted (`touched`); what goes
   around them, as asyncio.Task.cancel(task) and object.__setattr__() do, shows
   in memory: asyncio's part of the Task is compared, word by word, with the image
   of a new one.  This is all that a Task remembers, by the names of FutureObj
   and TaskObj in CPython's Modules/_asynciomodule.c, 3.11 to 3.15:

      what                      is changed by               shows in
      fut_loop                  Future.__init__()           the image
      fut_callback0, fut_context0, fut_callbacks
                                add_done_callback()         touched, the image
      fut_state, fut_result, fut_exception, fut_exception_tb, fut_cancelled_exc
                                Future.set_result(), ...    the image
      fut_source_tb             debug mode: no reuse        the image
      fut_cancel_msg            cancel(), the attribute     touched, the image
      fut_log_tb, fut_is_task   Future.__init__()           the image
      fut_blocking              the attribute, __iter__()   the image
      fut_awaited_by, fut_awaited_by_is_set (3.14+)
                                future_add_to_awaited_by(), the image: it is the
                                future_discard_from_...()   caller, or nobody
      task_must_cancel, task_num_cancels_requested
                                cancel(), uncancel()        touched, the image
      task_log_destroy_pending  the attribute               the image
      task_fut_waiter           nobody: empty in a step     the image
      task_coro, task_context   Task.__init__()             the image
      task_name                 set_name()                  touched, the image
      task_node (3.14+)         _register_task(),           task_is_registered()
                                _unregister_task()
      dict; until 3.12 in the struct
                                any way to set an attribute task_has_attributes()
      weak references           weakref.ref(), and          task_is_unseen()
                                getweakrefs(), which hands
                                out asyncio's own

   And this is what asyncio remembers of a Task elsewhere:

      the registers (until 3.13)                            task_is_registered()
      the current Task          _enter_task(), _leave_task(),
                                _swap_current_task()        task_is_current()

   Beside the Task, what drives it may have been given away by get_coro(), and a
   context: worker.h sees to these. */

#ifndef GATEDCORO_TASK_H
#define GATEDCORO_TASK_H

#include "coroutines/coroutine_type.h"
#include "base/subclass.h"

typedef struct {
    CoroutineObject *driver; /* a Worker or a Keeper; owned */
    PyObject *context;       /* the Task's own; owned */
    PyObject *name;          /* given when asked; owned or NULL */
    bool touched;            /* something was done to the Task */
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

/* In worker.h and keeper.h. */
static PyObject *worker_user_coroutine(core_state *state,
                                       CoroutineObject *worker);
static PyObject *worker_context(CoroutineObject *worker);
static int keeper_cancelled(CoroutineObject *keeper, PyObject *message);

/*** The catcher ***/

/* A stand-in for an event loop, which catches the first step of a Task that
   is made on it. */
typedef struct {
    PyObject_HEAD
    PyObject *callback;
} CatcherObject;

static PyObject *
catcher_get_debug(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

static PyObject *
catcher_is_running(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

static PyObject *
catcher_call_soon(PyObject *op, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    CatcherObject *self = (CatcherObject *)op;
    Py_ssize_t size = PyTuple_GET_SIZE(args);
    if (size < 1) {
        PyErr_SetString(PyExc_TypeError, "call_soon() needs a callback");
        return NULL;
    }
    Py_XSETREF(self->callback, Py_NewRef(PyTuple_GET_ITEM(args, 0)));
    Py_RETURN_NONE;
}

static CatcherObject *
catcher_new(core_state *state)
{
    PyTypeObject *type = state->catcher_type;
    return (CatcherObject *)type->tp_alloc(type, 0);
}

static int
catcher_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((CatcherObject *)op)->callback);
    return 0;
}

static int
catcher_tp_clear(PyObject *op)
{
    Py_CLEAR(((CatcherObject *)op)->callback);
    return 0;
}

static void
catcher_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)catcher_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef catcher_methods[] = {
    {"get_debug", catcher_get_debug, METH_NOARGS, NULL},
    {"is_running", catcher_is_running, METH_NOARGS, NULL},
    {"call_soon", (PyCFunction)(void (*)(void))catcher_call_soon,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot catcher_slots[] = {
    {Py_tp_dealloc, catcher_tp_dealloc},
    {Py_tp_traverse, catcher_tp_traverse},
    {Py_tp_clear, catcher_tp_clear},
    {Py_tp_methods, catcher_methods},
    {0, NULL},
};

static PyType_Spec catcher_spec = {
    .name = "gatedcoro._core._Catcher",
    .basicsize = sizeof(CatcherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = catcher_slots,
};

/*** Construction and start ***/

/* Returns a Task that belongs to `driver` and is not initialised: the driver
   can know it before anything runs in it. */
static PyObject *
task_new(core_state *state, CoroutineObject *driver, PyObject *context)
{
    PyObject *task = subclass_alloc(state->task_type);
    if (task != NULL) {
        TaskFields *fields = task_fields(task);
        fields->driver = (CoroutineObject *)Py_NewRef(driver);
        fields->context = Py_NewRef(context);
    }
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
   loop, or because it could not be started, is not reported. */
static void
task_is_ours(core_state *state, PyObject *task)
{
    if (state->task_set_log_destroy_pending(task, Py_False, NULL) < 0) {
        PyErr_WriteUnraisable(task);
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
    PyObject *args = PyTuple_Pack(1, (PyObject *)fields->driver);
    int status = -1;
    if (args != NULL
        && PyDict_SetItem(kwargs, state->str_context, fields->context) == 0) {
        status = state->task_base->tp_init(task, args, kwargs);
    }
    Py_XDECREF(args);
    if (status < 0) {
        PyObject *raised = fetch_exception();
        task_is_ours(state, task);
        raise_exception(raised);
    }
    return status;
}

/* Runs `step` as asyncio runs a callback of `context`, in the middle of the
   step of another Task, if there is one. */
static int
run_nested_step(core_state *state, PyObject *loop, PyObject *step,
                PyObject *context)
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
        PyObject *done = PyObject_CallNoArgs(step);
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
   loop (Future.__init__ may be called again until 3.14), and the step runs. */
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
    task_is_ours(state, task);
    Py_SETREF(kwargs, PyDict_New());
    if (kwargs == NULL || PyDict_SetItem(kwargs, state->str_loop, loop) < 0
        || state->future_base->tp_init(task, state->empty_tuple, kwargs) < 0) {
        goto done;
    }
    PyObject *step = catcher->callback;
    catcher->callback = NULL;
    Py_CLEAR(catcher);
    Py_CLEAR(kwargs);
    status = run_nested_step(state, loop, step, task_fields(task)->context);
    Py_DECREF(step);
done:
    Py_XDECREF(catcher);
    Py_XDECREF(kwargs);
    return status;
}

/* Runs the first step of the Task's driver.  `loop` is the running loop,
   `*kwargs` NULL or what an earlier call left there for the next one.  Returns
   -1 if that let KeyboardInterrupt or SystemExit out, or if the Task could not
   be made. */
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
    PyObject *own_kwargs = Py_NewRef(*kwargs);
    int status = task_init(state, task, own_kwargs);
    Py_DECREF(own_kwargs);
    return status;
}

/* The first step runs in the next turn of the loop. */
static int
task_start_soon(core_state *state, PyObject *task, PyObject *loop)
{
    PyObject *kwargs = task_kwargs_new(state, loop, false);
    int status = kwargs == NULL ? -1 : task_init(state, task, kwargs);
    Py_XDECREF(kwargs);
    if (status == 0) {
        task_is_ours(state, task);
    }
    return status;
}

/*** Reuse ***/

/* References and weak references to an untouched Task of ours in the middle of
   a step.

                                     later step   first step,   first step,
                                                  caught        eager
      its driver                         1            1            1
      asyncio's current task             1            1            1
      the wrapper of the step            1            1            -
      who starts it                      -            1            1
      asyncio's set of eager Tasks       -            -            1 until 3.13
      weak: asyncio's register           1 until 3.13              -

   These are constants: what is counted at the beginning of a first step may
   include somebody who has the Task already, as a profiler's thread may that
   calls all_tasks() when it has just been registered. */
static inline Py_ssize_t
task_references(bool first_step)
{
    return first_step && !TASKS_ARE_LISTED ? 4 : 3;
}

static inline bool
task_is_watched(bool first_step)
{
    return !TASKS_ARE_LISTED && !(first_step && has_eager_tasks());
}

/* References to its driver in the middle of a step, beside that of who asks: the
   Task has it twice, and the step; and the arguments of an eager start. */
static inline Py_ssize_t
task_driver_references(bool first_step)
{
    return first_step && has_eager_tasks() ? 4 : 3;
}

/* Does nobody hold or watch the Task? */
static inline bool
task_is_unseen(PyObject *task, bool first_step)
{
    if (task_fields(task)->touched
        || Py_REFCNT(task) != task_references(first_step)) {
        return false;
    }
    PyWeakReference *watch = first_weakref(task);
    if (!task_is_watched(first_step)) {
        return watch == NULL;
    }
    /* weakref.getweakrefs() hands asyncio's own out. */
    return watch != NULL && watch->wr_next == NULL && Py_REFCNT(watch) == 1;
}

/* Is this a step of the Task?  Else somebody else steps what it drives, or has
   taken the step from it.  May run the loop's __hash__(). */
static bool
task_is_current(core_state *state, PyObject *task, PyObject *loop)
{
    PyObject *current = PyObject_CallOneArg(state->current_task, loop);
    if (current == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(current);
    return current == task;
}

/* Is there a callback that will look at how the Task ends? */
static bool
task_has_callbacks(core_state *state, PyObject *task)
{
    PyObject *callbacks = state->task_get_callbacks(task, NULL);
    if (callbacks == NULL) {
        PyErr_Clear(); /* no memory for the list */
    }
    Py_XDECREF(callbacks);
    return callbacks != Py_None;
}

static inline uintptr_t
task_word(PyObject *task, Py_ssize_t offset)
{
    uintptr_t word;
    memcpy(&word, (char *)task + offset, sizeof(word));
    return word;
}

/* The offset of the word of that number. */
static inline Py_ssize_t
word_offset(size_t number)
{
    return (Py_ssize_t)(sizeof(PyObject) + number * sizeof(uintptr_t));
}

/* Has asyncio registered the Task?  Those who hold or watch it are only counted:
   where asyncio has let go of it, there may be somebody else for that.  May run
   the __eq__() of another Task, until 3.13. */
static bool
task_is_registered(core_state *state, PyObject *task, bool first_step)
{
    if (TASKS_ARE_LISTED) {
        return task_word(task, word_offset(state->task_image.count)) != 0;
    }
    int found;
    if (task_is_watched(first_step)) {
        PyWeakReference *watch = first_weakref(task);
        found = watch == NULL ? 0
                              : set_contains(state->task_register,
                                             (PyObject *)watch, watch->hash);
    }
    else {
        found = set_contains(state->eager_task_register, task,
                             Py_TYPE(task)->tp_hash(task));
    }
    if (found < 0) {
        PyErr_Clear();
    }
    return found > 0;
}

static inline bool
task_has_attributes(core_state *state, PyObject *task)
{
    const TaskImage *image = &state->task_image;
    return task_word(task, image->dict) != 0
           || (INLINE_VALUES_FLAG != 0
               && (task_word(task, image->values) & image->values_bits)
                      != image->values_absent);
}

/* Is asyncio's part of it, word by word, as that of a new Task on that loop?
   `awaiter` is who is to be shown as awaiting it (3.14+), or NULL. */
static bool
task_looks_new(core_state *state, PyObject *task, PyObject *loop,
               PyObject *awaiter)
{
    TaskImage *image = &state->task_image;
    const TaskFields *fields = task_fields(task);
    /* What is each Task's own. */
    image->words[image->loop] = (uintptr_t)loop;
    image->words[image->driver] = (uintptr_t)fields->driver;
    image->words[image->context] = (uintptr_t)fields->context;
    if (HAS_AWAITED_BY) {
        image->words[image->awaiter] = (uintptr_t)awaiter;
    }
    if (!TASKS_ARE_LISTED) { /* task_is_unseen() looks at it */
        image->words[image->weakrefs] =
            task_word(task, word_offset(image->weakrefs));
    }
    return memcmp((char *)task + word_offset(0), image->words,
                  image->count * sizeof(uintptr_t))
           == 0;
}

/* An item has ended in a step that may be the Task's.  Will nobody see how the
   Task itself ends? */
static bool
task_ends_unseen(core_state *state, PyObject *task, PyObject *loop,
                 bool first_step)
{
    return task_is_unseen(task, first_step) && !task_has_callbacks(state, task)
           && task_is_current(state, task, loop)
           && task_is_registered(state, task, first_step);
}

/* May it go on with another item?  Runs no Python code. */
static bool
task_is_untouched(core_state *state, PyObject *task, PyObject *loop,
                  PyObject *awaiter, bool first_step)
{
    return task_is_unseen(task, first_step)
           && (!TASKS_ARE_LISTED
               || task_is_registered(state, task, first_step))
           && !task_has_attributes(state, task)
           && task_looks_new(state, task, loop, awaiter);
}

/* The Task runs another item from now on. */
static void
task_renew(PyObject *task)
{
    assert(!task_fields(task)->touched);
    Py_CLEAR(task_fields(task)->name);
}

/*** Methods ***/

/* Calls the base's method of that name. */
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
    if (fields->driver != NULL
        && Py_TYPE(fields->driver) == state_of(op)->keeper_type
        && keeper_cancelled(fields->driver, message) < 0) {
        return NULL;
    }
    return task_call_base(op, "cancel", args, kwargs);
}

static PyObject *
task_uncancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    task_fields(op)->touched = true;
    return task_call_base(op, "uncancel", args, kwargs);
}

static PyObject *
task_add_done_callback(PyObject *op, PyObject *args, PyObject *kwargs)
{
    task_fields(op)->touched = true;
    return task_call_base(op, "add_done_callback", args, kwargs);
}

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

static PyObject *
task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CoroutineObject *driver = task_fields(op)->driver;
    if (driver == NULL) {
        Py_RETURN_NONE;
    }
    core_state *state = state_of(op);
    if (Py_TYPE(driver) == state->worker_type) {
        return worker_user_coroutine(state, driver);
    }
    return Py_NewRef(driver);
}

static PyObject *
task_get_coro_attribute(PyObject *op, void *Py_UNUSED(closure))
{
    return task_get_coro(op, NULL);
}

static PyObject *
task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskFields *fields = task_fields(op);
    PyObject *context = fields->context;
    if (fields->driver != NULL
        && Py_TYPE(fields->driver) == state_of(op)->worker_type
        && worker_context(fields->driver) != NULL) {
        context = worker_context(fields->driver);
    }
    return Py_NewRef(context == NULL ? Py_None : context);
}

/*** Lifecycle ***/

static void
task_clear_fields(PyObject *op)
{
    TaskFields *fields = task_fields(op);
    Py_CLEAR(fields->driver);
    Py_CLEAR(fields->context);
    Py_CLEAR(fields->name);
}

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
    task_clear_fields(op);
    return Py_TYPE(op)->tp_base->tp_clear(op);
}

/* Every outcome is retrieved by the gathering, as asyncio.gather does. */
static void
task_tp_finalize(PyObject *op)
{
    /* Cannot fail: only True is refused. */
    (void)state_of(op)->future_set_log_traceback(op, Py_False, NULL);
    Py_TYPE(op)->tp_base->tp_finalize(op);
}

static void
task_tp_dealloc(PyObject *op)
{
    subclass_dealloc(op, task_clear_fields);
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
    {Py_tp_dealloc, task_tp_dealloc},
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
