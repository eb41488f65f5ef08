from gatedcoro._core import *
from gatedcoro._core import (
    _set_clock as _set_clock,
    _set_full_turns as _set_full_turns,
    _set_task_reuse as _set_task_reuse,
)
from gatedcoro._functions import __all__ as __all__
