/* What differs between CPython 3.11 and 3.15.

   The only file that looks at PY_VERSION_HEX. What differs between patch
   releases is asked of Py_Version when the module runs: a wheel built on
   3.12.10 also installs on 3.12.1. */

#ifndef GATEDCORO_COMPAT_H
#define GATEDCORO_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>

#if PY_VERSION_HEX < 0x030B0000
#error "gatedcoro needs CPython 3.11 or later"
#endif

/* `await 5` says this since 3.14. */
#if PY_VERSION_HEX >= 0x030E0000
#define NOT_AWAITABLE_FORMAT "'%.100s' object can't be awaited"
#else
#define NOT_AWAITABLE_FORMAT \
    "object %.100s can't be used in 'await' expression"
#endif

/* `async with` looks for __aexit__ before __aenter__ since 3.14. */
#define ASYNC_WITH_LOOKS_FOR_AEXIT_FIRST (PY_VERSION_HEX >= 0x030E0000)

/* An awaitable that is no coroutine: asyncio.gather awaits it since 3.12; before,
   it says `yield from awaitable.__await__()`. */
#define GATHER_CALLS_AWAIT_METHOD (PY_VERSION_HEX < 0x030C0000)

/* asyncio.gather looks at Futures that are done already in the call itself
   since 3.12 (gh-97696). */
#define GATHER_TAKES_DONE_FUTURES_AT_ONCE (PY_VERSION_HEX >= 0x030C0000)

/* asyncio.as_completed looks at its argument in the call since 3.13; before, in the
   first step. */
#define AS_COMPLETED_CHECKS_AT_ONCE (PY_VERSION_HEX >= 0x030D0000)

/* close() gives what the coroutine returned since 3.13 (gh-104770). */
#define CLOSE_RETURNS_A_VALUE (PY_VERSION_HEX >= 0x030D0000)

/* What asyncio.gather calls for the loop of a coroutine. */
#if PY_VERSION_HEX < 0x030C0000
#define GATHER_GET_EVENT_LOOP "_get_event_loop"
#else
#define GATHER_GET_EVENT_LOOP "get_event_loop"
#endif

/* asyncio's current Tasks are in a dict; since 3.12 a C function knows. */
#define CURRENT_TASK_IS_IN_A_DICT (PY_VERSION_HEX < 0x030C0000)

/* One function makes another Task the current one, whichever it was. */
#define CURRENT_TASK_CAN_BE_SWAPPED (PY_VERSION_HEX >= 0x030C0000)

/* Since 3.14 asyncio's Python Tasks do not say in the same place as its C Tasks
   which of them is current. */
#define PYTHON_TASKS_ARE_CURRENT_APART (PY_VERSION_HEX >= 0x030E0000)

/* inspect.markcoroutinefunction() is there since 3.12. */
#define MARKED_BY_INSPECT (PY_VERSION_HEX >= 0x030C0000)

/* Without a GIL, a reference count is split between threads. */
#ifdef Py_GIL_DISABLED
#define TASKS_HAVE_ONE_COUNT 0
#else
#define TASKS_HAVE_ONE_COUNT 1
#endif

/* Nor is there anything then that keeps other threads from the module's state. */
#define KEEPS_SPARES TASKS_HAVE_ONE_COUNT

/* Each interpreter may import the module under a GIL of its own.  There is no
   Py_mod_gil: importing it in a free-threaded build enables the GIL. */
#if PY_VERSION_HEX >= 0x030C0000
#define MODULE_INTERPRETER_SLOTS \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define MODULE_INTERPRETER_SLOTS
#endif

/* Futures know who awaits them since 3.14 (gh-91048). */
#define HAS_AWAITED_BY (PY_VERSION_HEX >= 0x030E0000)

/* asyncio.Semaphore counts a slot twice when CancelledError is thrown into a
   pending acquire(), until 3.13 (gh-111693). */
#define ACQUIRE_MISCOUNTS_A_THROWN_CANCELLATION (PY_VERSION_HEX < 0x030D0000)

/* Where a native coroutine has the state of its frame, and the value for "it
   has none" (64-bit builds of 3.14 and 3.15). */
#ifdef Py_GIL_DISABLED
#define NATIVE_FRAME_STATE_OFFSET (67 + 16) /* the object header is longer */
#else
#define NATIVE_FRAME_STATE_OFFSET 67
#endif
#define NATIVE_FRAME_CLEARED (PY_VERSION_HEX >= 0x030F0000 ? 5 : 4)

/* asyncio's register of Tasks is a list that runs through them since 3.14;
   before, a WeakSet.  Since 3.12 Tasks in an eager first step are in a set
   instead, which holds them. */
