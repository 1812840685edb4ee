"""Units that everything counts in."""

from __future__ import annotations

from typing import Final

NANOSECONDS: Final = 1_000_000_000
"""In a second."""
