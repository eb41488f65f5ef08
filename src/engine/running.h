/* Running: what runs for a gathering, in the order of start.

   A ring of links, each of which is part of the worker or the watcher that it
   stands for; the ring owns those.

      run    STARTING ------> RUNNING     its target can be cancelled
                 |               |
                 +---> CANCEL_PENDING     it is due once there is a target

   A link that has been taken off counts until running_ended(): the outcome of
   what it stood for is not there yet, and putting it there runs Python code.

   A worker whose item has ended may wait for the next one, in another ring: it
   does not run meanwhile.

      run    RUNNING -------> IDLE -----> CALLED     its Task makes the step in
                 ^                          |        which it is to go on with
                 +--------------------------+        the item in hand
*/

#ifndef GATEDCORO_RUNNING_H
#define GATEDCORO_RUNNING_H

#include "engine/slots.h"

typedef enum {
    RUN_RUNNING,
    RUN_STARTING, /* its Task is being made, and the item has not begun */
    RUN_CANCEL_PENDING,
    RUN_WATCHED, /* the target is the caller's own: what is cancelled is only that
                    the owner waits for it */
    RUN_IDLE,
    RUN_CALLED,
} RunState;

typedef struct RunningLink {
    struct RunningLink *previous;
    struct RunningLink *next;
    PyObject *owner;   /* the Worker or Watcher; owned by the ring */
    PyObject *target;  /* the Task or Future to cancel; owned, may be NULL */
    PyObject *item;    /* what runs in the Task; owned, may be NULL */
    PyObject *awaiter; /* shown as awaiting the target; owned, or NULL */
    Py_ssize_t index;
    RunState run;
    SlotState slot; /* of the semaphore that is the limit */
} RunningLink;

typedef struct {
    RunningLink ring;
    Py_ssize_t count;
} Running;

static inline void
running_init(Running *self)
{
    self->ring.previous = self->ring.next = &self->ring;
}

/* Is it in a ring? */
static inline bool
link_is_on(const RunningLink *link)
{
    return link->next != NULL;
}

/* Does it stand for something whose item has ended, and which waits for the
   next one? */
static inline bool
link_is_idle(const RunningLink *link)
{
    return link->run == RUN_IDLE || link->run == RUN_CALLED;
}

static inline bool
link_is_running(const RunningLink *link)
{
    return link_is_on(link) && !link_is_idle(link);
}

static void
running_insert_before(RunningLink *link, RunningLink *next)
{
    link->next = next;
    link->previous = next->previous;
    link->previous->next = link;
    next->previous = link;
}

/* Takes over the caller's reference to `link->owner`. */
static void
running_add(Running *self, RunningLink *link, Py_ssize_t index)
{
    link->index = index;
    running_insert_before(link, &self->ring);
    self->count++;
}

/* Takes the link off; it still counts.  Gives the ring's reference to
   `link->owner` to the caller. */
static void
running_take_off(RunningLink *link)
{
    assert(link_is_on(link));
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = NULL;
}

/* What has been taken off has its outcome. */
static inline void
running_ended(Running *self)
{
    assert(self->count > 0);
    self->count--;
}

/* Both at once. */
static void
running_remove(Running *self, RunningLink *link)
{
    running_take_off(link);
    running_ended(self);
}

/*** Waiting for the next item ***/

/* What the link stands for waits: takes over the caller's reference to
   `link->owner`. */
static void
idle_add(Running *idle, RunningLink *link)
{
    assert(!link_is_on(link) && link->run == RUN_RUNNING);
    link->run = RUN_IDLE;
    running_add(idle, link, link->index);
}

/* The link that waits for longest, or NULL (borrowed). */
static inline RunningLink *
idle_first(const Running *idle)
{
    if (idle->count == 0) {
        return NULL;
    }
    RunningLink *link = idle->ring.next;
    while (link->owner == NULL) {
        link = link->next; /* of a walk */
    }
    return link;
}

/* What the link stands for takes the item in hand. */
static inline void
idle_goes_on(RunningLink *link)
{
    assert(!link_is_on(link) && link->run == RUN_CALLED);
    link->run = RUN_RUNNING;
}

/*** Walking ***/

/* A walk over what runs now, in the order of start, whatever changes in the
   meantime: two links without an owner, which stand in the ring for the place
   that the walk has reached and for its end.  It needs no memory. */
typedef struct {
    RunningLink place;
    RunningLink end;
} RunningWalk;

