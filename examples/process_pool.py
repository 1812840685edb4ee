"""Tasks in two processes: nothing to do but to call `instrument()`."""

from prefect import flow, task
from prefect.task_runners import ProcessPoolTaskRunner

from flowspan import instrument


@task
def count_primes(start: int) -> int:
    """Count the primes among the 5,000 numbers from `start`."""
    numbers = range(max(2, start), start + 5_000)
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)


@task
def add(counts: list[int]) -> int:
    """Add the counts of all processes."""
    return sum(counts)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def process_pool() -> int:
    """Count the primes below 20,000, four parts at once in two processes."""
    return add(count_primes.map([0, 5_000, 10_000, 15_000]).result())


if __name__ == "__main__":
    instrument()
    print(process_pool())
