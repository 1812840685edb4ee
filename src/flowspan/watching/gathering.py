"""Gather from Prefect's API, in few requests, what `flowspan.watching.facts` describes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from flowspan.watching.api import Object, as_text, nanoseconds
from flowspan.watching.facts import (
    LATE_AFTER,
    Deployment,
    Facts,
    Limit,
    Pool,
    Queue,
    Run,
    State,
    Worker,
)
from flowspan.watching.history import task_name
from flowspan.watching.names import NameCache
from flowspan.watching.schedules import next_due

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowspan.watching.api import Api

_ACTIVE: Final = ("PENDING", "RUNNING", "CANCELLING")


class Gatherer:
    """Ask an API about runs."""

    def __init__(self, api: Api, names: NameCache | None = None) -> None:
        """Ask `api`, which is open; names that are in a cache are not asked for again."""
        self._api = api
        self._names = NameCache(api) if names is None else names

    # Runs

    async def flow_runs(self, **wanted: object) -> list[Run]:
        """Return the flow runs that a filter selects, such as ``state={"type": {"any_": [...]}}``.

        Raises:
            ApiError: The API gives no usable answer.
        """
        found = await self._api.all("/flow_runs/filter", {"flow_runs": wanted, "sort": "ID_DESC"})
        return await self.as_runs(found)

    async def held(self) -> list[Run]:
        """Return the flow runs that are late or pending, those with the earliest time first.

        Raises:
            ApiError: The API gives no usable answer.
        """
        late = await self.late()
        pending = await self.flow_runs(state=_of_type("PENDING"))
        return late + sorted(pending, key=lambda run: run.state.time)

    async def late(self) -> list[Run]:
        """Return the flow runs that are late.

        Raises:
            ApiError: The API gives no usable answer.
        """
        before = as_text(self._api.now - LATE_AFTER)
        found = await self.flow_runs(
            state=_of_type("SCHEDULED"), expected_start_time={"before_": before}
        )
        late = [run for run in found if run.is_late(self._api.now)]
        return sorted(late, key=lambda run: run.due or 0)

    async def as_runs(self, objects: Sequence[Object]) -> list[Run]:
        """Turn flow runs of the API into runs, with the names of their flows.

        Raises:
            ApiError: The API gives no usable answer.
        """
        flows = await self._names.flows(each["flow_id"] for each in objects)
        return [flow_run(each, flows) for each in objects]

    async def task_runs(self, ids: Collection[str]) -> list[Run]:
        """Return the task runs with these ids that the API knows.

        Raises:
            ApiError: The API gives no usable answer.
        """
        if not ids:
            return []
        found = await self._api.all_of("/task_runs/filter", "task_runs", "id", ids)
        return [task_run(each) for each in found]

    # What they wait for

    async def facts(self, runs: Sequence[Run]) -> Facts:
        """Return all that can be a reason why these runs do not run.

        Raises:
            ApiError: The API gives no usable answer.
        """
        runs = await self._with_upstream(runs)
        deployments = await self.deployments({run.deployment_id for run in runs} - {None})
        names = {run.pool for run in runs} | {each.pool for each in deployments}
        pools = await self.pools(sorted(name for name in names if name is not None))
        known = {run.id: run for run in [*await self._active(pools, deployments), *runs]}
        has_tags = any(run.tags for run in runs if run.type == "task")
        limits = await self._limits_of_tags() if has_tags else []
        for run in await self.task_runs(_unknown(runs, limits, known)):
            known[run.id] = run
        callers = {run.flow_run_id for run in runs if run.flow_run_id} - {*known}
        if callers:
            known |= {run.id: run for run in await self.flow_runs(id={"any_": sorted(callers)})}
        return Facts(
            now=self._api.now,
            runs=known,
            deployments={each.id: each for each in deployments},
            pools={each.name: each for each in pools},
            queues={each.id: each for each in await self.queues()} if pools else {},
            limits={each.name: each for each in limits},
            task_workers=await self._task_workers(runs),
        )

    async def everything(self) -> Facts:
        """Return all that can be a reason for any flow run that does not run now.

        It takes one request for each work pool, and a dozen more; more if there are many objects.

        Raises:
            ApiError: The API gives no usable answer.
        """
        active = await self.flow_runs(state=_of_type(*_ACTIVE))
        runs = await self._with_upstream([*await self.late(), *active])
        upstream = {each for run in runs for each in run.upstream}
        deployments = await self.all_deployments()
        unplanned = await self.unplanned(deployments)
        return Facts(
            now=self._api.now,
            runs={run.id: run for run in [*runs, *await self.task_runs(upstream)]},
            deployments={each.id: each for each in [*deployments, *unplanned]},
            pools={each.name: each for each in await self.pools()},
            queues={each.id: each for each in await self.queues()},
            limits={each.name: each for each in await self._limits()},
        )

    async def deployments(self, ids: Collection[Any]) -> list[Deployment]:
        """Return deployments by id.

        Raises:
            ApiError: The API gives no usable answer.
        """
        if not ids:
            return []
        found = await self._api.all_of("/deployments/filter", "deployments", "id", ids)
        return await self.as_deployments(found)

    async def all_deployments(self) -> list[Deployment]:
        """Return all deployments.

        Raises:
            ApiError: The API gives no usable answer.
        """
        return await self.as_deployments(await self._api.all("/deployments/filter", {}))

    async def as_deployments(self, objects: Sequence[Object]) -> list[Deployment]:
        """Turn deployments of the API into ours, with the names of their flows.

        Raises:
            ApiError: The API gives no usable answer.
        """
        flows = await self._names.flows(each["flow_id"] for each in objects)
        return [deployment(each, flows) for each in objects]

    async def with_plan(self, deployment: Deployment) -> Deployment:
        """Add when the next run of a deployment is planned, and when it should be.

        Raises:
            ApiError: The API gives no usable answer.
        """
        body = {
            "deployments": {"id": {"any_": [deployment.id]}},
            "flow_runs": self._planned(),
            "sort": "NEXT_SCHEDULED_START_TIME_ASC",
            "limit": 1,
        }
        planned = [
            _moment(each["expected_start_time"])
            for each in await self._api.post("/flow_runs/filter", body)
        ]
        due = await next_due(deployment.schedules, self._api.now)
        return replace(deployment, next_planned=planned[0] if planned else None, next_due=due)

    async def unplanned(self, deployments: Sequence[Deployment]) -> list[Deployment]:
        """Return the deployments that have a schedule but no planned run, with their next times.

        Raises:
            ApiError: The API gives no usable answer.
        """
        found = await self._api.all("/deployments/filter", {"flow_runs": self._planned()})
        planned = {each["id"] for each in found}
        return [
            replace(each, next_due=await next_due(each.schedules, self._api.now))
            for each in deployments
            if each.schedules and each.id not in planned
        ]

    def _planned(self) -> Object:
        after = as_text(self._api.now)
        return {"state": _of_type("SCHEDULED"), "expected_start_time": {"after_": after}}

    async def pools(self, names: Sequence[str] | None = None) -> list[Pool]:
        """Return work pools by name, or all of them, with their workers: one request each.

        Raises:
            ApiError: The API gives no usable answer.
        """
        if names is None:
            found = await self._api.all("/work_pools/filter", {})
        elif names:
            found = await self._api.all_of("/work_pools/filter", "work_pools", "name", names)
        else:
            found = []
        return [await self._with_workers(work_pool(each)) for each in found]

    async def _with_workers(self, pool: Pool) -> Pool:
        if not pool.needs_workers:
            return pool
        path = f"/work_pools/{quote(pool.name, safe='')}/workers/filter"
        found = await self._api.all(path, {})
        return replace(pool, workers=tuple(worker(each) for each in found))

    async def queues(self) -> list[Queue]:
        """Return all work queues.

        Raises:
            ApiError: The API gives no usable answer.
        """
        return [work_queue(each) for each in await self._api.all("/work_queues/filter", {})]

    async def _limits(self) -> list[Limit]:
        """Return all limits; newer servers have those of tags twice."""
        found = await self._api.all("/v2/concurrency_limits/filter", {})
        return [*await self._limits_of_tags(), *(limit(each) for each in found)]

    async def _limits_of_tags(self) -> list[Limit]:
        # Only the older API says which runs hold the slots of a tag.
        found = await self._api.all("/concurrency_limits/filter", {})
        return [limit_of_tag(each) for each in found]

    async def _active(self, pools: Sequence[Pool], deployments: Sequence[Deployment]) -> list[Run]:
        """Return the runs that take slots of these pools, or of deployments without one."""
        state = {"state": _of_type(*_ACTIVE)}
        found = []
        if pools:
            found = await self._api.all_of(
                "/flow_runs/filter",
                "work_pools",
                "name",
                [pool.name for pool in pools],
                flow_runs=state,
            )
        served = [each.id for each in deployments if each.pool is None]
        if served:
            found += await self._api.all_of(
                "/flow_runs/filter", "deployments", "id", served, flow_runs=state
            )
        return await self.as_runs(found)

    async def _with_upstream(self, runs: Sequence[Run]) -> list[Run]:
        """Give the flow runs that a flow called the upstream runs of their call."""
        tracking = {run.tracking_id for run in runs if run.tracking_id and not run.started}
        calls = {call.id: call for call in await self.task_runs(tracking)}
        return [
            replace(run, upstream=calls[run.tracking_id].upstream)
            if run.tracking_id in calls
            else run
            for run in runs
        ]

    async def _task_workers(self, runs: Sequence[Run]) -> dict[str, int]:
        keys = sorted({run.of for run in runs if run.type == "task" and run.flow_run_id is None})
        if not keys:
            return {}
        body = {"task_worker_filter": {"task_keys": keys}}
        found = await self._api.post("/task_workers/filter", body)
        return {key: sum(key in each["task_keys"] for each in found) for key in keys}


def _unknown(
    runs: Sequence[Run], limits: Sequence[Limit], known: Mapping[str, Run]
) -> Collection[str]:
    """Return the ids of the task runs to ask for: upstream ones, and holders of the runs' tags."""
    upstream = {each for run in runs for each in run.upstream}
    tags = {f"tag:{tag}" for run in runs for tag in run.tags}
    holders = {each for limit in limits if limit.name in tags for each in limit.holders}
    return (upstream | holders) - {*known}


