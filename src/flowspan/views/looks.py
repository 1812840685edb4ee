"""The look and the name of each phase of a span, in a terminal and on the page."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from flowspan import semconv
from flowspan.analysis.phases import OPEN, OTHER, PHASE_OF

_Line: TypeAlias = tuple[float, float, float, float, float]


class Glyph(NamedTuple):
    """A cell of a bar in the terminal, with and without Unicode, and its word in the legend."""

    unicode: str
    ascii: str
    style: str
    word: str


class Colour(NamedTuple):
    """A colour of the page, on light and on dark backgrounds."""

    light: str
    dark: str


class Bar(NamedTuple):
    """A bar on the page.

    Attributes:
        word: The name in the legend and the tables.
        height: The height in pixels, at most twelve. A bar of less than eight is thin.
        pattern: A pattern to distinguish it without colour: lines (x1, y1, x2, y2, width) in a tile
            of eight by eight pixels. Thin bars lie anywhere on a tile, so their lines run from its
            top to its bottom.
        line: The colour of the lines.
        ground: The colour between the lines. Thin bars have none.
    """

    word: str
    height: int
    pattern: tuple[_Line, ...] = ()
    line: Colour | None = None
    ground: Colour | None = None


class Look(NamedTuple):
    """The look of a phase, and its names in sentences.

    Attributes:
        glyph: Its look in the terminal.
        bar: Its look on the page.
        spent: For the critical path: "… of the critical path (waiting in the queue)".
        waited: For a wait: "waited 3 s in the queue".
        noun: For a wait: "3 s for the queue".
    """

    glyph: Glyph
    bar: Bar
    spent: str = ""
    waited: str = ""
    noun: str = ""


LOOKS: Final = {
    semconv.WAIT_LATE: Look(
        Glyph("·", ".", "yellow", "late"),
        Bar(
            "late start",
            height=4,
            pattern=((1, 0, 1, 8, 2), (5, 0, 5, 8, 2)),
            line=Colour("#c2770e", "#f0a63c"),
        ),
        spent="waiting for a late start",
        waited="for a late start",
        noun="a late start",
    ),
    semconv.WAIT_INFRASTRUCTURE: Look(
        Glyph("╍", "+", "blue", "infrastructure"),
        Bar(
            "infrastructure",
            height=4,
            pattern=((3, 0, 3, 8, 6),),
            line=Colour("#7a5bc0", "#a98bf0"),
        ),
        spent="waiting for infrastructure",
        waited="for infrastructure",
        noun="infrastructure",
    ),
    semconv.WAIT_QUEUE: Look(
        Glyph("─", "-", "dim", "queue"),
        Bar("queue", height=3, pattern=((4, 0, 4, 8, 8),), line=Colour("#8492a6", "#7d8ca1")),
        spent="waiting in the queue",
        waited="in the queue",
        noun="the queue",
    ),
    semconv.WAIT_DEPENDENCIES: Look(
        Glyph("░", ":", "blue", "dependencies"),
        Bar(
            "dependencies",
            height=12,
            pattern=((1, 2, 3, 2, 2), (5, 6, 7, 6, 2)),
            line=Colour("#1f8a8a", "#45b9b7"),
            ground=Colour("#d5ecec", "#123a3b"),
        ),
        spent="waiting for dependencies",
        waited="for dependencies",
        noun="dependencies",
    ),
    semconv.WAIT_CONCURRENCY: Look(
        Glyph("▞", "x", "yellow", "concurrency"),
        Bar(
            "concurrency",
            height=12,
            pattern=((-2, 2, 2, -2, 2.2), (-2, 10, 10, -2, 2.2), (6, 10, 10, 6, 2.2)),
            line=Colour("#c27c0e", "#e6a83a"),
            ground=Colour("#fbe7bd", "#43330f"),
        ),
        spent="waiting for a concurrency slot",
        waited="for concurrency",
        noun="a concurrency slot",
    ),
    semconv.EXECUTION: Look(
        Glyph("█", "#", "green", "execution"),
        Bar("execution", height=12, ground=Colour("#3b78c4", "#4f8fe0")),
        spent="execution",
    ),
    OPEN: Look(
        Glyph("▓", ">", "cyan", "not ended"),
        Bar(
            "not ended",
            height=12,
            pattern=((-2, 4, 4, -2, 1.6), (2, 8, 8, 2, 1.6), (6, 10, 10, 6, 1.6)),
            line=Colour("#3b78c4", "#4f8fe0"),
            ground=Colour("#d8e6f7", "#16304f"),
        ),
    ),
    semconv.WAIT_RETRY: Look(
        Glyph("╌", "~", "magenta", "retry wait"),
        Bar(
            "retry wait",
            height=4,
            pattern=((1.5, 0, 1.5, 8, 3),),
            line=Colour("#b23a91", "#e070bd"),
        ),
        spent="waiting for a retry",
        waited="for a retry",
        noun="a retry",
    ),
    semconv.WAIT_PAUSE: Look(
        Glyph("═", "=", "cyan", "pause"),
        Bar(
            "pause",
            height=12,
            pattern=((-2, 6, 2, 10, 1.6), (-2, -2, 10, 10, 1.6), (6, -2, 10, 2, 1.6)),
            line=Colour("#2b86b0", "#58b8e0"),
            ground=Colour("#d9eef8", "#12384a"),
        ),
        spent="paused",
        waited="in a pause",
        noun="a pause",
    ),
    semconv.ORCHESTRATION: Look(
        Glyph("▒", "%", "dim", "orchestration"),
        Bar(
            "orchestration",
            height=12,
            pattern=((2, 0, 2, 8, 1), (6, 0, 6, 8, 1)),
            line=Colour("#a4afbf", "#5d6a7b"),
            ground=Colour("#e6e9ee", "#29313c"),
        ),
        spent="orchestration",
    ),
    OTHER: Look(
        Glyph("━", "_", "dim", "other span"),
        Bar("other span", height=8, ground=Colour("#7d8ea3", "#71839a")),
    ),
}
"""The look of each phase."""

SPENT_ON: Final = {cause: LOOKS[phase].spent for cause, phase in PHASE_OF.items()}
"""The words for each cause on the critical path."""
