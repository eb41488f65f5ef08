/* gatedcoro._core: running many coroutines under a limit.

   One translation unit; one header per type or concept, each of which begins
   with what it is.  From the outside in:

      function.h     the public functions, as callable objects
      front_door.h   a call, from its arguments to an open gathering
      arguments.h    binding, limits, awaitables
      gathering.h    the engine: queue, limit, pump, outcomes
      worker.h       drives items, one after the other, in one Task
      gated.h        drives one item inside of an async context manager
      semaphore.h    asyncio's semaphores, without their coroutines
      watcher.h      a Future that needs neither Task nor slot
      waiter.h       what a Task of ours waits on until we wake it
      keeper.h       stands for the queue among the loop's Tasks
      task.h         our asyncio.Task; when it may be reused
      probe.h        measures what an untouched Task looks like
      outer.h        our asyncio.Future, whose cancel() reaches the items
      subclass.h     subclasses of asyncio's C types
      coroutine.h    send, throw and close, once for all coroutine types
      await.h        what `await` does
      state.h        module state
      compat.h       CPython 3.11 to 3.15 */

#include "function.h"
#include "probe.h"

static inline core_state *
state_of_module(PyObject *module)
{
    return (core_state *)PyModule_GetState(module);
}

/*** Module functions, for the tests ***/

static PyObject *
core_set_clock(PyObject *module, PyObject *clock)
{
    core_state *state = state_of_module(module);
    if (clock != Py_None && !PyCallable_Check(clock)) {
        PyErr_Format(PyExc_TypeError,
                     "clock must be a callable or None, got %R", clock);
        return NULL;
    }
    Py_XSETREF(state->clock, clock == Py_None ? NULL : Py_NewRef(clock));
    Py_RETURN_NONE;
}

static PyObject *
core_set_task_reuse(PyObject *module, PyObject *enabled)
{
    core_state *state = state_of_module(module);
    int truth = PyObject_IsTrue(enabled);
    if (truth < 0) {
        return NULL;
    }
    bool before = state->reuse_wanted;
    state->reuse_wanted = truth;
    return PyBool_FromLong(before);
}

static PyMethodDef core_methods[] = {
    {"_set_clock", core_set_clock, METH_O,
     PyDoc_STR("_set_clock($module, clock, /)\n--\n\n"
               "Let `clock` say the time in seconds; None: the monotonic "
               "clock.  For tests.")},
    {"_set_task_reuse", core_set_task_reuse, METH_O,
     PyDoc_STR("_set_task_reuse($module, enabled, /)\n--\n\n"
               "Let Tasks be used for several items, or not; returns what "
               "held before.\nFor tests.")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef retrieve_exception_def = {"retrieve_exception",
                                             retrieve_exception, METH_O, NULL};

/*** Lifecycle ***/

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    core_state *state = state_of_module(module);
#define VISIT(name) Py_VISIT(state->name);
    FOR_EACH_TYPE(VISIT)
    FOR_EACH_OBJECT(VISIT)
#undef VISIT
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        Py_VISIT(state->semaphore_methods[i]);
        Py_VISIT(state->bounded_semaphore_methods[i]);
    }
    return 0;
}

static int
core_clear(PyObject *module)
{
    core_state *state = state_of_module(module);
#define CLEAR(name)              Py_CLEAR(state->name);
#define CLEAR_STRING(name, text) Py_CLEAR(state->str_##name);
    FOR_EACH_TYPE(CLEAR)
    FOR_EACH_OBJECT(CLEAR)
    FOR_EACH_STRING(CLEAR_STRING)
#undef CLEAR
#undef CLEAR_STRING
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        Py_CLEAR(state->semaphore_names[i]);
        Py_CLEAR(state->semaphore_methods[i]);
        Py_CLEAR(state->bounded_semaphore_methods[i]);
    }
    return 0;
}

static void
core_free(void *module)
{
    (void)core_clear((PyObject *)module);
}

static int
core_make_strings(core_state *state)
{
#define MAKE_STRING(name, text) \
    state->str_##name = PyUnicode_InternFromString(text); \
    if (state->str_##name == NULL) { \
        return -1; \
    }
    FOR_EACH_STRING(MAKE_STRING)
#undef MAKE_STRING
#define MAKE(field, value) \
    state->field = (value); \
    if (state->field == NULL) { \
        return -1; \
    }
    MAKE(empty_tuple, PyTuple_New(0))
    MAKE(zero, PyLong_FromLong(0))
    MAKE(task_name, PyUnicode_FromString("gatedcoro"))
    MAKE(context_kwname, PyTuple_Pack(1, state->str_context))
    MAKE(msg_kwname, PyTuple_Pack(1, state->str_msg))
#undef MAKE
    return 0;
}

