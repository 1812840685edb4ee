"""What ``flowspan why`` prints fits the terminal, and can be used to ask further."""

import json
from dataclasses import replace

import pytest
from held_run import held_run
from rich.cells import cell_len

from flowspan.cli.answers import Answers, draw, to_json


def drawn(answers: Answers, width: int = 80, *, unicode: bool = True) -> list[str]:
    return [line.plain for line in draw(answers, width=width, unicode=unicode)]


def listed(*ids: str) -> Answers:
    """Return a list of runs that differ in their ids."""
    answers = held_run()
    (one,) = answers.found
    assert one.run is not None
    runs = [replace(one.run, id=run_id, name=f"name-{run_id[-1]}") for run_id in ids]
    return replace(answers, found=[replace(one, run=run) for run in runs], is_one=False)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit(width: int) -> None:
    """No line is wider than the terminal; a command is whole, over several lines if need be."""
    lines = drawn(held_run(), width)
    # An id and an address are not broken.
    assert max(cell_len(line) for line in lines if not line.startswith(("id:", "8 req"))) <= width
    command = " ".join(line.strip(" \\") for line in lines if line.startswith("      "))
    assert command == "prefect work-pool set-concurrency-limit etl 3"


def test_ascii() -> None:
    """Without Unicode, there is only ASCII."""
    assert "".join(drawn(held_run(), unicode=False)).isascii()


def test_list() -> None:
    """At 80 columns, a line has the whole reason, and digits that find the run again."""
    lines = drawn(listed("25d3ab90-1", "36e4bca1-2"))
    heading, first, second, _, summary, requests = lines
    assert heading.split() == ["since", "flow", "run", "why"]
    assert first.split()[4:6] == ["invoices", "25d3ab90"]
    assert first.endswith("  all slots of work pool 'etl' are taken (2 of 2)")
    assert "36e4bca1" in second
    assert summary == "2 late: pool_full 2"
    assert requests == "8 requests to http://localhost:4200/api"


def test_ids_that_begin_alike() -> None:
    """Runs that a schedule made together have alike ids; their names tell them apart."""
    lines = drawn(listed("25d3ab90-1", "25d3ab90-2", "36e4bca1-3"))
    assert [
        next(word for word in line.split() if "-" in word or "36e4" in word) for line in lines[1:4]
    ] == [
        "name-1",
        "name-2",
        "36e4bca1",
    ]


def test_nothing_is_held() -> None:
    """If no run is late or pending, the list says so."""
    lines = drawn(replace(held_run(), found=[], is_one=False))
    assert lines[0] == "No flow run is late or pending."
    assert json.loads(to_json(replace(held_run(), found=[])))["runs"] == []


def test_one_request_is_one() -> None:
    """The number of requests is said in good English."""
    assert drawn(replace(held_run(), requests=1))[-1].startswith("1 request to ")
