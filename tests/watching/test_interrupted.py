"""`flowspan watch` that is killed goes on where it was; tests/lost kills it more often."""

import random
from pathlib import Path

from interrupted import kill_watch
from unseen import drawn, faults, run_all
from watched import watch_once


def test_killed_as_it_records(prefect_server: str, tmp_path: Path) -> None:
    """Nothing is lost and nothing is doubled if it is killed as it notes and as it writes."""
    runs = run_all(drawn(2, seed=15))
    for moment in ("noting", "writing"):
        kill_watch(tmp_path, moment, random.Random(15))  # noqa: S311 - reproducible
    log = watch_once(tmp_path, grace=4)
    found = faults(tmp_path, runs, has_metrics=False)
    assert not found, "\n".join([*found, log])
