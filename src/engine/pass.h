/* Passes: starting items, while there is room, one after the other.

   gathering_start_next() takes the next item and has it started;
   gathering_run_pass() does so until there is no item, no room, or no time. */

#ifndef GATEDCORO_PASS_H
#define GATEDCORO_PASS_H

#include "engine/outcome.h"

/*** Scheduling ***/

static PyObject *gathering_pump_callback(PyObject *op, PyObject *ignored);

static PyMethodDef gathering_pump_def = {"pump", gathering_pump_callback,
                                         METH_NOARGS, NULL};

/* Has a pass in the next turn of the loop.  Runs Python code. */
static int
gathering_schedule(GatheringObject *self, PumpState pump)
{
    if (!source_is_open(&self->source)) {
        return 0;
    }
    bool is_scheduled = self->pump_state != PUMP_NONE;
    if (self->pump_state < pump) {
        self->pump_state = pump;
    }
    if (!is_scheduled && gathering_call_soon(self, &gathering_pump_def) < 0) {
        self->pump_state = PUMP_NONE;
        return -1;
    }
    return 0;
}

/* Runs Python code. */
static int
gathering_schedule_pump(GatheringObject *self)
{
    return gathering_schedule(self, PUMP_STARTS);
}

/* Is there room for an item, as far as the limit is not a semaphore? */
static inline bool
gathering_has_room_but_for_slots(GatheringObject *self)
{
    return self->source.state == SOURCE_OPEN
           && limit_has_room(&self->limit, self->running.count)
           && self->sink->has_room(self->receiver);
}

/* Is there something to do for a pass: an item to start, or, where there is no slot for
   it, to find out whether there is one? */
static inline bool
gathering_has_room(GatheringObject *self)
{
    return gathering_has_room_but_for_slots(self)
           && (slots_has_one(&self->limit.slots)
               || !source_has_next(&self->source));
}

/* The loop or the clock has failed, so no pass is scheduled.  If there is room
   for an item nevertheless, nobody would start it, and what runs may wait for
   it: the call ends with the exception being raised.  Otherwise that is
   reported, idle Tasks end, and a pass begins at the next end.  -1 on an
   interrupt.
   Runs Python code. */
static int
gathering_pass_failed(GatheringObject *self)
{
    if (gathering_has_room(self) && self->pump_state == PUMP_NONE) {
        return gathering_fail_call(self);
    }
    if (self->pump_state == PUMP_NONE) {
        gathering_release_idle(self);
    }
    return report_error((PyObject *)self);
}

/* An interrupt leaves the loop: nothing more starts in this step, but if the
   loop is run again the queue goes on.  The exception being raised is kept.
   Runs Python code. */
