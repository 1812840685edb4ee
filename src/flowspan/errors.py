"""Errors that more than one room raises or catches."""


class SourceError(Exception):
    """There is nothing to read, or nobody to ask: no such file, folder or server."""


class ConfigurationError(ValueError):
    """A setting, an ``OTEL_*`` variable or an objective asks for something that cannot be had."""
