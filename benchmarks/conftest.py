"""`pytest benchmarks`: how long pytest-benchmark measures, and what the garbage collector looks at."""

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A fifth of a second for each benchmark, unless the command line says otherwise."""
    given = " ".join(config.invocation_params.args)
    if "--benchmark-max-time" not in given and hasattr(config.option, "benchmark_max_time"):
        config.option.benchmark_max_time = 0.2


def pytest_collection_finish() -> None:
    """What was imported is collected once, and not before each benchmark."""
    gc.collect()
    gc.freeze()
