"""A scheduler in this process, with two workers in processes of their own, each with one thread.

`at_work(function)` runs an async function with a Cluster, and is over when nothing of it is left at the scheduler. Needs the
package distributed (the extra dask-test).
"""

import asyncio
import importlib.util
import logging
import time

import pytest

from dask_work import PATIENCE

HAS_DASK = importlib.util.find_spec("distributed") is not None
WORKERS = 2
ENDED = ("memory", "erred", "released", "forgotten")


class WithoutDask(pytest.Module):
    def collect(self):
        pytest.skip("needs distributed (the extra dask-test)", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return None if HAS_DASK else WithoutDask.from_parent(parent, path=module_path)


class Cluster:
    """What a test sees: a client, the scheduler's own tasks, and the most that it ever had."""

    def __init__(self, client, scheduler):
        self.client = client
        self.scheduler = scheduler
        self.most = self.most_unfinished = 0

    def count(self):
        tasks = self.scheduler.tasks.values()
        self.most = max(self.most, len(tasks))
        self.most_unfinished = max(self.most_unfinished, sum(task.state not in ENDED for task in tasks))

    async def until(self, condition, *arguments):
        """Wait for it; it may be asynchronous."""
        deadline = time.monotonic() + PATIENCE
        while True:
            holds = condition(*arguments)
            if asyncio.iscoroutine(holds):
                holds = await holds
            if holds:
                return
            assert time.monotonic() < deadline, "it never came about"
            await asyncio.sleep(0.01)

    async def until_forgotten(self):
        """The scheduler knows of no task, nor does the client."""
        await self.until(lambda: not self.scheduler.tasks and not self.client.futures)


@pytest.fixture(scope="module")
def in_cluster():
    """in_cluster(function): runs the async function with the LocalCluster of this file."""
    import dask
    from dask.distributed import LocalCluster

    logging.getLogger("distributed").setLevel(
        logging.CRITICAL
    )  # it reports every failure of a task, and each lost worker
    without_profiler = dask.config.set(
        {"distributed.worker.profile.enabled": False}
    )  # a thread that would outlive them
    with without_profiler, asyncio.Runner() as runner:

        async def start():
            return await LocalCluster(
                n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", asynchronous=True
            )

        made = runner.run(start())
        try:
            yield lambda function: runner.run(function(made))
        finally:

            async def stop():
                await made.close()

            runner.run(stop())


@pytest.fixture
def at_work(in_cluster):
    from dask.distributed import Client, SchedulerPlugin

    class Counting(SchedulerPlugin):
        name = "counting"

        def __init__(self, cluster):
            self.cluster = cluster

        def update_graph(self, scheduler, **what):
            self.cluster.count()

        def transition(self, *what, **more):
            self.cluster.count()

    def run(function):
        async def with_client(made):
            async with asyncio.timeout(PATIENCE):
                async with Client(made, asynchronous=True) as client:
                    await client.wait_for_workers(WORKERS)
                    cluster = Cluster(client, made.scheduler)
                    made.scheduler.add_plugin(Counting(cluster))
                    try:
                        await function(cluster)
                        if client.status == "running":
                            await cluster.until_forgotten()
                    finally:
                        made.scheduler.remove_plugin("counting")

        in_cluster(with_client)

    return run
