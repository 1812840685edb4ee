"""Run a flow until it has been reported, with one of two ends.

``fork``: in this process and in one that it forks; prints the process id of each.
``exit``: the process exits with 3, amid two flows.
"""

import os
import sys
import threading
import time
from pathlib import Path

from prefect import flow

from flowspan import flush, instrument, semconv

instrument()

FILE = Path(os.environ["FLOWSPAN_DIR"], "logs.jsonl")


def has_reported() -> bool:
    flush()
    wanted = f'"{semconv.RUN_RUNNING}"'
    process = f'"intValue":"{os.getpid()}"'
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return any(wanted in line and process in line for line in lines)


@flow
def reported() -> None:
    deadline = time.monotonic() + 60
    while not has_reported():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    print(os.getpid(), flush=True)


@flow
def lasting() -> None:
    time.sleep(600)


@flow
def exiting() -> None:
    threading.Thread(target=lasting, daemon=True).start()
    while not has_reported():
        time.sleep(0.05)
    sys.exit(3)


if __name__ == "__main__":
    if sys.argv[1] == "exit":
        exiting()
    reported()
    child = os.fork()
    if child == 0:
        reported()
        flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
