"""Measure what a log call in a run costs with flowspan, compared with the same call without.

    python scripts/bench_logs.py [--calls 500] [--rounds 41]

In one task run, blocks of the same call alternate: with flowspan's hooks and without them. So both
sides have the same process, logger, context and machine. Records go to embedded files. The loggers
write to ``/dev/null``:

    structlog json       native, merged context variables, level, time and JSON
    structlog console    native, structlog's default configuration
    structlog stdlib     on top of `logging`, rendered as JSON
    logging              a format string and a handler
    get_run_logger       Prefect's, whose handler for the API is off

Time is the CPU time of the thread that logs, as the median of the blocks; the ratio is the median
of the ratios of neighbours. ``all threads`` is the process's CPU time for the same calls: with
flowspan that includes writing the records to the files, in another thread. Everything is flushed
between blocks, so that no block pays for the previous one.

The exit code only says whether it could measure. The target: a structlog call costs less than twice
what it costs without flowspan.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import ROOT, Unable, clean_environment, positive, prefect_server, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET: Final = 2.0
TIMEOUT: Final = 600.0


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=positive, default=500, help="log calls in a block")
    parser.add_argument("--rounds", type=positive, default=41, help="pairs of blocks")
    parser.add_argument("--in-a-run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_a_run:
        print(json.dumps(measure_in_a_run(arguments.calls, arguments.rounds)))
        return 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="flowspan-bench-") as name,
            prefect_server(Path(name)) as api,
        ):
            show_progress(f"{arguments.rounds} rounds of {arguments.calls} calls")
            found = run_child(Path(name), api, arguments)
        show_progress("")
    except Unable as reason:
        print(f"Cannot measure: {reason}", file=sys.stderr)
        return 1
    report(found, arguments)
    return 0


def run_child(folder: Path, api: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure in a separate process, whose environment is set from the start."""
    env = clean_environment(folder) | {
        "PREFECT_API_URL": api,
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "FLOWSPAN_DIR": str(folder / "telemetry"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    options = ["--calls", str(arguments.calls), "--rounds", str(arguments.rounds)]
    done = subprocess.run(
        [sys.executable, __file__, "--in-a-run", *options],
        env=env,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise Unable(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_in_a_run(calls: int, rounds: int) -> dict[str, Any]:
    """Measure each kind of logger inside a task run, on an attempt's span."""
    import flowspan  # noqa: PLC0415 - only the measured process needs these

    flowspan.instrument()

    from prefect import flow, task  # noqa: PLC0415 - as above

    @task(retries=1)
    def logs() -> dict[str, Any]:
        return {name: measure(call, calls, rounds) for name, call in loggers().items()}

    @flow
    def main() -> dict[str, Any]:
        return logs()

    return main()


def loggers() -> dict[str, Callable[[], object]]:
    """Return one log call of each kind."""
    import structlog  # noqa: PLC0415 - as above
    from prefect.logging import get_run_logger  # noqa: PLC0415 - as above

    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    handler = logging.StreamHandler(nowhere)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name, is_apart in (("bench", True), ("bench.structlog", True), ("prefect", False)):
        logger = logging.getLogger(name)
        logger.handlers, logger.level = [handler], logging.INFO
        logger.propagate = not is_apart
    logging.getLogger().handlers = []
    common: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    json_lines = structlog.wrap_logger(
        structlog.PrintLogger(nowhere),
        processors=[*common, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    console = structlog.wrap_logger(structlog.PrintLogger(nowhere))
    stdlib = structlog.wrap_logger(
        logging.getLogger("bench.structlog"),
        processors=[*common, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    plain, of_run = logging.getLogger("bench"), get_run_logger()
    fields: dict[str, Any] = {"rows": 1234, "table": "orders", "seconds": 0.25}
    return {
        "structlog json": lambda: json_lines.info("loaded", **fields),
        "structlog console": lambda: console.info("loaded", **fields),
        "structlog stdlib": lambda: stdlib.info("loaded", **fields),
        "logging": lambda: plain.info("loaded %d rows into %s", 1234, "orders"),
        "get_run_logger": lambda: of_run.info("loaded %d rows into %s", 1234, "orders"),
    }


def measure(call: Callable[[], object], calls: int, rounds: int) -> dict[str, list[list[float]]]:
    """Return CPU seconds per call, of this thread and of all, for each block with and without."""
    import flowspan  # noqa: PLC0415 - as above

    instrumentor: Any = flowspan.PrefectInstrumentor()
    hooks = instrumentor._log_hooks  # noqa: SLF001 - everything else must stay in place
    listeners = hooks._measure, hooks._export  # noqa: SLF001 - as above
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    for round_number in range(rounds + 1):
        for side in found if round_number % 2 else reversed(found):
            hooks.remove()
            if side == "with":
                hooks.install(*listeners)
            thread, process = time.thread_time(), time.process_time()
            for _ in range(calls):
                call()
            thread = time.thread_time() - thread
            flowspan.flush(30)
            process = time.process_time() - process
            if round_number:  # the first one warms up
                found[side].append([thread / calls, process / calls])
    hooks.remove()
    hooks.install(*listeners)
    return found


def report(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the table and whether the target is met."""
    print(f"{arguments.rounds} rounds of {arguments.calls} calls, {sys.version.split()[0]}")
    print(f"\n{'':20}{'without':>10}{'with':>10}{'ratio':>8}{'all threads':>22}")
    met = True
    for name, sides in found.items():
        without, with_flowspan = ([block[0] for block in sides[side]] for side in sides)
        in_all, in_all_with = ([block[1] for block in sides[side]] for side in sides)
        ratio = statistics.median(b / a for a, b in zip(without, with_flowspan, strict=True))
        met = met and (not name.startswith("structlog") or ratio < TARGET)
        print(
            f"{name:20}{microseconds(without):>10}{microseconds(with_flowspan):>10}{ratio:>8.2f}"
            f"{microseconds(in_all):>11} → {microseconds(in_all_with)}"
        )
    verdict = "met" if met else "MISSED"
    print(f"\nA structlog call costs less than {TARGET:g} times as much: {verdict}")


def microseconds(values: list[float]) -> str:
    """Format the median of seconds."""
    return f"{statistics.median(values) * 1e6:.1f} µs"


if __name__ == "__main__":
    sys.exit(main())
