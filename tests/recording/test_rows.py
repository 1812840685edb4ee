"""Rows are counted in objects of real libraries, without importing or computing anything."""

import collections
import contextlib
import dataclasses
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from dask.delayed import delayed
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flowspan import semconv
from flowspan._containment import Containment
from flowspan.recording import rows
from flowspan.recording.rows import Rows, count_rows, register_rows

pytestmark = pytest.mark.usefixtures("no_unexpected_failure")


@pytest.fixture(autouse=True)
def fresh_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers, and the failures that it causes."""
    monkeypatch.setattr(rows, "_counters", rows._Counters({}))
    monkeypatch.setattr(rows, "_contained", Containment("rows"))


@dataclasses.dataclass(frozen=True)
class Order:
    number: int


class Customer(BaseModel):
    name: str


class Point(NamedTuple):
    x: Any
    y: Any


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flight"
    id: Mapped[int] = mapped_column(primary_key=True)
    delay: Mapped[int]


def _look_alike(package: str, name: str, **members: object) -> Any:
    """Return an instance of a class `name` of a library that is not installed here."""
    return type(name, (), {"__module__": package, **members})()


# Frames, tables and arrays


class Measured(pd.DataFrame):  # type: ignore[misc]
    """A subclass, like GeoDataFrame."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}), 3),
        (pd.DataFrame(), 0),
        (pd.DataFrame({"a": [1, 2]})["a"], 2),
        (Measured({"a": [1, 2, 3]}), 3),
        (pl.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}), 3),
        (pl.DataFrame(), 0),
        (pl.Series([1, 2]), 2),
        (pa.table({"a": [1, 2, 3]}), 3),
        (pa.table({"a": [1, 2, 3]}).to_batches()[0], 3),
        (pa.table({}), 0),
        (np.zeros((4, 2)), 4),
        (np.zeros((0, 2)), 0),
        (np.ma.ones(2), 2),
        (np.array([(1, "a"), (2, "b")], dtype="i8,U1").view(np.recarray), 2),
        (np.array(5), None),
        (np.float64(5), None),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__len__") else str(value),
)
def test_frames_tables_and_arrays(value: object, expected: int | None) -> None:
    """Data frames, tables and arrays hold as many rows as their first axis is long."""
    assert count_rows(value) == expected


def test_exact_integers() -> None:
    """The count is a plain int, which every exporter takes, even if a library has its own type."""
    register_rows(Order, lambda order: np.int64(order.number))  # type: ignore[arg-type,return-value]
    assert type(count_rows(Order(7))) is int


def test_same_name_elsewhere() -> None:
    """A class that only shares its name with a known one is not counted."""
    assert count_rows(_look_alike("shop", "DataFrame", __len__=lambda _: 5)) is None
    assert count_rows(_look_alike("pandasql.frame", "DataFrame", __len__=lambda _: 5)) is None


# Lazy objects


def _fail(*_: object) -> Any:
    raise AssertionError("computed")


def test_dask_is_not_computed() -> None:
    """A Dask data frame whose partitions cannot be computed gives None."""
    frame = dd.from_delayed([delayed(_fail)()], meta={"a": "int64"}, verify_meta=False)
    assert count_rows(frame) is None
    assert count_rows(frame["a"]) is None
    with pytest.raises(AssertionError, match="computed"):
        len(frame)


def test_polars_lazy_frames_are_not_collected() -> None:
    """A Polars LazyFrame whose plan raises gives None."""
    lazy = pl.LazyFrame({"a": [1]}).map_batches(_fail, schema={"a": pl.Int64})
    assert count_rows(lazy) is None
    with pytest.raises(Exception, match="computed"):
        lazy.collect()


def test_duckdb_relations_are_not_executed() -> None:
    """A DuckDB relation whose query raises gives None, although it has a length."""
    with duckdb.connect() as connection:
        relation = connection.sql("SELECT error('computed') FROM range(3)")
        assert count_rows(relation) is None
        with pytest.raises(duckdb.Error, match="computed"):
            relation.fetchall()


def test_duckdb_results() -> None:
    """Rows fetched from DuckDB count; the connection, its only cursor, has no count."""
    with duckdb.connect() as connection:
        assert count_rows(connection.execute("SELECT * FROM range(3)")) is None
        assert count_rows(connection.execute("SELECT * FROM range(3)").fetchall()) == 3
        assert count_rows(connection.sql("SELECT * FROM range(3)").df()) == 3


