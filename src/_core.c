/* gatedcoro._core: running many coroutines under a limit.

   One translation unit; one header per type or concept, each of which begins
   with what it is.  A header includes from its own folder and from those below.
   From the outside in:

   surface/
      function.h           the public functions, as callable objects
      functions.h          what each is called with, and what it does with that
      front_door.h         the coroutine that opens a gathering, and waits
      opening.h            how a call that is in order becomes a gathering
      as_completed_type.h  what Python code sees of an AsCompleted
      completion.h         its coroutines: a consumer that has a claim
      as_completed.h       what as_completed() returns: a Stream of Tasks
      completed_tasks.h    its results: the Tasks themselves
      stream_type.h        what Python code sees of a Stream
      stream_block.h       the coroutines that end a Stream
      semaphore_type.h     what Python code sees of a Semaphore
      method.h             the methods of classes that return a coroutine
      consumer.h           the coroutine that asks a Stream for a result
      stream.h             what amap() returns
      stream_results.h     what is between items and consumers: a sink
      iterables.h          arguments that are iterated over
      awaitables.h         arguments as asyncio.gather takes them
      arguments.h          how a call is bound to a function's parameters
      results.h            the list of all outcomes: a sink
      outer.h              our asyncio.Future, whose cancel() reaches the items
   engine/
      runner.h             how an item gets a Task
      iteration_source.h   what a gathering asks of it
      iteration_step.h     the steps of its Task
      iteration.h          what goes through an async iterable: a source
      worker.h             drives items, one after the other, in one Task
      worker_item.h        the item that it drives at the moment
      watcher.h            a Future that needs no Task
      step.h               what the step of an item ends with
      pass.h               starts items, while there is room: the loop
      leaving.h            what happens when nobody wants the rest
      telling.h            how many have ended, to who wants to know
      outcome.h            what happens when something that ran has ended
      ending.h             how the queue is closed, and the call ends
      gathering.h          one call: its parts, its state, what holds
      progress.h           who is told, and what has not been
      sink.h               where outcomes go
      source_ending.h      how what never starts is closed
      source.h             where items come from
      limit.h              how many may run at once
      slots.h              a semaphore of ours as the limit
      running.h            what runs
      slice.h              how long a pass may take
      turns.h              how many items end in a turn of the loop
      call_graph.h         who is shown as awaiting what runs
   coroutines/
      keeper.h             a Task that stands for an owner which has none
      gated_row.h          drives one item inside of several
      gated.h              drives one item inside of an async context manager
      async_with.h         what `async with` does around its body
      semaphore_coroutine.h  what acquire() and `async with` of ours return
      semaphore.h          our Semaphore, whose limit can change
      semaphore_queue.h    who waits for one
      semaphore_waiter.h   one place in its queue
      asyncio_semaphore.h  asyncio's semaphores, without their coroutines
      current.h            who is the current Task while others make a Task
      probe.h              measures what an untouched Task looks like
      task_reuse.h         may a Task of ours run another item?
      task.h               our asyncio.Task
      catcher.h            a stand-in for a loop, which catches a Task's step
      waiter.h             what a Task of ours waits on until we wake it
      item.h               how an item begins, and how it is given up
      await.h              what `await` does
      coroutine_type.h     what Python code sees of our coroutines
      coroutine.h          send, throw and close, once for all coroutine types
      delegate.h           sends and throws into what a coroutine drives
   base/
      hidden_list.h        a list with holes, which the collector does not see
      subclass.h           subclasses of asyncio's C types
      stock.h              what asyncio's functions do: is it still that?
      import.h             what is taken from other modules
      call.h               calling helpers, errors that belong to no item
      state.h              module state
      spares.h             the memory of objects that have gone, for the next
      compat.h             CPython 3.11 to 3.15 */

#include "surface/function.h"
#include "surface/semaphore_type.h"
#include "coroutines/probe.h"
#include "base/import.h"
#include "base/stock.h"

static inline core_state *
state_of_module(PyObject *module)
{
    return (core_state *)PyModule_GetState(module);
}

/*** Module functions, for the tests ***/

/* Runs Python code. */
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

/* Returns what held before: new reference.  Runs Python code. */
static PyObject *
set_switch(bool *on, PyObject *enabled)
{
    int truth = PyObject_IsTrue(enabled);
    if (truth < 0) {
        return NULL;
    }
    bool before = *on;
    *on = truth;
    return PyBool_FromLong(before);
}

/* Runs Python code. */
static PyObject *
core_set_task_reuse(PyObject *module, PyObject *enabled)
{
    return set_switch(&state_of_module(module)->reuse_wanted, enabled);
}

