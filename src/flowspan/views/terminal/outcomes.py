"""How the results of runs look in a terminal."""

from dataclasses import dataclass
from typing import Final

from flowspan.text import clean


@dataclass(frozen=True, slots=True)
class Outcome:
    """The symbol and the style of a result."""

    symbol: str
    ascii: str
    style: str

    def glyph(self, *, unicode: bool) -> str:
        """Return the symbol for an output that shows Unicode, or for one that shows only ASCII."""
        return self.symbol if unicode else self.ascii


_OPEN: Final = {
    "running": Outcome("▶", ">", "cyan"),
    "lost": Outcome("?", "?", "red"),
}
_OUTCOMES: Final = {
    "success": Outcome("✓", "+", "green"),
    "failure": Outcome("✗", "x", "red"),
    "error": Outcome("✗", "x", "red"),
    "timeout": Outcome("✗", "x", "red"),
    "cancellation": Outcome("⊘", "o", "yellow"),
    "skip": Outcome("○", "o", "yellow"),
    **_OPEN,
}
_NO_OUTCOME: Final = Outcome("…", "?", "yellow")

# States whose name adds nothing to the result. Other states are shown by their own name, because
# users know Cached, RolledBack, TimedOut or Crashed from Prefect.
_PLAIN_STATES: Final = {"Completed", "Failed", "Cancelled"}


def of(result: str | None) -> Outcome:
    """Return how a result, `running` or `lost` looks; None stands for a run without any."""
    return _OUTCOMES.get(result or "", _NO_OUTCOME)


def word(result: str | None, state: str | None) -> str:
    """Return a word or two for how a run ended, from its result and the name of its last state."""
    named = clean(state)
    if result is None:
        return named or "not ended"
    if not named or named in _PLAIN_STATES or result in _OPEN:
        return clean(result)
    return named
