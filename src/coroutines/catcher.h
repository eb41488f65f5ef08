/* Catcher: a stand-in for an event loop, which catches the first step of a Task
   that is made on it. */

#ifndef GATEDCORO_CATCHER_H
#define GATEDCORO_CATCHER_H

#include "base/state.h"

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

#endif /* GATEDCORO_CATCHER_H */
