"""A subflow that consumes the result of another subflow."""

import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from watched import differences, settle


@flow
def first() -> int:
    return 1


@flow
def second(number: object) -> None:
    pass


@flow
def caller() -> str:
    second(first(return_state=True))
    return str(flow_run.id)


def test_a_subflow_is_linked_to_another(prefect_server: str, tmp_path: Path) -> None:
    """The link goes to the span of the subflow, which is that of no task run."""
    begun = time.monotonic()
    run = caller()
    settle(tmp_path, time.monotonic() - begun)
    assert differences(tmp_path, [run]) == []
