"""The rules for a document in the Trace Event Format, from its specification.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from collections import Counter, defaultdict
from typing import Any

Event = dict[str, Any]


def check(document: Any) -> None:
    """Assert every rule: keys of each kind, names of tracks, order, nesting, pairs of arrows."""
    events: list[Event] = document["traceEvents"]
    for event in events:
        check_keys(event)
    check_names(events)
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] != "M":
            tracks[event["pid"], event["tid"]].append(event)
    for track in tracks.values():
        check_nesting([event for event in track if event["ph"] == "X"])
        check_binding(track)
    check_arrows([event for event in events if event["ph"] in ("s", "f")])


def check_keys(event: Event) -> None:
    """Each kind of event has the keys that it needs; times are whole microseconds."""
    needed = {
        "X": {"dur", "cat", "args"},
        "M": {"args"},
        "s": {"id", "cat"},
        "f": {"id", "cat", "bp"},
    }
    assert needed[event["ph"]] | {"ph", "ts", "pid", "tid", "name"} <= set(event)
    for key in ("ts", "dur", "pid", "tid"):
        assert type(event.get(key, 0)) is int, event
        assert event.get(key, 0) >= 0, event
    assert event["name"], event
    assert event.get("bp", "e") == "e"


def check_names(events: list[Event]) -> None:
    """Each track is named once, no two threads share an id, and none has a process's id."""
    named = Counter(
        (event["pid"], event["tid"], event["name"]) for event in events if event["ph"] == "M"
    )
    assert set(named.values()) == {1}
    for event in events:
        assert (event["pid"], event["tid"], "process_name") in named
        assert (event["pid"], event["tid"], "thread_name") in named
    threads = {(pid, tid) for pid, tid, _ in named}
    assert len({tid for _, tid in threads}) == len(threads)
    assert {pid for pid, _ in threads}.isdisjoint(tid for _, tid in threads)
    assert all(pid and tid for pid, tid in threads)  # 0 is the idle process


def check_nesting(slices: list[Event]) -> None:
    """Slices of a track are sorted by start, and each is inside or after the earlier ones."""
    starts = [event["ts"] for event in slices]
    assert starts == sorted(starts)
    open_ends: list[int] = []
    for event in slices:
        while open_ends and open_ends[-1] <= event["ts"]:
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1], event
        open_ends.append(end)


def check_binding(track: list[Event]) -> None:
    """An arrow's end is after its slice in the list, at the slice's start."""
    last: Event | None = None
    for event in track:
        if event["ph"] == "X":
            last = event
        else:
            assert last is not None
            assert event["ts"] == last["ts"]


def check_arrows(ends: list[Event]) -> None:
    """Each arrow has one start and then one end, of one name, and does not point back."""
    arrows: dict[int, list[Event]] = defaultdict(list)
    for event in ends:
        arrows[event["id"]].append(event)
    for start, *rest in arrows.values():
        assert start["ph"] == "s"
        assert [event["ph"] for event in rest] == ["f"]
        assert (start["cat"], start["name"]) == (rest[0]["cat"], rest[0]["name"])
        assert start["ts"] <= rest[0]["ts"]
