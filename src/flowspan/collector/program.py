"""Find a Collector on this machine and validate a configuration with it."""

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

NAMES: Final = ("otelcol-contrib", "flowspan-collector", "otelcol")
"""Names of the program: the contrib build, the build of ``builder.yaml``, the small build."""

TIMEOUT: Final = 60.0
"""Seconds that validation may take."""


class UnusableError(Exception):
    """The program does not run here."""


def find(name: str | None = None) -> str | None:
    """Return the path of a program, or of the first Collector on PATH; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES if name is None else (name,))), None)


def validate(program: str, arguments: Sequence[str]) -> str | None:
    """Validate a configuration with a Collector, without starting it.

    Args:
        program: Path of the Collector.
        arguments: The arguments that name the configuration. It reads this process's variables.

    Returns:
        The Collector's reason to reject it, or None.

    Raises:
        UnusableError: The Collector cannot be run.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the user's own program
            [program, "validate", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise UnusableError(f"{program} cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise UnusableError(f"{program} did not answer within {TIMEOUT:.0f} s.") from None
    if done.returncode == 0:
        return None
    said = done.stdout.decode(errors="replace").strip()
    return said or f"exit code {done.returncode}, without a message"
