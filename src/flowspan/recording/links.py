"""Add the links of a span in an order in which a provider's limit drops those that matter least."""

from __future__ import annotations

from collections import OrderedDict
from time import time_ns
from typing import TYPE_CHECKING, Final

from flowspan import semconv
from flowspan.values import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import Link, Span, SpanContext

_KEPT: Final = 10_000


class Ends:
    """When the engines of this process left their latest runs."""

    def __init__(self) -> None:
        self._ends: OrderedDict[int, int] = OrderedDict()

    def note(self, context: SpanContext) -> None:
        """Remember that the engine leaves the run with this span now."""
        self._ends[context.span_id] = time_ns()
        if len(self._ends) > _KEPT:
            self._ends.popitem(last=False)

    def link(self, span: Span, links: Iterable[Link]) -> None:
        """Link `span` to others by the ends of their runs, because limits drop the first.

        Runs of other processes come first, and the span that a run continues last.
        """
        for link in sorted(links, key=self._place):
            span.add_link(link.context, clean(link.attributes or {}))
        # Some backends do not keep the count that the span itself has.
        if dropped := getattr(span, "dropped_links", 0):
            span.set_attribute(semconv.LINKS_DROPPED, dropped)

    def _place(self, link: Link) -> tuple[bool, int]:
        kind = (link.attributes or {}).get(semconv.LINK_TYPE)
        return kind != semconv.LINK_DEPENDENCY, self._ends.get(link.context.span_id, 0)
