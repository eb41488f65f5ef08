/* Coroutine type: what Python code sees of our coroutines, once for all of their
   types: the protocol's methods, the attributes, and how an object ends.

   am_send, __next__, send, throw and close are thin spellings of
   coroutine_send() and coroutine_throw(). */

#ifndef GATEDCORO_COROUTINE_TYPE_H
#define GATEDCORO_COROUTINE_TYPE_H

#include "coroutines/coroutine.h"

/*** Protocol methods ***/

/* A StopIteration with that value (stolen).  The instance is made here: a tuple
   or an exception as value would be taken apart otherwise.  Its value is set
   without the parsing of its __init__(). */
static PyObject *
stop_iteration_new(PyObject *value)
{
    PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
    PyObject *args = PyTuple_Pack(1, value);
    PyObject *stop = args == NULL ? NULL : type->tp_new(type, args, NULL);
    Py_XDECREF(args);
    if (stop == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
    return stop;
}

/* Is the StopIteration, which was raised before, back: with nobody else, and as it
   was made? */
static bool
stop_iteration_is_back(const PyStopIterationObject *self)
{
    return Py_REFCNT(self) == 1 && Py_REFCNT(self->args) == 1
           && PyTuple_GET_SIZE(self->args) == 1 && self->dict == NULL
           && self->traceback == NULL && self->context == NULL
           && self->cause == NULL;
}

static void
stop_iteration_empty(PyStopIterationObject *self)
{
    PyObject *in_args = PyTuple_GET_ITEM(self->args, 0);
    PyObject *value = self->value;
    PyTuple_SET_ITEM(self->args, 0, Py_NewRef(Py_None));
    self->value = NULL;
    Py_DECREF(in_args);
    Py_DECREF(value);
}

/* The one that is kept has a value. */
static void
stop_iteration_let_go_of_value(core_state *state)
{
    PyStopIterationObject *spare =
        (PyStopIterationObject *)state->spare_stop_iteration;
    if (!stop_iteration_is_back(spare)) {
        Py_CLEAR(state->spare_stop_iteration);
        return;
    }
    if (spare->value != Py_True
        || PyTuple_GET_ITEM(spare->args, 0) != Py_True) {
        stop_iteration_empty(spare);
    }
}

/* A coroutine of ours has gone: what it has returned is not kept any longer (but for
   True, which acquire() returns), nor is a StopIteration that somebody else holds. */
static inline void
stop_iteration_let_go(core_state *state)
{
    PyStopIterationObject *spare =
        (PyStopIterationObject *)state->spare_stop_iteration;
    if (spare != NULL && spare->value != NULL) {
        stop_iteration_let_go_of_value(state);
    }
}

/* The edge at which a return becomes a StopIteration.  `await` has taken the value
   out of the last one, mostly, and dropped it: then that is used again. */
static PyObject *
coroutine_result_to_object(core_state *state, PySendResult status,
                           PyObject *result)
{
    if (status != PYGEN_RETURN) {
        return result;
    }
    stop_iteration_let_go(state);
    PyStopIterationObject *spare =
        (PyStopIterationObject *)state->spare_stop_iteration;
    if (spare != NULL && spare->value == result) { /* True */
        Py_DECREF(result);
        restore_exception(Py_NewRef(spare));
        return NULL;
    }
    if (spare != NULL && spare->value != NULL) {
        stop_iteration_empty(spare);
        spare = (PyStopIterationObject *)state->spare_stop_iteration;
    }
    if (spare != NULL && stop_iteration_is_back(spare)
        && spare->value == NULL) {
        PyObject *args = spare->args;
        Py_DECREF(PyTuple_GET_ITEM(args, 0)); /* None */
        PyTuple_SET_ITEM(args, 0, Py_NewRef(result));
        if (!PyObject_GC_IsTracked(args)) {
            PyObject_GC_Track(args); /* the collector has seen it without */
        }
        spare->value = result;
        restore_exception(Py_NewRef(spare));
        return NULL;
    }
    PyObject *stop = stop_iteration_new(result);
    if (stop != NULL && KEEPS_SPARES) {
        Py_XSETREF(state->spare_stop_iteration, Py_NewRef(stop));
    }
    restore_exception(stop);
    return NULL;
}

/* It has returned that (stolen), for a tp_iternext(). */
static inline PyObject *
coroutine_return(PyObject *op, PyObject *result)
{
    if (result == Py_None) {
        Py_DECREF(result);
        return NULL; /* exhausted, with None as value */
    }
    return coroutine_result_to_object(state_of(op), PYGEN_RETURN, result);
}

/* Runs Python code. */
static PyObject *
coroutine_tp_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult status =
        coroutine_send(CoroutineObject_CAST(op), Py_None, &result);
    return status == PYGEN_RETURN ? coroutine_return(op, result) : result;
}