#define TASKS_ARE_LISTED (PY_VERSION_HEX >= 0x030E0000)
#define TASK_REGISTER \
    (PY_VERSION_HEX < 0x030C0000 ? "_all_tasks" : "_scheduled_tasks")

/* Of a type whose instances have their attributes behind their struct, without a
   dict as long as nobody asks for one. */
#ifdef Py_TPFLAGS_INLINE_VALUES
#define INLINE_VALUES_FLAG Py_TPFLAGS_INLINE_VALUES
#else
#define INLINE_VALUES_FLAG 0
#endif

/* Task(eager_start=True) crashes in get_coro() before 3.12.5 (gh-122332). */
static inline bool
has_eager_tasks(void)
{
    return Py_Version >= 0x030C0500;
}

/* An eager Task that fails in the middle of its first step is registered all
   the same, with the error being raised: what comes of that is a SystemError,
   whose cause it is. */
#define EAGER_TASKS_HIDE_ERRORS \
    (PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000)

/* The call graph of 3.14.0 to 3.14.7 fails on a cr_frame of None
   (gh-156408), and does not look at it where there is no cr_await. */
static inline bool
call_graph_needs_frames(void)
{
    return Py_Version >= 0x030E0000 && Py_Version < 0x030E0800;
}

/*** Exceptions as one object ***/

#if PY_VERSION_HEX < 0x030C0000
/* Returns a new reference to the exception being raised, which is cleared;
   NULL if there is none. */
static PyObject *
fetch_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

/* Steals `exception`; its context stays as it is. */
static void
raise_exception(PyObject *exception)
{
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception,
                  PyException_GetTraceback(exception));
}
#else
static inline PyObject *
fetch_exception(void)
{
    return PyErr_GetRaisedException();
}

static inline void
raise_exception(PyObject *exception)
{
    PyErr_SetRaisedException(exception);
}
#endif

/* Makes `exception` (stolen; may be NULL) the one that is being handled, and
   returns what was in its place (owned; may be NULL), to be put back likewise.
   PyErr_GetHandledException() would look further up the stack, and what it
   finds there must not be put back here. */
static inline PyObject *
swap_handled_exception(PyObject *exception)
{
    _PyErr_StackItem *item = PyThreadState_Get()->exc_info;
    PyObject *replaced = item->exc_value;
    item->exc_value = exception;
    return replaced;
}

/*** Recursion ***/

/* A coroutine of ours drives another one: -1 with RecursionError where that
   goes too deep.  It leaves room for the Python code by which the deepest levels
   are left.

   Up to 3.13 levels are counted as the frames of Python functions are, as those
   of native coroutines would be: 3.12 and 3.13 count recursions in C apart, up to
   a constant, which not every stack holds and which is small in debug builds.
   From 3.14 on the interpreter looks at the stack. */
#if PY_VERSION_HEX < 0x030E0000
#if PY_VERSION_HEX < 0x030C0000
#define LEVELS_LEFT   recursion_remaining
#define C_LEVELS_LEFT recursion_remaining
#else
#define LEVELS_LEFT   py_recursion_remaining
#define C_LEVELS_LEFT c_recursion_remaining
#endif
#define LEVELS_FOR_LEAVING 50

static inline int
enter_coroutine_recursion(void)
{
    PyThreadState *thread = PyThreadState_Get();
    if (thread->LEVELS_LEFT <= LEVELS_FOR_LEAVING
        || thread->C_LEVELS_LEFT <= LEVELS_FOR_LEAVING) {
        PyErr_SetString(PyExc_RecursionError,
                        "maximum recursion depth exceeded in a coroutine");
        return -1;
    }
    thread->C_LEVELS_LEFT--; /* as Py_EnterRecursiveCall() does */
#if PY_VERSION_HEX >= 0x030C0000
    thread->LEVELS_LEFT--;
#endif
    return 0;
}

static inline void
leave_coroutine_recursion(void)
{
    PyThreadState *thread = PyThreadState_Get();
    thread->C_LEVELS_LEFT++;
#if PY_VERSION_HEX >= 0x030C0000
    thread->LEVELS_LEFT++;
#endif
}
#else
#define STACK_FOR_LEAVING (32 * 1024)

/* Asks at a place so much further down. */
static Py_NO_INLINE int
enter_coroutine_recursion(void)
{
    volatile char room[STACK_FOR_LEAVING];
    room[0] = 0;
    return Py_EnterRecursiveCall(" in a coroutine") ? -1 : room[0];
}

static inline void
leave_coroutine_recursion(void)
{
    Py_LeaveRecursiveCall();
}
#endif

/*** Generators ***/

/* New reference. */
static inline PyCodeObject *
generator_code(PyObject *generator)
{
#if PY_VERSION_HEX < 0x030C0000
    return (PyCodeObject *)Py_NewRef(((PyGenObject *)generator)->gi_code);
#else
    return PyGen_GetCode((PyGenObject *)generator);
#endif
}

