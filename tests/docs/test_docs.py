"""Every block of README.md, CONTRIBUTING.md and docs/ runs, or is checked."""

import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pages
import pytest
import structlog
from held_run import held_run
from pages import PAGES, ROOT, name_of, parse
from sybil import Example
from typer.testing import CliRunner

from flowspan import semconv
from flowspan.analysis.phases import CAUSES, OPEN
from flowspan.cli.answers import draw, to_json
from flowspan.cli.main import app
from flowspan.read.span import Open
from flowspan.settings import Settings, known_variables
from flowspan.text import SECOND
from flowspan.views.headline import doing, so_far
from flowspan.views.looks import LOOKS
from support import RecordedMetrics, RecordedSpans

BLOCKS = [
    pytest.param(example, id=f"{name_of(page)}:{example.line}-{pages.language_of(example)}")
    for page in PAGES
    for example in parse(page)
    if pages.language_of(example) != "python"
]


def blocks(language: str, page: str | None = None) -> list[Any]:
    """Return the blocks of a language, optionally of one page."""
    return [
        param
        for param in BLOCKS
        if str(param.id).endswith(f"-{language}")
        and (page is None or str(param.id).startswith(f"{page}:"))
    ]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_test(page: Path) -> None:
    """A block in an unknown language, or without one, is an error."""
    tested = Counter(
        pages.language_of(example)
        for example in parse(page)
        if page.read_text(encoding="utf-8").startswith("```", example.start)
    )
    assert tested == Counter(pages.languages(page))


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: Example) -> None:
    """Commands, options and variables exist; everything else is well-formed."""
    block.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names(page: Path) -> None:
    """Each variable of flowspan, OpenTelemetry or Prefect on a page exists."""
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"\b(?:FLOWSPAN|OTEL|PREFECT)_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)", text)):
        pages.check_variable(name)


# Python


@pytest.fixture
def unchanged_logging() -> Iterator[None]:
    """Restore logging afterwards, because pages set it up."""
    known = [logging.getLogger(), *map(logging.getLogger, [*logging.root.manager.loggerDict])]
    before = [(logger, [*logger.handlers], logger.level) for logger in known]
    yield
    structlog.reset_defaults()
    logging.getLogger("shop").handlers = []
    for logger, handlers, level in before:
        logger.handlers = handlers
        logger.setLevel(level)


