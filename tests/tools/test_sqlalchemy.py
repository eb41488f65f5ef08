"""SQLAlchemy's asyncio extension on aiosqlite: greenlets inside of items, sessions scoped by the current Task, a pool under a limit."""

import asyncio
import functools

import pytest

from contract_tools import run
from doors import all_doors, doors, recipe
from tools import needs

needs("SQLAlchemy", "aiosqlite", "greenlet")

pytestmark = pytest.mark.usefixtures("any_turns")

from sqlalchemy import ForeignKey, func, select, text  # noqa: E402
from sqlalchemy.ext.asyncio import (  # noqa: E402
    AsyncAttrs,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship  # noqa: E402
from sqlalchemy.pool import AsyncAdaptedQueuePool  # noqa: E402
from sqlalchemy.util import await_only  # noqa: E402


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parent"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    children: Mapped[list["Child"]] = relationship(order_by="Child.name")


class Child(Base):
    __tablename__ = "child"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parent_id: Mapped[int] = mapped_column(ForeignKey("parent.id"))


def with_database(tmp_path, main, pool_size=5):
    """Run main(engine, make_session) with a database of six parents, each with two children."""

    async def prepared():
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{tmp_path / 'test.db'}",
            poolclass=AsyncAdaptedQueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=0.1,
        )
        try:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            make_session = async_sessionmaker(engine, expire_on_commit=False)
            async with make_session.begin() as session:
                for i in range(6):
                    session.add(Parent(id=i + 1, name=f"p{i}", children=[Child(name=f"c{i}.{j}") for j in range(2)]))
            await main(engine, make_session)
            assert engine.pool.checkedout() == 0
        finally:
            await engine.dispose()

    run(prepared)


def test_each_item_with_a_session_of_its_own(impl, tmp_path):
    async def main(engine, make_session):
        async def lazily_loaded(i):
            async with make_session() as session:
                parent = await session.get(Parent, i + 1)
                children = await parent.awaitable_attrs.children

                def in_a_greenlet(session):
                    return session.scalar(select(func.count()).select_from(Child).where(Child.parent_id == i + 1))

                return parent.name, [child.name for child in children], await session.run_sync(in_a_greenlet)

        expected = [(f"p{i}", [f"c{i}.0", f"c{i}.1"], 2) for i in range(6)]
        for name, call in all_doors(impl):
            for limit in 1, 3, 5:
                got = await call(limit, [functools.partial(lazily_loaded, i) for i in range(6)])
                assert got == expected, (name, limit)

    with_database(tmp_path, main)


def test_as_many_items_as_the_pool_has_connections(impl, tmp_path):
    async def main(engine, make_session):
        busiest = []

        async def query(i):
            async with make_session() as session:
                await session.execute(text("select 1"))
                busiest.append(engine.pool.checkedout())
                await asyncio.sleep(0)
                return (await session.scalars(select(Parent.name).where(Parent.id == i % 6 + 1))).one()

        for name, call in all_doors(impl):
            busiest.clear()
            assert await call(2, [functools.partial(query, i) for i in range(12)]) == [f"p{i % 6}" for i in range(12)]
            assert max(busiest) <= 2, name
            assert engine.pool.checkedout() == 0, name

    with_database(tmp_path, main, pool_size=2)


def test_cancelled_items_give_their_connections_back(impl, tmp_path):
    async def main(engine, make_session):
        async def waits(begun):
            async with make_session() as session:
                await session.execute(text("select 1"))
                begun.append(1)
                await asyncio.sleep(3600)

        for name, call in doors(impl).items():
            begun = []
            task = asyncio.ensure_future(call(2, [functools.partial(waits, begun)] * 6))
            while len(begun) < 2:
                await asyncio.sleep(0)
            assert engine.pool.checkedout() == 2
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while engine.pool.checkedout():
                await asyncio.sleep(0)
            assert len(begun) == 2, name

    with_database(tmp_path, main, pool_size=2)


