"""Measurements are found in lines of real loggers, and logging is otherwise unchanged."""

import asyncio
import contextvars
import io
import logging
import math
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow, task
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger

from flowspan._containment import Containment
from flowspan.log_capture import hooks
from flowspan.log_capture import measurements as log_metrics
from flowspan.log_capture.hooks import LogHooks
from flowspan.log_capture.measurements import (
    LogMeasure,
    Measurement,
    Sink,
    check,
    parse,
    record_in_run,
)


class LogWatcher(LogHooks):
    """The hooks with only the listener for measurements."""

    def __init__(self, sink: Sink = record_in_run) -> None:
        super().__init__()
        self._sink = sink

    def install(self) -> None:  # type: ignore[override]
        super().install(LogMeasure(self._sink))


def brief(measurements: list[Measurement]) -> dict[str, Any]:
    """Return the values by name, with their units unless these are 1."""
    return {
        found.name: found.value if found.unit == "1" else (found.value, found.unit)
        for found in measurements
    }


pytestmark = pytest.mark.usefixtures("no_unexpected_failure")


@pytest.fixture(autouse=True)
def fresh_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the guard, so that each test's failures are reported."""
    for module in (log_metrics, hooks):
        monkeypatch.setattr(module, "_contained", Containment("logs"))


@pytest.fixture
def heard() -> Iterator[list[Measurement]]:
    """Collect what a watcher finds during the test; it must restore everything."""
    methods = watched()
    found: list[Measurement] = []
    watcher = LogWatcher(found.append)
    watcher.install()
    try:
        yield found
    finally:
        watcher.remove()
        structlog.reset_defaults()
        assert watched() == methods


def watched() -> tuple[Any, ...]:
    """Return the attributes that the hooks change."""
    factory, of_logging = logging.getLogRecordFactory(), dict(vars(logging.Logger))
    return factory, of_logging, vars(structlog.BoundLoggerBase)["_process_event"]


@pytest.fixture
def logger() -> logging.Logger:
    """A logger that passes INFO, without pytest's handlers, which format everything."""
    made = logging.Logger("pipelines", logging.INFO)  # noqa: LOG001 - not to be found by its name
    made.addHandler(logging.NullHandler())
    return made