@pytest.mark.usefixtures("unchanged_logging")
@pytest.mark.parametrize("page", [p for p in PAGES if "python" in pages.languages(p)], ids=name_of)
def test_python(page: Path, spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """The Python blocks of a page run in order, and do what the page says."""
    document = parse(page)
    document.namespace |= {"__name__": "documented", "spans": spans, "metrics": metrics}
    for example in document:
        if pages.language_of(example) != "python":
            continue
        if pages.is_compiled_only(example):
            compile(str(example.parsed), example.path, "exec")
        else:
            example.evaluate()


# The recordings of a reader who follows the quick start


@dataclass(frozen=True)
class Recorded:
    """The quick start's flow, run twice in its own folder."""

    folder: Path

    def run(self, *arguments: str) -> str:
        """Run ``flowspan`` there; return its output."""
        done = CliRunner(charset="utf-8").invoke(app, arguments)
        assert done.exit_code == 0, f"flowspan {' '.join(arguments)}: {done.output}"
        return done.stdout

    def document(self, *arguments: str) -> Any:
        """Run ``flowspan`` there; return its JSON."""
        return json.loads(self.run(*arguments))


@pytest.fixture(scope="module")
def quick_start(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the quick start's flow, and run it twice, in one process."""
    folder = tmp_path_factory.mktemp("quick-start")
    (python,) = (e for e in parse(ROOT / "docs/quickstart.md") if pages.language_of(e) == "python")
    (folder / "flow.py").write_text(str(python.parsed), encoding="utf-8")
    twice = "import runpy\nfor _ in range(2): runpy.run_path('flow.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", twice],
        check=False,
        cwd=folder,
        env=os.environ | {"PREFECT_LOGGING_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    traces = folder / ".flowspan" / "traces.jsonl"
    (folder / "traces.jsonl").write_bytes(traces.read_bytes())
    return folder


@pytest.fixture
def recorded(quick_start: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The quick start's recordings, in the working directory."""
    monkeypatch.chdir(quick_start)
    monkeypatch.setenv("COLUMNS", "108")
    monkeypatch.setenv("TERM", "dumb")
    return Recorded(quick_start)


# These need a backend, a Collector, half a minute or other runs, and have their own tests.
_NOT_RUN = ("demo", "check", "watch", "why", "--jaeger", "--victorialogs", "--result")


def test_commands(recorded: Recorded) -> None:
    """Every command that reads recordings succeeds, with the options shown."""
    trace = recorded.document("timeline", "--json")
    run_id = trace["spans"][0]["attributes"]["prefect.flow_run.id"]
    before = recorded.document("timeline", "latest~1", "--json")["trace_id"]
    name = trace["spans"][0]["attributes"]["prefect.run.name"]
    names = {"FLOW_RUN_ID": run_id, "RUN": name, "RUN_A": before, "RUN_B": trace["trace_id"][:8]}
    shown = {
        tuple(names.get(word, word) for word in command.words[1:])
        for param in (*blocks("console"), *blocks("sh"))
        for command in pages.commands(param.values[0])
        if command.words[:1] == ["flowspan"]
    }
    ran = [words for words in sorted(shown) if not {*words} & {*_NOT_RUN}]
    assert len(ran) > 15
    for words in ran:
        recorded.run(*words)


# Maps whose keys are names; an example shows only some of them.
_BY_NAME = {
    *("attributes", "resource", "causes", "waiting", "waits", "results", "states", "by_cause"),
    *("retried_errors", "errors", "violations", "by_task", "data"),
}


def shape(value: Any, path: str = "") -> set[str]:
    """Return every key of a document, with its place."""
    if isinstance(value, list):
        return {place for item in value for place in shape(item, f"{path}[]")}
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, item in value.items():
        named = path.endswith((".tasks", *(f".{name}" for name in _BY_NAME)))
        place = f"{path}.*" if named else f"{path}.{key}"
        found |= shape(item, place) | (set() if named else {place})
    return found


JSON_COMMANDS = [
    ("timeline", "--json"),
    ("runs", "--json"),
    ("logs", "--json"),
    ("metrics", "--json"),
    ("diff", "--json"),
    ("trends", "--json"),
]


def documented_json(command: tuple[str, ...]) -> Any:
    """Return the example of docs/json.md for a command."""
    page = read("docs/json.md")
    start = page.index(f"## `flowspan {' '.join(command)}`")
    lines = page[: page.index("```json", start)].count("\n") + 1
    (example,) = (
        param.values[0]
        for param in blocks("json", "docs/json.md")
        if param.id == f"docs/json.md:{lines}-json"
    )
    (documented,) = pages.documents(example)
    return documented


def test_shape_of_answers() -> None:
    """docs/json.md has exactly the keys of `flowspan why`."""
    real = json.loads(to_json(held_run()))
    assert shape(real) == shape(documented_json(("why", "--json")))


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=" ".join)
def test_shape_of_json(command: tuple[str, ...], recorded: Recorded) -> None:
    """Each key in a command's output is in the example of docs/json.md, in its place."""
    documented = documented_json(command)
    printed = recorded.run(*command)
    real = json.loads(printed.splitlines()[0]) if command[0] == "logs" else json.loads(printed)
    assert shape(real) <= shape(documented)
    if command[0] not in {"trends", "metrics"}:  # too few runs for answers, no metric of their own
        always = {place for place in shape(documented) if "*" not in place}
        assert {place for place in always if "links[]" not in place} <= shape(real)


# Drawings


def words(text: str) -> set[str]:
    """Return the words of a heading, without times on the axis."""
    return {word for word in text.split() if not re.search(r"\d", word)} - {"ms", "s", "min"}


def names_in_tree(text: str) -> list[str]:
    """Return the runs in a drawn timeline or table, without random suffixes."""
    rows = re.findall(r"^[│ ]*[├└]─ (?:RUN )?([a-z_]+(?: \d)?)", text, re.MULTILINE)
    return [row for row in rows if not row.startswith("attempt")]


def functions_of(example: str) -> str:
    return read(f"examples/{example}.py")


def draws_the_quick_start(drawn: str, recorded: Recorded) -> None:
    real = recorded.run("timeline")
    assert Counter(names_in_tree(drawn)) == Counter(names_in_tree(real))
    heading = next(line for line in drawn.splitlines() if line.startswith("span "))
    assert words(heading) == words(next(x for x in real.splitlines() if x.startswith("span ")))
    assert drawn.splitlines()[0].startswith("nightly ")


def draws_the_demo(drawn: str, recorded: Recorded) -> None:
    source = functions_of("nyc_flights")
    assert names_in_tree(drawn)
    for name in names_in_tree(drawn):
        assert f"def {name}(" in source, name
    real = recorded.run("timeline") + recorded.run("metrics")
    headings = [line for line in real.splitlines() if re.match("span |task |flow / task ", line)]
    known = words(" ".join(headings)) | {"slack", "retries"}  # columns that the demo fills, too
    for heading in re.findall(r"^(?:span |task |flow / task ).*", drawn, re.MULTILINE):
        assert words(heading) <= known, heading


def draws_the_logging_example(drawn: str, _: Recorded) -> None:
    source = functions_of("structlog_flow")
    for text in (*names_in_tree(drawn), "asking for the rate", "the bank closed the connection"):
        assert text in drawn
        assert text in source


def draws_the_doctor(drawn: str, recorded: Recorded) -> None:
    real = recorded.run("doctor")
    for line in drawn.splitlines():
        assert re.search(rf"^\S +{line.split()[1]} ", real, re.MULTILINE), line


def draws_the_layers(drawn: str, _: Recorded) -> None:
    layers = {path.stem for path in ROOT.glob("collector/*.yaml")} - {"builder"}
    assert layers == {layer for layer in layers if re.search(rf"\b{layer}\b", drawn)}


def draws_a_flow_that_is_killed(drawn: str, _: Recorded) -> None:
    source = read("tests/flows/killed.py")
    for name in ("slow", *names_in_tree(drawn)):
        assert f"def {name}(" in source, name
    last_seen = Open("running", 0, "retry")
    assert f"▶ {so_far(last_seen, round(10.2 * SECOND))}" in drawn.splitlines()[0]
    for activity in ("retry", "execution"):
        assert doing(last_seen._replace(activity=activity)) in drawn
    assert f"{LOOKS[OPEN].glyph.unicode} {LOOKS[OPEN].glyph.word}" in drawn


def draws_the_runs(drawn: str, recorded: Recorded) -> None:
    real = recorded.run("runs")
    heading, *lines = drawn.splitlines()
    assert words(heading) <= words(real.splitlines()[0])
    assert all(re.search(r"^\S+ \S+  nightly  \w+-\w+ +\S \w+ ", line) for line in lines)
    assert re.search(r"^\S+ \S+  nightly  \w+-\w+ +✓ success ", real, re.MULTILINE)


def draws_an_answer(drawn: str, _: Recorded) -> None:
    lines = [line.plain for line in draw(held_run(), width=80, unicode=True)]
    assert drawn.splitlines() == lines


DRAWINGS: dict[str, Callable[[str, Recorded], None]] = {
    "nightly  ": draws_the_quick_start,
    "slow  ": draws_a_flow_that_is_killed,
    "         start  flow": draws_the_runs,
    "nyc-flights  ": draws_the_demo,
    "from 2026": draws_the_demo,
    "├─ convert": draws_the_logging_example,
    "✓  Prefect": draws_the_doctor,
    "flows ── OTLP": draws_the_layers,
    "Flow run 'fluffy-otter'": draws_an_answer,
}


@pytest.mark.parametrize("block", blocks("text"))
def test_drawings(block: Example, recorded: Recorded) -> None:
    """The output shown on a page has the names and columns of real output."""
    drawn = str(block.parsed)
    (check,) = (check for start, check in DRAWINGS.items() if drawn.startswith(start))
    check(drawn, recorded)


# Lists on pages


def in_table(page: str, heading: str) -> dict[str, str]:
    """Return the first two columns of the table below a heading; names without backticks."""
    section = read(page).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`|]+)`[^|]*\|([^|]*)\|", section, re.MULTILINE)
    assert rows, f"{page} has no table below {heading!r}"
    return {name: second.strip(" `") for name, second in rows}


def test_settings() -> None:
    """docs/settings.md has every variable once, and the default of every setting."""
    listed = in_table("docs/settings.md", "flowspan's variables")
    assert {*listed} == {*known_variables()}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = listed[f"FLOWSPAN_{name.upper()}"]
        if name == "log_level":
            default = logging.getLevelName(default)
        expected = "" if default in (None, {}) else str(default).removesuffix(".0")
        assert shown.lower() == expected.lower(), name


@pytest.mark.parametrize("block", blocks("toml"))
def test_objectives(block: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objectives on a page are valid for flowspan."""
    text = str(block.parsed)
    name = "pyproject.toml" if "[tool.flowspan" in text else "flowspan.toml"
    (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert "nightly" in Settings().slo


def test_metrics() -> None:
    """docs/metrics.md has exactly flowspan's metrics."""
    names = {value for name, value in vars(semconv).items() if name.startswith("METRIC_")}
    listed = {
        name.replace("<name>", "") for name in in_table("docs/metrics.md", "What is measured")
    }
    assert listed == names


def test_waits() -> None:
    """docs/spans.md has exactly the attributes that say where the time went."""
    times = [wait.attribute for wait in semconv.WAITS]
    listed = [*in_table("docs/spans.md", "Where the time went")]
    assert listed == [*times, semconv.EXECUTION, semconv.ORCHESTRATION]


def test_reasons() -> None:
    """docs/why.md has every reason, in the order in which a run meets the obstacles."""
    assert [*in_table("docs/why.md", "Reasons")] == [*semconv.LATE_REASONS]


def test_causes() -> None:
    """docs/bottleneck.md has every cause of the critical path, and no other."""
    listed = {*in_table("docs/bottleneck.md", "The critical path")}
    assert listed == {*CAUSES.values()}


def test_names_of_waits() -> None:
    """The pages name the waits that JSON documents and the metric have, in the same order."""
    waits = [wait.name for wait in semconv.WAITS]
    measured = [wait.name for wait in semconv.WAITS if wait.in_metric]
    for page, heading, key, names in (
        ("docs/json.md", "`flowspan timeline --json`", "waits", waits),
        ("docs/json.md", "`flowspan metrics --json`", "waits", ["pending", *measured]),
        ("docs/metrics.md", "What is measured", semconv.METRIC_TASK_RUN_WAIT, measured),
    ):
        section = read(page).partition(f"## {heading}\n")[2].partition("\n## ")[0]
        (row,) = re.findall(rf"^\| `{re.escape(key)}` (.*)$", section, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row) == names, (page, heading)


def test_attributes() -> None:
    """Every name that flowspan writes is on a page."""
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = {
        value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    assert {name for name in names if name not in everything} == set()


def test_public_names() -> None:
    """docs/api.md has every public name."""
    page = read("docs/api.md")
    from flowspan import __all__ as names
    from flowspan.logs import __all__ as logs

    listed = {*re.findall(r"auto\w+:: (\S+)", page)}
    assert {f"flowspan.{name}" for name in names if not name.startswith("__")} <= listed
    assert {f"flowspan.logs.{name}" for name in logs} <= listed


def test_readme_elsewhere() -> None:
    """Links in README.md are absolute, since PyPI shows it elsewhere, and lead to files."""
    links = re.findall(r"\]\(([^)]+)\)", read("README.md"))
    place = re.compile(
        r"https://(?:github\.com|raw\.githubusercontent\.com)/flowspan/flowspan/(?:blob/)?main/(.+)"
    )
    assert len(links) > 15
    for link in links:
        found = place.fullmatch(link)
        assert found is not None, link
        assert (ROOT / found[1]).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_into_the_repository(page: Path) -> None:
    """A link to a file of the repository leads to an existing file."""
    for path in re.findall(
        r"github\.com/flowspan/flowspan/(?:blob|tree)/main/([^)>#\s]+)",
        page.read_text(encoding="utf-8"),
    ):
        assert (ROOT / path).exists(), path
