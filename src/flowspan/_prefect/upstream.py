"""Find the upstream runs of a task run, and tell other processes of them."""

from __future__ import annotations

from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from prefect.futures import PrefectTaskRunFuture

from flowspan._parcel import Note, Parcel
from flowspan._prefect.observer import contained
from flowspan._prefect.states import last_end
from flowspan.values import is_a

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from flowspan._prefect.observer import Inputs

_SEARCHED: Final = 1000
# The subclasses of a user may have methods that compute.
_ITEMS: Final[dict[type, Callable[[Any], Iterable[Any]]]] = {
    dict: dict.values,
    list: list.__iter__,
    tuple: tuple.__iter__,  # such as the annotation allow_failure()
    set: set.__iter__,
}


def names_by_run_id(inputs: Inputs, subflows: Mapping[str, str]) -> dict[str, list[str]]:
    """Map each upstream run to its input names, from Prefect's upstream runs by input name.

    A task run that stands for a subflow is replaced by the subflow.
    """
    names: dict[str, list[str]] = {}
    for name, upstreams in inputs.items():
        if name != "__parents__":
            for upstream in upstreams:
                if (run_id := getattr(upstream, "id", None)) is not None:
                    upstream_id = subflows.get(str(run_id), str(run_id))
                    names.setdefault(upstream_id, []).append(name)
    return names


def found_in(value: object, kind: type) -> Iterator[Any]:
    """Yield what is of `kind` among the first thousand items of `value`, at any depth."""
    pending = [value]
    for _ in range(_SEARCHED):
        if not pending:
            return
        item = pending.pop()
        if is_a(item, kind):
            yield item
            continue
        for container, items in _ITEMS.items():
            if is_a(item, container):
                pending.extend(islice(items(item), _SEARCHED))


def with_note(
    context: Mapping[str, Any], run_id: object, parameters: Mapping[str, Any], wait_for: object
) -> Mapping[str, Any]:
    """Return the serialized context of a task run with a note about its upstream runs.

    Their futures must have ended when the context is pickled.
    """
    parcel = context["tags_context"].get("flowspan")
    if not isinstance(parcel, Parcel):
        return context
    inputs = {
        name: list(found_in(value, PrefectTaskRunFuture))
        for name, value in {**parameters, "wait_for": wait_for}.items()
    }
    upstream = {
        name: [str(one.task_run_id) for one in ones] for name, ones in inputs.items() if ones
    }
    futures = [one for ones in inputs.values() for one in ones]

    def write() -> str:
        ended = 0
        with contained:
            ended = last_end(one.state for one in futures)
        return Note(None, upstream, ended, str(run_id)).as_text()

    tags = {**context["tags_context"], "flowspan": Parcel(parcel, write)}
    return {**context, "tags_context": tags}


def submitted_now(parcel: Parcel) -> Parcel:
    """Return the parcel for a task run that is submitted now."""
    return Parcel(parcel, Note(time_ns()).as_text())
