/* Slice: how long a gathering starts, or closes, items before the loop gets a
   turn.

      NONE --> BEGUN --> STARTED --> TIMED --> OVER
        ^        |          |          |         |     each implies the ones
        +--------+----------+----------+---------+     before it, but NONE

   A pass is what starts items, one after the other, in one turn of the loop.  It
   is over after about a millisecond, so that items which never suspend do not
   starve the loop; the other passes of that turn then start one item each. */

#ifndef GATEDCORO_SLICE_H
#define GATEDCORO_SLICE_H

#include "base/call.h"

/* How long items may start, or be closed, before the loop gets a turn. */
#define SLICE_SECONDS 0.001

/* The clock costs as much as starting an item that does nothing.  So it is
   read for one start in eight, as long as starts take less than this. */
#define QUICK_START_SECONDS      0.00002
#define QUICK_STARTS_PER_READING 8

typedef enum {
    PASS_NONE,
    PASS_BEGUN,
    PASS_STARTED, /* an item */
    PASS_TIMED,   /* the clock has been read */
    PASS_OVER,    /* its slice is used up */
} PassState;

typedef struct {
    PassState state;
    PassState last;    /* in which the last pass of this turn has ended */
    int starts_unread; /* so many may go by without reading the clock */
    double start;
    double read; /* when the clock was read last */
} Slice;

/* May one more item start in this pass? */
typedef enum {
    SLICE_ERROR = -1, /* with an exception */
    SLICE_IS_OVER,
    SLICE_ENDS, /* it has just been used up: another turn must be had */
    SLICE_GOES_ON,
} SliceAnswer;

/* The time in seconds: the monotonic clock's, or what the tests' says.  -1 on
   error.  Runs Python code. */
static int
clock_seconds(core_state *state, double *seconds)
{
    if (state->clock == NULL) {
        *seconds = (double)monotonic_ns() * 1e-9;
        return 0;
    }
    PyObject *clock = Py_NewRef(state->clock);
    PyObject *value = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    if (value == NULL) {
        return -1;
    }
    *seconds = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Is a pass under way? */
static inline bool
slice_is_under_way(const Slice *self)
{
    return self->state != PASS_NONE;
}

/* Before the first pass nothing has a rest. */
static inline void
slice_init(Slice *self)
{
    *self = (Slice){.last = PASS_OVER};
}

static inline void
slice_begin(Slice *self)
{
    assert(self->state == PASS_NONE);
    self->state = PASS_BEGUN;
    self->starts_unread = 1; /* most passes start one item */
}

/* A pass is the rest of the last one. */
static inline void
slice_begin_rest(Slice *self)
{
    assert(self->state == PASS_NONE);
    self->state = self->last;
}

static inline void
slice_end(Slice *self)
{
    assert(self->state != PASS_NONE);
    self->last = self->state;
    self->state = PASS_NONE;
}

/* Is there time for one more start?  `is_last` if the next turn has been had
   already: then this pass starts one item, no more.  Runs Python code. */
static SliceAnswer
slice_start_one(core_state *state, Slice *self, bool is_last)
{
    assert(self->state != PASS_NONE);
    if (self->state == PASS_OVER) {
        return SLICE_IS_OVER;
    }
    if (self->state == PASS_BEGUN) {
        self->state = PASS_STARTED;
    }
    else if (is_last) {
        self->state = PASS_OVER; /* so is the slice of this turn */
        return SLICE_IS_OVER;
    }
    if (self->starts_unread > 0 && state->clock == NULL) {
        self->starts_unread--;
        return SLICE_GOES_ON;
    }
    double now;
    if (clock_seconds(state, &now) < 0) {
        return SLICE_ERROR;
    }
    if (self->state != PASS_TIMED) {
        self->state = PASS_TIMED;
        self->start = now;
    }
    else if (now - self->start >= SLICE_SECONDS) {
        self->state = PASS_OVER;
        return SLICE_ENDS;
    }
    else if (now - self->read < QUICK_START_SECONDS) {
        self->starts_unread = QUICK_STARTS_PER_READING - 1;
    }
    self->read = now;
    return SLICE_GOES_ON;
}

#endif /* GATEDCORO_SLICE_H */
