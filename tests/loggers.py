"""All kinds of logger that a task may use."""

import builtins
import logging

import structlog
from prefect.logging import get_run_logger

SOURCES = ["structlog", "structlog over logging", "get_run_logger", "logging", "print"]


def say(source: str, text: str) -> None:
    """Log a line with one kind of logger; structlog's loggers add a number."""
    if source == "structlog":
        structlog.get_logger().info(text, n=1)
    elif source == "structlog over logging":
        structlog.wrap_logger(
            logging.getLogger("pipelines"),
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.stdlib.BoundLogger,
        ).info(text, n=1)
    elif source == "get_run_logger":
        get_run_logger().info(text)
    elif source == "logging":
        logging.getLogger("pipelines").info("%s", text)
    else:
        builtins.print(text)
