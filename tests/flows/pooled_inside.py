"""A flow in which only a task in a pool process calls flowspan."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner


@task(cache_policy=NO_CACHE)
def instruments() -> None:
    from flowspan import instrument

    instrument()


@task(cache_policy=NO_CACHE)
def later(number: int) -> int:
    return number


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def pooled_inside() -> None:
    instruments.submit().result()
    for number in (1, 2):
        later.submit(number).result()


if __name__ == "__main__":
    pooled_inside()
