"""`flowspan watch` itself is killed, again and again."""

import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from flowspan import semconv
from interrupted import MOMENTS, kill_watch, runs_of, say_crashed
from processes import background, environment, eventually
from support import attributes, embedded_spans
from unseen import SEED
from watched import differences, watch_once

KILLS = 20
LOADS = [
    ("plain", None),
    ("instrumented", None),
    ("plain", (5, 20)),
    ("instrumented", (5, 20)),
    ("instrumented", (5, 20)),
]
"""Processes with flows: whether flowspan records them, and in how many seconds they are killed."""
TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(2400)
def test_killed_at_random_moments(prefect_server: str, tmp_path: Path) -> None:
    """Nothing is lost and nothing is doubled, of flows with and without flowspan, killed or not."""
    chosen = random.Random(SEED)  # noqa: S311 - reproducible
    stop, name = tmp_path / "stop", f"load-{SEED}"
    processes = []
    with ExitStack() as stack:
        for number, (kind, life) in enumerate(LOADS):
            seconds = [str(chosen.uniform(*life))] if life else []
            seed = str(chosen.randrange(2**32))
            wanted = (f"{name}-{number}", seed, "100", str(stop), *seconds)
            command = (sys.executable, "loaded.py", *wanted)
            env = environment(tmp_path, DOOMED=kind)
            env["PYTHONPATH"] += os.pathsep + str(TESTS)
            output = tmp_path / f"load-{number}.log"
            processes.append(stack.enter_context(background(*command, env=env, log=output)))
        for _ in range(KILLS):
            kill_watch(tmp_path, chosen.choice(MOMENTS), chosen)
        stop.touch()
        eventually(lambda: all(p.poll() is not None for p in processes), "the end")
    say_crashed(runs_of(name))
    log = watch_once(tmp_path)
    runs = runs_of(name)
    assert len(runs) > KILLS
    observers = {
        attributes(span).get(semconv.OBSERVED_BY) for span in embedded_spans(tmp_path).runs
    }
    assert observers == {None, semconv.OBSERVED_BY_WATCH}
    found = differences(tmp_path, [run.id for run in runs])
    assert not found, "\n".join([f"WATCH_SEED={SEED}", *found, log])