def test_spark_like_frames_are_not_counted() -> None:
    """Spark cannot count without a job, whatever its frames derive from."""
    for package in ("pyspark.sql.dataframe", "pyspark.sql.connect.dataframe", "pyspark.pandas"):
        assert count_rows(_look_alike(package, "DataFrame", count=_fail, __len__=_fail)) is None


def test_generators_are_left_alone() -> None:
    """A generator has no rows, and keeps all its items."""
    items = ({"n": n} for n in range(3))
    assert count_rows(items) is None
    assert len(list(items)) == 3


# Collections of records


@pytest.mark.parametrize(
    "record",
    [
        {"a": 1},
        collections.OrderedDict(a=1),
        collections.ChainMap({"a": 1}),
        (1, 2),
        Point(1, 2),
        Order(1),
        Customer(name="Ada"),
        Flight(id=1, delay=2),
        _look_alike("asyncpg.protocol.record", "Record"),
        _look_alike("pyodbc", "Row"),
        _look_alike("orders", "Attrs", __attrs_attrs__=()),
        _look_alike("orders", "Struct", __struct_fields__=()),
    ],
    ids=lambda record: type(record).__name__,
)
def test_lists_and_tuples_of_records(record: object) -> None:
    """Records of each kind make a list or tuple rows, but are not rows themselves."""
    assert count_rows([record, record, record]) == 3
    assert count_rows((record, record)) == 2
    assert count_rows(record) is None


def test_sets_of_records() -> None:
    """Sets of hashable records are rows."""
    assert count_rows({(1, 2), (3, 4)}) == 2
    assert count_rows(frozenset({Order(1), Order(2), Order(3)})) == 3


@pytest.mark.parametrize("empty", [[], (), set(), frozenset()], ids=repr)
def test_empty_collections(empty: object) -> None:
    """An extraction that found nothing has 0 rows, not an unknown number."""
    assert count_rows(empty) == 0


def test_records_of_records() -> None:
    """A named tuple or a driver's row is one record, even if its first field is one too."""
    assert count_rows(Point({"a": 1}, {"b": 2})) is None
    dict_row = type("DictRow", (list,), {"__module__": "psycopg2.extras"})
    assert count_rows(dict_row([{"a": 1}])) is None
    assert count_rows([dict_row([1]), dict_row([2])]) == 2


def test_subclasses_of_collections() -> None:
    """A user's list type counts as a list."""

    class Orders(list[Order]):
        pass

    assert count_rows(Orders([Order(1), Order(2)])) == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        5,
        2.5,
        "text",
        b"bytes",
        {"a": 1},
        {"a": [1]}.values(),
        range(5),
        [1, 2],
        ["a"],
        [None],
        [[1, 2], [3, 4]],
        [Order, Order],
        (1, "a"),
        {1, 2},
        [pd.DataFrame({"a": [1]})],
        Order,
        len,
        pytest.param(object(), id="object()"),  # an address would differ between processes
        SimpleNamespace(rowcount=5),
    ],
    ids=lambda value: repr(value).replace("\n", " ")[:30],
)
def test_what_is_not_rows(value: object) -> None:
    """Scalars, strings, mappings, classes and lists of anything but records are not rows."""
    assert count_rows(value) is None


def test_long_lists_are_not_traversed() -> None:
    """Only the first item of a list is read."""

    class Watched(list[Any]):
        seen = 0

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                self.seen += 1
                yield item

    orders = Watched([{"n": 1}] * 100_000)
    assert count_rows(orders) == 100_000
    assert orders.seen == 1


# Databases


def test_sqlite_cursors() -> None:
    """A DB-API cursor has a count of what it wrote, but not of what it selects."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert count_rows(connection) is None
        assert count_rows(connection.execute("CREATE TABLE t (n)")) is None
        insert = connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (3,)])
        assert count_rows(insert) == 3
        assert count_rows(connection.execute("UPDATE t SET n = 0 WHERE n > 1")) == 2
        assert count_rows(connection.execute("DELETE FROM t WHERE n > 5")) == 0
        select = connection.execute("SELECT * FROM t")
        assert count_rows(select) is None
        assert len(select.fetchall()) == 3


def test_sqlite_rows() -> None:
    """A list of sqlite3.Row is rows; a single one is not."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        fetched = connection.execute("SELECT 1 AS n UNION SELECT 2").fetchall()
    assert count_rows(fetched) == 2
    assert count_rows(fetched[0]) is None