# Reading lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("METRIC: rows_extracted=1234", {"rows_extracted": 1234}),
        ("METRIC rows=5", {"rows": 5}),
        ("METRIC:rows=5", {"rows": 5}),
        (" \t METRIC:  rows=5  ", {"rows": 5}),
        ("METRIC\trows=5", {"rows": 5}),
        ("METRIC: a=1 b=2", {"a": 1, "b": 2}),
        ("METRIC: a=1, b=2,c=3 , d=4", {"a": 1, "b": 2, "c": 3, "d": 4}),
        ("METRIC: a=1,", {"a": 1}),
        ("METRIC: loss=0.25", {"loss": 0.25}),
        ("METRIC: delta=-3 gain=+2.5", {"delta": -3, "gain": 2.5}),
        ("METRIC: tiny=1e-9 big=2.5E+3", {"tiny": 1e-9, "big": 2500.0}),
        ("METRIC: half=.5 five=5.", {"half": 0.5, "five": 5.0}),
        ("METRIC: n=007", {"n": 7}),
        ("METRIC: etl.orders/rows-out_2=1", {"etl.orders/rows-out_2": 1}),
        (f"METRIC: {'n' * 200}=1", {"n" * 200: 1}),
        ("METRIC: most=9223372036854775807", {"most": 2**63 - 1}),
        ("METRIC: more=9223372036854775808", {"more": 2.0**63}),
        ("METRIC: least=-9223372036854775808", {"least": -(2**63)}),
        (f"METRIC: long={'1' * 300}", {"long": float("1" * 300)}),
        (f"METRIC: padded={'0' * 5000}1", {"padded": 1.0}),
    ],
)
def test_numbers(line: str, expected: dict[str, float]) -> None:
    """Pairs are measurements, however the user writes and separates them."""
    assert brief(parse(line)) == expected


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("METRIC: n=5", int),
        ("METRIC: n=5.0", float),
        ("METRIC: n=5e3", float),
        ("METRIC: n=5kB", int),
        ("METRIC: n=9223372036854775808", float),
    ],
)
def test_kinds_of_numbers(line: str, kind: type) -> None:
    """Whole numbers stay integers if they fit OTLP's 64 bits."""
    (found,) = parse(line)
    assert type(found.value) is kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.2s", (3.2, "s")),
        ("250ms", (0.25, "s")),
        ("3.2ms", (0.0032, "s")),
        ("100us", (0.0001, "s")),
        ("100\N{MICRO SIGN}s", (0.0001, "s")),
        ("100\N{GREEK SMALL LETTER MU}s", (0.0001, "s")),
        ("7ns", (7e-9, "s")),
        ("1.5min", (90.0, "s")),
        ("2h", (7200, "s")),
        ("1d", (86400, "s")),
        ("1e3ms", (1.0, "s")),
        ("5m", (5, "{m}")),
        ("512B", (512, "By")),
        ("1.5kB", (1500.0, "By")),
        ("2KB", (2000, "By")),
        ("2KiB", (2048, "By")),
        ("3MB", (3_000_000, "By")),
        ("1MiB", (2**20, "By")),
        ("1GB", (10**9, "By")),
        ("1GiB", (2**30, "By")),
        ("1TB", (10**12, "By")),
        ("1TiB", (2**40, "By")),
        ("1PB", (10**15, "By")),
        ("1PiB", (2**50, "By")),
        ("9999999PB", (9.999999e21, "By")),
        ("1Mb", (1, "{Mb}")),
        ("99.5%", (99.5, "%")),
        ("5rows", (5, "{rows}")),
        ("5e", (5, "{e}")),
        ("7dB", (7, "{dB}")),
        ("120rows/s", (120, "{rows}/s")),
        ("120rows/min", (2.0, "{rows}/s")),
        ("10MB/s", (10_000_000, "By/s")),
        ("5s/rows", (5, "s/{rows}")),
        (f"5{'x' * 28}/{'y' * 28}", (5, f"{{{'x' * 28}}}/{{{'y' * 28}}}")),
    ],
)
def test_units(text: str, expected: tuple[float, str]) -> None:
    """Durations become seconds and sizes bytes; other words become annotations."""
    (found,) = parse(f"METRIC: it={text}")
    assert (found.value, found.unit) == expected
    check(*found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", "orders"),
        ('"big orders"', "big orders"),
        ("'it = a, \"b\"'", 'it = a, "b"'),
        ('""', ""),
        ('"5"', "5"),
        ("2024-01-05", "2024-01-05"),
        ("2024-01-05T12:30:00Z", "2024-01-05T12:30:00Z"),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("12ab34", "12ab34"),
        ("123abc", "123abc"),
        ("123ABC", "123ABC"),
        ("0xFF", "0xFF"),
        ("1_000", "1_000"),
        ("1/2", "1/2"),
        ("5rows/s/s", "5rows/s/s"),
        (f"5{'x' * 29}", f"5{'x' * 29}"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("true", "true"),
        ("bücher", "bücher"),
        ("٣", "٣"),
        ("-", "-"),
    ],
)
def test_attributes(text: str, expected: str) -> None:
    """Values that are not numbers are attributes of all measurements of their line."""
    for line in (f"METRIC rows=5 it={text} took=2s", f"METRIC: it={text}, rows=5, took=2s"):
        rows, took = parse(line)
        assert rows == ("rows", 5, "1", {"it": expected})
        assert took == ("took", 2, "s", {"it": expected})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "METRIC",
        "METRIC:",
        "METRIC: ",
        "METRICS: rows=5",
        "METRIC_rows=5",
        "METRIC=5",
        "metric: rows=5",
        "the METRIC: rows=5",
        "INFO METRIC: rows=5",
        "METRIC: rows",
        "METRIC: rows=",
        "METRIC: rows=5 and more",
        "METRIC: all rows=5",
        "METRIC: rows = 5",
        "METRIC: rows: 5",
        "METRIC: rows=1,234",
        "METRIC: rows=5;b=2",
        "METRIC: rows=5,,b=2",
        "METRIC: rows==5",
        "METRIC: rows=5=6",
        'METRIC: rows=5 table="orders',
        'METRIC: rows=5 table="orders"x',
        "METRIC: rows=5 table=o'rders",
        "METRIC: table=orders",
        "METRIC: rows=none",
        "METRIC: rows=5 rows=6",
        "METRIC: rows=5 rows=many",
        "METRIC: rows=nan",
        "METRIC: rows=5 loss=NaN",
        "METRIC: rows=5 loss=-inf",
        "METRIC: rows=5 loss=Infinity",
        "METRIC: rows=5 loss=1e999",
        "METRIC: rows=5 size=1e308kB",
        f"METRIC: rows={'9' * 400}",
        "METRIC: 1st=5",
        "METRIC: _rows=5",
        "METRIC: größe=5",
        "METRIC: a+b=5",
        f"METRIC: {'n' * 201}=1",
    ],
)
def test_malformed_lines(line: str) -> None:
    """A line that is not fully understood measures nothing."""
    assert parse(line) == []


def test_lines_count_by_themselves() -> None:
    """Each well-formed line counts, with its own attributes."""
    text = (
        "done\nMETRIC: rows=1 table=a\nMETRIC: rows=?\r\n\n  METRIC rows=2 table=b\nMETRIC: rows\n"
    )
    assert parse(text) == [("rows", 1, "1", {"table": "a"}), ("rows", 2, "1", {"table": "b"})]


_names = st.from_regex(log_metrics._IS_NAME, fullmatch=True)
_numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
# Neither line endings nor the quote around it
_texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters='"'))


