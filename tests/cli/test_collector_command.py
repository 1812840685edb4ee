"""``flowspan collector ...``, with a stand-in for the Collector itself."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flowspan.cli.main import app
from flowspan.collector import layers, program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write three layers, and leave no Collector on PATH."""
    made = tmp_path / "my config"
    made.mkdir()
    (made / "base.yaml").write_text("receivers: {}\n")
    (made / "acme.yaml").write_text("# Acme: all of it.\nexporters: {acme: {key: ${env:KEY}}}\n")
    (made / "local.yaml").write_text("# Local: files.\n")
    (made / "builder.yaml").write_text("dist:\n  version: 1.2.3\n")
    monkeypatch.setattr(layers, "_folder", lambda: made)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("KEY", raising=False)
    return made


def flowspan(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["collector", *map(str, arguments)])


def collector(folder: Path, script: str, name: str = "otelcol-contrib") -> Path:
    """Put a program on PATH."""
    path = folder.parent / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_config_prints_a_command_line(folder: Path) -> None:
    """It names the Collector on PATH; variables to set are listed on stderr."""
    done = flowspan("config", "--backend", "local", "--backend", "acme")
    paths = [str(folder / f"{name}.yaml") for name in ("base", "local", "acme")]
    options = [word for path in paths for word in ("--config", path)]
    assert done.exit_code == 0
    assert shlex.split(done.stdout) == ["otelcol-contrib", *options]
    assert done.stderr == "flowspan: KEY must be set in the Collector's environment, for acme.\n"
    collector(folder, "", "otelcol")
    done = flowspan("config", "--backend", "local")
    assert (done.stdout.split()[0], done.stderr) == ("otelcol", "")


def test_config_writes_files_for_mounting(folder: Path, tmp_path: Path) -> None:
    """The command line names the copies; edited ones stay without --force."""
    there = tmp_path / "there"
    arguments = ("config", "--backend", "local", "--output", there)
    done = flowspan(*arguments)
    assert shlex.split(done.stdout)[-1] == str(there / "local.yaml")
    assert sorted(path.name for path in there.iterdir()) == ["base.yaml", "local.yaml"]
    (there / "base.yaml").write_text("mine")
    done = flowspan(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--force" in done.stderr
    assert flowspan(*arguments, "--force").exit_code == 0
    assert (there / "base.yaml").read_text() == (folder / "base.yaml").read_text()


def test_config_says_why_it_cannot_write(tmp_path: Path) -> None:
    """A file is in the place of the folder."""
    (tmp_path / "file").touch()
    done = flowspan("config", "--backend", "local", "--output", tmp_path / "file")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"flowspan: {tmp_path / 'file'} cannot be written: File exists\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("config",),
            "name a layer. The layers are:\n  acme   Acme: all of it\n  local  Local: files\n",
        ),
        (("check",), "name a layer. The layers are:"),
        (("config", "--backend", "no"), "There is no layer no. The layers are:"),
        (
            ("check", "--backend", "local", "--backend", "no"),
            "There is no layer no. The layers are:",
        ),
        (("config", "--backend", "local", "--force"), "--output DIR"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], words: str) -> None:
    """An unknown backend gets a list of the known ones."""
    done = flowspan(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_check_asks_the_collector(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets all layers in order, and the environment's variables."""
    path = collector(folder, 'echo "$KEY" "$@" > "$0.asked"')
    monkeypatch.setenv("KEY", "k")
    done = flowspan("check", "--backend", "local", "--backend", "acme")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{path} accepts base.yaml, local.yaml, acme.yaml.\n"
    options = " ".join(f"--config {folder / name}.yaml" for name in ("base", "local", "acme"))
    assert path.with_name("otelcol-contrib.asked").read_text() == f"k validate {options}\n"


def test_check_fails_with_what_the_collector_says(folder: Path) -> None:
    """It adds the version that the layers are for: old Collectors know other names."""
    path = collector(folder, "echo Error: no such thing >&2; exit 1")
    done = flowspan("check", "--backend", "local")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"flowspan: {path} rejects the configuration, which is written for version 1.2.3:\n"
        "Error: no such thing\n"
    )
    collector(folder, "exit 7")
    assert "exit code 7" in flowspan("check", "--backend", "local").stderr


def test_check_fails_where_a_variable_is_missing(folder: Path) -> None:
    """This holds even if the Collector would start without it."""
    collector(folder, "exit 0")
    done = flowspan("check", "--backend", "acme")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "KEY must be set" in done.stderr


def test_check_without_a_collector_says_what_to_install(folder: Path) -> None:
    """It has its own exit code, and still lists missing variables."""
    done = flowspan("check", "--backend", "acme")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "KEY must be set" in done.stderr
    assert "Install otelcol-contrib 1.2.3 or newer" in done.stderr
    assert "--binary PATH" in done.stderr
    done = flowspan("check", "--backend", "local", "--binary", folder / "base.yaml")
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"{folder / 'base.yaml'} is not a program" in done.stderr


def test_check_takes_the_collector_that_is_named(folder: Path) -> None:
    """--binary takes a path or a name on PATH."""
    collector(folder, "exit 1")
    path = collector(folder, "exit 0", "mine")
    for binary in (path, "mine"):
        assert flowspan("check", "--backend", "local", "--binary", binary).exit_code == 0


def test_check_does_not_wait_forever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot be run gets the same exit code."""
    monkeypatch.setattr(program, "TIMEOUT", 0.2)
    collector(folder, "exec /bin/sleep 20")
    done = flowspan("check", "--backend", "local")
    assert (done.exit_code, "did not answer" in done.stderr) == (3, True)
    collector(folder, "").write_bytes(b"\x7fELF nonsense")
    done = flowspan("check", "--backend", "local")
    assert (done.exit_code, "cannot be run: " in done.stderr) == (3, True)
