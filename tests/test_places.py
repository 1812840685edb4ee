"""The embedded files are where they last, and the commands find them there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import log_files
import metric_files
import pytest
from span_files import run, write

from commands import flowspan
from flowspan import places
from flowspan.cli.examination import examine
from flowspan.read.trace_files import load
from flowspan.settings import Settings
from processes import FLOWS, PATIENCE, environment


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a project that has a home of Prefect's beside it; return the project."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    return project


@pytest.fixture
def lasting(here: Path) -> Path:
    """The folder in the home, created."""
    folder = here.parent / "home" / "flowspan"
    folder.mkdir(parents=True)
    return folder


def seem_temporary(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


# Where they are written


def test_a_project_has_its_own_folder(here: Path) -> None:
    """By default the files are in the working directory."""
    assert Settings().dir == Path(".flowspan")


@pytest.mark.parametrize("where", [".", "clone", "clone/flows"])
def test_a_temporary_folder_has_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """At any depth in the folder for temporary files, they are in Prefect's home."""
    folder = here / where
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    seem_temporary(monkeypatch, here)
    assert Settings().dir == here.parent / "home" / "flowspan"


def test_a_link_to_a_temporary_folder_is_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, where TMPDIR and the working directory spell the same folder differently."""
    link = here.parent / "link"
    link.symlink_to(here)
    seem_temporary(monkeypatch, link)
    assert places.is_temporary()


def test_a_named_folder_is_used_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOWSPAN_DIR wins, even if it is temporary."""
    seem_temporary(monkeypatch, here)
    monkeypatch.setenv("FLOWSPAN_DIR", "named")
    assert Settings().dir == Path("named")


def test_a_removed_folder_has_none(here: Path) -> None:
    """A working directory that no longer exists counts as temporary."""
    shutil.rmtree(here)
    assert places.to_write() == here.parent / "home" / "flowspan"


def test_a_script_in_a_temporary_folder(prefect_server: str, tmp_path: Path) -> None:
    """Its telemetry outlasts the folder, and the run's log says where it is."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    home = tmp_path / "home"
    env = environment(
        tmp_path, PREFECT_HOME=str(home), TMPDIR=str(temporary), PREFECT_LOGGING_LEVEL="INFO"
    )
    del env["FLOWSPAN_DIR"]
    done = subprocess.run(
        [sys.executable, str(FLOWS / "pipelines.py"), "etl"],
        cwd=temporary,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stderr.count(f"so flowspan writes to {home / 'flowspan'}, which") == 1
    assert not (temporary / ".flowspan").exists()
    shutil.rmtree(temporary)
    assert "RUN etl" in {span.name for span in load(home / "flowspan").spans}


# Where they are read


def test_folders_above_are_searched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder inside the project, the nearest .flowspan above counts."""
    own = here / ".flowspan"
    own.mkdir()
    (here.parent / ".flowspan").mkdir()
    assert places.to_read() == Path(".flowspan")
    inside = here / "flows" / "nightly"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert places.to_read() == own


