"""Start one real Prefect server for the session, and record flowspan's output into memory."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from httpx import HTTPStatusError

from servers import LONGEST_START, Server, free_port

_HOME = tempfile.mkdtemp(prefix="flowspan-tests-")

# In a temporary folder flowspan's default is another one, and tests have only temporary folders. So
# they must not look so; a test of that default sets TMPDIR.
os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.gettempdir()
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(dir=_HOME)


_PORT = free_port()

# Prefect reads its settings at import, so they must be set before any test module is imported.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": f"http://127.0.0.1:{_PORT}/api",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_HOME": _HOME,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A task that finds no free slot of its tag retries after this, not after 30 seconds.
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "0.5",
    }
)
for name in [name for name in os.environ if name.startswith(("OTEL_", "FLOWSPAN_"))]:
    del os.environ[name]
os.environ.pop("TRACEPARENT", None)
# Else flowspan would write no files.
os.environ.pop("PYTEST_VERSION", None)

from opentelemetry._logs import (  # noqa: E402 - the environment comes first
    NoOpLoggerProvider,
    set_logger_provider,
)
from opentelemetry.metrics import NoOpMeterProvider, set_meter_provider  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402

import flowspan  # noqa: E402
from sinks import Certificate, self_signed_certificate  # noqa: E402
from support import RecordedMetrics, RecordedSpans  # noqa: E402

# By default, tests record neither metrics nor logs. Tests of the embedded default start processes.
set_meter_provider(NoOpMeterProvider())
set_logger_provider(NoOpLoggerProvider())


# These need a browser, programs that take minutes to build, a worker for minutes, or Dask and Ray:
# name the folder to run them.
collect_ignore = ["browser", "e2e", "lost", "runners"]

# The profile sets the length of a search, which never fails because the machine is slow.
hypothesis.settings.register_profile("quick", max_examples=50, deadline=None)
hypothesis.settings.register_profile("exhaustive", max_examples=1000, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--all`."""
    parser.addoption(
        "--all", action="store_true", help="run the exhaustive tests, too, and search longer"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how long Hypothesis searches."""
    hypothesis.settings.load_profile("exhaustive" if config.getoption("--all") else "quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that are marked as exhaustive, unless `--all` is given, and deal the rest."""
    if not config.getoption("--all"):
        exhaustive = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=exhaustive)
        items[:] = [item for item in items if item not in exhaustive]
    if config.getoption("dist", "no") == "worksteal":
        items[:] = _dealt(items, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def _dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Order the tests so that each worker begins with long ones and has many short ones to give.

    Each worker gets a slice of the list. Once it has nothing left, it takes from another's end. A
    long test that is among the last ones keeps one worker busy while the others have nothing to do.
    """
    short = [item for item in items if not _is_long(item)]
    slices: list[list[pytest.Item]] = [[] for _ in range(workers)]
    long = (item for item in items if _is_long(item))
    modules = [[*module] for _, module in groupby(long, lambda item: item.path)]
    for module in sorted(modules, key=len, reverse=True):
        min(slices, key=len).extend(module)  # in one piece, for the sake of its fixtures
    for mine in slices[:-1]:
        wanted = max(0, len(items) // workers - len(mine))
        mine.extend(short[:wanted])
        del short[:wanted]
    return [*chain(*slices), *short]


def _is_long(item: pytest.Item) -> bool:
    """Return whether a test runs flows, or may take longer than others for another reason."""
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return "prefect_server" in fixtures or item.get_closest_marker("timeout") is not None


def _take_database(shared: Path) -> None:
    """Copy a database with all its tables; the first process of a session makes it for the others.

    To make one takes longer than all else that a server does when it starts.
    """
    made, making = shared / "prefect.db", shared / "making"
    try:
        making.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + LONGEST_START
        while not made.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
            env={**os.environ, "PREFECT_HOME": str(making)},
            check=True,
            capture_output=True,
        )
        (making / "prefect.db").rename(made)
    shutil.copy(made, _HOME)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server for this test session only; return the URL of its API."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        _take_database(tmp_path_factory.getbasetemp().parent)
    server = Server(Path(_HOME), _PORT)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Write a self-signed certificate for loopback."""
    return self_signed_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> dict[str, threading.Event]:
    """Return for each limit what is set once the API has refused somebody a slot of it."""
    from prefect.client.orchestration._concurrency_limits.client import (
        ConcurrencyLimitAsyncClient,
    )

    events: dict[str, threading.Event] = defaultdict(threading.Event)
    ask = ConcurrencyLimitAsyncClient.increment_concurrency_slots_with_lease

    async def asks(client: Any, names: list[str], *args: Any, **kwargs: Any) -> Any:
        try:
            return await ask(client, names, *args, **kwargs)
        except HTTPStatusError:
            for name in names:
                events[name].set()
            raise

    monkeypatch.setattr(ConcurrencyLimitAsyncClient, "increment_concurrency_slots_with_lease", asks)
    return events


@pytest.fixture
def metrics() -> RecordedMetrics:
    """The metrics of one test, if it also uses `spans`."""
    return RecordedMetrics()


@pytest.fixture
def spans(prefect_server: str, metrics: RecordedMetrics) -> Iterator[RecordedSpans]:
    """Instrument Prefect for one test and collect the spans that end in it."""
    provider = TracerProvider()
    recorded = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(recorded))
    flowspan.instrument(tracer_provider=provider, meter_provider=metrics.provider)
    try:
        yield recorded
    finally:
        flowspan.uninstrument()


@pytest.fixture
def no_unexpected_failure(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail a test in which flowspan reports a failure, unless it uses the fixture `failures`."""
    yield
    if "failures" not in request.fixturenames:
        assert not _reported(caplog.get_records("call"))


@pytest.fixture
def failures(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the messages of the failures reported so far."""
    return lambda: _reported(caplog.records)


def _reported(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if record.name == "flowspan"]
