"""Coroutines that are none of the interpreter's."""

import collections.abc


class ByItsMethods(collections.abc.Coroutine):
    """A coroutine by its methods, which returns at once; subclasses have others."""

    def send(self, value):
        raise StopIteration("sent")

    def throw(self, *exception):
        raise exception[0]

    def close(self):
        pass

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)
