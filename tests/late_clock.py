"""Shift the clock of a process."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest


def shifted_clock(nanoseconds: int) -> dict[str, str]:
    """Return the variables of a process whose clock is so far ahead."""
    return {"LD_PRELOAD": str(_late_clock()), "CLOCK_SHIFT_NS": str(nanoseconds)}


@cache
def _late_clock() -> Path:
    """Compile the library that shifts a process's clock."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("a wrong clock needs a C compiler")
    library = Path(tempfile.mkdtemp(prefix="flowspan-clock-"), "late_clock.so")
    source = Path(__file__).with_name("late_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library
