"""Flows that nobody instrumented: what `flowspan watch` alone records is true to Prefect's API."""

from pathlib import Path

from unseen import drawn, faults, run_all, this_second
from watched import watch_once


def test_flows_of_others(prefect_server: str, tmp_path: Path) -> None:
    """Each run has one span, with the states, parent, links and times that the API knows.

    tests/lost has more of these flows, other ones each time.
    """
    begun = this_second()
    runs = run_all(drawn(5, seed=14))
    log = watch_once(tmp_path, grace=4, since=begun)
    found = faults(tmp_path, runs)
    assert not found, "\n".join([*found, log])
