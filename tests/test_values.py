"""Values of users are never computed, and arrive whole by every way, at every receiver."""

import base64
import json
import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import numpy as np
import orjson
import pandas as pd  # type: ignore[import-untyped]
import pytest
import structlog
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as context_api
from opentelemetry.trace import Link, SpanContext, SpanKind
from pydantic import AnyUrl, BaseModel, Field, computed_field

import flowspan
from flowspan import semconv
from flowspan.export import providers
from flowspan.log_capture.export import LogExport
from flowspan.log_capture.hooks import LogHooks
from flowspan.log_capture.measurements import LogMeasure
from flowspan.recording.instruments import RunMetrics
from flowspan.recording.recorder import RunTracer
from flowspan.recording.run import Attributes, Run, State
from flowspan.redaction import redact, redact_parameter
from flowspan.settings import Settings
from flowspan.values import LAST_INT, LONGEST_KEY, clean
from sinks import Sink, grpc_sink, http_sink

ODD = "a\udcffb\0c"
SOUND = "a?b?c"
HUGE = 2**64 - 1


class Lazy:
    """A value that says when it is computed, by any way."""

    def _compute(self, *_: object) -> Any:
        raise AssertionError("computed")

    __repr__ = __str__ = __iter__ = __bool__ = __len__ = __eq__ = __hash__ = _compute
    __float__ = __int__ = __index__ = __format__ = __getitem__ = __contains__ = _compute
    __class__ = property(_compute)  # as in Django's lazy objects


class LazyText(str):
    __slots__ = ()
    __str__ = __repr__ = __len__ = __getitem__ = Lazy._compute


class LazyList(list[int]):
    __iter__ = __len__ = __repr__ = Lazy._compute


class LazyDict(dict[str, int]):
    items = __iter__ = __len__ = __repr__ = keys = Lazy._compute


class LazyError(Exception):
    __str__ = __repr__ = Lazy._compute


@dataclass
class Order:
    id: int
    rows: Any
    note: str = field(default="hidden", repr=False)


@dataclass
class Slotted:
    __slots__ = ("id",)
    id: int


@dataclass
class Discreet:
    pin: int

    def __repr__(self) -> str:
        raise AssertionError("computed")


class Model(BaseModel):
    name: str
    rows: Any
    note: str = Field(default="hidden", repr=False)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        raise AssertionError("computed")


LAZY = "<test_values.Lazy>"
RENDERED = [
    (Lazy(), LAZY),
    ([Lazy(), {"a": Lazy()}], [LAZY, {"a": LAZY}]),
    (LazyText("text"), "text"),
    (LazyList([1, 2]), [1, 2]),
    (LazyDict(a=1), {"a": 1}),
    (LazyError("no", Lazy()), f"LazyError('no', '{LAZY}')"),
    (Order(1, Lazy()), f"Order(id=1, rows='{LAZY}')"),
    (Slotted(1), "Slotted(id=1)"),
    (Discreet(1234), "<test_values.Discreet>"),
    (Model(name="a", rows=Lazy()), f"Model(name='a', rows='{LAZY}')"),
    ((i for i in [1]), "<generator>"),
    (duckdb.sql("SELECT error('computed')"), "<duckdb._relation.DuckDBPyRelation>"),
    (pd.DataFrame({"a": [1]}), "<pandas.DataFrame>"),
    (pd.Timestamp("2024-01-05 00:00:00.000000001"), "2024-01-05 00:00:00.000000001"),
    (pd.NaT, "NaT"),
    (np.datetime64("2024-01-05"), "2024-01-05"),
    (np.longdouble(0.5), "0.5"),
    (np.str_("a"), "a"),
    (np.array([(1, 2.5)], dtype="i4,f8")[0], [1, 2.5]),
    (AnyUrl("pg://me:hidden@db/x"), "pg://[redacted]@db/x"),
    (IPv4Address("127.0.0.1"), "127.0.0.1"),
    (deque([{1}]), [[1]]),
    (MappingProxyType({"a": 1}), "<mappingproxy>"),
    (2**100_000, "<int of 100,001 bits>"),
    ({(1, "a"): 1, "": 2, None: 3, ODD: 4}, {"[1, 'a']": 1, "None": 3, SOUND: 4}),
]


