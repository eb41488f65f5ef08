/* asyncio's Semaphore and BoundedSemaphore, without their coroutines.

   A slot of an exact semaphore, for which nobody waits, is taken and given back
   by changing its counter, as acquire() and release() would.  Nobody may be
   able to tell: so the class must have the methods that it had at import, which
   were asyncio's own then, and the instance must not hide them
   (mock.patch.object(semaphore, "acquire")). */

#ifndef GATEDCORO_ASYNCIO_SEMAPHORE_H
#define GATEDCORO_ASYNCIO_SEMAPHORE_H

#include "base/import.h"
#include "base/stock.h"

/* The methods by which a semaphore and its users reach its counter. */
typedef enum {
    SEMAPHORE_ACQUIRE,
    SEMAPHORE_LOCKED,
    SEMAPHORE_RELEASE,
    SEMAPHORE_WAKE_UP_NEXT,
    SEMAPHORE_AENTER,
    SEMAPHORE_AEXIT,
    SEMAPHORE_METHODS, /* how many */
} SemaphoreMethod;

/* One of the two classes, as it was at import. */
typedef struct {
    PyTypeObject *type; /* asyncio's own, or NULL if it is not there */
    PyObject *methods[SEMAPHORE_METHODS];
    unsigned int version; /* the type's version tag when it was looked at */
} SemaphoreClass;

/* What the module keeps of them, to see a patch. */
typedef struct AsyncioSemaphores {
    PyObject *names[SEMAPHORE_METHODS];
    SemaphoreClass plain;
    SemaphoreClass bounded;
    PyObject
        *code[SEMAPHORE_METHODS];   /* of the plain one's methods, or NULL: */
    PyObject *bounded_release_code; /* they are not asyncio's */
} AsyncioSemaphores;

/*** Are they asyncio's? ***/

/* Does nothing of the class come between an instance's attributes and its
   dict? */
static bool
semaphore_attributes_are_plain(core_state *state, PyTypeObject *type)
{
    return type->tp_getattro == PyObject_GenericGetAttr
           && type->tp_setattro == PyObject_GenericSetAttr
           && _PyType_Lookup(type, state->str_value) == NULL
           && _PyType_Lookup(type, state->str_bound_value) == NULL
           && _PyType_Lookup(type, state->str_waiters) == NULL;
}

/* Do the methods still do what asyncio has them do (stock.h)?  Those from
   `first` to `last`, and the release() of a BoundedSemaphore. */
static bool
semaphore_code_is_known(const AsyncioSemaphores *known, SemaphoreMethod first,
                        SemaphoreMethod last)
{
    if (known->bounded_release_code == NULL) {
        return false;
    }
    for (SemaphoreMethod i = first; i <= last; i++) {
        if (PyFunction_GET_CODE(known->plain.methods[i]) != known->code[i]) {
            return false;
        }
    }
    PyObject *release = known->bounded.methods[SEMAPHORE_RELEASE];
    return PyFunction_GET_CODE(release) == known->bounded_release_code;
}

/* semaphore_class_is_known(), of a class at which nobody has looked since it was
   changed, or of which that is not kept. */
static bool
semaphore_class_is_found_known(core_state *state, PyTypeObject *type,
                               SemaphoreClass *exact)
{
    AsyncioSemaphores *known = state->asyncio_semaphores;
    if (known->plain.type == NULL) {
        return false; /* something else stood in its place */
    }
    const SemaphoreClass *class = &known->plain;
    if (PyType_IsSubtype(type, known->bounded.type)) {
        class = &known->bounded;
    }
    else if (!PyType_IsSubtype(type, known->plain.type)) {
        return false;
    }
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        if (_PyType_Lookup(type, known->names[i]) != class->methods[i]) {
            return false;
        }
    }
    if (exact != NULL) {
        /* BoundedSemaphore.release() goes on to that of its base. */
        if (!semaphore_attributes_are_plain(state, type)
            || (exact == &known->bounded
                && _PyType_Lookup(type->tp_base,
                                  known->names[SEMAPHORE_RELEASE])
                       != known->plain.methods[SEMAPHORE_RELEASE])) {
            return false;
        }
        exact->version = type->tp_version_tag;
    }
    return true;
}

/* Are the methods of a semaphore class those that it had at import?  A subclass
   may inherit them. */
static inline bool
semaphore_class_is_known(core_state *state, PyTypeObject *type)
{
    AsyncioSemaphores *known = state->asyncio_semaphores;
    SemaphoreClass *exact = type == known->plain.type     ? &known->plain
                            : type == known->bounded.type ? &known->bounded
                                                          : NULL;
    /* The interpreter gives a changed class another version. */
    return (exact != NULL && type->tp_version_tag != 0
            && type->tp_version_tag == exact->version)
           || semaphore_class_is_found_known(state, type, exact);
}

