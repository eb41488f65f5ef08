/* Reuse of Tasks: may a Task of ours run another item?

   When an item has ended, its worker may run the next one in the same Task if
   nobody can tell: task_ends_unseen() and task_is_untouched() decide.  Three
   things can tell: somebody who holds the Task, who watches it by a weak
   reference, or who did something to it.  What is told to our methods is noted
   (`touched`); what goes around them, as asyncio.Task.cancel(task) and
   object.__setattr__() do, shows in memory: asyncio's part of the Task is
   compared, word by word, with the image of a new one (probe.h takes it).  This
   is all that a Task remembers, by the names of FutureObj and TaskObj in
   CPython's Modules/_asynciomodule.c, 3.11 to 3.15:

      what                      is changed by               shows in
      fut_loop                  Future.__init__()           the image
      fut_callback0, fut_context0, fut_callbacks
                                add_done_callback()         touched, the image
      fut_state, fut_result, fut_exception, fut_exception_tb, fut_cancelled_exc
                                Future.set_result(), ...    the image
      fut_source_tb             debug mode: no reuse        the image
      fut_cancel_msg            cancel(), the attribute     touched, the image
      fut_log_tb, fut_is_task   Future.__init__()           the image
      fut_blocking              the attribute, __iter__()   the image
      fut_awaited_by, fut_awaited_by_is_set (3.14+)
                                future_add_to_awaited_by(), the image: it is the
                                future_discard_from_...()   caller, or nobody
      task_must_cancel, task_num_cancels_requested
                                cancel(), uncancel()        touched, the image
      task_log_destroy_pending  the attribute               the image
      task_fut_waiter           nobody: empty in a step     the image
      task_coro, task_context   Task.__init__()             the image
      task_name                 set_name()                  touched, the image
      task_node (3.14+)         _register_task(),           task_is_registered()
                                _unregister_task()
      dict; until 3.12 in the struct
                                any way to set an attribute task_has_attributes()
      weak references           weakref.ref(), and          task_is_unseen()
                                getweakrefs(), which hands
                                out asyncio's own

   And this is what asyncio remembers of a Task elsewhere:

      the registers (until 3.13)                            task_is_registered()
      the current Task          _enter_task(), _leave_task(),
                                _swap_current_task()        task_is_current()

   Beside the Task, what drives it may have been given away by get_coro(), and a
   context: worker.h sees to these. */

#ifndef GATEDCORO_TASK_REUSE_H
#define GATEDCORO_TASK_REUSE_H

#include "coroutines/task.h"

/*** Who holds it, who watches it ***/

/* References and weak references to an untouched Task of ours in the middle of
   a step.

                                     later step   first step,   first step,
                                                  caught        eager
      its driver                         1            1            1
      asyncio's current task             1            1            1
      the wrapper of the step            1            1            -
      who starts it                      -            1            1
      asyncio's set of eager Tasks       -            -            1 until 3.13
      weak: asyncio's register           1 until 3.13              -

   These are constants: what is counted at the beginning of a first step may
   include somebody who has the Task already, as a profiler's thread may that
   calls all_tasks() when it has just been registered. */
static inline Py_ssize_t
task_references(bool first_step)
{
    return first_step && !TASKS_ARE_LISTED ? 4 : 3;
}

static inline bool
task_is_watched(bool first_step)
{
    return !TASKS_ARE_LISTED && !(first_step && has_eager_tasks());
}

/* References to its driver in the middle of a step, beside that of who asks: the
   Task has it twice, and the step. */
#define TASK_DRIVER_REFERENCES 3

/* Does nobody hold or watch the Task? */
static inline bool
task_is_unseen(PyObject *task, bool first_step)
{
    if (task_fields(task)->touched
        || Py_REFCNT(task) != task_references(first_step)) {
        return false;
    }
    PyWeakReference *watch = first_weakref(task);
    if (!task_is_watched(first_step)) {
        return watch == NULL;
    }
    /* weakref.getweakrefs() hands asyncio's own out. */
    return watch != NULL && watch->wr_next == NULL && Py_REFCNT(watch) == 1;
}

/* Is this a step of the Task?  Else somebody else steps what it drives, or has
   taken the step from it.  Runs Python code: the loop's __hash__(). */
