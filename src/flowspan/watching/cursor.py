r"""Remember on disk up to where everything is settled, across a restart or SIGKILL.

A flow run is settled once nothing of it is missing any more. What is to be recorded is written down
before it is exported, and that it has arrived afterwards:

    nothing --intend--> INTENDED --settle--> SETTLED --advance--> forgotten: it ended before `since`
        \------------------settle---------------/

Of a flow run that is INTENDED, `record` notes which spans have arrived, if it gets another look.

What always holds:

- Each change is one transaction, so a process that is killed leaves the one or the other.
- Spans of a flow run that is not INTENDED have not been exported by an earlier process.
- Every flow run that ended before `since` is settled.
- Runs that are forgotten ended before `since`, so nothing asks for them again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

from flowspan import places
from flowspan.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_TABLES: Final = """
create table if not exists cursor (url text primary key, since integer not null);
create table if not exists runs (
    url text not null, id text not null, ended integer not null, is_settled integer not null,
    primary key (url, id)
);
create index if not exists ends on runs (url, ended);
create table if not exists recorded (url text, id text, spans text, primary key (url, id));
create table if not exists lost (url text, id text, heard integer, primary key (url, id));
"""
_FILE: Final = "watch.sqlite"
_MOST_LOST: Final = 10_000


class Cursor:
    """What is settled of one Prefect API; moments are nanoseconds by its server's clock.

    Attributes:
        since: Every flow run that ended before is settled; None at the very first start.
    """

    def __init__(self, folder: Path, url: str) -> None:
        """Open the file in `folder`, which is created if needed.

        Raises:
            ConfigurationError: The file cannot be read or written, or another process uses it.
        """
        self._url = url
        path = folder / _FILE
        try:
            places.create(folder)
            self._file = sqlite3.connect(path, isolation_level=None, timeout=1)
            # Exclusive: two observers of one API would fill in everything twice.
            self._file.execute("pragma locking_mode = exclusive")
            self._file.execute("pragma journal_mode = wal")
            # Safe if this process is killed. After a loss of power some spans may be sent again.
            self._file.execute("pragma synchronous = normal")
            self._file.executescript(_TABLES)
            with self._transaction():  # takes the lock
                self._file.execute("delete from runs where 0")
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(
                f"the state of flowspan watch cannot be kept in {path} ({error}): no other flowspan"
                " watch may use the same folder; set FLOWSPAN_WATCH_DIR to one that can be written"
            ) from error
        found = self._file.execute("select since from cursor where url = ?", (url,)).fetchone()
        self.since: int | None = found[0] if found else None

    def start(self, since: int) -> None:
        """Begin with the flow runs that ended at `since`, or later."""
        with self._transaction():
            self._file.execute("insert or replace into cursor values (?, ?)", (self._url, since))
        self.since = since

    def intended(self) -> dict[str, int]:
        """Return when the flow runs ended whose spans may be exported, but are not settled."""
        query = "select id, ended from runs where url = ? and not is_settled"
        return dict(self._file.execute(query, (self._url,)))

    def settled(self) -> dict[str, int]:
        """Return when each of the flow runs ended that ended since then and are settled."""
        query = "select id, ended from runs where url = ? and is_settled"
        return dict(self._file.execute(query, (self._url,)))

    def intend(self, ends: Mapping[str, int]) -> None:
        """Note that spans of flow runs are about to be exported; `ends` says when each ended."""
        self._write(ends, is_settled=False)

    def settle(self, ends: Mapping[str, int]) -> None:
        """Note that nothing of these flow runs is missing any more."""
        self._write(ends, is_settled=True)
        known = [(self._url, run_id) for run_id in ends]
        with self._transaction():
            self._file.executemany("delete from recorded where url = ? and id = ?", known)

    def recorded(self) -> dict[str, set[int]]:
        """Return the spans that have arrived of flow runs of which more may be missing."""
        query = "select id, spans from recorded where url = ?"
        found = self._file.execute(query, (self._url,))
        return {run_id: {int(one, 16) for one in spans.split()} for run_id, spans in found}

    def record(self, spans: Mapping[str, Iterable[int]]) -> None:
        """Note which spans have arrived of flow runs that are not settled yet."""
        rows = [
            (self._url, run_id, " ".join(f"{one:016x}" for one in those))
            for run_id, those in spans.items()
        ]
        with self._transaction():
            self._file.executemany("insert or replace into recorded values (?, ?, ?)", rows)

    def lost(self) -> dict[str, int]:
        """Return when the flow runs were last heard of that were taken for lost."""
        query = "select id, heard from lost where url = ?"
        return dict(self._file.execute(query, (self._url,)))

    def lose(self, heard: Mapping[str, int]) -> None:
        """Note that flow runs are taken for lost, for good: their spans are exported."""
        rows = [(self._url, run_id, moment) for run_id, moment in heard.items()]
        oldest = "select id from lost where url = ? order by heard desc limit -1 offset ?"
        with self._transaction():
            self._file.executemany("insert or replace into lost values (?, ?, ?)", rows)
            bounds = (self._url, self._url, _MOST_LOST)
            self._file.execute(f"delete from lost where url = ? and id in ({oldest})", bounds)  # noqa: S608 - a constant

    def advance(self, since: int) -> list[str]:
        """Note that everything that ended before `since` is settled; return what is forgotten."""
        if self.since is not None and since <= self.since:
            return []
        past = "from runs where url = ? and ended < ? and is_settled"
        with self._transaction():
            forgotten = self._file.execute(f"select id {past}", (self._url, since)).fetchall()
            self._file.execute(f"delete {past}", (self._url, since))
            self._file.execute("insert or replace into cursor values (?, ?)", (self._url, since))
        self.since = since
        return [run_id for (run_id,) in forgotten]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, ends: Mapping[str, int], *, is_settled: bool) -> None:
        rows: Iterable[tuple[object, ...]] = (
            (self._url, run_id, ended, is_settled) for run_id, ended in ends.items()
        )
        with self._transaction():
            self._file.executemany("insert or replace into runs values (?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._file.execute("rollback")
            raise
        self._file.execute("commit")
