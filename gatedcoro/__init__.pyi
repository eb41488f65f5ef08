from typing import Final, Literal

from gatedcoro._functions import *

__all__ = [
    "AsCompleted",
    "BoundedSemaphore",
    "Semaphore",
    "Stream",
    "__version__",
    "amap",
    "as_completed",
    "constrained_execution",
    "gated_coro",
    "gather",
    "gather_with_concurrency",
    "implementation",
    "run_all",
]

__version__: Final[str]
implementation: Final[Literal["c", "python"]]
