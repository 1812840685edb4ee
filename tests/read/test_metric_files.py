"""Reading metrics from files and adding them up."""

import json
import random
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from metric_files import EPOCH, Process, raw_attributes, raw_line
from opentelemetry.exporter.otlp.json.file import FileMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from flowspan import semconv
from flowspan.read import metric_files

RUNS = semconv.METRIC_FLOW_RUNS
SECONDS = semconv.METRIC_TASK_RUN_DURATION


UNREADABLE_HISTOGRAMS: list[tuple[dict[str, Any], str]] = [
    ({"bucketCounts": ["1", "2"]}, "its buckets do not fit their bounds"),
    *(
        ({"explicitBounds": bounds}, "its bounds are no ascending numbers")
        for bounds in ([2, 1], [1, 1], ["a"], [None], [1e300])
    ),
    ({"bucketCounts": [1, 2], "explicitBounds": 5}, "its explicitBounds is no list"),
    ({"bucketCounts": "12"}, "its bucketCounts is no list"),
    ({"bucketCounts": [[]]}, "its bucket counts are no numbers"),
    ({"bucketCounts": ["-1"]}, "its bucket counts are out of range"),
    ({"bucketCounts": [1e300]}, "its bucket counts are out of range"),
    ({"count": "x"}, "its count is no number"),
    (
        {"kind": "exponentialHistogram", "scale": 2_000},
        "its buckets have no usable scale",
    ),
    (
        {"kind": "exponentialHistogram", "positive": 1},
        "not OTLP: positive is no object",
    ),
]


def counts(source: Path) -> dict[str, int]:
    """Return the sums of all counters, by metric."""
    found: dict[str, int] = {}
    for counter in metric_files.load(source).counters:
        found[counter.name] = found.get(counter.name, 0) + counter.value
    return found


def reasons(metrics: metric_files.Metrics) -> list[tuple[int, str]]:
    """Return lines and reasons of all problems."""
    return [(problem.line, problem.reason) for problem in metrics.problems]


def count(
    value: Any = "1", *, time: Any = EPOCH + 9, start: Any = EPOCH, **more: Any
) -> dict[str, Any]:
    """Return a point of a counter."""
    times = {"startTimeUnixNano": start, "timeUnixNano": time}
    return {"attributes": raw_attributes(prefect_flow_name="etl"), "asInt": value} | times | more


def counter(*points: Any, temporality: Any = 2, name: str = RUNS) -> dict[str, Any]:
    """Return a counter."""
    data = {"dataPoints": list(points), "aggregationTemporality": temporality}
    return {"name": name, "sum": data | {"isMonotonic": True}}


def histogram(*, kind: str = "histogram", **point: Any) -> dict[str, Any]:
    """Return a histogram with one point."""
    data = {"dataPoints": [{"timeUnixNano": EPOCH} | point], "aggregationTemporality": 2}
    return {"name": SECONDS, kind: data}


@pytest.mark.parametrize("delta", [False, True])
def test_each_run_counts_once_however_often_it_is_exported(
    tmp_path: Path,
    delta: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """A cumulative series has the total in each line, a delta series only the change."""
    with closing(Process(tmp_path / "metrics.jsonl", delta=delta)) as process:
        for _ in range(3):
            process.flow("etl", 2.0)
            process.task("etl", "load", 1.0, retried=["OSError", "OSError"], rows={"output": 10})
            process.export()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) >= 3
    metrics = metric_files.load(tmp_path)
    assert {each.name: each.value for each in metrics.counters} == {
        semconv.METRIC_FLOW_RUNS: 3,
        semconv.METRIC_TASK_RUNS: 3,
        semconv.METRIC_TASK_RUN_RETRIES: 6,
    }
    assert {each.name: (each.values.count, each.values.total) for each in metrics.histograms} == {
        semconv.METRIC_PIPELINE_RUN_DURATION: (3, 6.0),
        semconv.METRIC_TASK_RUN_DURATION: (3, 3.0),
        semconv.METRIC_TASK_ROWS: (3, 30.0),
    }
    assert metrics.problems == ()


