/* What Python code sees of a Stream, and what becomes of one that goes. */

#ifndef GATEDCORO_STREAM_TYPE_H
#define GATEDCORO_STREAM_TYPE_H

#include "base/import.h"
#include "surface/front_door.h"
#include "surface/stream_block.h"

/*** Protocols ***/

static PyObject *
stream_am_anext(PyObject *op)
{
    return consumer_new(state_of(op), StreamObject_CAST(op));
}

/* Runs Python code. */
static PyObject *
stream_am_await(PyObject *op)
{
    StreamObject *self = StreamObject_CAST(op);
    if (!stream_is_unopened(self)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R has been used already: it can be iterated over or "
                     "awaited, once",
                     op);
        return NULL;
    }
    PyObject *iterable = self->iterable;
    self->iterable = NULL;
    self->use = STREAM_USE_AWAITED;
    ErrorPolicy policy = self->policy;
    policy.stops = STOPS_ALL;
    return front_door_new(state_of(op), DOOR_AMAP, self->limit, iterable,
                          self->function, self->progress, policy);
}

/* How many of its items run, have ended and wait, and have been handed over. */
static void
stream_count(const StreamObject *self, Py_ssize_t *running,
             Py_ssize_t *waiting, Py_ssize_t *done)
{
    *running = *waiting = *done = 0;
    if (self->gathering != NULL) {
        *running = self->gathering->running.count;
        *waiting = stream_results_waiting(self->results);
        *done = self->results->handed_over;
    }
}

/* Runs Python code. */
static PyObject *
stream_tp_repr(PyObject *op)
{
    StreamObject *self = StreamObject_CAST(op);
    PyObject *name;
    if (lookup_attribute(self->function, state_of(op)->str_dunder_qualname,
                         &name)
        < 0) {
        if (interrupt_is_raised()) {
            return NULL;
        }
        PyErr_Clear();
    }
    if (name == NULL) {
        name = PyType_GetName(Py_TYPE(self->function));
        if (name == NULL) {
            return NULL;
        }
    }
    Py_ssize_t running, waiting, done;
    stream_count(self, &running, &waiting, &done);
    PyObject *repr =
        self->use == STREAM_USE_AWAITED
            ? PyUnicode_FromFormat("<gatedcoro.Stream of %S: awaited>", name)
            : PyUnicode_FromFormat("<gatedcoro.Stream of %S: %zd running, %zd "
                                   "waiting, %zd done>",
                                   name, running, waiting, done);
    Py_DECREF(name);
    return repr;
}

static PyObject *
stream_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return block_new(state_of(op), BLOCK_ENTER, StreamObject_CAST(op), NULL);
}

static PyObject *
stream_aexit(PyObject *op, PyObject *args)
{
    PyObject *exception_type, *exception, *traceback;
    if (!PyArg_ParseTuple(args, "OOO:__aexit__", &exception_type, &exception,
                          &traceback)) {
        return NULL;
    }
    return block_new(state_of(op), BLOCK_EXIT, StreamObject_CAST(op),
                     exception == Py_None ? NULL : exception);
}

static PyObject *
stream_aclose(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return block_new(state_of(op), BLOCK_CLOSE, StreamObject_CAST(op), NULL);
}

/*** Its kind ***/

static PyObject *
stream_new_results(core_state *state, StreamObject *self,
                   PyObject *Py_UNUSED(iterable), const Sink **sink)
{
    *sink = &stream_results_sink;
    return stream_results_new(state->stream_results_type, &self->window,
                              self->is_ordered);
}

/* Runs Python code. */
static int
stream_open_source(core_state *state, StreamObject *self, PyObject *iterable,
                   GatheringParts *parts)
{
    return source_open(state, &parts->source, iterable, self->function);
}

static const StreamKind stream_kind = {
    .anext_name = "Stream.__anext__",
    .aenter_name = "Stream.__aenter__",
    .aexit_name = "Stream.__aexit__",
    .aclose_name = "Stream.aclose",
    .new_results = stream_new_results,
    .leave_results = stream_results_leave,
    .open_source = stream_open_source,
    .close_iterable = source_close_iterator,
    .warns = true,
};

/*** Lifecycle ***/

/* It was never used.  One warning is enough for a chain of them; who holds one of
   the others may use it all the same.  Runs Python code. */
