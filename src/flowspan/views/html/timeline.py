"""Write a trace as one self-contained HTML page: no network, no other file.

The page is a template, a style sheet and scripts (the folder ``assets``) around two blocks of JSON:
``data`` for the drawing, and ``details`` for one span at a time, parsed on demand. Both hold
columns by row, a row being a span in the order of the tree. Each text is stored once in a table and
referenced by its index; 0 is no text. Times are nanoseconds since the start of the first span, so
that they fit a JavaScript number; larger ones are text.

All content of a trace is treated as text. It reaches the page only as JSON without any ``<``, and
as the escaped title.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from datetime import datetime
from importlib import resources
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from flowspan import semconv
from flowspan.analysis.phases import CAUSES, PHASE_OF
from flowspan.analysis.tree import walk
from flowspan.read import otlp_json as otlp
from flowspan.text import SECOND, moment
from flowspan.views.headline import doing, part_of, so_far
from flowspan.views.json.timeline import as_object
from flowspan.views.looks import LOOKS
from flowspan.views.terminal import timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowspan.analysis.findings import Findings
    from flowspan.analysis.one_trace import Analysis
    from flowspan.analysis.tree import Node, Tree
    from flowspan.analysis.workers import Worker
    from flowspan.read.log_files import Log
    from flowspan.views.looks import Colour
    from flowspan.views.wishes import Wishes

_SCRIPTS: Final = (
    "format.js",
    "data.js",
    "looks.js",
    "rows.js",
    "chart.js",
    "details.js",
    "tables.js",
    "print.js",
    "main.js",
)

_KEYS: Final = tuple(
    cause if PHASE_OF[cause] == phase else phase for phase, cause in CAUSES.items()
)
"""The page's names of the phases, in the order in which it shows them."""
_PHASE: Final = {phase: place for place, phase in enumerate(CAUSES)}
_CAUSE: Final = {key: place for place, key in enumerate(_KEYS)}
_ROLE: Final = {"run": 0, "attempt": 1, "other": 2}
_OUTCOME: Final = {
    "success": "good",
    **dict.fromkeys(semconv.ERROR_RESULTS, "bad"),
    "cancellation": "odd",
    "skip": "odd",
}

# Already in the columns; here their times would be rounded to JavaScript numbers.
_IN_COLUMNS: Final = ("critical_path", "root")
_NOWHERE: Final = -1
_EXACT: Final = range(-(2**53) + 1, 2**53)
"""The integers that a JavaScript number holds exactly."""

_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")


def render(findings: Findings, _: Wishes) -> Iterable[bytes]:
    """Return the page of a trace, with the numbers of ``flowspan timeline --json``."""
    tree = findings.whole_tree
    page = _Page(tree)
    data = page.data(findings.analysis) | {
        "head": _head(tree) | {"around": part_of(findings.trace)},
        "looks": _looks(),
        "numbers": _numbers(findings.analysis),
    }
    details = page.details(findings.logs_by_span)
    style = _asset("page.css") + _colours()
    script = "".join(["(() => {\n'use strict';\n", *map(_asset, _SCRIPTS), "})();\n"])
    parts = {
        "title": html.escape(f"{data['head']['flow']} {data['head']['run']}".strip()),
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": _embedded(data),
        "details": _embedded(details),
    }
    return [_PLACEHOLDER.sub(lambda found: parts[found[1]], _asset("page.html")).encode()]


