/* Slots: a semaphore of ours as the limit of a gathering (semaphore.h).

   The gathering counts for its items, so none of them waits in a Task.  It takes a
   slot before the next item starts.  If there is none, it stands in the semaphore's
   queue, once, and is handed one in its turn:

      NONE ---------------> IN HAND -------> of the item that starts, until it ends
        |      is free         ^   |
        |                      |   +-------> given back: nothing came of it
        +--> in the queue -----+ */

#ifndef GATEDCORO_SLOTS_H
#define GATEDCORO_SLOTS_H

#include "coroutines/semaphore.h"

/* Of the gathering, for its next item, and of what runs. */
typedef enum {
    SLOT_NONE,
    SLOT_HELD,
} SlotState;

typedef struct {
    PyObject *semaphore; /* owned; NULL: the limit is none */
    SemaphoreWaiterObject
        *waiter;       /* owned while it stands in the queue, or NULL */
    SlotState in_hand; /* for the next item */
    bool gives_back;   /* an item does: what is free then is for this step */
} Slots;

/* Is there one for the next item?  Not while anybody else waits. */
static inline bool
slots_has_one(const Slots *self)
{
    return self->semaphore == NULL || self->in_hand == SLOT_HELD
           || semaphore_is_free(SemaphoreObject_CAST(self->semaphore));
}

/* Takes one: it is in hand. */
static inline void
slots_take(Slots *self)
{
    assert(slots_has_one(self));
    if (self->semaphore != NULL && self->in_hand == SLOT_NONE) {
        SemaphoreObject_CAST(self->semaphore)->value--;
        self->in_hand = SLOT_HELD;
    }
}

/* Takes one, if there is one after those who will not go in have been passed over: 1,
   0, or -1.  Runs Python code. */
static int
slots_try_to_take(core_state *state, Slots *self)
{
    PyObject *semaphore = Py_NewRef(self->semaphore);
    int taken = semaphore_take(state, SemaphoreObject_CAST(semaphore));
    if (taken > 0 && self->in_hand == SLOT_HELD) { /* by what has run */
        taken = semaphore_give_back(state, SemaphoreObject_CAST(semaphore));
    }
    else if (taken > 0) {
        self->in_hand = SLOT_HELD;
    }
    Py_DECREF(semaphore);
    return taken;
}

/* An item starts, and has from here on what is in hand. */
static inline SlotState
slots_hand_on(Slots *self)
{
    SlotState in_hand = self->in_hand;
    self->in_hand = SLOT_NONE;
    return in_hand;
}

/* How many could start, not counting those for whom somebody else may be first. */
static inline Py_ssize_t
slots_free(const Slots *self)
{
    const SemaphoreObject *semaphore = SemaphoreObject_CAST(self->semaphore);
    Py_ssize_t free = semaphore_is_free(semaphore) ? semaphore->value : 0;
    return self->in_hand == SLOT_HELD && free < PY_SSIZE_T_MAX ? free + 1
                                                               : free;
}

/* Gives one back which an item had.  -1 with an exception.
   Runs Python code. */
static inline int
slots_give_back(core_state *state, Slots *self)
{
    PyObject *semaphore = Py_NewRef(self->semaphore);
    bool before = self->gives_back;
    self->gives_back = true;
    int status = semaphore_give_back(state, SemaphoreObject_CAST(semaphore));
    self->gives_back = before;
    Py_DECREF(semaphore);
    return status;
}

/* Nothing starts with the one that is in hand, if there is one: the next one who
   waits has it.  Keeps the exception being raised.  Runs Python code. */
static void
slots_let_go(core_state *state, Slots *self)
{
    if (slots_hand_on(self) == SLOT_NONE) {
        return;
    }
    PyObject *raised = fetch_exception();
    PyObject *semaphore = Py_NewRef(self->semaphore);
    if (semaphore_give_back(state, SemaphoreObject_CAST(semaphore)) < 0) {
        PyErr_WriteUnraisable(semaphore);
    }
    Py_DECREF(semaphore);
    restore_exception(raised);
}

/*** In the queue ***/

/* Stands at the end of the queue, from which `owner` is told.  -1 with an exception.
   Runs Python code. */
static int
slots_join(core_state *state, Slots *self, PyObject *loop, PyObject *owner,
           const SemaphoreOwnerCalls *calls)
{
    SemaphoreObject *semaphore = SemaphoreObject_CAST(self->semaphore);
    if (semaphore_bind(state, semaphore, loop) < 0) {
        return -1;
    }
    SemaphoreWaiterObject *waiter =
        semaphore_waiter_new(state, NULL, owner, calls);
    if (waiter == NULL) {
        return -1;
    }
    if (self->waiter != NULL || self->in_hand == SLOT_HELD) {
        Py_DECREF(waiter); /* by what the collector has run, up to 3.11 */
        return 0;
    }
    self->waiter = waiter;
    if (semaphore_queue_join(state, semaphore_queue_of(semaphore), waiter)
        < 0) {
        Py_CLEAR(self->waiter);
        return -1;
    }
    return 0;
}

/* Leaves the queue, if it stands there.  Keeps the exception being raised.
   Runs Python code. */
static void
slots_leave_queue(core_state *state, Slots *self)
{
    SemaphoreWaiterObject *waiter = self->waiter;
    if (waiter == NULL) {
        return;
    }
    PyObject *raised = fetch_exception();
    SemaphoreObject *semaphore =
        SemaphoreObject_CAST(Py_NewRef(self->semaphore));
    self->waiter = NULL;
    if (semaphore_queue_of(semaphore) != NULL) {
        semaphore_queue_leave(state, semaphore_queue_of(semaphore), waiter);
    }
    Py_CLEAR(waiter->owner);
    Py_DECREF(waiter);
    Py_DECREF(semaphore);
    restore_exception(raised);
}

/*** Lifecycle ***/

static int
slots_traverse(const Slots *self, visitproc visit, void *arg)
{
    Py_VISIT(self->semaphore);
    Py_VISIT(self->waiter);
    return 0;
}

static void
slots_clear(Slots *self)
{
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->semaphore);
}

#endif /* GATEDCORO_SLOTS_H */
