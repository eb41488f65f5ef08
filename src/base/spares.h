/* Spares: the memory of objects that have gone, for the next ones of their type.

   For a type of whose objects many come and go, one after the other.  A spare is
   no object, and the garbage collector does not know it.  One whose finalizer has
   run is not kept: the collector would take the next object's as run. */

#ifndef GATEDCORO_SPARES_H
#define GATEDCORO_SPARES_H

#include "base/compat.h"

#define MOST_SPARES 64

typedef struct {
    bool is_closed; /* nothing is kept any more */
    int count;
    PyObject *spares[MOST_SPARES];
} Spares;

/* In place of tp_alloc(), for a type whose objects have that size: new
   reference. */
static inline PyObject *
spares_alloc_of(Spares *self, PyTypeObject *type, size_t size)
{
    if (self->count == 0) {
        return PyType_GenericAlloc(type, 0);
    }
    PyObject *op = self->spares[--self->count];
    memset((char *)op + sizeof(PyObject), 0, size - sizeof(PyObject));
    (void)PyObject_Init(op, type);
    PyObject_GC_Track(op);
    return op;
}

static PyObject *
spares_alloc(Spares *self, PyTypeObject *type)
{
    return spares_alloc_of(self, type, (size_t)type->tp_basicsize);
}

/* Keeps or frees the memory of an object whose finalizer, if it has one, has not
   run; `self` may be NULL. */
static inline void
spares_keep(Spares *self, PyObject *op)
{
    if (KEEPS_SPARES && self != NULL && !self->is_closed
        && self->count < MOST_SPARES) {
        assert(!PyObject_GC_IsFinalized(op));
        self->spares[self->count++] = op;
    }
    else {
        PyObject_GC_Del(op);
    }
}

/* What the type's tp_free() does; `self` may be NULL. */
static void
spares_free(Spares *self, PyObject *op)
{
    spares_keep(PyObject_GC_IsFinalized(op) ? NULL : self, op);
}

/* The type is there still: freeing the memory of its objects takes it. */
static void
spares_close(Spares *self)
{
    self->is_closed = true;
    while (self->count > 0) {
        PyObject_GC_Del(self->spares[--self->count]);
    }
}

#endif /* GATEDCORO_SPARES_H */
