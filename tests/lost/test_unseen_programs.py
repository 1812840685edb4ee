"""Flows that nobody instrumented: what `flowspan watch` alone records is true to Prefect's API."""

from pathlib import Path

import pytest

from unseen import SEED, drawn, faults, run_all, this_second
from watched import watch_once


@pytest.mark.timeout(1500)
def test_random_programs(prefect_server: str, tmp_path: Path) -> None:
    """Each run has one span, with the states, parent, links and times that the API knows."""
    begun = this_second()
    runs = run_all(drawn(25, SEED))
    log = watch_once(tmp_path, since=begun)
    found = faults(tmp_path, runs)
    assert not found, "\n".join([f"WATCH_SEED={SEED}", *found, log])