def _of_type(*types: str) -> Object:
    return {"type": {"any_": list(types)}}


# The API's objects as facts. A field that an older or newer server lacks has a default.


def flow_run(each: Object, flows: Mapping[str, str]) -> Run:
    """Turn a flow run of the API into a run."""
    policy = each.get("empirical_policy") or {}
    return Run(
        id=each["id"],
        name=each["name"],
        type="flow",
        of=flows.get(each["flow_id"], each["flow_id"]),
        state=state(each),
        tags=tuple(each.get("tags") or ()),
        created=nanoseconds(each["created"]),
        expected=_moment(each.get("expected_start_time")),
        started=_moment(each.get("start_time")),
        ended=_moment(each.get("end_time")),
        count=each.get("run_count") or 0,
        is_scheduled_by_server=bool(each.get("auto_scheduled")),
        retries_in_process=policy.get("retry_type") == "in_process",
        deployment_id=each.get("deployment_id"),
        pool=each.get("work_pool_name"),
        queue_id=each.get("work_queue_id"),
        infrastructure=each.get("infrastructure_pid"),
        tracking_id=each.get("parent_task_run_id"),
    )


def task_run(each: Object) -> Run:
    """Turn a task run of the API into a run."""
    inputs = (each.get("task_inputs") or {}).values()
    upstream = [
        given["id"] for many in inputs for given in many if given.get("input_type") == "task_run"
    ]
    return Run(
        id=each["id"],
        name=each["name"],
        type="task",
        of=task_name(each, each["name"]),
        state=state(each),
        tags=tuple(each.get("tags") or ()),
        created=nanoseconds(each["created"]),
        expected=_moment(each.get("expected_start_time")),
        started=_moment(each.get("start_time")),
        ended=_moment(each.get("end_time")),
        count=each.get("run_count") or 0,
        key=each["task_key"],
        flow_run_id=each.get("flow_run_id"),
        upstream=tuple(dict.fromkeys(upstream)),
    )


