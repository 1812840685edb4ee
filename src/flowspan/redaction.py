"""Keep secrets out of telemetry: `redact`, and its variants for parameters and text."""

from __future__ import annotations

import re
from functools import lru_cache
from numbers import Real
from typing import Any, Final

from flowspan._secrets import MASK as MASK  # noqa: PLC0414 - public here
from flowspan._secrets import is_count, is_secret, masked
from flowspan.values import (
    LONGEST_KEY,
    LONGEST_RENDERED,
    LONGEST_TEXT,
    MAX_DEPTH,
    Copier,
    clean_text,
    contained,
    is_a,
)

_LONGEST_PARAMETER: Final = 256

_NAME: Final = re.compile(rf"[\w.-]{{1,{LONGEST_KEY}}}")
# What holds the name of a setting, and what its value, in lists of settings
_NAME_KEYS: Final = frozenset({"field", "header", "key", "name", "option", "parameter", "variable"})
_VALUE_KEYS: Final = frozenset({"content", "default", "value"})


def redact(value: object, key: str = "") -> Any:
    """Copy `value` using OpenTelemetry's types, with its secrets masked; never raise.

    It runs no code of the value, so nothing lazy is computed: what is not of a type that is known
    to be safe is only named, such as ``<duckdb.DuckDBPyRelation>``. See `flowspan.values.Copier`.

    A value is a secret if the name that leads to it says so (password, token, api_key, ...), or if
    it has a secret type of Prefect or Pydantic. The name is `key`, a key of a dictionary, a field,
    the first item of a pair, an option before its argument, or the ``name`` next to a ``value``.
    In texts, `flowspan._secrets` finds names with their values, credentials in URLs, private keys
    and the tokens of known issuers. ``docs/security.md`` shows them all.

    Returns:
        Texts, bytes, booleans, finite numbers of at most 64 bits, and lists and dictionaries of
        these keep their type; named tuples become dictionaries; other numbers, dates, ids, paths,
        exceptions, and instances of dataclasses and Pydantic's models become text. Containers are
        cut after 8 levels and 1,000 items, texts after `flowspan.values.LONGEST_TEXT` characters.
    """
    if type(value) is str and not is_secret(key):  # most values are texts
        return redact_text(value)
    return contained(lambda value: _Mask().copy(value, key), value)


def redact_parameter(value: object, key: str = "") -> str:
    """Return `value` as text of at most 256 characters, with secrets masked as by `redact`."""
    longest = _LONGEST_PARAMETER
    return clean_text(str(contained(lambda value: _Mask(longest).copy(value, key), value)), longest)


def redact_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Mask the secrets in a text, as `redact` does.

    The text is cleaned and cut as by `flowspan.values.clean_text`.
    """
    # Masked before the cut, which could split credentials
    return clean_text(masked(text[: 2 * longest]), longest)


def _is_harmless(value: object, key: str) -> bool:
    """Whether a value cannot be a secret: None, a flag or a count."""
    is_flag = value is None or type(value) is bool
    return is_flag or (is_a(value, Real) and is_count(key))


@lru_cache(maxsize=1024)
def _is_secret_type(kind: Any) -> bool:
    """Whether objects of this class hold a secret: Pydantic's secret types and Prefect's block."""
    blocks = [base for base in kind.__mro__ if base.__name__ == "Secret"]
    return hasattr(kind, "get_secret_value") or any(
        block.__module__.startswith("prefect.") for block in blocks
    )


class _Mask(Copier):
    """A copy of one value without its secrets."""

    def copy(self, value: object, key: str = "", depth: int = MAX_DEPTH) -> object:
        kind: Any = type(value)
        if _is_secret_type(kind) or _hidden(value, key) is MASK:
            return MASK
        return super().copy(value, key, depth)

    def text(self, text: str) -> str:
        return redact_text(text, self.longest)

    def data(self, data: bytes) -> bytes | str:
        if len(data) > LONGEST_RENDERED:
            return super().data(data)
        text = data.decode(errors="surrogateescape")
        return masked(text).encode(errors="surrogateescape")

    def items(self, items: list[object]) -> list[object]:
        """Mask what follows a name: the second item of a pair, and the argument of an option."""
        is_pair = len(items) == 2  # noqa: PLR2004 - as the word says
        following = zip(map(_name, items), items[1:], strict=False)
        return items[:1] + [
            _hidden(item, name) if is_pair or name.startswith("-") else item
            for name, item in following
        ]

    def pairs(self, pairs: list[tuple[object, object]]) -> list[tuple[object, object]]:
        """Mask the value next to a name, as in ``{"name": "password", "value": "x"}``."""
        names = (_name(value) for key, value in pairs if _name(key).lower() in _NAME_KEYS)
        name = next(filter(is_secret, names), None)
        if name is None:
            return pairs
        return [
            (key, _hidden(value, name) if _name(key).lower() in _VALUE_KEYS else value)
            for key, value in pairs
        ]


def _hidden(value: object, name: str) -> object:
    return MASK if is_secret(name) and not _is_harmless(value, name) else value


def _name(value: Any) -> str:
    """Return a value that looks like a name, or an empty text."""
    kind = type(value)
    if kind is bytes and len(value) <= LONGEST_KEY:
        return _name(value.decode(errors="replace"))
    return value if kind is str and _NAME.fullmatch(value) else ""
