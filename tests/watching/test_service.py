"""The service as it runs: the stream, an API that goes away, a wrong clock, many runs."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running

from flowspan.settings import Settings
from flowspan.units import NANOSECONDS
from flowspan.watching.api import Api
from flowspan.watching.cursor import Cursor
from flowspan.watching.delivery import Delivery
from flowspan.watching.service import Service
from flowspan.watching.stream import delay
from processes import PATIENCE, eventually, run_command
from watched import WATCH, differences, settle, spans_of, watch_environment


@flow(name="served elsewhere")
def observed() -> str:
    return str(flow_run.id)


@pytest.fixture
def watching(prefect_server: str, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The command in a process of its own."""
    log = tmp_path / "watch.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            WATCH, env=watch_environment(tmp_path), stdout=output, stderr=output
        )
    try:
        eventually(lambda: "Watching" in log.read_text(), "the start")
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_ends_when_it_is_told_to(watching: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """A run that ends meanwhile is filled in; SIGTERM ends the service, which says its load."""
    run = observed()
    eventually(lambda: spans_of(tmp_path, run), "the span")
    watching.send_signal(signal.SIGTERM)
    assert watching.wait(PATIENCE) == 0
    assert differences(tmp_path, [run]) == []
    assert "requests to Prefect's API so far" in (tmp_path / "watch.log").read_text()


def test_one_observer_at_a_time(watching: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """A second observer with the same state says why it does not start."""
    done = run_command(*WATCH, "--once", env=watch_environment(tmp_path))
    assert done.returncode == 1
    assert "FLOWSPAN_WATCH_DIR" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "does not answer"),
        ({"PREFECT_API_URL": ""}, "set PREFECT_API_URL"),
        ({"FLOWSPAN_WATCH_GRACE": "soon"}, "watch_grace"),
        ({"OTEL_TRACES_EXPORTER": "nowhere"}, "nowhere"),
    ],
)
def test_bad_settings_are_said(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    """The command ends with 1 and one message that says what to do."""
    env = {**watch_environment(tmp_path), "PREFECT_HOME": str(tmp_path), **variables}
    done = run_command(*WATCH, "--once", env=env)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


class Proxy:
    """A way to the server that can be closed."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_open = True
        self.taken = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/api"
        finally:
            self.close()
            server.close()

    def close(self) -> None:
        """Drop all connections, and take none."""
        self.is_open = False
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        self.taken += 1
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers |= {writer, back}
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def test_the_server_goes_away(prefect_server: str, tmp_path: Path) -> None:
    """What ends while the server cannot be reached is filled in once it is back."""
    settings = Settings(dir=tmp_path, watch_dir=tmp_path / "watch", watch_grace=3)

    async def until(check: object) -> None:
        deadline = time.monotonic() + PATIENCE
        while not check():  # type: ignore[operator]
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)

    async def observe() -> tuple[str, str]:
        proxy = Proxy(prefect_server)
        async with proxy.running() as url:
            with temporary_settings({PREFECT_API_URL: url}):
                cursor, delivery = Cursor(settings.watch_dir, "server"), Delivery(settings)
                async with Api() as api:
                    service = Service(api, delivery, cursor, settings)
                    await service.start(0)
                    running = asyncio.create_task(service.run())
                    with temporary_settings({PREFECT_API_URL: prefect_server}):
                        before = await asyncio.to_thread(observed)
                    await until(lambda: spans_of(tmp_path, before))
                    proxy.close()
                    with temporary_settings({PREFECT_API_URL: prefect_server}):
                        meanwhile = await asyncio.to_thread(observed)
                    taken = proxy.taken
                    await asyncio.sleep(3)  # it has noticed by then
                    assert not spans_of(tmp_path, meanwhile)
                    assert not running.done()
                    proxy.is_open = True
                    await until(lambda: spans_of(tmp_path, meanwhile))
                    assert proxy.taken > taken
                    running.cancel()
                delivery.close()
                cursor.close()
        return before, meanwhile

    assert differences(tmp_path, asyncio.run(observe())) == []


def test_delays_grow_to_five_minutes() -> None:
    """Attempts to connect come after 1 to 300 seconds, never all at the same time."""
    assert all(1 <= delay(0) <= 1 for _ in range(100))
    late = [delay(20) for _ in range(200)]
    assert 150 <= min(late) < max(late) <= 300
    assert len({*late}) > 100


@pytest.mark.parametrize("seconds", [-30, 30])
def test_a_server_with_another_clock(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """An observer whose clock is 30 s off looks at the right time, and records the right times."""
    wrong = SimpleNamespace(
        time=lambda: time.time() + seconds, time_ns=lambda: time.time_ns() + seconds * NANOSECONDS
    )
    monkeypatch.setattr("flowspan.watching.api.time", wrong)
    begun = time.monotonic()
    run = observed()
    settle(tmp_path, time.monotonic() - begun)
    assert differences(tmp_path, [run]) == []


@pytest.mark.exhaustive
def test_many_runs_that_end_at_once(prefect_server: str, tmp_path: Path) -> None:
    """Hundreds of runs cost few requests each, and none is missing or doubled."""

    async def create(count: int) -> set[str]:
        async with get_client() as client:
            gate = asyncio.Semaphore(8)

            async def one() -> str:
                async with gate:
                    run = await client.create_flow_run(observed, state=Running())
                    await client.set_flow_run_state(run.id, Completed())
                    return str(run.id)

            return {*await asyncio.gather(*(one() for _ in range(count)))}

    async def settle_all() -> tuple[int, int]:
        settings = Settings(dir=tmp_path, watch_dir=tmp_path / "watch", watch_lost=0)
        cursor, delivery = Cursor(settings.watch_dir, "many"), Delivery(settings)
        async with Api() as api:
            service = Service(api, delivery, cursor, settings)
            await service.start(120)
            await service.settle_all()
            asked = sum(api.requests.values())
        delivery.close()
        cursor.close()
        return service.filled_in, asked

    runs = asyncio.run(create(230))  # more than a page
    filled_in, asked = asyncio.run(settle_all())
    assert len(spans_of(tmp_path, *runs)) == len(runs)
    assert asked / filled_in < 0.5
