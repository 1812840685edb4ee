"""Errors that more than one room raises or catches."""


class SourceError(Exception):
    """A source cannot be read: there is no such file, folder or server."""


class ConfigurationError(ValueError):
    """A setting, an ``OTEL_*`` variable or an objective is invalid or cannot be satisfied."""
