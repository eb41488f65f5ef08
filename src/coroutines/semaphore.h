/* Semaphore: asyncio's, with a limit that may change while it is in use.

   It counts the slots that are free (`value`, which is negative as long as more are
   taken than the limit says by now), and knows who waits (semaphore_queue.h).

      limit = value given            + difference, when the limit is assigned
      value                          - 1 when a slot is taken or handed over
                                     + 1 when one is given back

   A slot that is given back is handed to the first one who waits at once: so
   nobody can take it before that goes on.

   Our types derive from asyncio's Python classes, whose structs nobody outside
   knows, and whose traverse, clear and dealloc cannot be called by ours: they would
   call themselves through it.  So there is one Python object in ours, the queue,
   and the base classes find it as they find what stands in __slots__. */

#ifndef GATEDCORO_SEMAPHORE_H
#define GATEDCORO_SEMAPHORE_H

#include "base/import.h"
#include "coroutines/semaphore_queue.h"

/* At most so much of a base class comes before our fields. */
#define WORDS_OF_SEMAPHORE_BASE 4

/* The methods which everything of ours calls if somebody has replaced them. */
typedef enum {
    OWN_ACQUIRE,
    OWN_LOCKED,
    OWN_RELEASE,
    OWN_AENTER,
    OWN_AEXIT,
    OWN_SEMAPHORE_METHODS, /* how many */
} OwnSemaphoreMethod;

typedef struct {
    PyObject_HEAD
    void *of_base[WORDS_OF_SEMAPHORE_BASE];
    core_state *state;
    Py_ssize_t value;
    Py_ssize_t limit;
    PyObject *queue; /* of somebody who had to wait; or NULL */
} SemaphoreObject;

/* What the module keeps of the two types, to see a patch. */
typedef struct OwnSemaphores {
    PyObject *names[OWN_SEMAPHORE_METHODS]; /* the module's */
    PyObject *methods[OWN_SEMAPHORE_METHODS];
    PyTypeObject *types[2];   /* borrowed from the module's state */
    unsigned int versions[2]; /* their version tags when they were looked at */
} OwnSemaphores;

static inline SemaphoreObject *
SemaphoreObject_CAST(PyObject *op)
{
    return (SemaphoreObject *)op;
}

static inline SemaphoreQueueObject *
semaphore_queue_of(const SemaphoreObject *self)
{
    return (SemaphoreQueueObject *)self->queue;
}

/* Does it take no more slots back than its limit?  Its class may have been changed. */
static inline bool
semaphore_is_bounded(const SemaphoreObject *self)
{
    const core_state *state = self->state;
    PyTypeObject *type = Py_TYPE(self);
    return type != state->semaphore_type
           && (type == state->bounded_semaphore_type
               || PyType_IsSubtype(type, state->bounded_semaphore_type));
}

/*** Are its methods ours? ***/

/* Has the class, one of ours or derived from it, our methods? */
static bool
semaphore_class_is_ours(core_state *state, PyTypeObject *type)
{
    OwnSemaphores *own = state->own_semaphores;
    int exact = type == own->types[0] ? 0 : type == own->types[1] ? 1 : -1;
    /* The interpreter gives a changed class another version. */
    if (exact >= 0 && type->tp_version_tag != 0
        && type->tp_version_tag == own->versions[exact]) {
        return true;
    }
    for (OwnSemaphoreMethod i = 0; i < OWN_SEMAPHORE_METHODS; i++) {
        if (_PyType_Lookup(type, own->names[i]) != own->methods[i]) {
            return false;
        }
    }
    if (exact >= 0 && type->tp_getattro == PyObject_GenericGetAttr) {
        own->versions[exact] = type->tp_version_tag;
    }
    return true;
}

/* Is it an instance of one of our two classes, without any attribute of its own?
   Then all its methods are ours.  False also if nobody has looked at the class since
   it was changed. */
static inline bool
semaphore_is_plain(core_state *state, PyObject *op)
{
    const OwnSemaphores *own = state->own_semaphores;
    PyTypeObject *type = Py_TYPE(op);
    bool bounded = type == own->types[1];
    if ((!bounded && type != own->types[0]) || type->tp_version_tag == 0
        || type->tp_version_tag != own->versions[bounded]) {
        return false;
    }
    PyObject **dict = _PyObject_GetDictPtr(op);
    return dict == NULL || *dict == NULL || PyDict_GET_SIZE(*dict) == 0;
}

