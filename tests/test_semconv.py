"""The table of waits: every other list of them follows it."""

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
    """Each attribute of a wait is in the table once, and no other."""
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
    """Those before the span come first; so the legend, the page and sums can go by the table."""
    places = get_args(semconv.Place)
    order = [places.index(wait.place) for wait in semconv.WAITS]
    assert all(first <= second for first, second in pairwise(order))
    assert {*order} == {*range(len(places))}


def test_each_wait_has_a_field() -> None:
    """What a reader finds in the attribute, the analysis finds in the field of that name."""
    fields = {field.name: field.default for field in msgspec.structs.fields(Facts)}
    assert {name: fields.get(name) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_each_phase_has_a_look() -> None:
    """Waits have all words; no two phases look alike, with and without Unicode, or by pattern."""
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
    """The redaction looks at none: numbers are no secrets, and to look takes most of its time."""
    base = yaml.safe_load((ROOT / "collector/base.yaml").read_text(encoding="utf-8"))
    ignored = base["processors"]["redaction"]["ignored_keys"]
    listed = [key for key in ignored if key.startswith(semconv.WAIT_PREFIX)]
    assert listed == sorted(wait.attribute for wait in semconv.WAITS)
