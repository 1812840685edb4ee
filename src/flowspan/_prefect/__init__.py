"""All that touches a private detail of Prefect, so that a new release of it changes this alone.

Prefect's run engines hand each start, state change and end of a run to a telemetry object. An
`EngineTelemetry` takes its place, so Prefect's own spans are replaced rather than doubled
(`telemetry`), and a few methods around it tell what that object does not hear: when the engine is
entered and left, when the user's function is, and what is waited for (`patches`). Where a run comes
from is in `origin`, what is said of it in `description`, what becomes of what it prints in
`prints`. The seams have had the same shape from Prefect 3.6.0 on.
"""

from flowspan._prefect.adopt import adopt_running
from flowspan._prefect.observer import EngineObserver
from flowspan._prefect.patches import PATCHES, Patch
from flowspan._prefect.prints import print_logger
from flowspan._prefect.telemetry import EngineTelemetry

__all__ = ["PATCHES", "EngineObserver", "EngineTelemetry", "Patch", "adopt_running", "print_logger"]