/* Has the instance no attribute in place of that method of its class?  False
   also with an exception.  Runs Python code. */
static bool
semaphore_method_is_intact(const AsyncioSemaphores *known, PyObject *op,
                           SemaphoreMethod method)
{
    PyTypeObject *type = Py_TYPE(op);
    const SemaphoreClass *class =
        type != known->plain.type
                && PyType_IsSubtype(type, known->bounded.type)
            ? &known->bounded
            : &known->plain;
    PyObject *found = NULL;
    (void)_PyObject_GetMethod(op, known->names[method], &found);
    bool intact = found == class->methods[method];
    Py_XDECREF(found);
    return intact;
}

/* Does acquire() do what asyncio's does?  False also with an exception.
   Runs Python code. */
static bool
asyncio_semaphore_acquire_is_intact(core_state *state, PyObject *op)
{
    const AsyncioSemaphores *known = state->asyncio_semaphores;
    return semaphore_class_is_known(state, Py_TYPE(op))
           && semaphore_code_is_known(known, SEMAPHORE_ACQUIRE,
                                      SEMAPHORE_AEXIT)
           && semaphore_method_is_intact(known, op, SEMAPHORE_ACQUIRE)
           && semaphore_method_is_intact(known, op, SEMAPHORE_LOCKED);
}

/*** Counting ***/

/* What is looked at and changed for the attributes of an exact semaphore, as a
   new reference: its __dict__, which costs a third of what getattr() does; or
   the semaphore, where that makes Python code slower. */
static PyObject *
semaphore_attributes(PyObject *op)
{
    return LOOKING_AT_A_DICT_IS_CHEAP ? PyObject_GenericGetDict(op, NULL)
                                      : Py_NewRef(op);
}

static int
get_attribute(PyObject *attributes, PyObject *name, PyObject **value)
{
    return LOOKING_AT_A_DICT_IS_CHEAP
               ? dict_get_item(attributes, name, value)
               : lookup_attribute(attributes, name, value);
}

static int
set_attribute(PyObject *attributes, PyObject *name, PyObject *value)
{
    return LOOKING_AT_A_DICT_IS_CHEAP
               ? PyDict_SetItem(attributes, name, value)
               : PyObject_SetAttr(attributes, name, value);
}

/* Does one of these attributes hide a method of the class?  `expected` is how
   many they are if there are no others than were looked at.  -1 on error. */
static int
attributes_hide_method(core_state *state, PyObject *attributes,
                       Py_ssize_t expected, SemaphoreMethod first,
                       SemaphoreMethod last)
{
    const AsyncioSemaphores *known = state->asyncio_semaphores;
    int hidden = 0;
    if (LOOKING_AT_A_DICT_IS_CHEAP) {
        if (PyDict_GET_SIZE(attributes) == expected) {
            return 0;
        }
        for (SemaphoreMethod i = first; i <= last && hidden == 0; i++) {
            PyObject *name = known->names[i];
            hidden = PyDict_Contains(attributes, name);
        }
        return hidden;
    }
    for (SemaphoreMethod i = first; i <= last && hidden == 0; i++) {
        hidden = !semaphore_method_is_intact(known, attributes, i);
    }
    return hidden && PyErr_Occurred() ? -1 : hidden;
}

/* What a semaphore counts with: NULL where there is none. */
typedef struct {
    PyObject *waiters;
    PyObject *value;
    PyObject *bound;
} SemaphoreCounters;

/* The attributes of `__init__()`, and of who has waited. */
#define MOST_SEMAPHORE_ATTRIBUTES 4

/* Goes through the dict: true, and all are borrowed, if there is nothing but what
   asyncio puts there. */
static inline bool
walk_counters(core_state *state, PyObject *dict, SemaphoreCounters *counters)
{
    Py_ssize_t count = PyDict_GET_SIZE(dict);
    if (count > MOST_SEMAPHORE_ATTRIBUTES) {
        return false;
    }
    PyObject *name, *value;
    Py_ssize_t position = 0;
    for (; count > 0 && PyDict_Next(dict, &position, &name, &value); count--) {
        if (name == state->str_value) {
            counters->value = value;
        }
        else if (name == state->str_waiters) {
            counters->waiters = value;
        }
        else if (name == state->str_bound_value) {
            counters->bound = value;
        }
        else if (name != state->str_private_loop) {
            return false;
        }
    }
    return true;
}

/* Looks for them: all are owned, in any case.  `change` says which methods must not
   be hidden.  1, 0 if one is, -1 on error. */
