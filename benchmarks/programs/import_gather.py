"""A file of orders into a table, all or nothing: `asyncio.gather`, with an `asyncio.Semaphore` around each chunk of rows.

python -m benchmarks.programs.import_gather ORDERS.csv DATABASE
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
    gate = asyncio.Semaphore(AT_ONCE)

    async def insert(chunk: list[list[str]]) -> None:
        async with gate:
            rows = [(int(number), customer.title(), float(amount)) for number, customer, amount in chunk]
            await database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)

    try:
        await asyncio.gather(*map(insert, chunks(orders)))
    except BaseException:
        await database.rollback()
        raise
    await database.commit()


async def main(orders: Path, path: Path) -> None:
    async with aiosqlite.connect(path) as database:
        await import_orders(database, orders)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
