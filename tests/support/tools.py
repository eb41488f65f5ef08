"""Other people's tools, as the real packages: the tests of each are skipped where it is not installed.

With GATEDCORO_REQUIRE_TOOLS=1 in the environment, as in the job of .ci/run that installs the extra `tools`, that is a failure.
"""

import importlib.metadata
import os

import pytest

from in_subprocess import check_script, joined


def needs(*distributions):
    """Skip the calling module's tests unless these are installed."""
    for name in distributions:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if os.environ.get("GATEDCORO_REQUIRE_TOOLS") == "1":
                raise
            pytest.skip(f"{name} is not installed", allow_module_level=True)


def check_main(impl, *script, tool="", when="after", then="", **options):
    """Run the coroutine function `main` of a script in an interpreter of its own; nothing may be said on stderr.

    `tool` has the tool begin its work, before or after the implementation is imported. Its warnings are its own.
    """
    before, after = (tool, "") if when == "before" else ("", tool)
    script = joined(after, *script, "asyncio.run(main())", then, "print('ok')")
    check_script(impl, script, first=joined("import asyncio", before), warnings_are_errors=False, **options)