/* Runs Python code. */
static PyObject *
coroutine_send_method(PyObject *op, PyObject *value)
{
    PyObject *result;
    PySendResult status =
        coroutine_send(CoroutineObject_CAST(op), value, &result);
    return coroutine_result_to_object(state_of(op), status, result);
}

/* The exception that throw(type[, value[, traceback]]) means: new reference.
   Runs Python code. */
static PyObject *
exception_of_throw(PyObject *type, PyObject *value, PyObject *traceback)
{
    if (traceback == Py_None) {
        traceback = NULL;
    }
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError,
                        "throw() third argument must be a traceback object");
        return NULL;
    }
    PyObject *exception;
    if (PyExceptionClass_Check(type)) {
        PyObject *normal_type = Py_NewRef(type);
        PyObject *normal_value = Py_XNewRef(value);
        PyObject *normal_traceback = NULL;
        PyErr_NormalizeException(&normal_type, &normal_value,
                                 &normal_traceback);
        Py_XDECREF(normal_traceback);
        Py_DECREF(normal_type);
        exception = normal_value;
    }
    else if (PyExceptionInstance_Check(type)) {
        if (value != NULL && value != Py_None) {
            PyErr_SetString(
                PyExc_TypeError,
                "instance exception may not have a separate value");
            return NULL;
        }
        exception = Py_NewRef(type);
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances "
                     "deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return NULL;
    }
    if (traceback != NULL
        && PyException_SetTraceback(exception, traceback) < 0) {
        Py_DECREF(exception);
        return NULL;
    }
    return exception;
}

/* Runs Python code. */
static PyObject *
coroutine_throw_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected at %s, got %zd",
                     nargs < 1 ? "least 1 argument" : "most 3 arguments",
                     nargs);
        return NULL;
    }
    PyObject *exception = exception_of_throw(
        args[0], nargs > 1 ? args[1] : NULL, nargs > 2 ? args[2] : NULL);
    if (exception == NULL) {
        return NULL;
    }
    PyObject *result;
    PySendResult status =
        coroutine_throw(CoroutineObject_CAST(op), exception, &result);
    Py_DECREF(exception);
    return coroutine_result_to_object(state_of(op), status, result);
}

/* Runs Python code. */
static PyObject *
coroutine_close_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return coroutine_close(CoroutineObject_CAST(op));
}

/* The state, as whoever asks is to see it.  Runs Python code. */
static CoroutineState
coroutine_shown_state(PyObject *op)
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    return self->state == CORO_SUSPENDED && coroutine_is_over(self)
               ? CORO_CLOSED
               : self->state;
}

/* `await` drives the object itself.  Runs Python code. */
static PyObject *
coroutine_am_await(PyObject *op)
{
    if (coroutine_shown_state(op) == CORO_SUSPENDED) {
        PyErr_SetString(PyExc_RuntimeError,
                        "coroutine is being awaited already");
        return NULL;
    }
    return Py_NewRef(op);
}

/* An object may say `yield from coro.__await__()`: hence Py_tp_iter, too. */
static PyObject *
coroutine_await_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

/*** Introspection ***/

/* Runs Python code. */
static PyObject *
coroutine_tp_repr(PyObject *op)
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    PyObject *name = self->kind->name(self);
    PyObject *repr =
        name == NULL
            ? NULL
            : PyUnicode_FromFormat("<coroutine object %S at %p>", name, op);
    Py_XDECREF(name);
    return repr;
}

/* Runs Python code. */
static PyObject *
coroutine_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    return self->kind->name(self);
}

/* The last part of a method's name; others, as gatedcoro.source, are names as a whole.
   Steals the reference; may be NULL. */