def test_processes_add_up_in_any_order_of_lines_and_files(tmp_path: Path) -> None:
    """Both temporalities, in rotated files and the live one, with repeated lines."""
    for number in range(4):
        file = tmp_path / "written" / f"metrics-{number // 2}.jsonl"
        delta = number == 3
        with closing(Process(file, instance=str(number), delta=delta)) as process:
            for _ in range(5):
                process.flow("etl", number)
                process.export()
    lines = [line for file in (tmp_path / "written").iterdir() for line in file.open()]
    lines += [line for line in lines if '"aggregationTemporality":2' in line]
    for seed in range(5):
        random.Random(seed).shuffle(lines)  # noqa: S311 - not for secrets
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(lines[:10]))
        (folder / "metrics-20260101T000000.000000Z-0a1b2c3d.jsonl").write_text("".join(lines[10:]))
        (folder / "traces.jsonl").write_text("other")
        metrics = metric_files.load(folder)
        (seconds,) = metrics.histograms
        assert counts(folder) == {RUNS: 20}
        assert (seconds.values.count, seconds.values.total) == (20, 30.0)
        assert [seconds.values.quantile(share) for share in (0, 1)] == [0, 3]
        assert metrics.problems == ()


def test_a_restarted_process_starts_a_new_series(tmp_path: Path) -> None:
    """Even if it has the same name."""
    for _ in range(3):
        with closing(Process(tmp_path / "metrics.jsonl", instance="worker-1")) as process:
            process.flow("etl", 1.0)
    assert counts(tmp_path) == {RUNS: 3}


def test_the_order_of_attributes_does_not_make_a_series(tmp_path: Path) -> None:
    """A collector may sort them."""
    own = raw_attributes(prefect_flow_name="etl", cicd_pipeline_result="success")
    lines = [
        counter(count("5", attributes=own)),
        counter(count("7", attributes=own[::-1], time=EPOCH + 10)),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(raw_line(line) for line in lines))
    (found,) = metric_files.load(tmp_path).counters
    assert found.value == 7


def test_numbers_may_be_text_and_fields_may_be_missing(tmp_path: Path) -> None:
    """As protobuf's JSON mapping allows: no zeros, no empty lists, names of enum values."""
    points = (
        count("5", time=str(EPOCH + 9)),
        count(6, time=EPOCH + 10, start=str(EPOCH)),
        {"asDouble": 2.0},
    )
    file = tmp_path / "m.jsonl"
    named = "AGGREGATION_TEMPORALITY_CUMULATIVE"
    file.write_text(
        raw_line(counter(*points, temporality=named))
        + "\n"
        + raw_line(
            histogram(count="3", sum=4.5, min=1, max=2), {"name": "prefect.metric.x", "gauge": {}}
        )
        + json.dumps({"resourceMetrics": [{}, {"scopeMetrics": [{}]}]})
    )
    metrics = metric_files.load(file)
    assert [(dict(each.attributes), each.value) for each in metrics.counters] == [
        ({semconv.FLOW_NAME: "etl"}, 6),
        ({}, 2),
    ]
    (seconds,) = metrics.histograms
    assert (seconds.values.count, seconds.values.total) == (3, 4.5)
    assert [seconds.values.quantile(share) for share in (0, 0.5, 1)] == [1, 1.5, 2]
    assert (metrics.start, metrics.end, metrics.problems) == (EPOCH, EPOCH + 10, ())


def test_the_latest_value_of_a_gauge_counts(tmp_path: Path) -> None:
    """Whatever process set it; numbers that JSON lacks are values, too."""

    def gauge(value: Mapping[str, Any], time: int) -> dict[str, Any]:
        own = raw_attributes(prefect_flow_name="etl")
        point = {"attributes": own, "timeUnixNano": str(time), **value}
        return {"name": "prefect.metric.size", "gauge": {"dataPoints": [point]}}

    for value, expected in (
        ({"asDouble": "NaN"}, "nan"),
        ({"asDouble": "-Infinity"}, "-inf"),
        ({"asInt": "7"}, "7"),
    ):
        (tmp_path / "metrics.jsonl").write_text(
            raw_line(gauge({"asDouble": 1.5}, EPOCH), resource="1")
            + raw_line(gauge(value, EPOCH + 2), resource="2")
            + raw_line(gauge({"asInt": "3"}, EPOCH + 1), resource="1")
        )
        (found,) = metric_files.load(tmp_path).gauges
        assert (str(found.value), found.time) == (expected, EPOCH + 2)


def test_metrics_of_others_are_left_alone(tmp_path: Path) -> None:
    """The application's own instruments may share the files."""
    exporter = FileMetricExporter(tmp_path / "metrics.jsonl")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    provider.get_meter("app").create_up_down_counter("queue.length").add(-5)
    provider.shutdown()
    summary = {"name": "prefect.flow.latency", "summary": {"dataPoints": [{"count": "x"}]}}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(raw_line(summary))
    metrics = metric_files.load(tmp_path)
    assert (metrics.counters, metrics.histograms, metrics.problems) == ((), (), ())


