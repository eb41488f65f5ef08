/* Function: what the module's public functions are.

   A builtin cannot be marked as a coroutine function (inspect and asyncio
   look for attributes that it cannot have), so these are callables of a type
   of our own with a __dict__.  They pickle by name.  Their docstrings and
   signatures are those of gatedcoro._functions, read when somebody asks. */

#ifndef GATEDCORO_FUNCTION_H
#define GATEDCORO_FUNCTION_H

#include "surface/functions.h"

typedef PyObject *(*FunctionCall)(core_state *state, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames);

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;
    const char *name;
    FunctionCall call;
    PyObject *dict;
    PyObject *weakreflist;
} FunctionObject;

static inline FunctionObject *
FunctionObject_CAST(PyObject *op)
{
    return (FunctionObject *)op;
}

/* Runs Python code. */
static PyObject *
function_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                    PyObject *kwnames)
{
    FunctionObject *self = FunctionObject_CAST(op);
    return self->call(self->state, args, PyVectorcall_NARGS(nargsf), kwnames);
}

static PyObject *
function_new(core_state *state, const char *name, FunctionCall call)
{
    PyTypeObject *type = state->function_type;
    FunctionObject *self = (FunctionObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = function_vectorcall;
        self->state = state;
        self->name = name;
        self->call = call;
    }
    return (PyObject *)self;
}

/*** What a function answers ***/

static PyObject *
function_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString(FunctionObject_CAST(op)->name);
}

static PyObject *
function_get_module(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString("gatedcoro");
}

/* The function that describes this one to those who look at it.
   Runs Python code. */
static PyObject *
function_description(PyObject *op)
{
    PyObject *module = PyImport_ImportModule("gatedcoro._functions");
    if (module == NULL) {
        return NULL;
    }
    PyObject *function =
        PyObject_GetAttrString(module, FunctionObject_CAST(op)->name);
    Py_DECREF(module);
    return function;
}

/* Runs Python code. */
static PyObject *
function_get_doc(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *description = function_description(op);
    if (description == NULL) {
        return NULL;
    }
    PyObject *doc = PyObject_GetAttrString(description, "__doc__");
    Py_DECREF(description);
    return doc;
}

/* Runs Python code. */
static PyObject *
function_get_signature(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *description = function_description(op);
    PyObject *inspect = PyImport_ImportModule("inspect");
    PyObject *signature = NULL;
    if (description != NULL && inspect != NULL) {
        signature =
            PyObject_CallMethod(inspect, "signature", "O", description);
    }
    Py_XDECREF(description);
    Py_XDECREF(inspect);
    return signature;
}

static PyObject *
function_tp_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<function gatedcoro.%s>",
                                FunctionObject_CAST(op)->name);
}

/* As an attribute of a class it does not become a method, like a builtin. */
static PyObject *
function_tp_descr_get(PyObject *op, PyObject *Py_UNUSED(instance),
                      PyObject *Py_UNUSED(owner))
{
    return Py_NewRef(op);
}

static PyObject *
function_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return function_get_name(op, NULL);
}

/*** Lifecycle ***/

static int
function_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(FunctionObject_CAST(op)->dict);
    return 0;
}

static int
function_tp_clear(PyObject *op)
{
    Py_CLEAR(FunctionObject_CAST(op)->dict);
    return 0;
}

static void
function_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (FunctionObject_CAST(op)->weakreflist != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)function_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef function_methods[] = {
    {"__reduce__", function_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef function_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"__doc__", function_get_doc, NULL, NULL, NULL},
    {"__module__", function_get_module, NULL, NULL, NULL},
    {"__name__", function_get_name, NULL, NULL, NULL},
    {"__qualname__", function_get_name, NULL, NULL, NULL},
    {"__signature__", function_get_signature, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef function_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(FunctionObject, dict), READONLY,
     NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FunctionObject, vectorcall),
     READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(FunctionObject, weakreflist),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot function_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_dealloc, function_tp_dealloc},
    {Py_tp_traverse, function_tp_traverse},
    {Py_tp_clear, function_tp_clear},
    {Py_tp_repr, function_tp_repr},
    {Py_tp_descr_get, function_tp_descr_get},
    {Py_tp_methods, function_methods},
    {Py_tp_getset, function_getset},
    {Py_tp_members, function_members},
    {0, NULL},
};

static PyType_Spec function_spec = {
    .name = "gatedcoro._core.Function",
    .basicsize = sizeof(FunctionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = function_slots,
};

#endif /* GATEDCORO_FUNCTION_H */