/* Runs Python code. */
static PyObject *
core_set_full_turns(PyObject *module, PyObject *enabled)
{
    return set_switch(&state_of_module(module)->turns_begin_full, enabled);
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
    {"_set_full_turns", core_set_full_turns, METH_O,
     PyDoc_STR("_set_full_turns($module, enabled, /)\n--\n\n"
               "Let turns of the loop count as full from the start of a call, "
               "or not;\nreturns what held before.  For tests.")},
    {NULL, NULL, 0, NULL},
};

/*** Lifecycle ***/

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    core_state *state = state_of_module(module);
#define VISIT(name) Py_VISIT(state->name);
    FOR_EACH_TYPE(VISIT)
    FOR_EACH_OBJECT(VISIT)
#undef VISIT
    Py_VISIT(state->create_task.function);
    Py_VISIT(state->create_task.code);
    Py_VISIT(state->create_task.keyword_defaults);
    int stop = own_semaphores_traverse(state, visit, arg);
    return stop != 0 ? stop : asyncio_semaphores_traverse(state, visit, arg);
}

static int
core_clear(PyObject *module)
{
    core_state *state = state_of_module(module);
    spares_close(&state->workers);
    spares_close(&state->consumers);
    spares_close(&state->gated_coroutines);
    spares_close(&state->semaphore_coroutines);
    spares_close(&state->semaphore_waiters);
#define CLEAR(name)              Py_CLEAR(state->name);
#define CLEAR_STRING(name, text) Py_CLEAR(state->str_##name);
    FOR_EACH_TYPE(CLEAR)
    FOR_EACH_OBJECT(CLEAR)
    FOR_EACH_STRING(CLEAR_STRING)
#undef CLEAR
#undef CLEAR_STRING
    Py_CLEAR(state->task_args);
    Py_CLEAR(state->create_task.function);
    Py_CLEAR(state->create_task.code);
    Py_CLEAR(state->create_task.keyword_defaults);
    asyncio_semaphores_clear(state);
    own_semaphores_clear(state);
    return 0;
}

static void
core_free(void *module)
{
    (void)core_clear((PyObject *)module);
    core_state *state = state_of_module((PyObject *)module);
    asyncio_semaphores_free(state);
    PyMem_Free(state->own_semaphores);
    state->own_semaphores = NULL;
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
    MAKE(task_name, PyUnicode_FromString("gatedcoro"))
    MAKE(context_kwname, PyTuple_Pack(1, state->str_context))
    MAKE(loop_kwname, PyTuple_Pack(1, state->str_loop))
    MAKE(msg_kwname, PyTuple_Pack(1, state->str_msg))
#undef MAKE
    return 0;
}

/* Runs Python code. */
static int
core_import_asyncio(core_state *state)
{
#define IMPORT(field, value) \
    state->field = value; \
    if (state->field == NULL) { \
        return -1; \
    }
#define IMPORT_FUNCTION(field, module, name, behind) \
    IMPORT(field, import_function(module, name, behind))
#define IMPORT_TYPE(field, module, name) \
    IMPORT(field, (PyTypeObject *)import_class(module, name))
    /* asyncio's own Tasks look at nothing else. */
    IMPORT(current_task, import_current_task())
    IMPORT_FUNCTION(enter_task, "_asyncio", "_enter_task", "asyncio.tasks")
    IMPORT_FUNCTION(leave_task, "_asyncio", "_leave_task", "asyncio.tasks")
    state->swap_current_task = import_swap_current_task();
    if (PyErr_Occurred()) {
        return -1;
    }
    IMPORT_TYPE(future_base, "_asyncio", "Future")
    IMPORT_TYPE(task_base, "_asyncio", "Task")
    IMPORT_FUNCTION(get_running_loop, "asyncio.events", "get_running_loop",
                    "_asyncio")
    IMPORT_FUNCTION(get_running_loop_or_none, "asyncio.events",
                    "_get_running_loop", "_asyncio")
    IMPORT_FUNCTION(get_event_loop, "asyncio.events", GATHER_GET_EVENT_LOOP,
                    "_asyncio")
    IMPORT_FUNCTION(isfuture, "asyncio.futures", "isfuture",
                    "asyncio.base_futures")
    IMPORT_FUNCTION(iscoroutine, "asyncio.coroutines", "iscoroutine",
                    "asyncio")
    IMPORT_FUNCTION(isawaitable, "inspect", "isawaitable", "inspect")
    IMPORT(abc_coroutine,
           import_class_of("_collections_abc", "Coroutine", "send"))
    IMPORT(deque, import_from("_collections", "deque"))
    IMPORT(asyncio_tasks, PyImport_ImportModule("asyncio.tasks"))
    IMPORT(asyncio_futures, PyImport_ImportModule("asyncio.futures"))
#undef IMPORT
#undef IMPORT_FUNCTION
#undef IMPORT_TYPE
    return 0;
}

