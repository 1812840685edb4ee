"""The glyphs of terminals with and without Unicode."""

from typing import Final, NamedTuple


class Glyphs(NamedTuple):
    """A set of glyphs; `levels` are the levels of a sparkline, the lowest first."""

    more: str
    times: str
    arrow: str
    fork: str
    last: str
    through: str
    success: str
    failure: str
    levels: str

    def spell(self, sentence: str) -> str:
        """Return one of flowspan's own sentences with these glyphs."""
        return sentence.replace(_UNICODE.times, self.times).replace(_UNICODE.arrow, self.arrow)


_UNICODE: Final = Glyphs("…", "×", "→", "├─ ", "└─ ", "│  ", "✓", "✗", "▁▂▃▄▅▆▇█")
_ASCII: Final = Glyphs("...", "x", "->", "|- ", "`- ", "|  ", "+", "x", "_.-=+*%#")


def glyphs_of(*, unicode: bool) -> Glyphs:
    """Return the glyphs of an output that shows Unicode, or of one that shows only ASCII."""
    return _UNICODE if unicode else _ASCII