@pytest.mark.parametrize("index", range(len(RENDERED)))  # pytest would compute the values
def test_nothing_is_computed(index: int) -> None:
    """Only values that are known to be there are shown; others are named."""
    value, expected = RENDERED[index]
    assert redact(value) == expected
    assert redact_parameter(value) == str(expected)


def test_secrets_below_objects() -> None:
    """Fields of objects whose names sound like secrets are masked."""
    shown = redact({"a": Order(1, {"password": "hidden"})})
    assert shown == {"a": "Order(id=1, rows={'password': '[redacted]'})"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (HUGE, str(HUGE)),
        (-LAST_INT - 2, str(-LAST_INT - 2)),
        (LAST_INT, LAST_INT),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, True),
        (ODD, SOUND),
        (b"a\xff", "a�"),
        ([1, 2], [1, 2]),
        ([1, "a", None], ["1", "a", "None"]),
        ([1, HUGE], ["1", str(HUGE)]),
        ([1, 2.5], ["1", "2.5"]),
        ([[1]], ["[1]"]),
        ([], []),
        ({"a": [1]}, "{'a': [1]}"),
        (np.ndarray, "<class 'numpy.ndarray'>"),
    ],
)
def test_attributes_of_spans_and_metrics(value: object, expected: object) -> None:
    """A span and a metric take flat values of one type."""
    assert clean({"key": value, "": 1, "none": None}) == {"key": expected}


_texts = st.text(st.characters(exclude_categories=()))
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _texts | st.binary()


@given(
    st.dictionaries(
        _texts | st.integers(),
        st.recursive(
            _scalars, lambda inner: st.lists(inner) | st.dictionaries(_texts, inner), max_leaves=8
        ),
    )
)
def test_any_attributes_are_sound(attributes: Any) -> None:
    """What is cleaned can be encoded, is flat and of one type, and stays as it is."""
    cleaned = clean(attributes)
    assert clean(cleaned) == cleaned
    for key, value in cleaned.items():
        assert key
        assert len({type(item) for item in value} if isinstance(value, list) else {0}) <= 1
        orjson.dumps({key: value})
        assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_keys() -> None:
    """Keys are text of bounded length."""
    keys: Any = {1: 1, ODD: 2, "k" * 1000: 3}
    assert list(clean(keys)) == ["1", SOUND, "k" * (LONGEST_KEY - 1) + "…"]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (flowspan.record_rows, lambda: (Lazy(),)),
        (flowspan.record_metric, lambda: ("rows", duckdb.sql("SELECT error('computed')"))),
        (flowspan.record_metric, lambda: ("rows", 1, "1", {"table": Lazy()})),
        (flowspan.record_metric, lambda: ("rows", Lazy())),
    ],
)
def test_refusals(function: Any, arguments: Any) -> None:
    """The message about a value that is refused computes nothing."""
    with pytest.raises(TypeError, match=r"not '<\S+>'|: '<\S+>'"):
        function(*arguments())


# By every way, to every receiver


class Details:
    """What describes a run: odd names, and parameters and labels of the user."""

    def identify(self) -> Attributes:
        return {semconv.FLOW_NAME: ODD}

    def attributes(self) -> Attributes:
        labels = {f"label.{name}": redact(value) for name, (value, *_) in STRANGE.items()}
        parameters = {
            f"parameter.{name}": redact_parameter(value) for name, (value, *_) in STRANGE.items()
        }
        return {**labels, **parameters}


KEPT = "as in a log record"
STRANGE: dict[str, tuple[Any, Any, Any]] = {
    "lazy": (Lazy(), LAZY, KEPT),
    "object": (Order(HUGE, [Lazy()]), f"Order(id='{HUGE}', rows=['{LAZY}'])", KEPT),
    "huge": (HUGE, str(HUGE), KEPT),
    "largest": (LAST_INT, LAST_INT, KEPT),
    "nan": (math.nan, "nan", KEPT),
    "infinite": (math.inf, "inf", KEPT),
    "none": (None, None, KEPT),
    "text": (ODD, SOUND, KEPT),
    "bytes": (b"\xff\0", b"\xff\0", "�?"),
    "mixed": ([1, "a", None, HUGE], [1, "a", None, str(HUGE)], ["1", "a", "None", str(HUGE)]),
    "empty": ([[], {}, ""], [[], {}, ""], ["[]", "{}", ""]),
    "nested": ({"": 1, 3: {ODD: [2]}}, {"3": {SOUND: [2]}}, "{'3': {'a?b?c': [2]}}"),
    "long": ({"k" * 1000: 1}, {"k" * 255 + "…": 1}, f"{{'{'k' * 255}…': 1}}"),
}
"""Strange values by name, what a log record shows of them, and what a span's attribute does."""

