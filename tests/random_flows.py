"""Random flows with Prefect's features, as data that Hypothesis can shrink, and their runner.

As a script, it runs some on Dask or Ray, whose workers cannot import this file.
"""

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prefect import Flow, Task, allow_failure, flow, task
from prefect.cache_policies import INPUTS
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.transactions import transaction

BEHAVIOURS = [
    "succeed",
    "fail",
    "recover",
    "recover_after_delay",
    "exhaust_retries",
    "time_out",
    "hit_cache",
    "crash",
    "return_failed",
    "return_failed_and_retry",
    "return_cancelled",
    "generate",
    "generate_and_stop",
    "generate_slowly",
    "nest",
    "nest_and_fail",
    "call_subflow",
    "roll_back",
    "outlive_transaction",
]
ENDINGS = ["return", "raise", "recover", "return_failed", "return_cancelled", "crash"]


class Outage(BaseException):
    """An exception that is not an `Exception`, like KeyboardInterrupt."""


@dataclass(frozen=True)
class Step:
    """One step of a flow: the kind of run, how it is called, and what it consumes."""

    behaviour: str
    is_async: bool
    called: str
    upstream: tuple[int, ...]
    passed: str
    has_extras: bool
    """A tag without a limit, and hooks."""


@dataclass(frozen=True)
class Program:
    """A flow: its steps in order, each consuming some earlier ones, and how it ends."""

    steps: tuple[Step, ...]
    ending: str
    is_async: bool
    workers: int


def _programs(
    called: Sequence[str], behaviours: Sequence[str] = BEHAVIOURS
) -> st.SearchStrategy[Program]:
    steps = st.builds(
        Step,
        behaviour=st.sampled_from(behaviours),
        is_async=st.booleans(),
        called=st.sampled_from(called),
        upstream=st.lists(st.integers(0, 20), max_size=3).map(tuple),
        passed=st.sampled_from(["plain", "nested", "wait_for", "allow_failure"]),
        has_extras=st.booleans(),
    )
    return st.builds(
        Program,
        steps=st.lists(steps, min_size=1, max_size=7).map(tuple),
        ending=st.sampled_from(ENDINGS),
        is_async=st.booleans(),
        # Enough threads for all steps: one that waits in the pool for another would hang.
        workers=st.sampled_from([8, 32]),
    )


programs = _programs(["directly", "submitted", "mapped", "for_state"])


def examples(number: int, without: str = "") -> list[Program]:
    """Return programs that submit most of their tasks, the same ones each time."""
    found: list[Program] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        program=_programs(
            ["directly", "submitted", "submitted", "mapped"],
            [behaviour for behaviour in BEHAVIOURS if behaviour != without],
        )
    )
    def collect(program: Program) -> None:
        found.append(program)

    collect()
    return found


def run(program: Program) -> None:
    """Run `program` as a flow called main; expected failures are caught."""
    call(build(program, name="main"))


def call(runnable: Flow[Any, Any]) -> None:
    """Run a flow; expected failures are caught."""
    with contextlib.suppress(Exception, Outage):
        outcome = runnable()
        if asyncio.iscoroutine(outcome):
            asyncio.run(_await(outcome))


def build(
    program: Program,
    *,
    name: str,
    task_runner: Any = None,
    first: Callable[[], None] = lambda: None,
) -> Flow[Any, Any]:
    """Return `program` as a flow that calls `first` in its first line; by default with threads."""
    ends: list[str] = []
    options: dict[str, Any] = {
        "name": name,
        "task_runner": task_runner or ThreadPoolTaskRunner(max_workers=program.workers),
        "retries": 1 if program.ending == "recover" else 0,
    }
    if program.is_async:

        @flow(**options)
        async def async_main() -> Any:
            first()
            body = _Body()
            for number, step in enumerate(program.steps):
                outcome = body.begin(number, step)
                if asyncio.iscoroutine(outcome):
                    with contextlib.suppress(Exception):
                        body.outcomes[number] = await outcome
            body.wait()
            return _end(program.ending, ends)

        return async_main

    @flow(**options)
    def main() -> Any:
        first()
        body = _Body()
        for number, step in enumerate(program.steps):
            outcome = body.begin(number, step)
            if asyncio.iscoroutine(outcome):
                with contextlib.suppress(Exception):
                    body.outcomes[number] = asyncio.run(_await(outcome))
        body.wait()
        return _end(program.ending, ends)

    return main


