"""The examples for Dask and Ray run on real clusters, and all of it is recorded."""

from pathlib import Path

from example_runs import check_primes


def test_dask_cluster(prefect_server: str, tmp_path: Path) -> None:
    """Task runs on the cluster's workers are below the flow."""
    check_primes("dask_cluster", tmp_path)


def test_ray_cluster(prefect_server: str, tmp_path: Path) -> None:
    """Task runs on the cluster's nodes are below the flow."""
    check_primes("ray_cluster", tmp_path)
