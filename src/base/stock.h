/* Stock: are Python functions of asyncio's, in whose place we act, still what
   asyncio made of them?

   A tool may replace the function, or leave it in place and replace what it
   does: its __code__ (ddtrace does so; file name, name and line stay as they
   were), its defaults, the module that it finds among its globals.

   At import a function is stock if its code equals what the loader of its
   module has for it; where that cannot be asked, it is not.  Later it is if all
   of that is as it was. */

#ifndef GATEDCORO_STOCK_H
#define GATEDCORO_STOCK_H

#include "base/call.h"

/*** At import ***/

/* Is `code` one of the constants of `outer`, or of what those contain?  1, 0, or
   -1 on error. */
static int
code_contains(PyObject *outer, PyObject *code)
{
    PyObject *constants = ((PyCodeObject *)outer)->co_consts;
    Py_ssize_t size = PyTuple_GET_SIZE(constants);
    int found = 0;
    for (Py_ssize_t i = 0; i < size && found == 0; i++) {
        PyObject *constant = PyTuple_GET_ITEM(constants, i);
        if (PyCode_Check(constant)) {
            found = PyObject_RichCompareBool(constant, code, Py_EQ);
            if (found == 0) {
                found = code_contains(constant, code);
            }
        }
    }
    return found;
}

/* What the loader of `module` has for it: new reference; NULL without an
   exception if that cannot be told.  Runs Python code; -1 if memory is short or
   an interrupt came. */
static int
module_code(PyObject *module, PyObject **code)
{
    PyObject *name = PyObject_GetAttrString(module, "__name__");
    PyObject *spec =
        name == NULL ? NULL : PyObject_GetAttrString(module, "__spec__");
    PyObject *loader =
        spec == NULL ? NULL : PyObject_GetAttrString(spec, "loader");
    *code = loader == NULL
                ? NULL
                : PyObject_CallMethod(loader, "get_code", "O", name);
    Py_XDECREF(name);
    Py_XDECREF(spec);
    Py_XDECREF(loader);
    if (*code != NULL && !PyCode_Check(*code)) {
        Py_CLEAR(*code);
    }
    return *code == NULL && PyErr_Occurred() ? forget_ordinary_error() : 0;
}

/* Are all the values None? */
static bool
values_are_none(PyObject *dict)
{
    Py_ssize_t position = 0;
    PyObject *value;
    while (PyDict_Next(dict, &position, NULL, &value)) {
        if (value != Py_None) {
            return false;
        }
    }
    return true;
}

/* Is `function` (may be NULL) what `module` defines, whose code `outer` is?  1,
   0, or -1 on error. */
static int
function_is_stock(PyObject *module, PyObject *outer, PyObject *function)
{
    if (function == NULL || outer == NULL || !PyFunction_Check(function)
        || !PyModule_Check(module)
        || PyFunction_GET_GLOBALS(function) != PyModule_GetDict(module)
        || PyFunction_GET_DEFAULTS(function) != NULL
        || (PyFunction_GET_KW_DEFAULTS(function) != NULL
            && !values_are_none(PyFunction_GET_KW_DEFAULTS(function)))) {
        return 0;
    }
    return code_contains(outer, PyFunction_GET_CODE(function));
}

/* Notes what `module` has under `type.name`, if that is stock.  -1 on error.
   Runs Python code. */
static int
stock_note(StockFunction *self, PyObject *module, PyObject *type,
           PyObject *name)
{
    PyObject *function;
    int stock = lookup_attribute(type, name, &function);
    if (stock <= 0) {
        return stock;
    }
    PyObject *outer;
    stock = module_code(module, &outer);
    if (stock == 0) {
        stock = function_is_stock(module, outer, function);
        Py_XDECREF(outer);
    }
    if (stock > 0) {
        PyObject *defaults = PyFunction_GET_KW_DEFAULTS(function);
        if (defaults != NULL) {
            self->keyword_defaults = PyDict_Copy(defaults);
            stock = self->keyword_defaults == NULL ? -1 : 1;
        }
        self->function = Py_NewRef(function);
        self->code = Py_NewRef(PyFunction_GET_CODE(function));
    }
    Py_DECREF(function);
    return stock < 0 ? -1 : 0;
}

/*** Later ***/

/* Is `op` the function that was noted, as it was?  1, 0, or -1 on error.
   Runs Python code. */
static int
stock_is_intact(const StockFunction *self, PyObject *op)
{
    if (op != self->function || op == NULL
        || PyFunction_GET_CODE(op) != self->code
        || PyFunction_GET_DEFAULTS(op) != NULL) {
        return 0;
    }
    PyObject *defaults = PyFunction_GET_KW_DEFAULTS(op);
    if (defaults == NULL || self->keyword_defaults == NULL) {
        return defaults == self->keyword_defaults;
    }
    return PyObject_RichCompareBool(defaults, self->keyword_defaults, Py_EQ);
}

#endif /* GATEDCORO_STOCK_H */
