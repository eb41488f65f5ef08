/* Subclasses of asyncio's own C types, whose structs nobody outside can see.

   Our fields lie behind the base's, at an offset that is known at run time.
   The base's traverse, clear and dealloc are called by ours; on 3.11, where
   the base is a static type, its dealloc neither runs the finalizer of a
   subclass nor drops the type, so ours does both.  The last that the base's
   dealloc does is to call tp_free(), which drops our fields. */

#ifndef GATEDCORO_SUBCLASS_H
#define GATEDCORO_SUBCLASS_H

#include "base/call.h"

/* `op` is an instance of a subclass made here: its type cannot be subclassed
   further, so its tp_base is asyncio's type. */
static inline void *
subclass_fields(PyObject *op)
{
    return (char *)op + Py_TYPE(op)->tp_base->tp_basicsize;
}

static inline bool
base_is_static(PyObject *op)
{
    return !PyType_HasFeature(Py_TYPE(op)->tp_base, Py_TPFLAGS_HEAPTYPE);
}

static int
subclass_traverse_base(PyObject *op, visitproc visit, void *arg)
{
    if (base_is_static(op)) {
        Py_VISIT(Py_TYPE(op));
    }
    return Py_TYPE(op)->tp_base->tp_traverse(op, visit, arg);
}

/* The tp_dealloc of a type whose tp_free() drops the fields that it added. */
static void
subclass_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (!base_is_static(op)) {
        type->tp_base->tp_dealloc(op);
    }
    else if (PyObject_CallFinalizerFromDealloc(op) == 0) {
        type->tp_base->tp_dealloc(op);
        Py_DECREF(type);
    }
}

/* An instance whose base part is not initialised yet. */
static PyObject *
subclass_alloc(PyTypeObject *type)
{
    return type->tp_alloc(type, 0);
}

/* Makes a type of `spec` with `fields_size` bytes behind those of `base`. */
static PyTypeObject *
subclass_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base,
              size_t fields_size)
{
    PyType_Spec sized = *spec;
    sized.basicsize = (int)(base->tp_basicsize + (Py_ssize_t)fields_size);
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &sized,
                                                    (PyObject *)base);
}

#endif /* GATEDCORO_SUBCLASS_H */