static void
running_walk_begin(Running *self, RunningWalk *walk)
{
    walk->place.owner = walk->place.target = NULL;
    walk->end.owner = walk->end.target = NULL;
    /* Volatile: GCC takes them for links that outlive the walk. */
    RunningLink *volatile place = &walk->place;
    RunningLink *volatile end = &walk->end;
    running_insert_before(place, self->ring.next);
    running_insert_before(end, &self->ring);
}

/* The next link, with a new reference to its owner; NULL, once, at the end. */
static RunningLink *
running_walk_next(RunningWalk *walk)
{
    RunningLink *link = walk->place.next;
    while (link != &walk->end && link->owner == NULL) {
        link = link->next; /* of another walk */
    }
    RunningLink *after = link == &walk->end ? link : link->next;
    running_take_off(&walk->place);
    if (link == &walk->end) {
        running_take_off(&walk->end);
        return NULL;
    }
    running_insert_before(&walk->place, after);
    Py_INCREF(link->owner);
    return link;
}

/*** Cancelling ***/

/* Its Task is about to be made. */
static inline void
link_is_starting(RunningLink *link)
{
    link->run = RUN_STARTING;
}

/* It can be cancelled by its target from here on; false if it has been cancelled
   in the meantime. */
static inline bool
link_has_started(RunningLink *link)
{
    if (link->run == RUN_CANCEL_PENDING) {
        return false;
    }
    link->run = RUN_RUNNING;
    return true;
}

/* The cancellation that was pending is about to be carried out. */
static inline void
link_take_pending_cancel(RunningLink *link)
{
    assert(link->run == RUN_CANCEL_PENDING);
    link->run = RUN_RUNNING;
}

/* target.cancel(msg=message), or the owner's: was anything cancelled?  -1 on error.
   Runs Python code. */
static int
link_cancel(core_state *state, RunningLink *link, PyObject *message)
{
    bool is_watched = link->run == RUN_WATCHED;
    if (!is_watched && (link->target == NULL || link->run != RUN_RUNNING)) {
        link->run = RUN_CANCEL_PENDING;
        return 1;
    }
    PyObject *target = Py_NewRef(is_watched ? link->owner : link->target);
    PyObject *args[] = {target, message};
    PyObject *answer = PyObject_VectorcallMethod(
        state->str_cancel, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        state->msg_kwname);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    Py_DECREF(target);
    return truth;
}

/* Cancels what runs and has an index between `after` and `before`: all of it if
   these are -1 and PY_SSIZE_T_MAX.  1 if anything could be, 0, or -1 if anything
   failed; the rest has been cancelled all the same.  Runs Python code. */
static int
running_cancel(core_state *state, Running *self, PyObject *message,
               Py_ssize_t after, Py_ssize_t before)
{
    int cancelled = 0;
    PyObject *failure = NULL;
    RunningLink *link;
    RunningWalk walk;
    running_walk_begin(self, &walk);
    while ((link = running_walk_next(&walk)) != NULL) {
        PyObject *owner = link->owner;
        int answer = link->index > after && link->index < before
                         ? link_cancel(state, link, message)
                         : 0;
        if (answer < 0) {
            collect_exception(&failure);
        }
        else {
            cancelled |= answer;
        }
        Py_DECREF(owner);
    }
    return raise_collected(failure) < 0 ? -1 : cancelled;
}

/*** Lifecycle ***/

/* What the owner of a link visits of it: the ring is the gathering's. */
static int
link_traverse(RunningLink *link, visitproc visit, void *arg)
{
    Py_VISIT(link->target);
    Py_VISIT(link->item);
    Py_VISIT(link->awaiter);
    return 0;
}

static void
link_clear(RunningLink *link)
{
    Py_CLEAR(link->awaiter); /* while it is set, so is the target */
    Py_CLEAR(link->target);
    Py_CLEAR(link->item);
}

static int
running_traverse(Running *self, visitproc visit, void *arg)
{
    for (RunningLink *link = self->ring.next;
         link != NULL && link != &self->ring; link = link->next) {
        Py_VISIT(link->owner);
    }
    return 0;
}

static void
running_clear(Running *self)
{
    RunningLink *link = self->ring.next;
    while (link != NULL && link != &self->ring) {
        PyObject *owner = link->owner;
        if (owner == NULL) {
            link = link->next; /* of a walk */
            continue;
        }
        running_remove(self, link);
        Py_CLEAR(link->awaiter);
        Py_DECREF(owner);
        link = self->ring.next;
    }
}

#endif /* GATEDCORO_RUNNING_H */