@given(
    numbers=st.dictionaries(_names, _numbers, min_size=1, max_size=5),
    texts=st.dictionaries(_names, _texts, max_size=3),
    separator=st.sampled_from([" ", ",", ", ", " , ", "\t"]),
    head=st.sampled_from(["METRIC: ", "METRIC ", "METRIC:", "  METRIC:\t"]),
)
def test_round_trip(
    numbers: dict[str, float], texts: dict[str, str], separator: str, head: str
) -> None:
    """Finite numbers and quoted texts that Python prints are read back unchanged."""
    texts = {key: text for key, text in texts.items() if key not in numbers}
    pairs = [f'{key}="{text}"' for key, text in texts.items()]
    pairs += [f"{key}={number!r}" for key, number in numbers.items()]
    assert parse(head + separator.join(pairs)) == [
        (name, number, "1", texts) for name, number in numbers.items()
    ]


_scraps = st.sampled_from(
    [
        "METRIC",
        ":",
        " ",
        ",",
        "=",
        "a",
        "rows",
        "1",
        ".5",
        "e9",
        "-",
        "kB",
        "%",
        "/",
        '"',
        "'",
        "\n",
    ]
)


@given(st.lists(_scraps | st.text(max_size=3), max_size=20).map("".join), st.booleans())
def test_any_text_can_be_read(text: str, as_line: bool) -> None:  # noqa: FBT001 - Hypothesis passes it
    """No text raises, and all measurements found are valid for OpenTelemetry."""
    for found in parse(f"METRIC: {text}" if as_line else text):
        assert check(*found) == found


@pytest.mark.timeout(20)
@pytest.mark.parametrize("scrap", ["a", "1", "a=1 ", "a='", " ", ",", "1.", "a=1,", "METRIC: a=1"])
def test_long_lines_take_no_long_time(scrap: str) -> None:
    """The time to reject a long line is linear in its length."""
    for start in ("METRIC: ", "METRIC: x=", "METRIC: x=1", "METRIC: x='"):
        assert parse(start + scrap * 300_000 + "!") == []


# logging


