"""A search with Ray: a million pieces of work from a generator, ten at a time at Ray, the rest never made. The same search as dask_search.py.

What still runs at Ray when the first hit ends the search is interrupted, what waits there never starts.

The cluster is of this machine. With `ray.init("ray://head:10001")` it is yours.

python -m pip install ray
python examples/ray_search.py
"""

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import ray

from gatedcoro import amap

AT_ONCE = 10  # pieces at Ray: some for each processor, so that none waits for its next one
PIECE = 5_000  # numbers; a piece should take a worker much longer than the millisecond that Ray spends on it
ZEROS = "0000"


@ray.remote(max_retries=0)
def first_hit(begin: int) -> int | None:
    """Runs at a worker."""
    for number in range(begin, begin + PIECE):
        if hashlib.sha256(b"%d" % number).hexdigest().startswith(ZEROS):
            return number
    return None


async def on_ray(remote_function: Any, *arguments: Any) -> Any:
    reference = remote_function.remote(*arguments)
    try:
        return await reference
    except asyncio.CancelledError:
        ray.cancel(reference)  # what waits does not start; what runs is interrupted
        raise
    # Nothing to release: the result goes with the reference.


# --- What is to be seen of it -----------------------------------------------------------------------------------------


class AtRay:
    """How many pieces there are at Ray."""

    now = most = 0

    async def __aenter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    async def __aexit__(self, *error: object) -> None:
        self.now -= 1


class Begins:
    """Where pieces begin: a million of them, each made when it is asked for."""

    drawn = 0

    def __iter__(self) -> Iterator[int]:
        for begin in range(0, 1_000_000 * PIECE, PIECE):
            self.drawn += 1
            yield begin


async def main() -> None:
    at_ray, begins = AtRay(), Begins()
    async with asyncio.timeout(120):
        async with amap(partial(on_ray, first_hit), begins, limit=(AT_ONCE, at_ray)) as answers:
            async for number in answers:
                if number is not None:
                    break
    print(f"{number}: {hashlib.sha256(b'%d' % number).hexdigest()}")
    print(f"{begins.drawn} of 1,000,000 pieces were made; {at_ray.most} at most were at Ray")
    assert number == 88_484 and at_ray.most <= AT_ONCE
    assert begins.drawn <= number // PIECE + 1 + 2 * AT_ONCE


if __name__ == "__main__":
    ray.init(log_to_driver=False)  # before the loop runs: it blocks for seconds
    asyncio.run(main())
    ray.shutdown()