static PyObject *
method_name_of(PyObject *name)
{
    Py_ssize_t length = name == NULL ? 0 : PyUnicode_GET_LENGTH(name);
    Py_ssize_t dot =
        length == 0 ? -1 : PyUnicode_FindChar(name, '.', 0, length, -1);
    if (dot > 0 && Py_UNICODE_ISUPPER(PyUnicode_READ_CHAR(name, 0))) {
        Py_SETREF(name, PyUnicode_Substring(name, dot + 1, length));
    }
    return name;
}

/* __name__: that of whom is shown, or else of the coroutine itself.
   Runs Python code. */
static PyObject *
coroutine_get_short_name(PyObject *op, void *Py_UNUSED(closure))
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    PyObject *shown = Py_XNewRef(self->kind->shown(self));
    PyObject *name = NULL;
    if (shown != NULL) {
        (void)lookup_attribute(shown, state_of(op)->str_dunder_name, &name);
        Py_DECREF(shown);
    }
    return name != NULL || PyErr_Occurred()
               ? name
               : method_name_of(self->kind->name(self));
}

static PyObject *
coroutine_get_running(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(CoroutineObject_CAST(op)->state == CORO_RUNNING);
}

/* Runs Python code. */
static PyObject *
coroutine_get_suspended(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(coroutine_shown_state(op) == CORO_SUSPENDED);
}

/* The names of inspect.getcoroutinestate().  Runs Python code. */
static PyObject *
coroutine_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    const char *name = NULL;
    switch (coroutine_shown_state(op)) {
    case CORO_CREATED:
        name = "CORO_CREATED";
        break;
    case CORO_RUNNING:
        name = "CORO_RUNNING";
        break;
    case CORO_SUSPENDED:
        name = "CORO_SUSPENDED";
        break;
    case CORO_CLOSED:
        name = "CORO_CLOSED";
        break;
    }
    return PyUnicode_InternFromString(name);
}

/* cr_code, cr_frame, cr_origin of the coroutine that is shown, or None.
   Runs Python code. */
static PyObject *
coroutine_get_shown(PyObject *op, PyObject *name)
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    PyObject *shown = self->kind->shown(self);
    if (shown == NULL || coroutine_shown_state(op) == CORO_CLOSED) {
        Py_RETURN_NONE;
    }
    PyObject *value;
    Py_INCREF(shown);
    int found = lookup_attribute(shown, name, &value);
    Py_DECREF(shown);
    if (found < 0) {
        return NULL;
    }
    return found ? value : Py_NewRef(Py_None);
}

/* Runs Python code. */
static PyObject *
coroutine_get_code(PyObject *op, void *Py_UNUSED(closure))
{
    return coroutine_get_shown(op, state_of(op)->str_cr_code);
}

/* Runs Python code. */
static PyObject *
coroutine_get_frame(PyObject *op, void *Py_UNUSED(closure))
{
    return coroutine_get_shown(op, state_of(op)->str_cr_frame);
}

/* Runs Python code. */
static PyObject *
coroutine_get_origin(PyObject *op, void *Py_UNUSED(closure))
{
    return coroutine_get_shown(op, state_of(op)->str_cr_origin);
}

/* Runs Python code. */
static PyObject *
coroutine_get_await(PyObject *op, void *Py_UNUSED(closure))
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    if (call_graph_needs_frames()) {
        PyObject *frame = coroutine_get_frame(op, NULL);
        if (frame == NULL) {
            return NULL;
        }
        Py_DECREF(frame);
        if (frame == Py_None) {
            PyErr_SetString(PyExc_AttributeError, "cr_await");
            return NULL;
        }
    }
    PyObject *shown = self->kind->shown(self);
    if (shown != NULL) {
        return coroutine_get_shown(op, state_of(op)->str_cr_await);
    }
    PyObject *awaited = self->kind->awaited(self);
    if (awaited == NULL || coroutine_shown_state(op) != CORO_SUSPENDED) {
        Py_RETURN_NONE;
    }
    return Py_NewRef(awaited);
}

/*** Lifecycle ***/