/* Has nobody put an attribute in place of that method of the instance?  False also
   where that cannot be told.  Runs Python code. */
static inline bool
semaphore_has_own(core_state *state, PyObject *op, OwnSemaphoreMethod method)
{
    const OwnSemaphores *own = state->own_semaphores;
    PyObject *found = NULL;
    (void)_PyObject_GetMethod(op, own->names[method], &found);
    bool is_own = found == own->methods[method];
    if (found == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(found);
    return is_own;
}

/* Is that method of a Semaphore of ours, or of a class derived from it, ours?
   Runs Python code. */
static inline bool
semaphore_uses_own(core_state *state, PyObject *op, OwnSemaphoreMethod method)
{
    return semaphore_is_plain(state, op)
           || (semaphore_class_is_ours(state, Py_TYPE(op))
               && semaphore_has_own(state, op, method));
}

/* Is it a Semaphore of ours which nobody can tell from one whose methods are called
   if its slots are counted here?  Runs Python code. */
static bool
semaphore_is_counted(core_state *state, PyObject *op)
{
    return semaphore_is_plain(state, op)
           || (PyObject_TypeCheck(op, state->semaphore_type)
               && semaphore_class_is_ours(state, Py_TYPE(op))
               && semaphore_has_own(state, op, OWN_ACQUIRE)
               && semaphore_has_own(state, op, OWN_LOCKED)
               && semaphore_has_own(state, op, OWN_RELEASE));
}

/*** Counting ***/

/* The sum, or OverflowError: 0, or -1 with it, and nothing changes. */
static int
semaphore_add(SemaphoreObject *self, Py_ssize_t change)
{
    if (change > 0 ? self->value > PY_SSIZE_T_MAX - change
                   : self->value < PY_SSIZE_T_MIN - change) {
        PyErr_Format(PyExc_OverflowError,
                     "the semaphore has %zd slots already, and would have "
                     "more than %zd",
                     self->value, PY_SSIZE_T_MAX);
        return -1;
    }
    self->value += change;
    return 0;
}

/* Does nobody wait, as far as can be told at once? */
static inline bool
semaphore_has_no_queue(const SemaphoreObject *self)
{
    const SemaphoreQueueObject *queue = semaphore_queue_of(self);
    return queue == NULL || (queue->count == 0 && queue->deque == NULL);
}

/* Can whoever comes now have a slot, and that without asking anybody? */
static inline bool
semaphore_is_free(const SemaphoreObject *self)
{
    return self->value > 0
           && (semaphore_has_no_queue(self)
               || (semaphore_queue_of(self)->count == 0
                   && PyObject_Size(semaphore_queue_of(self)->deque) == 0));
}

/* Must whoever comes now wait?  1, 0, or -1.  Runs Python code. */
static inline int
semaphore_is_locked(core_state *state, SemaphoreObject *self)
{
    if (self->value <= 0) {
        return 1;
    }
    if (semaphore_has_no_queue(self)) {
        return 0;
    }
    SemaphoreQueueObject *queue = semaphore_queue_of(self);
    Py_INCREF(queue);
    int occupied = semaphore_queue_is_occupied(state, queue);
    Py_DECREF(queue);
    return occupied < 0 ? -1 : occupied || self->value <= 0;
}

/* Takes a slot: 1, 0 if there is none, or -1.  Runs Python code. */
static inline int
semaphore_take(core_state *state, SemaphoreObject *self)
{
    int locked = semaphore_is_locked(state, self);
    if (locked == 0) {
        self->value--;
    }
    return locked < 0 ? -1 : !locked;
}

/* Hands a free slot to one whose turn it is, on the ring or in the deque: 1 if it has
   it, 0 if it does not want it, -1 with an exception.  Runs Python code. */
static int
semaphore_hand_over(core_state *state, SemaphoreObject *self,
                    SemaphoreQueueObject *queue, SemaphoreWaiterObject *waiter)
{
    bool on_ring = waiter_is_on_ring(waiter);
    self->value--;
    if (on_ring) {
        waiter_take_off(waiter);
        if (waiter->future != NULL) {
            waiter_insert_before(waiter, &queue->admitted);
        }
        else {
            queue->count--;
            Py_DECREF(waiter); /* the caller has it */
        }
    }
    bool is_dealt_with;
    int taken = semaphore_waiter_tell(state, waiter, &is_dealt_with);
    if (taken <= 0 && !is_dealt_with) {
        self->value++;
        if (waiter_is_on_ring(waiter)) {
            waiter_take_off(waiter);
            waiter_insert_before(waiter, queue->waiting.next);
        }
    }
    return taken;
}

/* The same of one that somebody else has put into the deque.  Runs Python code. */
static int
semaphore_hand_over_to_other(core_state *state, SemaphoreObject *self,
                             PyObject *waiter)
{
    self->value--;
    if (call_method_for_effect(waiter, state->str_set_result, Py_True) == 0) {
        return 1;
    }
    PyObject *raised = fetch_exception();
    if (answer_of_method(waiter, state->str_done) == 0) {
        self->value++;
    }
    PyErr_Clear();
    restore_exception(raised);
    return -1;
}

/* Hands a free slot to the first one who waits: 1, 0 if nobody does, -1 with an
   exception.  An owner that fails keeps nobody from it who stands behind.
   Runs Python code. */
static int
semaphore_wake_next(core_state *state, SemaphoreObject *self)
{
    SemaphoreQueueObject *queue = semaphore_queue_of(self);
    if (semaphore_has_no_queue(self)) {
        return 0;
    }
    Py_INCREF(queue);
    semaphore_queue_withdraw(state, queue);
    int found = 1, taken = 0;
    PyObject *failure = NULL;
    while (found > 0 && taken == 0) {
        PyObject *first;
        bool on_ring = queue->deque == NULL;
        found = on_ring ? semaphore_queue_first(state, queue, &first)
                        : semaphore_deque_first(state, queue, &first);
        if (found == 0 && on_ring && queue->deque != NULL) {
            found = 1; /* somebody has had them all put into a deque */
        }
        else if (found > 0
                 && !Py_IS_TYPE(first, state->semaphore_waiter_type)) {
            taken = semaphore_hand_over_to_other(state, self, first);
            Py_DECREF(first);
        }
        else if (found > 0) {
            SemaphoreWaiterObject *waiter = SemaphoreWaiterObject_CAST(first);
            taken = semaphore_hand_over(state, self, queue, waiter);
            if (taken < 0 && waiter->future == NULL) {
                collect_exception(&failure);
                taken = 0;
            }
            Py_DECREF(first);
        }
    }
    Py_DECREF(queue);
    if (found < 0 || taken < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure) < 0 ? -1 : taken;
}

/* Hands out what is free.  -1 with an exception.  Runs Python code. */
static inline int
semaphore_wake_all(core_state *state, SemaphoreObject *self)
{
    int woken = 1;
    while (woken > 0 && self->value > 0) {
        woken = semaphore_wake_next(state, self);
    }
    return woken < 0 ? -1 : 0;
}

/* Takes a slot (-1), or gives one back (1), if that concerns nobody else and cannot
   fail. */
static inline bool
semaphore_count(SemaphoreObject *self, int change)
{
    Py_ssize_t value = self->value;
    if (change < 0 ? value <= 0
                   : value >= (semaphore_is_bounded(self) ? self->limit
                                                          : PY_SSIZE_T_MAX)) {
        return false;
    }
    if (!semaphore_has_no_queue(self)) {
        return false;
    }
    self->value = value + change;
    return true;
}

/* Gives back a slot that was taken.  -1 with an exception.  Runs Python code. */
static inline int
semaphore_give_back(core_state *state, SemaphoreObject *self)
{
    if (semaphore_count(self, 1)) {
        return 0;
    }
    if (semaphore_is_bounded(self) && self->value >= self->limit) {
        PyErr_SetString(PyExc_ValueError,
                        "BoundedSemaphore released too many times");
        return -1;
    }
    if (semaphore_add(self, 1) < 0) {
        return -1;
    }
    return self->value > 0 && semaphore_wake_next(state, self) < 0 ? -1 : 0;
}

/* From now on so many.  -1 with an exception.  Runs Python code. */
static int
semaphore_set_limit(core_state *state, SemaphoreObject *self, Py_ssize_t limit)
{
    if (semaphore_add(self, limit - self->limit) < 0) {
        return -1;
    }
    self->limit = limit;
    return semaphore_wake_all(state, self);
}

/*** Waiting ***/

/* The queue (borrowed), which is made if it is not there; NULL with an exception. */
static SemaphoreQueueObject *
semaphore_ensure_queue(core_state *state, SemaphoreObject *self)
{
    if (self->queue == NULL) {
        PyObject *queue = (PyObject *)semaphore_queue_new(state);
        Py_XSETREF(self->queue, queue);
    }
    return semaphore_queue_of(self);
}

/* Can one of that loop wait? */
static inline bool
semaphore_can_wait_in(const SemaphoreObject *self, PyObject *loop)
{
    const SemaphoreQueueObject *queue = semaphore_queue_of(self);
    return queue == NULL || queue->loop == NULL || queue->loop == loop;
}

/* The loop in which all wait: `loop`, if nobody has yet.  -1 with RuntimeError if
   that is another one.  Runs Python code. */
static int
semaphore_bind(core_state *state, SemaphoreObject *self, PyObject *loop)
{
    SemaphoreQueueObject *queue = semaphore_ensure_queue(state, self);
    if (queue == NULL) {
        return -1;
    }
    if (queue->loop == NULL) {
        queue->loop = Py_NewRef(loop);
    }
    if (!semaphore_can_wait_in(self, loop)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R is bound to a different event loop", self);
        return -1;
    }
    return 0;
}

/* A waiter for an acquire() of the running loop, not in the queue yet: new
   reference.  Runs Python code. */
static SemaphoreWaiterObject *
semaphore_make_waiter(core_state *state, SemaphoreObject *self)
{
    PyObject *loop = PyObject_CallNoArgs(state->get_running_loop);
    if (loop == NULL) {
        return NULL;
    }
    SemaphoreWaiterObject *waiter = NULL;
    if (semaphore_bind(state, self, loop) == 0) {
        PyObject *future =
            PyObject_CallMethodNoArgs(loop, state->str_create_future);
        if (future != NULL) {
            waiter = semaphore_waiter_new(state, future, NULL, NULL);
            Py_DECREF(future);
        }
    }
    Py_DECREF(loop);
    return waiter;
}

/* An acquire() has ended, which was in the queue: it has the slot (`acquired`), or
   fails with the exception being raised, which is kept.  Runs Python code. */
static void
semaphore_end_waiting(core_state *state, SemaphoreObject *self,
                      SemaphoreWaiterObject *waiter, bool acquired)
{
    PyObject *raised = fetch_exception();
    SemaphoreQueueObject *queue = semaphore_queue_of(self);
    if (queue != NULL) {
        Py_INCREF(queue);
        semaphore_queue_leave(state, queue, waiter);
        Py_DECREF(queue);
    }
    /* Somebody else may have set its Future. */
    if (acquired && !waiter->is_admitted) {
        (void)semaphore_add(self, -1);
    }
    else if (!acquired && waiter->is_admitted) {
        (void)semaphore_add(self, 1);
    }
    waiter->is_admitted = false;
    PyErr_Clear();
    /* Others may have come meanwhile, and had to wait for this one. */
    if (semaphore_wake_all(state, self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    restore_exception(raised);
}

/*** At import ***/

/* Notes the two types, which are ready.  -1 on error. */
static int
own_semaphores_note(core_state *state)
{
    OwnSemaphores *own = PyMem_Calloc(1, sizeof(OwnSemaphores));
    if (own == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    state->own_semaphores = own;
    own->types[0] = state->semaphore_type;
    own->types[1] = state->bounded_semaphore_type;
    PyObject *const names[] = {
        [OWN_ACQUIRE] = state->str_acquire, [OWN_LOCKED] = state->str_locked,
        [OWN_RELEASE] = state->str_release, [OWN_AENTER] = state->str_aenter,
        [OWN_AEXIT] = state->str_aexit,
    };
    for (OwnSemaphoreMethod i = 0; i < OWN_SEMAPHORE_METHODS; i++) {
        own->names[i] = names[i];
        own->methods[i] =
            Py_XNewRef(_PyType_Lookup(state->semaphore_type, names[i]));
    }
    return 0;
}

static int
own_semaphores_traverse(core_state *state, visitproc visit, void *arg)
{
    for (size_t i = 0;
         state->own_semaphores != NULL && i < OWN_SEMAPHORE_METHODS; i++) {
        Py_VISIT(state->own_semaphores->methods[i]);
    }
    return 0;
}

static void
own_semaphores_clear(core_state *state)
{
    for (size_t i = 0;
         state->own_semaphores != NULL && i < OWN_SEMAPHORE_METHODS; i++) {
        Py_CLEAR(state->own_semaphores->methods[i]);
    }
}

#endif /* GATEDCORO_SEMAPHORE_H */
