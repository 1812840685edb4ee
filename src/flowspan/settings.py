"""``FLOWSPAN_*`` settings: argument before environment before default, parsed once.

Objectives may also stand in a file (see `flowspan.objectives.file`).
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from flowspan.objectives import file
from flowspan.objectives.promises import FlowOrTag, Objectives

_VARIABLE: Final = "FLOWSPAN_SLO"
_OF_COMMANDS: Final = ("FLOWSPAN_JAEGER_HEADERS",)
"""Variables that are no setting of what records: a command reads them by itself."""


def _read_json(value: Any) -> Any:
    """Decode what a variable holds; pydantic-settings itself would fail without naming a reason."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise PydanticCustomError(
            "json", "Input should be JSON: {reason}", {"reason": str(error)}
        ) from None


def _read_level(value: Any) -> Any:
    """Turn a level's name into its number, with the names that `logging` knows by now."""
    if not isinstance(value, str):
        return value
    level = logging.getLevelName(value.strip().upper())
    if not isinstance(level, int):
        raise PydanticCustomError(
            "level", "Input should be a level of logging, such as DEBUG, INFO, WARNING or ERROR"
        )
    return level


class Settings(BaseSettings):
    """What flowspan reads beside the standard ``OTEL_*`` variables.

    Each field is the environment variable ``FLOWSPAN_<FIELD NAME>``. Unknown arguments, unknown
    ``FLOWSPAN_*`` variables and values of the wrong type raise `pydantic.ValidationError`, and what
    is wrong in a file raises `ConfigurationError`.
    """

    model_config = SettingsConfigDict(env_prefix="FLOWSPAN_", frozen=True, extra="forbid")

    enabled: bool = True
    """False patches nothing."""

    capture_parameters: Literal["types", "values"] = "types"
    """Whether spans carry the type names of parameters or their values, redacted and cut."""

    trace_url: str | None = None
    """Where a trace can be seen, e.g. ``http://localhost:16686/trace/{trace_id}``."""

    logs: bool = True
    """Whether log records are exported."""

    log_level: Annotated[NonNegativeInt, BeforeValidator(_read_level)] = logging.INFO
    """The least level of what is exported, by its name in `logging`: ``INFO``."""

    flush_timeout: NonNegativeFloat = 5.0
    """Seconds that the end of a top-level run, and the end of the process, may wait for export."""

    dir: Path = Path(".flowspan")
    """Folder of the embedded files, made when the first telemetry is written."""

    file_max_bytes: PositiveInt = 16 * 1024 * 1024
    """Size at which an embedded file is rotated."""

    file_max_count: PositiveInt = 8
    """Files kept for each signal, the one being written included."""

    slo: Annotated[Mapping[FlowOrTag, Objectives], NoDecode, BeforeValidator(_read_json)] = Field(
        default_factory=dict
    )
    """Objectives by flow name or ``tag:NAME``; as a variable, in JSON. It replaces the file's."""

    def url_of(self, trace_id: int) -> str | None:
        """Fill a trace id, as 32 hexadecimal digits, into `trace_url`; None without one."""
        return self.trace_url and self.trace_url.replace("{trace_id}", f"{trace_id:032x}")

    @model_validator(mode="before")
    @classmethod
    def _know_every_variable(cls, values: Any) -> Any:
        """Refuse misspelt variables, which would otherwise be ignored."""
        prefix, known = cls.model_config["env_prefix"], known_variables()
        names = {name.upper() for name in os.environ if name.startswith(prefix)}
        if unknown := sorted(names - {*known}):
            spelt = ", ".join(name.removeprefix(prefix).lower() for name in unknown)
            raise ValueError(f"no such setting: {spelt}; there are {', '.join(known)}")
        return values

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let a file say last what no argument or variable did."""
        sources = super().settings_customise_sources(settings_cls, *args, **kwargs)
        return (*sources, _FileSource(settings_cls))


def known_variables() -> list[str]:
    """Return the names of all ``FLOWSPAN_*`` variables that anything reads."""
    prefix = Settings.model_config["env_prefix"]
    return [*(f"{prefix}{name.upper()}" for name in Settings.model_fields), *_OF_COMMANDS]


def objectives_source() -> str | None:
    """Name the variable, or else the file, that ``Settings()`` takes objectives from here.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    return _VARIABLE if _VARIABLE in os.environ else file.find_file()


class _FileSource(PydanticBaseSettingsSource):
    """The objectives of the nearest file, looked for only if nothing else gave any."""

    def __call__(self) -> dict[str, Any]:
        # A bad file must not come between users and the switch that turns flowspan off.
        if "slo" in self.current_state or _is_false(self.current_state.get("enabled", True)):
            return {}
        objectives = file.read_objectives()
        return {} if objectives is None else {"slo": objectives}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: `__call__` takes the place of the loop over the fields."""
        raise NotImplementedError


def _is_false(value: object) -> bool:
    try:
        return not TypeAdapter(bool).validate_python(value)
    except ValidationError:  # which the model itself will raise
        return False
