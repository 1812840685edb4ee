"""The tests of a project leave its embedded files alone, unless they ask for them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowspan.read.trace_files import load
from flowspan.settings import Settings
from processes import PATIENCE, environment

FLOW = """
from flowspan import instrument
from prefect import flow

instrument()

@flow
def nightly():
    return 3
"""
TEST = """
from nightly import nightly

def test_nightly():
    assert nightly() == 3
"""
HARNESS = f"""
import pytest
from prefect.testing.utilities import prefect_test_harness

@pytest.fixture(autouse=True, scope="session")
def harness():
    with prefect_test_harness(server_startup_timeout={PATIENCE:.0f}):
        yield
"""


def run_tests(project: Path, conftest: str = "", **variables: str) -> None:
    """Run the tests of a project with a flow, as a user does."""
    for name, text in (("nightly", FLOW), ("test_nightly", TEST), ("conftest", conftest)):
        (project / f"{name}.py").write_text(text)
    env = environment(project, **variables)
    del env["FLOWSPAN_DIR"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(PATIENCE * 2)
def test_tests_write_nothing(tmp_path: Path) -> None:
    """A flow that is instrumented when it is imported and runs in Prefect's harness."""
    run_tests(tmp_path, HARNESS)
    assert not (tmp_path / ".flowspan").exists()


def test_tests_write_if_they_ask(prefect_server: str, tmp_path: Path) -> None:
    """With FLOWSPAN_FILES=auto the same run is in the files."""
    run_tests(tmp_path, FLOWSPAN_FILES="auto")
    assert [span.name for span in load(tmp_path / ".flowspan").spans] == ["RUN nightly"]


@pytest.mark.parametrize(
    ("asked", "files"),
    [({}, "never"), ({"FILES": "also"}, "also"), ({"DIR": "kept"}, "auto")],
)
def test_asking(monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], files: str) -> None:
    """A folder or FLOWSPAN_FILES asks for files, as a variable or as an argument."""
    monkeypatch.setenv("PYTEST_VERSION", pytest.__version__)
    arguments: dict[str, Any] = {name.lower(): value for name, value in asked.items()}
    assert Settings(**arguments).files == files
    for name, value in asked.items():
        monkeypatch.setenv(f"FLOWSPAN_{name}", value)
    assert Settings().files == files
