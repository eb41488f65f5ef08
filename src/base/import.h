/* Import: what is taken from other modules when ours is imported.

   It may have been replaced: by an instrumented version, which is used, or by a
   stand-in of another kind.  Then what it would have allowed to cut short is not
   (a semaphore class, the loop's create_task), or what lies behind it is taken
   (a function), or the import fails. */

#ifndef GATEDCORO_IMPORT_H
#define GATEDCORO_IMPORT_H

#include "base/compat.h"

/* module.name: new reference; ImportError if there is none.
   Runs Python code. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ImportError, "gatedcoro._core needs %s.%s",
                     module_name, name);
    }
    return value;
}

/* Takes over the reference to `value`, which module.name is: returns it if it is
   of the right kind.  Runs Python code. */
static PyObject *
import_checked(PyObject *value, bool is_right, const char *module_name,
               const char *name, const char *kind)
{
    if (value != NULL && !is_right) {
        PyErr_Format(PyExc_ImportError,
                     "gatedcoro._core needs %s.%s to be a %s; it is %R",
                     module_name, name, kind, value);
        Py_CLEAR(value);
    }
    return value;
}

/* The import of something has failed.  0 if it is not there, or is something
   else: the exception being raised is taken then. */
static int
can_do_without(void)
{
    if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* module.name, a function, or if it is none, that of the module `behind`.
   Runs Python code. */
static PyObject *
import_function(const char *module_name, const char *name, const char *behind)
{
    PyObject *function = import_from(module_name, name);
    bool is_right = function != NULL && PyCallable_Check(function);
    function =
        import_checked(function, is_right, module_name, name, "function");
    if (function == NULL && PyErr_ExceptionMatches(PyExc_ImportError)) {
        PyObject *refusal = fetch_exception();
        function = import_from(behind, name);
        if (function == NULL && can_do_without() < 0) {
            Py_DECREF(refusal);
        }
        else if (function != NULL && PyCallable_Check(function)) {
            Py_DECREF(refusal);
        }
        else {
            Py_CLEAR(function);
            raise_exception(refusal);
        }
    }
    return function;
}

/* Runs Python code. */
static PyObject *
import_class(const char *module_name, const char *name)
{
    PyObject *value = import_from(module_name, name);
    bool is_right = value != NULL && PyType_Check(value);
    return import_checked(value, is_right, module_name, name, "class");
}

/* Was the function written in the module with these globals? */
static bool
is_function_of(PyObject *globals, PyObject *op)
{
    return op != NULL && PyFunction_Check(op)
           && PyFunction_GET_GLOBALS(op) == globals;
}

/* The globals of a module: new reference.  Runs Python code. */
static PyObject *
import_globals(const char *module_name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *globals = PyObject_GetAttrString(module, "__dict__");
    Py_DECREF(module);
    return globals;
}

/* The class that stands as module.name, or that one of its bases that defines
   `method`, written in that module; ImportError if there is none.
   Runs Python code. */
static PyObject *
import_class_of(const char *module_name, const char *name, const char *method)
{
    PyObject *found = import_class(module_name, name);
    PyObject *globals = found == NULL ? NULL : import_globals(module_name);
    PyObject *key = globals == NULL ? NULL : PyUnicode_FromString(method);
    PyObject *definer = NULL;
    if (key != NULL) {
        PyObject *mro = ((PyTypeObject *)found)->tp_mro;
        Py_ssize_t size = PyTuple_GET_SIZE(mro);
        for (Py_ssize_t i = 0; i < size && definer == NULL; i++) {
            PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
            PyObject *function =
                type->tp_dict == NULL
                    ? NULL
                    : PyDict_GetItemWithError(type->tp_dict, key);
            if (is_function_of(globals, function)) {
                definer = Py_NewRef(type);
            }
        }
        if (definer == NULL && !PyErr_Occurred()) {
            PyErr_Format(PyExc_ImportError,
                         "gatedcoro._core needs %s.%s as Python has it; it "
                         "is %R",
                         module_name, name, found);
        }
    }
    Py_XDECREF(key);
    Py_XDECREF(globals);
    Py_XDECREF(found);
    return definer;
}

/* What says which Task is current: on 3.11, where current_task() is Python code,
   the method of the dict that it reads.  Runs Python code. */
static PyObject *
import_current_task(void)
{
    if (!CURRENT_TASK_IS_IN_A_DICT) {
        return import_function("_asyncio", "current_task", "asyncio.tasks");
    }
    PyObject *tasks = import_from("_asyncio", "_current_tasks");
    if (tasks != NULL && PyDict_Check(tasks)) {
        PyObject *get = PyObject_GetAttrString(tasks, "get");
        Py_DECREF(tasks);
        return get;
    }
    Py_XDECREF(tasks);
    if (tasks == NULL && can_do_without() < 0) {
        return NULL;
    }
    return import_function("asyncio.tasks", "current_task", "_asyncio");
}

/* What makes another Task the current one: new reference; NULL without an exception
   if there is no such function.  Runs Python code. */
static PyObject *
import_swap_current_task(void)
{
    if (!CURRENT_TASK_CAN_BE_SWAPPED) {
        return NULL;
    }
    PyObject *swap = import_from("_asyncio", "_swap_current_task");
    if (swap == NULL) {
        (void)can_do_without();
    }
    else if (!PyCFunction_Check(swap)) {
        Py_CLEAR(swap); /* not asyncio's own */
    }
    return swap;
}

#endif /* GATEDCORO_IMPORT_H */