NOT_BODIES = {"lazy", "object", "none"}
"""What is not logged as a message: `logging` itself would compute it, or it has no body."""


@contextmanager
def files(folder: Path) -> Iterator[Path]:
    yield folder


RECEIVERS: dict[str, Any] = {"grpc": grpc_sink, "http/protobuf": http_sink, "file": files}


def received(place: Sink | Path, signal: str) -> list[dict[str, Any]]:
    """Return all exports of a signal as OTLP JSON has them."""
    if isinstance(place, Path):
        return [json.loads(line) for line in (place / f"{signal}.jsonl").read_text().splitlines()]
    requests = {
        "traces": place.requests,
        "metrics": place.metric_requests,
        "logs": place.log_requests,
    }
    return [MessageToDict(request.message) for request in requests[signal]]


def every(document: Any, key: str) -> Iterator[Any]:
    """Yield everything below a key, at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                yield from value if isinstance(value, list) else [value]
            yield from every(value, key)
    elif isinstance(document, list):
        for item in document:
            yield from every(item, key)


def plain(value: Mapping[str, Any]) -> Any:
    """Return the Python value of an `AnyValue`."""
    if not value:
        return None
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(item) for item in content.get("values", [])]
    if kind == "kvlistValue":
        return pairs(content.get("values", []))
    readers: dict[str, Any] = {"intValue": int, "bytesValue": base64.b64decode}
    return readers[kind](content) if kind in readers else content


def pairs(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: plain(item["value"]) for item in items}


def live(tracer: RunTracer, hooks: LogHooks, export: LogExport) -> None:
    """Record one run in which every strange value goes every way it can."""
    run = Run(
        id="run",
        flow_name=ODD,
        task_name=ODD,
        kind=SpanKind.INTERNAL,
        start=1_000,
        trace_id=1,
        parent=None,
        run_count=0,
        allows_retries=True,
        upstream=(),
        deployment_name=ODD,
    )
    recorder = tracer.start(run, Details())
    recorder.link([Link(SpanContext(1, 2, is_remote=False), {semconv.INPUT_NAME: [ODD]})])
    recorder.begin_attempt(2_000)
    recorder.begin_execution(3_000)
    hooks.install(LogMeasure(), export)
    token = context_api.attach(recorder.as_context())
    try:
        speak()
    finally:
        context_api.detach(token)
        hooks.remove()
    recorder.fail(type("Odd", (Exception,), {"__module__": ODD})(ODD), 4_000)
    recorder.enter_state(State("FAILED", ODD, "state", ODD, 5_000))
    recorder.finish()
    tracer.metrics.moved(run, semconv.ROWS_INPUT, LAST_INT, recorder.tally.context)


def speak() -> None:
    """Log and measure the strange values inside the run."""
    logger = logging.getLogger(f"odd.{ODD}")
    # structlog's own renderers show every value, as their user wants.
    events = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[lambda _, __, event: event["event"]]
    )
    logging.addLevelName(35, ODD)
    for name, (value, *_) in STRANGE.items():
        logger.warning("extra %s", name, extra={"value": value, ODD: 1, "k" * 1000: 2})
        events.warning(f"event {name}", value=value)
        if name not in NOT_BODIES:
            logger.warning(value)
        if type(value) in (int, float, str):
            flowspan.record_metric(name, 1, attributes={"value": value, ODD: "key"})
    logger.log(35, "level")
    events.warning("METRIC: measured=1", lazy=Lazy(), beyond=HUGE)
    flowspan.record_rows(LAST_INT, "input", name=ODD)
    flowspan.record_rows(LAST_INT, "input", name=ODD)
    flowspan.record_rows(1)


@pytest.fixture(params=list(RECEIVERS))
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Sink | Path]:
    """Record the run with flowspan's own pipelines; yield where it was sent."""
    opened: AbstractContextManager[Any] = (
        files(tmp_path) if request.param == "file" else RECEIVERS[request.param]()
    )
    for handler in logging.getLogger().handlers:  # pytest's: its workers cannot send such names
        monkeypatch.setattr(handler, "emit", lambda _: None)
    with opened as place:
        if isinstance(place, Sink):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", place.endpoint)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
        monkeypatch.setenv("OTEL_SERVICE_NAME", ODD.replace("\0", "?"))
        settings = Settings(dir=tmp_path)
        spans, metrics, logs = (
            providers.build_tracer_provider(settings),
            providers.build_meter_provider(settings),
            providers.build_logger_provider(settings),
        )
        try:
            live(
                RunTracer(spans, RunMetrics(metrics)),
                LogHooks(),
                LogExport(logs, logging.INFO, lambda _: None),
            )
        finally:
            providers.shutdown([spans, metrics, logs], 20)
        yield place