static bool
task_is_current(core_state *state, PyObject *task, PyObject *loop)
{
    PyObject *current = PyObject_CallOneArg(state->current_task, loop);
    if (current == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(current);
    return current == task;
}

/* Is there a callback that will look at how the Task ends? */
static bool
task_has_callbacks(core_state *state, PyObject *task)
{
    PyObject *callbacks = state->future_get_callbacks(task, NULL);
    if (callbacks == NULL) {
        PyErr_Clear(); /* no memory for the list */
    }
    Py_XDECREF(callbacks);
    return callbacks != Py_None;
}

/*** What was done to it ***/

static inline uintptr_t
task_word(PyObject *task, Py_ssize_t offset)
{
    uintptr_t word;
    memcpy(&word, (char *)task + offset, sizeof(word));
    return word;
}

/* The offset of the word of that number. */
static inline Py_ssize_t
word_offset(size_t number)
{
    return (Py_ssize_t)(sizeof(PyObject) + number * sizeof(uintptr_t));
}

/* Has asyncio registered the Task?  Those who hold or watch it are only counted:
   where asyncio has let go of it, there may be somebody else for that.  May run
   the __eq__() of another Task, until 3.13. */
static bool
task_is_registered(core_state *state, PyObject *task, bool first_step)
{
    if (TASKS_ARE_LISTED) {
        return task_word(task, word_offset(state->task_image.count)) != 0;
    }
    int found;
    if (task_is_watched(first_step)) {
        PyWeakReference *watch = first_weakref(task);
        found = watch == NULL ? 0
                              : set_contains(state->task_register,
                                             (PyObject *)watch, watch->hash);
    }
    else {
        found = set_contains(state->eager_task_register, task,
                             Py_TYPE(task)->tp_hash(task));
    }
    if (found < 0) {
        PyErr_Clear();
    }
    return found > 0;
}

static inline bool
task_has_attributes(core_state *state, PyObject *task)
{
    const TaskImage *image = &state->task_image;
    return task_word(task, image->dict) != 0
           || (INLINE_VALUES_FLAG != 0
               && (task_word(task, image->values) & image->values_bits)
                      != image->values_absent);
}

/* Is asyncio's part of it, word by word, as that of a new Task on that loop?
   `awaiter` is who is to be shown as awaiting it (3.14+), or NULL. */
static bool
task_looks_new(core_state *state, PyObject *task, PyObject *loop,
               PyObject *awaiter)
{
    TaskImage *image = &state->task_image;
    const TaskFields *fields = task_fields(task);
    /* What is each Task's own. */
    image->words[image->loop] = (uintptr_t)loop;
    image->words[image->driver] = (uintptr_t)fields->driver;
    image->words[image->context] = (uintptr_t)fields->context;
    if (HAS_AWAITED_BY) {
        image->words[image->awaiter] = (uintptr_t)awaiter;
    }
    if (!TASKS_ARE_LISTED) { /* task_is_unseen() looks at it */
        image->words[image->weakrefs] =
            task_word(task, word_offset(image->weakrefs));
    }
    return memcmp((char *)task + word_offset(0), image->words,
                  image->count * sizeof(uintptr_t))
           == 0;
}

/* Is there a callback that will get the Task when it is done, as far as one look
   tells?  Also if the probe has not found out where it would be. */
static inline bool
task_may_have_callback(core_state *state, PyObject *task)
{
    return state->future_callback == 0
           || task_word(task, state->future_callback) != 0;
}

/*** The decision ***/

/* This is a step of the Task.  Will nobody see how it ends? */
static bool
task_ends_unseen(core_state *state, PyObject *task, bool first_step)
{
    return task_is_unseen(task, first_step) && !task_has_callbacks(state, task)
           && task_is_registered(state, task, first_step);
}

/* May it go on with another item?  Runs no Python code. */
static bool
task_is_untouched(core_state *state, PyObject *task, PyObject *loop,
                  PyObject *awaiter, bool first_step)
{
    return task_is_unseen(task, first_step)
           && (!TASKS_ARE_LISTED
               || task_is_registered(state, task, first_step))
           && !task_has_attributes(state, task)
           && task_looks_new(state, task, loop, awaiter);
}

/* The Task runs another item from now on. */
static void
task_renew(PyObject *task)
{
    assert(!task_fields(task)->touched);
    Py_CLEAR(task_fields(task)->name);
}

#endif /* GATEDCORO_TASK_REUSE_H */