/* Notes how asyncio's own loops make Tasks, if that is stock (stock.h).
   Runs Python code. */
static int
core_note_create_task(core_state *state)
{
    PyObject *loop_type =
        import_class_of("asyncio.base_events", "BaseEventLoop", "create_task");
    if (loop_type == NULL) {
        return can_do_without();
    }
    PyObject *module = PyImport_ImportModule("asyncio.base_events");
    int status = module == NULL
                     ? -1
                     : stock_note(&state->create_task, module, loop_type,
                                  state->str_create_task);
    Py_XDECREF(module);
    Py_DECREF(loop_type);
    return status;
}

/* Finds a getset or a method in the static table of one of asyncio's types;
   NULL without an exception if there is none. */
static PyGetSetDef *
find_getset(PyTypeObject *type, const char *name)
{
    for (PyGetSetDef *def = type->tp_getset; def && def->name; def++) {
        if (strcmp(def->name, name) == 0) {
            return def;
        }
    }
    return NULL;
}

static PyMethodDef *
find_method(PyTypeObject *type, const char *name)
{
    for (PyMethodDef *def = type->tp_methods; def && def->ml_name; def++) {
        if (strcmp(def->ml_name, name) == 0) {
            return def;
        }
    }
    return NULL;
}

/* Finds what asyncio's types answer directly.  Runs Python code. */
static int
core_find_shortcuts(core_state *state)
{
    PyGetSetDef *cr_await = find_getset(&PyCoro_Type, "cr_await");
    PyGetSetDef *must_cancel = find_getset(state->task_base, "_must_cancel");
    PyGetSetDef *callbacks = find_getset(state->future_base, "_callbacks");
    PyGetSetDef *log_destroy_pending =
        find_getset(state->task_base, "_log_destroy_pending");
    PyGetSetDef *log_traceback =
        find_getset(state->future_base, "_log_traceback");
    PyGetSetDef *blocking =
        find_getset(state->future_base, "_asyncio_future_blocking");
    PyMethodDef *done = find_method(state->future_base, "done");
    PyMethodDef *get_name = find_method(state->task_base, "get_name");
    if (cr_await == NULL || must_cancel == NULL || callbacks == NULL
        || log_destroy_pending == NULL || log_traceback == NULL
        || blocking == NULL || done == NULL || get_name == NULL) {
        PyErr_Format(PyExc_ImportError,
                     "gatedcoro._core needs _asyncio.Future and "
                     "_asyncio.Task as CPython has them; they are %R and %R",
                     state->future_base, state->task_base);
        return -1;
    }
    state->coro_get_await = cr_await->get;
    state->coro_await_closure = cr_await->closure;
    state->task_get_must_cancel = must_cancel->get;
    state->future_get_callbacks = callbacks->get;
    state->task_set_log_destroy_pending = log_destroy_pending->set;
    state->future_set_blocking = blocking->set;
    state->future_get_log_traceback = log_traceback->get;
    state->future_set_log_traceback = log_traceback->set;
    state->future_done = done->ml_meth;
    state->task_get_name = get_name->ml_meth;
    return 0;
}

/* Runs Python code. */
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
    MAKE_TYPE(results_type, results_spec)
    MAKE_TYPE(iteration_type, iteration_spec)
    MAKE(stream_type, (PyTypeObject *)stream_type_new(module))
    MAKE_TYPE(stream_results_type, stream_results_spec)
    MAKE_TYPE(consumer_type, consumer_spec)
    MAKE(as_completed_type, (PyTypeObject *)as_completed_type_new(module))
    MAKE_TYPE(completed_tasks_type, completed_tasks_spec)
    MAKE_TYPE(completion_type, completion_spec)
    MAKE_TYPE(block_type, block_spec)
    MAKE_TYPE(catcher_type, catcher_spec)
    MAKE_TYPE(probe_type, probe_spec)
    MAKE_TYPE(waiter_type, waiter_spec)
    MAKE_TYPE(watcher_type, watcher_spec)
    MAKE_TYPE(worker_type, worker_spec)
    MAKE_TYPE(keeper_type, keeper_spec)
    MAKE_TYPE(front_door_type, front_door_spec)
    MAKE_TYPE(gated_type, gated_spec)
    MAKE_TYPE(semaphore_queue_type, semaphore_queue_spec)
    MAKE_TYPE(semaphore_waiter_type, semaphore_waiter_spec)
    MAKE_TYPE(semaphore_coroutine_type, semaphore_coroutine_spec)
    MAKE_TYPE(method_type, method_spec)
    MAKE(outer_type, subclass_type(module, &outer_spec, state->future_base,
                                   sizeof(OuterFields)))
    MAKE(task_type, subclass_type(module, &task_spec, state->task_base,
                                  sizeof(TaskFields)))
