"""Turn values of users into what every receiver takes, without running any code of theirs.

A value may be lazy: the ``repr`` of a DuckDB relation, the ``bool`` of a Django query set or the
iteration of a data frame runs a query. Even `isinstance` runs code of a proxy's class. So a value
is known by its type alone, and read with the methods of the built-in type that it derives from.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache, partial
from inspect import getattr_static
from itertools import islice
from pathlib import PurePath
from types import FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.util.types import AttributeValue

LAST_INT: Final = 2**63 - 1
"""The largest integer of OTLP; the smallest is ``-LAST_INT - 1``."""

LONGEST_TEXT: Final = 32_768
"""Most characters of a text: common log stores index no more of one field."""

LONGEST_RENDERED: Final = 1000
"""Most characters of the text of a value that OpenTelemetry has no type for."""

LONGEST_KEY: Final = 256
"""Most characters of the name of an attribute."""

_MOST_ITEMS: Final = 1000  # in all containers of one value
MAX_DEPTH: Final = 8  # of containers inside each other
_MOST_TYPES: Final = 1024  # remembered with their readers; code may create types without end
_MOST_BITS: Final = 1024  # of an integer that is written in decimal, which takes quadratic time
_CUT: Final = "…"
_ATOMS: Final = frozenset({str, bool, int, float})  # what a list in a span's attributes may hold


class Content(NamedTuple):
    """What a container holds: `pairs` if it has names for its items, otherwise `items`.

    `name` is that of the class if the container is an object, which becomes text.
    """

    pairs: Iterable[tuple[object, object]] | None = None
    items: Iterable[object] = ()
    name: str | None = None


def clean(attributes: Mapping[str, object]) -> dict[str, AttributeValue]:
    """Copy the attributes of a span, an event, a link or a point of a metric for every receiver.

    Nested containers and lists of several types become text or lists of texts, other values are as
    for `Copier`. Attributes without a name or with the value None are left out.
    """
    cleaned: dict[str, AttributeValue] = {}
    for key, value in attributes.items():
        # Most values are texts; a run has some 100 attributes.
        flat = clean_text(value) if type(value) is str else contained(_flat, value)
        if flat is not None and (name := clean_key(key)):
            cleaned[name] = flat
    return cleaned


def clean_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a text to `longest` characters and replace what is not UTF-8, and NUL, by ``?``.

    Half of a surrogate pair, as in file names, makes a whole export fail; databases refuse NUL.
    """
    if len(text) > longest:
        text = text[: longest - 1] + _CUT
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    return text.replace("\0", "?") if "\0" in text else text


def clean_key(key: object) -> str:
    """Return a key of a user as text of at most `LONGEST_KEY` characters."""
    if type(key) is not str:
        key = contained(Copier(LONGEST_KEY).copy, key)
    return clean_text(str(key), LONGEST_KEY)


def contained(read: Callable[[Any], Any], value: object) -> Any:
    """Return what `read` makes of a value, or a text if that fails.

    Another thread may change a container meanwhile, and a library's scalar may fail.
    """
    try:
        return read(value)
    except Exception:  # noqa: BLE001 - no value may lose the others
        return f"<{type(value).__name__} that cannot be rendered>"


def is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a type, without asking the value, as `isinstance` would."""
    return issubclass(type(value), kinds)


def type_name(kind: type) -> str:
    """Return the qualified name of a class, without the module if it is built in."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


