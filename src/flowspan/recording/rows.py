"""Count the rows of an object, by its type alone.

This imports no library and computes nothing lazy. It recognises a type by the name and the
top-level package of any of its base classes, so subclasses such as GeoDataFrame count too.
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Any

from flowspan import semconv
from flowspan._containment import Containment
from flowspan.values import LAST_INT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.recording.run import Attributes

_Counter = Callable[[Any], int | None]

_MOST_TYPES = 1024  # remembered with their counters; code may create types without end
_COLLECTIONS = (list, tuple, set, frozenset)
# Attributes of the classes of dataclasses, Pydantic 2 and 1, attrs, msgspec, SQLAlchemy's ORM.
_RECORD_MARKS = (
    "__dataclass_fields__",
    "__pydantic_validator__",
    "__fields_set__",
    "__attrs_attrs__",
    "__struct_fields__",
    "__mapper__",
)
# Names of database rows: sqlite3, SQLAlchemy, pyodbc, BigQuery; asyncpg; psycopg2.
_RECORD_NAMES = frozenset({"Row", "Record", "DictRow"})
_DBT_WRITES = frozenset({"model", "seed", "snapshot"})

_contained = Containment("rows")
_registering = threading.Lock()


def count_rows(value: object) -> int | None:
    """Return how many rows `value` holds; None if it is not rows or must be computed first.

    - pandas, Polars: the length of a DataFrame or Series. PyArrow: `num_rows` of a Table or
      RecordBatch. NumPy: the first axis; an array without axes has no rows.
    - Lists, tuples and sets of records: their length, if their first item is a mapping, a tuple,
      an instance of a dataclass, of a Pydantic, attrs, msgspec or ORM class, or a driver's row.
      An empty one holds 0 rows, because an extraction that found nothing must show. Lists of
      numbers, strings or lists are not rows, nor is a record itself.
    - Database cursors and SQLAlchemy results: their `rowcount`, where the driver knows it
      (PEP 249 has -1 where it does not).
    - dbt results: the `rows_affected` that adapters report, summed over models, seeds and
      snapshots. Tests only select. Some adapters report none; Snowflake's reports 1 per table.
    - None for everything else, including lazy types: DuckDB relations, Polars LazyFrames, Dask
      and Spark data frames, generators. `register_rows` adds further types.

    It takes constant time, except that it visits each dbt node. It never raises an `Exception`:
    a failure is reported once, and the result is None.
    """
    with _contained:
        counter = _counters[type(value)]
        count = counter(value)
        return None if count is None else _checked(count, counter)
    return None


def register_rows(kind: type, function: Callable[[Any], int | None]) -> None:
    """Let `function` count the rows of every instance of `kind` and of its subclasses.

    It takes the instance and returns an integer from 0 up, or None if it does not know. It
    overrides the built-in rules. The function of the most derived class wins; registering a class
    again replaces its function. Virtual subclasses (``ABC.register``) are not counted.

    Raises:
        TypeError: `kind` is not a class, or `function` is not callable, or is asynchronous.
    """
    if not issubclass(type(kind), type):  # isinstance() accepts list[int] on Python 3.10
        raise TypeError(
            f"register_rows(kind, function) takes a class first, not {kind!r}: pass the class "
            "whose instances hold rows, such as register_rows(Batch, len)"
        )
    if not callable(function):
        raise TypeError(
            f"register_rows(kind, function) takes a function second, not {function!r}: pass one "
            f"that takes a {kind.__name__} and returns its number of rows, or None"
        )
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"register_rows() cannot await {function!r}: pass a function defined with def, "
            "not async def"
        )
    global _counters  # noqa: PLW0603 - replaced as a whole, so that readers need no lock
    with _registering:
        _counters = _Counters({**_counters.registered, kind: function})


def _unknown(_: object) -> None:
    """Return None: the value is not rows, or would have to be computed."""


def _first_axis(array: Any) -> int | None:
    return array.shape[0] if array.shape else None


def _rowcount(cursor: Any) -> int | None:
    # In PyMySQL's unbuffered cursors, 2**64 - 1 means "unknown".
    count = getattr(cursor, "rowcount", None)
    return count if isinstance(count, int) and 0 <= count <= LAST_INT else None


def _records(collection: Any) -> int | None:
    for first in collection:
        kind: type = type(first)
        return len(collection) if _is_record(kind) else None
    return 0


def _dbt_rows(outcome: Any) -> int | None:
    # dbtRunnerResult.result is a RunExecutionResult; for other commands, a list or a manifest.
    nodes = getattr(getattr(outcome, "result", outcome), "results", ())
    affected = [
        node.adapter_response.get("rows_affected")
        for node in nodes
        if getattr(node, "node", node).unique_id.partition(".")[0] in _DBT_WRITES
    ]
    # Text, -1 and None all mean "unknown" here.
    known = [count for count in affected if isinstance(count, int) and count >= 0]
    return _sum(known) if known else None


def _sum(counts: Iterable[int]) -> int:
    """Return the sum of counts, or the largest integer of OTLP if it is larger."""
    return min(sum(counts), LAST_INT)


_RULES: dict[tuple[str, str], _Counter] = {
    ("pandas", "DataFrame"): len,
    ("pandas", "Series"): len,
    ("polars", "DataFrame"): len,
    ("polars", "Series"): len,
    ("pyarrow", "Table"): operator.attrgetter("num_rows"),
    ("pyarrow", "RecordBatch"): operator.attrgetter("num_rows"),
    ("numpy", "ndarray"): _first_axis,
    ("sqlalchemy", "CursorResult"): _rowcount,
    ("dbt", "dbtRunnerResult"): _dbt_rows,
    ("dbt", "RunExecutionResult"): _dbt_rows,
    ("dbt", "RunResultsArtifact"): _dbt_rows,
}


class _Counters(dict[type, _Counter]):
    """The counter of each type met so far, found at the first meeting."""

    def __init__(self, registered: dict[type, _Counter]) -> None:
        super().__init__()
        self.registered = registered

    def __missing__(self, kind: type) -> _Counter:
        counter = self._find(kind)
        if len(self) >= _MOST_TYPES:
            self.clear()
        self[kind] = counter
        return counter

    def _find(self, kind: type) -> _Counter:
        for base in kind.__mro__:
            if base in self.registered:
                return self.registered[base]
        for base in kind.__mro__:
            if rule := _RULES.get((base.__module__.partition(".")[0], base.__name__)):
                return rule
        if issubclass(kind, _COLLECTIONS) and (kind is tuple or not _is_record(kind)):
            return _records
        # PEP 249 requires both of a cursor, and cursors that OpenTelemetry wraps have them too.
        # DuckDB's relations have only `execute`, which runs the query.
        if hasattr(kind, "execute") and hasattr(kind, "executemany"):
            return _rowcount
        return _unknown


@lru_cache(_MOST_TYPES)
def _is_record(kind: type) -> bool:
    return (
        issubclass(kind, (tuple, Mapping))
        or any(hasattr(kind, mark) for mark in _RECORD_MARKS)
        or any(base.__name__ in _RECORD_NAMES for base in kind.__mro__)
    )


def _checked(count: Any, counter: _Counter) -> int:
    # NumPy's integers are Integral, its booleans are not.
    if isinstance(count, (int, Integral)) and not isinstance(count, bool):
        rows = int(count)
        if 0 <= rows <= LAST_INT:
            return rows
    # Only numbers are shown by their repr: that of a DuckDB relation would execute it.
    returned = repr(count) if isinstance(count, (int, float)) else f"a {type(count).__name__}"
    name = getattr(counter, "__qualname__", type(counter).__qualname__)
    raise ValueError(
        f"{name}() returned {returned} for a number of rows; "
        "let it return an integer from 0 up, or None if it does not know"
    )


_counters = _Counters({})


class Rows:
    """The rows that went into a run and came out of it.

    Numbers from the user replace counted ones. The output of a flow run is that of its leaves: the
    runs that it called itself and whose results no other run consumed. If some of its runs were in
    other processes, both are unknown here, and so is the output.
    """

    def __init__(self) -> None:
        self._sends = False
        self._unknown: set[str] = set()
        self._consumed: set[str] = set()
        self._of_called: dict[str, int | None] = {}
        self._counted: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._told_by_name: dict[str, int] = {}

    def consume(self, run_ids: Iterable[str]) -> None:
        """Note the runs whose results a called run consumes: they are not leaves."""
        self._consumed.update(run_ids)

    def send(self) -> None:
        """Note that other processes run tasks of this flow run.

        Their rows are counted there. What they return is a copy in this process, so whether another
        run consumes it cannot be seen.
        """
        self._sends = True

    def add_called(self, run_id: str, rows: Rows) -> None:
        """Add the output of a run that this flow run called and that has ended."""
        self._of_called[run_id] = rows.total(semconv.ROWS_OUTPUT)
        if rows.is_output_unknown:
            self._unknown.add(run_id)

    @property
    def is_output_unknown(self) -> bool:
        """Whether leaves of this flow run may have put out rows that are not known here."""
        is_told = semconv.ROWS_OUTPUT in self._told
        return not is_told and (self._sends or not self._unknown <= self._consumed)

    def count(self, direction: str, rows: int | None) -> None:
        """Set the counted rows of a direction, given by its attribute; they may be a sum."""
        if rows is not None:
            self._counted[direction] = _sum((rows,))

    def tell(self, direction: str, rows: int, name: str | None) -> None:
        """Add rows that the user reports for a direction, given by its attribute."""
        self._told[direction] = _sum((self._told.get(direction, 0), rows))
        if name is not None:
            key = f"{direction}.{name}"
            self._told_by_name[key] = _sum((self._told_by_name.get(key, 0), rows))

    def total(self, direction: str) -> int | None:
        """Return the rows of one direction; None if unknown."""
        if (told := self._told.get(direction)) is not None:
            return told
        if direction == semconv.ROWS_OUTPUT and self.is_output_unknown:
            return None
        if self._of_called and direction == semconv.ROWS_OUTPUT:
            called = self._of_called.items()
            known = [n for run_id, n in called if n is not None and run_id not in self._consumed]
            if known:
                return _sum(known)
        return self._counted.get(direction)

    def attributes(self, execution: float) -> Attributes:
        """Return the rows, and the output rows per second of `execution`."""
        attributes: Attributes = dict(self._told_by_name)
        if (rows := self.total(semconv.ROWS_INPUT)) is not None:
            attributes[semconv.ROWS_INPUT] = rows
        if (rows := self.total(semconv.ROWS_OUTPUT)) is not None:
            attributes[semconv.ROWS_OUTPUT] = rows
            if execution > 0:
                attributes[semconv.ROWS_PER_SECOND] = rows / execution
        return attributes
