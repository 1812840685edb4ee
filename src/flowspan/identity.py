"""Derived ids: every process computes the same trace and span id from a run id alone.

A trace id is the BLAKE2b-128 digest of the root flow run's id, a span id the BLAKE2b-64 digest of
the run's own id. Both are computed from the id as text (lower case, with dashes), so a shell can do
it: ``printf %s "$FLOW_RUN_ID" | b2sum -l 128``. Prefect's UUIDs themselves cannot be trace ids,
because they are UUIDv7 and ``TraceIdRatioBased`` reads the low 64 bits, whose top two bits are the
UUID's variant.
"""

import threading
from hashlib import blake2b

from opentelemetry.sdk.trace.id_generator import IdGenerator


def derive_trace_id(root_run_id: str) -> int:
    """Derive the 128-bit id of the trace whose root is the run `root_run_id`; never zero."""
    return int.from_bytes(blake2b(root_run_id.encode(), digest_size=16).digest(), "big") or 1


def derive_span_id(run_id: str, run_count: int = 0) -> int:
    """Derive the 64-bit id of a run's span; never zero.

    Args:
        run_id: The flow or task run's id.
        run_count: How often the run had been running when this process picked it up: 0, unless
            this process continues a run that another process left.
    """
    return _derive_64(f"{run_id}/process/{run_count}" if run_count else run_id)


def derive_attempt_span_id(run_id: str, attempt: int) -> int:
    """Derive the 64-bit id of an attempt's span; attempts count from 1; never zero."""
    return _derive_64(f"{run_id}/attempt/{attempt}")


def _derive_64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") or 1


class DerivedIdGenerator(IdGenerator):
    """An id generator that gives the SDK's tracer the ids that the recorder has derived.

    The recorder calls `expect` and then starts the span on the same thread; the SDK asks for the
    ids within that call.
    """

    def __init__(self) -> None:
        self._expected = threading.local()

    def expect(self, trace_id: int, span_id: int) -> None:
        """Set the ids of the next span that this thread starts."""
        self._expected.trace_id = trace_id
        self._expected.span_id = span_id

    def generate_trace_id(self) -> int:
        """Return the trace id set by `expect`; only called for a span without a parent."""
        trace_id: int = self._expected.trace_id
        return trace_id

    def is_trace_id_random(self) -> bool:
        """Return True: the bits of a digest are as uniform as random ones."""
        return True

    def generate_span_id(self) -> int:
        """Return the span id set by `expect`."""
        span_id: int = self._expected.span_id
        return span_id
