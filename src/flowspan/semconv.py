"""Names of all spans, attributes, events and metrics that flowspan writes, each defined once.

Names that start with ``cicd.`` and ``error.`` follow the OpenTelemetry semantic conventions
(https://opentelemetry.io/docs/specs/semconv/cicd/); names that start with ``prefect.`` extend them
with Prefect's own concepts. Durations are seconds, counts are integers.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

# Every run span
RUN_ID: Final = "prefect.run.id"
RUN_NAME: Final = "prefect.run.name"
RUN_TYPE: Final = "prefect.run.type"
RUN_COUNT: Final = "prefect.run.count"
RUN_STATE_TYPE: Final = "prefect.run.state.type"
RUN_STATE_NAME: Final = "prefect.run.state.name"
RUN_PARAMETER_PREFIX: Final = "prefect.run.parameter."
TAGS: Final = "prefect.tags"
# Who recorded the span, if it was not the process that the run ran in
OBSERVED_BY: Final = "prefect.run.observed_by"
OBSERVED_BY_WATCH: Final = "watch"
FLOW_NAME: Final = "prefect.flow.name"
FLOW_RUN_ID: Final = "prefect.flow_run.id"

# Flow run spans
PIPELINE_NAME: Final = "cicd.pipeline.name"
PIPELINE_RUN_ID: Final = "cicd.pipeline.run.id"
PIPELINE_RUN_URL: Final = "cicd.pipeline.run.url.full"
PIPELINE_RESULT: Final = "cicd.pipeline.result"
FLOW_ID: Final = "prefect.flow.id"
FLOW_VERSION: Final = "prefect.flow.version"
DEPLOYMENT_ID: Final = "prefect.deployment.id"
DEPLOYMENT_NAME: Final = "prefect.deployment.name"
WORK_POOL_NAME: Final = "prefect.work_pool.name"
WORK_QUEUE_NAME: Final = "prefect.work_queue.name"

# Task run spans
PIPELINE_TASK_NAME: Final = "cicd.pipeline.task.name"
PIPELINE_TASK_RUN_ID: Final = "cicd.pipeline.task.run.id"
PIPELINE_TASK_RUN_URL: Final = "cicd.pipeline.task.run.url.full"
PIPELINE_TASK_RESULT: Final = "cicd.pipeline.task.run.result"
TASK_NAME: Final = "prefect.task.name"
TASK_KEY: Final = "prefect.task.key"
TASK_CACHED: Final = "prefect.task.cached"

# Attempt spans
ATTEMPT: Final = "prefect.run.attempt"

# Rows
ROWS_PREFIX: Final = "prefect.rows."
ROWS_OUTPUT: Final = "prefect.rows.output"
ROWS_INPUT: Final = "prefect.rows.input"
ROWS_PER_SECOND: Final = "prefect.rows.per_second"

# Where the time went, in seconds. Waits that did not occur are omitted.
WAIT_PREFIX: Final = "prefect.wait."
WAIT_QUEUE: Final = "prefect.wait.queue"
WAIT_LATE: Final = "prefect.wait.late"
WAIT_INFRASTRUCTURE: Final = "prefect.wait.infrastructure"
WAIT_DEPENDENCIES: Final = "prefect.wait.dependencies"
WAIT_CONCURRENCY: Final = "prefect.wait.concurrency"
WAIT_RETRY: Final = "prefect.wait.retry"
WAIT_PAUSE: Final = "prefect.wait.pause"
EXECUTION: Final = "prefect.execution"
ORCHESTRATION: Final = "prefect.orchestration"
# The engine's time after the span, until the caller's code goes on; part of the caller's
# ORCHESTRATION
ENGINE_EXIT: Final = "prefect.engine.exit"


Place: TypeAlias = Literal["before", "start", "between", "middle"]
"""Where a wait can lie. ``before`` is before the span, ``middle`` is amid the execution."""


class Wait(NamedTuple):
    """One thing that a run waits for.

    Attributes:
        attribute: The span's attribute that has its length in seconds.
        place: Where it lies.
        in_metric: Whether `METRIC_TASK_RUN_WAIT` measures it.
        state: The name of the state that a run has meanwhile, if there is one.
    """

    attribute: str
    place: Place
    in_metric: bool = False
    state: str | None = None

    @property
    def name(self) -> str:
        """The short name, a cause of the critical path and a key of the JSON documents."""
        return self.attribute.removeprefix(WAIT_PREFIX)


# Every wait, in the order in which they happen and are shown. `flowspan.views.looks` has how each
# looks, and `flowspan.read.facts.Facts` a field for each.
WAITS: Final = (
    Wait(WAIT_LATE, "before"),
    Wait(WAIT_INFRASTRUCTURE, "before"),
    Wait(WAIT_QUEUE, "before", in_metric=True),
    Wait(WAIT_DEPENDENCIES, "start", in_metric=True),
    Wait(WAIT_CONCURRENCY, "start", in_metric=True),
    Wait(WAIT_RETRY, "between", in_metric=True, state="AwaitingRetry"),
    Wait(WAIT_PAUSE, "middle", state="Paused"),
)
# The part of WAIT_DEPENDENCIES before the span: in a task runner, before it sends the task
TASK_RUNNER_DEPENDENCIES: Final = "prefect.task_runner.dependencies"
# Waits before the span starts
WAITS_BEFORE: Final = tuple(wait.attribute for wait in WAITS if wait.place == "before")
# Waits inside the span: with EXECUTION and ORCHESTRATION they add up to its duration
WAITS_INSIDE: Final = tuple(wait.attribute for wait in WAITS if wait.place != "before")

# Runs that have not ended, in log records of one scope. A record has the ids of the run's span, and
# of the span's attributes those that are known by then.
RUNS_SCOPE: Final = "flowspan.runs"
RUN_STARTED: Final = "prefect.run.started"
RUN_RUNNING: Final = "prefect.run.running"
# When the run's span began, in nanoseconds since the epoch; its kind, and its parent, if it has one
RUN_START: Final = "prefect.run.start"
RUN_SPAN_KIND: Final = "prefect.run.span.kind"
RUN_PARENT_SPAN_ID: Final = "prefect.run.span.parent_id"
# The span of the attempt that is under way, if the run allows retries
ATTEMPT_START: Final = "prefect.run.attempt.start"
ATTEMPT_SPAN_ID: Final = "prefect.run.attempt.span_id"
# What the run is doing: EXECUTION, ORCHESTRATION or a wait, without their prefix
RUN_ACTIVITY: Final = "prefect.run.activity"
# Seconds between two records
RUN_HEARTBEAT: Final = "prefect.run.heartbeat"

# State transition events
STATE_TYPE: Final = "prefect.state.type"
STATE_NAME: Final = "prefect.state.name"
STATE_ID: Final = "prefect.state.id"
STATE_MESSAGE: Final = "prefect.state.message"

# Links
LINK_TYPE: Final = "prefect.link.type"
LINK_DEPENDENCY: Final = "dependency"
LINK_PREVIOUS_ATTEMPT: Final = "previous_attempt"
INPUT_NAME: Final = "prefect.input.name"
# How many of them the provider's limit has dropped
LINKS_DROPPED: Final = "prefect.links.dropped"

# Where a run ran, as OpenTelemetry names it. The host and the process are on each run's span,
# because the resource of an application's own provider often lacks them.
THREAD_ID: Final = "thread.id"
THREAD_NAME: Final = "thread.name"
PROCESS_ID: Final = "process.pid"
HOST_NAME: Final = "host.name"
RUN_HOST: Final = "prefect.host.name"  # in reports of runs that have not ended

# Errors
ERROR_TYPE: Final = "error.type"

# Only on log records
FLOW_RUN_NAME: Final = "prefect.flow_run.name"
TASK_RUN_ID: Final = "prefect.task_run.id"
TASK_RUN_NAME: Final = "prefect.task_run.name"

# Objectives: the event on the flow run's span, its attributes, and the event sent to Prefect
SLO_VIOLATED: Final = "slo.violated"
SLO_OBJECTIVE: Final = "prefect.slo.objective"
SLO_EXPECTED: Final = "prefect.slo.expected"
SLO_ACTUAL: Final = "prefect.slo.actual"
SLO_DETAIL: Final = "prefect.slo.detail"
SLO_EVENT: Final = "flowspan.slo.violated"

# The event sent to Prefect once the spans of runs are exported. Its payload has their ids as
# hexadecimal digits below the key.
REPORTED_EVENT: Final = "flowspan.runs.reported"
REPORTED_SPANS: Final = "spans"

# Metrics of flow runs
METRIC_PIPELINE_RUN_DURATION: Final = "cicd.pipeline.run.duration"
METRIC_PIPELINE_RUN_ACTIVE: Final = "cicd.pipeline.run.active"
METRIC_PIPELINE_RUN_ERRORS: Final = "cicd.pipeline.run.errors"
METRIC_FLOW_RUNS: Final = "prefect.flow.runs"
METRIC_FLOW_RUN_LOST: Final = "prefect.flow_run.lost"

# Metrics of task runs
METRIC_TASK_RUNS: Final = "prefect.task.runs"
METRIC_TASK_RUN_DURATION: Final = "prefect.task.run.duration"
METRIC_TASK_RUN_WAIT: Final = "prefect.task.run.wait"
METRIC_TASK_RUN_ACTIVE: Final = "prefect.task.run.active"
METRIC_TASK_RUN_RETRIES: Final = "prefect.task.run.retries"
METRIC_TASK_ROWS: Final = "prefect.task.rows"

# Metrics of what waits, and of what it waits for, which only an observer of the API can measure
METRIC_LATE: Final = "prefect.flow_run.late"
METRIC_PENDING: Final = "prefect.flow_run.pending"
METRIC_AGE: Final = "prefect.flow_run.age"
METRIC_WORKERS: Final = "prefect.work_pool.workers"
METRIC_SLOTS: Final = "prefect.concurrency.slots"
SLOT_STATE: Final = "prefect.concurrency.slot.state"
SLOTS_USED: Final = "used"
SLOTS_LIMIT: Final = "limit"
LIMIT_TYPE: Final = "prefect.concurrency.limit.type"
LIMIT_NAME: Final = "prefect.concurrency.limit.name"

# Metrics of objectives, of the user's, and of flowspan's own health
METRIC_SLO_VIOLATIONS: Final = "prefect.slo.violations"
METRIC_CUSTOM_PREFIX: Final = "prefect.metric."
METRIC_INTERNAL_ERRORS: Final = "flowspan.internal.errors"

# Why a run that should run does not, in the order in which a run meets the obstacles
LATE_REASON: Final = "prefect.late.reason"
PAUSED: Final = "paused"
NO_WORKER: Final = "no_worker"
POOL_FULL: Final = "pool_full"
QUEUE_FULL: Final = "queue_full"
DEPLOYMENT_LIMIT: Final = "deployment_limit"
TAG_LIMIT: Final = "tag_limit"
INFRASTRUCTURE: Final = "infrastructure"
UPSTREAM: Final = "upstream"
SCHEDULER_BEHIND: Final = "scheduler_behind"
UNKNOWN: Final = "unknown"
LATE_REASONS: Final = (
    *(PAUSED, NO_WORKER, POOL_FULL, QUEUE_FULL, DEPLOYMENT_LIMIT),
    *(TAG_LIMIT, INFRASTRUCTURE, UPSTREAM, SCHEDULER_BEHIND, UNKNOWN),
)

# Only on metrics
PIPELINE_RUN_STATE: Final = "cicd.pipeline.run.state"
PIPELINE_RUN_PENDING: Final = "pending"
PIPELINE_RUN_EXECUTING: Final = "executing"
WAIT_TYPE: Final = "prefect.wait.type"
ROWS_DIRECTION: Final = "prefect.rows.direction"
COMPONENT: Final = "flowspan.component"

# Prefect's types of states, whatever the states' names
RUNNING: Final = "RUNNING"
FINAL_STATE_TYPES: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

# How a run ended, in the terms of the CI/CD conventions
SUCCESS: Final = "success"
_RESULT_BY_STATE_NAME: Final = {"TimedOut": "timeout", "NotReady": "skip"}
_RESULT_BY_STATE_TYPE: Final = {
    "COMPLETED": SUCCESS,
    "FAILED": "failure",
    "CRASHED": "error",
    "CANCELLED": "cancellation",
    # Only a process that is told to stop leaves a run in this state; Cancelled follows.
    "CANCELLING": "cancellation",
}
RESULTS: Final = ("success", "failure", "timeout", "error", "cancellation", "skip")
ERROR_RESULTS: Final = frozenset({"failure", "timeout", "error"})
# What a success rate counts: a run that is cancelled or skipped has neither succeeded nor failed.
JUDGED_RESULTS: Final = ERROR_RESULTS | {"success"}


def result_of(state_type: str, state_name: str) -> str | None:
    """Return the result of a run in its last state; None if that state is not final."""
    return _RESULT_BY_STATE_NAME.get(state_name) or _RESULT_BY_STATE_TYPE.get(state_type)


def flow_span_name(flow_name: str) -> str:
    """Return the name of a flow run's span; low-cardinality, so never the random run name."""
    return f"RUN {flow_name}"


def attempt_span_name(number: int) -> str:
    """Return the name of an attempt's span; attempts count from 1."""
    return f"attempt {number}"