static void
stream_warn_unused(StreamObject *self)
{
    self->use = STREAM_USE_CLOSED;
    for (PyObject *inner = self->iterable;
         inner != NULL && Py_TYPE(inner) == Py_TYPE(self);
         inner = StreamObject_CAST(inner)->iterable) {
        if (StreamObject_CAST(inner)->use == STREAM_USE_NONE) {
            StreamObject_CAST(inner)->use = STREAM_USE_ENTERED;
        }
    }
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "%R was never iterated over or awaited", self)
        < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* Runs Python code. */
static void
stream_tp_finalize(PyObject *op)
{
    StreamObject *self = StreamObject_CAST(op);
    PyObject *raised = fetch_exception();
    if (self->use == STREAM_USE_NONE && self->kind->warns) {
        stream_warn_unused(self);
    }
    else if (stream_goes_on(self)) {
        gathering_drop_from_anywhere(self->gathering);
    }
    restore_exception(raised);
}

static int
stream_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    StreamObject *self = StreamObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->function);
    Py_VISIT(self->iterable);
    Py_VISIT(self->limit);
    Py_VISIT(self->progress);
    Py_VISIT(self->loop);
    Py_VISIT(self->gathering);
    Py_VISIT(self->results);
    return 0;
}

static int
stream_tp_clear(PyObject *op)
{
    StreamObject *self = StreamObject_CAST(op);
    Py_CLEAR(self->function);
    Py_CLEAR(self->iterable);
    Py_CLEAR(self->limit);
    Py_CLEAR(self->progress);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->gathering);
    Py_CLEAR(self->results);
    return 0;
}

/* A chain of them, each the source of the next one, goes with the last: however long
   it is, the stack need not hold it. */
static void
stream_tp_dealloc(PyObject *op)
{
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, stream_tp_dealloc);
    if (StreamObject_CAST(op)->weakreflist != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)stream_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef stream_methods[] = {
    {"__aenter__", stream_aenter, METH_NOARGS,
     PyDoc_STR("__aenter__($self, /)\n--\n\n"
               "Return the stream; nothing starts.")},
    {"__aexit__", stream_aexit, METH_VARARGS,
     PyDoc_STR("__aexit__($self, exception_type, exception, traceback, /)\n"
               "--\n\nEnd the stream, as aclose() does.")},
    {"aclose", stream_aclose, METH_NOARGS,
     PyDoc_STR("aclose($self, /)\n--\n\n"
               "End the stream, and wait until nothing of it runs.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("Stream[int]: a Stream of integers")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stream_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(StreamObject, weakreflist),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, stream_tp_dealloc},
    {Py_tp_finalize, stream_tp_finalize},
    {Py_tp_traverse, stream_tp_traverse},
    {Py_tp_clear, stream_tp_clear},
    {Py_tp_repr, stream_tp_repr},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, stream_am_anext},
    {Py_am_await, stream_am_await},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "gatedcoro.Stream",
    .basicsize = sizeof(StreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

/* A type over `bases` (one, a tuple, or NULL) with the docstring that
   gatedcoro._functions has for it, behind `signature` (or ""); `slots` begins with a
   place for that: new reference.  Runs Python code. */
static PyObject *
type_with_docstring(PyObject *module, const char *name, const char *signature,
                    const PyType_Spec *spec, PyType_Slot *slots,
                    PyObject *bases)
{
    PyObject *described = import_from("gatedcoro._functions", name);
    PyObject *doc = described == NULL
                        ? NULL
                        : PyObject_GetAttrString(described, "__doc__");
    Py_XDECREF(described);
    if (doc == NULL) {
        return NULL;
    }
    PyType_Spec documented = *spec;
    PyObject *type = NULL;
    documented.slots = slots;
    if (doc != Py_None) { /* else python -OO */
        Py_SETREF(doc, PyUnicode_FromFormat("%s%S", signature, doc));
    }
    if (doc == Py_None) {
        documented.slots = slots + 1;
    }
    else if (doc != NULL) {
        slots[0] = (PyType_Slot){Py_tp_doc, (void *)PyUnicode_AsUTF8(doc)};
    }
    if (!PyErr_Occurred()) {
        type = PyType_FromModuleAndSpec(module, &documented, bases);
    }
    Py_XDECREF(doc);
    return type;
}

/* Runs Python code. */
static PyObject *
stream_type_new(PyObject *module)
{
    PyType_Slot slots[Py_ARRAY_LENGTH(stream_slots) + 1];
    memcpy(slots + 1, stream_slots, sizeof(stream_slots));
    return type_with_docstring(module, "Stream", "", &stream_spec, slots,
                               NULL);
}

#endif /* GATEDCORO_STREAM_TYPE_H */
