"""A parcel instruments the process in which it is unpickled, if that has flowspan."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prefect import tags
from prefect.context import hydrated_context, serialize_context
from prefect.serializers import JSONSerializer

import flowspan
from clocks import Timed
from flowspan._parcel import Note, Parcel
from flowspan.objectives.promises import Objectives
from flowspan.settings import Settings

RECEIVE = """
import pickle, sys
tags = pickle.loads(sys.stdin.buffer.read())["tags_context"]
assert tags["current_tags"] == {"nightly"}, tags
import flowspan
instrumentor = flowspan.PrefectInstrumentor()
print(instrumentor._settings.model_dump_json() if instrumentor.patched else None)
"""
WITHOUT_FLOWSPAN = "import sys; sys.modules['flowspan'] = None\n"
RELAY = """
import pickle, sys
sys.stdout.buffer.write(pickle.dumps(pickle.loads(sys.stdin.buffer.read())))
"""
RECEIVE_SEVERAL = """
import logging, pickle, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for sent in pickle.loads(sys.stdin.buffer.read()):
    pickle.loads(sent)
"""
READ_NOTE = """
import pickle, sys
print(pickle.loads(sys.stdin.buffer.read())["tags_context"]["flowspan"].note)
"""
SCHEDULER = """
import asyncio, pickle, sys
from distributed import Scheduler

async def main():
    async with Scheduler(dashboard_address=":0", port=0, host="127.0.0.1"):
        loaded = pickle.loads(sys.stdin.buffer.read())
        sys.stdout.buffer.write(pickle.dumps(loaded))
    import flowspan
    assert not flowspan.PrefectInstrumentor().patched

asyncio.run(main())
"""

SCHEDULER_THAT_LISTENS = """
import asyncio, logging, pickle, sys
from distributed import Scheduler

async def main():
    async with Scheduler(dashboard_address=":0", port=0, host="127.0.0.1"):
        logging.getLogger("prefect.flowspan").addHandler(logging.StreamHandler(sys.stdout))
        pickle.loads(sys.stdin.buffer.read())

