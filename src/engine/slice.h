/* Slice: how long a gathering starts, or closes, items before the loop gets a
   turn.

      NONE --> BEGUN --> STARTED --> TIMED --> OVER
        ^        |          |          |         |     each implies the ones
        +--------+----------+----------+---------+     before it, but NONE

   A pass is what starts items, one after the other, in one turn of the loop.  It
   is over when those that ended without suspending have taken about a millisecond,
   so that items which never suspend do not starve the loop; the other passes of
   that turn then start one item each.

   Items that suspend are no more than the limit allows, and what became free
   together is to start together: for them a pass lasts longer.  But a first step may be long (a tenth of a millisecond, of an HTTP
   request), and the limit a thousand. */

#ifndef GATEDCORO_SLICE_H
#define GATEDCORO_SLICE_H

#include "base/call.h"

/* How long items may start, or be closed, before the loop gets a turn. */
#define SLICE_SECONDS 0.001

/* How long a pass may last in which items suspend. */
#define PASS_SECONDS 0.010

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
    int starts_unread; /* so many may go by without reading the clock */
    int suspensions;   /* since the clock was read last */
    double start;      /* when the clock was read first */
    double spent;      /* between readings without a suspension */
    double read;       /* when the clock was read last */
} Slice;

/* How many items end in a turn of the loop?  Where there are several, what they
   make room for is started together, in the next turn.  Where there is mostly
   one, there is nothing to collect, and a turn for each item would be had for
   nothing; and a client that looks over whatever is idle in its pool whenever a
   request begins finds the less there, the sooner the next one does.

   So if a few passes together were scheduled for few ends, a number of ends goes
   without one until that is tried again, and twice as many each further time:
   trying disturbs the order into which such a client and its server have come. */
#define PASSES_WATCHED     4
#define FULL_ENDS          8 /* for which they are scheduled, two each */
#define ENDS_IN_PLACE      64
#define MOST_ENDS_IN_PLACE 1024

typedef struct {
    int passes;   /* which have been watched */
    int ends;     /* for which they were scheduled, and the next one is */
    int seen;     /* of them, when the last pass began */
    int in_place; /* so many more ends go without a pass */
    int patience; /* so many did, or will; 0 while turns are full */
} Turns;

/* Another end waits for the pass that has been scheduled. */
static inline void
turns_note_end(Turns *self)
{
    self->ends++;
}

/* The pass that has been scheduled begins. */
static inline void
turns_note_pass(Turns *self)
{
    if (self->ends == self->seen) {
        return; /* it was scheduled for something else */
    }
    self->seen = self->ends;
    self->passes++;
    if (self->passes == PASSES_WATCHED) {
        self->patience = self->ends >= FULL_ENDS ? 0
                         : self->patience == 0   ? ENDS_IN_PLACE
                         : self->patience < MOST_ENDS_IN_PLACE
                             ? self->patience * 2
                             : MOST_ENDS_IN_PLACE;
        self->in_place = self->patience;
        self->passes = self->ends = self->seen = 0;
    }
}

/* Is this end one that goes without a pass? */
static inline bool
turns_take_in_place(Turns *self)
{
    if (self->in_place == 0) {
        return false;
    }
    self->in_place--;
    return true;
}

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

static inline void
slice_begin(Slice *self)
{
    assert(self->state == PASS_NONE);
    self->state = PASS_BEGUN;
    self->starts_unread = 1; /* many passes start one item */
    self->suspensions = 0;
    self->spent = 0;
}

/* What has just been started is suspended. */
static inline void
slice_note_suspension(Slice *self)
{
    self->suspensions++;
}

static inline void
slice_end(Slice *self)
{
    assert(self->state != PASS_NONE);
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
    else {
        double passed = now - self->read;
        self->spent += self->suspensions == 0 ? passed : 0;
        if (self->spent >= SLICE_SECONDS
            || now - self->start >= PASS_SECONDS) {
            self->state = PASS_OVER;
            return SLICE_ENDS;
        }
        if (passed < QUICK_START_SECONDS) {
            self->starts_unread = QUICK_STARTS_PER_READING - 1;
        }
    }
    self->suspensions = 0;
    self->read = now;
    return SLICE_GOES_ON;
}

#endif /* GATEDCORO_SLICE_H */
