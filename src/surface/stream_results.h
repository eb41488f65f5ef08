/* Stream results: what is between the items of a Stream and its consumers; its
   sink.

      drawn -----> finished -----> ready -----> handed over
            put()         in order       take()

   The window says how many items may have been drawn and not handed over, or how
   many results may be finished and not handed over, when one more is drawn.

   Consumers wait in a ring, in the order in which they asked.  The first of them
   have been woken, as many as results are ready; who asks later gets what they
   leave, and if one of them goes without, the next one is woken. */

#ifndef GATEDCORO_STREAM_RESULTS_H
#define GATEDCORO_STREAM_RESULTS_H

#include "coroutines/task_wait.h"
#include "engine/sink.h"

/* So many finished results may wait where a gate is the limit, whose size is not
   known. */
#define FINISHED_BY_DEFAULT 100

/* One more item may be drawn while so many are drawn and not handed over, and so
   many finished and not handed over; PY_SSIZE_T_MAX for any number. */
typedef struct {
    Py_ssize_t drawn;
    Py_ssize_t finished;
} Window;

/* Who waits for a result, or for the end. */
typedef struct WaitingLink {
    struct WaitingLink *previous; /* NULL: it does not wait */
    struct WaitingLink *next;
    PyObject *future; /* on which its Task waits; owned, or NULL */
    bool is_woken;
} WaitingLink;

typedef struct {
    PyObject_HEAD
    Window window;
    bool is_ordered;
    bool is_over; /* nothing is put any more */
    bool is_left; /* nobody wants what is left */

    /* A ring buffer of results: of those that are ready; in order, of all items
       from `handed_over` on, with holes for those that have not finished. */
    PyObject **slots;
    Py_ssize_t size; /* a power of two, or 0 */
    Py_ssize_t first;
    Py_ssize_t used;

    Py_ssize_t cut; /* in order: from this index on nothing is handed over */
    Py_ssize_t ready;
    Py_ssize_t drawn;
    Py_ssize_t finished;
    Py_ssize_t handed_over;
    PyObject *error;     /* for one consumer, or for who has left; or NULL */
    PyObject *interrupt; /* has left the loop by a consumer's step; or NULL */

    WaitingLink consumers;
    WaitingLink *unwoken; /* the first of them that has not been woken */
    Py_ssize_t consumers_count;
    Py_ssize_t woken;
    WaitingLink closers;
} StreamResultsObject;

static inline StreamResultsObject *
StreamResultsObject_CAST(PyObject *op)
{
    return (StreamResultsObject *)op;
}

static inline Py_ssize_t
stream_results_waiting(const StreamResultsObject *self)
{
    return self->finished - self->handed_over;
}

/*** Waiting ***/

static inline bool
waiting_link_is_on(const WaitingLink *link)
{
    return link->previous != NULL;
}

static void
waiting_ring_init(WaitingLink *ring)
{
    ring->previous = ring->next = ring;
}

static void
waiting_link_add(WaitingLink *ring, WaitingLink *link)
{
    link->is_woken = false;
    link->next = ring;
    link->previous = ring->previous;
    link->previous->next = link;
    ring->previous = link;
}

static void
waiting_link_remove(WaitingLink *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = NULL;
}

/* Whoever waits there goes on in the next turn.  That is tried again, some times,
   if there is no memory.  -1 on an interrupt.  Runs Python code. */
static int
waiting_link_wake(core_state *state, WaitingLink *link, PyObject *where)
{
    link->is_woken = true;
    if (link->future == NULL || future_is_done(state, link->future)) {
        return 0;
    }
    PyObject *future = Py_NewRef(link->future);
    int status =
        call_method_for_effect(future, state->str_set_result, Py_None);
    for (int i = 0;
         i < 100 && status < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)
         && !future_is_done(state, future);
         i++) {
        PyErr_Clear();
        status =
            call_method_for_effect(future, state->str_set_result, Py_None);
    }
    if (status < 0 && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyObject *refused = fetch_exception();
        PyObject *loop =
            PyObject_CallMethodNoArgs(future, state->str_get_loop);
        bool is_closed = loop != NULL && loop_is_closed(state, loop, where);
        PyErr_Clear();
        Py_XDECREF(loop);
        if (is_closed) { /* nobody goes on there */
            Py_DECREF(refused);
            status = 0;
        }
        else {
            restore_exception(refused);
        }
    }
    Py_DECREF(future);
    return status < 0 ? report_error(where) : 0;
}

/* As many consumers as there are results ready go on; all, once it is over.  -1 on
   an interrupt.  Runs Python code. */
static int
stream_results_wake(StreamResultsObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    Py_INCREF(self);
    while (self->unwoken != &self->consumers
           && (self->is_over || self->woken < self->ready)) {
        WaitingLink *link = self->unwoken;
        self->unwoken = link->next;
        self->woken++;
        if (waiting_link_wake(state, link, (PyObject *)self) < 0) {
            collect_exception(&failure);
        }
    }
    Py_DECREF(self);
    return raise_collected(failure);
}