@pytest.mark.parametrize(
    ("rowcount", "expected"),
    [(0, 0), (12, 12), (-1, None), (None, None), (2**64 - 1, None), ("5", None)],
)
def test_cursors_of_other_drivers(rowcount: object, expected: int | None) -> None:
    """Drivers set rowcount on the instance, and have several values for unknown."""
    cursor = _look_alike("pymysql.cursors", "SSCursor", execute=_fail, executemany=_fail)
    cursor.rowcount = rowcount
    assert count_rows(cursor) == expected


def test_connections_are_not_cursors() -> None:
    """Objects that execute statements but lack a rowcount, like asyncpg's, have no rows."""
    connection = _look_alike("asyncpg.connection", "Connection", execute=_fail, executemany=_fail)
    assert count_rows(connection) is None


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    """Return a SQLite database with one empty table."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_sqlalchemy_core(engine: sa.Engine) -> None:
    """Results of INSERT and UPDATE count the rows written; of a SELECT, the rows fetched."""
    flights = [{"id": n, "delay": n} for n in range(5)]
    with engine.begin() as connection:
        assert count_rows(connection.execute(sa.insert(Flight), flights)) == 5
        update = sa.update(Flight).where(Flight.delay > 2).values(delay=0)
        assert count_rows(connection.execute(update)) == 2
        assert count_rows(connection.execute(sa.delete(Flight).where(Flight.id > 9))) == 0
        select = sa.select(Flight.id, Flight.delay)
        unread = connection.execute(select)
        assert count_rows(unread) is None
        fetched = unread.fetchall()
        assert count_rows(fetched) == 5
        assert count_rows(fetched[0]) is None
        assert count_rows(connection.execute(select).mappings()) is None
        mappings = connection.execute(select).mappings().all()
        assert count_rows(mappings) == 5
        assert count_rows(mappings[0]) is None
        assert count_rows(connection) is None


def test_sqlalchemy_orm(engine: sa.Engine) -> None:
    """Lists of ORM objects are rows; unfetched results and single objects are not."""
    with Session(engine) as session:
        session.add_all([Flight(id=1, delay=5), Flight(id=2, delay=7)])
        session.flush()
        assert count_rows(session.execute(sa.update(Flight).values(delay=1))) == 2
        assert count_rows(session.scalars(sa.select(Flight))) is None
        fetched = session.scalars(sa.select(Flight)).all()
        assert count_rows(fetched) == 2
        assert count_rows(fetched[0]) is None
        assert count_rows(session) is None


# dbt results, with the structure of dbt-core 1.10


def _dbt_node(unique_id: str, **response: object) -> SimpleNamespace:
    return SimpleNamespace(node=SimpleNamespace(unique_id=unique_id), adapter_response=response)


_DBT_NODES = [
    _dbt_node("seed.shop.countries", _message="INSERT 3", code="INSERT", rows_affected=3),
    _dbt_node("model.shop.orders", _message="SELECT 40", code="SELECT", rows_affected=40),
    _dbt_node("model.shop.view", _message="CREATE VIEW", rows_affected=-1),
    _dbt_node("model.shop.materialized_view", rows_affected="-1"),
    _dbt_node("model.shop.skipped"),
    _dbt_node("snapshot.shop.prices", rows_affected=2),
    _dbt_node("test.shop.not_null_orders_id.1a2b", code="SELECT", rows_affected=1),
]


def test_dbt_results() -> None:
    """The rows affected by seeds, models and snapshots are summed, if adapters report them."""
    run = _look_alike("dbt.artifacts.schemas.run.v5.run", "RunExecutionResult", results=_DBT_NODES)
    assert count_rows(run) == 45
    assert count_rows(_look_alike("dbt.cli.main", "dbtRunnerResult", result=run)) == 45


def test_dbt_artifacts() -> None:
    """In run_results.json, as dbt reads it, nodes are named directly."""
    node = SimpleNamespace(unique_id="model.shop.orders", adapter_response={"rows_affected": 7})
    module = "dbt.artifacts.schemas.run.v5.run"
    assert count_rows(_look_alike(module, "RunResultsArtifact", results=[node])) == 7


@pytest.mark.parametrize("result", [None, True, ["model.shop.orders"], SimpleNamespace(nodes={})])
def test_dbt_commands_without_rows(result: object) -> None:
    """Results of deps, debug, ls and parse have no rows."""
    outcome = _look_alike("dbt.cli.main", "dbtRunnerResult", result=result, success=True)
    assert count_rows(outcome) is None


def test_dbt_adapters_without_counts() -> None:
    """If an adapter reports no rows, their number is unknown, not 0."""
    nodes = [_dbt_node("model.shop.orders", _message="OK"), _DBT_NODES[-1]]
    run = _look_alike("dbt.artifacts.schemas.run.v5.run", "RunExecutionResult", results=nodes)
    assert count_rows(run) is None


# Custom types


class Batch:
    size = 4


class SmallBatch(Batch):
    size = 2


def test_registered_types() -> None:
    """A registered function counts the type and its subclasses, even those already seen."""
    assert count_rows(SmallBatch()) is None
    register_rows(Batch, lambda batch: batch.size)
    assert count_rows(Batch()) == 4
    assert count_rows(SmallBatch()) == 2


def test_the_most_derived_registration_wins() -> None:
    """A subclass's own function overrides its base's, in either order."""
    register_rows(SmallBatch, lambda _: 10)
    register_rows(Batch, lambda _: 20)
    assert (count_rows(SmallBatch()), count_rows(Batch())) == (10, 20)


def test_registering_again_replaces() -> None:
    """The last function registered for a type is used."""
    register_rows(Batch, lambda _: 1)
    assert count_rows(SmallBatch()) == 1
    register_rows(Batch, lambda _: None)
    assert count_rows(SmallBatch()) is None


def test_registered_types_override_the_built_in_rules() -> None:
    """Even lists and data frames can be counted differently."""
    register_rows(pd.DataFrame, lambda frame: frame.size)
    register_rows(list, len)
    assert count_rows(Measured({"a": [1, 2], "b": [3, 4]})) == 4
    assert count_rows([1, 2, 3]) == 3
    assert count_rows(["a"]) == 1
    assert count_rows(pd.Series([1, 2])) == 2


@pytest.mark.parametrize(
    ("kind", "function", "advice"),
    [
        (Batch(), len, "takes a class first"),
        (list[int], len, "takes a class first"),
        (len, Batch, "takes a class first"),
        ("Batch", len, "pass the class"),
        (Batch, 5, "takes a function second"),
        (Batch, None, "takes a Batch and returns its number of rows"),
    ],
)
def test_bad_registrations(kind: Any, function: Any, advice: str) -> None:
    """Bad arguments raise at once, with what to pass instead."""
    with pytest.raises(TypeError, match=advice):
        register_rows(kind, function)


def test_coroutine_functions_are_refused() -> None:
    """A function that must be awaited is refused at once."""

    async def count(_: object) -> int:
        return 1

    with pytest.raises(TypeError, match="async def"):
        register_rows(Batch, count)  # type: ignore[arg-type]


def test_registering_while_counting() -> None:
    """Registrations from many threads are all kept while others count."""
    kinds = [type(f"Kind{n}", (), {}) for n in range(64)]
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            for kind in kinds:
                assert count_rows(kind()) in (None, 1)

    def register(some: list[type]) -> None:
        for kind in some:
            register_rows(kind, lambda _: 1)

    counting = [threading.Thread(target=count) for _ in range(2)]
    registering = [threading.Thread(target=register, args=(kinds[n::4],)) for n in range(4)]
    for thread in counting + registering:
        thread.start()
    for thread in registering:
        thread.join()
    done.set()
    for thread in counting:
        thread.join()
    assert [count_rows(kind()) for kind in kinds] == [1] * len(kinds)


# Failures and cost


def test_a_counting_function_that_raises(failures: Callable[[], list[str]]) -> None:
    """It gives no rows and one report, however often it is called."""

    def count(_: Batch) -> int:
        raise LookupError("no footer")

    register_rows(Batch, count)
    assert [count_rows(Batch()) for _ in range(3)] == [None] * 3
    (message,) = failures()
    assert "rows: no footer" in message


@pytest.mark.parametrize(
    "returned", [True, -1, 2.0, float("nan"), "5", np.float64(2), np.True_, [1], 2**63], ids=repr
)
def test_a_counting_function_that_returns_no_count(
    returned: Any, failures: Callable[[], list[str]]
) -> None:
    """Anything but an integer from 0 up is reported with the function's name."""

    def count_batch(_: Batch) -> int:
        return returned  # type: ignore[no-any-return]

    register_rows(Batch, count_batch)
    assert [count_rows(Batch()) for _ in range(3)] == [None] * 3
    (message,) = failures()
    assert "count_batch" in message
    assert repr(returned) in message or f"a {type(returned).__name__} " in message