class _Texts:
    """A table of texts, each once; the empty text comes first."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {"": 0}

    def place(self, text: str | None) -> int:
        """Return the index of a text; a new text is appended."""
        return self._places.setdefault(text or "", len(self._places))

    def pairs(self, mapping: Mapping[str, Any]) -> list[int]:
        """Return the indexes of keys and values, as text, one after the other."""
        texts = chain.from_iterable((key, _as_text(value)) for key, value in mapping.items())
        return list(map(self.place, texts))

    @property
    def table(self) -> list[str]:
        """Return all texts in order of their indexes."""
        return list(self._places)


class _Page:
    """The rows of a page, and their columns."""

    def __init__(self, tree: Tree) -> None:
        # A tree built with `everything` has a node for every span, and no other nodes.
        nodes = [cast("Node", node) for node in walk(tree)]
        parents = {
            child.key: node.key for node in nodes for child in cast("Sequence[Node]", node.children)
        }
        attempts = Counter(parents.get(node.key) for node in nodes if node.role == "attempt")
        self._tree = tree
        self._base = min(span.start for span in tree.spans)
        self._rows: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._parents: list[int] = []
        for node in nodes:
            parent = parents.get(node.key)
            only = node.role == "attempt" and not node.span.failed and attempts[parent] == 1
            if only and parent is not None:  # adds nothing to its run, whose row stands for it
                self._rows[node.key] = self._rows[parent]
                continue
            self._rows[node.key] = len(self._nodes)
            self._nodes.append(node)
            self._parents.append(_NOWHERE if parent is None else self._rows[parent])
        self._look_closer()

    def _look_closer(self) -> None:
        """Read all data that is not in memory once per span, which takes half of the time."""
        texts = _Texts()
        self._resources: dict[tuple[int, ...], int] = {}
        self._messages: list[str] = []
        self._threads: list[str | None] = []
        told = []
        for node in self._nodes:
            span = node.span
            thread = span.attributes.get(semconv.THREAD_NAME, span.facts.lane)
            self._threads.append(None if thread is None else str(thread))
            self._messages.append(span.status_message)
            told.append(self._tell(node, texts))
        self._told = (texts, told)

    def data(self, analysis: Analysis) -> dict[str, Any]:
        """Return the data that is drawn."""
        texts = _Texts()
        return {
            "base": str(self._base),
            "offset": _offset(self._base),
            "view": self._view(),
            "rows": self._columns(texts, analysis.workers),
            "segments": self._segments(),
            "upstream": self._upstream(),
            "path": {
                "row": [self._rows.get(one.span_id, _NOWHERE) for one in analysis.critical_path],
                "start": [self._time(one.start) for one in analysis.critical_path],
                "end": [self._time(one.end) for one in analysis.critical_path],
                "cause": [_CAUSE[one.cause] for one in analysis.critical_path],
            },
            "texts": texts.table,
        }

    def details(self, logs: Mapping[str, Sequence[Log]]) -> dict[str, Any]:
        """Return the data that is shown for one span at a time, in its details."""
        by_row: dict[int, list[Log]] = {}
        for span_id, own in logs.items():
            by_row.setdefault(self._rows[span_id], []).extend(own)
        for own in by_row.values():
            own.sort(key=lambda log: log.time)
        texts, told = self._told
        for row, own in by_row.items():
            told[row]["logs"] = [self._log(log, texts) for log in own]
        return {"rows": told, "resources": list(self._resources), "texts": texts.table}

    def _tell(self, node: Node, texts: _Texts) -> dict[str, Any]:
        span = node.span
        resource = tuple(texts.pairs(span.resource))
        return {
            "attributes": texts.pairs(span.attributes),
            "resource": self._resources.setdefault(resource, len(self._resources)),
            "missing": texts.place(node.missing_parent),
            "events": [
                [texts.place(event.name), self._time(event.time), texts.pairs(event.attributes)]
                for event in span.events
            ],
            "links": [
                [
                    self._rows.get(link.span_id, _NOWHERE)
                    if link.trace_id == span.trace_id
                    else _NOWHERE,
                    texts.place(link.trace_id),
                    texts.place(link.span_id),
                    texts.pairs(link.attributes),
                ]
                for link in span.links
            ],
            "logs": [],
        }

    def _log(self, log: Log, texts: _Texts) -> list[Any]:
        return [
            self._time(log.time),
            texts.place(log.level),
            texts.place(log.message),
            texts.place(log.logger),
            texts.pairs(log.fields),
            texts.place(log.stack or log.exception),
        ]

    def _columns(self, texts: _Texts, workers: Sequence[Worker]) -> dict[str, list[Any]]:
        nodes, place = self._nodes, texts.place
        facts = [node.span.facts for node in nodes]
        return {
            "id": [node.span.span_id for node in nodes],
            "parent": self._parents,
            "name": [place(node.span.name or "(no name)") for node in nodes],
            "alias": [place(node.alias) for node in nodes],
            "run": [place(one.run_name) for one in facts],
            "role": [_ROLE[node.role] for node in nodes],
            "flow": [int(one.run_type == "flow") for one in facts],
            "start": [self._time(node.span.start) for node in nodes],
            "end": [self._time(node.span.start + node.span.duration) for node in nodes],
            "ending": [place(timeline.result_word(node)) for node in nodes],
            "outcome": [place(_outcome(node)) for node in nodes],
            "now": [place(_now(node)) for node in nodes],
            "message": list(map(place, self._messages)),
            "lane": [place(lane) for lane in self._lanes(workers)],
        }

    def _segments(self) -> dict[str, list[Any]]:
        segments = [segment for node in self._nodes for segment in node.segments]
        return {
            "at": _places(len(node.segments) for node in self._nodes),
            "phase": [_PHASE[segment.phase] for segment in segments],
            "start": [self._time(segment.start) for segment in segments],
            "end": [self._time(segment.end) for segment in segments],
        }

    def _upstream(self) -> dict[str, list[int]]:
        """List the rows that each row depends on."""
        found = [
            [self._rows[span_id] for span_id in node.span.upstream if span_id in self._rows]
            for node in self._nodes
        ]
        return {"at": _places(map(len, found)), "row": list(chain.from_iterable(found))}

    def _lanes(self, workers: Sequence[Worker]) -> list[str]:
        """Return where each row ran, by thread, and by process if there are several.

        Empty for other spans if the trace has runs.
        """
        has_runs = any(node.role == "run" for node in self._nodes)
        names = {worker.process: worker.name for worker in workers}
        return [
            _lane(names[node.span.process], thread, alone=len(names) == 1)
            if node.role == "run" or not has_runs
            else ""
            for node, thread in zip(self._nodes, self._threads, strict=True)
        ]

    def _view(self) -> list[Any]:
        """Return the start and end of the chart; a very long wait before the spans is cut off."""
        earliest = self._base - 2 * max(1, self._tree.end - self._base)
        return [self._time(max(earliest, self._tree.start)), self._time(self._tree.end)]

    def _time(self, time: int) -> int | str:
        relative = time - self._base
        return relative if relative in _EXACT else str(relative)


def _looks() -> list[dict[str, Any]]:
    """Return the look and name of each phase; see `flowspan.views.looks`."""
    return [
        {
            "key": key,
            "word": LOOKS[phase].bar.word,
            "noun": LOOKS[phase].noun,
            "height": LOOKS[phase].bar.height,
            "pattern": LOOKS[phase].bar.pattern,
        }
        for phase, key in zip(CAUSES, _KEYS, strict=True)
    ]


def _colours() -> str:
    """Write the phases' colours as a style sheet, for light and dark with the page's own rules."""
    colours: dict[str, Colour] = {}
    for phase, key in zip(CAUSES, _KEYS, strict=True):
        bar = LOOKS[phase].bar
        named = {f"--{key}": bar.ground, f"--{key}-line": bar.line}
        colours |= {name: colour for name, colour in named.items() if colour is not None}
    light = "".join(f"{name}:{colour.light};" for name, colour in colours.items())
    dark = "".join(f"{name}:{colour.dark};" for name, colour in colours.items())
    return (
        f":root{{{light}}}\n"
        f'@media screen{{:root[data-theme="dark"]{{{dark}}}}}\n'
        "@media screen and (prefers-color-scheme:dark)"
        f'{{:root:not([data-theme="light"]){{{dark}}}}}\n'
    )


def _numbers(analysis: Analysis) -> dict[str, Any]:
    found = as_object(analysis)
    told = {key: value for key, value in found.items() if key not in _IN_COLUMNS}
    return told | {"duration": (analysis.end - analysis.start) / SECOND}


def _head(tree: Tree) -> dict[str, Any]:
    main = tree.about.span
    facts = main.facts
    node = next(node for node in walk(tree) if node.key == main.span_id)
    first = min(span.start for span in tree.spans)
    ending = timeline.result_word(node)
    if main.open is not None:
        ending = so_far(main.open, tree.end - first)
    return {
        "flow": facts.flow_name or main.name,
        "run": (facts.run_name or "") if facts.run_type == "flow" else "",
        "ending": ending,
        "outcome": _outcome(cast("Node", node)),
        "started": moment(first),
        "duration": tree.end - first,
        "runs": tree.runs,
        "spans": len(tree.spans),
        "services": sorted({span.service for span in tree.spans if span.service}),
        "trace": main.trace_id,
    }


def _outcome(node: Node) -> str:
    """Return the colour class of a row: good, bad (also lost), odd, open, or none."""
    if node.span.open is not None:
        return "open" if node.span.open.state == "running" else "bad"
    if node.role != "run":
        return "bad" if node.span.failed else "good" if node.role == "attempt" else ""
    return _OUTCOME.get(node.span.facts.result or "", "open")


def _now(node: Node) -> str:
    """Return what an open row is or was doing; empty for a row that has ended."""
    return "" if node.span.open is None else doing(node.span.open)


def _lane(worker: str, thread: str | None, *, alone: bool) -> str:
    if thread is None:
        return worker
    return thread if alone else f"{worker} · {thread}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(otlp.plain(value)).decode()


def _offset(time: int) -> int:
    """Return the offset of local time from UTC in minutes; 0 at times without a date."""
    try:
        ahead = datetime.fromtimestamp(time // SECOND).astimezone().utcoffset()
    except (OverflowError, OSError, ValueError):
        return 0
    return int(ahead.total_seconds()) // 60 if ahead else 0


def _places(lengths: Iterable[int]) -> list[int]:
    """Return where in one column the parts of each row begin, and where the last one ends."""
    return list(accumulate(lengths, initial=0))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the hash that names an inline script or style in a Content-Security-Policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(value: Any) -> str:
    """Write JSON that can neither end its element nor begin a comment in it."""
    return orjson.dumps(value).decode().replace("<", "\\u003c")
