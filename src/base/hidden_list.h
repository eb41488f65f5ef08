/* Hidden list: a list with holes, which the garbage collector does not see.

   A list object, so that it can be handed out in the end; but as long as slots
   may be empty (NULL), nobody may walk over it, and gc.get_objects() must not
   find it.  So whoever owns it visits what it holds.

      new, hide ---> hidden: pop leaves a hole, put fills it ---> reveal

   Nothing here runs Python code. */

#ifndef GATEDCORO_HIDDEN_LIST_H
#define GATEDCORO_HIDDEN_LIST_H

#include "base/compat.h"

/* Takes a list that has been made elsewhere out of the collector's sight. */
static inline void
hidden_list_hide(PyObject *list)
{
    PyObject_GC_UnTrack(list);
}

/* Everyone may see it from here on: it has no holes. */
static inline void
hidden_list_reveal(PyObject *list)
{
    PyObject_GC_Track(list);
}

/* A hidden list of these items (borrowed; may be NULL if there are none): new
   reference. */
static PyObject *
hidden_list_new(PyObject *const *items, Py_ssize_t size)
{
    PyObject *list = PyList_New(size);
    if (list == NULL) {
        return NULL;
    }
    hidden_list_hide(list);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(items[i]));
    }
    return list;
}

/* Takes out what is in a slot, which is a hole then: the list's reference. */
static inline PyObject *
hidden_list_pop(PyObject *list, Py_ssize_t index)
{
    PyObject *item = PyList_GET_ITEM(list, index);
    PyList_SET_ITEM(list, index, NULL);
    return item;
}

/* Puts `value` (stolen) into a slot, in place of a hole or of None. */
static inline void
hidden_list_put(PyObject *list, Py_ssize_t index, PyObject *value)
{
    PyObject *empty = PyList_GET_ITEM(list, index);
    assert(empty == NULL || empty == Py_None);
    PyList_SET_ITEM(list, index, value);
    Py_XDECREF(empty);
}

/* For the owner's tp_traverse; `list` may be NULL. */
static int
hidden_list_visit(PyObject *list, visitproc visit, void *arg)
{
    if (list != NULL) {
        Py_ssize_t size = PyList_GET_SIZE(list);
        for (Py_ssize_t i = 0; i < size; i++) {
            Py_VISIT(PyList_GET_ITEM(list, i));
        }
    }
    return 0;
}

#endif /* GATEDCORO_HIDDEN_LIST_H */
