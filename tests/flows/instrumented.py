"""A flow in a process where OpenTelemetry's instrumentations of both libraries are active."""

import io
import logging

import structlog
from opentelemetry.instrumentation.logging import LoggingInstrumentor
from opentelemetry.instrumentation.structlog import StructlogInstrumentor

from flowspan import instrument

LoggingInstrumentor().instrument()
structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
StructlogInstrumentor().instrument()
instrument()

from prefect import flow  # noqa: E402

logger = logging.getLogger("pipelines")
logger.setLevel(logging.INFO)


@flow
def main() -> None:
    logger.info("line of logging")
    structlog.get_logger().info("line of structlog")


if __name__ == "__main__":
    main()
