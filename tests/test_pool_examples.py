"""The examples for a process pool and a background task run, and all of it is recorded."""

import sys
from pathlib import Path

from example_runs import EXAMPLES, check_primes, run_example, task_runs
from flowspan import semconv
from processes import background, environment, eventually
from reconcile import reconcile
from support import RecordedSpans, attributes, embedded_spans


def test_process_pool(prefect_server: str, tmp_path: Path) -> None:
    """Task runs in the pool's processes are below the flow."""
    check_primes("process_pool", tmp_path)


def test_background_task(prefect_server: str, tmp_path: Path) -> None:
    """The served task is below the flow that submitted it, in the other process."""
    script = str(EXAMPLES / "background_task.py")
    log = tmp_path / "serve.log"

    def both() -> RecordedSpans | None:
        assert server.poll() is None, log.read_text()
        spans = embedded_spans(tmp_path)
        return spans if spans.named("send_receipt") else None

    with background(sys.executable, script, "serve", env=environment(tmp_path), log=log) as server:
        run_example("background_task", folder=tmp_path)
        spans: RecordedSpans = eventually(both, "the task")
    assert spans.tree().splitlines() == ["RUN checkout", "  send_receipt"]
    flow, task = attributes(spans.one("RUN checkout")), attributes(spans.one("send_receipt"))
    assert task[semconv.PROCESS_ID] != flow[semconv.PROCESS_ID]
    assert task[semconv.FLOW_NAME] == "checkout"
    assert reconcile(spans.all, flow[semconv.RUN_ID]) == []
    assert task_runs(tmp_path) == {"send_receipt": 1}
