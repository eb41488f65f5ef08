/* Waiter: what a Task of ours waits on until we wake it.

   It is the least that asyncio.Task takes for a future.  A Future that is set
   loses its callbacks if the loop's call_soon() fails, and the Task that waits
   never goes on; nor does it if the loop loses the callback, or the Task fails
   before its step begins.  A waiter keeps the callback until the step has been
   made, so that the Task can be woken again. */

#ifndef GATEDCORO_WAITER_H
#define GATEDCORO_WAITER_H

#include "base/call.h"

typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *callback; /* wakes the Task; NULL if none waits */
    PyObject *context;  /* for the callback, or NULL */
    bool blocking;      /* `_asyncio_future_blocking` */
} WaiterObject;

static inline WaiterObject *
WaiterObject_CAST(PyObject *op)
{
    return (WaiterObject *)op;
}

/* A waiter that is to be yielded to a Task of `loop`: new reference. */
static PyObject *
waiter_new(core_state *state, PyObject *loop)
{
    PyTypeObject *type = state->waiter_type;
    WaiterObject *self = (WaiterObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->loop = Py_NewRef(loop);
        self->blocking = true;
    }
    return (PyObject *)self;
}

/* The Task makes its step, unless it has made one since it waits.
   Runs Python code. */
static PyObject *
waiter_go_on(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WaiterObject *self = WaiterObject_CAST(op);
    PyObject *callback = self->callback;
    if (callback == NULL) {
        Py_RETURN_NONE;
    }
    self->callback = NULL;
    PyObject *result = PyObject_CallOneArg(callback, op);
    if (result == NULL && self->callback == NULL) {
        self->callback = callback;
        return NULL;
    }
    Py_DECREF(callback);
    return result;
}

/* What a further step yields so as to wait for it again: new reference. */
static PyObject *
waiter_yield(PyObject *op)
{
    WaiterObject_CAST(op)->blocking = true;
    return Py_NewRef(op);
}

static PyMethodDef waiter_go_on_def = {"go_on", waiter_go_on, METH_NOARGS,
                                       NULL};

/* Has the Task go on in the next turn of the loop.  -1 if the loop refuses; the
   Task waits on.  May be called again in any case.  Runs Python code. */
static int
waiter_wake(PyObject *op)
{
    WaiterObject *self = WaiterObject_CAST(op);
    core_state *state = state_of(op);
    if (self->callback == NULL) {
        return 0;
    }
    PyObject *go_on = PyCFunction_New(&waiter_go_on_def, op);
    if (go_on == NULL) {
        return -1;
    }
    PyObject *context = Py_XNewRef(self->context);
    int status =
        context == NULL
            ? call_method_for_effect(self->loop, state->str_call_soon, go_on)
            : call_soon(state, self->loop, go_on, context);
    Py_XDECREF(context);
    Py_DECREF(go_on);
    return status;
}

/*** What a Task asks ***/

static PyObject *
waiter_get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(WaiterObject_CAST(op)->loop);
}

static PyObject *
waiter_add_done_callback(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"callback", "context", NULL};
    WaiterObject *self = WaiterObject_CAST(op);
    PyObject *callback, *context = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:add_done_callback",
                                     keywords, &callback, &context)) {
        return NULL;
    }
    Py_XSETREF(self->callback, Py_NewRef(callback));
    Py_XSETREF(self->context, Py_XNewRef(context));
    Py_RETURN_NONE;
}

/* The Task is being cancelled: it is woken, and raises CancelledError by
   itself since this says False.  Runs Python code. */
static PyObject *
waiter_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"msg", NULL};
    PyObject *message = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords,
                                     &message)
        || waiter_wake(op) < 0) {
        return NULL;
    }
    Py_RETURN_FALSE;
}

static PyObject *
waiter_result(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static PyObject *
waiter_get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(WaiterObject_CAST(op)->blocking);
}

/* Runs Python code. */
static int
waiter_set_blocking(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    WaiterObject_CAST(op)->blocking = truth;
    return 0;
}

/*** Lifecycle ***/

static int
waiter_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    WaiterObject *self = WaiterObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    return 0;
}

static int
waiter_tp_clear(PyObject *op)
{
    WaiterObject *self = WaiterObject_CAST(op);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    return 0;
}

static void
waiter_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)waiter_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef waiter_methods[] = {
    {"get_loop", waiter_get_loop, METH_NOARGS, NULL},
    {"add_done_callback",
     (PyCFunction)(void (*)(void))waiter_add_done_callback,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))waiter_cancel,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"result", waiter_result, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef waiter_getset[] = {
    {"_asyncio_future_blocking", waiter_get_blocking, waiter_set_blocking,
     NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_dealloc, waiter_tp_dealloc}, {Py_tp_traverse, waiter_tp_traverse},
    {Py_tp_clear, waiter_tp_clear},     {Py_tp_methods, waiter_methods},
    {Py_tp_getset, waiter_getset},      {0, NULL},
};

static PyType_Spec waiter_spec = {
    .name = "gatedcoro._core._Waiter",
    .basicsize = sizeof(WaiterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = waiter_slots,
};

#endif /* GATEDCORO_WAITER_H */
