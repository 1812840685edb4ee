"""The files that docker-compose.yml mounts, and flowspan's metrics by their Prometheus names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from opentelemetry.metrics import Meter, NoOpMeter, NoOpMeterProvider

from flowspan import semconv
from flowspan.recording.instruments import RunMetrics

ROOT = Path(__file__).parents[1]
COMPOSE_FILE = ROOT / "docker-compose.yml"
LAYERS = ROOT / "collector"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def defaults(text: str) -> str:
    """Replace each `${NAME:-default}` by its default, like Compose and the Collector."""
    return re.sub(r"\$\{(?:env:)?\w+:-([^}]*)\}", r"\1", text)


COMPOSE = load(COMPOSE_FILE)
SERVICES: dict[str, Any] = COMPOSE["services"]
MOUNTS = {
    target: ROOT / source
    for service in SERVICES.values()
    for source, target in (mount.split(":")[:2] for mount in service.get("volumes", ()))
    if source.startswith("./")
}

PROMETHEUS = load(MOUNTS["/etc/prometheus/prometheus.yml"])
RULES = load(MOUNTS["/etc/prometheus/rules.yml"])
JAEGER = load(MOUNTS["/etc/jaeger/jaeger.yaml"])
PROVISIONING = MOUNTS["/etc/grafana/provisioning"]
DATA_SOURCES = {
    source["uid"]: source
    for source in load(PROVISIONING / "datasources" / "flowspan.yaml")["datasources"]
}
DASHBOARD = json.loads((MOUNTS["/etc/grafana/dashboards"] / "flowspan.json").read_text())
PANELS = {panel["id"]: panel for panel in DASHBOARD["panels"]}


class Instruments(NoOpMeterProvider):
    """A meter provider that records which instruments are created."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, str]] = []

    def get_meter(self, *arguments: Any, **named: Any) -> Meter:
        made = self.made

        class Noting(NoOpMeter):
            def __getattribute__(self, method: str) -> Any:
                make = super().__getattribute__(method)
                if not method.startswith("create_"):
                    return make

                def note(name: str, unit: str = "", **options: Any) -> Any:
                    made.append((method.removeprefix("create_"), name, unit))
                    return make(name, unit, **options)

                return note

        return Noting("flowspan")


def escaped(name: str) -> str:
    return re.sub(r"\W", "_", name)


def prometheus_name(metric: str, unit: str) -> str:
    return escaped(metric) + {"s": "_seconds"}.get(unit, "")


def prometheus_names() -> Iterator[str]:
    """Name flowspan's metrics like the Collector's Prometheus exporter.

    The unit is appended, unless it is only an annotation in braces, and `_total` to counters; see
    https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/.
    """
    provider = Instruments()
    RunMetrics(provider)
    for kind, metric, unit in provider.made:
        name = prometheus_name(metric, unit)
        assert unit == "s" or unit.startswith("{"), f"{metric} has a unit unknown here"
        match kind:
            case "histogram":
                yield from (f"{name}_{suffix}" for suffix in ("bucket", "sum", "count"))
            case "counter":
                yield f"{name}_total"
            case _:
                yield name


METRICS = set(prometheus_names())
COUNTERS = {name for name in METRICS if not name.endswith("_active")}

# The Collector's span metrics. The SDK clears its exemplars at each export, so those of a
# short-lived process are lost with its last export: exemplars come from here.
SPAN_METRICS = {"traces_span_metrics_duration_seconds_bucket"}
LABELS = {"counter", "job", "le"} | {
    escaped(value)
    for name, value in vars(semconv).items()
    if name.isupper() and isinstance(value, str) and not name.startswith("METRIC_")
}


def targets(source: str) -> dict[str, str]:
    """Return the queries of the dashboard to one data source."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in PANELS.values()
        if panel.get("datasource", {}).get("uid") == source
        for target in panel.get("targets", ())
    }


TARGETS = targets("prometheus")
LOG_QUERIES = targets("victorialogs")

MACROS = {
    "$__range": "1h",
    "$__interval": "1m",
    "$__rate_interval": "1m",
    "$service": "prefect",
    "$flow": ".*",
}

((GROUP,),) = RULES.values()
(RULE,) = GROUP["rules"]
NEW = RULE["record"]