asyncio.run(main())
"""


def serialized_context(settings: Settings) -> dict[str, Any]:
    """Return what an instrumented process sends along with a task run."""
    flowspan.instrument(tracer_provider=TracerProvider(), settings=settings)
    try:
        with tags("nightly"):
            return serialize_context()
    finally:
        flowspan.uninstrument()


def run(code: str, given: bytes, **variables: str) -> bytes:
    nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        env={**os.environ, **nowhere, **variables},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def received(given: bytes, **variables: str) -> dict[str, Any] | None:
    """Return the settings of a process that unpickles `given`, or None if nothing is patched."""
    answer = run(RECEIVE, given, **variables)
    return None if answer.strip() == b"None" else json.loads(answer)


def test_settings_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver has the sender's settings and its folder, whatever its own variables say."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        capture_parameters="values",
        trace_url="http://jaeger/{trace_id}",
        slo={"nightly": Objectives(max_duration=60, min_rows=1)},
    )
    sent = pickle.dumps(serialized_context(settings))
    expected = json.loads(
        settings.model_copy(update={"dir": tmp_path / ".flowspan"}).model_dump_json()
    )
    assert received(sent, FLOWSPAN_LOG_LEVEL="DEBUG") == expected


def test_process_that_stays_says_what_it_keeps(tmp_path: Path) -> None:
    """One line for each other sender says what differs, and where the files are."""

    def sent(name: str, level: int) -> bytes:
        context = serialized_context(Settings(dir=tmp_path / name, log_level=level))
        content = json.loads(context["tags_context"]["flowspan"])
        return pickle.dumps(Parcel(json.dumps({**content, "given": []})))

    first, other, detailed = sent("first", 20), sent("other", 20), sent("first", 10)
    given = pickle.dumps([first, first, other, detailed, other, first, detailed])
    said = run(RECEIVE_SEVERAL, given, OTEL_METRICS_EXPORTER="").decode().splitlines()
    line = (
        "A flow with other settings (%s) sends task runs to this process, which keeps the "
        "settings that it has."
    )
    places = f" Its files are in {tmp_path / 'first'}, not in {tmp_path / 'other'}."
    assert said == [line % "dir" + places, line % "log_level"]
    assert run(RECEIVE_SEVERAL, pickle.dumps([first, other])) == b""  # no files


def test_parcel_passes_through_other_processes() -> None:
    """A process that has no flowspan unpickles the same, and may pickle it again."""
    submitting = Timed()
    with submitting:
        context = serialized_context(Settings(flush_timeout=7))
    sent = pickle.dumps(context)
    passed_on = run(WITHOUT_FLOWSPAN + RELAY, run(WITHOUT_FLOWSPAN + RELAY, sent))
    settings = received(passed_on)
    assert settings is not None
    assert settings["flush_timeout"] == 7.0
    note = Note.of(run(READ_NOTE, passed_on).decode())
    assert note.submitted is not None
    assert submitting.start < note.submitted < submitting.end


def test_process_without_flowspan_says_so_once() -> None:
    """It runs the tasks as if nothing were there, but one line says why nothing is recorded."""
    sent = pickle.dumps(serialized_context(Settings()))
    said = run(WITHOUT_FLOWSPAN + RECEIVE_SEVERAL, pickle.dumps([sent, sent])).decode()
    line = (
        r"Task runs in process \d+ on \S+ are not recorded, because flowspan cannot be used there: "
        r".*flowspan.*\. Install flowspan in each environment that runs tasks\.\n"
    )
    assert re.fullmatch(line, said)


def test_dask_scheduler_without_flowspan_says_nothing() -> None:
    """A Dask scheduler runs no tasks, so nothing is missing there."""
    pytest.importorskip("distributed")
    sent = pickle.dumps(serialized_context(Settings()))
    assert run(WITHOUT_FLOWSPAN + SCHEDULER_THAT_LISTENS, sent) == b""


def test_dask_scheduler_is_not_instrumented() -> None:
    """A Dask scheduler unpickles tasks and pickles them again, and runs none."""
    pytest.importorskip("distributed")
    passed_on = run(SCHEDULER, pickle.dumps(serialized_context(Settings(flush_timeout=7))))
    settings = received(passed_on)
    assert settings is not None
    assert settings["flush_timeout"] == 7.0


def test_receiver_can_switch_flowspan_off() -> None:
    """A receiver whose own variables switch flowspan off is not instrumented."""
    sent = pickle.dumps(serialized_context(Settings()))
    assert received(sent, FLOWSPAN_ENABLED="false") is None
    assert received(sent, OTEL_SDK_DISABLED="true") is None


def test_receiver_with_wrong_variables_runs_as_usual() -> None:
    """What instrument() would raise is logged instead: the task is not to blame."""
    sent = pickle.dumps(serialized_context(Settings()))
    assert received(sent, FLOWSPAN_NO_SUCH_SETTING="1") is None


def test_context_is_still_usable_here_and_as_json() -> None:
    """The context hydrates in the same process; Prefect may also store it as JSON."""
    context = serialized_context(Settings())
    with hydrated_context(context), tags("more"):
        assert set(serialize_context()["tags_context"]["current_tags"]) == {"nightly", "more"}
    stored = JSONSerializer().loads(JSONSerializer().dumps({"context": context["tags_context"]}))
    assert stored["context"]["flowspan"] == context["tags_context"]["flowspan"]


def test_context_without_tags_is_still_usable() -> None:
    """Prefect sends no tags if there are none, and reads them if there is anything else."""
    flowspan.instrument(tracer_provider=TracerProvider())
    try:
        context = serialize_context()
    finally:
        flowspan.uninstrument()
    with hydrated_context(context):
        pass
