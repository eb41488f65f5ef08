/* What the module keeps: its types, what it uses of asyncio, its strings.

   One per interpreter; nothing here is static. */

#ifndef GATEDCORO_STATE_H
#define GATEDCORO_STATE_H

#include "base/spares.h"

/* Our types; the specs and bases are in _core.c. */
#define FOR_EACH_TYPE(X) \
    X(function_type) \
    X(gathering_type) \
    X(outer_type) \
    X(results_type) \
    X(iteration_type) \
    X(stream_type) \
    X(stream_results_type) \
    X(consumer_type) \
    X(block_type) \
    X(as_completed_type) \
    X(completed_tasks_type) \
    X(completion_type) \
    X(task_type) \
    X(catcher_type) \
    X(probe_type) \
    X(waiter_type) \
    X(watcher_type) \
    X(worker_type) \
    X(keeper_type) \
    X(front_door_type) \
    X(gated_type) \
    X(semaphore_type) \
    X(bounded_semaphore_type) \
    X(semaphore_queue_type) \
    X(semaphore_waiter_type) \
    X(semaphore_coroutine_type) \
    X(method_type) \
    X(future_base) /* _asyncio.Future */ \
    X(task_base)   /* _asyncio.Task */

/* What is used of asyncio and other modules, and what is made once. */
#define FOR_EACH_OBJECT(X) \
    X(asyncio_tasks) /* the module: its Task may be replaced */ \
    X(get_running_loop) \
    X(get_running_loop_or_none) /* asyncio.events._get_running_loop */ \
    X(get_event_loop)           /* as asyncio.gather asks */ \
    X(current_task)             /* by its loop: a function */ \
    X(enter_task) \
    X(leave_task) \
    X(swap_current_task)   /* 3.12+; or NULL */ \
    X(task_register)       /* the set in asyncio's WeakSet, until 3.13 */ \
    X(eager_task_register) /* 3.12 and 3.13 */ \
    X(asyncio_futures)     /* the module, whose functions may be replaced */ \
    X(cancelled_error) \
    X(isfuture) \
    X(iscoroutine)   /* asyncio.iscoroutine */ \
    X(isawaitable)   /* inspect.isawaitable */ \
    X(deque)         /* collections.deque */ \
    X(abc_coroutine) /* collections.abc.Coroutine */ \
    X(clock)         /* says the time in seconds, for tests; or NULL */ \
    X(empty_tuple) \
    X(task_name) /* what the base class of our Tasks takes for a name */ \
    X(future_remove_done_callback) /* of _asyncio.Future */ \
    X(discard_from_awaited_by)     /* of _asyncio, 3.14+ */ \
    X(done_future)                 /* with which Tasks are resumed */ \
    X(spare_stop_iteration)        /* for the next return value; or NULL */ \
    X(context_kwname) \
    X(loop_kwname) \
    X(msg_kwname)

#define FOR_EACH_STRING(X) \
    X(aclose, "aclose") \
    X(athrow, "athrow") \
    X(aenter, "__aenter__") \
    X(aexit, "__aexit__") \
    X(acquire, "acquire") \
    X(add_done_callback, "add_done_callback") \
    X(add_note, "add_note") \
    X(append, "append") \
    X(asyncio_future_blocking, "_asyncio_future_blocking") \
    X(bound_value, "_bound_value") \
    X(call_later, "call_later") \
    X(call_soon, "call_soon") \
    X(call_soon_threadsafe, "call_soon_threadsafe") \
    X(cancel, "cancel") \
    X(cancel_message, "_cancel_message") \
    X(cancelled, "cancelled") \
    X(cancelling, "cancelling") \
    X(close, "close") \
    X(context, "context") \
    X(cr_await, "cr_await") \
    X(cr_code, "cr_code") \
    X(cr_frame, "cr_frame") \
    X(cr_origin, "cr_origin") \
    X(cr_running, "cr_running") \
    X(create_future, "create_future") \
    X(create_task, "create_task") \
    X(current_task, "current_task") \
    X(done, "done") \
    X(dunder_aiter, "__aiter__") \
    X(dunder_await, "__await__") \
    X(dunder_class, "__class__") \
    X(dunder_index, "__index__") \
    X(dunder_iter, "__iter__") \
    X(dunder_len, "__len__") \
    X(dunder_name, "__name__") \
    X(dunder_qualname, "__qualname__") \
    X(eager_start, "eager_start") \
    X(enter, "__enter__") \
    X(exception, "exception") \
    X(exit, "__exit__") \
    X(future_add_to_awaited_by, "future_add_to_awaited_by") \
    X(future_discard_from_awaited_by, "future_discard_from_awaited_by") \
    X(get_coro, "get_coro") \
    X(get_debug, "get_debug") \
    X(getitem, "__getitem__") \
    X(get_loop, "get_loop") \
    X(get_task_factory, "get_task_factory") \
    X(log_destroy_pending, "_log_destroy_pending") \
    X(locked, "locked") \
    X(log_traceback, "_log_traceback") \
    X(is_closed, "is_closed") \
    X(loop, "loop") \
    X(make_cancelled_error, "_make_cancelled_error") \
    X(msg, "msg") \
    X(must_cancel, "_must_cancel") \
    X(name, "name") \
    X(private_loop, "_loop") \
    X(py_current_task, "_py_current_task") \
    X(py_enter_task, "_py_enter_task") \
    X(py_leave_task, "_py_leave_task") \
    X(release, "release") \
    X(remove, "remove") \
    X(remove_done_callback, "remove_done_callback") \
    X(result, "result") \
    X(send, "send") \
    X(set_exception, "set_exception") \
    X(set_result, "set_result") \
    X(task, "Task") \
    X(tasks, "tasks") \
    X(throw, "throw") \
    X(value, "_value") \
    X(wait, "wait") \
    X(waiters, "_waiters")

