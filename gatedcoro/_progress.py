"""Whom a call tells how many of its items have ended: what *progress* may be; for both implementations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias


class Bar(Protocol):
    def update(self, n: int, /) -> object: ...


Progress: TypeAlias = Callable[[int], object] | Bar | Literal[True]


def check_progress(progress: Progress | Literal[False] | None) -> Progress | None:
    """Return the argument of that name, None if nobody is to be told; or raise what says what would be right."""
    if progress is None or progress is False:
        return None
    if progress is True:
        _tqdm()  # where it is missing that is said at once
        return True
    if _is_of_rich(progress):
        raise TypeError(
            f"progress must not be {progress!r}, whose update() is for one of its tasks:"
            " pass `lambda n: progress.advance(task, n)`"
        )
    if isinstance(progress, type) and hasattr(progress, "update"):
        raise TypeError(f"progress must be a bar, not the class {progress.__qualname__}: pass an instance, or True")
    called = progress if callable(progress) else getattr(progress, "update", None)
    if callable(called):
        if any(map(inspect.iscoroutinefunction, (called, type(called).__call__))):
            raise TypeError(f"progress must be a plain function, not the coroutine function {called!r}")
        return progress
    raise TypeError(
        "progress must be a callable, an object with an update(n), True for a bar, or None,"
        f" not {progress!r} ({type(progress).__name__})"
    )


def open_progress(progress: Progress, total: int | None) -> tuple[Callable[[int], object], Callable[[], object] | None]:
    """Return what is to be called with the number of items, and what is to be called in the end, if anything.

    *progress* is what check_progress() has returned, *total* how many items there will be, as far as that is known.
    """
    if progress is True:
        bar = _tqdm()(total=total)
        return bar.update, bar.close
    if callable(progress):
        return progress, None
    return progress.update, None


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True shows a bar of tqdm, which cannot be imported:"
            " `pip install 'gatedcoro[progress]'`, or pass a callable"
        ) from error
    return tqdm


def _is_of_rich(progress: object) -> bool:
    module = sys.modules.get("rich.progress")  # else it is nothing of that
    return isinstance(progress, getattr(module, "Progress", ()))
