"""Units that all rooms use."""

from __future__ import annotations

from typing import Final

NANOSECONDS: Final = 1_000_000_000
"""Nanoseconds in a second."""