/* module.name: new reference. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return value;
}

static int
core_import_asyncio(core_state *state)
{
    PyObject *loop_type = import_from("asyncio.base_events", "BaseEventLoop");
    if (loop_type == NULL) {
        return -1;
    }
    state->stock_create_task =
        PyObject_GetAttr(loop_type, state->str_create_task);
    Py_DECREF(loop_type);
    if (state->stock_create_task == NULL) {
        return -1;
    }
#define IMPORT_AS(type, field, module, name) \
    state->field = (type)import_from(module, name); \
    if (state->field == NULL) { \
        return -1; \
    }
#define IMPORT(field, module, name) IMPORT_AS(PyObject *, field, module, name)
    IMPORT(asyncio_tasks, "asyncio", "tasks")
    IMPORT(get_running_loop, "asyncio.events", "get_running_loop")
    IMPORT(get_running_loop_or_none, "asyncio.events", "_get_running_loop")
    IMPORT(get_event_loop, "asyncio.events", GATHER_GET_EVENT_LOOP)
    IMPORT(current_task, "asyncio.tasks", "current_task")
    IMPORT(enter_task, "asyncio.tasks", "_enter_task")
    IMPORT(leave_task, "asyncio.tasks", "_leave_task")
    IMPORT(cancelled_error, "asyncio", "CancelledError")
    IMPORT(isfuture, "asyncio", "isfuture")
    IMPORT(semaphore_type, "asyncio", "Semaphore")
    IMPORT(bounded_semaphore_type, "asyncio", "BoundedSemaphore")
    IMPORT(deque, "collections", "deque")
    IMPORT(abc_coroutine, "collections.abc", "Coroutine")
    IMPORT(asyncio_futures, "asyncio", "futures")
    IMPORT_AS(PyTypeObject *, future_base, "_asyncio", "Future")
    IMPORT_AS(PyTypeObject *, task_base, "_asyncio", "Task")
#undef IMPORT
#undef IMPORT_AS
    return 0;
}

static int
core_note_semaphores(core_state *state)
{
    static const char *const names[] = {
        [SEMAPHORE_ACQUIRE] = "acquire",
        [SEMAPHORE_LOCKED] = "locked",
        [SEMAPHORE_RELEASE] = "release",
        [SEMAPHORE_WAKE_UP_NEXT] = "_wake_up_next",
        [SEMAPHORE_AENTER] = "__aenter__",
        [SEMAPHORE_AEXIT] = "__aexit__",
    };
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        PyObject *name = PyUnicode_InternFromString(names[i]);
        if (name == NULL) {
            return -1;
        }
        state->semaphore_names[i] = name;
        state->semaphore_methods[i] = Py_XNewRef(
            _PyType_Lookup((PyTypeObject *)state->semaphore_type, name));
        state->bounded_semaphore_methods[i] = Py_XNewRef(_PyType_Lookup(
            (PyTypeObject *)state->bounded_semaphore_type, name));
    }
    return 0;
}

/* Finds what asyncio's types answer directly. */
static int
core_find_shortcuts(core_state *state)
{
    PyGetSetDef *cr_await = find_getset(&PyCoro_Type, "cr_await");
    PyGetSetDef *must_cancel = find_getset(state->task_base, "_must_cancel");
    PyGetSetDef *callbacks = find_getset(state->future_base, "_callbacks");
    PyGetSetDef *blocking =
        find_getset(state->future_base, "_asyncio_future_blocking");
    PyGetSetDef *fut_waiter = find_getset(state->task_base, "_fut_waiter");
    PyGetSetDef *log_destroy_pending =
        find_getset(state->task_base, "_log_destroy_pending");
    PyGetSetDef *log_traceback =
        find_getset(state->future_base, "_log_traceback");
    PyMethodDef *cancelling = find_method(state->task_base, "cancelling");
    PyMethodDef *get_name = find_method(state->task_base, "get_name");
    if (cr_await == NULL || must_cancel == NULL || callbacks == NULL
        || blocking == NULL || fut_waiter == NULL
        || log_destroy_pending == NULL || log_traceback == NULL
        || cancelling == NULL || get_name == NULL) {
        PyErr_SetString(PyExc_ImportError,
                        "gatedcoro._core does not know this asyncio");
        return -1;
    }
    state->coro_get_await = cr_await->get;
    state->coro_await_closure = cr_await->closure;
    state->task_get_must_cancel = must_cancel->get;
    state->task_get_callbacks = callbacks->get;
    state->task_get_blocking = blocking->get;
    state->task_get_fut_waiter = fut_waiter->get;
    state->task_set_log_destroy_pending = log_destroy_pending->set;
    state->future_set_log_traceback = log_traceback->set;
    state->task_cancelling = cancelling->ml_meth;
    state->task_get_name = get_name->ml_meth;
    return 0;
}