def test_any_logger(
    heard: list[Measurement], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line in any logger of `logging` is found, even in one that does not propagate."""
    apart = logging.getLogger("pipelines.apart")
    monkeypatch.setattr(apart, "propagate", False)
    logger.info("METRIC: rows=5 table=orders")
    apart.warning("METRIC loss=%.2f, took=%dms", 0.25, 10)
    logging.getLogger().error("METRIC: %(rows)s", {"rows": "a=7"})
    assert heard == [
        ("rows", 5, "1", {"table": "orders"}),
        ("loss", 0.25, "1", {}),
        ("took", 0.01, "s", {}),
        ("a", 7, "1", {}),
    ]


def test_prefect_loggers(heard: list[Measurement]) -> None:
    """Lines of Prefect's run loggers are found, through the adapters that it returns."""
    flow_run_logger(flow_run_id=uuid.uuid4()).warning("METRIC: rows=5")
    assert brief(heard) == {"rows": 5}


def test_prefect_runs(prefect_server: str, heard: list[Measurement]) -> None:
    """Lines and captured prints of flows and tasks are found, each in its own thread."""

    @task
    def step(n: int) -> None:
        print(f"METRIC: printed={n}")
        get_run_logger().info("METRIC: logged=%d", n)

    @flow(log_prints=True)
    def main() -> None:
        print("first\nMETRIC rows=5 table='big orders'")
        step.submit(2).wait()

    levels = {
        name: logging.getLogger(name).level for name in ("prefect.flow_runs", "prefect.task_runs")
    }
    for name in levels:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        main()
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert brief(heard) == {"rows": 5, "printed": 2, "logged": 2}
    assert heard[0].attributes == {"table": "big orders"}


def test_text_with_percent_signs(heard: list[Measurement], logger: logging.Logger) -> None:
    """Without arguments a message is used unchanged."""
    logger.info("METRIC: done=5%")
    logger.info("METRIC: done=%d%%", 6)
    assert heard == [("done", 5, "%", {}), ("done", 6, "%", {})]


def test_whole_message_as_argument(heard: list[Measurement], logger: logging.Logger) -> None:
    """A line that is the first argument of a message is found, too."""
    logger.info("%s", "METRIC: rows=5")
    logger.info("%s, b=%d", "METRIC: a=1", 2)
    logger.info("%s", 5)
    logger.info("%s")
    logger.info("%s of METRIC")
    logger.info("%s\nMETRIC: c=%d", "done", 3)
    logger.info("done:\n%s", "METRIC: d=4")
    logger.info("done: %s", "METRIC: e=5")
    assert brief(heard) == {"rows": 5, "a": 1, "b": 2, "c": 3, "d": 4}


class Lazy:
    """An object that counts how often it is formatted."""

    def __init__(self) -> None:
        self.formatted = 0

    def __str__(self) -> str:
        self.formatted += 1
        return "5"


def test_messages_stay_lazy(heard: list[Measurement], logger: logging.Logger) -> None:
    """Only a message with METRIC is formatted before a handler does it."""
    lazy = Lazy()
    logger.info("rows=%s", lazy)
    logger.info("%s", lazy)
    logger.debug("METRIC: rows=%s", lazy)
    assert lazy.formatted == 0
    logger.info("METRIC: rows=%s", lazy)
    assert lazy.formatted == 1
    assert brief(heard) == {"rows": 5}


def test_levels_and_disabled_loggers(heard: list[Measurement], logger: logging.Logger) -> None:
    """Lines that the logger does not log do not count."""
    logger.debug("METRIC: a=1")
    logger.disabled = True
    logger.error("METRIC: b=1")
    logger.disabled = False
    logging.disable(logging.INFO)
    try:
        logger.info("METRIC: c=1")
    finally:
        logging.disable(logging.NOTSET)
    assert heard == []
    logger.warning("METRIC: d=1")
    assert brief(heard) == {"d": 1}


def test_messages_that_are_no_text(heard: list[Measurement], logger: logging.Logger) -> None:
    """Objects logged as messages are ignored."""
    lazy = Lazy()
    for message in (lazy, {"METRIC": 1}, None, b"METRIC: rows=5", 5):
        logger.info(message)
    assert (heard, lazy.formatted) == ([], 0)


def test_messages_that_cannot_be_formatted(
    heard: list[Measurement], logger: logging.Logger
) -> None:
    """The handler reports the user's mistake, as usual."""
    logger.info("METRIC: rows=%d", "five")
    logger.info("METRIC: rows=%d and %d", 5)  # noqa: PLE1206 - that is what this is about
    logger.info("METRIC: rows=5", "left over")  # noqa: PLE1205 - as above
    assert heard == []


def test_records_from_elsewhere(heard: list[Measurement], logger: logging.Logger) -> None:
    """A record from another process, which this one only handles, is ignored."""
    record = {"msg": "METRIC: rows=5", "levelno": logging.ERROR, "process": os.getpid() + 1}
    logger.handle(logging.makeLogRecord(record))
    assert heard == []


def test_logging_may_be_configured_later() -> None:
    """Reconfiguring `logging`, which drops all handlers and filters, changes nothing."""
    program = """if True:
        import logging.config
        from flowspan.log_capture.hooks import LogHooks
        from flowspan.log_capture.measurements import LogMeasure
        LogHooks().install(LogMeasure(lambda found: print(found.name, found.value)))
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        logging.getLogger("pipelines").error("METRIC: rows=5")
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ran.stdout.decode() == "rows 5\n"


def test_records_stay_as_they_are(heard: list[Measurement], logger: logging.Logger) -> None:
    """Handlers get the same record as without the hooks."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger.addHandler(handler)
    logger.info("METRIC: rows=%d", 5, extra={"user": "me"})
    (record,) = records
    assert type(record) is logging.LogRecord
    assert (record.msg, record.args, record.funcName) == (
        *("METRIC: rows=%d", (5,)),
        "test_records_stay_as_they_are",
    )
    assert vars(record)["user"] == "me"


# structlog


def native(**options: Any) -> Any:
    """A plain structlog logger that prints into a buffer."""
    options.setdefault("wrapper_class", structlog.make_filtering_bound_logger(logging.INFO))
    return structlog.wrap_logger(structlog.PrintLogger(io.StringIO()), **options)


def over_logging(logger: Any, *processors: Any, **options: Any) -> Any:
    """A structlog logger on top of `logging`."""
    options.setdefault("wrapper_class", structlog.stdlib.BoundLogger)
    return structlog.wrap_logger(logger, processors=processors, **options)


def test_structured_events(heard: list[Measurement]) -> None:
    """Numeric keywords are measurements; texts and booleans are their attributes."""
    log = native()
    log.info("METRIC", rows=5, table="orders", full=True)
    log.warning("METRIC: ", loss=0.25)
    log.info("METRIC: took=2s table=items", rows=6)
    log.info("METRIC rows=%d", 7)
    assert heard == [
        ("rows", 5, "1", {"table": "orders", "full": True}),
        ("loss", 0.25, "1", {}),
        ("rows", 6, "1", {"table": "items"}),
        ("took", 2, "s", {"table": "items"}),
        ("rows", 7, "1", {}),
    ]


@pytest.mark.parametrize(
    ("event", "keywords"),
    [
        ("rows", {"rows": 5}),
        ("METRICS", {"rows": 5}),
        ("the METRIC", {"rows": 5}),
        ("METRIC of rows", {"rows": 5}),
        ("METRIC", {}),
        ("METRIC", {"table": "orders"}),
        ("METRIC", {"rows": float("nan")}),
        ("METRIC", {"rows": 5, "loss": float("inf")}),
        ("METRIC", {"rows": 10**400}),
        ("METRIC", {"rows": 5, "größe": 1}),
        ("METRIC: rows=5", {"rows": 6}),
        ("METRIC: rows=5", {"rows": "many"}),
        (["METRIC"], {"rows": 5}),
        (None, {"rows": 5}),
    ],
)
def test_other_events(heard: list[Measurement], event: Any, keywords: dict[str, Any]) -> None:
    """Events that are not measurements, or malformed ones, measure nothing."""
    native().info(event, **keywords)
    assert heard == []


def test_keywords_that_are_no_values(heard: list[Measurement]) -> None:
    """Keys of structlog itself and objects of other types are not attributes."""
    internal = {"exc_info": 1, "stack_info": True, "level": "x", "timestamp": 1.5, "_record": "x"}
    native().info(
        "METRIC", rows=5, **internal, logger="shop", stacklevel=2, when=None, what=[1], kind=object
    )
    assert heard == [("rows", 5, "1", {})]


def test_numbers_of_other_libraries(heard: list[Measurement]) -> None:
    """NumPy's numbers, decimals and fractions are measurements like Python's numbers."""
    native().info(
        "METRIC", a=np.int64(5), b=np.float32(0.5), c=Decimal("0.1"), d=Fraction(1, 4), e=2**70
    )
    assert [(found.value, type(found.value)) for found in heard] == [
        *((5, int), (0.5, float), (0.1, float), (0.25, float)),
        (float(2**70), float),
    ]


def test_bound_values_do_not_count(heard: list[Measurement]) -> None:
    """Values bound to a logger are not part of a measurement."""
    structlog.contextvars.bind_contextvars(request=8)
    try:
        native().bind(attempt=3, user="me").info("METRIC", rows=5)
    finally:
        structlog.contextvars.clear_contextvars()
    assert heard == [("rows", 5, "1", {})]


def test_native_levels(heard: list[Measurement]) -> None:
    """An event below a native logger's level does not count."""
    log = native(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    log.info("METRIC: a=1")
    log.log(logging.INFO, "METRIC: b=1")
    asyncio.run(log.ainfo("METRIC: c=1"))
    assert heard == []
    log.warning("METRIC: d=1")
    assert brief(heard) == {"d": 1}


def test_events_that_are_dropped(heard: list[Measurement]) -> None:
    """An event that one of the user's processors drops does not count."""

    def drop(_: Any, __: str, event: Any) -> Any:
        raise structlog.DropEvent

    native(processors=[drop]).info("METRIC: rows=5")
    assert heard == []


def test_generic_loggers(heard: list[Measurement]) -> None:
    """Events of structlog's generic wrapper and configured loggers are found."""
    native(wrapper_class=structlog.BoundLogger).msg("METRIC: a=1")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    structlog.get_logger().info("METRIC: b=2")
    assert brief(heard) == {"a": 1, "b": 2}


def test_loggers_of_ones_own(heard: list[Measurement]) -> None:
    """Events of a wrapper class as in structlog's manual are found, with any arguments."""

    class Semantic(structlog.BoundLoggerBase):
        def measured(self, **values: Any) -> None:
            args, kw = self._process_event(method_name="info", event="METRIC", event_kw=values)
            self._logger.info(*args, **kw)

    native(wrapper_class=Semantic).measured(rows=5)
    assert brief(heard) == {"rows": 5}


def test_call_sites_stay(heard: list[Measurement], logger: logging.Logger) -> None:
    """For structlog and `logging`, the calling code is the user's, not flowspan's."""
    sites: list[tuple[str, str]] = []

    def note(_: Any, __: str, event: Any) -> Any:
        sites.append((event.pop("module"), event.pop("func_name")))
        return event

    parameters = structlog.processors.CallsiteParameter
    adder = structlog.processors.CallsiteParameterAdder([parameters.MODULE, parameters.FUNC_NAME])
    wrapped = over_logging(logger, adder, note, structlog.stdlib.render_to_log_kwargs)
    printed = native(processors=[adder, note, structlog.processors.JSONRenderer()])

    async def log() -> None:
        await printed.ainfo("METRIC: d=1")
        await wrapped.ainfo("rows")

    printed.info("METRIC: a=1")
    printed.info("rows")
    wrapped.info("METRIC: b=1")
    asyncio.run(log())
    here = __name__
    assert sites == [(here, "test_call_sites_stay")] * 3 + [(here, "log")] * 2
    assert brief(heard) == {"a": 1, "b": 1, "d": 1}


RENDERERS: dict[str, list[Any]] = {
    "kwargs": [structlog.stdlib.render_to_log_kwargs],
    "args_and_kwargs": [structlog.stdlib.render_to_log_args_and_kwargs],
    "console": [structlog.dev.ConsoleRenderer(colors=False)],
    "key_value": [structlog.processors.KeyValueRenderer()],
    "logfmt": [structlog.processors.LogfmtRenderer()],
    "json": [structlog.processors.JSONRenderer()],
    "formatter": [structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    "manual": [
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
}


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("wrapped", ["logger", "adapter"])
def test_structlog_over_logging_counts_once(
    heard: list[Measurement], logger: logging.Logger, renderer: str, wrapped: str
) -> None:
    """The record of a structured event is not read a second time."""
    processors = RENDERERS[renderer]
    if wrapped == "adapter":  # which structlog itself cannot filter
        processors = [one for one in processors if one is not structlog.stdlib.filter_by_level]
    adapter = logging.LoggerAdapter(logger, {})
    log = over_logging(adapter if wrapped == "adapter" else logger, *processors)
    log = log.bind(attempt=3, user="me")
    log.info("METRIC: took=2s", rows=5, table="orders")
    log.info("METRIC", rows=6)
    log.warning("METRIC: rows=7")
    logger.info("METRIC: rows=8")
    assert heard == [
        ("rows", 5, "1", {"table": "orders"}),
        ("took", 2, "s", {"table": "orders"}),
        *(("rows", n, "1", {}) for n in (6, 7, 8)),
    ]


def test_the_same_text_in_both(heard: list[Measurement], logger: logging.Logger) -> None:
    """A line of `logging` counts even if it repeats the text of a structlog event."""
    text = "METRIC: rows=5"
    over_logging(logger, structlog.stdlib.render_to_log_kwargs).info(text)
    logger.info(text)
    assert len(heard) == 2


def test_arguments_of_structlog_over_logging(
    heard: list[Measurement], logger: logging.Logger
) -> None:
    """Messages with arguments are formatted, whether by structlog or `logging`."""
    formatter = structlog.stdlib.PositionalArgumentsFormatter()
    renderer = structlog.dev.ConsoleRenderer(colors=False)
    over_logging(logger, formatter, renderer).info("METRIC: a=%d", 1)
    late = over_logging(logger, structlog.stdlib.render_to_log_args_and_kwargs)
    late.info("METRIC: b=%d", 2)
    late.info("METRIC: c=%(n)d", {"n": 3})
    late.info("METRIC: d=%d", "four")
    assert heard == [(name, n, "1", {}) for name, n in (("a", 1), ("b", 2), ("c", 3))]


@pytest.mark.parametrize("filters", [[], [structlog.stdlib.filter_by_level]], ids=len)
def test_levels_of_structlog_over_logging(
    heard: list[Measurement], logger: logging.Logger, filters: list[Any]
) -> None:
    """An event that the wrapped logger does not log does not count."""
    processors = [*filters, structlog.stdlib.render_to_log_kwargs]
    log = over_logging(logging.Logger("quiet", logging.CRITICAL), *processors)  # noqa: LOG001
    log.exception("METRIC: a=1")  # noqa: LOG004 - only its level matters here
    logger.setLevel(logging.ERROR)
    log = over_logging(logger, *processors)
    log.info("METRIC: a=1")
    log.warn("METRIC: b=1")  # noqa: G010 - a method of its own in structlog
    log.log(logging.DEBUG, "METRIC: c=1")
    assert heard == []
    log.exception("METRIC: d=1")  # noqa: LOG004 - as above
    log.fatal("METRIC: e=1")
    assert brief(heard) == {"d": 1, "e": 1}


def test_async_methods(logger: logging.Logger) -> None:
    """Async methods log in another thread; the sink is called there, in the caller's context."""
    run = contextvars.ContextVar("run", default="none")
    found: list[tuple[str, bool, dict[str, Any]]] = []
    main = threading.get_ident()

    def sink(measurement: Measurement) -> None:
        found.append((run.get(), threading.get_ident() == main, brief([measurement])))

    async def log() -> None:
        run.set("mine")
        await native().ainfo("METRIC", a=1)
        await over_logging(logger, structlog.stdlib.render_to_log_kwargs).ainfo("METRIC: b=2")
        await structlog.wrap_logger(
            logger,
            processors=[structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.AsyncBoundLogger,
        ).info("METRIC", c=3)

    watcher = LogWatcher(sink)
    watcher.install()
    try:
        asyncio.run(log())
    finally:
        watcher.remove()
    assert found == [("mine", False, {name: n}) for name, n in (("a", 1), ("b", 2), ("c", 3))]


def test_structlog_is_not_imported() -> None:
    """Users who do not use structlog do not import it; after an import it is patched."""
    program = """if True:
        import sys
        from flowspan.log_capture.hooks import LogHooks
        from flowspan.log_capture.measurements import LogMeasure
        found, never = [], []
        gone = LogHooks()
        gone.install(LogMeasure(never.append))
        gone.remove()
        watcher = LogHooks()
        for _ in range(3):
            watcher.install(LogMeasure(found.append))
            watcher.remove()
        watcher.install(LogMeasure(found.append))
        print("structlog" in sys.modules)
        import structlog
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        structlog.get_logger().info("METRIC", rows=5)
        watcher.remove()
        structlog.get_logger().info("METRIC", rows=6)
        print([one.value for one in found], never)
        print(vars(structlog.BoundLoggerBase)["_process_event"].__code__.co_filename)
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    original = vars(structlog.BoundLoggerBase)["_process_event"].__code__.co_filename
    assert ran.stdout.decode().splitlines() == ["False", "[5] []", original]


def test_another_structlog(failures: Callable[[], list[str]]) -> None:
    """A structlog without the patched method is reported, and `logging` is still patched."""
    found: list[Measurement] = []
    watcher = LogWatcher(found.append)
    watcher.install()
    try:
        watcher._wrap_structlog(type("structlog", (), {}))
        logging.getLogger("pipelines").warning("METRIC: rows=5")
    finally:
        watcher.remove()
    assert brief(found) == {"rows": 5}
    (message,) = failures()
    assert "BoundLoggerBase" in message


# Installing and removing


def test_installing_twice(logger: logging.Logger) -> None:
    """Installing or removing a watcher twice changes nothing."""
    methods = watched()
    found: list[Measurement] = []
    watcher = LogWatcher(found.append)
    watcher.remove()
    for _ in range(2):
        watcher.install()
        watcher.install()
        logger.info("METRIC: rows=5")
        native().info("METRIC: rows=6")
        watcher.remove()
        watcher.remove()
        logger.info("METRIC: rows=7")
        native().info("METRIC: rows=8")
        assert watched() == methods
    assert [measurement.value for measurement in found] == [5, 6, 5, 6]


def test_other_patches_of_logging(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' wrappers around the patched method still work, and no line counts twice."""
    monkeypatch.setattr(logging.Logger, "filter", logging.Logger.filter)
    found: list[Measurement] = []
    watcher = LogWatcher(found.append)
    watcher.install()
    ours = logging.Logger.filter

    def later(self: Any, record: Any) -> Any:
        return ours(self, record)

    monkeypatch.setattr(logging.Logger, "filter", later)
    logger.info("METRIC: rows=1")
    watcher.remove()
    assert vars(logging.Logger)["filter"] is later
    logger.info("METRIC: rows=2")
    watcher.install()
    logger.info("METRIC: rows=3")
    watcher.remove()
    assert vars(logging.Logger)["filter"] is later
    assert [measurement.value for measurement in found] == [1, 3]


def test_filters(heard: list[Measurement], logger: logging.Logger) -> None:
    """Records that the logger's filter drops do not count; records a handler drops do."""
    (handler,) = logger.handlers
    handler.setLevel(logging.CRITICAL)
    logger.addFilter(lambda record: "left out" not in record.msg)
    logger.info("METRIC: a=1 # left out")
    logger.info("METRIC: b=2")
    assert brief(heard) == {"b": 2}


def test_other_patches_of_structlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' wrappers around the patched method still work, and no event counts twice."""
    base = structlog.BoundLoggerBase
    monkeypatch.setattr(base, "_process_event", vars(base)["_process_event"])
    found: list[Measurement] = []
    watcher = LogWatcher(found.append)
    watcher.install()
    ours = base._process_event

    def later(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(base, "_process_event", later)
    native().info("METRIC: rows=1")
    watcher.remove()
    assert vars(base)["_process_event"] is later
    native().info("METRIC: rows=2")
    watcher.install()
    native().info("METRIC: rows=3")
    watcher.remove()
    assert vars(base)["_process_event"] is later
    assert [measurement.value for measurement in found] == [1, 3]


def test_two_watchers(heard: list[Measurement], logger: logging.Logger) -> None:
    """Two watchers each find everything, and the inner one can be removed first."""
    outer: list[Measurement] = []
    watcher = LogWatcher(outer.append)
    watcher.install()
    logger.info("METRIC: rows=1")
    native().info("METRIC: rows=2")
    watcher.remove()
    logger.info("METRIC: rows=3")
    assert [measurement.value for measurement in heard] == [1, 2, 3]
    assert [measurement.value for measurement in outer] == [1, 2]


# Failures


def test_a_sink_that_fails(logger: logging.Logger, failures: Callable[[], list[str]]) -> None:
    """If the sink fails, only that measurement is lost, and it is reported once."""
    found: list[Measurement] = []

    def sink(measurement: Measurement) -> None:
        if measurement.name == "bad":
            raise LookupError("no instrument\nMETRIC: bad=1")
        found.append(measurement)

    watcher = LogWatcher(sink)
    watcher.install()
    try:
        for _ in range(3):
            logger.info("METRIC: bad=1 good=2")
            assert native().info("METRIC", bad=1, good=2) is None
    finally:
        watcher.remove()
    assert [measurement.name for measurement in found] == ["good"] * 6
    (message,) = failures()
    assert "logs: no instrument" in message


def test_a_sink_that_logs(logger: logging.Logger) -> None:
    """Lines logged while a measurement is passed on are ignored: it would never end."""
    found: list[Measurement] = []

    def sink(measurement: Measurement) -> None:
        found.append(measurement)
        if len(found) < 10:
            logger.warning("METRIC: again=1")
            native().warning("METRIC", again=1)

    watcher = LogWatcher(sink)
    watcher.install()
    try:
        logger.info("METRIC: a=1 b=2")
    finally:
        watcher.remove()
    assert brief(found) == {"a": 1, "b": 2}


def test_what_is_not_an_exception_passes(logger: logging.Logger) -> None:
    """A KeyboardInterrupt in the sink passes, and later lines still count."""
    found: list[Measurement] = []

    def sink(measurement: Measurement) -> None:
        found.append(measurement)
        if measurement.name == "stop":
            raise KeyboardInterrupt

    watcher = LogWatcher(sink)
    watcher.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            logger.info("METRIC: stop=1")
        logger.info("METRIC: next=1")
    finally:
        watcher.remove()
    assert brief(found) == {"stop": 1, "next": 1}


def test_threads(heard: list[Measurement], logger: logging.Logger) -> None:
    """Threads that log at once through both libraries lose nothing and count nothing twice."""

    def log(n: int) -> None:
        wrapped = over_logging(logger, structlog.stdlib.render_to_log_kwargs)
        for i in range(50):
            logger.info("METRIC: plain_%d=%d", n, i)
            wrapped.info("METRIC", **{f"structured_{n}": i})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(log, range(8)))
    assert len(heard) == 8 * 50 * 2
    assert len({(found.name, found.value) for found in heard}) == 800


def test_outside_runs(logger: logging.Logger) -> None:
    """A measurement outside any run is dropped without a failure."""
    record_in_run(Measurement("rows", 5, "1", {}))
    watcher = LogWatcher()
    watcher.install()
    try:
        logger.info("METRIC: rows=5")
    finally:
        watcher.remove()


# Values recorded in code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (0.5, 0.5),
        (-(2**63), -(2**63)),
        (2**63, 2.0**63),
        (np.int64(5), 5),
        (np.uint64(2**64 - 1), 2.0**64),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (Decimal("0.1"), 0.1),
        (Decimal(10**30), 1e30),
        (Fraction(1, 4), 0.25),
    ],
    ids=repr,
)
def test_values(value: Any, expected: float) -> None:
    """Any real number is accepted, as a plain int or float."""
    attributes: dict[str, Any] = {"table": "orders", "full": True, "n": 1, "x": 0.5}
    found = check("rows", value, "{row}", attributes)
    assert tuple(found) == ("rows", expected, "{row}", attributes)
    assert type(found.value) is type(expected)


def test_defaults() -> None:
    """A name and a value are enough; attributes are a copy of the user's."""
    assert check("rows", 5) == ("rows", 5, "1", {})
    attributes: dict[str, Any] = {"table": "orders"}
    found = check("rows", 5, attributes=attributes)
    attributes.clear()
    assert found.attributes == {"table": "orders"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, 5), TypeError, "name .* str, not 5"),
        (("", 5), ValueError, "'' cannot name a metric"),
        (("1st", 5), ValueError, "first one a letter"),
        (("my rows", 5), ValueError, "my rows"),
        (("größe", 5), ValueError, "ASCII"),
        (("rows\n", 5), ValueError, "rows"),
        (("n" * 201, 5), ValueError, "200"),
        (("rows", "5"), TypeError, "'5'.* int"),
        (("rows", True), TypeError, "number, not True"),
        (("rows", np.True_), TypeError, "number"),
        (("rows", None), TypeError, "number, not None"),
        (("rows", 1j), TypeError, "number"),
        (("rows", math.nan), ValueError, "finite"),
        (("rows", -math.inf), ValueError, "finite"),
        (("rows", 10**400), ValueError, "finite"),
        (("rows", Decimal("NaN")), ValueError, "finite"),
        (("rows", Decimal("sNaN")), ValueError, "NaN"),
        (("rows", np.float32("inf")), ValueError, "finite"),
        (("rows", 5, None), TypeError, "unit"),
        (("rows", 5, "µs"), ValueError, "ASCII"),
        (("rows", 5, "s" * 64), ValueError, "63"),
        (("rows", 5, "1", [("a", 1)]), TypeError, "mapping"),
        (("rows", 5, "1", []), TypeError, "mapping"),
        (("rows", 5, "1", {1: "a"}), TypeError, "1: 'a'"),
        (("rows", 5, "1", {"a": None}), TypeError, "'a': None"),
        (("rows", 5, "1", {"a": ["b"]}), TypeError, r"str\(\)"),
    ],
    ids=repr,
)
def test_what_cannot_be_recorded(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    """Invalid arguments raise, and the message says what to use instead."""
    with pytest.raises(error, match=message):
        check(*arguments)
