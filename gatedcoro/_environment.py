"""The environment variables that every implementation reads when it is imported."""

import os


def task_reuse() -> bool:
    """Say whether a Task may run several items: GATEDCORO_TASK_REUSE, which is 0 or 1."""
    value = os.environ.get("GATEDCORO_TASK_REUSE", "1")
    if value not in ("0", "1"):
        raise ImportError(f"GATEDCORO_TASK_REUSE must be '0' or '1', or not be set; it is {value!r}")
    return value == "1"
