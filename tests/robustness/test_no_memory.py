"""When memory runs out in the middle of a call, or of the import: no crash, no wrong result, nothing left behind.

CPython's own test hook lets allocations fail, several in a row, from every position on. `no_memory` has the scenarios
and says what must hold; each group of them runs in a process of its own.
"""

import importlib
import itertools
import subprocess
import sys

import pytest

pytest.importorskip("_testcapi", reason="this interpreter cannot let allocations fail")

from effort import SHORT
from implementations import load_implementation
from in_subprocess import run_script
from no_memory import GROUPS

pytestmark = pytest.mark.skipif(
    (3, 13) <= sys.version_info < (3, 13, 1), reason="3.13.0 leaves a broken dict behind when memory runs out"
)

STEP = 7 if SHORT else 1
# So many allocations fail in a row: what CPython itself survives.
if sys.version_info >= (3, 14):
    LENGTHS = (1, 2, 3, 5, 8, 13, 40)
elif sys.version_info < (3, 12):
    LENGTHS = (1, 3)
else:
    LENGTHS = (1,)


def run_with_progress(impl, tmp_path, script):
    """Run a script that says in a file which row it is at; return the process, and the row if it crashed."""
    progress = tmp_path / "row"
    script = f"import no_memory, os\nprogress = os.open({str(progress)!r}, os.O_WRONLY | os.O_CREAT)\n{script}"
    script += "\nprint(*lines[:30] or ['ok'], sep='\\n')"
    try:
        done = run_script(impl, script, warnings_are_errors=False, timeout=400)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{progress.read_text()}: never ends")
    return done, None if done.returncode in (0, 1) else progress.read_text().split()


def run_rows(impl, tmp_path, group, wanted, step):
    script = f"lines = no_memory.run_rows(impl, {group!r}, {wanted!r}, {step}, progress)"
    return run_with_progress(impl, tmp_path, script)


@pytest.mark.parametrize("group", GROUPS)
def test_the_call_and_the_interpreter_stay_sound(impl, group, tmp_path):
    if impl.__name__.endswith("_reference"):
        pytest.skip("nothing but Python code")
    wanted = list(itertools.product(GROUPS[group], LENGTHS))
    while True:
        done, row = run_rows(impl, tmp_path, group, wanted, STEP)
        if row is None:
            break
        # Plain Python code may crash in that scenario, too; what it allocates when is another matter.
        name, length, start = row[0], int(row[1]), int(row[2])
        reference = importlib.import_module("gatedcoro._reference")
        _, its_row = run_rows(reference, tmp_path, group, [(name, length)], 1)
        assert its_row is not None, f"{name}, {length} after {start}: a crash\n{done.stderr}"
        wanted.remove((name, length))
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr


@pytest.mark.parametrize("inside", ["nothing", "a Task"])
def test_the_import_works_or_fails_with_a_memory_error(inside, tmp_path):
    impl = load_implementation("c")
    rows = f"no_memory.import_rows(impl.__spec__, {LENGTHS!r}, {STEP}, progress)"
    script = f"lines = {rows}"
    if inside == "a Task":
        script = f"async def main():\n    return {rows}\nlines = asyncio.run(main())"
    done, row = run_with_progress(impl, tmp_path, script)
    if row is not None:  # CPython's loader may crash by itself, which is asked for asyncio's code
        _, its_row = run_with_progress(impl, tmp_path, f"lines = no_memory.loader_rows({LENGTHS!r}, progress)")
        assert its_row is not None, f"{row}: a crash\n{done.stderr}"
        return
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr
