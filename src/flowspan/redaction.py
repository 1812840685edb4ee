"""Keep secrets out of telemetry: `redact`, and its variants for parameters and text."""

import re
from functools import lru_cache
from numbers import Real
from typing import Any, Final

from flowspan.values import (
    LONGEST_RENDERED,
    LONGEST_TEXT,
    MAX_DEPTH,
    Copier,
    clean_text,
    contained,
    is_a,
)

MASK: Final = "[redacted]"

_LONGEST_PARAMETER: Final = 256

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


def redact(value: object, key: str = "") -> Any:
    """Copy `value` using OpenTelemetry's types, with its secrets masked; never raise.

    It runs no code of the value, so nothing lazy is computed: what is not of a type that is known
    to be safe is only named, such as ``<duckdb.DuckDBPyRelation>``. See `flowspan.values.Copier`.

    A value is a secret if `key`, or a key of a dictionary inside `value` that leads to it, sounds
    like one (password, token, secret, api_key, ...), or if it has a secret type of Prefect or
    Pydantic. In texts, credentials in URLs and values assigned to such a key are masked.

    Returns:
        Texts, bytes, booleans, finite numbers of at most 64 bits, and lists and dictionaries of
        these keep their type; named tuples become dictionaries; other numbers, dates, ids, paths,
        exceptions, and instances of dataclasses and Pydantic's models become text. Containers are
        cut after 8 levels and 1,000 items, texts after `flowspan.values.LONGEST_TEXT` characters.
    """
    return contained(lambda value: _Mask().copy(value, key), value)


def redact_parameter(value: object, key: str = "") -> str:
    """Return `value` as text of at most 256 characters, with secrets masked as by `redact`."""
    longest = _LONGEST_PARAMETER
    return clean_text(str(contained(lambda value: _Mask(longest).copy(value, key), value)), longest)


def redact_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Mask the credentials in a text: those in URLs, and values assigned to a secret's name.

    The text is cleaned and cut as by `flowspan.values.clean_text`.
    """
    # Masked before the cut, which could split credentials
    return clean_text(_masked(text[: 2 * longest]), longest)


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
    is_flag = value is None or type(value) is bool
    return is_flag or (is_a(value, Real) and _is_count(key))


@lru_cache(maxsize=4096)
def _is_count(key: str) -> bool:
    return _COUNT_KEY.search(key) is not None


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
        is_secret = _is_secret(key) and not _is_harmless(value, key)
        if is_secret or _is_secret_type(kind):
            return MASK
        return super().copy(value, key, depth)

    def text(self, text: str) -> str:
        return redact_text(text, self.longest)

    def data(self, data: bytes) -> bytes | str:
        if len(data) > LONGEST_RENDERED:
            return super().data(data)
        text = data.decode(errors="surrogateescape")
        return _masked(text).encode(errors="surrogateescape")
