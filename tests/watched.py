"""Run ``flowspan watch`` in a process of its own, and compare what is there with the API."""

import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from processes import environment, run_command
from reconcile import reconcile
from support import embedded_spans
from written import doubled

WATCH = (sys.executable, "-c", "from flowspan.cli.main import main; main()", "watch")


def watch_environment(folder: Path, *, grace: float = 8, **variables: str) -> dict[str, str]:
    """Return the variables of an observer which writes to `folder`, as the processes do."""
    own = {"FLOWSPAN_WATCH_GRACE": str(grace), "FLOWSPAN_WATCH_DIR": str(folder / "watch")}
    return environment(folder, **own, **variables)


def watch_once(folder: Path, *, grace: float = 8, since: str = "1h", **variables: str) -> str:
    """Settle what has ended so far; return what was logged."""
    env = watch_environment(folder, grace=grace, **variables)
    done = run_command(*WATCH, "--once", "--since", since, env=env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def differences(folder: Path, runs: Sequence[UUID | str]) -> list[str]:
    """Return how the spans of these flow runs, and those below them, differ from the API."""
    return [*doubled(folder), *reconcile(embedded_spans(folder).all, *runs)]