@pytest.mark.parametrize("command", ["metrics", "logs", "runs", "trends", "diff"])
def test_commands_read_both(lasting: Path, here: Path, command: str) -> None:
    """Each command reads the project's files and those in Prefect's home as one store."""
    for folder, name, end in ((here / ".flowspan", "mine", 10), (lasting, "pulled", 20)):
        folder.mkdir(exist_ok=True)
        write(folder / "traces.jsonl", run(f"RUN {name}", 0, end))
        with closing(metric_files.Process(folder / "metrics.jsonl")) as process:
            process.flow(name, 2.0)
        with closing(log_files.Process(folder / "logs.jsonl")) as process:
            process.log(f"line of {name}")
    done = flowspan(command, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    assert "pulled" in done.stdout


def test_the_latest_is_that_of_both(lasting: Path, here: Path) -> None:
    """Whichever folder it is in; `latest~1` may be in the other."""
    (here / ".flowspan").mkdir()
    write(here / ".flowspan" / "traces.jsonl", run("RUN mine", 0, 10))
    write(lasting / "traces.jsonl", run("RUN pulled", 0, 20))
    assert "RUN pulled" in flowspan("timeline", cwd=here).stdout
    assert "RUN mine" in flowspan("timeline", "latest~1", cwd=here).stdout
    write(here / ".flowspan" / "traces.jsonl", run("RUN newer", 0, 30))
    assert "RUN newer" in flowspan("timeline", cwd=here).stdout


def test_a_trace_with_parts_in_both_is_whole(lasting: Path, here: Path) -> None:
    """A flow in the project that runs a deployment on a worker has one trace in two folders."""
    (here / ".flowspan").mkdir()
    file = here / ".flowspan" / "traces.jsonl"
    write(file, run("RUN caller", 0, 10, run("RUN pulled", 2, 8)))
    whole = file.read_text()
    (message,) = map(json.loads, whole.splitlines())
    spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for path, index in ((file, 0), (lasting / "traces.jsonl", 1)):
        message["resourceSpans"][0]["scopeSpans"][0]["spans"] = [spans[index]]
        path.write_text(json.dumps(message) + "\n")
    out = flowspan("timeline", cwd=here).stdout
    assert "RUN caller" in out
    assert "└─ RUN pulled" in out


def test_both_are_named_if_nothing_is_found(lasting: Path, here: Path) -> None:
    """The message says which folders were read."""
    (here / ".flowspan").mkdir()
    said = flowspan("timeline", cwd=here).stderr
    assert said.startswith(f"flowspan: .flowspan (with {lasting}) holds no traces*.jsonl file")


def test_the_doctor_says_where_and_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a temporary folder it explains the place; elsewhere there is nothing to explain."""
    assert "files" not in {finding.subject for finding in examine()}
    seem_temporary(monkeypatch, here)
    (detail,) = [one.detail for one in examine() if one.subject == "files"]
    assert f"in {here.parent / 'home' / 'flowspan'}, because" in detail


# Prefect's home

_PRINT_HOMES = """
import json, os, sys
from prefect.settings.models.root import Settings

homes = []
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    homes.append(str(Settings().home))
    for name in variables:
        del os.environ[name]
print(json.dumps(homes))
"""
HOMES: tuple[dict[str, str], ...] = (
    {},
    {"PREFECT_HOME": "/named"},
    {"PREFECT_HOME": "~/named"},
    {"PREFECT_PROFILE": "other"},
    {"PREFECT_PROFILE": "silent"},
    {"PREFECT_PROFILES_PATH": "{user}/mine.toml"},
    {"PREFECT_PROFILES_PATH": "{user}/none.toml"},
)
PROFILES = """
active = "chosen"
[profiles.chosen]
PREFECT_HOME = "/chosen"
[profiles.other]
PREFECT_HOME = "~/other"
[profiles.silent]
"""


def test_the_home_is_prefects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, the active profile or the default: the same that Prefect itself finds."""
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").write_text(PROFILES)
    (tmp_path / "mine.toml").write_text('active = "a"\n[profiles.a]\nPREFECT_HOME = "/mine"\n')
    cases = [{name: value.format(user=tmp_path) for name, value in case.items()} for case in HOMES]
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_HOMES, json.dumps(cases)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    found = []
    for case in cases:
        with monkeypatch.context() as patched:
            for name, value in case.items():
                patched.setenv(name, value)
            found.append(str(places.prefect_home()))
    assert found == json.loads(done.stdout)
    assert len({*found}) > 4


@pytest.mark.parametrize("content", ["no toml [", "active = 3", "profiles = 3", ""])
def test_unreadable_profiles_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """Prefect reports them; the commands still work."""
    (tmp_path / "profiles.toml").write_text(content)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.prefect_home() == tmp_path / ".prefect"
