"""The one place that holds flowspan's version."""

__version__ = "0.1.0"