/* Who waits for the end goes on.  -1 on an interrupt.  Runs Python code. */
static int
stream_results_wake_closers(StreamResultsObject *self)
{
    core_state *state = state_of((PyObject *)self);
    PyObject *failure = NULL;
    Py_INCREF(self);
    while (self->closers.next != &self->closers) {
        WaitingLink *link = self->closers.next;
        waiting_link_remove(link);
        if (waiting_link_wake(state, link, (PyObject *)self) < 0) {
            collect_exception(&failure);
        }
    }
    Py_DECREF(self);
    return raise_collected(failure);
}

/*** The buffer ***/

static inline PyObject **
stream_results_slot(StreamResultsObject *self, Py_ssize_t at)
{
    assert(at < self->size);
    return &self->slots[(self->first + at) & (self->size - 1)];
}

/* Makes room for one more item's result.  -1 without memory. */
static int
stream_results_grow(StreamResultsObject *self, Py_ssize_t wanted)
{
    if (wanted <= self->size) {
        return 0;
    }
    Py_ssize_t size = self->size == 0 ? 8 : 2 * self->size;
    PyObject **slots = PyMem_New(PyObject *, (size_t)size);
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        slots[i] = i < self->size ? *stream_results_slot(self, i) : NULL;
    }
    PyMem_Free(self->slots);
    self->slots = slots;
    self->size = size;
    self->first = 0;
    return 0;
}

/* Lets go of all results from that one on. */
static void
stream_results_cut_from(StreamResultsObject *self, Py_ssize_t at)
{
    self->ready = self->ready < at ? self->ready : at;
    while (self->used > at) {
        self->used--;
        PyObject *result = *stream_results_slot(self, self->used);
        *stream_results_slot(self, self->used) = NULL;
        if (result != NULL) {
            self->finished--;
            Py_DECREF(result);
        }
    }
}

/* Hands the result (stolen) out after all others. */
static void
stream_results_append(StreamResultsObject *self, PyObject *result)
{
    *stream_results_slot(self, self->used) = result;
    self->used++;
    self->ready++;
}

/*** What a gathering calls ***/

static bool
stream_results_are_wanted(core_state *Py_UNUSED(state),
                          PyObject *Py_UNUSED(op))
{
    return true;
}

static bool
stream_results_have_room(PyObject *op)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    return self->drawn - self->handed_over < self->window.drawn
           && stream_results_waiting(self) <= self->window.finished;
}

static int
stream_results_expect(PyObject *op, Py_ssize_t Py_UNUSED(index))
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    self->drawn++;
    return stream_results_grow(self, self->drawn - self->handed_over);
}

/* Runs Python code. */
static int
stream_results_put(PyObject *op, Py_ssize_t index, Outcome *outcome)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    if (self->is_over || index >= self->cut) {
        return 0;
    }
    PyObject *result = outcome_as_result(state_of(op), outcome);
    if (self->is_over || index >= self->cut) { /* meanwhile */
        Py_DECREF(result);
        return 0;
    }
    self->finished++;
    if (!self->is_ordered) {
        stream_results_append(self, result);
    }
    else {
        Py_ssize_t at = index - self->handed_over;
        self->used = at < self->used ? self->used : at + 1;
        *stream_results_slot(self, at) = result;
        while (self->ready < self->used
               && *stream_results_slot(self, self->ready) != NULL) {
            self->ready++;
        }
    }
    return stream_results_wake(self);
}

static void
stream_results_cut(PyObject *op, Py_ssize_t after)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    if (self->is_ordered && !self->is_over) {
        self->cut = after;
        Py_ssize_t at = after - self->handed_over;
        stream_results_cut_from(self, at < 0 ? 0 : at);
    }
}

/* An error (borrowed) as a consumer gets it: a StopAsyncIteration would look as if
   there were no more results.  New reference. */
static PyObject *
error_for_consumer(PyObject *error)
{
    if (!PyErr_GivenExceptionMatches(error, PyExc_StopAsyncIteration)) {
        return Py_NewRef(error);
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "async generator raised StopAsyncIteration");
    PyObject *raised = fetch_exception();
    PyException_SetCause(raised, Py_NewRef(error));
    PyException_SetContext(raised, Py_NewRef(error));
    return raised;
}

/* Runs Python code. */
static int
stream_results_end(PyObject *op, PyObject *exception,
                   bool Py_UNUSED(is_no_news))
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    PyObject *failure = NULL;
    Py_XSETREF(self->error, exception == NULL || exception == self->interrupt
                                ? NULL
                                : error_for_consumer(exception));
    Py_CLEAR(self->interrupt);
    self->is_over = true;
    if (stream_results_wake(self) < 0) {
        collect_exception(&failure);
    }
    if (stream_results_wake_closers(self) < 0) {
        collect_exception(&failure);
    }
    return raise_collected(failure);
}