def test_every_value_arrives_everywhere(place: Sink | Path) -> None:
    """By every way to every receiver, each value arrives in a sound shape, and so do the others."""
    check_spans(list(every(received(place, "traces"), "spans")))
    check_metrics({m["name"]: m for m in every(received(place, "metrics"), "metrics")})
    check_logs(received(place, "logs"))
    for signal in ("traces", "metrics", "logs"):
        for resource in every(received(place, signal), "resource"):
            assert pairs(resource["attributes"])["service.name"] == SOUND


def check_spans(spans: list[dict[str, Any]]) -> None:
    attempt, run = sorted(spans, key=lambda span: span["name"] == SOUND)
    assert (attempt["name"], run["name"]) == ("attempt 1", SOUND)
    found = pairs(run["attributes"])
    for name, (_, shown, flat) in STRANGE.items():
        assert found.get(f"label.{name}") == (shown if flat is KEPT else flat)
        text = str(shown)
        assert found[f"parameter.{name}"] == (text if len(text) <= 256 else f"{text[:255]}…")
    rows = {key: value for key, value in found.items() if key.startswith(semconv.ROWS_INPUT)}
    assert rows == {semconv.ROWS_INPUT: LAST_INT, f"{semconv.ROWS_INPUT}.{SOUND}": LAST_INT}
    assert found["error.type"] == f"{SOUND}.Odd"
    assert run["status"]["message"] == SOUND
    assert [event["name"] for event in run["events"]] == [SOUND]
    assert pairs(run["links"][0]["attributes"]) == {semconv.INPUT_NAME: [SOUND]}
    assert pairs(attempt["events"][0]["attributes"])["exception.message"] == SOUND


def check_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    for name, (value, shown, _) in STRANGE.items():
        if type(value) in (int, float, str):
            (point,) = every(metrics[f"prefect.metric.{name}"], "dataPoints")
            expected = {"value": shown, SOUND: "key"}
            assert pairs(point["attributes"]).items() >= expected.items()
    (measured,) = every(metrics["prefect.metric.measured"], "dataPoints")
    assert int(measured["asInt"]) == 1
    (beyond,) = every(metrics["prefect.metric.beyond"], "dataPoints")
    assert beyond["asDouble"] == float(HUGE)
    points = every(metrics["prefect.task.rows"], "dataPoints")
    assert sorted(float(point["sum"]) for point in points) == [1, 2 * float(LAST_INT)]
    (runs,) = every(metrics["prefect.task.runs"], "dataPoints")
    assert pairs(runs["attributes"])[semconv.RUN_STATE_NAME] == SOUND


def check_logs(documents: list[dict[str, Any]]) -> None:
    records = list(every(documents, "logRecords"))
    bodies = [plain(record["body"]) for record in records]
    by_body = {body: r for body, r in zip(bodies, records, strict=True) if isinstance(body, str)}
    for name, (_, shown, _) in STRANGE.items():
        extra = pairs(by_body[f"extra {name}"]["attributes"])
        assert extra["value"] == shown
        assert (extra[SOUND], extra["k" * 255 + "…"]) == (1, 2)
        assert extra[semconv.FLOW_NAME] == SOUND
        assert pairs(by_body[f"event {name}"]["attributes"])["value"] == shown
        assert name in NOT_BODIES or shown in bodies
    assert by_body["level"]["severityText"] == SOUND
    scopes = {scope["name"] for scope in every(documents, "scope")}
    assert f"odd.{SOUND}" in scopes
