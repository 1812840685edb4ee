"""The search for upstream runs among the inputs of a task run."""

import warnings
from typing import Any
from uuid import uuid4

from prefect import allow_failure
from prefect.futures import PrefectDistributedFuture, PrefectFlowRunFuture, PrefectTaskRunFuture

from flowspan._prefect.upstream import found_in


class Lazy:
    """A value that says when it is computed."""

    def _compute(self, *_: object) -> Any:
        raise AssertionError("computed")

    __class__ = property(_compute)  # as in Django's lazy objects


class LazyDict(dict[str, object]):
    values = Lazy._compute


class LazyList(list[object]):
    __iter__ = Lazy._compute


def test_search_computes_no_value() -> None:
    """It finds futures beside and inside values that would compute if they were asked."""
    futures = [PrefectDistributedFuture[Any](uuid4()) for _ in range(4)]
    given = {
        "a": [futures[0], Lazy()],
        "b": LazyDict(key=futures[1]),
        "c": LazyList([futures[2]]),
        "d": allow_failure(futures[3]),
        "e": PrefectFlowRunFuture(uuid4()),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {*found_in(given, PrefectTaskRunFuture)} == {*futures}