/* Nobody wants what is left.  -1 on an interrupt.  Runs Python code. */
static int
stream_results_leave(StreamResultsObject *self)
{
    self->is_over = self->is_left = true;
    Py_CLEAR(self->error);
    stream_results_cut_from(self, 0);
    self->finished = self->handed_over; /* some may not be there yet */
    return stream_results_wake(self);
}

/* Nobody will ask for anything any more. */
static void
stream_results_forget(PyObject *op)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    self->is_over = self->is_left = true;
    stream_results_cut_from(self, 0);
}

static Py_ssize_t
stream_results_argument_index(PyObject *Py_UNUSED(op), Py_ssize_t index)
{
    return index;
}

/* Called by a gathering, for each item and at its end (sink.h). */
static const Sink stream_results_sink = {
    .is_wanted = stream_results_are_wanted,
    .has_room = stream_results_have_room,
    .expect = stream_results_expect,
    .put = stream_results_put,
    .cut = stream_results_cut,
    .end = stream_results_end,
    .forget = stream_results_forget,
    .argument_index = stream_results_argument_index,
};

/*** For consumers ***/

/* May who waits there, or has just come, have a result, or be told the end? */
static bool
stream_results_have_one_for(const StreamResultsObject *self,
                            const WaitingLink *link)
{
    if (waiting_link_is_on(link)) {
        return link->is_woken && (self->ready > 0 || self->is_over);
    }
    return self->ready > self->consumers_count
           || (self->is_over && self->consumers_count == 0);
}

/* The next result: new reference.  NULL with the error, once, or with
   StopAsyncIteration. */
static PyObject *
stream_results_take(StreamResultsObject *self)
{
    if (self->ready > 0) {
        PyObject **slot = stream_results_slot(self, 0);
        PyObject *result = *slot;
        *slot = NULL;
        self->first = (self->first + 1) & (self->size - 1);
        self->used--;
        self->ready--;
        self->handed_over++;
        return result;
    }
    if (self->error != NULL && !self->is_left) {
        PyObject *error = self->error;
        self->error = NULL;
        (void)raise_in_step(error);
        return NULL;
    }
    PyErr_SetNone(PyExc_StopAsyncIteration);
    return NULL;
}

/* A consumer's step ends with the interrupt being raised: nobody else gets it. */
static void
stream_results_let_out(StreamResultsObject *self)
{
    PyObject *raised = fetch_exception();
    if (self->error == raised) {
        Py_CLEAR(self->error);
    }
    else if (!self->is_over) {
        Py_XSETREF(self->interrupt, Py_NewRef(raised));
    }
    restore_exception(raised);
}

/* Who waits there is to be woken when there is one for it.  -1 on an interrupt.
   Runs Python code. */
static int
stream_results_ask(StreamResultsObject *self, WaitingLink *link)
{
    waiting_link_add(&self->consumers, link);
    self->consumers_count++;
    if (self->unwoken == &self->consumers) {
        self->unwoken = link;
    }
    return stream_results_wake(self);
}

/* Nobody waits there any more.  -1 on an interrupt.  Runs Python code. */
static int
stream_results_go(StreamResultsObject *self, WaitingLink *link)
{
    if (!waiting_link_is_on(link)) {
        return 0;
    }
    if (self->unwoken == link) {
        self->unwoken = link->next;
    }
    if (link->is_woken) {
        self->woken--;
    }
    self->consumers_count--;
    waiting_link_remove(link);
    return stream_results_wake(self);
}

/*** Lifecycle ***/

/* New results, of that type or one that has more fields. */
static PyObject *
stream_results_new(PyTypeObject *type, const Window *window, bool is_ordered)
{
    StreamResultsObject *self = (StreamResultsObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->window = *window;
        self->is_ordered = is_ordered;
        self->cut = PY_SSIZE_T_MAX;
        waiting_ring_init(&self->consumers);
        waiting_ring_init(&self->closers);
        self->unwoken = &self->consumers;
    }
    return (PyObject *)self;
}

static int
stream_results_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < self->used; i++) {
        Py_VISIT(*stream_results_slot(self, i));
    }
    Py_VISIT(self->error);
    Py_VISIT(self->interrupt);
    return 0;
}

static int
stream_results_tp_clear(PyObject *op)
{
    StreamResultsObject *self = StreamResultsObject_CAST(op);
    stream_results_cut_from(self, 0);
    Py_CLEAR(self->error);
    Py_CLEAR(self->interrupt);
    return 0;
}

static void
stream_results_tp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)stream_results_tp_clear(op);
    PyMem_Free(StreamResultsObject_CAST(op)->slots);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot stream_results_slots[] = {
    {Py_tp_dealloc, stream_results_tp_dealloc},
    {Py_tp_traverse, stream_results_tp_traverse},
    {Py_tp_clear, stream_results_tp_clear},
    {0, NULL},
};

static PyType_Spec stream_results_spec = {
    .name = "gatedcoro._core._StreamResults",
    .basicsize = sizeof(StreamResultsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_results_slots,
};

#endif /* GATEDCORO_STREAM_RESULTS_H */
