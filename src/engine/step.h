/* Steps of items: what follows when one ends, or ends an item.

   What starts next belongs to a pass, which may begin in the step, and ends with it
   then (gathering_leave_step), or is scheduled for the next turn. */

#ifndef GATEDCORO_STEP_H
#define GATEDCORO_STEP_H

#include "engine/pass.h"

/* How the step of a runner ended. */
typedef enum {
    STEP_SUSPENDED,
    STEP_ENDED,
    STEP_INTERRUPTED, /* by the exception being raised */
} StepEnd;

/* An item that had suspended has ended in a step.  Does what starts next do so in
   the next turn, with all that there is room for by then?  Where nothing else
   runs, or turns are not known to be full, there is nothing to wait for.  1, 0,
   or -1 on an interrupt.  Runs Python code. */
static int
gathering_collects(GatheringObject *self)
{
    if (self->running.count == 0) {
        return self->pump_state == PUMP_STARTS;
    }
    switch (self->turns.state) {
    case TURNS_FULL:
        return 1;
    case TURNS_SPARSE:
        turns_note_uncounted(&self->turns);
        return self->pump_state == PUMP_STARTS;
    case TURNS_UNKNOWN:
    case TURNS_ARE_COUNTED:
        if (gathering_schedule(self, PUMP_COUNTS) < 0) {
            return report_error((PyObject *)self);
        }
        turns_note_end(&self->turns);
        return self->turns.state == TURNS_FULL;
    }
    Py_UNREACHABLE();
}

/* Is there something to start in the next turn, or later in the pass that is
   under way?  1, 0, or -1 on an interrupt: the loop is told.
   Runs Python code. */
static int
gathering_starts_later(GatheringObject *self)
{
    if (slice_is_under_way(&self->slice)) {
        return gathering_has_room(self);
    }
    if (!gathering_has_room(self)) {
        if (gathering_wait_for_slot(self) < 0) {
            return -1;
        }
    }
    else {
        if (gathering_schedule_pump(self) < 0) {
            return interrupt_is_raised() ? -1 : gathering_pass_failed(self);
        }
        if (self->turns.state == TURNS_FULL) {
            turns_note_end(&self->turns);
        }
    }
    return gathering_has_room(self);
}

/* An item has ended in a step: what starts next belongs to a pass.  True if that
   began here, and is to end with the step. */
static bool
gathering_enter_pass(GatheringObject *self)
{
    if (slice_is_under_way(&self->slice)) {
        return false;
    }
    slice_begin(&self->slice);
    return true;
}

/* A step ends, and with it the pass that began in it, if `began_pass`: an item
   that went on in it has suspended, or whatever else there is room for starts.
   -1 on an interrupt.  Runs Python code. */
static int
gathering_leave_step(GatheringObject *self, StepEnd end, bool began_pass)
{
    switch (end) {
    case STEP_SUSPENDED:
        if (began_pass) {
            if (gathering_has_room(self) && gathering_schedule_pump(self) < 0
                && gathering_pass_failed(self) < 0) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            (void)gathering_end_pass(self, 0);
        }
        return 0;
    case STEP_ENDED:
        return began_pass ? gathering_run_pass(self) : 0;
    case STEP_INTERRUPTED:
        if (began_pass) {
            (void)gathering_end_pass(self, -1);
        }
        else if (!slice_is_under_way(&self->slice)) {
            gathering_let_out(self);
        }
        return -1;
    }
    Py_UNREACHABLE();
}

#endif /* GATEDCORO_STEP_H */
