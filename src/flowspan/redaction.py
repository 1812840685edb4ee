"""The one function that keeps secrets out of telemetry."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Final

MASK: Final = "[redacted]"
_MAX_LENGTH: Final = 256
_MAX_DEPTH: Final = 8
_SECRET_KEY: Final = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|api_?key|access_?key|private_?key|authorization|credential"
    r"|connection_?string|(^|_)dsn$|(^|_)auth$",
    re.IGNORECASE,
)
_URL_CREDENTIALS: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s:@]*:[^/\s@]*@", re.IGNORECASE
)


def redact(value: object, key: str = "") -> str:
    """Render `value` as text of at most 256 characters with its secrets masked.

    A value is a secret if `key`, or the key of a mapping inside `value` that leads to it, sounds
    like one (password, token, secret, api_key, ...). Credentials in URLs are masked wherever they
    stand. Prefect's and Pydantic's secret types mask themselves when they are rendered.
    """
    try:
        plain = str(_mask(value, key, _MAX_DEPTH))
    except Exception:  # noqa: BLE001 - a value of the user's may do anything when it is rendered
        plain = f"<{type(value).__name__} that cannot be rendered>"
    text = _URL_CREDENTIALS.sub(rf"\g<scheme>{MASK}@", plain)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 1]}…"


def _mask(value: object, key: str, depth: int) -> object:
    """Copy what of `value` can be seen in so little text, with its secrets masked."""
    if _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, (Mapping, list, tuple)) and depth == 0:
        return "…"
    if isinstance(value, Mapping):
        items = islice(value.items(), _MAX_LENGTH)
        return {name: _mask(item, str(name), depth - 1) for name, item in items}
    if isinstance(value, (list, tuple)):
        return [_mask(item, key, depth - 1) for item in islice(value, _MAX_LENGTH)]
    return value
