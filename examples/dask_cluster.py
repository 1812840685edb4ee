"""Tasks on a Dask cluster of two processes: `pip install flowspan prefect-dask`.

For a cluster that runs already, pass `DaskTaskRunner(address="tcp://scheduler:8786")`, and install
flowspan on its workers.
"""

from prefect import flow, task
from prefect_dask import DaskTaskRunner

from flowspan import instrument


@task
def count_primes(start: int) -> int:
    """Count the primes among the 5,000 numbers from `start`."""
    numbers = range(max(2, start), start + 5_000)
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)


@task
def add(counts: list[int]) -> int:
    """Add the counts of all workers."""
    return sum(counts)


@flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1}))
def dask_cluster() -> int:
    """Count the primes below 20,000, four parts at once on two workers."""
    return add(count_primes.map([0, 5_000, 10_000, 15_000]).result())


if __name__ == "__main__":
    instrument()
    print(dask_cluster())
