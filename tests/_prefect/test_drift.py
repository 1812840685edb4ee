"""Check the table of patches against the installed Prefect, and that undoing them restores it."""

import dataclasses
import importlib
import inspect
import types
from importlib.metadata import version
from typing import Any

import pytest
import wrapt
from opentelemetry.sdk.trace import TracerProvider
from packaging.version import Version
from prefect import tags
from prefect._internal.concurrency.calls import Call
from prefect.client.orchestration._deployments.client import (
    DeploymentAsyncClient,
    DeploymentClient,
)
from prefect.context import serialize_context
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from prefect.task_worker import TaskWorker
from prefect.telemetry.run_telemetry import RunTelemetry

import flowspan
from flowspan._prefect import PATCHES, EngineTelemetry, Patch

INSTALLED = Version(version("prefect"))

# The parameters that the wrappers use, by function, without self.
PARAMETERS = {
    "handle_exception": ["exc"],
    "handle_timeout": ["exc"],
    "handle_crash": ["exc"],
    "handle_success": ["result"],
    "propose_state": ["client", "state", "flow_run_id"],
    "propose_state_sync": ["client", "state", "flow_run_id"],
    "read_flow_run": ["flow_run_id"],
    "_resolve_futures_and_submit": [
        "task",
        "task_run_id",
        "parameters",
        "wait_for",
        "dependencies",
        "context",
    ],
}


def owner_of(patch: Patch) -> Any:
    module = importlib.import_module(patch.module)
    return getattr(module, patch.owner) if patch.owner else module


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: f"{p.module}:{p.owner}.{p.name}")
def test_target_is_what_we_wrap(patch: Patch) -> None:
    """Each target exists, is a function of its owner, and takes what the wrapper reads."""
    advice = (
        f"Prefect {INSTALLED} changed {patch.module}:{patch.owner or ''}.{patch.name}. Read its "
        "source, adapt the wrapper in flowspan/_prefect/patches.py, and give the patch an `until` "
        "and the one that takes its place a `since`."
    )
    if not patch.applies_to(INSTALLED):
        pytest.skip(f"is there from Prefect {patch.since} until {patch.until or 'now'}")
    owner = owner_of(patch)
    target = inspect.getattr_static(owner, patch.name, None)
    target = target.__func__ if isinstance(target, staticmethod) else target
    assert isinstance(target, types.FunctionType), advice
    parameters = [name for name in inspect.signature(target).parameters if name != "self"]
    expected = PARAMETERS.get(patch.name, [])
    assert parameters[: len(expected)] == expected, advice


def test_telemetry_interface() -> None:
    """Our telemetry object has every method of the engines' own."""
    theirs = {
        name
        for name, value in vars(RunTelemetry).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    ours = set(vars(EngineTelemetry)) | {"traceparent_from_span", "update_run_name"}
    assert theirs <= ours, (
        f"Prefect {INSTALLED} tells its telemetry more than flowspan hears: {theirs - ours}. "
        "Override it in EngineTelemetry, or list it here if it needs no answer."
    )


def test_what_else_the_wrappers_read() -> None:
    """Prefect's own objects have what the wrappers read of them, beside their parameters."""
    for client in (DeploymentClient, DeploymentAsyncClient):
        assert "labels" in inspect.signature(client.create_flow_run_from_deployment).parameters
    assert "fn" in {field.name for field in dataclasses.fields(Call)}
    if Version("3.6.13") <= INSTALLED:  # before, a task worker cannot be seen to start
        assert "from_sync.call_soon_in_loop_thread(" in inspect.getsource(TaskWorker.start)
    for engine in (SyncTaskRunEngine, AsyncTaskRunEngine):
        fields = {field.name for field in dataclasses.fields(engine)}
        assert {"context", "parameters", "wait_for", "_last_event"} <= fields
    with tags("a"):
        assert set(serialize_context()["tags_context"]["current_tags"]) == {"a"}


def test_uninstrument_restores_prefect_exactly() -> None:
    """After uninstrument() every owner has the same objects in the same order as before."""
    owners = {id(owner): owner for owner in map(owner_of, PATCHES)}
    before = {key: list(vars(owner).items()) for key, owner in owners.items()}
    for _ in range(2):
        flowspan.instrument(tracer_provider=TracerProvider())
        for key, owner in owners.items():
            assert not is_same(list(vars(owner).items()), before[key]), owner
        flowspan.uninstrument()
        for key, owner in owners.items():
            assert is_same(list(vars(owner).items()), before[key]), owner


def is_same(items: list[tuple[str, Any]], others: list[tuple[str, Any]]) -> bool:
    """Compare by identity, since a wrapper claims to equal what it wraps."""
    return len(items) == len(others) and all(
        name == other_name and value is other
        for (name, value), (other_name, other) in zip(items, others, strict=True)
    )


def test_instrument_twice_patches_once() -> None:
    """A second instrument() changes nothing, and one uninstrument() undoes both."""
    flowspan.instrument(tracer_provider=TracerProvider())
    patched = flowspan.PrefectInstrumentor().patched
    flowspan.instrument(tracer_provider=TracerProvider())
    try:
        assert flowspan.PrefectInstrumentor().patched == patched
        assert len(set(patched)) == len(patched)
        for patch in PATCHES:
            target = getattr(owner_of(patch), patch.name, None)
            wrapped = getattr(target, "__wrapped__", None)
            assert not isinstance(wrapped, wrapt.FunctionWrapper)
    finally:
        flowspan.uninstrument()
    assert flowspan.PrefectInstrumentor().patched == []


def test_missing_target_is_reported_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If Prefect lacks a target, flows still run, and one line says what is missing."""
    from flowspan import _prefect

    gone = Patch("prefect.task_engine", "SyncTaskRunEngine", "vanished", PATCHES[0].wrapper)
    monkeypatch.setattr(_prefect, "PATCHES", (*PATCHES, gone))
    flowspan.instrument(tracer_provider=TracerProvider())
    flowspan.uninstrument()
    (record,) = [r for r in caplog.records if "which flowspan watches" in r.message]
    assert "vanished" in record.message
    assert "\n" not in record.message


def test_patches_of_other_prefects_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that only another Prefect has is neither wrapped nor reported missing."""
    from flowspan import _prefect

    engine, wrapper = ("prefect.task_engine", "SyncTaskRunEngine"), PATCHES[0].wrapper
    renamed = Patch(*engine, "vanished", wrapper, until=str(INSTALLED))
    to_come = Patch(*engine, "coming", wrapper, since=f"{INSTALLED.major + 1}.0")
    still_here = Patch(*engine, "handle_success", wrapper, until=f"{INSTALLED.major + 1}.0")
    monkeypatch.setattr(_prefect, "PATCHES", (renamed, to_come, still_here))
    flowspan.instrument(tracer_provider=TracerProvider())
    try:
        assert flowspan.PrefectInstrumentor().patched == ["SyncTaskRunEngine.handle_success"]
    finally:
        flowspan.uninstrument()
    assert not [record for record in caplog.records if "which flowspan watches" in record.message]


@pytest.mark.parametrize(
    ("installed", "applies"),
    [("3.6.10", False), ("3.6.11", True), ("3.9.0rc1", True), ("3.9.0", False), ("3.10.0", False)],
)
def test_range_of_a_patch(installed: str, *, applies: bool) -> None:
    """A patch applies from its `since` up to the release before its `until`."""
    patch = Patch("prefect.flows", None, "x", PATCHES[0].wrapper, since="3.6.11", until="3.9.0")
    assert patch.applies_to(Version(installed)) is applies
