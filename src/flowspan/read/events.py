"""The events and links of a span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one time, in nanoseconds since the epoch."""

    name: str
    time: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to a span that is not the parent."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]
