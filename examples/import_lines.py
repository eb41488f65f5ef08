"""A file of a million lines into a table, in memory that does not grow with the file: two streams in a row.

python -m pip install aiosqlite
python examples/import_lines.py
"""

import asyncio
import resource  # not on Windows
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import aiosqlite

from gatedcoro import Stream, amap

LINES, CUSTOMERS = 1_000_000, 500
BATCH = 1_000
QUERY = "SELECT id FROM customers WHERE name = ?"
INSERT = "INSERT INTO orders VALUES (?, ?, ?)"

Row = tuple[int, int, int]


def write_orders(path: Path) -> None:
    """An order in each line: its number, the customer's name, an amount in cents."""
    with path.open("w") as file:
        file.writelines(f"{number},customer {number % CUSTOMERS},{number % 997}\n" for number in range(LINES))


async def make_tables(database: aiosqlite.Connection) -> None:
    await database.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
    await database.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER)")
    names = [(f"customer {number}",) for number in range(CUSTOMERS)]
    await database.executemany("INSERT INTO customers (name) VALUES (?)", names)
    await database.commit()


def import_lines(database: aiosqlite.Connection, lines: Iterable[str]) -> Stream[int]:
    """Gives how many rows each batch had, when it has been inserted. It is all one transaction, which the caller commits."""
    known: dict[str, int] = {}

    async def row(line: str) -> Row:
        """What a line says. Few have to wait: the first ones of each customer ask the database."""
        number, customer, cents = line.split(",")
        if customer not in known:
            [(known[customer],)] = await database.execute_fetchall(QUERY, (customer,))
        return int(number), known[customer], int(cents)

    async def batches(rows: Stream[Row]) -> AsyncIterator[list[Row]]:
        batch = []
        async with rows:  # so that it is closed with this generator, whoever else holds it
            async for one in rows:
                batch.append(one)
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def insert(batch: list[Row]) -> int:
        await database.executemany(INSERT, batch)
        return len(batch)

    # A line is read only while fewer than 2 * 100 are on their way into a batch, and a batch is made only while fewer than 2 * 2 are
    # on their way into the table. So whichever of these is slow, nothing piles up before it.
    return amap(insert, batches(amap(row, lines, limit=100)), limit=2)


def peak_memory() -> float:
    """The most that this process ever had in memory, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


async def main(orders: Path, path: Path) -> None:
    async with aiosqlite.connect(path) as database:
        await make_tables(database)
        before = peak_memory()
        inserted = 0
        with orders.open() as file:
            async with import_lines(database, file) as counts:
                async for count in counts:
                    inserted += count
        await database.commit()
        growth = peak_memory() - before
        [(rows, cents)] = await database.execute_fetchall("SELECT COUNT(*), SUM(cents) FROM orders")
    print(f"{rows:,} rows from {orders.stat().st_size / 1e6:.0f} MB, in {growth:.1f} MB of memory")
    assert rows == inserted == LINES and cents == sum(number % 997 for number in range(LINES))
    assert growth < 10


with tempfile.TemporaryDirectory() as folder:
    orders = Path(folder, "orders.csv")
    write_orders(orders)
    asyncio.run(main(orders, Path(folder, "orders.db")))
