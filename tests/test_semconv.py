"""The table of waits, which every other list of waits follows."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import yaml

from flowspan import semconv
from flowspan.analysis.phases import CAUSES
from flowspan.read.facts import Facts
from flowspan.views.looks import LOOKS

ROOT = Path(__file__).parents[1]
NAMES = [wait.name for wait in semconv.WAITS]


def test_each_wait_has_one_row() -> None:
    """The table has each attribute of a wait once, and nothing else."""
    attributes = {
        value
        for name, value in vars(semconv).items()
        if name.startswith("WAIT_") and name not in ("WAIT_PREFIX", "WAIT_TYPE")
    }
    assert Counter(wait.attribute for wait in semconv.WAITS) == Counter(attributes)
    assert Counter(NAMES) == Counter({*NAMES})
    states = [wait.state for wait in semconv.WAITS if wait.state]
    assert Counter(states) == Counter({*states})


def test_waits_stand_in_the_order_in_which_they_happen() -> None:
    """Waits before the span come first; the legend, the page and sums use this order."""
    places = get_args(semconv.Place)
    order = [places.index(wait.place) for wait in semconv.WAITS]
    assert all(first <= second for first, second in pairwise(order))
    assert {*order} == {*range(len(places))}


def test_each_wait_has_a_field() -> None:
    """The field that the analysis reads has the name of the attribute."""
    fields = {field.name: field.default for field in msgspec.structs.fields(Facts)}
    assert {name: fields.get(name) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_each_phase_has_a_look() -> None:
    """Waits have all words; no two phases look alike, with or without Unicode, or by pattern."""
    assert LOOKS.keys() == CAUSES.keys()
    for wait in semconv.WAITS:
        look = LOOKS[wait.attribute]
        assert all((look.spent, look.waited, look.noun, look.bar.line)), wait.name
        assert look.bar.pattern, wait.name
    for values in (
        [look.glyph.unicode for look in LOOKS.values()],
        [look.glyph.ascii for look in LOOKS.values()],
        [(look.bar.pattern, look.bar.height) for look in LOOKS.values()],
    ):
        assert Counter(values) == Counter({*values})


def test_the_collector_skips_every_wait() -> None:
    """The redaction skips these numbers, because checking them takes most of its time."""
    base = yaml.safe_load((ROOT / "collector/base.yaml").read_text(encoding="utf-8"))
    ignored = base["processors"]["redaction"]["ignored_keys"]
    listed = [key for key in ignored if key.startswith(semconv.WAIT_PREFIX)]
    assert listed == sorted(wait.attribute for wait in semconv.WAITS)
