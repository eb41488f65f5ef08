/* Call graph: who is shown as awaiting what runs (3.14+).

   While the caller of a gathering waits, its Task is shown as the one that
   awaits each Task and Future of the gathering, as with asyncio.gather.  An edge
   is there as long as its link's `awaiter` is set, so that it is added and
   discarded once.  asyncio's functions are those that stood in asyncio.futures
   when the call began. */

#ifndef GATEDCORO_CALL_GRAPH_H
#define GATEDCORO_CALL_GRAPH_H

#include "coroutines/await.h"
#include "engine/running.h"

typedef struct {
    PyObject *awaiter; /* the Task that called, while it waits; or NULL */
    PyObject *add;     /* functions of asyncio.futures, if there was one */
    PyObject *discard;
} CallGraph;

/* Notes the current Task of the running loop, if there is one.  Whatever stands
   in for asyncio's functions at the moment is used.  -1 on error.
   Runs Python code. */
static int
call_graph_open(core_state *state, CallGraph *self)
{
    if (!HAS_AWAITED_BY) {
        return 0;
    }
    PyObject *task = PyObject_CallMethodNoArgs(state->asyncio_tasks,
                                               state->str_current_task);
    if (task == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)
            || PyErr_ExceptionMatches(PyExc_MemoryError)) {
            return -1;
        }
        PyErr_Clear(); /* no running loop, or nothing that could say so */
        return 0;
    }
    if (task == Py_None) {
        Py_DECREF(task);
        return 0;
    }
    PyObject *add, *discard = NULL;
    int status = lookup_attribute(state->asyncio_futures,
                                  state->str_future_add_to_awaited_by, &add);
    if (status == 1) {
        status = lookup_attribute(state->asyncio_futures,
                                  state->str_future_discard_from_awaited_by,
                                  &discard);
    }
    if (status == 1 && PyCallable_Check(add) && PyCallable_Check(discard)) {
        self->awaiter = task;
        self->add = add;
        self->discard = discard;
        return 0;
    }
    Py_DECREF(task);
    Py_XDECREF(add);
    Py_XDECREF(discard);
    return status < 0 ? -1 : 0;
}

/* Adds or discards the edge "`awaiter` awaits `target`"; `function` is one of
   asyncio.futures.  No exception is being raised.  Runs Python code. */
static void
change_edge(PyObject *function, PyObject *target, PyObject *awaiter)
{
    PyObject *args[] = {target, awaiter};
    PyObject *ignored = PyObject_Vectorcall(function, args, 2, NULL);
    if (ignored == NULL) {
        PyErr_WriteUnraisable(target);
    }
    Py_XDECREF(ignored);
}

/* Discards it.  Keeps the exception being raised.  Runs Python code. */
static void
discard_edge(PyObject *function, PyObject *target, PyObject *awaiter)
{
    PyObject *raised = fetch_exception();
    change_edge(function, target, awaiter);
    restore_exception(raised);
}

/* What runs under `link` is not shown as awaited any more.  The edge stays if
   the collector has cleared one of us.  Keeps the exception being raised.
   Runs Python code. */
static void
call_graph_leave(CallGraph *self, RunningLink *link)
{
    PyObject *awaiter = link->awaiter;
    if (awaiter != NULL && link->target != NULL && self->discard != NULL) {
        PyObject *target = Py_NewRef(link->target);
        link->awaiter = NULL;
        discard_edge(self->discard, target, awaiter);
        Py_DECREF(target);
        Py_DECREF(awaiter);
    }
}

/* A Future that the link's Task awaits in the caller's name is not shown so
   any more, either (gh-157213).  Runs Python code. */
static void
call_graph_leave_item(core_state *state, CallGraph *self, RunningLink *link,
                      PyObject *task)
{
    PyObject *item = Py_XNewRef(link->item);
    int future = item == NULL ? 0 : is_future(state, item);
    if (future > 0) {
        discard_edge(self->discard, item, task);
    }
    else if (future < 0) {
        PyErr_WriteUnraisable(item);
    }
    Py_XDECREF(item);
}

/* The caller waits no more: nobody awaits what is in that ring.  Keeps the
   exception being raised.  Runs Python code. */
static void
call_graph_leave_ring(core_state *state, CallGraph *self, Running *running)
{
    RunningLink *link;
    RunningWalk walk;
    running_walk_begin(running, &walk);
    while ((link = running_walk_next(&walk)) != NULL) {
        PyObject *owner = link->owner;
        if (link->awaiter != NULL && link->target != NULL) {
            PyObject *target = Py_NewRef(link->target);
            call_graph_leave(self, link);
            call_graph_leave_item(state, self, link, target);
            Py_DECREF(target);
        }
        Py_DECREF(owner);
    }
}

/* Is what runs under `link` still to be shown as awaited? */
static inline bool
call_graph_lacks(CallGraph *self, RunningLink *link)
{
    return self->awaiter != NULL && link->awaiter == NULL
           && link->target != NULL;
}

/* Shows what runs under `link` as awaited by the caller.  Runs Python code. */
static void
call_graph_join(CallGraph *self, RunningLink *link)
{
    PyObject *target = Py_NewRef(link->target);
    PyObject *awaiter = Py_NewRef(self->awaiter);
    link->awaiter = Py_NewRef(awaiter);
    change_edge(self->add, target, awaiter);
    Py_DECREF(awaiter);
    Py_DECREF(target);
}

static int
call_graph_traverse(CallGraph *self, visitproc visit, void *arg)
{
    Py_VISIT(self->awaiter);
    Py_VISIT(self->add);
    Py_VISIT(self->discard);
    return 0;
}

static void
call_graph_clear(CallGraph *self)
{
    Py_CLEAR(self->awaiter);
    Py_CLEAR(self->add);
    Py_CLEAR(self->discard);
}

#endif /* GATEDCORO_CALL_GRAPH_H */