def _end(ending: str, ends: list[str]) -> Any:
    """End a flow; `ends` has how its earlier attempts ended."""
    ends.append(ending)
    if ending == "raise" or (ending == "recover" and len(ends) == 1):
        raise ConnectionError(ending)
    if ending == "crash":
        raise Outage(ending)
    if ending.startswith("return_"):
        make_state = Failed if ending == "return_failed" else Cancelled
        return make_state(message="returned")
    return None


async def _await(awaitable: Any) -> Any:
    return await awaitable


class _Body:
    def __init__(self) -> None:
        self.outcomes: dict[int, Any] = {}
        self.futures: list[Any] = []

    def begin(self, number: int, step: Step) -> Any:
        """Run one step; return its coroutine if it must be awaited."""
        inputs = [
            self.outcomes[index % number]
            for index in step.upstream
            if number and index % number in self.outcomes
        ]
        wait_for = [item for item in inputs if hasattr(item, "wait")]
        argument: Any
        if step.passed == "wait_for":
            argument, options = None, {"wait_for": wait_for}
        else:
            options = {}
            if step.passed == "allow_failure":
                argument = [allow_failure(item) for item in inputs]
            else:
                argument = {"deep": inputs} if step.passed == "nested" else inputs
        with contextlib.suppress(Exception):
            return self._call(number, step, _runnable(step), argument, options)
        return None

    def _call(self, number: int, step: Step, runnable: Any, argument: Any, options: Any) -> Any:
        if isinstance(runnable, Flow):
            outcome = runnable(argument, return_state=step.called == "for_state", **options)
        elif step.behaviour.startswith("generate"):
            outcome = (_consume_async if step.is_async else _consume)(runnable, argument, step)
        elif step.behaviour == "outlive_transaction":
            with transaction():
                outcome = runnable.submit(argument, **options)
            self.futures.append(outcome)
        elif step.behaviour == "roll_back":
            with transaction():
                if step.is_async:
                    # Its coroutine would leave the transaction before it is awaited.
                    runnable.submit(argument, **options).wait()
                else:
                    runnable(argument, **options)
                raise RuntimeError("roll back")
        elif step.called == "submitted":
            outcome = runnable.submit(argument, **options)
            self.futures.append(outcome)
        elif step.called == "mapped":
            futures = runnable.map([argument, argument], **options)
            self.futures.extend(futures)
            outcome = list(futures)
        else:
            outcome = runnable(argument, return_state=step.called == "for_state", **options)
        if asyncio.iscoroutine(outcome):
            return outcome
        self.outcomes[number] = outcome
        return None

    def wait(self) -> None:
        for future in self.futures:
            with contextlib.suppress(Exception, Outage):
                future.wait()


def _consume(runnable: Any, argument: Any, step: Step) -> Any:
    items = runnable(argument)
    first = next(items)
    if step.behaviour == "generate_and_stop":
        items.close()
        return first
    time.sleep(0.05 if step.behaviour == "generate_slowly" else 0)
    return [first, *items]


async def _consume_async(runnable: Any, argument: Any, step: Step) -> Any:
    items = runnable(argument)
    first = await items.__anext__()
    if step.behaviour == "generate_and_stop":
        await items.aclose()
        return first
    await asyncio.sleep(0.05 if step.behaviour == "generate_slowly" else 0)
    return [first] + [item async for item in items]


def _note(*_: Any) -> None:
    """Handle a state, as a hook."""


