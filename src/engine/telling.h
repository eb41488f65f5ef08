/* Telling: how many items have ended, to whoever wants to know (progress.h). */

#ifndef GATEDCORO_TELLING_H
#define GATEDCORO_TELLING_H

#include "engine/outcome.h"

/* Tells what has not been told.  -1 on error.  Runs Python code, which may end
   everything. */
static int
gathering_tell(GatheringObject *self)
{
    Progress *progress = self->progress;
    if (progress == NULL || progress->ended == 0) {
        return 0;
    }
    PyObject *number = PyLong_FromSsize_t(progress->ended);
    if (number == NULL) {
        return -1;
    }
    PyObject *tell = Py_NewRef(progress->tell);
    progress->ended = 0;
    PyObject *ignored = PyObject_CallOneArg(tell, number);
    Py_DECREF(tell);
    Py_DECREF(number);
    Py_XDECREF(ignored);
    return ignored == NULL ? -1 : 0;
}

/* Closes what was opened for it.  -1 on error.  Runs Python code. */
static int
gathering_close_told(GatheringObject *self)
{
    PyObject *close = self->progress == NULL ? NULL : self->progress->close;
    if (close == NULL) {
        return 0;
    }
    self->progress->close = NULL;
    PyObject *ignored = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    Py_XDECREF(ignored);
    return ignored == NULL ? -1 : 0;
}

/* Everything has been told, and the call ends, as was put off.  -1 on an interrupt,
   or if something failed.  Runs Python code. */
static int
gathering_end_as_put_off(GatheringObject *self)
{
    progress_stop(state_of((PyObject *)self), &self->progress);
    if (gathering_is_failing(self) && self->policy.stops == STOPS_NOTHING) {
        return gathering_settle_with_error(self);
    }
    PyObject *failure = NULL;
    if (gathering_settle_if_complete(self) < 0) {
        collect_exception(&failure);
    }
    if (gathering_settle_if_stopped(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* What the loop calls.  Runs Python code. */
static PyObject *
gathering_progress_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    Progress *progress = self->progress;
    PyObject *failure = NULL;
    /* An end that was put off comes, though nobody is told any more. */
    bool ends = progress == NULL || progress->state == PROGRESS_ENDS;
    if (!ends) {
        progress->state = PROGRESS_IDLE;
        Py_CLEAR(progress->timer);
    }
    int status = gathering_tell(self);
    if (status == 0 && ends) {
        status = gathering_close_told(self);
    }
    if (status < 0 && gathering_progress_failed(state_of(op), self) < 0) {
        collect_exception(&failure);
    }
    if (ends && gathering_end_as_put_off(self) < 0) {
        collect_exception(&failure);
    }
    gathering_check(self);
    if (raise_collected(failure) < 0 && report_error(op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef gathering_progress_def = {
    "tell_progress", gathering_progress_callback, METH_NOARGS, NULL};

/* Has `progress` told of what is to begin, a bar with that total for True; nobody if
   it is NULL.  -1 on error.  Runs Python code. */
static int
gathering_open_progress(GatheringObject *self, PyObject *progress,
                        Py_ssize_t total)
{
    if (progress != NULL) {
        self->progress =
            progress_open(progress, total, &gathering_progress_def);
    }
    return progress == NULL || self->progress != NULL ? 0 : -1;
}

#endif /* GATEDCORO_TELLING_H */