/* Runs Python code. */
static void
coroutine_tp_finalize(PyObject *op)
{
    CoroutineObject *self = CoroutineObject_CAST(op);
    PyObject *raised = fetch_exception();
    self->finalized = true;
    if (self->state == CORO_CREATED) {
        self->never_awaited = true;
        DiscardList *list = current_discard_list(state_of(op));
        if (list != NULL) {
            discard_later(list, self); /* it lives on until then */
        }
        else if (coroutine_discard(self, NULL) < 0) {
            PyErr_WriteUnraisable(op);
        }
    }
    else {
        bool is_running = self->state == CORO_RUNNING; /* called by hand */
        PyObject *closed = coroutine_close(self);
        if (closed == NULL) {
            PyErr_WriteUnraisable(op);
        }
        Py_XDECREF(closed);
        if (!is_running && self->kind->dropped != NULL) {
            self->kind->dropped(self);
        }
    }
    restore_exception(raised);
}

#define NO_SPARES ((size_t)-1)

/* The shared part of each type's tp_dealloc; `clear` is the type's tp_clear, and
   `spares` where in the module's state memory is kept.  The type may have lost its
   module to the collector. */
static inline void
coroutine_dealloc_to(PyObject *op, inquiry clear, size_t spares)
{
    if (CoroutineObject_CAST(op)->state != CORO_CLOSED
        && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (CoroutineObject_CAST(op)->weakreflist != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)clear(op);
    core_state *state = state_of_type(type);
    if (state != NULL) {
        stop_iteration_let_go(state);
    }
    if (spares == NO_SPARES) {
        type->tp_free(op);
    }
    else if (state == NULL || CoroutineObject_CAST(op)->finalized) {
        PyObject_GC_Del(op);
    }
    else {
        spares_keep((Spares *)(void *)((char *)state + spares), op);
    }
    Py_DECREF(type);
}

static void
coroutine_dealloc(PyObject *op, inquiry clear)
{
    coroutine_dealloc_to(op, clear, NO_SPARES);
}

/*** Methods, slots ***/

static PyMethodDef coroutine_methods[] = {
    {"send", coroutine_send_method, METH_O,
     PyDoc_STR("send(arg) -> send 'arg' into coroutine,\n"
               "return next yielded value or raise StopIteration.")},
    {"throw", (PyCFunction)(void (*)(void))coroutine_throw_method,
     METH_FASTCALL,
     PyDoc_STR("throw(value)\nthrow(type[,value[,traceback]])\n\n"
               "Raise exception in coroutine, return next yielded value or\n"
               "raise StopIteration.")},
    {"close", coroutine_close_method, METH_NOARGS,
     PyDoc_STR("close() -> raise GeneratorExit inside coroutine.")},
    {"__await__", coroutine_await_method, METH_NOARGS,
     PyDoc_STR("Return the iterator to be used in await expression.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef coroutine_getset[] = {
    {"__name__", coroutine_get_short_name, NULL, NULL, NULL},
    {"__qualname__", coroutine_get_name, NULL, NULL, NULL},
    {"cr_await", coroutine_get_await, NULL, NULL, NULL},
    {"cr_code", coroutine_get_code, NULL, NULL, NULL},
    {"cr_frame", coroutine_get_frame, NULL, NULL, NULL},
    {"cr_origin", coroutine_get_origin, NULL, NULL, NULL},
    {"cr_running", coroutine_get_running, NULL, NULL, NULL},
    {"cr_state", coroutine_get_state, NULL, NULL, NULL},
    {"cr_suspended", coroutine_get_suspended, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef coroutine_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(CoroutineObject, weakreflist),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* What every coroutine type has beside traverse, clear and dealloc; `await_slot` is
   what `await` asks, `iternext_slot` what it has make a step. */
#define COROUTINE_SLOTS_STEPPED_BY(await_slot, iternext_slot) \
    {Py_tp_finalize, coroutine_tp_finalize}, {Py_tp_repr, coroutine_tp_repr}, \
        {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, iternext_slot}, \
        {Py_am_await, await_slot}, {Py_am_send, coroutine_am_send}, \
        {Py_tp_methods, coroutine_methods}, {Py_tp_getset, coroutine_getset}, \
    { \
        Py_tp_members, coroutine_members \
    }

#define COROUTINE_SLOTS_AWAITED_BY(await_slot) \
    COROUTINE_SLOTS_STEPPED_BY(await_slot, coroutine_tp_iternext)

#define COROUTINE_SLOTS COROUTINE_SLOTS_AWAITED_BY(coroutine_am_await)

#define COROUTINE_FLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE \
     | Py_TPFLAGS_DISALLOW_INSTANTIATION)

#endif /* GATEDCORO_COROUTINE_TYPE_H */
