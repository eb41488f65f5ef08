/* What Python code sees of an AsCompleted. */

#ifndef GATEDCORO_AS_COMPLETED_TYPE_H
#define GATEDCORO_AS_COMPLETED_TYPE_H

#include "surface/completion.h"
#include "surface/stream_type.h"

/*** Protocols ***/

static PyObject *
as_completed_am_anext(PyObject *op)
{
    return completion_new(state_of(op), AsCompletedObject_CAST(op), false);
}

/* The first step of a plain loop, unless it has been opened: on the loop that
   asyncio.as_completed takes, which need not run yet.  -1 on error.
   Runs Python code. */
static int
as_completed_be_iterated(core_state *state, AsCompletedObject *self)
{
    StreamObject *stream = &self->stream;
    if (!stream_is_unopened(stream)) {
        return 0;
    }
    PyObject *loop = PyObject_CallNoArgs(state->get_event_loop);
    if (loop == NULL) {
        return -1;
    }
    if (!stream_is_unopened(stream)) { /* that may be anybody's function */
        Py_DECREF(loop);
        return 0;
    }
    self->takes_whole = true;
    return stream_open_on(state, stream, loop);
}

/* Runs Python code. */
static PyObject *
as_completed_tp_iternext(PyObject *op)
{
    AsCompletedObject *self = AsCompletedObject_CAST(op);
    core_state *state = state_of(op);
    if (as_completed_be_iterated(state, self) < 0
        || self->stream.gathering == NULL || self->stream.results->is_left) {
        return NULL;
    }
    if (self->count == NOT_COUNTED) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R was begun by 'async for' or anext(), and nobody "
                     "knows how many there will be: next() needs a list of "
                     "awaitables",
                     op);
        return NULL;
    }
    if (!as_completed_claim(self)) {
        return NULL;
    }
    PyObject *coroutine = completion_new(state, self, true);
    if (coroutine == NULL) {
        as_completed_give_back(self);
    }
    return coroutine;
}

static PyObject *
as_completed_tp_repr(PyObject *op)
{
    StreamObject *self = StreamObject_CAST(op);
    Py_ssize_t running, waiting, done;
    stream_count(self, &running, &waiting, &done);
    return PyUnicode_FromFormat("<gatedcoro.AsCompleted: %zd running, %zd "
                                "waiting, %zd done>",
                                running, waiting, done);
}

/*** Lifecycle ***/

static PyType_Slot as_completed_slots[] = {
    {Py_tp_dealloc, stream_tp_dealloc},
    {Py_tp_finalize, stream_tp_finalize},
    {Py_tp_traverse, stream_tp_traverse},
    {Py_tp_clear, stream_tp_clear},
    {Py_tp_repr, as_completed_tp_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, as_completed_tp_iternext},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, as_completed_am_anext},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {0, NULL},
};

static PyType_Spec as_completed_spec = {
    .name = "gatedcoro.AsCompleted",
    .basicsize = sizeof(AsCompletedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};

/* Runs Python code. */
static PyObject *
as_completed_type_new(PyObject *module)
{
    PyType_Slot slots[Py_ARRAY_LENGTH(as_completed_slots) + 1];
    memcpy(slots + 1, as_completed_slots, sizeof(as_completed_slots));
    return type_with_docstring(module, "AsCompleted", "", &as_completed_spec,
                               slots, NULL);
}

#endif /* GATEDCORO_AS_COMPLETED_TYPE_H */
