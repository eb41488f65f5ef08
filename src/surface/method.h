/* Method: a function of a class of ours that returns a coroutine.

   inspect and mock recognise such a function by the code of a Python function; so
   these show that of the one in gatedcoro._functions which describes them.  On an
   instance they become methods, as Python functions do. */

#ifndef GATEDCORO_METHOD_H
#define GATEDCORO_METHOD_H

#include "base/call.h"

typedef PyObject *(*MethodCall)(core_state *state, PyObject *self);

/* What a method is. */
typedef struct {
    const char *class; /* in gatedcoro._functions */
    const char *name;
    MethodCall call;
    Py_ssize_t count;               /* of arguments beside self, */
    const char *const arguments[3]; /* all of which are ignored */
} MethodDescription;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;
    const MethodDescription *description;
    PyTypeObject *owner; /* of whose instances it is a method; owned */
    PyObject *weakreflist;
} MethodObject;

static inline MethodObject *
MethodObject_CAST(PyObject *op)
{
    return (MethodObject *)op;
}

/* Are these all the arguments, `given` of them by position? */
static bool
method_takes(const MethodDescription *self, Py_ssize_t given,
             PyObject *kwnames)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    bool takes = given >= 0 && given + named == self->count;
    for (Py_ssize_t i = 0; takes && i < named; i++) {
        Py_ssize_t at = given;
        while (at < self->count
               && PyUnicode_CompareWithASCIIString(
                      PyTuple_GET_ITEM(kwnames, i), self->arguments[at])
                      != 0) {
            at++;
        }
        takes = at < self->count;
    }
    return takes;
}

/* Runs Python code. */
static PyObject *
method_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                  PyObject *kwnames)
{
    MethodObject *self = MethodObject_CAST(op);
    const MethodDescription *description = self->description;
    if (!method_takes(description, PyVectorcall_NARGS(nargsf) - 1, kwnames)) {
        PyErr_Format(
            PyExc_TypeError, "%s.%s() takes self and %zd more arguments",
            description->class, description->name, description->count);
        return NULL;
    }
    if (!PyObject_TypeCheck(args[0], self->owner)) {
        PyErr_Format(PyExc_TypeError,
                     "%s.%s() needs a %s as self, not %R (%s)",
                     description->class, description->name, description->class,
                     args[0], Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    return description->call(self->state, args[0]);
}

/* Makes the method of that class: -1 on error.  Runs Python code. */
static int
method_add(core_state *state, PyTypeObject *owner,
           const MethodDescription *description)
{
    PyTypeObject *type = state->method_type;
    MethodObject *self = (MethodObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return -1;
    }
    self->vectorcall = method_vectorcall;
    self->state = state;
    self->description = description;
    self->owner = (PyTypeObject *)Py_NewRef(owner);
    int status = PyObject_SetAttrString((PyObject *)owner, description->name,
                                        (PyObject *)self);
    Py_DECREF(self);
    return status;
}

/*** What a method answers ***/

static PyObject *
method_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString(
        MethodObject_CAST(op)->description->name);
}

static PyObject *
method_get_qualname(PyObject *op, void *Py_UNUSED(closure))
{
    const MethodDescription *description = MethodObject_CAST(op)->description;
    return PyUnicode_FromFormat("%s.%s", description->class,
                                description->name);
}

static PyObject *
method_get_module(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString("gatedcoro");
}

/* An attribute, by the name in the closure, of the function that describes it.
   Runs Python code. */
static PyObject *
method_get_described(PyObject *op, void *closure)
{
    const MethodDescription *description = MethodObject_CAST(op)->description;
    PyObject *module = PyImport_ImportModule("gatedcoro._functions");
    PyObject *class = module == NULL
                          ? NULL
                          : PyObject_GetAttrString(module, description->class);
    PyObject *function =
        class == NULL ? NULL
                      : PyObject_GetAttrString(class, description->name);
    PyObject *value =
        function == NULL
            ? NULL
            : PyObject_GetAttrString(function, (const char *)closure);
    Py_XDECREF(module);
    Py_XDECREF(class);
    Py_XDECREF(function);
    return value;
}

static PyObject *
method_tp_repr(PyObject *op)
{
    const MethodDescription *description = MethodObject_CAST(op)->description;
    return PyUnicode_FromFormat("<method gatedcoro.%s.%s>", description->class,
                                description->name);
}

static PyObject *
method_tp_descr_get(PyObject *op, PyObject *instance,
                    PyObject *Py_UNUSED(owner))
{
    return instance == NULL ? Py_NewRef(op) : PyMethod_New(op, instance);
}

/* As Python functions do: by name. */
static PyObject *
method_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return method_get_qualname(op, NULL);
}

/*** Lifecycle ***/

static int
method_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(MethodObject_CAST(op)->owner);
    return 0;
}

static int
method_tp_clear(PyObject *op)
{
    Py_CLEAR(MethodObject_CAST(op)->owner);
    return 0;
}

static void
method_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (MethodObject_CAST(op)->weakreflist != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)method_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef method_methods[] = {
    {"__reduce__", method_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef method_getset[] = {
    {"__annotations__", method_get_described, NULL, NULL, "__annotations__"},
    {"__code__", method_get_described, NULL, NULL, "__code__"},
    {"__defaults__", method_get_described, NULL, NULL, "__defaults__"},
    {"__doc__", method_get_described, NULL, NULL, "__doc__"},
    {"__kwdefaults__", method_get_described, NULL, NULL, "__kwdefaults__"},
    {"__module__", method_get_module, NULL, NULL, NULL},
    {"__name__", method_get_name, NULL, NULL, NULL},
    {"__qualname__", method_get_qualname, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MethodObject, vectorcall),
     READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(MethodObject, weakreflist),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot method_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_dealloc, method_tp_dealloc},
    {Py_tp_traverse, method_tp_traverse},
    {Py_tp_clear, method_tp_clear},
    {Py_tp_repr, method_tp_repr},
    {Py_tp_descr_get, method_tp_descr_get},
    {Py_tp_methods, method_methods},
    {Py_tp_getset, method_getset},
    {Py_tp_members, method_members},
    {0, NULL},
};

static PyType_Spec method_spec = {
    .name = "gatedcoro._core.Method",
    .basicsize = sizeof(MethodObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = method_slots,
};

#endif /* GATEDCORO_METHOD_H */
