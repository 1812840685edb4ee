"""Keep secrets out of telemetry: `redact`, and its variants for parameters and text."""

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

MASK: Final = "[redacted]"
LONGEST_REPR: Final = 1000
"""Most characters of the ``repr`` of a value that OpenTelemetry has no type for."""

LONGEST_TEXT: Final = 32_768
"""Most characters of a text: common log stores index no more of one field."""

_LONGEST_PARAMETER: Final = 256
_MOST_ITEMS: Final = 1000  # in all containers of one value
_MAX_DEPTH: Final = 8

_EDGE: Final = r"[\W_]"
_SECRET: Final = (
    r"passw(?:or)?d|passphrase|secret(?!ar)|token(?!i[sz])|authorization|credential|cookie"
    rf"|(?:api|access|account|private|encryption|signing|ssh){_EDGE}?key|connection{_EDGE}?string"
)
_SECRET_KEY: Final = re.compile(
    rf"{_SECRET}|(?:^|{_EDGE})(?:pass|pwd|auth|dsn|session)$|session{_EDGE}?(?:id|key)$",
    re.IGNORECASE,
)
# Counts of a language model's tokens are not secret, unlike the tokens of an API.
_COUNT_KEY: Final = re.compile(r"tokens|token_(?:count|limit|usage)", re.IGNORECASE)

# A password may contain an @. A value without a colon is a token, as in Git's URLs.
_URL_CREDENTIALS: Final = re.compile(
    r"""(?<=://)[^/\s:@"']*:[^/\s"']*@|(?<=https://)[^/\s:@"']+@"""
)
# As in connection strings, query strings, headers and mappings printed by Python, JSON and YAML,
# also inside a string. A value that never ends is a secret up to the end of its line, so no part
# of a value can fail to match, and the time is linear in the length of the text.
_INNER: Final = r"[\[({][^\[\](){}]*[\])}]?"
_ASSIGNED: Final = re.compile(
    rf"""(?P<key>\b\w*(?:{_SECRET}|credentials|cookies|pwd|auth|dsn)
    (?:\\*["'])?\]?[ \t]*(?::?=[=>]?|:(?!//))[ \t]*)
    (?:[bfru]{{0,2}}(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\.|.))*(?P=quote)?
    |[\[({{](?:[^\[\](){{}}]|{_INNER})*[\])}}]?
    |(?<=cookie:[ ])[^\r\n]+
    |(?:(?:basic|bearer|digest|token)[ \t]+)?[^\s,;&"')\]}}]+)""",
    re.IGNORECASE | re.VERBOSE,
)
# Most texts have none of these words, and checking for them is cheap.
_SECRET_WORDS: Final = (
    *("pass", "pwd", "secret", "token", "key", "auth", "credential", "cookie", "connection"),
    "dsn",
)

_TEXTUAL: Final = (date, time, timedelta, UUID, PurePath, Decimal)
_FIRST_64_BITS, _LAST_64_BITS = -(2**63), 2**63 - 1


def redact(value: object, key: str = "") -> Any:
    """Copy `value` using OpenTelemetry's types, with its secrets masked; never raise.

    A value is a secret if `key`, or a key of a mapping inside `value` that leads to it, sounds like
    one (password, token, secret, api_key, ...), or if it has a secret type of Prefect or Pydantic.
    In texts, and in the ``repr`` of a model or a dataclass, credentials in URLs and values assigned
    to such a key are masked.

    Returns:
        Texts, bytes, booleans, finite numbers of at most 64 bits, and lists and mappings of these
        keep their type; named tuples become mappings; dates, ids, paths and decimals become text;
        anything else becomes its ``repr``, of at most `LONGEST_REPR` characters. Containers are cut
        after 8 levels and 1,000 items, texts after `LONGEST_TEXT` characters.
    """
    return _contained(lambda: _Mask(_plain).copy(value, key), value)