#undef MAKE_TYPE
#undef MAKE
    return semaphore_types_make(module, state);
}

/* Their methods make them coroutines; but the abstract class looks for methods
   only as long as it is found by its own name.  Runs Python code. */
static int
core_register_coroutines(core_state *state)
{
    PyTypeObject *const types[] = {
        state->worker_type,     state->keeper_type,
        state->probe_type,      state->front_door_type,
        state->gated_type,      state->iteration_type,
        state->consumer_type,   state->block_type,
        state->completion_type, state->semaphore_coroutine_type,
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        PyObject *registered = PyObject_CallMethod(state->abc_coroutine,
                                                   "register", "O", types[i]);
        if (registered == NULL) {
            return -1;
        }
        Py_DECREF(registered);
    }
    return 0;
}

/* The class that asyncio's C types raise.  Runs Python code. */
static int
core_find_cancelled_error(core_state *state)
{
    CatcherObject *loop = catcher_new(state);
    PyObject *future =
        loop == NULL ? NULL : outer_new(state, (PyObject *)loop);
    PyObject *error = future == NULL
                          ? NULL
                          : PyObject_CallMethodNoArgs(
                              future, state->str_make_cancelled_error);
    if (error != NULL) {
        state->cancelled_error = Py_NewRef(Py_TYPE(error));
    }
    Py_XDECREF(loop);
    Py_XDECREF(future);
    Py_XDECREF(error);
    return error == NULL ? -1 : 0;
}

/* Marks a function as one that returns a coroutine, if that can be done.
   Runs Python code. */
static int
mark_coroutine_function(PyObject *function)
{
    if (!MARKED_BY_INSPECT) {
        PyObject *marker = import_from("asyncio.coroutines", "_is_coroutine");
        int status =
            marker == NULL
                ? -1
                : PyObject_SetAttrString(function, "_is_coroutine", marker);
        Py_XDECREF(marker);
        return status;
    }
    PyObject *marker = import_from("inspect", "markcoroutinefunction");
    if (marker == NULL) {
        return -1;
    }
    PyObject *marked = PyCallable_Check(marker)
                           ? PyObject_CallOneArg(marker, function)
                           : Py_NewRef(Py_None);
    Py_DECREF(marker);
    Py_XDECREF(marked);
    return marked == NULL ? -1 : 0;
}

/* Runs Python code. */
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
        {"amap", amap_call, false},
        {"as_completed", as_completed_call, false},
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

/* The environment variable GATEDCORO_TASK_REUSE.  Runs Python code. */
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

/* May Tasks be reused?  Runs Python code. */
static int
core_measure_tasks(core_state *state)
{
    PyObject *set_running_loop =
        import_function("_asyncio", "_set_running_loop", "asyncio.events");
    if (set_running_loop == NULL) {
        return -1;
    }
    int status = TASKS_HAVE_ONE_COUNT ? probe_tasks(state, set_running_loop,
                                                    &state->reuse_works)
                                      : 0;
    Py_DECREF(set_running_loop);
    return status;
}

/* Runs Python code. */
static int
core_fill(PyObject *module, core_state *state)
{
    if (core_make_strings(state) < 0 || core_import_asyncio(state) < 0
        || core_note_create_task(state) < 0
        || asyncio_semaphores_note(state) < 0 || core_find_shortcuts(state) < 0
        || core_make_types(module, state) < 0
        || core_register_coroutines(state) < 0
        || core_find_cancelled_error(state) < 0
        || core_add_functions(module, state) < 0
        || PyModule_AddObjectRef(module, "Stream",
                                 (PyObject *)state->stream_type)
               < 0
        || PyModule_AddObjectRef(module, "AsCompleted",
                                 (PyObject *)state->as_completed_type)
               < 0
        || PyModule_AddObjectRef(module, "Semaphore",
                                 (PyObject *)state->semaphore_type)
               < 0
        || PyModule_AddObjectRef(module, "BoundedSemaphore",
                                 (PyObject *)state->bounded_semaphore_type)
               < 0) {
        return -1;
    }
    return core_read_environment(state) < 0 ? -1 : core_measure_tasks(state);
}

/* Runs Python code. */
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
