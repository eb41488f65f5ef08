"""The Python implementation has the extension's interface, to the last signature."""

from gatedcoro._core import (
    _set_clock as _set_clock,
    _set_task_reuse as _set_task_reuse,
    constrained_execution as constrained_execution,
    gated_coro as gated_coro,
    gather as gather,
    gather_with_concurrency as gather_with_concurrency,
    run_all as run_all,
)

__all__ = ["constrained_execution", "gated_coro", "gather", "gather_with_concurrency", "run_all"]
