"""Measure how long it takes to read and analyse traces of a thousand to a million spans.

    python scripts/bench_timeline.py [--largest 1000000] [--keep FOLDER]

The traces look like flowspan's, with about 2.9 kB per span; see `generated_traces`. Each size is
read and analysed in its own process, whose peak memory is reported. Growth is the factor of the
time for ten times the size: 10 is linear. Times are wall clock; on a busy machine, look at the CPU
time.

The exit code only says whether it could measure. The targets: 1,000,000 spans are read and analysed
within 30 s and 4 GiB, including 5 s for the analysis; 10,000 within 1 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import generated_traces
from bench import positive

SMALLEST: Final = 1_000
STEP: Final = 10
TIMEOUT: Final = 1_800.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Measured:
    """The measurements of one size: seconds, and bytes at the peak."""

    spans: int
    size: int
    reading: float
    analysis: float
    cpu: float
    memory: int

    @property
    def total(self) -> float:
        """Seconds of both."""
        return self.reading + self.analysis


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=positive, default=1_000_000, help="spans")
    parser.add_argument("--keep", type=Path, help="folder to keep and reuse the traces in")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(asdict(measure(arguments.measure))))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'spans':>10}{'file':>10}{'reading':>10}{'analysis':>10}{'total':>10}", end="")
        print(f"{'CPU':>10}{'peak':>11}{'growth':>8}")
        before: Measured | None = None
        count = SMALLEST
        while count <= arguments.largest:
            found = measure_apart(folder, count)
            print_row(found, before)
            before = found
            count *= STEP
    return 0


def measure_apart(folder: Path, count: int) -> Measured:
    """Measure a trace in a separate process; write the trace first if necessary."""
    file = folder / f"traces-{count}.jsonl"
    if not file.exists():
        generated_traces.write(file, count)
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(file)],
        check=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    return Measured(**json.loads(done.stdout))


def measure(file: Path) -> Measured:
    """Read and analyse a trace in this process."""
    from flowspan.analysis import one_trace as analysis  # noqa: PLC0415 - imports are not what is measured
    from flowspan.read import trace_files  # noqa: PLC0415 - imports are not what is measured

    begun, cpu = time.perf_counter(), time.process_time()
    trace = trace_files.load(file)
    loaded = time.perf_counter()
    analysis.analyse(trace.spans)
    done = time.perf_counter()
    # In bytes on macOS, in KiB elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(
        spans=len(trace.spans),
        size=file.stat().st_size,
        reading=loaded - begun,
        analysis=done - loaded,
        cpu=time.process_time() - cpu,
        memory=peak if sys.platform == "darwin" else peak * 1024,
    )


def print_row(found: Measured, before: Measured | None) -> None:
    """Print the measurements of one size, and the growth since the previous one."""
    growth = "" if before is None else f"{found.total / before.total:.1f}"
    print(f"{found.spans:>10,}{found.size / MIB:>6,.0f} MiB", end="")
    for seconds in (found.reading, found.analysis, found.total, found.cpu):
        print(f"{seconds:>8.2f} s", end="")
    print(f"{found.memory / MIB:>7,.0f} MiB{growth:>8}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