def test_transactions_of_items_that_fail_are_rolled_back(impl, tmp_path):
    async def main(engine, make_session):
        async def insert(i):
            async with make_session.begin() as session:
                session.add(Parent(name=f"new {i}"))
                await session.flush()
                if i % 2:
                    raise LookupError(i)
                return i

        for limit in 1, 2:
            results = await impl.gather(*map(insert, range(6)), limit=limit, return_exceptions=True)
            assert [result for result in results if isinstance(result, int)] == [0, 2, 4]
        async with make_session() as session:
            names = (await session.scalars(select(Parent.name).where(Parent.name.like("new %")))).all()
        assert sorted(names) == sorted(["new 0", "new 2", "new 4"] * 2)

    with_database(tmp_path, main, pool_size=2)


# Sessions scoped by the current Task, as SQLAlchemy's documentation has it. The registry keeps the Task itself, and a Task that
# somebody keeps is not reused.


@pytest.mark.parametrize("removes", [True, False])
def test_a_session_scoped_by_the_current_task_is_its_item_s_alone(impl, tmp_path, removes):
    async def main(engine, make_session):
        sessions = []

        async def item(i):
            assert not scope.registry.has()
            scoped_session = scope()
            scoped_session.info["item"] = i
            assert await scope.scalar(select(Parent.name).where(Parent.id == i + 1)) == f"p{i}"
            assert scope() is scoped_session
            assert scope.info == {"item": i}
            sessions.append(scoped_session)
            if removes:
                await scope.remove()
            else:
                await scope.close()
            return i

        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                scope = async_scoped_session(make_session, scopefunc=asyncio.current_task)
                sessions.clear()
                assert await call(limit, [functools.partial(item, i) for i in range(6)]) == list(range(6)), name
                assert len(set(map(id, sessions))) == 6, (name, limit)
                assert len(scope.registry.registry) == (0 if removes else 6), (name, limit)

    with_database(tmp_path, main, pool_size=6)


def test_a_session_scoped_by_the_id_of_the_task_is_to_be_removed_by_each_item(impl, tmp_path):
    """A reused Task keeps its id, and so finds what an earlier item left under it: docs/tasks.md says so."""

    async def main(engine, make_session):
        async def item(i):
            try:
                assert "item" not in scope.info
                scope.info["item"] = i
                assert await scope.scalar(select(Parent.name).where(Parent.id == i + 1)) == f"p{i}"
                return scope.info["item"]
            finally:
                await scope.remove()

        scope = async_scoped_session(make_session, scopefunc=lambda: id(asyncio.current_task()))
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                assert await call(limit, [functools.partial(item, i) for i in range(6)]) == list(range(6)), name

    with_database(tmp_path, main, pool_size=6)


def test_a_call_inside_of_synchronous_code_in_a_greenlet(impl, tmp_path):
    async def main(engine, make_session):
        async def name_of(i):
            async with make_session() as session:
                return await session.scalar(select(Parent.name).where(Parent.id == i + 1))

        def synchronous(session, call, limit):
            assert session.scalar(select(func.count()).select_from(Parent)) == 6
            return await_only(call(limit, [functools.partial(name_of, i) for i in range(6)]))

        for name, call in all_doors(impl):
            for limit in 1, 3:
                async with make_session() as session:
                    got = await session.run_sync(synchronous, call, limit)
                assert got == [f"p{i}" for i in range(6)], name

                async def nested():
                    async with make_session() as session:
                        return await session.run_sync(synchronous, call, limit)

                assert await call(1, [nested, nested]) == [[f"p{i}" for i in range(6)]] * 2, name

    with_database(tmp_path, main, pool_size=7)


def test_one_session_for_several_items_is_refused_as_in_the_recipe(impl, tmp_path):
    async def main(engine, make_session):
        async def outcome_of(call):
            async with AsyncSession(engine) as session:
                try:
                    await call(3, [functools.partial(session.scalar, select(Parent.name)) for _ in range(3)])
                except Exception as error:
                    return type(error)

        expected = await outcome_of(recipe)
        for name, call in doors(impl).items():
            assert await outcome_of(call) == expected, name

    with_database(tmp_path, main)
