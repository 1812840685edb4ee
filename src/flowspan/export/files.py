"""The embedded destination: one rotating set of OTLP JSON files for each signal.

``opentelemetry-exporter-otlp-json-file`` encodes the messages; this module turns them into lines
and writes these to a stream. The format is OpenTelemetry's file format, one JSON object per line
(https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/).
"""

import contextlib
import errno
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import orjson
from opentelemetry.exporter.otlp.json.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from flowspan import places

if sys.platform != "win32":
    import fcntl

# Telemetry is never written to whatever a link in the place of a file points to.
_SAFELY: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
_APPEND: Final = _SAFELY | os.O_APPEND | getattr(os, "O_BINARY", 0)
_ITEMS_IN_A_LINE: Final = 16
_PATIENCE: Final = 1.0
"""Seconds to wait for another process that holds the lock."""
_PAUSE: Final = 0.005
T = TypeVar("T")

_ROTATED: Final = f"{'?' * 8}T{'?' * 6}.{'?' * 6}Z-{'?' * 8}"  # no other file is ever deleted


class RotatingStream:
    """A text stream over ``<folder>/<signal>.jsonl``, bounded in size and in number of files.

    Any number of processes may write to the same set at once. No file stays open between two lines,
    so a fork cannot share it, a rotation cannot orphan it, and a deleted folder cannot invalidate
    it. Opening is cheap enough, because a line holds a whole batch of telemetry.

    Telemetry may hold what others must not see. So only the user can open a folder that is created
    here, and only who can read the folder can read the files. Anything else in the place of a file,
    such as a link, is an error.

    Args:
        folder: Created when the first line is written. A relative path is resolved now, because
            flows may change the working directory.
        signal: First part of the file names, e.g. ``traces``.
        max_bytes: A file is rotated before a line that would make it larger than this. A longer
            line gets its own file.
        max_count: Number of files to keep, including the live one; the oldest are deleted.
    """

    def __init__(self, folder: Path, signal: str, *, max_bytes: int, max_count: int) -> None:
        self._folder = folder.absolute()
        self._signal = signal
        self._max_bytes = max_bytes
        self._max_count = max_count
        self.path = self._folder / f"{signal}.jsonl"
        self.closed = False  # with `flush`, all that the package's exporters need of a stream

    def flush(self) -> None:
        """Do nothing: written lines are in the file."""

    def write(self, text: str) -> int:
        """Append whole lines; return the number of characters.

        Raises:
            OSError: The folder cannot be created or written to, a file is not a regular one, or the
                disk is full. The next call tries again.
        """
        with self._exclusive() as may_rotate:
            for data in _pieces(text.encode(), self._max_bytes):
                if may_rotate and self._is_too_full_for(len(data)):
                    self._rotate()
                self._append(data)
        return len(text)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Lock out other processes, so that no two see or rotate the same full or torn file.

        Yields False if another process does not give up the lock. O_APPEND still keeps lines whole.
        """
        fd = self._open_lock()
        try:
            yield sys.platform == "win32" or _lock(fd)
        finally:
            if sys.platform != "win32":
                # Closing is not enough if another thread has forked: the child has a copy.
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _open_lock(self) -> int:
        path = self._folder / ".lock"
        try:
            return _open(path, _SAFELY)
        except FileNotFoundError:
            places.create(self._folder)
            return _open(path, _SAFELY)

    def _is_too_full_for(self, added: int) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        # What is not a file stays in its place, for the error that follows.
        return stat.S_ISREG(found.st_mode) and 0 < found.st_size > self._max_bytes - added

    def _rotate(self) -> None:
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        rotated = self._folder / f"{self._signal}-{now}-{uuid4().hex[:8]}.jsonl"
        # Windows cannot rename a file that a reader has open: keep writing, the next line retries.
        with contextlib.suppress(OSError):
            self.path.rename(rotated)
        oldest_first = sorted(self._folder.glob(f"{self._signal}-{_ROTATED}.jsonl"))
        kept = self._max_count - 1  # and the live file
        for path in oldest_first[: max(0, len(oldest_first) - kept)]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _append(self, data: bytes) -> None:
        fd = _open(self.path, _APPEND)
        try:
            if _is_torn(fd):
                data = b"\n" + data
            if (written := os.write(fd, data)) < len(data):
                end = os.lseek(fd, 0, os.SEEK_CUR)
                if os.fstat(fd).st_size == end:  # nobody else has written since
                    os.ftruncate(fd, end - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(fd)


class EmbeddedSpanExporter(SpanExporter):
    """An exporter that writes spans to a stream, a few per line.

    The package's own exporter writes a batch as one line, with the standard library. For a batch of
    512 spans that takes twice the time, and so many objects at once that Python's garbage collector
    scans everything in the process.
    """

    def __init__(self, stream: RotatingStream) -> None:
        self._stream = stream

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write all `spans` in one piece.

        Raises:
            OSError: See `RotatingStream.write`.
        """
        self._stream.write(_as_lines(spans, encode_spans))
        return SpanExportResult.SUCCESS


class EmbeddedLogExporter(LogRecordExporter):
    """An exporter that writes log records to a stream, a few per line, like spans."""

    def __init__(self, stream: RotatingStream) -> None:
        self._stream = stream

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write the whole `batch` in one piece.

        Raises:
            OSError: See `RotatingStream.write`.
        """
        self._stream.write(_as_lines(batch, encode_logs))
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:  # noqa: ARG002
        """Do nothing: exported records are in the file."""
        return True

    def shutdown(self) -> None:
        """Do nothing: nothing is open."""


def _open(path: Path, flags: int) -> int:
    """Open or create a regular file; raises OSError for anything else."""
    mode = path.parent.stat().st_mode & 0o666
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return fd


def _lock(fd: int) -> bool:
    """Lock a file; return False if another process has held it for longer than we wait."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 - it waits anyway
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        except OSError:  # some network file systems have no locks
            return True
        else:
            return True


def _pieces(data: bytes, most: int) -> Iterator[bytes]:
    """Split data between lines into pieces of at most `most` bytes, or of one longer line."""
    start = 0
    while len(data) - start > most:
        end = data.rfind(b"\n", start, start + most) + 1 or data.find(b"\n", start) + 1
        if not end:
            break
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]


def _as_lines(items: Sequence[T], encode: Callable[[Sequence[T]], Any]) -> str:
    starts = range(0, len(items), _ITEMS_IN_A_LINE)
    batches = (items[start : start + _ITEMS_IN_A_LINE] for start in starts)
    return "".join(_as_line(encode(batch).to_dict()) for batch in batches)


def _as_line(message: dict[str, Any]) -> str:
    try:
        return orjson.dumps(message).decode() + "\n"
    except orjson.JSONEncodeError:  # text that is not UTF-8, such as half of a surrogate pair
        return json.dumps(message, separators=(",", ":")) + "\n"


def _is_torn(fd: int) -> bool:
    """Whether the last line is incomplete, because a writer was killed or the disk was full."""
    if os.fstat(fd).st_size == 0:
        return False
    os.lseek(fd, -1, os.SEEK_END)
    return os.read(fd, 1) != b"\n"