/* A function of asyncio's for which we stand in (stock.h). */
typedef struct {
    PyObject *function;         /* NULL: it was not asyncio's own at import */
    PyObject *code;             /* which it had then */
    PyObject *keyword_defaults; /* a copy of those that it had; may be NULL */
} StockFunction;

/* What asyncio's part of an untouched Task of ours looks like (probe.h takes this
   image): its words, from behind the object's head on.  The links in the list of
   Tasks (3.14+) are behind them. */
#define TASK_IMAGE_WORDS 40

typedef struct {
    size_t count;
    uintptr_t words[TASK_IMAGE_WORDS];

    /* Which of the words are each Task's own.  One that this version has not is
       behind the last. */
    size_t loop;
    size_t driver;
    size_t context;
    size_t awaiter;  /* 3.14+ */
    size_t weakrefs; /* until 3.12 */

    /* By their offsets from the object: where the __dict__ is, and, where there
       is none yet, the attributes (3.14+); those bits are so if there are none. */
    Py_ssize_t dict;
    Py_ssize_t values;
    uintptr_t values_bits;
    uintptr_t values_absent;
} TaskImage;

typedef struct {
#define DECLARE_TYPE(name)         PyTypeObject *name;
#define DECLARE_OBJECT(name)       PyObject *name;
#define DECLARE_STRING(name, text) PyObject *str_##name;
    FOR_EACH_TYPE(DECLARE_TYPE)
    FOR_EACH_OBJECT(DECLARE_OBJECT)
    FOR_EACH_STRING(DECLARE_STRING)
#undef DECLARE_TYPE
#undef DECLARE_OBJECT
#undef DECLARE_STRING

    StockFunction create_task; /* asyncio.BaseEventLoop.create_task */

    struct AsyncioSemaphores *asyncio_semaphores; /* asyncio_semaphore.h */
    struct OwnSemaphores *own_semaphores;         /* semaphore.h */

    /* What asyncio's objects answer without a lookup by name: pointers into
       the static tables of their types. */
    getter coro_get_await; /* cr_await of a native coroutine */
    void *coro_await_closure;
    getter task_get_must_cancel;
    getter future_get_callbacks;
    setter task_set_log_destroy_pending;
    setter future_set_blocking;
    getter future_get_log_traceback;
    setter future_set_log_traceback;
    PyCFunction future_done;
    PyCFunction task_get_name;

    TaskImage task_image;
    Py_ssize_t future_callback; /* the offset of a Future's first one */
    bool reuse_works;           /* Tasks look as expected (probe.h) */
    bool reuse_wanted; /* GATEDCORO_TASK_REUSE, and a switch for the tests */
    bool turns_begin_full; /* a switch for the tests (turns.h) */

    Spares workers;   /* of our own Tasks */
    Spares consumers; /* of Streams */
    Spares gated_coroutines;
    Spares semaphore_coroutines;
    Spares semaphore_waiters;
    PyObject *task_args; /* for the next one's __init__(); owned, or NULL */

    unsigned long long task_names; /* the last number in a Task's name */

    struct DiscardList *discard_lists; /* of all threads (coroutine.h) */
} core_state;

/* NULL if the type has lost its module to the collector. */
static inline core_state *
state_of_type(PyTypeObject *type)
{
    PyObject *module = ((PyHeapTypeObject *)type)->ht_module;
    return module == NULL ? NULL : (core_state *)PyModule_GetState(module);
}

/* `op` is an instance of one of our types. */
static inline core_state *
state_of(PyObject *op)
{
    return state_of_type(Py_TYPE(op));
}

#endif /* GATEDCORO_STATE_H */
