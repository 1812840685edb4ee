"""Hold the table of patches against the installed Prefect, and leave no trace of them."""

import importlib
import inspect
import types
from importlib.metadata import version
from typing import Any

import pytest
import wrapt
from opentelemetry.sdk.trace import TracerProvider
from packaging.version import Version
from prefect.telemetry.run_telemetry import RunTelemetry

import flowspan
from flowspan._prefect import PATCHES, EngineTelemetry, Patch

INSTALLED = Version(version("prefect"))

# The parameters that the wrappers rely on, by function; self is left out.
PARAMETERS = {
    "handle_exception": ["exc"],
    "handle_timeout": ["exc"],
    "handle_crash": ["exc"],
    "handle_success": ["result"],
    "propose_state": ["client", "state", "flow_run_id"],
    "propose_state_sync": ["client", "state", "flow_run_id"],
    "read_flow_run": ["flow_run_id"],
}


def owner_of(patch: Patch) -> Any:
    module = importlib.import_module(patch.module)
    return getattr(module, patch.owner) if patch.owner else module


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: f"{p.module}:{p.owner}.{p.name}")
def test_target_is_what_we_wrap(patch: Patch) -> None:
    """Each target is there, is a function of its owner, and takes what the wrapper reads."""
    advice = (
        f"Prefect {INSTALLED} changed {patch.module}:{patch.owner or ''}.{patch.name}. Read its "
        "source, adapt the wrapper in flowspan/_prefect/patches.py, and give the patch a `since`."
    )
    if Version(patch.since) > INSTALLED:
        pytest.skip(f"came with Prefect {patch.since}")
    owner = owner_of(patch)
    assert patch.name in vars(owner), advice
    target = vars(owner)[patch.name]
    assert isinstance(target, types.FunctionType), advice
    parameters = [name for name in inspect.signature(target).parameters if name != "self"]
    expected = PARAMETERS.get(patch.name, [])
    assert parameters[: len(expected)] == expected, advice


def test_telemetry_interface() -> None:
    """The engines' telemetry object has no method that ours does not answer."""
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


def test_uninstrument_restores_prefect_exactly() -> None:
    """After uninstrument() every owner has the very objects, in the very order, that it had."""
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
    """Compare by identity: a wrapper says that it equals what it wraps."""
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
    """A Prefect that lacks a target runs as ever; one line says what is missing."""
    from flowspan import _prefect

    gone = Patch("prefect.task_engine", "SyncTaskRunEngine", "vanished", PATCHES[0].wrapper)
    monkeypatch.setattr(_prefect, "PATCHES", (*PATCHES, gone))
    flowspan.instrument(tracer_provider=TracerProvider())
    flowspan.uninstrument()
    (record,) = [r for r in caplog.records if "which flowspan watches" in r.message]
    assert "vanished" in record.message
    assert "\n" not in record.message