/*** Methods without binding ***/

/* Exported by every version, declared by some: op.name as a new reference; 1 if
   it is a method of the type that has yet to be bound. */
PyAPI_FUNC(int)
    _PyObject_GetMethod(PyObject *op, PyObject *name, PyObject **method);

/*** The clock ***/

/* Nanoseconds of a clock that never goes back; cannot fail. */
static inline int64_t
monotonic_ns(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyTime_t now;
    (void)PyTime_MonotonicRaw(&now);
    return (int64_t)now;
#else
    return (int64_t)_PyTime_GetMonotonicClock();
#endif
}

/*** Words of `await` and `async with` ***/

/* Raises what `await op` raises if op.__await__() returned that. */
static inline void
set_no_iterator_error(PyObject *op, PyObject *returned, bool is_coroutine)
{
#if PY_VERSION_HEX >= 0x030F0000
    (void)is_coroutine;
    PyErr_Format(PyExc_TypeError,
                 "%T.__await__() must return an iterator, not %T", op,
                 returned);
#else
    (void)op;
    if (is_coroutine) {
        PyErr_SetString(PyExc_TypeError, "__await__() returned a coroutine");
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "__await__() returned non-iterator of type '%.100s'",
                     Py_TYPE(returned)->tp_name);
    }
#endif
}

/* Raises what `async with gate` raises if the type has no method `name`. */
static inline void
set_no_gate_error(PyObject *gate, PyObject *name, bool is_aexit,
                  bool is_sync_manager)
{
#if PY_VERSION_HEX >= 0x030E0000
    (void)is_aexit;
    PyErr_Format(PyExc_TypeError,
                 "'%T' object does not support the asynchronous context "
                 "manager protocol (missed %U method)%s",
                 gate, name,
                 is_sync_manager ? " but it supports the context manager "
                                   "protocol. Did you mean to use 'with'?"
                                 : "");
#else
    (void)name;
    (void)is_sync_manager;
    PyErr_Format(PyExc_TypeError,
                 "'%.200s' object does not support the asynchronous context "
                 "manager protocol%s",
                 Py_TYPE(gate)->tp_name,
                 is_aexit ? " (missed __aexit__ method)" : "");
#endif
}

/*** Ints ***/

/* The value of an int, if it is not too large. */
static inline bool
small_int_value(PyObject *number, long *value)
{
#if PY_VERSION_HEX >= 0x030C0000
    const PyLongObject *self = (const PyLongObject *)number;
    if (PyUnstable_Long_IsCompact(self)) {
        *value = (long)PyUnstable_Long_CompactValue(self);
        return true;
    }
#endif
    int overflow;
    *value = PyLong_AsLongAndOverflow(number, &overflow);
    return overflow == 0;
}

/*** Dicts and sets ***/

/* Once somebody has looked at an object's __dict__, Python code finds the
   attributes more slowly: a semaphore's acquire() and release() together by a
   third on 3.11 and 3.12, a tenth on 3.13, nothing to speak of later. */
#define LOOKING_AT_A_DICT_IS_CHEAP (PY_VERSION_HEX >= 0x030D0000)

/* A dict of few keys is read in less time by going through it than by looking for
   them; but nobody may change it meanwhile. */
#define DICTS_CAN_BE_WALKED \
    (LOOKING_AT_A_DICT_IS_CHEAP && TASKS_HAVE_ONE_COUNT)

/* dict[name], a string, into `*value` as a new reference: 1; NULL and 0 where
   there is no such key; -1 with an exception. */
static inline int
dict_get_item(PyObject *dict, PyObject *name, PyObject **value)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_GetItemRef(dict, name, value);
#else
    *value = Py_XNewRef(PyDict_GetItemWithError(dict, name));
    return *value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
#endif
}

/* PySet_Contains() of an object with that hash, faster where it is not far from
   where the search for it begins.  Runs Python code. */
static inline int
set_contains(PyObject *set, PyObject *op, Py_hash_t hash)
{
    const PySetObject *table = (const PySetObject *)set;
    size_t place = (size_t)hash & (size_t)table->mask;
    for (int i = 0; i < 4 && place <= (size_t)table->mask; i++, place++) {
        if (table->table[place].key == op) {
            return 1;
        }
    }
    return PySet_Contains(set, op);
}

/*** Weak references ***/

/* The first weak reference to `op` (borrowed), or NULL. */
static inline PyWeakReference *
first_weakref(PyObject *op)
{
    Py_ssize_t offset = Py_TYPE(op)->tp_weaklistoffset;
    if (offset == 0) {
        return NULL;
    }
    return *(PyWeakReference **)(void *)((char *)op + offset);
}

#endif /* GATEDCORO_COMPAT_H */
