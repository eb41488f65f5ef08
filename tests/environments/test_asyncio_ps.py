"""`python -m asyncio ps` and `pstree` (3.14+), which read the Tasks of another process from its memory."""

import re
import subprocess
import sys

import pytest

from in_subprocess import run_script

if sys.version_info < (3, 14):
    pytest.skip("asyncio ps is new in 3.14", allow_module_level=True)

SCRIPT = """
    import asyncio, os, subprocess, sys

    async def fetch():
        await asyncio.sleep(60)

    async def crawl():
        await impl.gather_with_concurrency(3, *(fetch() for _ in range(10)))

    async def main():
        task = asyncio.create_task(crawl(), name="crawler")
        while len(asyncio.all_tasks()) < 5:
            await asyncio.sleep(0)
        print(subprocess.run([sys.executable, "-m", "asyncio", sys.argv[1], str(os.getpid())], stdout=-1, stderr=-2).stdout.decode())
        task.cancel()

    asyncio.run(main())
"""


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_items_are_shown_as_awaited_by_the_caller(impl, command):
    try:
        done = run_script(impl, SCRIPT, arguments=(command,))
    except subprocess.TimeoutExpired:
        pytest.fail("asyncio ps did not come to an end")
    if re.search("permission|not permitted", done.stdout, re.IGNORECASE):
        pytest.skip("this user may not read another process")
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    if command == "ps":
        items = [line for line in done.stdout.splitlines() if re.search(r"\bcrawl\s+crawler\b", line)]
    else:
        items = done.stdout[done.stdout.index("crawl ") :].split("(T)")[1:]
    assert len(items) == 3, done.stdout
