"""Where the embedded files are: in the project, or with Prefect's own files if that is temporary.

A process worker runs each flow in a temporary folder unless it is given another, pulls the code
into it, and deletes it with everything that the flow wrote there. A script that its user starts in
a temporary folder is not in that danger.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

FOLDER: Final = Path(".flowspan")
"""The folder in the working directory."""

_FOLDER_OF_HOME: Final = "flowspan"
_STARTED_BY_PREFECT: Final = "PREFECT__FLOW_RUN_ID"
"""The variable by which a worker, or the process that serves a flow, names the run to execute."""
_DEFAULT_HOME: Final = Path("~/.prefect")


@dataclass(frozen=True, slots=True)
class Folders:
    """Several folders that are read as if their files were in one; used like a `Path`."""

    paths: tuple[Path, ...]

    def __str__(self) -> str:
        first, *others = map(str, self.paths)
        return f"{first} (with {', '.join(others)})"

    def is_dir(self) -> bool:
        """Return whether any of them exists."""
        return any(map(_exists, self.paths))

    def glob(self, pattern: str) -> Iterator[Path]:
        """Yield the matching files of each."""
        return chain.from_iterable(path.glob(pattern) for path in self.paths)

    def iterdir(self) -> Iterator[Path]:
        """Yield the files of each."""
        return self.glob("*")


def create(folder: Path) -> None:
    """Create a folder that only the user can open and that git ignores; leave one that exists.

    Raises:
        OSError: It cannot be created.
    """
    try:
        folder.mkdir(0o700, parents=True)
    except FileExistsError:
        return  # another process was first, or the folder and its content are the user's
    (folder / ".gitignore").write_text("*\n")


def here_and_above() -> Iterator[Path]:
    """Yield the working directory and the folders above it; nothing if it has been removed."""
    try:
        here = Path.cwd()
    except OSError:
        return
    yield from (here, *here.parents)


def is_temporary() -> bool:
    """Return whether Prefect made the working directory for one flow run, or it has been removed.

    Prefect makes such folders where the system has its temporary files.
    """
    here = next(here_and_above(), None)
    if here is None or _STARTED_BY_PREFECT not in os.environ:
        return here is None
    import tempfile  # noqa: PLC0415 - slows every command

    return here.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())


def to_write() -> Path:
    """Return the folder that the embedded files go to unless a setting names another."""
    return lasting() if is_temporary() else FOLDER


def to_read() -> Path | Folders:
    """Return the folders that may have embedded files of this project, the project's first.

    The project's is in the working directory or the nearest folder above that has one. If neither
    that nor `lasting` exists, it is `FOLDER`.
    """
    found = tuple(filter(_exists, (_nearest(), lasting())))
    return Folders(found) if len(found) > 1 else next(iter(found), FOLDER)


def _nearest() -> Path:
    for level, folder in enumerate(here_and_above()):
        if _exists(folder / FOLDER):
            return folder / FOLDER if level else FOLDER
    return FOLDER


def _exists(folder: Path) -> bool:
    return os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir() raises if it may not look there


def lasting() -> Path:
    """Return the folder in Prefect's home directory."""
    return prefect_home() / _FOLDER_OF_HOME


def prefect_home() -> Path:
    """Return Prefect's home directory: from ``PREFECT_HOME``, or from the active profile.

    Prefect also reads ``.env``, ``prefect.toml`` and ``pyproject.toml`` of the working directory.
    These are not read here, since another working directory would have another home. Prefect
    itself is not asked because it takes seconds to import.
    """
    home = os.environ.get("PREFECT_HOME") or _home_in_profile()
    return (Path(home) if home else _DEFAULT_HOME).expanduser().absolute()


def _home_in_profile() -> str | None:
    """Return the home that the active profile sets; None if it sets none or cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - slows every command
    else:
        import tomli as tomllib  # noqa: PLC0415 - same reason

    path = os.environ.get("PREFECT_PROFILES_PATH") or _DEFAULT_HOME / "profiles.toml"
    try:
        content = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or content.get("active")
        home = content["profiles"][active]["PREFECT_HOME"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return home if isinstance(home, str) else None
