"""What stands in for an event loop while a Task is made.  Twin of src/coroutines/catcher.h."""


class _Catcher:
    """Keeps the Task's first step, which it asks the loop to make later."""

    def get_debug(self):
        return False

    def call_soon(self, step, *args, context=None):
        self.step = step