def test_a_report_computes_nothing(failures: Callable[[], list[str]]) -> None:
    """A lazy object returned by mistake is not computed for the report."""
    register_rows(Batch, lambda _: _look_alike("duckdb", "Relation", __repr__=_fail))
    assert count_rows(Batch()) is None
    (message,) = failures()
    assert "returned a Relation" in message


def test_what_is_not_an_exception_passes() -> None:
    """A KeyboardInterrupt while counting reaches the user."""

    def count(_: Batch) -> int:
        raise KeyboardInterrupt

    register_rows(Batch, count)
    with pytest.raises(KeyboardInterrupt):
        count_rows(Batch())


def test_hostile_types(failures: Callable[[], list[str]]) -> None:
    """A type that cannot be hashed and a list that cannot be read do no harm."""

    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]

    class Unreadable(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise OSError("closed")

    assert count_rows(Unhashable("Odd", (), {})()) is None
    assert count_rows(Unreadable([{}])) is None
    assert len(failures()) == 2


def test_memory_is_bounded() -> None:
    """A process that creates types forever does not keep them all."""
    for n in range(3000):
        count_rows(type(f"Made{n}", (), {})())
    assert len(rows._counters) <= 1024
    assert count_rows([{}]) == 1


def test_rules_are_found_once_per_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second value of a type costs one lookup."""
    met: list[object] = [1, "text", None, [1]]
    assert [count_rows(value) for value in met] == [None] * 4
    monkeypatch.setattr(rows._Counters, "_find", _fail)
    assert (count_rows(2), count_rows([{}])) == (None, 1)


def test_nothing_is_imported() -> None:
    """Counting imports none of the known libraries."""
    program = """if True:
        import sys
        from flowspan.recording.rows import count_rows, register_rows
        register_rows(complex, lambda _: None)
        values = [1, "text", None, [1], [{}, {}], [], (1,), {(1, 2)}, object()]
        assert [count_rows(value) for value in values] == [None] * 4 + [2, 0, None, 1, None]
        known = {"pandas", "polars", "pyarrow", "numpy", "duckdb", "dask", "pyspark", "sqlalchemy",
                 "pydantic", "sqlite3", "dbt", "prefect"}
        print(sorted(known & set(sys.modules)))
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ran.stdout.decode().strip(), ran.stderr.decode()) == ("[]", "")


def test_a_flow_that_sends_runs_elsewhere_has_the_rows_that_are_told() -> None:
    """What came out of its runs is unknown, also to its caller, unless another run consumed it."""
    sender, caller = Rows(), Rows()
    sender.add_called("home", counted(5))
    sender.send()
    assert sender.total(semconv.ROWS_OUTPUT) is None
    caller.add_called("leaf", counted(3))
    caller.add_called("sender", sender)
    assert caller.total(semconv.ROWS_OUTPUT) is None
    caller.consume(["sender"])
    assert caller.total(semconv.ROWS_OUTPUT) == 3
    sender.tell(semconv.ROWS_OUTPUT, 7, None)
    other = Rows()
    other.add_called("sender", sender)
    assert other.total(semconv.ROWS_OUTPUT) == 7


def counted(number: int) -> Rows:
    """Return the rows of a task run that put out so many."""
    found = Rows()
    found.count(semconv.ROWS_OUTPUT, number)
    return found
