"""Read objectives from ``flowspan.toml``, or from a table of ``pyproject.toml``.

From the working directory upward, the nearest folder that has one of them counts. In it,
``flowspan.toml`` takes precedence over the table ``tool.flowspan`` of ``pyproject.toml``.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from flowspan.errors import ConfigurationError
from flowspan.objectives.promises import FlowOrTag, Objectives, SuccessRate
from flowspan.places import here_and_above

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OWN_FILE: Final = "flowspan.toml"
_SHARED_FILE: Final = "pyproject.toml"


def read_objectives() -> dict[str, Objectives] | None:
    """Return the objectives by flow name or ``tag:NAME``; None if there is no such file.

    Raises:
        ConfigurationError: The file cannot be read, or its content is wrong.
    """
    found = _find_table()
    return None if found is None else _validate(found)


def find_file() -> str | None:
    """Return the name of the file that `read_objectives` would read, or None.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    found = _find_table()
    return found and found.file


class _Table(BaseModel):
    """The valid content of a file."""

    model_config = ConfigDict(extra="forbid")

    slo: dict[FlowOrTag, Objectives] = Field(default_factory=dict)


class _Found(NamedTuple):
    file: str
    """Its name if it is in the working directory, else its path."""

    keys: tuple[str, ...]
    """The keys that lead to the table."""

    table: Any


def _find_table() -> _Found | None:
    return next((found for folder in here_and_above() for found in _tables(folder)), None)


def _tables(folder: Path) -> Iterator[_Found]:
    own, shared = folder / _OWN_FILE, folder / _SHARED_FILE
    # Not Path.is_file(), which raises in a folder without search permission.
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
    """Yield flowspan's table; ignore a broken file unless it seems to have one."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    if b"flowspan" not in content:  # most files do not, and parsing takes milliseconds
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
    return tomllib.loads(content.decode("utf-8-sig"))  # Windows editors may write a BOM


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigurationError(f"{_shown(path)}: {reason}")


def _shown(path: Path) -> str:
    return path.name if path.parent == Path.cwd() else str(path)


# Error messages in terms of the file

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
    for part in problem["loc"]:  # it goes on even if the file has a number instead of a table
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
            return f"is unknown (valid keys: {known})"
        case "missing":
            return f"has no {place[-1]}"
        case "model_type" | "dict_type" if len(place) == 2:  # noqa: PLR2004 - slo, name
            return "must be a flow's name or tag:NAME, with a table of objectives"
        case "model_type" | "dict_type":
            return "must be a table"
    return problem["msg"].replace("Input should", "must", 1)


def _quoted(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
