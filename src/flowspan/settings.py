"""``FLOWSPAN_*`` settings: arguments override the environment, which overrides defaults.

They are parsed once. Objectives may also come from a file (see `flowspan.objectives.file`).
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

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

from flowspan import places
from flowspan.objectives import file
from flowspan.objectives.promises import FlowOrTag, Objectives

if TYPE_CHECKING:
    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails, InitErrorDetails
    from typing_extensions import Self

_VARIABLE: Final = "FLOWSPAN_SLO"
_PYTEST: Final = "PYTEST_VERSION"  # pytest 8.2 and newer set it for all of a session
_OF_COMMANDS: Final = (
    "FLOWSPAN_JAEGER_HEADERS",
    "FLOWSPAN_VICTORIALOGS_HEADERS",
    "FLOWSPAN_WATCH_JAEGER",
)
"""Variables that are no setting of what records: a command reads them by itself."""


def _read_json(value: Any) -> Any:
    """Decode a variable's JSON; pydantic-settings itself would fail without naming a reason."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise PydanticCustomError(
            "json", "Input should be JSON: {reason}", {"reason": str(error)}
        ) from None


def _read_level(value: Any) -> Any:
    """Turn a level's name into its number; `logging` knows the names, also those added later."""
    if not isinstance(value, str):
        return value
    level = logging.getLevelName(value.strip().upper())
    if not isinstance(level, int):
        raise PydanticCustomError(
            "level", "Input should be a level of logging, such as DEBUG, INFO, WARNING or ERROR"
        )
    return level


