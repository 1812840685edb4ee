"""The command ``flowspan``, as users run it."""

import os
import subprocess
import sys
from pathlib import Path


def flowspan(
    *arguments: str | Path, cwd: Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command in a folder, with its output piped."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("FLOWSPAN_")}
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        keep.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", "from flowspan.cli.main import main; main()", *map(str, arguments)],
        cwd=cwd,
        env=keep | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def embedded(folder: Path) -> Path:
    """Create the folder that flowspan's embedded default writes to; return its live file."""
    (folder / ".flowspan").mkdir()
    return folder / ".flowspan" / "traces.jsonl"
