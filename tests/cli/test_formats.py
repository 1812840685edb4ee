"""The formats of ``flowspan timeline``."""

from typing import Any

import pytest
import typer
from made_spans import run, trace
from rich.text import Text

from flowspan.analysis.findings import Findings
from flowspan.cli import formats
from flowspan.cli.formats import Format
from flowspan.cli.main import app
from flowspan.views.wishes import Wishes

FILES = [found for found in vars(formats).values() if isinstance(found, Format) and found.done]


def findings() -> Findings:
    """Return the findings of a small trace."""
    return Findings(trace(run(1, 0, 9_000, type_="flow"), run(2, 1_000, 5_000, parent=1)))


@pytest.mark.parametrize("one", FILES, ids=lambda one: one.option)
def test_each_format_is_an_option_and_a_view(one: Format) -> None:
    """The view returns bytes, and a message says what to do with the file."""
    command: Any = typer.main.get_command(app)
    options = [name for found in command.commands["timeline"].params for name in found.opts]
    assert one.option in options
    assert all(isinstance(piece, bytes) for piece in one.render(findings(), Wishes()))
    assert "{path}" in one.done


def test_the_terminal_has_lines_and_json_has_bytes() -> None:
    """Both are rows of the same table."""
    assert all(isinstance(line, Text) for line in formats.TERMINAL.render(findings(), Wishes()))
    assert b"".join(formats.JSON.render(findings(), Wishes())).startswith(b'{\n  "version": 1')


def test_all_formats_of_a_trace_share_one_analysis() -> None:
    """The first format triggers it; trees are built only for formats that draw them."""
    shared = findings()
    list(formats.JSON.render(shared, Wishes()))
    analysis = shared.analysis
    assert not {"tree", "whole_tree"} & set(vars(shared))
    for one in (formats.TERMINAL, *FILES):
        list(one.render(shared, Wishes()))
    assert shared.analysis is analysis
    assert {"tree", "whole_tree"} <= set(vars(shared))
