"""Objectives come from an argument, a variable or a file; errors in them are reported at once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import flowspan
from flowspan.cli.examination import Finding, Verdict, examine
from flowspan.errors import ConfigurationError
from flowspan.export import providers
from flowspan.objectives.promises import Objectives
from flowspan.settings import Settings, objectives_source

OWN = "flowspan.toml"
SHARED = "pyproject.toml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, without settings above it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slo_table(name: str, rows: int) -> str:
    """Return the text of the file with an objective of that many rows."""
    return f"[{'tool.flowspan.' if name == SHARED else ''}slo.f]\nmin_rows = {rows}\n"


def min_rows(settings: Settings) -> int | None:
    return settings.slo["f"].min_rows if "f" in settings.slo else None


def error_of(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        Settings(**arguments)
    return str(raised.value)


@pytest.mark.parametrize(
    ("files", "expected", "source"),
    [
        ([], None, None),
        ([OWN], 1, OWN),
        ([SHARED], 1, SHARED),
        ([OWN, SHARED], 1, OWN),
        ([f"../{OWN}"], 1, f"../{OWN}"),
        ([f"../../{SHARED}"], 1, f"../../{SHARED}"),
        ([SHARED, f"../{OWN}"], 1, SHARED),
        ([f"../{SHARED}", f"../../{OWN}"], 1, f"../{SHARED}"),
        ([f"sub/{OWN}"], None, None),
    ],
)
def test_which_file(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    expected: int | None,
    source: str | None,
) -> None:
    """The nearest folder upward counts, and in it flowspan.toml before pyproject.toml."""
    cwd = here / "a" / "b"
    (cwd / "sub").mkdir(parents=True)
    monkeypatch.chdir(cwd)
    for rows, name in enumerate(files, 1):
        (cwd / name).write_text(slo_table(Path(name).name, rows))
    assert min_rows(Settings()) == expected
    shown = source and (source if "/" not in source else str((cwd / source).resolve()))
    assert objectives_source() == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[project]\nname = 'x'\n", 2),
        ("[tool.ruff]\n# not flowspan\n", 2),
        ("[project]\ndependencies = ['flowspan']\n[tool]\n", 2),
        ("dependencies = ['flowspan'", 2),
        ("tool = 'flowspan'\n", 2),
        ("[tool.flowspan]\n", None),
        ("[tool]\nflowspan.slo.f.min_rows = 1\n", 1),
        ("\ufeff[tool.flowspan.slo.f]\r\nmin_rows = 1\r\n", 1),
    ],
)
def test_pyproject_without_a_table(
    here: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None
) -> None:
    """Only a pyproject.toml with flowspan's table ends the search; others are not checked."""
    (here / OWN).write_text(slo_table(OWN, 2))
    (here / "sub").mkdir()
    (here / "sub" / SHARED).write_text(text, newline="")
    monkeypatch.chdir(here / "sub")
    assert min_rows(Settings()) == expected


def test_first_source_wins_as_a_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument replaces the variable, which replaces the file: entries are not merged."""
    (here / OWN).write_text(slo_table(OWN, 1))
    monkeypatch.setenv("FLOWSPAN_SLO", '{"f": {"min_rows": 2}, "tag:g": {"max_late": "1m"}}')
    given: dict[str, Any] = {"h": {"max_rows": 3}}
    assert list(Settings(slo=given).slo) == ["h"]
    found = Settings()
    assert (min_rows(found), found.slo["tag:g"].max_late) == (2, 60)
    assert objectives_source() == "FLOWSPAN_SLO"
    monkeypatch.setenv("FLOWSPAN_SLO", "{}")
    assert Settings().slo == {}
    monkeypatch.delenv("FLOWSPAN_SLO")
    assert min_rows(Settings()) == 1
    assert Settings(slo={}).slo == {}


def test_a_file_is_read_only_if_needed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken file does no harm if an argument or a variable sets objectives."""
    (here / OWN).write_text("[[[")
    assert Settings(slo={}).slo == {}
    monkeypatch.setenv("FLOWSPAN_SLO", "{}")
    assert Settings().slo == {}


def test_arguments(here: Path) -> None:
    """Plain dictionaries and objectives both work, and may be changed later."""
    plain: dict[str, Any] = {"x": {"max_duration": 5}}
    settings = Settings(slo=plain)
    assert settings.slo == {"x": Objectives(max_duration=5)}
    assert Settings(slo={"x": Objectives(max_duration=5)}) == settings
    plain["x"]["max_duration"] = plain["y"] = 6
    assert settings.slo == {"x": Objectives(max_duration=5)}


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ('{"x": {"max_duration": -5}}', "slo.x.max_duration", "greater than 0"),
        ('{"x": {"max_durations": 5}}', "slo.x.max_durations", "not permitted"),
        ('{"tag:": {"max_duration": 5}}', "slo.tag:.[key]", "neither a flow nor"),
        ("{", "slo", "should be JSON: Expecting property name"),
        ("5", "slo", "dictionary"),
        ("", "slo", "should be JSON"),
    ],
)
def test_bad_variables(
    monkeypatch: pytest.MonkeyPatch, written: str, place: str, said: str
) -> None:
    """An error in the variable or an argument is a validation error at its key."""
    monkeypatch.setenv("FLOWSPAN_SLO", written)
    with pytest.raises(ValidationError) as by_variable:
        Settings()
    monkeypatch.delenv("FLOWSPAN_SLO")
    value: Any = json.loads(written) if written.endswith(("}", "5")) else written
    with pytest.raises(ValidationError) as by_argument:
        Settings(slo=value)
    for raised in (by_variable, by_argument):
        (problem,) = raised.value.errors()
        assert ".".join(map(str, problem["loc"])) == place
        assert said in problem["msg"]


