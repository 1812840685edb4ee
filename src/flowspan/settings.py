"""``FLOWSPAN_*`` settings: argument before environment before default, parsed once.

Objectives may also stand in a file: ``flowspan.toml``, or the table ``tool.flowspan`` of a
``pyproject.toml``. The nearest folder that has one of them counts, from the working directory
upward, and in it ``flowspan.toml`` before ``pyproject.toml``.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from flowspan.objectives import FlowOrTag, Objectives, SuccessRate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OWN_FILE: Final = "flowspan.toml"
_SHARED_FILE: Final = "pyproject.toml"
_VARIABLE: Final = "FLOWSPAN_SLO"


class ConfigurationError(ValueError):
    """A setting, an ``OTEL_*`` variable or an objective asks for something that cannot be had."""


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

    flush_timeout: NonNegativeFloat = 5.0
    """Seconds that the end of a top-level run, and the end of the process, may wait for export."""

    dir: Path = Path(".flowspan")
    """Folder of the embedded files, made when the first span is written."""

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
        prefix = cls.model_config["env_prefix"]
        names = [
            name.removeprefix(prefix).lower() for name in os.environ if name.startswith(prefix)
        ]
        if unknown := sorted(set(names) - set(cls.model_fields)):
            known = ", ".join(f"{prefix}{name.upper()}" for name in cls.model_fields)
            raise ValueError(f"no such setting: {', '.join(unknown)}; there are {known}")
        return values

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let a file say last what no argument or variable did."""
        sources = super().settings_customise_sources(settings_cls, *args, **kwargs)
        return (*sources, _FileSource(settings_cls))


def objectives_source() -> str | None:
    """Name the variable, or else the file, that ``Settings()`` takes objectives from here.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    if _VARIABLE in os.environ:
        return _VARIABLE
    found = _find_table()
    return found and found.file


class _FileSource(PydanticBaseSettingsSource):
    """The objectives of the nearest file, looked for only if nothing else gave any."""

    def __call__(self) -> dict[str, Any]:
        if "slo" in self.current_state or (found := _find_table()) is None:
            return {}
        return {"slo": _validate(found)}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: `__call__` takes the place of the loop over the fields."""
        raise NotImplementedError


class _Table(BaseModel):
    """What a file may hold."""

    model_config = ConfigDict(extra="forbid")

    slo: dict[FlowOrTag, Objectives] = Field(default_factory=dict)


class _Found(NamedTuple):
    file: str
    """Its name if it lies in the working directory, else its path."""

    keys: tuple[str, ...]
    """Where in the file the table is."""

    table: Any


def _find_table() -> _Found | None:
    try:
        here = Path.cwd()
    except OSError:  # it may have been removed
        return None
    return next((found for folder in (here, *here.parents) for found in _tables(folder)), None)


def _tables(folder: Path) -> Iterator[_Found]:
    own, shared = folder / _OWN_FILE, folder / _SHARED_FILE
    # Not Path.is_file(), which raises in a folder that may not be searched.
    if os.path.isfile(own):  # noqa: PTH113
        yield _own_table(own)
    if os.path.isfile(shared):  # noqa: PTH113
        yield from _shared_tables(shared)


def _own_table(path: Path) -> _Found:
    try:
        return _Found(_shown(path), (), _parse(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _shared_tables(path: Path) -> Iterator[_Found]:
    """Yield flowspan's table; a broken file is for others to report unless it seems to have one."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    if b"flowspan" not in content:  # most have not, and parsing takes milliseconds
        return
    try:
        tool = _parse(content).get("tool")
    except ValueError as error:
        if b"tool.flowspan" in content:
            raise _unreadable(path, error) from error
        return
    if isinstance(tool, dict) and "flowspan" in tool:
        yield _Found(_shown(path), ("tool", "flowspan"), tool["flowspan"])


def _parse(content: bytes) -> dict[str, Any]:
    return tomllib.loads(content.decode("utf-8-sig"))  # Windows' editors like to put a mark first


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigurationError(f"{_shown(path)}: {reason}")


def _shown(path: Path) -> str:
    return path.name if path.parent == Path.cwd() else str(path)


# What is wrong in a file, said in its own terms

_MODEL_AT_DEPTH: Final[dict[int, type[BaseModel]]] = {1: _Table, 3: Objectives, 4: SuccessRate}
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def _validate(found: _Found) -> dict[str, Objectives]:
    try:
        return _Table.model_validate(found.table).slo
    except ValidationError as error:
        lines = [f"{found.file}: {_explain(problem, found)}" for problem in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error


def _explain(problem: ErrorDetails, found: _Found) -> str:
    keys, value = list(found.keys), found.table
    for part in problem["loc"]:  # which goes on where a number stands for a table
        if not isinstance(value, dict) or part not in value:
            break
        keys.append(str(part))
        value = value[part]
    reason = _reason(problem)
    if reason.startswith("must"):
        reason += f", not {json.dumps(value, default=str, ensure_ascii=False)}"
    return f"{'.'.join(map(_quoted, keys))}: {reason}"


def _reason(problem: ErrorDetails) -> str:
    place = problem["loc"]
    match problem["type"]:
        case "extra_forbidden":
            known = ", ".join(_MODEL_AT_DEPTH[len(place)].model_fields)
            return f"is unknown: there is only {known}"
        case "missing":
            return f"has no {place[-1]}"
        case "model_type" | "dict_type" if len(place) == 2:  # noqa: PLR2004 - slo, name
            return "must be a flow's name or tag:NAME, with a table of objectives"
        case "model_type" | "dict_type":
            return "must be a table"
    return problem["msg"].replace("Input should", "must", 1)


def _quoted(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
