"""A flow without flowspan; opentelemetry-instrument adds it."""

from prefect import flow, task


@task
def extract() -> list[int]:
    return [1, 2, 3]


@flow
def etl() -> int:
    return len(extract())


if __name__ == "__main__":
    etl()
