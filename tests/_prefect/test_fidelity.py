"""The heart of the product: telemetry matches Prefect's API, whatever a flow does."""

import os

from hypothesis import HealthCheck, Phase, given, settings

from flowspan import semconv
from random_flows import Program, programs, run
from reconcile import Totals, reconcile
from support import RecordedMetrics, RecordedSpans, attributes

# The same flows each time, so that only changes matter; set FIDELITY_EXAMPLES to search further.
EXAMPLES = os.environ.get("FIDELITY_EXAMPLES")


@settings(
    max_examples=int(EXAMPLES or 25),
    derandomize=EXAMPLES is None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(program=programs)
def test_telemetry_is_true_to_the_api(
    spans: RecordedSpans, metrics: RecordedMetrics, program: Program
) -> None:
    """Every run in the API has one span with its state, parent, upstream runs, events and times.

    Metrics have the same runs by state, the same retries, and the same time in Running states.
    """
    spans.clear()
    before = Totals.of(metrics)
    run(program)
    totals = Totals.of(metrics).since(before)
    run_id = attributes(spans.one("RUN main"))[semconv.RUN_ID]
    differences = reconcile(spans.all, run_id, totals=totals)
    assert not differences, "\n".join(differences)
