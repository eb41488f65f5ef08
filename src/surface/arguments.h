/* Arguments: how a call is bound to a function's parameters.

   Every error names the argument, its value and what would be right. */

#ifndef GATEDCORO_ARGUMENTS_H
#define GATEDCORO_ARGUMENTS_H

#include "base/import.h"

/* Binds a vectorcall to parameters, as CPython binds a call to
   `def function(<positional>, *<varargs>, <keyword-only>)`.  CPython's own
   parsers know no *args by vectorcall. */
typedef struct {
    const char *function;
    const char *const *names; /* positional or keyword, then keyword-only */
    Py_ssize_t positional;
    Py_ssize_t total;
    Py_ssize_t required; /* the first so many must be given */
    bool varargs;
} Signature;

/* Fills `values` (borrowed; NULL where nothing was given).  What follows the
   positional parameters in `args` is for *varargs. */
static int
bind_arguments(const Signature *signature, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **values)
{
    if (kwnames == NULL && nargs == signature->total
        && nargs == signature->positional) {
        memcpy(values, args, (size_t)nargs * sizeof(PyObject *));
        return 0;
    }
    for (Py_ssize_t i = 0; i < signature->total; i++) {
        values[i] = i < signature->positional && i < nargs ? args[i] : NULL;
    }
    if (nargs > signature->positional && !signature->varargs) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %zd positional argument%s but %zd %s given",
                     signature->function, signature->positional,
                     signature->positional == 1 ? "" : "s", nargs,
                     nargs == 1 ? "was" : "were");
        return -1;
    }
    Py_ssize_t nkwargs = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < nkwargs; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < signature->total
               && PyUnicode_CompareWithASCIIString(name, signature->names[i])
                      != 0) {
            i++;
        }
        if (i == signature->total) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'",
                         signature->function, name);
            return -1;
        }
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got multiple values for argument '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
        values[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument: '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
    }
    return 0;
}

/* Runs Python code. */
static int
parse_flag(PyObject *value, bool by_default, bool *flag)
{
    int truth = value == NULL ? by_default : PyObject_IsTrue(value);
    *flag = truth > 0;
    return truth < 0 ? -1 : 0;
}

/* `progress` as what is told of a call: new reference; NULL for nobody.  -1 on
   error.  Runs Python code. */
static int
parse_progress(PyObject *value, PyObject **progress)
{
    *progress = NULL;
    if (value == NULL || value == Py_None) {
        return 0;
    }
    PyObject *check = import_from("gatedcoro._progress", "check_progress");
    PyObject *checked =
        check == NULL ? NULL : PyObject_CallOneArg(check, value);
    Py_XDECREF(check);
    if (checked == NULL) {
        return -1;
    }
    if (checked == Py_None) {
        Py_DECREF(checked);
    }
    else {
        *progress = checked;
    }
    return 0;
}

#endif /* GATEDCORO_ARGUMENTS_H */
