"""The messages of scripts/programs.py if the programs cannot be built."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import programs


def build(programs_folder: Path, commands: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": str(commands), "E2E_PROGRAMS": str(programs_folder)}
    return subprocess.run(
        [sys.executable, programs.__file__, "collector"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_without_go_it_says_what_to_install(tmp_path: Path) -> None:
    """The message is one line, without a traceback."""
    done = build(tmp_path, tmp_path)
    assert done.returncode == 1
    assert "install Go 1." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("version", "toolchain"), [("go1.19.8", ""), ("go1.22.0", "local")])
def test_with_an_old_go_it_says_what_to_install(
    version: str, toolchain: str, tmp_path: Path
) -> None:
    """Unless that Go may download a newer one, which was impossible before 1.21."""
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\nprintf '{version}\\n{toolchain}\\n'\n")
    go.chmod(0o755)
    done = build(tmp_path, tmp_path)
    assert done.returncode == 1
    assert f"{version} is too old" in done.stderr


@pytest.mark.parametrize("program", programs.PROGRAMS.values(), ids=lambda program: program.name)
def test_pins_require_the_version_that_is_named(program: programs.Program) -> None:
    """Otherwise the folder's name would be wrong."""
    required = (program.pins / "go.mod").read_text().split()
    pairs = pairwise(required)
    assert any(
        f"{program.package}/".startswith(f"{module}/") and version == f"v{program.version}"
        for module, version in pairs
    )


def test_a_program_is_built_anew_when_its_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's name has a hash of the pins."""
    before = programs.JAEGER.path
    monkeypatch.setattr(programs, "PINS", tmp_path)
    programs.JAEGER.pins.mkdir()
    for pin in programs.pins(programs.JAEGER.pins):
        pin.write_text("other")
    assert programs.JAEGER.path != before