class Settings(BaseSettings):
    """Settings of flowspan, in addition to the standard ``OTEL_*`` variables.

    Each field is the environment variable ``FLOWSPAN_<FIELD NAME>``. Unknown arguments, unknown
    ``FLOWSPAN_*`` variables and values of the wrong type raise `pydantic.ValidationError`, which
    names the variable that has the value; an error in a file raises `ConfigurationError`.
    """

    model_config = SettingsConfigDict(env_prefix="FLOWSPAN_", frozen=True, extra="forbid")

    enabled: bool = True
    """Whether to patch Prefect at all."""

    capture_parameters: Literal["types", "values"] = "types"
    """Whether spans have the type names of parameters or their values, redacted and cut."""

    trace_url: str | None = None
    """URL of a trace in your backend, e.g. ``http://localhost:16686/trace/{trace_id}``."""

    join_traceparent: Literal["scripts", "all"] = "scripts"
    """Which top-level runs join the trace that ``TRACEPARENT`` names: those that the process itself
    calls, or also those that it runs for others, as a server or under a worker."""

    logs: bool = True
    """Whether log records are exported."""

    log_level: Annotated[NonNegativeInt, BeforeValidator(_read_level)] = logging.INFO
    """Lowest level of exported log records, by its name in `logging`: ``INFO``."""

    heartbeat: NonNegativeFloat = Field(default=10.0, allow_inf_nan=False)
    """Seconds between two log records about a run that has not ended; 0 for none at all."""

    flush_timeout: NonNegativeFloat = 5.0
    """Seconds that the end of a top-level flow run, of a task run from another process, and of the
    process may wait for export."""

    files: Literal["auto", "also", "never"] = "auto"
    """When the embedded files are written. ``auto``: if a signal has neither an endpoint nor an
    exporter. ``also``: beside its exporters, too. ``never``, which is the default under pytest if
    `dir` is not given. A signal whose exporter is ``none`` is not written."""

    dir: Path = Field(default_factory=places.to_write)
    """Folder of the embedded files, created when the first telemetry is written. By default
    ``.flowspan``, or ``flowspan`` in Prefect's home if the working directory is temporary."""

    hint: bool = True
    """Whether the first top-level flow run of a process logs the command that shows it, if spans go
    to the embedded files alone."""

    file_max_bytes: PositiveInt = 16 * 1024 * 1024
    """Size at which an embedded file is rotated."""

    file_max_count: PositiveInt = 8
    """Files kept for each signal, the one being written included."""

    acknowledge: bool = True
    """Whether a process tells Prefect in events which spans it has exported, for `flowspan watch`;
    only with a real API, never with an ephemeral server."""

    watch_grace: NonNegativeFloat = 60.0
    """Seconds after a run's end that `flowspan watch` gives the run's process to report."""

    watch_lost: NonNegativeFloat = 540.0
    """Seconds without a heartbeat after which `flowspan watch` takes a running flow run for lost:
    three times Prefect's own interval; 0 turns it off."""

    watch_dir: Path = Path(".flowspan-watch")
    """Folder of the state of `flowspan watch`, created if needed."""

    slo: Annotated[Mapping[FlowOrTag, Objectives], NoDecode, BeforeValidator(_read_json)] = Field(
        default_factory=dict
    )
    """Objectives by flow name or ``tag:NAME``, instead of the file's; JSON in the variable."""

    def url_of(self, trace_id: int) -> str | None:
        """Return `trace_url` with the trace id filled in, as 32 hexadecimal digits, or None."""
        return self.trace_url and self.trace_url.replace("{trace_id}", f"{trace_id:032x}")

    @model_validator(mode="before")
    @classmethod
    def _keep_tests_out(cls, values: Any) -> Any:
        """Keep runs of a project's tests, and of processes that they start, out of its files."""
        is_test = _PYTEST in os.environ and not {"files", "dir"} & {*values}
        return {**values, "files": "never"} if is_test else values

    @model_validator(mode="before")
    @classmethod
    def _know_every_variable(cls, values: Any) -> Any:
        """Refuse misspelt variables, which would otherwise be ignored."""
        prefix, known = cls.model_config["env_prefix"], known_variables()
        names = {name.upper() for name in os.environ if name.startswith(prefix)}
        if unknown := sorted(names - {*known}):
            spelt = ", ".join(name.removeprefix(prefix).lower() for name in unknown)
            raise ValueError(f"no such setting: {spelt}; valid settings are {', '.join(known)}")
        return values

    @model_validator(mode="wrap")
    @classmethod
    def _name_variables(cls, values: Any, validate: "ModelWrapValidatorHandler[Self]") -> "Self":
        """Name the variable that has a bad value: pydantic names only the field."""
        try:
            return validate(values)
        except ValidationError as error:
            problems = [_with_variable(problem, values) for problem in error.errors()]
            raise ValidationError.from_exception_data(error.title, problems) from None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the file as the last source, after arguments and variables."""
        sources = super().settings_customise_sources(settings_cls, *args, **kwargs)
        return (*sources, _FileSource(settings_cls))


_TYPES: Final[dict[str, Any]] = {
    name: field.annotation for name, field in Settings.model_fields.items()
}
Configuration: Final = dataclasses.make_dataclass(
    "Configuration", [(name, kind | None, None) for name, kind in _TYPES.items()]
)
"""The options below ``instrumentation/development: python: prefect:`` in the file that
``OTEL_CONFIG_FILE`` names: those of `Settings`, each of which may be missing."""


def _with_variable(problem: "ErrorDetails", values: Mapping[str, Any]) -> "InitErrorDetails":
    """Copy a problem with a setting; name the variable, if the value is from one."""
    message, (field, *_) = problem["msg"], (*problem["loc"], "")
    variable = _variable(str(field))
    if variable in os.environ and values.get(str(field)) == os.environ[variable]:
        message = f"{message} ({variable})"
    kind = PydanticCustomError(problem["type"], message)
    return {"type": kind, "loc": problem["loc"], "input": problem["input"]}


def _variable(field: str) -> str:
    return f"{Settings.model_config['env_prefix']}{field.upper()}"


def known_variables() -> list[str]:
    """Return the names of all ``FLOWSPAN_*`` variables that anything reads."""
    return [*map(_variable, Settings.model_fields), *_OF_COMMANDS]


def objectives_source() -> str | None:
    """Return the variable or the file from which ``Settings()`` takes objectives here.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    return _VARIABLE if _VARIABLE in os.environ else file.find_file()


class _FileSource(PydanticBaseSettingsSource):
    """The objectives of the nearest file, read only if no other source has any."""

    def __call__(self) -> dict[str, Any]:
        # A bad file must not keep users from turning flowspan off.
        if "slo" in self.current_state or _is_false(self.current_state.get("enabled", True)):
            return {}
        objectives = file.read_objectives()
        return {} if objectives is None else {"slo": objectives}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: `__call__` replaces the loop over the fields."""
        raise NotImplementedError


def _is_false(value: object) -> bool:
    try:
        return not TypeAdapter(bool).validate_python(value)
    except ValidationError:  # the model itself will raise it
        return False
