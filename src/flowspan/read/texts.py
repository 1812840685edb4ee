"""Open sources of spans, or of log records, of any kind as texts of OTLP JSON.

Lines of a file stay on disk: a text knows where each line begins, and can read a part of it again.
Compressed files, protobuf and standard input are held in memory, as lines of JSON.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import sys
import weakref
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowspan.errors import SourceError
from flowspan.read import lines, log_files, otlp_protobuf
from flowspan.read import otlp_json as otlp
from flowspan.read.lines import Problem
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.span import Details, readable_details_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from flowspan.places import Folders
    from flowspan.read.otlp_json import Signal

    _Unbuffered: TypeAlias = io.FileIO | io.BytesIO

STDIN: Final = Path("-")
"""The name of standard input in place of a file."""

FILE_PATTERN: Final = "traces*.jsonl"

_PREFERRED: Final = (FILE_PATTERN, f"{FILE_PATTERN}.gz")
_LOGS: Final = (log_files.FILE_PATTERN, f"{log_files.FILE_PATTERN}.gz")
_JSON_ENDINGS: Final = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")
_PROTOBUF_ENDINGS: Final = (".binpb", ".pb", ".proto.bin")
_HEAD: Final = 64 * 1024
_END: Final = 64 * 1024
_BUFFER: Final = 4 * 1024 * 1024  # a batch of spans is a line of more than a million bytes
_SMALL: Final = 1024 * 1024  # smaller files are read whole, and need no open descriptor afterwards
_GZIP: Final = b"\x1f\x8b"
_ZSTANDARD: Final = b"\x28\xb5\x2f\xfd"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_KNOWN: Final = (
    "lines or one document of OTLP JSON, or OTLP protobuf as the Collector's file exporter writes"
    " it, both plain or compressed with gzip"
)


class Text(ABC):
    """Lines of OTLP JSON that can be iterated repeatedly, and read in parts.

    Attributes:
        name: Its name in a `Problem`.
    """

    def __init__(self, name: Path | str) -> None:
        self.name = name
        self._last: tuple[int, Details] | None = None

    @abstractmethod
    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset and content of each line; numbers count from 1.

        Raises:
            OSError: It cannot be read.
        """

    @abstractmethod
    def keep(self) -> None:
        """Make sure that parts can be read later; called while iterating over its lines."""

    @abstractmethod
    def part(self, offset: int, length: int) -> bytes:
        """Read a part of a kept text.

        Raises:
            OSError: It cannot be read.
        """

    @abstractmethod
    def tail(self) -> bytes:
        """Read its last part.

        Raises:
            OSError: It cannot be read.
        """

    def details(self, offset: int, length: int) -> Details:
        """Read the details of the span at `offset`.

        Raises:
            SourceError: The file was overwritten.
        """
        if self._last is None or self._last[0] != offset:
            try:
                raw = otlp.mapping(otlp.parse(self.part(offset, length)), "a span")
            except (OSError, UnreadableError):
                raise SourceError(f"{self.name} was overwritten while it was being read.") from None
            # The next details read are probably of the same span.
            self._last = offset, readable_details_of(raw)
        return self._last[1]


class FileText(Text):
    """The lines of a file; if kept, it stays open, so it may be renamed or unlinked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        self._current: _Unbuffered | None = None
        self._kept: _Unbuffered | None = None

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over the file."""
        self._current = self._kept or self._open()
        try:
            yield from _numbered(self._current)
        finally:
            if self._current is not self._kept:
                self._current.close()

    def _open(self) -> _Unbuffered:
        file = self._path.open("rb", buffering=0)
        if os.fstat(file.fileno()).st_size > _SMALL:
            return file
        with file:  # a thousand small files must not need a thousand descriptors
            return io.BytesIO(file.read())

    def keep(self) -> None:
        """Keep the file open."""
        if self._kept is None and self._current is not None:
            self._kept = self._current
            weakref.finalize(self, self._kept.close)

    def part(self, offset: int, length: int) -> bytes:
        """Read a part of the file."""
        if self._kept is None:
            raise OSError
        position = self._kept.tell()  # an iteration may be running
        self._kept.seek(offset)
        try:
            return self._kept.read(length) or b""
        finally:
            self._kept.seek(position)

    def tail(self) -> bytes:
        """Read the end of the file."""
        with self._path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
            return file.read()


