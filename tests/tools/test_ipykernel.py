"""ipykernel: top-level await in the cells of a real kernel, on the kernel's own event loop."""

import os
import sys
import textwrap

import pytest

from implementations import reuses_tasks
from in_subprocess import paths_for
from tools import needs

needs("ipykernel", "jupyter_client")

from jupyter_client.manager import KernelManager  # noqa: E402

SECONDS = 60

SETUP = """
import asyncio, gc, importlib, sys, time
sys.path[:0] = {paths!r}
impl = importlib.import_module({module!r})
_ = impl._set_task_reuse({reuse!r})
from doors import doors, recipe

async def item(i, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return i
"""


class Kernel:
    def __init__(self, client, manager):
        self.client = client
        self.manager = manager

    def run(self, code, *, when_it_says=None, then=None):
        """Execute a cell; return what it shows (its value, its error's name, what it printed to either stream).

        *then* is called when the cell has printed *when_it_says*.
        """
        cell = self.client.execute(textwrap.dedent(code))
        shown = {"value": None, "error": None, "stdout": "", "stderr": ""}
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                shown[content["name"]] += content["text"]
                if then is not None and when_it_says in content["text"]:
                    then()
            elif kind == "execute_result":
                shown["value"] = content["data"]["text/plain"]
            elif kind == "error":
                shown["error"] = content["ename"]
                shown["text"] = "\\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return shown

    def value(self, code):
        shown = self.run(code)
        assert (shown["error"], shown["stderr"]) == (None, ""), shown
        return shown["value"]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """One kernel for each implementation, started when it is asked for."""
    running = {}

    def kernel_of(impl):
        key = impl.__name__, reuses_tasks(impl)
        if key not in running:
            folder = tmp_path_factory.mktemp("kernel")
            manager = KernelManager(connection_file=str(folder / "connection.json"))
            manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            manager.start_kernel(env={**os.environ, "IPYTHONDIR": str(folder)})
            client = manager.blocking_client()
            client.start_channels()
            client.wait_for_ready(timeout=SECONDS)
            running[key] = Kernel(client, manager)
            running[key].value(SETUP.format(paths=paths_for(impl), module=impl.__name__, reuse=reuses_tasks(impl)))
        return running[key]

    yield kernel_of
    for kernel in running.values():
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(kernels, impl):
    return kernels(impl)


def test_cells_that_await(kernel):
    assert kernel.value("await impl.gather(*map(item, range(5)))") == "[0, 1, 2, 3, 4]"
    assert kernel.value("await impl.gather(*map(item, range(5)), limit=2)") == "[0, 1, 2, 3, 4]"
    assert kernel.value("await impl.gather_with_concurrency(2, *map(item, range(5)))") == "[0, 1, 2, 3, 4]"
    cell = """
    [
        await call(limit, [lambda i=i: item(i, turns) for i in range(5)]) == list(range(5))
        for call in doors(impl).values()
        for limit in (1, 2, None)
        for turns in (0, 1, 3)
    ] == [True] * 54
    """
    assert kernel.value(cell) == "True"


def test_a_future_of_one_cell_is_awaited_in_another(kernel):
    kernel.value("pending = impl.gather(*map(item, range(5)), limit=1); task = asyncio.create_task(item(7))")
    assert kernel.value("await pending") == "[0, 1, 2, 3, 4]"
    assert kernel.value("await pending") == "[0, 1, 2, 3, 4]"
    assert kernel.value("gate = asyncio.Semaphore(2); await impl.gather(*map(item, range(5)), limit=gate)") == (
        "[0, 1, 2, 3, 4]"
    )
    assert kernel.value("await impl.gather(*map(item, range(5)), limit=gate)") == "[0, 1, 2, 3, 4]"


def test_errors_name_the_cell_s_own_frames(kernel):
    shown = kernel.run(
        """
        async def fails(i):
            await item(i)
            raise LookupError(f"of {i}")

        await impl.gather_with_concurrency(2, item(1), fails(2), item(3))
        """
    )
    assert shown["error"] == "LookupError"
    assert "of 2" in shown["text"]
    assert "fails" in shown["text"]
    shown = kernel.run("await impl.gather_with_concurrency(0, item(1))")
    assert shown["error"] == "ValueError"
    assert shown["stderr"] == ""


# ipykernel's handler of the signal only schedules something, so the loop must not be asleep: hence items that wake up.
WAITS = """
ended, began = [], []

async def waits(i):
    began.append(i)
    if len(began) == 2:
        print("they run", flush=True)
    try:
        while True:
            await asyncio.sleep(SECONDS)
    finally:
        ended.append(i)

functions = [lambda i=i: waits(i) for i in range(5)]
"""

CALLS = {
    "recipe": "recipe(2, functions)",
    "gather_with_concurrency": "impl.gather_with_concurrency(2, *[function() for function in functions])",
    "gather": "impl.gather(*[function() for function in functions], limit=2)",
    "run_all": "impl.run_all(functions, limit=2)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt is a signal")
@pytest.mark.parametrize("seconds", [0, 0.01])
@pytest.mark.parametrize("call", CALLS)
def test_an_interrupted_cell_ends_and_the_next_one_runs(kernel, call, seconds):
    kernel.value(WAITS.replace("SECONDS", str(seconds)))
    shown = kernel.run(f"await {CALLS[call]}", when_it_says="they run", then=kernel.manager.interrupt_kernel)
    assert shown["error"] in ("KeyboardInterrupt", "CancelledError"), shown
    # What ran was cancelled, nothing queued has started, and the loop works.
    assert kernel.value("await item(1)") == "1"
    kernel.run("[await asyncio.sleep(0) for _ in range(5)]; _ = gc.collect()")
    assert kernel.value("(began, sorted(ended))") == "([0, 1], [0, 1])"
    assert kernel.value("await impl.gather(*map(item, range(5)), limit=2)") == "[0, 1, 2, 3, 4]"