NAMES = "max_duration, max_late, min_rows, max_rows, max_task_share, min_success_rate"
DURATION = "a number of seconds, or text such as 90s, 1h30m or 2d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slo.f.max_duration = -5", "slo.f.max_duration: must be greater than 0, not -5"),
        ("slo.f.max_duration = '0s'", 'slo.f.max_duration: must be greater than 0, not "0s"'),
        ("slo.f.max_duration = 'soon'", f'slo.f.max_duration: must be {DURATION}, not "soon"'),
        ("slo.f.max_duration = inf", "slo.f.max_duration: must be a finite number, not Infinity"),
        (
            "slo.f.max_duration = 10:00:00",
            'slo.f.max_duration: must be a valid number, not "10:00:00"',
        ),
        ("slo.f.max_rows = true", "slo.f.max_rows: must be a valid integer, not true"),
        (
            "slo.f.min_success_rate = 95",
            "slo.f.min_success_rate: must be at most 1: write 0.95 for 95 %, not 95",
        ),
        (
            "slo.f.min_success_rate.rate = 95",
            "slo.f.min_success_rate.rate: must be at most 1: write 0.95 for 95 %, not 95",
        ),
        ("slo.f.min_success_rate.days = 7", "slo.f.min_success_rate: has no rate"),
        (
            "slo.f.min_success_rate = {rate = 1, day = 7}",
            "slo.f.min_success_rate.day: is unknown (valid keys: rate, runs, days)",
        ),
        ("slo.f.max_late = 'x'\nslo.f.t = 1", f"slo.f.t: is unknown (valid keys: {NAMES})"),
        ("slos = 1", "slos: is unknown (valid keys: slo)"),
        ("slo = 5", "slo: must be a table, not 5"),
        (
            "slo.max_rows = 5",
            "slo.max_rows: must be a flow's name or tag:NAME, with a table of objectives, not 5",
        ),
        ("slo.f = {}", f"slo.f: must set at least one of {NAMES}, not {{}}"),
        (
            "slo.f = {min_rows = 2, max_rows = 1}",
            "slo.f: has a min_rows of 2, which is more than its max_rows of 1",
        ),
        (
            "slo.'tag:my \"x'.max_rows = -1",
            'slo."tag:my \\"x".max_rows: must be greater than or equal to 0, not -1',
        ),
        ("slo.'tag:'.max_rows = 1", 'slo."tag:": names neither a flow nor, as tag:NAME, a tag'),
    ],
)
def test_bad_files(here: Path, text: str, expected: str) -> None:
    """Each problem has a line with the file, the full key, the reason and the actual value."""
    (here / OWN).write_text(text)
    assert f"{OWN}: {expected}" in error_of().splitlines()
    (here / OWN).unlink()
    (here / SHARED).write_text(f"[tool.flowspan]\n{text}")
    assert f"{SHARED}: tool.flowspan.{expected}" in error_of().splitlines()


def test_every_problem_is_named(here: Path) -> None:
    """All problems of a file are reported at once, one line each."""
    (here / SHARED).write_text(
        "[tool.flowspan]\nsol = 1\n[tool.flowspan.slo]\na.max_rows = -1\nb.max_late = -1\n"
    )
    keys = [line.split(": ")[1] for line in error_of().splitlines()]
    table = "tool.flowspan"
    assert keys == [f"{table}.slo.a.max_rows", f"{table}.slo.b.max_late", f"{table}.sol"]


def test_a_table_that_is_none(here: Path) -> None:
    """A pyproject.toml in which flowspan is not a table is reported."""
    (here / SHARED).write_text("tool.flowspan = 3")
    assert error_of() == f"{SHARED}: tool.flowspan: must be a table, not 3"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (OWN, b"[slo.f]\nmin_rows 5\n", "line 2"),
        (OWN, b"[slo.f]\nmin_rows = 5\nmin_rows = 6\n", "line 3"),
        (OWN, b"\xff", "utf-8"),
        (SHARED, b"[tool.flowspan.slo.f]\nmin_rows 5\n", "line 2"),
    ],
)
def test_broken_files(here: Path, name: str, content: bytes, said: str) -> None:
    """A file that is not TOML is an error with the file, the line and the reason."""
    (here / name).write_bytes(content)
    error = error_of()
    assert error.startswith(f"{name}: ")
    assert said in error
    with pytest.raises(ConfigurationError, match=name):
        objectives_source()