class Copier:
    """Copies one value, with a limit of items in all.

    - Texts, bytes, booleans, None, integers of 64 bits and finite floats keep their type, also
      those of NumPy. Other numbers, dates, ids and paths become text.
    - Dictionaries and named tuples become dictionaries whose keys are text; other tuples, lists,
      sets and deques become lists. They are cut after 8 levels and 1,000 items.
    - Classes, functions and ranges become their ``repr``.
    - Exceptions, and instances of dataclasses and Pydantic's models that have the usual ``repr``,
      become that text, made from their fields.
    - Everything else is only named: ``<package.Type>``.
    """

    def __init__(self, longest: int = LONGEST_TEXT) -> None:
        """Copy texts up to `longest` characters."""
        self.longest = longest
        self._left = _MOST_ITEMS

    def copy(self, value: object, key: str = "", depth: int = MAX_DEPTH) -> object:
        """Return a copy of `value`, which `key` led to; `depth` is the number of levels left."""
        kind: Any = type(value)
        if kind is str:
            return self.text(value)  # type: ignore[arg-type] # known by its type
        reader = _reader(kind)
        content = f"<{type_name(kind)}>" if reader is None else reader(value)
        if not isinstance(content, Content):
            return self._atom(content)
        if depth == 0:
            return _CUT
        if content.name is not None:
            return clean_text(self._object(content, depth), LONGEST_RENDERED)
        if content.pairs is not None:
            return dict(self._pairs(content.pairs, depth))
        return self._items(content.items, key, depth)

    def text(self, text: str) -> str:
        """Clean a text and cut it."""
        return clean_text(text, self.longest)

    def data(self, data: bytes) -> bytes | str:
        """Clean bytes; many of them become text."""
        if len(data) <= LONGEST_RENDERED:
            return data
        return clean_text(self.text(repr(data[:LONGEST_RENDERED])), LONGEST_RENDERED)

    def _atom(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        return self.data(value) if isinstance(value, bytes) else value

    def _object(self, content: Content, depth: int) -> str:
        fields = [f"{name}={value!r}" for name, value in self._pairs(content.pairs or (), depth)]
        items = map(repr, self._items(content.items, "", depth))
        return f"{content.name}({', '.join([*fields, *items])})"

    def items(self, items: list[object]) -> list[object]:
        """Return the items of a list as they are to be copied."""
        return items

    def pairs(self, pairs: list[tuple[object, object]]) -> list[tuple[object, object]]:
        """Return the items of a dictionary as they are to be copied."""
        return pairs

    def _items(self, items: Iterable[object], key: str, depth: int) -> list[object]:
        some = self.items(list(islice(items, self._left)))
        return [self._item(item, key, depth) for item in some]

    def _pairs(
        self, pairs: Iterable[tuple[object, object]], depth: int
    ) -> Iterator[tuple[str, object]]:
        for key, value in self.pairs(list(islice(pairs, self._left))):
            name = clean_key(key)
            if name:
                yield name, self._item(value, name, depth)

    def _item(self, value: object, key: str, depth: int) -> object:
        self._left -= 1
        return self.copy(value, key, depth - 1) if self._left >= 0 else _CUT


def _flat(value: object) -> Any:
    """Return a value as an attribute of a span may be."""
    kind = type(value)
    copied = _READERS[kind](value) if kind in _ATOMS else Copier().copy(value)
    if isinstance(copied, bytes):
        return clean_text(copied.decode(errors="replace"))
    if isinstance(copied, dict):
        return clean_text(str(copied))
    if not isinstance(copied, list):
        return copied
    kinds = set(map(type, copied))
    return copied if len(kinds) <= 1 and kinds <= _ATOMS else [clean_text(str(i)) for i in copied]


# How to read what


@lru_cache(_MOST_TYPES)
def _reader(kind: Any) -> Callable[[Any], object] | None:
    """Return what reads instances of a class: into a value of OTLP or into their content."""
    names = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and isinstance(names, tuple):
        return partial(_read_named_tuple, names)
    for base in kind.__mro__:
        if found := _READERS.get(base) or _OF_LIBRARIES.get((_package(base), base.__name__)):
            return found
    if (fields := _shown_fields(kind)) is not None:
        return partial(_read_fields, fields)
    return None


def _read_named_tuple(names: tuple[str, ...], value: tuple[object, ...]) -> Content:
    return Content(pairs=zip(names, tuple.__iter__(value), strict=False))


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _read_int(value: int) -> int | str:
    number = int.__int__(value)
    if -LAST_INT - 1 <= number <= LAST_INT:
        return number
    bits = number.bit_length()
    return str(number) if bits <= _MOST_BITS else f"<int of {bits:,} bits>"


def _read_float(value: float) -> float | str:
    number = float.__float__(value)
    return number if math.isfinite(number) else repr(number)  # JSON has no other numbers


def _read_fraction(value: Fraction) -> float | str:
    try:
        return float(Fraction(value.numerator, value.denominator))
    except OverflowError:
        return f"<{type_name(type(value))}>"


def _read_numpy(value: Any) -> object:
    """Read one of NumPy's scalars."""
    if value.dtype.kind in "mM":  # times, whose items may be integers
        return str(value)
    plain = value.item()
    return str(value) if type(plain) is type(value) else _read(plain)  # such as a long double


def _read_enum(value: Enum) -> object:
    return _read(object.__getattribute__(value, "_value_"))


def _read(value: object) -> object:
    kind: Any = type(value)
    reader = _reader(kind)
    return f"<{type_name(kind)}>" if reader is None else reader(value)


def _read_exception(value: BaseException) -> Content:
    return Content(
        name=type(value).__name__,
        items=BaseException.args.__get__(value),  # type: ignore[attr-defined] # a descriptor
    )


_READERS: Final[dict[type, Callable[[Any], object]]] = {
    type(None): lambda _: None,
    bool: lambda value: value,
    int: _read_int,
    float: _read_float,
    complex: complex.__repr__,
    str: lambda text: str.__getitem__(text, slice(2 * LONGEST_TEXT)),
    bytes: lambda data: bytes.__getitem__(data, slice(2 * LONGEST_RENDERED)),
    bytearray: lambda data: bytes(bytearray.__getitem__(data, slice(2 * LONGEST_RENDERED))),
    range: range.__repr__,
    type: type.__repr__,
    FunctionType: FunctionType.__repr__,
    datetime: lambda value: datetime.isoformat(value, " "),
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.__str__,
    UUID: UUID.__str__,
    PurePath: PurePath.__str__,
    Decimal: Decimal.__str__,
    Fraction: _read_fraction,
    Enum: _read_enum,
    dict: lambda value: Content(pairs=dict.items(value)),
    list: lambda value: Content(items=list.__iter__(value)),
    tuple: lambda value: Content(items=tuple.__iter__(value)),
    set: lambda value: Content(items=set.__iter__(value)),
    frozenset: lambda value: Content(items=frozenset.__iter__(value)),
    deque: lambda value: Content(items=deque.__iter__(value)),
    BaseException: _read_exception,
}
# By package and name, since importing them is slow. Their text is cheap.
_OF_LIBRARIES: Final[dict[tuple[str, str], Callable[[Any], object]]] = {
    ("numpy", "generic"): _read_numpy,
    ("pandas", "Timestamp"): str,
    ("pandas", "Timedelta"): str,
    ("pandas", "NaTType"): str,
    ("ipaddress", "IPv4Address"): str,
    ("ipaddress", "IPv6Address"): str,
    ("pydantic", "_BaseUrl"): str,
}


def _shown_fields(kind: type) -> tuple[str, ...] | None:
    """Return the fields that the ``repr`` of a dataclass or a Pydantic model shows.

    None for other classes, and for those whose ``repr`` is their own: it may hide a field.
    """
    fields: Any = None
    if _has_made_repr(kind):
        fields = getattr(kind, "__dataclass_fields__", None)
    elif all(_is_pydantics(kind, name) for name in ("__repr__", "__repr_args__")):
        fields = getattr(kind, "__pydantic_fields__", None)
    if not isinstance(fields, dict):
        return None
    return tuple(name for name, field in fields.items() if field.repr)


def _has_made_repr(kind: type) -> bool:
    """Return whether the ``repr`` of a class is the one that `dataclasses` makes from a text."""
    code = getattr(getattr(kind.__repr__, "__wrapped__", None), "__code__", None)
    return code is not None and code.co_filename == "<string>"


def _is_pydantics(kind: type, name: str) -> bool:
    function = getattr(kind, name, None)
    return str(getattr(function, "__module__", "")).partition(".")[0] == "pydantic"


def _read_fields(names: tuple[str, ...], value: object) -> Content:
    return Content(name=type(value).__name__, pairs=_stored(names, value))


def _stored(names: tuple[str, ...], value: object) -> Iterator[tuple[str, object]]:
    """Yield the fields that an object has stored, in its slots or otherwise."""
    for name in names:
        slot = getattr_static(type(value), name, None)
        with contextlib.suppress(AttributeError, KeyError):  # not set
            if type(slot) is MemberDescriptorType:
                found = slot.__get__(value)
            else:
                found = object.__getattribute__(value, "__dict__")[name]
            yield name, found
