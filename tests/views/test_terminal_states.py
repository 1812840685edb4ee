"""The states of runs, as lines."""

from run_spans import EPOCH, SECOND, make_span

from flowspan import semconv
from flowspan.read.events import Event
from flowspan.read.span import Open, OpenSpan, Span
from flowspan.views.terminal.states import States

ATTRIBUTES = {
    semconv.RUN_TYPE: "task",
    semconv.RUN_NAME: "load-ac7",
    semconv.FLOW_NAME: "etl",
    semconv.RUN_STATE_NAME: "Running",
    semconv.RUN_STATE_TYPE: "RUNNING",
}


def ended(*names: str) -> Span:
    """Return a span with events of these states, one each second."""
    events = tuple(
        Event(
            name,
            EPOCH + second * SECOND,
            {semconv.STATE_TYPE: "PENDING" if name == "Pending" else "ANY"},
        )
        for second, name in enumerate(names)
    )
    return make_span(
        "1", None, EPOCH, EPOCH + (len(names) - 1) * SECOND, attributes=ATTRIBUTES, events=events
    )


def open_(state: str, **attributes: str) -> OpenSpan:
    """Return a span that has not ended."""
    return OpenSpan(
        Open("lost" if state == "lost" else "running", EPOCH + SECOND, "execution"),
        trace_id="ab" * 16,
        span_id="1",
        parent_span_id=None,
        name="load",
        kind="INTERNAL",
        start=EPOCH,
        end=EPOCH + SECOND,
        attributes=ATTRIBUTES | attributes,
        events=(),
        links=(),
        status="UNSET",
        status_message="",
        resource={},
    )


def told(states: States, span: Span) -> list[str]:
    """Return the new states, with what follows the name of the run."""
    lines = [line.split("  ", 1)[1] for line in states.lines([span])]
    assert all("  etl/load-ac7" in line for line in lines)
    return ["".join(line.split("etl/load-ac7")).strip() for line in lines]


def test_each_state_is_written_once() -> None:
    """While the run is open, and then those that were missed; the last has the duration."""
    states = States()
    assert told(states, open_("running")) == ["Running"]
    assert told(states, open_("running")) == []
    waiting = open_("running", **{semconv.RUN_STATE_NAME: "AwaitingRetry"})
    assert told(states, waiting) == ["AwaitingRetry"]
    whole = ended("Pending", "Running", "AwaitingRetry", "Retrying", "Completed")
    found = told(states, whole)
    assert [line.split()[0] for line in found] == ["Retrying", "Completed"]
    assert found[-1].endswith("4.00 s")
    assert told(states, whole) == []


def test_a_final_state_comes_with_the_span() -> None:
    """A report may say that the run has completed, but not when."""
    states = States()
    completed = {semconv.RUN_STATE_NAME: "Completed", semconv.RUN_STATE_TYPE: "COMPLETED"}
    assert told(states, open_("running", **completed)) == ["Running"]
    (line,) = told(states, ended("Pending", "Running", "Completed"))
    assert line.startswith("Completed")
    assert line.endswith("2.00 s")


def test_a_run_that_comes_back_after_it_was_lost_goes_on() -> None:
    """Its process may only have slept."""
    states = States()
    assert told(states, open_("lost")) == ["Running", "lost"]
    assert told(states, ended("Pending", "Running", "Completed"))[0].startswith("Completed")


def test_a_state_that_comes_again_is_written_again() -> None:
    """A run may be retried several times."""
    names = ["Running", "AwaitingRetry", "Retrying", "AwaitingRetry", "Retrying", "Failed"]
    assert [line.split()[0] for line in told(States(), ended(*names))] == names
