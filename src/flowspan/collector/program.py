"""Find a Collector on this machine and ask what it thinks of a configuration."""

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

NAMES: Final = ("otelcol-contrib", "flowspan-collector", "otelcol")
"""What the program is called: the contrib build, that of ``builder.yaml``, the small build."""

TIMEOUT: Final = 60.0
"""Seconds that it may take to validate."""


class UnusableError(Exception):
    """The program does not run here."""


def find(name: str | None = None) -> str | None:
    """Return the path of a program, or of the first Collector on PATH; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES if name is None else (name,))), None)


def validate(program: str, arguments: Sequence[str]) -> str | None:
    """Let a Collector check a configuration, without starting it.

    Args:
        program: Path of the Collector.
        arguments: What names the configuration. Variables are those of this process.

    Returns:
        Why it was rejected, or None.

    Raises:
        UnusableError: It could not be asked.
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
        raise UnusableError(f"{program} has not answered within {TIMEOUT:.0f} s.") from None
    if done.returncode == 0:
        return None
    said = done.stdout.decode(errors="replace").strip()
    return said or f"exit code {done.returncode}, and not a word"
