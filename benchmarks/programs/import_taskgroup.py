"""A file of orders into a table, all or nothing: an `asyncio.TaskGroup` of workers over a queue that holds few chunks of rows.

python -m benchmarks.programs.import_taskgroup ORDERS.csv DATABASE
"""

import asyncio
import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import aiosqlite

AT_ONCE = 4
CHUNK = 500


def chunks(orders: Path) -> Iterator[list[list[str]]]:
    with orders.open(newline="") as file:
        rows = csv.reader(file)
        while chunk := list(islice(rows, CHUNK)):
            yield chunk


async def import_orders(database: aiosqlite.Connection, orders: Path) -> None:
    queue: asyncio.Queue[list[list[str]] | None] = asyncio.Queue(AT_ONCE)

    async def worker() -> None:
        while (chunk := await queue.get()) is not None:
            rows = [(int(number), customer.title(), float(amount)) for number, customer, amount in chunk]
            await database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
            for chunk in chunks(orders):
                await queue.put(chunk)
            for _ in range(AT_ONCE):
                await queue.put(None)
    except BaseException:
        await database.rollback()
        raise
    await database.commit()


async def main(orders: Path, path: Path) -> None:
    async with aiosqlite.connect(path) as database:
        await import_orders(database, orders)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
