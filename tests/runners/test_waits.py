"""The waits and links of one small flow on clusters, as under the thread and process pools."""

from pathlib import Path

import pytest

from waits import assert_waits


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_waits_are_the_same(prefect_server: str, tmp_path: Path, runner: str) -> None:
    """A wait for an upstream run, for a worker and for a retry is told apart, with links."""
    assert_waits(tmp_path, runner)
