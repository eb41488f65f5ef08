/* The outer future: what the caller of a gathering waits on.

   A subclass of _asyncio.Future, named as asyncio.gather's own.  Only
   cancel() differs: it reaches the items, and the future itself ends when
   they have.  Future and gathering hold each other until it is settled. */

#ifndef GATEDCORO_OUTER_H
#define GATEDCORO_OUTER_H

#include "base/subclass.h"
#include "engine/ending.h"

typedef struct {
    GatheringObject *gathering; /* NULL once settled */
    bool is_abandoned;          /* nobody waits, or will look at it */
} OuterFields;

static inline OuterFields *
outer_fields(PyObject *outer)
{
    return (OuterFields *)subclass_fields(outer);
}

/* Returns a pending outer future that does not belong to a gathering yet.
   Runs Python code. */
static PyObject *
outer_new(core_state *state, PyObject *loop)
{
    PyObject *outer = subclass_alloc(state->outer_type);
    if (outer == NULL) {
        return NULL;
    }
    PyObject *kwargs = PyDict_New();
    if (kwargs == NULL || PyDict_SetItem(kwargs, state->str_loop, loop) < 0
        || state->future_base->tp_init(outer, state->empty_tuple, kwargs)
               < 0) {
        Py_CLEAR(outer);
    }
    Py_XDECREF(kwargs);
    return outer;
}

/* Cuts the cycle between the future and its gathering. */
static void
outer_forget(PyObject *outer)
{
    PyObject *gathering = (PyObject *)outer_fields(outer)->gathering;
    outer_fields(outer)->gathering = NULL;
    Py_XDECREF(gathering);
}

/* Nobody will retrieve the exception: do not report it.  Runs Python code. */
static void
outer_silence(core_state *state, PyObject *outer)
{
    if (state->future_set_log_traceback(outer, Py_False, NULL) < 0) {
        PyErr_WriteUnraisable(outer);
    }
}

/* 1, 0, or -1 on error.  Runs Python code. */
static int
outer_is_pending(core_state *state, PyObject *outer)
{
    int is_done = answer_of_method(outer, state->str_done);
    return is_done < 0 ? -1 : !is_done;
}

/* The same, without Python code and without an error. */
static inline bool
outer_is_unset(core_state *state, PyObject *outer)
{
    return !future_is_done(state, outer);
}

/* Is the exception that of the future, which has thrown it into who waits?  1,
   0, or -1 on error.  Runs Python code. */
static int
outer_has_raised(core_state *state, PyObject *outer, PyObject *exception)
{
    int pending = outer_is_pending(state, outer);
    if (pending != 0) {
        return pending < 0 ? -1 : 0;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(outer, state->str_cancelled);
    if (answer == Py_True) {
        Py_DECREF(answer);
        return PyErr_GivenExceptionMatches(exception, state->cancelled_error);
    }
    if (answer != NULL) {
        Py_SETREF(answer,
                  PyObject_CallMethodNoArgs(outer, state->str_exception));
    }
    Py_XDECREF(answer); /* the future holds it */
    return answer == NULL ? -1 : answer == exception;
}

/* Ends the future with a value or an exception (borrowed).  -1 on error.
   Runs Python code. */
static int
outer_end(core_state *state, PyObject *outer, PyObject *value,
          PyObject *exception)
{
    if (exception == NULL) {
        return call_method_for_effect(outer, state->str_set_result, value);
    }
    int status =
        call_method_for_effect(outer, state->str_set_exception, exception);
    if (status < 0 && PyErr_ExceptionMatches(PyExc_TypeError)) {
        /* What a Future of the user's called its exception is none. */
        PyObject *refusal = fetch_exception();
        status =
            call_method_for_effect(outer, state->str_set_exception, refusal);
        Py_DECREF(refusal);
    }
    return status;
}

/* Somebody else has set the future, and who waited for it goes on.  What runs
   does so, too, and what is queued, as after an error.  -1 on an interrupt.
   Runs Python code. */
static int
outer_lose(PyObject *outer)
{
    GatheringObject *gathering = outer_fields(outer)->gathering;
    if (gathering == NULL) {
        return 0;
    }
    Py_INCREF(gathering);
    int status = gathering_settle_unwanted(gathering);
    if (status < 0) {
        status = report_error((PyObject *)gathering);
    }
    Py_DECREF(gathering);
    return status;
}

/* The caller has gone: cancels what runs, reports nothing.  Keeps the exception
   being raised.  Runs Python code. */
static void
outer_abandon(core_state *state, PyObject *outer)
{
    GatheringObject *gathering = outer_fields(outer)->gathering;
    if (gathering == NULL) {
        PyObject *raised = fetch_exception();
        outer_silence(state, outer);
        restore_exception(raised);
        return;
    }
    Py_INCREF(gathering);
    outer_fields(outer)->is_abandoned = true;
    gathering_abandon(gathering, outer);
    Py_DECREF(gathering);
}

/* Runs Python code. */
static PyObject *
outer_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"msg", NULL};
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords,
                                     &message)) {
        return NULL;
    }
    GatheringObject *gathering = outer_fields(op)->gathering;
    if (gathering == NULL) {
        Py_RETURN_FALSE;
    }
    /* Somebody may have called set_result() on it. */
    int pending = outer_is_pending(state_of(op), op);
    if (pending <= 0) {
        return pending < 0 ? NULL : Py_NewRef(Py_False);
    }
    /* One call awaits another, whose cancel() this reaches, and so on. */
    if (enter_coroutine_recursion() < 0) {
        return NULL;
    }
    Py_INCREF(gathering);
    int cancelled = gathering_cancel(gathering, message);
    Py_DECREF(gathering);
    leave_coroutine_recursion();
    return cancelled < 0 ? NULL : PyBool_FromLong(cancelled);
}

/*** Lifecycle ***/

static int
outer_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(outer_fields(op)->gathering);
    return subclass_traverse_base(op, visit, arg);
}

static int
outer_tp_clear(PyObject *op)
{
    outer_forget(op);
    return Py_TYPE(op)->tp_base->tp_clear(op);
}

static void
outer_tp_free(void *op)
{
    GatheringObject *gathering = outer_fields(op)->gathering;
    PyObject_GC_Del(op);
    Py_XDECREF(gathering);
}

static PyMethodDef outer_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))outer_cancel,
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("cancel($self, /, msg=None)\n--\n\n"
               "Cancel every running item and close the queue.\n\n"
               "The future ends when the running items have.  Returns False "
               "if it is done\nalready or nothing could be cancelled.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot outer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The future of a gathering.")},
    {Py_tp_dealloc, subclass_tp_dealloc},
    {Py_tp_free, outer_tp_free},
    {Py_tp_traverse, outer_tp_traverse},
    {Py_tp_clear, outer_tp_clear},
    {Py_tp_methods, outer_methods},
    {0, NULL},
};

static PyType_Spec outer_spec = {
    .name = "gatedcoro._core._GatheringFuture",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = outer_slots,
};

#endif /* GATEDCORO_OUTER_H */
