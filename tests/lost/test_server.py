"""`flowspan watch` beside a server that goes away, doubles events, or has a wrong clock."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from interrupted import runs_of
from late_clock import shifted_clock
from processes import background, environment, eventually, run_script
from servers import Server, free_port
from unseen import SEED
from watched import WATCH, differences, spans_of, watch_environment

SECOND = 1_000_000_000
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A server, not yet started, on a database that all tests here share."""
    prepared = Server(home, free_port(), patience=400)
    with temporary_settings({PREFECT_API_URL: prepared.url}):
        yield prepared
    prepared.stop()


def with_tests(env: dict[str, str]) -> dict[str, str]:
    return env | {"PYTHONPATH": env["PYTHONPATH"] + os.pathsep + str(TESTS)}


@contextmanager
def watching(folder: Path, server: Server) -> Iterator[Path]:
    """Run `flowspan watch`; yield its log."""
    log = folder / "watch.log"
    env = watch_environment(folder, PREFECT_API_URL=server.url)
    with background(*WATCH, env=env, log=log):
        eventually(lambda: "Watching" in log.read_text(), "the start of the observer")
        yield log


def run_flows(folder: Path, server: Server, name: str, count: int) -> None:
    """Run random flows that nobody instrumented, in a process of their own."""
    env = with_tests(environment(folder, PREFECT_API_URL=server.url))
    seed = str(random.Random(f"{SEED} {name}").randrange(2**32))  # noqa: S311 - reproducible
    done = run_script("loaded.py", name, seed, str(count), str(folder / "stop"), env=env)
    assert done.returncode == 0, done.stderr


def wait_until_settled(folder: Path, runs: list[FlowRun]) -> None:
    """Wait until each flow run has a span."""
    eventually(lambda: all(spans_of(folder, run.id) for run in runs), "the spans")


def test_server_away(server: Server, tmp_path: Path) -> None:
    """What happened before, across and right after a restart of the server is there, once."""
    name = f"away-{SEED}"
    ready, back = tmp_path / "ready", tmp_path / "back"
    env = environment(tmp_path, PREFECT_API_URL=server.url)
    server.start()
    with ExitStack() as stack:
        log = stack.enter_context(watching(tmp_path, server))
        run_flows(tmp_path, server, f"{name}-before", 2)
        straddling = stack.enter_context(
            background(
                *(sys.executable, "straddling.py", str(ready), str(back)),
                env=env,
                log=tmp_path / "straddling.log",
            )
        )
        eventually(ready.exists, "the first task")
        server.stop()
        eventually(lambda: "trying again" in log.read_text(), "the observer's notice")
        server.start()
        back.touch()
        run_flows(tmp_path, server, f"{name}-after", 2)
        eventually(lambda: straddling.poll() is not None, "the end of the flow")
        runs = [*runs_of(name), *runs_of("straddling")]
        assert len(runs) == 5
        wait_until_settled(tmp_path, runs)
    found = differences(tmp_path, [run.id for run in runs])
    assert not found, "\n".join([f"WATCH_SEED={SEED}", *found, log.read_text()])


def test_events_doubled_and_shuffled(server: Server, tmp_path: Path) -> None:
    """Each event comes three times and in another order, to the server and in its stream."""
    name, echoes = f"echo-{SEED}", tmp_path / "echoing.log"
    server.start()
    with ExitStack() as stack:
        log = stack.enter_context(watching(tmp_path, server))
        env = environment(tmp_path, PREFECT_API_URL=server.url)
        echoing = (sys.executable, "echoing.py", str(SEED))
        stack.enter_context(background(*echoing, env=env, log=echoes))
        eventually(lambda: "listening" in echoes.read_text(), "the start of the echo")
        run_flows(tmp_path, server, name, 6)
        runs = runs_of(name)
        assert len(runs) == 6
        wait_until_settled(tmp_path, runs)
    found = differences(tmp_path, [run.id for run in runs])
    assert not found, "\n".join([f"WATCH_SEED={SEED}", *found, log.read_text()])
    assert echoes.read_text().count("echoed") > 12


@pytest.mark.parametrize("seconds", [-30, 30])
def test_server_with_another_clock(server: Server, tmp_path: Path, seconds: int) -> None:
    """A server whose clock is 30 s off sets the times of flow runs, and spans have them."""
    name = f"clock-{seconds}-{SEED}"
    server.start(**shifted_clock(seconds * SECOND))
    with watching(tmp_path, server) as log:
        run_flows(tmp_path, server, name, 3)
        runs = runs_of(name)
        assert len(runs) == 3
        wait_until_settled(tmp_path, runs)
    found = differences(tmp_path, [run.id for run in runs])
    assert not found, "\n".join([f"WATCH_SEED={SEED}", *found, log.read_text()])