static void
gathering_let_out(GatheringObject *self)
{
    PyObject *raised = fetch_exception();
    if (gathering_keep_queue(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (gathering_schedule_pump(self) < 0 && gathering_pass_failed(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    raise_exception(raised);
}

/*** Slots of a semaphore ***/

/* It has waited in the queue for a slot, and is handed one: what starts with it does
   so in the next turn, or in this step, where that is one of an item of ours that
   gives one back, or in the pass that is under way.  1, or 0 if nothing is to start
   any more, or the loop refuses.  Runs Python code. */
static int
gathering_is_admitted(PyObject *owner)
{
    GatheringObject *self = GatheringObject_CAST(owner);
    Slots *slots = &self->limit.slots;
    slots_leave_queue(state_of(owner), slots);
    if (slots->in_hand == SLOT_HELD || !source_is_open(&self->source)) {
        return 0;
    }
    slots->in_hand = SLOT_HELD;
    if (slots->gives_back || slice_is_under_way(&self->slice)
        || gathering_schedule_pump(self) == 0) {
        return 1;
    }
    /* Back first of all: the next one is told when this has returned. */
    bool is_used = slots_hand_on(slots) == SLOT_NONE;
    int status = gathering_fail_call(self);
    if (is_used && status < 0) { /* by what the loop has run */
        PyErr_WriteUnraisable(owner);
        status = 0;
    }
    return is_used ? 1 : status;
}

/* Called by the queue of a semaphore in which a gathering stands (slots.h). */
static const SemaphoreOwnerCalls gathering_slot_calls = {
    .admitted = gathering_is_admitted,
};

/* Stands in the queue if nothing but a slot is missing for the next item; if more is
   missing, or nothing, it is not to stand there, and has no slot in hand.  -1 on an
   interrupt.  Runs Python code. */
static int
gathering_wait_for_slot(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    Slots *slots = &self->limit.slots;
    if (slots->semaphore == NULL || slice_is_under_way(&self->slice)) {
        return 0;
    }
    int status = 0;
    if (gathering_has_room_but_for_slots(self) && !slots_has_one(slots)
        && slots->waiter == NULL) {
        status = slots_try_to_take(state, slots);
        if (status == 0 && !slots_has_one(slots) && slots->waiter == NULL
            && gathering_has_room_but_for_slots(self)) {
            status = slots_join(state, slots, self->loop, (PyObject *)self,
                                &gathering_slot_calls);
        }
    }
    if (!gathering_has_room_but_for_slots(self)) {
        slots_leave_queue(state, slots);
        slots_let_go(state, slots);
    }
    else if (status >= 0 && gathering_has_room(self)) {
        status = gathering_schedule_pump(self);
    }
    return status < 0 ? gathering_fail_call(self) : 0;
}

/* The sink has room again, in a step of somebody else's: what there is room for
   starts in the next turn.  -1 on an interrupt.  Runs Python code. */
static int
gathering_room_is_made(GatheringObject *self)
{
    if (slice_is_under_way(&self->slice)) {
        return 0;
    }
    if (!gathering_has_room(self)) {
        return gathering_wait_for_slot(self);
    }
    if (gathering_schedule_pump(self) == 0) {
        return 0;
    }
    if (interrupt_is_raised()) {
        gathering_let_out(self);
        return -1;
    }
    return gathering_pass_failed(self);
}

/*** The next item ***/

/* The last item of a list has been taken.  -1 on an interrupt: the item has its
   turn when the loop runs again.  Runs Python code. */
static int
gathering_took_last(GatheringObject *self)
{
    int status = gathering_exhaust_queue(self);
    if (status < 0) {
        status = report_error((PyObject *)self);
    }
    if (status < 0 && self->source.state == SOURCE_EXHAUSTED) {
        source_put_back(&self->source);
    }
    source_leave_list(&self->source);
    return status;
}

/* The iterable has ended.  -1 if the keeper could not be told.
   Runs Python code. */
static int
gathering_source_ended(GatheringObject *self)
{
    if (self->source.kind == SOURCE_TASK) { /* that says so itself */
        return gathering_queue_ended(self);
    }
    if (self->source.state != SOURCE_OPEN) {
        return 0;
    }
    int status = gathering_exhaust_queue(self);
    PyObject *raised = fetch_exception();
    Py_XDECREF(source_drop(state_of((PyObject *)self), &self->source));
    restore_exception(raised);
    return status;
}

/* What was asked for an item when the source was closed is closed now.  Keeps the
   exception being raised.  Runs Python code. */
static void
gathering_close_asked(core_state *state, GatheringObject *self)
{
    Source *source = &self->source;
    if (source->kind == SOURCE_ITERATOR && source_is_closed(source)
        && source->object != NULL) {
        PyObject *raised = fetch_exception();
        gathering_cleanup_failed(self, source_drop(state, source));
        restore_exception(raised);
    }
}

/* The source has been asked: TAKE_ITEM or TAKE_LATER, as it says; otherwise it is at its
   end, or has failed: 0, or -1 on an interrupt.  It may have been closed in the
   meantime.  Runs Python code. */
static int
gathering_heed_source(core_state *state, GatheringObject *self,
                      TakeAnswer answer)
{
    gathering_close_asked(state, self);
    switch (answer) {
    case TAKE_ITEM:
    case TAKE_LATER:
        return answer;
    case TAKE_NONE:
        return gathering_source_ended(self);
    case TAKE_ERROR:
        return gathering_fail_call(self);
    }
    Py_UNREACHABLE();
}

/* Takes the next item, which the source has in hand then: TAKE_ITEM; TAKE_NONE if
   there is none after all, which need not be the end; TAKE_ERROR on an interrupt.
   The source is asked, and the item, and the loop is told when the queue is at its
   end: the queue may have been closed in the meantime.  Runs Python code. */
static int
gathering_take(core_state *state, GatheringObject *self)
{
    Source *source = &self->source;
    int status =
        gathering_heed_source(state, self, source_take(state, source));
    if (status != TAKE_ITEM) {
        return status;
    }
    status = 0;
    if (source->kind == SOURCE_LIST) {
        if (!source_list_goes_on(source)) {
            status = gathering_took_last(self);
            if (source->taken.item == NULL) {
                return status; /* it is queued again */
            }
        }
    }
    if (status == 0 && !source_is_closed(source) && source_is_expected(source)
        && self->sink->expect(self->receiver, source->taken.index) < 0) {
        status = gathering_fail_call(self);
    }
    if (status == 0 && !source_is_closed(source)
        && source_look_at_taken(state, source, self->loop) < 0) {
        status = gathering_fail_call(self);
    }
    if (status < 0 || source_is_closed(source)) {
        source_drop_taken(state, source);
        return status;
    }
    return 1;
}

/* Takes a slot for the next item: 1; 0 if there is no item, or no slot; -1 on an
   interrupt.  The clock, which may be the user's, has been asked, and where there is no
   slot, so is the source: there may be one afterwards.  Runs Python code. */
static int
gathering_take_slot(core_state *state, GatheringObject *self)
{
    if (!gathering_has_room(self)) {
        return 0;
    }
    if (!slots_has_one(&self->limit.slots)) {
        int status = gathering_heed_source(state, self,
                                           source_draw(state, &self->source));
        if (status != TAKE_ITEM) {
            return status == TAKE_LATER ? 0 : status;
        }
        if (self->source.state != SOURCE_OPEN
            || !slots_has_one(&self->limit.slots)) {
            return 0;
        }
    }
    slots_take(&self->limit.slots);
    return 1;
}

/* Admits another item, or does not: 1, 0, or -1 on error.  When the slice is
   used up, the next pass is scheduled.  Runs Python code. */
static int
gathering_admit(core_state *state, GatheringObject *self)
{
    if (self->slice.state == PASS_OVER || !gathering_has_room(self)) {
        return 0;
    }
    if (limit_is_none(&self->limit) && !source_may_be_endless(&self->source)) {
        return 1; /* all first steps happen in one turn */
    }
    bool is_last = self->pump_state == PUMP_STARTS;
    switch (slice_start_one(state, &self->slice, is_last)) {
    case SLICE_GOES_ON:
        return gathering_take_slot(state, self);
    case SLICE_ENDS:
        return gathering_schedule_pump(self);
    case SLICE_IS_OVER:
        return 0;
    case SLICE_ERROR:
        return -1;
    }
    Py_UNREACHABLE();
}

/* Takes the next item, if one may start now, and has it started; `current`, if
   it is not NULL, may go on with it.  Runs Python code. */
static StartAnswer
gathering_start_next(core_state *state, GatheringObject *self,
                     PyObject *current)
{
    int status = 0;
    assert(slice_is_under_way(&self->slice));
    while (status == 0) {
        status = gathering_admit(state, self);
        if (status == 0) {
            return START_NONE;
        }
        if (status > 0) {
            status = gathering_take(state, self);
        }
        if (status == TAKE_LATER) {
            return START_NONE;
        }
    }
    if (status < 0) {
        return START_ERROR;
    }
    return self->runner->start(state, self, current);
}

/*** The pass ***/

/* What an item puts into its context goes with its Task: the arguments for the
   next one must not keep it.  Keeps the exception being raised.
   Runs Python code. */
static void
gathering_release_context(GatheringObject *self)
{
    if (self->task_kwargs == NULL || self->tasks == TASKS_OWN_REUSED) {
        return; /* no item runs in the Tasks' own contexts */
    }
    PyObject *raised = fetch_exception();
    core_state *state = state_of((PyObject *)self);
    if (PyDict_SetItem(self->task_kwargs, state->str_context, Py_None) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    restore_exception(raised);
}

/* Ends the pass; `status` is -1 if that is because of the exception being
   raised.  -1 on an interrupt.  Runs Python code. */
static int
gathering_end_pass(GatheringObject *self, int status)
{
    if (self->pump_state == PUMP_AHEAD) {
        self->pump_state = PUMP_STARTS;
    }
    slice_end(&self->slice);
    gathering_release_kept(self);
    gathering_release_context(self);
    if (self->limit.slots.semaphore != NULL) {
        PyObject *raised = status < 0 ? fetch_exception() : NULL;
        if (gathering_wait_for_slot(self) < 0) {
            Py_XDECREF(raised); /* an interrupt goes before it */
            status = -1;
        }
        else {
            restore_exception(raised);
        }
    }
    if (status < 0) {
        if (interrupt_is_raised()) {
            gathering_let_out(self);
        }
        else {
            status = gathering_pass_failed(self);
        }
    }
    if (self->pump_state == PUMP_NONE) {
        gathering_release_idle(self);
    }
    gathering_check(self);
    return status;
}

/* The engine's loop: starts items while there is room, and ends the pass.  -1 on
   an interrupt.  Runs Python code. */
static int
gathering_run_pass(GatheringObject *self)
{
    core_state *state = state_of((PyObject *)self);
    StartAnswer started;
    do {
        started = gathering_start_next(state, self, NULL);
    } while (started == START_ELSEWHERE);
    if (gathering_end_pass(self, started == START_ERROR ? -1 : 0) < 0) {
        return -1;
    }
    if (gathering_settle_if_complete(self) < 0) {
        return report_error((PyObject *)self);
    }
    return 0;
}

/* Runs a pass, unless one is under way.  -1 on an interrupt.
   Runs Python code. */
static int
gathering_pump(GatheringObject *self)
{
    if (slice_is_under_way(&self->slice)) {
        return 0;
    }
    slice_begin(&self->slice);
    return gathering_run_pass(self);
}

/* Runs Python code. */
static PyObject *
gathering_pump_callback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GatheringObject *self = GatheringObject_CAST(op);
    self->pump_state = PUMP_NONE;
    turns_note_pass(&self->turns);
    if (gathering_pump(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Somebody wants a result, and none is there.  What is to start in the next turn
   does so in this step, until a slice is used up in the turn: then the loop gets
   its turn.  -1 on an interrupt.  Runs Python code. */
static int
gathering_start_ahead(GatheringObject *self)
{
    if (self->pump_state != PUMP_STARTS || self->slice.last == PASS_OVER
        || slice_is_under_way(&self->slice) || !gathering_has_room(self)) {
        return 0;
    }
    self->pump_state = PUMP_AHEAD;
    slice_begin_rest(&self->slice);
    return gathering_run_pass(self);
}

/* Goes on after an outcome that was delivered outside of any step; `delivered`
   is -1 if that was interrupted.  -1 on an interrupt.  Runs Python code. */
static int
gathering_go_on(GatheringObject *self, int delivered)
{
    if (delivered == 0) {
        return gathering_pump(self);
    }
    if (!slice_is_under_way(&self->slice)) {
        gathering_let_out(self);
    }
    return -1;
}

#endif /* GATEDCORO_PASS_H */
