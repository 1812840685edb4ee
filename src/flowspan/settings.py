"""``FLOWSPAN_*`` settings: argument before environment before default, parsed once."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What flowspan reads beside the standard ``OTEL_*`` variables.

    Each field is the environment variable ``FLOWSPAN_<FIELD NAME>``. Unknown arguments, unknown
    ``FLOWSPAN_*`` variables and values of the wrong type raise `pydantic.ValidationError`.
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
