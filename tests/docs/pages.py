"""The documentation pages, their code blocks, and checks of the blocks that are not run."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import opentelemetry.environment_variables
import opentelemetry.instrumentation.environment_variables
import opentelemetry.sdk.environment_variables as sdk_variables
import prefect.settings
import promql_parser
import typer
import yaml
from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from flowspan.cli.main import app
from flowspan.collector.layers import available
from flowspan.settings import known_variables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("collector/*.md")], key=str
)
COMPILED_ONLY: Final = re.compile(r"<!-- compiled only: [^\n]+ -->\s*\Z")
_FENCE: Final = re.compile(r"^ *```(\S*)[^\n]*\n.*?^ *```$", re.MULTILINE | re.DOTALL)
_OPEN: Final = re.compile(r"\w+\Z")
_BUILT: Final = ("{toctree}", "{eval-rst}", "{literalinclude}")  # by `make docs`


def name_of(page: Path) -> str:
    """Return a page's name in test ids."""
    return str(page.relative_to(ROOT))


def languages(page: Path) -> list[str]:
    """Return the language of every block of a page, in order, without using Sybil."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [language for language in found if language not in _BUILT]


def parse(page: Path) -> Document:
    """Read the blocks of a page that a test runs or checks."""
    checks = (CodeBlockParser(language, check) for language, check in CHECKS.items())
    return Document.parse(str(page), PythonCodeBlockParser(), *checks)


def language_of(example: Example) -> str:
    """Return the language of a block; a hidden block has it in its comment."""
    language: str = example.region.lexemes["arguments"]
    return language


def is_compiled_only(example: Example) -> bool:
    """Return whether the page says that a block cannot be run here."""
    return COMPILED_ONLY.search(example.document.text[: example.start]) is not None


class Command(NamedTuple):
    """One command line: the variables set before it, and its words."""

    variables: dict[str, str]
    words: list[str]


def commands(example: Example) -> Iterator[Command]:
    """Yield the command lines of a block; in ``console`` blocks, the lines after a prompt."""
    for line in str(example.parsed).splitlines():
        if language_of(example) == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")  # noqa: PLW2901 - the prompt is no part of it
        words = shlex.split(line, comments=True)
        if words:
            yield _command(words)


def _command(words: list[str]) -> Command:
    if words[0] == "export":
        words = words[1:]
    variables = {}
    while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
        name, _, variables[name] = words[0].partition("=")
        words = words[1:]
    return Command(variables, words)


# Variables


def check_variable(name: str) -> None:
    """Fail unless a program reads a variable."""
    if name.startswith("FLOWSPAN_"):
        assert name in known_variables(), name
    elif name.startswith("OTEL_"):
        assert name in _OTEL, f"OpenTelemetry Python does not know {name}"
    elif name.startswith("PREFECT_"):
        is_known = hasattr(prefect.settings, name) or name in _prefect_logging()
        assert is_known, f"Prefect does not know {name}"
    else:
        assert name in _IN_FILES, f"no file of the repository reads {name}"


def _names(*modules: Any) -> frozenset[str]:
    return frozenset(
        name for module in modules for name in vars(module) if name.startswith("OTEL_")
    )


_OTEL: Final = _names(
    sdk_variables,
    opentelemetry.environment_variables,
    opentelemetry.instrumentation.environment_variables,
)
_IN_FILES: Final = frozenset(
    name
    for path in (ROOT / "docker-compose.yml", *ROOT.glob("collector/*.yaml"))
    for name in re.findall(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+", path.read_text(encoding="utf-8"))
)


def _prefect_logging() -> set[str]:
    """Return the variables for the keys of Prefect's ``logging.yml``."""

    def keys(table: Any, path: str) -> Iterator[str]:
        for key, value in table.items():
            name = f"{path}_{key}".upper().replace(".", "_")
            yield name
            if isinstance(value, dict):
                yield from keys(value, name)

    content = DEFAULT_LOGGING_SETTINGS_PATH.read_text(encoding="utf-8")
    return set(keys(yaml.safe_load(content), "PREFECT_LOGGING"))


# Commands