static int
look_for_counters(core_state *state, PyObject *attributes, bool bounded,
                  long change, SemaphoreCounters *counters)
{
    int hidden = attributes_hide_method(
        state, attributes, bounded ? 3 : 2,
        change < 0 ? SEMAPHORE_ACQUIRE : SEMAPHORE_RELEASE,
        change < 0 ? SEMAPHORE_LOCKED : SEMAPHORE_WAKE_UP_NEXT);
    if (hidden != 0) {
        return hidden < 0 ? -1 : 0;
    }
    if (get_attribute(attributes, state->str_waiters, &counters->waiters) < 0
        || get_attribute(attributes, state->str_value, &counters->value) < 0
        || (bounded
            && get_attribute(attributes, state->str_bound_value,
                             &counters->bound)
                   < 0)) {
        return -1;
    }
    return 1;
}

static inline bool
nobody_waits(core_state *state, PyObject *waiters)
{
    return waiters == Py_None
           || (waiters != NULL && (PyObject *)Py_TYPE(waiters) == state->deque
               && PyObject_Size(waiters) == 0);
}

/* Is it an int, which fits? */
static inline bool
read_count(PyObject *value, long *count)
{
    return value != NULL && PyLong_CheckExact(value)
           && small_int_value(value, count);
}

/* 1, 0 if the semaphore's own methods have to, -1 on error. */
static inline int
change_counters(core_state *state, PyObject *attributes,
                const SemaphoreCounters *counters, bool bounded, long change)
{
    long value = 0, bound = LONG_MAX;
    if (!nobody_waits(state, counters->waiters)
        || !read_count(counters->value, &value)
        || (bounded && !read_count(counters->bound, &bound))
        || (change < 0 ? value < 1 : value < 0 || value >= bound)) {
        return 0;
    }
    PyObject *changed = PyLong_FromLong(value + change);
    if (changed == NULL) {
        return -1;
    }
    int status = set_attribute(attributes, state->str_value, changed);
    Py_DECREF(changed);
    return status < 0 ? -1 : 1;
}

static inline int
count_attribute(core_state *state, PyObject *attributes, bool bounded,
                long change)
{
    SemaphoreCounters counters = {NULL, NULL, NULL};
    if (DICTS_CAN_BE_WALKED && walk_counters(state, attributes, &counters)) {
        return change_counters(state, attributes, &counters, bounded, change);
    }
    counters = (SemaphoreCounters){NULL, NULL, NULL};
    int status =
        look_for_counters(state, attributes, bounded, change, &counters);
    if (status > 0) {
        status =
            change_counters(state, attributes, &counters, bounded, change);
    }
    Py_XDECREF(counters.waiters);
    Py_XDECREF(counters.value);
    Py_XDECREF(counters.bound);
    return status;
}

/* Takes (-1) or gives back (1) a slot of an exact semaphore: 1 if that could be
   done here, 0 if its own methods have to, -1 on error.  Runs no Python code
   (but what compares a key of the dict that is no str). */
static int
asyncio_semaphore_count(core_state *state, PyObject *op, long change)
{
    PyTypeObject *type = Py_TYPE(op);
    const AsyncioSemaphores *known = state->asyncio_semaphores;
    bool bounded = type == known->bounded.type;
    if ((!bounded && type != known->plain.type)
        || !semaphore_class_is_known(state, type)) {
        return 0; /* a subclass may count in its own way */
    }
    /* When a slot is given back, it is known how the gate is left. */
    if (change < 0 ? !semaphore_code_is_known(known, SEMAPHORE_ACQUIRE,
                                              SEMAPHORE_AEXIT)
                   : !semaphore_code_is_known(known, SEMAPHORE_RELEASE,
                                              SEMAPHORE_WAKE_UP_NEXT)) {
        return 0;
    }
    PyObject *attributes = semaphore_attributes(op);
    if (attributes == NULL) {
        return -1;
    }
    int status = count_attribute(state, attributes, bounded, change);
    Py_DECREF(attributes);
    return status;
}

/*** Waiting ***/

/* future.<name>(), as a truth value; false where there is no such method.
   Runs Python code. */
static bool
ask_future(PyObject *future, PyObject *name)
{
    bool truth = answer_of_method(future, name) > 0;
    PyErr_Clear();
    return truth;
}

/* acquire() has failed with the exception being raised, having waited for `waiter`.
   If release() had handed a slot over, it is given back: acquire() does so itself,
   but only for CancelledError.  Runs Python code. */
static void
asyncio_semaphore_return_slot(core_state *state, PyObject *op,
                              PyObject *waiter)
{
    PyObject *raised = fetch_exception();
    if ((raised == NULL
         || !PyErr_GivenExceptionMatches(raised, state->cancelled_error))
        && ask_future(waiter, state->str_done)
        && !ask_future(waiter, state->str_cancelled)
        && call_method_for_effect(op, state->str_release, NULL) < 0) {
        PyErr_WriteUnraisable(op);
    }
    restore_exception(raised);
}

