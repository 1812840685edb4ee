"""Find files of OTLP JSON lines and go through them, without decoding."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowspan.errors import SourceError
from flowspan.read.otlp_json import Signal


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read: in a file, or in an answer, which a URL names.

    Lines count from 1, 0 is the whole of it.
    """

    file: Path | str
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.reason}"


def find_files(source: Path, pattern: str) -> list[Path]:
    """List the files to read, newest first: `source` itself, or those in it that match.

    Raises:
        SourceError: There are none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SourceError(f"{source} does not exist.")
    files = [path for path in source.glob(pattern) if path.is_file()]
    if not files:
        raise SourceError(f"{source} holds no {pattern} file.")
    return newest_first(files)


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Order files by when they were last written."""
    return sorted(files, key=_modified, reverse=True)


def lines(files: Iterable[Path], problems: list[Problem]) -> Iterator[tuple[Path, int, bytes]]:
    """Yield the lines of all files, counted from 1; a file that cannot be read is a problem."""
    for path in files:
        try:
            with path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    yield path, number, raw
        except OSError as error:  # noqa: PERF203 - one bad file must not cost the others
            problems.append(Problem(path, 0, error.strerror or str(error)))


def latest_first(files: Iterable[Path], times: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that mention a time, and the last one they mention, the latest first.

    To note where they are costs some tenths of a second for 128 MB; a line is read in its turn.

    Args:
        files: Those that cannot be read are left out.
        times: Finds what is a time; its one group is the number.
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
    """Spell ids as files may hold them: hex is case-insensitive in OTLP JSON."""
    return tuple(text.encode() for one in identifiers for text in (one, one.upper()))


def looks_whole(raw: bytes, signal: Signal) -> bool:
    """Tell cheaply that a line needs no parsing to be called an intact line of a signal.

    Braces inside strings or another layout make it say no: then it is to be parsed.
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