def test_a_file_above_is_named_by_its_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the working directory, the message has the whole path."""
    (here / OWN).write_text("slo.f.max_rows = -1")
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    assert error_of().startswith(f"{here / OWN}: slo.f.max_rows: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_folders_without_a_readable_file(here: Path) -> None:
    """A folder with that name or a dangling link does not count as a file."""
    (here / OWN).mkdir()
    (here / SHARED).symlink_to(here / "nowhere")
    assert Settings().slo == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read it all")
def test_files_that_may_not_be_read(here: Path) -> None:
    """flowspan.toml must be readable, other files need not."""
    for name in (SHARED, OWN):
        (here / name).write_text(slo_table(name, 1))
        (here / name).chmod(0)
        if name == SHARED:
            assert Settings().slo == {}
    assert error_of() == f"{OWN}: Permission denied"


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a working directory from being removed")
def test_a_working_directory_that_is_gone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the working directory was removed, there is no file and no error."""
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert Settings().slo == {}
    assert objectives_source() is None


def test_instrument_refuses_a_bad_file(here: Path) -> None:
    """instrument() raises for a bad objective, with file, key and reason, and patches nothing."""
    (here / SHARED).write_text("[tool.flowspan.slo.nightly]\nmax_duration = -5\n")
    with pytest.raises(providers.ConfigurationError) as raised:
        flowspan.instrument()
    assert str(raised.value) == (
        "pyproject.toml: tool.flowspan.slo.nightly.max_duration: must be greater than 0, not -5"
    )
    assert flowspan.PrefectInstrumentor().patched == []


@pytest.mark.parametrize(
    ("text", "variable", "expected"),
    [
        (None, None, (Verdict.NOTE, "none are set")),
        ("", None, (Verdict.NOTE, "none in flowspan.toml")),
        ("slo.f.max_rows = 1", "{}", (Verdict.NOTE, "none in FLOWSPAN_SLO")),
        (
            "slo.f.max_rows = 1\nslo.g.max_rows = 1\nslo.'tag:t'.max_rows = 1",
            None,
            (Verdict.WELL, "for flows: 2, for tags: 1, from flowspan.toml"),
        ),
        (
            None,
            '{"tag:t": {"max_rows": 1}}',
            (Verdict.WELL, "for flows: 0, for tags: 1, from FLOWSPAN_SLO"),
        ),
        (
            "slo.f.max_rows = -1",
            None,
            (
                Verdict.WRONG,
                "flowspan.toml: slo.f.max_rows: must be greater than or equal to 0, not -1",
            ),
        ),
    ],
)
def test_doctor_tells_the_source(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    variable: str | None,
    expected: tuple[Verdict, str],
) -> None:
    """The doctor shows the number and the source of objectives, or what is wrong."""
    if text is not None:
        (here / OWN).write_text(text)
    if variable is not None:
        monkeypatch.setenv("FLOWSPAN_SLO", variable)
    found = [finding for finding in examine() if finding.subject == "objectives"]
    assert found == [Finding("objectives", *expected)]


def test_doctor_names_the_bad_objective_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad objective in the variable is reported with its key."""
    monkeypatch.setenv("FLOWSPAN_SLO", '{"f": {"max_rows": -1}}')
    *_, last = examine()
    assert (last.subject, last.verdict) == ("settings", Verdict.WRONG)
    assert last.detail.startswith("slo.f.max_rows: Input should be greater than or equal to 0")


def test_a_bad_file_does_not_matter_to_who_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLOWSPAN_ENABLED=false turns flowspan off, even with a broken file."""
    (tmp_path / "flowspan.toml").write_text("[slo.etl]\nmax_duration = -1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSPAN_ENABLED", "off")
    assert Settings().slo == {}
    monkeypatch.setenv("FLOWSPAN_ENABLED", "on")
    with pytest.raises(ConfigurationError, match="max_duration"):
        Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FLOWSPAN_FLUSH_TIMEOUT", "soon"), ("FLOWSPAN_SLO", '{"etl": {"max_rows": "{x}"}}')],
)
def test_error_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Whoever set the variable finds its name in the message, not only that of a field."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    (problem,) = raised.value.errors()
    assert problem["msg"].startswith("Input should be")
    assert problem["msg"].endswith(f"({variable})")


def test_error_in_an_argument_names_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument has won over the variable."""
    monkeypatch.setenv("FLOWSPAN_FLUSH_TIMEOUT", "5")
    with pytest.raises(ValidationError) as raised:
        Settings(flush_timeout=-1)
    assert "FLOWSPAN_" not in str(raised.value)


def test_every_variable_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is refused; one that only a command reads is not."""
    monkeypatch.setenv("FLOWSPAN_JAEGER_HEADERS", "x-tenant=etl")
    Settings()
    monkeypatch.setenv("FLOWSPAN_JAEGER_HEADER", "x-tenant=etl")
    with pytest.raises(
        ValidationError, match=r"jaeger_header; valid settings are .*FLOWSPAN_JAEGER_HEADERS"
    ):
        Settings()