/*** At import ***/

/* Notes the two classes and their methods, if they are asyncio's own; otherwise
   no class is known.  Runs Python code. */
static int
semaphores_note_classes(AsyncioSemaphores *self)
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
        self->names[i] = PyUnicode_InternFromString(names[i]);
        if (self->names[i] == NULL) {
            return -1;
        }
    }
    PyObject *globals = import_globals("asyncio.locks");
    if (globals == NULL) {
        return -1;
    }
    int status = 0;
    PyObject *bounded = NULL;
    PyObject *plain = import_class_of("asyncio.locks", "Semaphore", "acquire");
    if (plain != NULL) {
        bounded =
            import_class_of("asyncio.locks", "BoundedSemaphore", "release");
    }
    if (bounded == NULL) {
        status = can_do_without();
    }
    bool own = bounded != NULL
               && ((PyTypeObject *)bounded)->tp_base == (PyTypeObject *)plain;
    for (size_t i = 0; i < SEMAPHORE_METHODS && own; i++) {
        PyObject *name = self->names[i];
        PyObject *method = _PyType_Lookup((PyTypeObject *)plain, name);
        PyObject *other = _PyType_Lookup((PyTypeObject *)bounded, name);
        self->plain.methods[i] = Py_XNewRef(method);
        self->bounded.methods[i] = Py_XNewRef(other);
        own =
            is_function_of(globals, method) && is_function_of(globals, other);
    }
    if (own) {
        self->plain.type = (PyTypeObject *)Py_NewRef(plain);
        self->bounded.type = (PyTypeObject *)Py_NewRef(bounded);
    }
    Py_XDECREF(plain);
    Py_XDECREF(bounded);
    Py_DECREF(globals);
    return status;
}

/* Notes what the methods do, if that is what asyncio has them do.
   Runs Python code. */
static int
semaphores_note_code(AsyncioSemaphores *self)
{
    PyObject *module = PyImport_ImportModule("asyncio.locks");
    PyObject *release = self->bounded.methods[SEMAPHORE_RELEASE];
    PyObject *outer;
    if (module == NULL || module_code(module, &outer) < 0) {
        Py_XDECREF(module);
        return -1;
    }
    int stock = function_is_stock(module, outer, release);
    for (size_t i = 0; i < SEMAPHORE_METHODS && stock > 0; i++) {
        PyObject *method = self->plain.methods[i];
        stock = function_is_stock(module, outer, method);
        if (stock > 0) {
            self->code[i] = Py_NewRef(PyFunction_GET_CODE(method));
        }
    }
    if (stock > 0) {
        self->bounded_release_code = Py_NewRef(PyFunction_GET_CODE(release));
    }
    Py_DECREF(module);
    Py_XDECREF(outer);
    return stock < 0 ? -1 : 0;
}

/* Runs Python code. */
static int
asyncio_semaphores_note(core_state *state)
{
    AsyncioSemaphores *self = PyMem_Calloc(1, sizeof(AsyncioSemaphores));
    if (self == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    state->asyncio_semaphores = self;
    return semaphores_note_classes(self) < 0 ? -1 : semaphores_note_code(self);
}

static int
asyncio_semaphores_traverse(core_state *state, visitproc visit, void *arg)
{
    AsyncioSemaphores *self = state->asyncio_semaphores;
    if (self == NULL) {
        return 0;
    }
    Py_VISIT(self->plain.type);
    Py_VISIT(self->bounded.type);
    Py_VISIT(self->bounded_release_code);
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        Py_VISIT(self->plain.methods[i]);
        Py_VISIT(self->bounded.methods[i]);
        Py_VISIT(self->code[i]);
    }
    return 0;
}

/* No class is known any more. */
static void
asyncio_semaphores_clear(core_state *state)
{
    AsyncioSemaphores *self = state->asyncio_semaphores;
    if (self == NULL) {
        return;
    }
    Py_CLEAR(self->plain.type);
    Py_CLEAR(self->bounded.type);
    Py_CLEAR(self->bounded_release_code);
    for (size_t i = 0; i < SEMAPHORE_METHODS; i++) {
        Py_CLEAR(self->names[i]);
        Py_CLEAR(self->plain.methods[i]);
        Py_CLEAR(self->bounded.methods[i]);
        Py_CLEAR(self->code[i]);
    }
}

static void
asyncio_semaphores_free(core_state *state)
{
    asyncio_semaphores_clear(state);
    PyMem_Free(state->asyncio_semaphores);
    state->asyncio_semaphores = NULL;
}

#endif /* GATEDCORO_ASYNCIO_SEMAPHORE_H */
