"""Which hosts have clocks that are behind: their runs come before what must have been before."""

from run_spans import run

from flowspan.analysis.clocks import LateClock
from flowspan.analysis.one_trace import analyse
from flowspan.views.headline import reservations

MS = 1_000_000


def test_a_run_before_the_end_of_what_it_waited_for() -> None:
    """The largest contradiction counts, and the host that is behind is named once."""
    analysis = analyse(
        [
            run("flow", None, 0, 3, flow=True, host="a"),
            run("first", "flow", 0.5, 1, host="a"),
            run("second", "flow", 0.98, 1.2, upstream=["first"], host="b"),
            run("third", "flow", 1.24, 1.5, upstream=["second"], host="a"),
            run("fourth", "flow", 1.45, 1.9, upstream=["third"], host="b"),
        ]
    )
    assert analysis.late_clocks == (LateClock("b", "a", 50 * MS),)
    (said,) = reservations(analysis)
    assert said.startswith("The clock of b is at least 50 ms behind that of a")


def test_a_run_before_its_caller() -> None:
    """A run cannot start before the one that called it."""
    spans = [run("flow", None, 1, 3, flow=True, host="a"), run("task", "flow", 0.8, 2, host="b")]
    assert analyse(spans).late_clocks == (LateClock("b", "a", 200 * MS),)


def test_clocks_that_agree() -> None:
    """Nothing is said of one host, of a few milliseconds, of waits, or of a flow's end."""
    spans = [
        run("flow", None, 0, 3, flow=True, host="a"),
        run("first", "flow", 0.5, 1, host="a"),
        run("same", "flow", 0.9, 1.1, upstream=["first"], host="a"),
        run("near", "flow", 0.996, 1.1, upstream=["first"], host="b"),
        run("waiting", "flow", 0.5, 1.2, upstream=["first"], host="b", dependencies=0.5),
        run("subflow", "flow", 1.2, 1.5, flow=True, host="a"),
        run("after", "flow", 1.4, 2, upstream=["subflow"], host="b"),
        run("unknown", "flow", 0.8, 2, upstream=["first"]),
    ]
    assert analyse(spans).late_clocks == ()