def _runnable(step: Step) -> Flow[Any, Any] | Task[Any, Any]:  # noqa: C901 - one branch a behaviour
    """Return the task or flow of a step; its result can be tracked."""
    behaviour = step.behaviour
    attempts: dict[str, int] = {}
    by_behaviour: dict[str, dict[str, Any]] = {
        "recover": {"retries": 1},
        "recover_after_delay": {
            "retries": 2,
            "retry_delay_seconds": 0.05,
            "retry_jitter_factor": 0.5,
        },
        "exhaust_retries": {"retries": 1},
        "return_failed_and_retry": {"retries": 1},
        "time_out": {"timeout_seconds": 0.05},
        "hit_cache": {"cache_policy": INPUTS, "persist_result": True},
    }
    options = by_behaviour.get(behaviour, {})
    if step.has_extras:
        options |= {"tags": ["loose"], "on_completion": [_note], "on_failure": [_note]}

    @task
    def inner(x: Any) -> list[int]:
        return [1000]

    def act(x: Any) -> Any:
        from prefect.context import TaskRunContext

        context = TaskRunContext.get()
        run_id = str(context.task_run.id) if context else "flow"
        attempts[run_id] = attempts.get(run_id, 0) + 1
        if behaviour in {"fail", "exhaust_retries"}:
            raise ValueError(behaviour)
        if behaviour.startswith("recover") and attempts[run_id] == 1:
            raise ConnectionError(behaviour)
        if behaviour == "crash":
            raise Outage(behaviour)
        if behaviour.startswith("return_"):
            make_state = Cancelled if behaviour == "return_cancelled" else Failed
            return make_state(message="returned")
        if behaviour == "nest":
            return inner(x)
        if behaviour == "nest_and_fail":
            inner(x)
            raise ValueError(behaviour)
        return [2000]

    if behaviour == "hit_cache":
        # If two mapped runs have equal inputs, the second may find the first one's result.
        key = str(uuid.uuid4())
        options["cache_key_fn"] = lambda *_: key
        del options["cache_policy"]
    if behaviour == "call_subflow":
        if step.is_async:

            @flow
            async def async_subflow(x: Any) -> list[int]:
                return inner(x)

            return async_subflow

        @flow
        def subflow(x: Any) -> list[int]:
            return inner(x)

        return subflow
    if behaviour.startswith("generate"):
        if step.is_async:

            @task
            async def async_generator_step(x: Any) -> Any:
                for number in range(3):
                    await asyncio.sleep(0)
                    yield [number]

            return async_generator_step

        @task
        def generator_step(x: Any) -> Any:
            for number in range(3):
                yield [number]

        return generator_step
    if step.is_async:

        @task(**options)
        async def async_step(x: Any) -> Any:
            await asyncio.sleep(5 if behaviour == "time_out" else 0)
            return act(x)

        return async_step

    @task(**options)
    def sync_step(x: Any) -> Any:
        if behaviour in {"time_out", "outlive_transaction"}:
            for _ in range(20):
                time.sleep(0.01)
        return act(x)

    return sync_step


def _instrument() -> None:
    from flowspan import instrument

    instrument()


def _on_dask(address: str) -> Any:
    from prefect_dask import DaskTaskRunner

    return DaskTaskRunner(address=address)


def _on_ray(address: str) -> Any:
    import ray
    from prefect_ray import RayTaskRunner

    # The runner would start it for each flow.
    if not ray.is_initialized():
        ray.init(address, num_cpus=2, include_dashboard=False)
    return RayTaskRunner()


def _run_all(kind: str, address: str, place: str, share: str) -> None:
    """Run examples as flows called KIND-PLACE, with instrument() in `main` or `inside` the flow."""
    name, (begin, end) = f"{kind}-{place}", map(int, share.split(":"))
    if place == "main":
        _instrument()
    first = _instrument if place == "inside" else (lambda: None)
    # An exception that is no Exception ends the event loop of Dask's client, which waits for ever.
    for program in examples(end, without="crash" if kind == "dask" else "")[begin:]:
        print(program, flush=True)
        runner = {"dask": _on_dask, "ray": _on_ray}[kind](address)
        call(build(program, name=name, task_runner=runner, first=first))


if __name__ == "__main__":
    _run_all(*sys.argv[1:])
