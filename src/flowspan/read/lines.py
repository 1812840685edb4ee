"""Find files of OTLP JSON lines and iterate over them, without decoding."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowspan.errors import SourceError
from flowspan.places import Folders
from flowspan.read.otlp_json import Signal


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read, in a file or in the answer from a URL.

    Lines count from 1; 0 means the whole file or answer.
    """

    file: Path | str
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.reason}"


def find_files(source: Path | Folders, pattern: str) -> list[Path]:
    """Return the files to read, newest first: `source` itself, or matching files in it.

    Raises:
        SourceError: There are no such files.
    """
    if isinstance(source, Path) and source.is_file():
        return [source]
    if not source.is_dir():
        raise SourceError(f"{source} does not exist.")
    files = [path for path in source.glob(pattern) if path.is_file()]
    if not files:
        raise SourceError(f"{source} holds no {pattern} file.")
    return newest_first(files)


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Sort files by when they were last written, newest first."""
    return sorted(files, key=_modified, reverse=True)


def lines(files: Iterable[Path], problems: list[Problem]) -> Iterator[tuple[Path, int, bytes]]:
    """Yield the lines of all files, counted from 1; a file that cannot be read is a problem."""
    for path in files:
        try:
            with path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    yield path, number, raw
        except OSError as error:  # noqa: PERF203 - one bad file must not affect the others
            problems.append(Problem(path, 0, error.strerror or str(error)))


def latest_first(files: Iterable[Path], times: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield each line that mentions a time, with the last time in it, the latest first.

    Finding the lines takes a few tenths of a second for 128 MB; a line is only read when yielded.

    Args:
        files: The files; unreadable ones are skipped.
        times: Matches a time; its one group is the number.
    """
    found: list[tuple[int, Path, int]] = []
    for path in files:
        offset = 0
        with contextlib.suppress(OSError), path.open("rb") as file:
            for raw in file:
                if mentioned := times.findall(raw):
                    found.append((max(map(int, mentioned)), path, offset))
                offset += len(raw)
    for time, path, offset in sorted(found, key=lambda line: line[0], reverse=True):
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(offset)
            yield time, file.readline()


def spellings(*identifiers: str) -> tuple[bytes, ...]:
    """Return the spellings of ids in files: hex is case-insensitive in OTLP JSON."""
    return tuple(text.encode() for one in identifiers for text in (one, one.upper()))


def looks_whole(raw: bytes, signal: Signal) -> bool:
    """Return whether a line is an intact line of a signal, without parsing it.

    For an intact line with braces inside strings or another layout this may be False: then the
    line must be parsed.
    """
    line = raw.strip()
    return not line or (
        line.startswith(b'{"%s":[{' % signal.resources.encode())
        and line.endswith(b"]}")
        and line.count(b"{") == line.count(b"}")
        and (line.isascii() or _is_utf8(line))
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
