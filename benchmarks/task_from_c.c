/* What the engine's cost is measured against where it makes a Task for each item:
   asyncio.Task(coro, loop=loop, eager_start=True, context=context), and nothing
   else, called from C.  See task_from_c.py. */

#include <Python.h>

/* run(task_type, result_of, loop, coroutines): each in a Task and a copy of the
   current context, one after the other; none may suspend.  A list of what
   `result_of`, which is task_type.result, says of each. */
static PyObject *
run(PyObject *module, PyObject *args)
{
    PyObject *task_type, *result_of, *loop, *coroutines;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOO!", &task_type, &result_of, &loop,
                          &PyTuple_Type, &coroutines)) {
        return NULL;
    }
    Py_ssize_t size = PyTuple_GET_SIZE(coroutines);
    PyObject *results = PyList_New(size);
    PyObject *kwargs =
        Py_BuildValue("{s:O,s:O}", "loop", loop, "eager_start", Py_True);
    PyObject *context_key = PyUnicode_InternFromString("context");
    int status = results == NULL || kwargs == NULL || context_key == NULL;
    for (Py_ssize_t i = 0; i < size && status == 0; i++) {
        PyObject *context = PyContext_CopyCurrent();
        PyObject *coroutine = PyTuple_Pack(1, PyTuple_GET_ITEM(coroutines, i));
        PyObject *task = NULL, *result = NULL;
        if (context != NULL && coroutine != NULL
            && PyDict_SetItem(kwargs, context_key, context) == 0) {
            task = PyObject_Call(task_type, coroutine, kwargs);
        }
        if (task != NULL) {
            result = PyObject_CallOneArg(result_of, task);
        }
        Py_XDECREF(task);
        Py_XDECREF(coroutine);
        Py_XDECREF(context);
        if (result == NULL) {
            status = -1;
            break;
        }
        PyList_SET_ITEM(results, i, result);
    }
    Py_XDECREF(kwargs);
    Py_XDECREF(context_key);
    if (status != 0) {
        Py_CLEAR(results);
    }
    return results;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gatedcoro_task_from_c",
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_gatedcoro_task_from_c(void)
{
    return PyModuleDef_Init(&definition);
}