def state(each: Object) -> State:
    """Return the state of a run of the API."""
    found = each.get("state")
    if found is None:  # a run that was made without one
        return State("PENDING", "Pending", nanoseconds(each["created"]))
    details = found.get("state_details") or {}
    return State(
        type=found["type"],
        name=found["name"],
        time=nanoseconds(found["timestamp"]),
        message=found.get("message") or "",
        scheduled=_moment(details.get("scheduled_time")),
        pause_until=_moment(details.get("pause_timeout")),
    )


def work_pool(each: Object) -> Pool:
    """Turn a work pool of the API into ours, without its workers."""
    return Pool(
        id=each["id"],
        name=each["name"],
        type=each["type"],
        is_paused=bool(each.get("is_paused")),
        limit=each.get("concurrency_limit"),
    )


def work_queue(each: Object) -> Queue:
    """Turn a work queue of the API into ours."""
    return Queue(
        id=each["id"],
        name=each["name"],
        pool=each.get("work_pool_name"),
        is_paused=bool(each.get("is_paused")),
        limit=each.get("concurrency_limit"),
        polled=_moment(each.get("last_polled")),
    )


def worker(each: Object) -> Worker:
    """Turn a worker of the API into ours."""
    return Worker(
        name=each["name"],
        heartbeat=_moment(each.get("last_heartbeat_time")),
        interval=each.get("heartbeat_interval_seconds"),
        status=each.get("status") or "OFFLINE",
    )


def deployment(each: Object, flows: Mapping[str, str]) -> Deployment:
    """Turn a deployment of the API into ours."""
    own = each.get("global_concurrency_limit")
    options = each.get("concurrency_options") or {}
    schedules = each.get("schedules") or ()
    return Deployment(
        id=each["id"],
        name=f"{flows.get(each['flow_id'], each['flow_id'])}/{each['name']}",
        is_paused=bool(each.get("paused")),
        limit=own and limit(own),
        cancels_new=options.get("collision_strategy") == "CANCEL_NEW",
        polled=_moment(each.get("last_polled")),
        pool=each.get("work_pool_name"),
        queue_id=each.get("work_queue_id"),
        schedules=tuple(every["schedule"] for every in schedules if every.get("active")),
    )


def limit(each: Object) -> Limit:
    """Turn a global limit of the API into ours."""
    return Limit(
        name=each["name"],
        limit=each["limit"],
        used=int(each.get("active_slots") or 0),
        is_active=bool(each.get("active", True)),
    )


def limit_of_tag(each: Object) -> Limit:
    """Turn a limit of a tag, as the older API has it, into ours."""
    holders = tuple(each.get("active_slots") or ())
    return Limit(f"tag:{each['tag']}", each["concurrency_limit"], len(holders), holders=holders)


def _moment(text: str | None) -> int | None:
    return None if text is None else nanoseconds(text)
