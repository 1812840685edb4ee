"""A trace, and every answer computed from it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from flowspan.analysis import log_places, one_trace, tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowspan.analysis.one_trace import Analysis
    from flowspan.analysis.tree import Tree
    from flowspan.read.log_files import Log
    from flowspan.read.span import Trace


class Findings:
    """Everything that the views of a trace show. Each answer is computed on first use.

    Attributes:
        trace: The trace, with at least one span.
        logs: Log records of the trace, in order of time.
    """

    def __init__(self, trace: Trace, logs: Sequence[Log] = ()) -> None:
        """Hold a trace, and the log records of the whole trace to show with it."""
        self.trace = trace
        self.logs = log_places.within(logs, trace)

    @cached_property
    def analysis(self) -> Analysis:
        """The analysis of where the time went. It takes seconds for a large trace."""
        return one_trace.analyse(self.trace.spans)

    @cached_property
    def tree(self) -> Tree:
        """The tree of spans, without quiet attempts and with many siblings collapsed."""
        return tree.build(self.trace.spans)

    @cached_property
    def whole_tree(self) -> Tree:
        """The tree of all spans."""
        return tree.build(self.trace.spans, everything=True)

    @cached_property
    def logs_by_span(self) -> Mapping[str, Sequence[Log]]:
        """The log records by the id of their span."""
        return log_places.by_span(self.logs, self.trace.spans)