class MemoryText(Text):
    """Lines in memory; or, if `is_document`, one document of any number of lines."""

    def __init__(self, name: Path | str, data: bytes, *, is_document: bool = False) -> None:
        super().__init__(name)
        self._data = data
        self._is_document = is_document

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over the bytes."""
        if self._is_document:
            return iter([(0, 0, self._data)])
        return _numbered(io.BytesIO(self._data))

    def keep(self) -> None:
        """Do nothing: it is in memory."""

    def part(self, offset: int, length: int) -> bytes:
        """Return a part of the bytes."""
        return self._data[offset : offset + length]

    def tail(self) -> bytes:
        """Return the end of the bytes."""
        return self._data[-_END:]


def _numbered(stream: _Unbuffered) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    stream.seek(0)
    lines = io.BufferedReader(stream, _BUFFER)
    try:
        for number, line in enumerate(lines, 1):
            yield number, offset, line
            offset += len(line)
    finally:
        lines.detach()  # otherwise it would close the stream


def find_files(source: Path | Folders) -> list[Path]:
    """Return the files to read, newest first: `source` itself, or files in it that hold spans.

    In a folder these are flowspan's ``traces*.jsonl``; if there are none, all files with a JSON or
    protobuf ending that seem to hold spans.

    Raises:
        SourceError: There are no such files.
    """
    if not source.is_dir():
        return lines.find_files(source, FILE_PATTERN)
    own = [path for pattern in _PREFERRED for path in source.glob(pattern) if path.is_file()]
    found = own or [path for path in source.iterdir() if path.is_file() and _may_hold_spans(path)]
    if not found:
        raise SourceError(f"{source} holds no {FILE_PATTERN} file, nor any other of OTLP spans.")
    return lines.newest_first(found)


def find_log_files(folder: Path | Folders, mentioned: bytes) -> list[Path]:
    """Return the files of log records in a folder, newest first; maybe none.

    These are flowspan's ``logs*.jsonl``; if there are none, all files with a JSON or protobuf
    ending that mention some bytes.
    """
    own = [path for pattern in _LOGS for path in folder.glob(pattern) if path.is_file()]
    if own or not folder.is_dir():
        return lines.newest_first(own)
    endings = (*_JSON_ENDINGS, *_PROTOBUF_ENDINGS)
    files = (path for path in folder.iterdir() if path.name.endswith(endings) and path.is_file())
    return lines.newest_first(path for path in files if _mentions(path, mentioned))


def _mentions(path: Path, wanted: bytes) -> bool:
    """Return whether a file has some bytes; they are not looked for in a compressed one."""
    tail = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        while part := file.read(_BUFFER):
            if wanted in tail + part:
                return True
            tail = part[-len(wanted) :]
    return False


def _may_hold_spans(path: Path) -> bool:
    if path.name.endswith(_PROTOBUF_ENDINGS):
        return True
    if not path.name.endswith(_JSON_ENDINGS):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(_GZIP):
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD)
    except (OSError, zlib.error):
        return False
    return b'"resourceSpans"' in head


def open_files(
    files: Iterable[Path], problems: list[Problem], signal: Signal = otlp.SPANS
) -> list[Text]:
    """Open files of any kind; an unreadable file or one of an unknown kind is a problem."""
    texts: list[Text] = []
    for path in files:
        try:
            texts.append(_open_file(path, signal))
        except UnreadableError as error:  # noqa: PERF203 - one bad file must not affect the others
            problems.append(Problem(path, 0, str(error)))
        except OSError as error:
            problems.append(Problem(path, 0, error.strerror or str(error)))
    return texts


def open_stdin() -> list[Text]:
    """Read standard input to its end.

    Raises:
        SourceError: It is empty, or of an unknown kind.
    """
    name = "standard input"
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise SourceError(f"{name.capitalize()} is empty: pipe {_KNOWN} into it.")
    try:
        return [_open_bytes(name, data, otlp.SPANS)]
    except UnreadableError as error:
        raise SourceError(f"{name.capitalize()} cannot be read: {error}.") from None


def _open_file(path: Path, signal: Signal) -> Text:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if _is_text(head) and not _is_spread_out(head):
        return FileText(path)
    return _open_bytes(path, path.read_bytes(), signal)


def _open_bytes(name: Path | str, data: bytes, signal: Signal) -> Text:
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError(f"damaged: {error}") from None
    head = data[:_HEAD]
    if _is_text(head):
        return MemoryText(name, data, is_document=_is_spread_out(head) and _is_document(data))
    if _ZSTANDARD in head[:8]:
        raise UnreadableError("compressed with zstd: decompress it first, as with zstd -d")
    lines = otlp_protobuf.to_json_lines(data, signal)
    if lines is None and signal is otlp.SPANS and otlp_protobuf.to_json_lines(data, otlp.LOGS):
        lines = b""  # the log records beside the spans
    if lines is None and f'"{signal.resources}"'.encode() not in data:
        raise UnreadableError(f"no kind of file that holds spans: give it {_KNOWN}")
    return MemoryText(name, data if lines is None else lines)


def _is_text(head: bytes) -> bool:
    """Whether it is text and not protobuf, which has control characters in each message."""
    return not _CONTROL.search(head) and not head.startswith(_GZIP)


def _is_spread_out(head: bytes) -> bool:
    """Whether the first line is only the beginning of an object."""
    first, newline, _ = head.strip().partition(b"\n")
    is_object = first.startswith((b"{", b"\xef\xbb\xbf{"))
    return bool(newline) and is_object and not first.rstrip().endswith(b"}")


def _is_document(data: bytes) -> bool:
    """Whether it is one JSON document, rather than lines of which the first was cut off."""
    try:
        otlp.parse(data.removeprefix(b"\xef\xbb\xbf"))
    except UnreadableError:
        return False
    return True
