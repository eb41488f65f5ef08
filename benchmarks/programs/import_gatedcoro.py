"""A file of orders into a table, all or nothing: `amap`, over a generator that reads the file.

python -m benchmarks.programs.import_gatedcoro ORDERS.csv DATABASE
"""

import asyncio
import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import aiosqlite

from gatedcoro import amap

AT_ONCE = 4
CHUNK = 500


def chunks(orders: Path) -> Iterator[list[list[str]]]:
    with orders.open(newline="") as file:
        rows = csv.reader(file)
        while chunk := list(islice(rows, CHUNK)):
            yield chunk


async def import_orders(database: aiosqlite.Connection, orders: Path) -> None:
    async def insert(chunk: list[list[str]]) -> None:
        rows = [(int(number), customer.title(), float(amount)) for number, customer, amount in chunk]
        await database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)

    try:
        await amap(insert, chunks(orders), limit=AT_ONCE)
    except BaseException:
        await database.rollback()
        raise
    await database.commit()


async def main(orders: Path, path: Path) -> None:
    async with aiosqlite.connect(path) as database:
        await import_orders(database, orders)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
