/* Results: the list of all outcomes, and the future that ends with it; the sink of
   every function that returns a list.

   The list may be the one that the awaitables came in: each outcome fills the
   hole that its item has left.  While there are holes it is hidden, and its
   contents are visited here.  It lives as long as the gathering does: the queue
   goes on after an error. */

#ifndef GATEDCORO_RESULTS_H
#define GATEDCORO_RESULTS_H

#include "engine/sink.h"
#include "surface/outer.h"

typedef struct {
    PyObject_HEAD
    PyObject *list;        /* hidden; NULL once it is handed out */
    PyObject *positions;   /* where each argument went, if any is repeated */
    Py_ssize_t *arguments; /* the reverse, where errors are noted, or NULL */
    PyObject *outer;       /* NULL once it has ended */
} ResultsObject;

static inline ResultsObject *
ResultsObject_CAST(PyObject *op)
{
    return (ResultsObject *)op;
}

/* Results that will be in `list` (hidden) and end `outer`: new reference. */
static PyObject *
results_new(core_state *state, PyObject *list, PyObject *positions,
            PyObject *outer)
{
    PyTypeObject *type = state->results_type;
    ResultsObject *self = (ResultsObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->list = Py_NewRef(list);
        self->positions = Py_XNewRef(positions);
        self->outer = Py_NewRef(outer);
    }
    return (PyObject *)self;
}

/*** What a gathering calls ***/

static bool
results_are_wanted(core_state *state, PyObject *op)
{
    PyObject *outer = ResultsObject_CAST(op)->outer;
    return outer != NULL && outer_is_unset(state, outer);
}

static bool
results_have_room(PyObject *Py_UNUSED(op))
{
    return true;
}

static int
results_expect(PyObject *op, Py_ssize_t index)
{
    PyObject *list = ResultsObject_CAST(op)->list;
    assert(index <= PyList_GET_SIZE(list));
    return index < PyList_GET_SIZE(list) ? 0 : PyList_Append(list, Py_None);
}

/* Runs Python code. */
static int
results_put(PyObject *op, Py_ssize_t index, Outcome *outcome)
{
    ResultsObject *self = ResultsObject_CAST(op);
    PyObject *result = outcome_as_result(state_of(op), outcome);
    if (self->outer == NULL) { /* it has ended in the meantime */
        Py_DECREF(result);
    }
    else {
        hidden_list_put(self->list, index, result);
    }
    return 0;
}

static void
results_cut(PyObject *Py_UNUSED(op), Py_ssize_t Py_UNUSED(after))
{
}

/* The list of results, each where the caller expects it: new reference.  Ours is
   kept on failure. */
static PyObject *
results_hand_out(ResultsObject *self)
{
    PyObject *results = NULL;
    Py_ssize_t size = 0;
    if (self->positions != NULL) {
        size = PyList_GET_SIZE(self->positions);
        results = PyList_New(size);
        if (results == NULL) {
            return NULL;
        }
    }
    PyObject *list = self->list;
    self->list = NULL;
    hidden_list_reveal(list);
    if (results == NULL) {
        return list;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        Py_ssize_t at = PyLong_AsSsize_t(PyList_GET_ITEM(self->positions, i));
        PyList_SET_ITEM(results, i, Py_NewRef(PyList_GET_ITEM(list, at)));
    }
    Py_DECREF(list);
    return results;
}

/* The future is no longer ours to end (owned; NULL if that is so already). */
static PyObject *
results_let_go(ResultsObject *self)
{
    PyObject *outer = self->outer;
    self->outer = NULL;
    if (outer != NULL) {
        outer_forget(outer);
    }
    return outer;
}

/* Runs Python code. */
static int
results_end(PyObject *op, PyObject *exception, bool is_no_news)
{
    ResultsObject *self = ResultsObject_CAST(op);
    core_state *state = state_of(op);
    PyObject *failure = NULL;
    PyObject *outer = results_let_go(self);
    if (outer == NULL) {
        return 0;
    }
    int pending = outer_is_pending(state, outer);
    if (pending < 0) {
        collect_exception(&failure);
    }
    if (pending != 0) { /* else somebody has set it: leave it */
        PyObject *results = exception == NULL ? results_hand_out(self) : NULL;
        PyObject *error = results != NULL     ? NULL
                          : exception == NULL ? fetch_exception()
                                              : Py_NewRef(exception);
        if (outer_end(state, outer, results, error) < 0) {
            collect_exception(&failure);
        }
        Py_XDECREF(results);
        Py_XDECREF(error);
        if (is_no_news || outer_fields(outer)->is_abandoned) {
            outer_silence(state, outer);
        }
    }
    Py_DECREF(outer);
    return raise_collected(failure);
}

static void
results_forget(PyObject *op)
{
    PyObject *outer = results_let_go(ResultsObject_CAST(op));
    Py_XDECREF(outer);
}

/* Which argument of the call an item is, its first where it was given twice:
   Futures and repetitions are sorted out before anything starts. */
static Py_ssize_t
results_argument_index(PyObject *op, Py_ssize_t index)
{
    ResultsObject *self = ResultsObject_CAST(op);
    if (self->positions == NULL) {
        return index;
    }
    if (self->arguments == NULL) {
        Py_ssize_t items = PyList_GET_SIZE(self->list);
        self->arguments = PyMem_New(Py_ssize_t, (size_t)items);
        if (self->arguments == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t i = PyList_GET_SIZE(self->positions) - 1; i >= 0;
             i--) {
            PyObject *at = PyList_GET_ITEM(self->positions, i);
            self->arguments[PyLong_AsSsize_t(at)] = i;
        }
    }
    return self->arguments[index];
}

/* Called by a gathering, for each item and at its end (sink.h). */
static const Sink results_sink = {
    .is_wanted = results_are_wanted,
    .has_room = results_have_room,
    .expect = results_expect,
    .put = results_put,
    .cut = results_cut,
    .end = results_end,
    .forget = results_forget,
    .argument_index = results_argument_index,
};

/*** Lifecycle ***/

static int
results_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    ResultsObject *self = ResultsObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->positions);
    Py_VISIT(self->outer);
    return hidden_list_visit(self->list, visit, arg);
}

static int
results_tp_clear(PyObject *op)
{
    ResultsObject *self = ResultsObject_CAST(op);
    Py_CLEAR(self->positions);
    PyMem_Free(self->arguments);
    self->arguments = NULL;
    Py_CLEAR(self->outer);
    Py_CLEAR(self->list); /* nothing of it is looked at without the others */
    return 0;
}

static void
results_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)results_tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot results_slots[] = {
    {Py_tp_dealloc, results_tp_dealloc},
    {Py_tp_traverse, results_tp_traverse},
    {Py_tp_clear, results_tp_clear},
    {0, NULL},
};

static PyType_Spec results_spec = {
    .name = "gatedcoro._core._Results",
    .basicsize = sizeof(ResultsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = results_slots,
};

#endif /* GATEDCORO_RESULTS_H */