def test_a_point_that_only_ends_its_series_has_no_value(tmp_path: Path) -> None:
    """OTLP marks it with a flag."""
    end = {
        "attributes": raw_attributes(prefect_flow_name="etl"),
        "timeUnixNano": EPOCH + 99,
        "flags": 1,
    }
    (tmp_path / "metrics.jsonl").write_text(
        raw_line(counter(count("4"), end | {"startTimeUnixNano": EPOCH}))
    )
    assert counts(tmp_path) == {RUNS: 4}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (raw_line(counter(count()))[:-30].encode(), "cut off: the line ends in the middle"),
        (b"hello", "not JSON"),
        (b"\x00\xff{", "not UTF-8 text"),
        (b"[]", "not OTLP: JSON, but no object"),
        (b"{}", "not OTLP: no resourceMetrics"),
        (b'{"resourceSpans": []}', "holds spans, not metrics"),
        (b'{"resourceLogs": []}', "holds logs, not metrics"),
        (b'{"resourceMetrics": [3]}', "not OTLP: resourceMetrics is no list of objects"),
        (raw_line({"name": RUNS}).encode(), f"{RUNS} skipped: it is no sum"),
        (raw_line({"name": SECONDS, "sum": {}}).encode(), f"{SECONDS} skipped: it is no histogram"),
        (
            raw_line({"name": "prefect.metric.x", "sum": {}}).encode(),
            "prefect.metric.x skipped: it is no gauge",
        ),
        (
            raw_line(counter(count(), temporality=0)).encode(),
            f"{RUNS} skipped: it is neither cumulative nor delta",
        ),
        *(
            (raw_line(counter(point)).encode(), f"{RUNS} skipped: {reason}")
            for point, reason in (
                (count(start=EPOCH + 1, time="soon"), "its time is no number"),
                (count(start=2**70), "its start time is out of range"),
                (
                    count(start=EPOCH + 1, attributes=7),
                    "not OTLP: attributes is no list of objects",
                ),
                (count("many", start=EPOCH + 1), "its value is no number"),
                ({"startTimeUnixNano": 5}, "its value is no number"),
                ({"asDouble": "NaN"}, "its value is out of range"),
                ({"asDouble": 1e300}, "its value is out of range"),
            )
        ),
        *(
            (raw_line(histogram(**point)).encode(), f"{SECONDS} skipped: {reason}")
            for point, reason in UNREADABLE_HISTOGRAMS
        ),
    ],
)
def test_what_cannot_be_read_is_named_and_everything_else_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    """The problem has the line and the reason; metrics before and after it are read."""
    file = tmp_path / "metrics.jsonl"
    good = [raw_line(counter(count(str(n))), resource=str(n)).encode() for n in (1, 2)]
    file.write_bytes(b"\n".join([good[0], line, good[1]]))
    assert counts(file)[RUNS] == 3
    assert reasons(metric_files.load(file)) == [(3, reason)]


def test_a_bad_point_does_not_cost_its_neighbours(tmp_path: Path) -> None:
    """Only the point without a value is missing from its metric."""
    file = tmp_path / "metrics.jsonl"
    points = [count("2", start=1), count("x", start=2), count("3", start=3)]
    file.write_text(raw_line(counter(*points)))
    assert counts(file) == {RUNS: 5}
    assert reasons(metric_files.load(file)) == [(1, f"{RUNS} skipped: its value is no number")]


def test_numbers_no_one_can_mean_do_not_stop_it(tmp_path: Path) -> None:
    """Invalid Unicode next to an integer of 90 bits only loses its point."""
    big = [{"key": "n", "value": {"intValue": 2**90}}]
    line = raw_line(counter(count("2"), count("3", attributes=big)), resource="\udcff")
    (tmp_path / "metrics.jsonl").write_text(line)
    assert counts(tmp_path) == {RUNS: 2}
    assert reasons(metric_files.load(tmp_path)) == [
        (1, f"{RUNS} skipped: its attributes are out of range")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read")
def test_an_unreadable_file_does_not_cost_the_others(tmp_path: Path) -> None:
    """It is a separate problem."""
    (tmp_path / "metrics-1.jsonl").symlink_to("/proc/self/mem")
    (tmp_path / "metrics.jsonl").write_text(raw_line(counter(count("4"))))
    assert counts(tmp_path) == {RUNS: 4}
    assert [str(problem) for problem in metric_files.load(tmp_path).problems] == [
        f"{tmp_path / 'metrics-1.jsonl'}: Input/output error"
    ]