def check_commands(example: Example) -> None:
    """Fail unless the commands of a block, their options and variables exist."""
    found = list(commands(example))
    assert found, "no command: does a line lack its prompt?"
    for variables, words in found:
        for name in variables:
            check_variable(name)
        if words:
            program, *arguments = words
            assert program in _PROGRAMS, f"nothing checks the program {program}"
            _PROGRAMS[program](arguments)


def context_of(arguments: list[str]) -> Any:
    """Parse the arguments of ``flowspan`` like the command itself, without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("flowspan", [*arguments])
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, [*arguments], parent=context)
    return context


def _check_pip(arguments: list[str]) -> None:
    install, *packages = arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert install == "install"
    for package in packages:
        name, _, extras = package.rstrip("]").partition("[")
        for extra in filter(None, extras.split(",")):
            assert extra in project["project"]["optional-dependencies"], package
        if name != "flowspan":
            assert any(line.startswith(name) for line in _pins()), f"{name} is not tested here"


def _pins() -> list[str]:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def _check_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:.*##"
        assert re.search(pattern, makefile, re.MULTILINE), f"make knows no {name}"


def _check_compose(arguments: list[str]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    known = {"compose", "up", "down", "--wait", "--volumes", *compose["services"]}
    assert set(arguments) <= known, arguments


def _check_collector(arguments: list[str]) -> None:
    options, files = arguments[::2], arguments[1::2]
    assert set(options) == {"--config"}
    assert {Path(file).stem for file in files} <= available().keys()


def _check_script(arguments: list[str]) -> None:
    assert arguments[0] == "flow.py" or (ROOT / arguments[0]).exists(), arguments


def _check_instrumented(arguments: list[str]) -> None:
    import_module("opentelemetry.instrumentation.distro")
    assert arguments[0] == "python"
    _check_script(arguments[1:])


def _check_prefect(arguments: list[str]) -> None:
    shown = arguments[: arguments.index(">")] if ">" in arguments else arguments
    # test_pools.py does what those with a work pool do.
    assert shown in (
        ["worker", "start", "--pool", "local"],
        ["work-pool", "get-default-base-job-template", "--type", "kubernetes"],
        [
            *("work-pool", "create", "kubernetes", "--type", "kubernetes"),
            *("--base-job-template", "pool.json"),
        ],
    )


def _check_derivation(arguments: list[str]) -> None:
    # tests/test_identity.py runs this to compute a trace id.
    assert arguments == ["%s", "$FLOW_RUN_ID", "|", "b2sum", "-l", "128"]


def _anything(_: list[str]) -> None:
    """Accept anything: only the reader's machine can check it."""


_PROGRAMS: Final[dict[str, Callable[[list[str]], Any]]] = {
    "flowspan": context_of,
    "pip": _check_pip,
    "make": _check_make,
    "docker": _check_compose,
    "otelcol-contrib": _check_collector,
    "python": _check_script,
    "opentelemetry-instrument": _check_instrumented,
    "prefect": _check_prefect,
    "printf": _check_derivation,
    **dict.fromkeys(("cd", "chgrp", "git", "jq", "mkdir", "open"), _anything),
}


# Other languages


def _check_json(example: Example) -> None:
    documents(example)


def documents(example: Example) -> list[Any]:
    """Read the documents of a JSON block: one document, or one per line."""
    text = str(example.parsed)
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _check_yaml(example: Example) -> None:
    document = yaml.safe_load(str(example.parsed))
    assert isinstance(document, dict)
    for key, value in _pairs(document):
        if key == "()":
            module, _, name = value.rpartition(".")
            assert callable(getattr(import_module(module), name))


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _pairs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item)


def _check_toml(example: Example) -> None:
    assert tomllib.loads(str(example.parsed))


def _check_promql(example: Example) -> None:
    assert promql_parser.parse(str(example.parsed))


def _checked_with_what_is_printed(_: Example) -> None:
    """Do nothing: `test_docs.test_drawings` compares drawings with real output."""


CHECKS: Final[dict[str, Callable[[Example], None]]] = {
    "console": check_commands,
    "json": _check_json,
    "promql": _check_promql,
    "sh": check_commands,
    "text": _checked_with_what_is_printed,
    "toml": _check_toml,
    "yaml": _check_yaml,
}
"""The check of the blocks of each language except Python."""
