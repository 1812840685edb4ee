"""Have opentelemetry-configuration set up the providers that a file declares.

``OTEL_CONFIG_FILE`` names a file of OpenTelemetry's declarative configuration
(https://opentelemetry.io/docs/specs/otel/configuration/). It takes the place of all other
``OTEL_*`` variables, so a signal that it does not declare is not recorded.
"""

import dataclasses
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from flowspan.errors import ConfigurationError
from flowspan.export.routes import SIGNALS, SignalRoute, _without_credentials

VARIABLE: Final = "OTEL_CONFIG_FILE"

_SECTIONS: Final = dict(
    zip(SIGNALS, ("tracer_provider", "meter_provider", "logger_provider"), strict=True)
)
_OWN_NAME: Final = "prefect"  # flowspan's in the entry point group opentelemetry_instrumentor
_DEFAULT_LINKS: Final = 128  # the schema's


def path() -> str:
    """Return the path of the file; empty if the variable is not set."""
    return os.environ.get(VARIABLE, "").strip()


def read() -> "Declaration | None":
    """Read the file, or return None if the variable is not set.

    Raises:
        ConfigurationError: The file cannot be read, is wrong, or nothing is installed to read it.
    """
    if not path():
        return None
    try:
        from opentelemetry.configuration import load_config_file  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigurationError(
            f"{VARIABLE} is set, but opentelemetry-configuration is not installed: "
            "pip install 'flowspan[config]'"
        ) from error
    with _naming_the_variable():
        return Declaration(load_config_file(path()))


@contextmanager
def _naming_the_variable() -> Iterator[None]:
    """Turn an error of opentelemetry-configuration into one of ours that names the variable."""
    from opentelemetry.configuration import (  # noqa: PLC0415 - optional
        ConfigurationError as FileError,
    )

    try:
        yield
    except FileError as error:
        raise ConfigurationError(f"{VARIABLE}: {error}") from error


class Declaration:
    """The content of the file.

    Attributes:
        is_disabled: Whether it switches the whole SDK off.
        options: The options that it has for flowspan, by the names of `Settings`.
    """

    def __init__(self, model: Any) -> None:
        """Hold an ``OpenTelemetryConfiguration``, without the part that activates flowspan."""
        self._model = model
        self.is_disabled = bool(model.disabled)
        instrumentations = getattr(model.instrumentation_development, "python", None) or {}
        self.options: dict[str, Any] = instrumentations.pop(_OWN_NAME, None) or {}

    def configure(self, signals: Collection[str]) -> None:
        """Set the declared providers of some signals globally, and do all else that it declares.

        Does nothing if it declares none of them: then opentelemetry-instrument has done it all.

        Raises:
            ConfigurationError: A part of the file needs a package that is not installed.
        """
        if not any(self._section(signal) for signal in signals):
            return
        from opentelemetry.configuration import configure_sdk  # noqa: PLC0415 - optional

        others = {section: None for signal, section in _SECTIONS.items() if signal not in signals}
        with _naming_the_variable():
            configure_sdk(dataclasses.replace(self._model, **others))

    def routes(self) -> list[SignalRoute]:
        """Return the routes of each declared signal, with the file's names of the exporters."""
        return [
            SignalRoute(signal, name, _destination(name, exporter))
            for signal in SIGNALS
            for name, exporter in _exporters(self._section(signal))
        ]

    @property
    def link_limit(self) -> int:
        """How many links of a span the declared provider keeps."""
        limits = getattr(self._section(SIGNALS[0]), "limits", None)
        declared = getattr(limits, "link_count_limit", None)
        return _DEFAULT_LINKS if declared is None else declared

    def _section(self, signal: str) -> Any:
        return getattr(self._model, _SECTIONS[signal])


def _exporters(section: Any) -> Iterator[tuple[str, Any]]:
    """Yield the exporters of a provider, by name, from all its processors or readers."""
    holders = getattr(section, "processors", None) or getattr(section, "readers", None) or ()
    for holder in holders:
        for _, pipeline in _parts(holder):
            yield from _parts(getattr(pipeline, "exporter", None))


def _parts(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a node that the file has, known and unknown ones."""
    if dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            if (part := getattr(node, field.name)) is not None:
                yield field.name, part
        yield from getattr(node, "additional_properties", {}).items()


def _destination(name: str, exporter: Any) -> str:
    for field in ("endpoint", "output_stream"):
        if place := getattr(exporter, field, None):
            return _without_credentials(place)
    return name