static int
core_make_types(PyObject *module, core_state *state)
{
#define MAKE(field, type) \
    state->field = (type); \
    if (state->field == NULL) { \
        return -1; \
    }
#define MAKE_TYPE(field, spec) \
    MAKE(field, (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL))
    MAKE_TYPE(function_type, function_spec)
    MAKE_TYPE(gathering_type, gathering_spec)
    MAKE_TYPE(catcher_type, catcher_spec)
    MAKE_TYPE(probe_type, probe_spec)
    MAKE_TYPE(waiter_type, waiter_spec)
    MAKE_TYPE(watcher_type, watcher_spec)
    MAKE_TYPE(worker_type, worker_spec)
    MAKE_TYPE(keeper_type, keeper_spec)
    MAKE_TYPE(front_door_type, front_door_spec)
    MAKE_TYPE(gated_type, gated_spec)
    MAKE(outer_type, subclass_type(module, &outer_spec, state->future_base,
                                   sizeof(OuterFields)))
    MAKE(task_type, subclass_type(module, &task_spec, state->task_base,
                                  sizeof(TaskFields)))
#undef MAKE_TYPE
#undef MAKE
    return 0;
}

/* Marks a function as one that returns a coroutine. */
static int
mark_coroutine_function(PyObject *function)
{
    PyObject *marker = NULL, *marked = NULL;
    int status = -1;
    if (MARKED_BY_INSPECT) {
        marker = import_from("inspect", "markcoroutinefunction");
        marked = marker == NULL ? NULL : PyObject_CallOneArg(marker, function);
        status = marked == NULL ? -1 : 0;
    }
    else {
        marker = import_from("asyncio.coroutines", "_is_coroutine");
        status =
            marker == NULL
                ? -1
                : PyObject_SetAttrString(function, "_is_coroutine", marker);
    }
    Py_XDECREF(marker);
    Py_XDECREF(marked);
    return status;
}

static int
core_add_functions(PyObject *module, core_state *state)
{
    static const struct {
        const char *name;
        FunctionCall call;
        bool returns_coroutine;
    } functions[] = {
        {"gated_coro", gated_coro_call, true},
        {"gather_with_concurrency", gather_with_concurrency_call, true},
        {"gather", gather_call, false},
        {"run_all", run_all_call, true},
        {"constrained_execution", constrained_execution_call, true},
    };
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        PyObject *function =
            function_new(state, functions[i].name, functions[i].call);
        if (function == NULL) {
            return -1;
        }
        int status = functions[i].returns_coroutine
                         ? mark_coroutine_function(function)
                         : 0;
        if (status == 0) {
            status =
                PyModule_AddObjectRef(module, functions[i].name, function);
        }
        Py_DECREF(function);
        if (status < 0) {
            return -1;
        }
    }
    return 0;
}

/* The environment variable GATEDCORO_TASK_REUSE. */
static int
core_read_environment(core_state *state)
{
    PyObject *task_reuse = import_from("gatedcoro._environment", "task_reuse");
    PyObject *wanted =
        task_reuse == NULL ? NULL : PyObject_CallNoArgs(task_reuse);
    int truth = wanted == NULL ? -1 : PyObject_IsTrue(wanted);
    Py_XDECREF(task_reuse);
    Py_XDECREF(wanted);
    state->reuse_wanted = truth > 0;
    return truth < 0 ? -1 : 0;
}

static int
core_measure_tasks(core_state *state)
{
    PyObject *set_running_loop =
        import_from("asyncio.events", "_set_running_loop");
    if (set_running_loop == NULL) {
        return -1;
    }
    int status = TASKS_HAVE_ONE_COUNT ? probe_tasks(state, set_running_loop,
                                                    &state->reuse_works)
                                      : 0;
    Py_DECREF(set_running_loop);
    return status;
}

static int
core_fill(PyObject *module, core_state *state)
{
    if (core_make_strings(state) < 0 || core_import_asyncio(state) < 0
        || core_note_semaphores(state) < 0 || core_find_shortcuts(state) < 0
        || core_make_types(module, state) < 0
        || core_add_functions(module, state) < 0) {
        return -1;
    }
    state->retrieve_exception =
        PyCFunction_New(&retrieve_exception_def, module);
    if (state->retrieve_exception == NULL) {
        return -1;
    }
    return core_read_environment(state) < 0 ? -1 : core_measure_tasks(state);
}

static int
core_exec(PyObject *module)
{
    int status = core_fill(module, state_of_module(module));
    if (status < 0 && !PyErr_Occurred()) {
        PyErr_NoMemory(); /* until 3.12 a type that fails may not say so */
    }
    return status;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    MODULE_INTERPRETER_SLOTS{0, NULL},
};

static PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gatedcoro._core",
    .m_doc = PyDoc_STR("The engine of gatedcoro, in C."),
    .m_size = sizeof(core_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
