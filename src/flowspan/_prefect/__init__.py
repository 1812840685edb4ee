"""All code that uses private details of Prefect, so that a new release of it changes only this.

Prefect's run engines report each start, state change and end of a run to a telemetry object. An
`EngineTelemetry` takes its place, so Prefect's own spans are replaced rather than doubled
(`telemetry`). Wrappers around a few functions report the rest: when the engine and the user's
function are entered and left, and what is waited for (`patches`). `origin` finds where a run comes
from, `description` describes it, and `prints` finds the logger of what it prints. These parts of
Prefect have not changed since 3.6.0.
"""

from flowspan._prefect.adopt import adopt_running
from flowspan._prefect.observer import EngineObserver
from flowspan._prefect.patches import PATCHES, Patch
from flowspan._prefect.prints import print_logger
from flowspan._prefect.telemetry import EngineTelemetry

__all__ = ["PATCHES", "EngineObserver", "EngineTelemetry", "Patch", "adopt_running", "print_logger"]