def redact_parameter(value: object, key: str = "") -> str:
    """Return `value` as text of at most 256 characters, with secrets masked as by `redact`."""
    plain = _contained(lambda: str(_Mask(_short).copy(value, key)), value)
    return redact_text(str(plain), _LONGEST_PARAMETER)


def redact_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Mask the credentials in a text: those in URLs, and values assigned to a secret's name.

    The text is cut to `longest` characters. Invalid Unicode, as in file names, becomes a question
    mark, because it would make a whole export fail.
    """
    text = _masked(text[: 2 * longest])  # mask before the final cut, which could split credentials
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return text if text.isascii() else text.encode(errors="replace").decode()


def _masked(text: str) -> str:
    if "://" in text:
        text = _URL_CREDENTIALS.sub(f"{MASK}@", text)
    if "=" in text or ":" in text:
        lowered = text.lower()
        if any(word in lowered for word in _SECRET_WORDS):
            text = _ASSIGNED.sub(_mask_assigned, text)
    return text


def _mask_assigned(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found['key']}{quote}{MASK}{quote}"


@lru_cache(maxsize=4096)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _is_harmless(value: object, key: str) -> bool:
    """Whether a value cannot be a secret: None, a flag or a count."""
    is_flag = value is None or isinstance(value, bool)
    return is_flag or (isinstance(value, Real) and _is_count(key))


@lru_cache(maxsize=4096)
def _is_count(key: str) -> bool:
    return _COUNT_KEY.search(key) is not None


def _is_secret_type(kind: type) -> bool:
    """Whether objects of this class hold a secret: Pydantic's secret types and Prefect's block."""
    blocks = [base for base in kind.__mro__ if base.__name__ == "Secret"]
    return hasattr(kind, "get_secret_value") or any(
        block.__module__.startswith("prefect.") for block in blocks
    )


class _Mask:
    """A copy of one value, with a limit of items; `leaf` converts what is not a container."""

    def __init__(self, leaf: Callable[[object], object]) -> None:
        self._leaf = leaf
        self._left = _MOST_ITEMS

    def copy(self, value: object, key: str, depth: int = _MAX_DEPTH) -> object:
        if _is_secret(key) and not _is_harmless(value, key):
            return MASK
        if isinstance(value, tuple) and hasattr(value, "_asdict"):  # such as SQLAlchemy's URLs
            value = value._asdict()
        if not isinstance(value, (Mapping, list, tuple, AbstractSet)):
            return self._leaf(value)
        if depth == 0:
            return "…"
        if isinstance(value, Mapping):
            items = islice(value.items(), self._left)
            return {str(name): self._item(item, str(name), depth) for name, item in items}
        return [self._item(item, key, depth) for item in islice(value, self._left)]

    def _item(self, value: object, key: str, depth: int) -> object:
        self._left -= 1
        return self.copy(value, key, depth - 1) if self._left >= 0 else "…"


def _plain(value: object) -> object:  # noqa: PLR0911 - one for each kind of value
    """Convert a value that is not a container to a type that OTLP has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return redact_text(str(value))
    if isinstance(value, Integral) and _FIRST_64_BITS <= int(value) <= _LAST_64_BITS:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value)
    if isinstance(value, (bytes, bytearray)):
        if len(value) > LONGEST_REPR:
            return redact_text(repr(value[:LONGEST_REPR]), LONGEST_REPR)
        text = value.decode(errors="surrogateescape")
        return _masked(text).encode(errors="surrogateescape")
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)  # unlike NumPy's numbers, not an instance of a Python type
    if _is_secret_type(type(value)):
        return MASK
    return redact_text(str(value) if isinstance(value, _TEXTUAL) else repr(value), LONGEST_REPR)


def _short(value: object) -> object:
    """Cut a text to what may be seen of it in a parameter."""
    if isinstance(value, (str, bytes, bytearray)):
        return value[: 2 * _LONGEST_PARAMETER]
    return value


def _contained(make: Callable[[], object], value: object) -> object:
    try:
        return make()
    except Exception:  # noqa: BLE001 - the user's values may do anything when they are rendered
        return f"<{type(value).__name__} that cannot be rendered>"
