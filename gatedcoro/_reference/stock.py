"""Whether a Python function of asyncio's is as CPython ships it.  Twin of src/base/stock.h."""

import types


class StockFunction:
    """A Python function of asyncio's, as it was at import, if its module defines it so.

    A tool may replace the function, or leave it in place and replace what it does: its code
    (ddtrace does so; file name, name and line stay as they were) or its defaults.
    """

    def __init__(self, module, function):
        self._function = self._code = self._keyword_defaults = None
        if isinstance(function, types.FunctionType) and self._is_stock(module, function):
            self._function = function
            self._code = function.__code__
            self._keyword_defaults = function.__kwdefaults__ and function.__kwdefaults__.copy()

    @staticmethod
    def _is_stock(module, function):
        """Whether the loader of *module* has that code; if it does not tell, it is not."""
        if function.__globals__ is not vars(module) or function.__defaults__ is not None:
            return False
        if any(value is not None for value in (function.__kwdefaults__ or {}).values()):
            return False
        try:
            pending = [module.__spec__.loader.get_code(module.__name__)]
        except MemoryError:
            raise
        except Exception:
            return False
        while pending:
            for constant in getattr(pending.pop(), "co_consts", ()):
                if isinstance(constant, types.CodeType):
                    if constant == function.__code__:
                        return True
                    pending.append(constant)
        return False

    def is_intact(self, function):
        return (
            self._function is not None
            and function is self._function
            and function.__code__ is self._code
            and function.__defaults__ is None
            and function.__kwdefaults__ == self._keyword_defaults
        )
