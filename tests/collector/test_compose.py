"""docker-compose.yml and the files that it mounts, as far as testable without Docker."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import promql_parser
import pytest
from promql_parser import AggregateExpr, Expr, MatrixSelector, VectorSelector

import programs
from compose import (
    COMPOSE,
    COMPOSE_FILE,
    COUNTERS,
    DASHBOARD,
    DATA_SOURCES,
    GROUP,
    JAEGER,
    LABELS,
    LAYERS,
    LOG_QUERIES,
    MACROS,
    METRICS,
    MOUNTS,
    NEW,
    PANELS,
    PROMETHEUS,
    PROVISIONING,
    ROOT,
    RULE,
    SERVICES,
    SPAN_METRICS,
    TARGETS,
    defaults,
    escaped,
    load,
)
from flowspan import semconv
from flowspan._version import __version__

VICTORIALOGS_PLUGIN = "victoriametrics-logs-datasource"

# The compose file


def test_it_is_a_compose_file() -> None:
    """The file is valid by the schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, COMPOSE_FILE], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: str) -> None:
    """Each image has a version, as the default of a variable that can name another image."""
    pinned = r"\$\{[A-Z]+_IMAGE:-[a-z/-]+:v?\d+(\.\d+)+(-[a-z0-9.]+)?\}"
    assert re.fullmatch(pinned, SERVICES[service]["image"])


def test_an_image_has_one_pin() -> None:
    """Services with the same image use the same version."""
    names: dict[str, str] = {}
    for service in SERVICES.values():
        variable = service["image"].split(":-")[0]
        assert names.setdefault(variable, service["image"]) == service["image"]


def test_versions_are_those_of_the_repository() -> None:
    """The Collector's version is the one we build, the Prefect server's the one we test."""
    version = load(LAYERS / "builder.yaml")["dist"]["version"]
    assert defaults(SERVICES["collector"]["image"]).endswith(f":{version}")
    constraints = (ROOT / "constraints.txt").read_text()
    (prefect,) = re.findall(r"^prefect==(.+)$", constraints, re.MULTILINE)
    assert f":{prefect}-python" in SERVICES["prefect"]["image"]


def test_the_image_of_flowspan_is_this_version() -> None:
    assert defaults(SERVICES["watch"]["image"]).endswith(f":{__version__}")


def test_the_dockerfile_copies_what_is_there() -> None:
    """Everything that it copies is in the repository, and not ignored; the command is installed."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {
        word.removeprefix("./")
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied == sent
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert 'ENTRYPOINT ["flowspan"]' in lines
    assert "flowspan = " in (ROOT / "pyproject.toml").read_text()


def test_the_observer_keeps_its_state_in_its_volume() -> None:
    """What is settled is in a folder of the volume, where the health check looks, too."""
    (mount,) = SERVICES["watch"]["volumes"]
    folder = mount.split(":")[1]
    (kept,) = re.findall(r"FLOWSPAN_WATCH_DIR=(\S+)", (ROOT / "Dockerfile").read_text())
    assert kept.startswith(f"{folder}/")
    assert kept in SERVICES["watch"]["healthcheck"]["test"][-1]


def test_the_observer_asks_and_sends_where_the_others_listen() -> None:
    """The URLs of flowspan watch are those of the Prefect server and the Collector."""
    environment = SERVICES["watch"]["environment"]
    for variable, service in (
        ("PREFECT_API_URL", "prefect"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
    ):
        url = urlsplit(environment[variable])
        ports = [port.rsplit(":", 1)[1] for port in SERVICES[service]["ports"]]
        assert url.hostname == service
        assert str(url.port) in ports


def test_ports_are_on_loopback() -> None:
    """No port is reachable from another machine, and each has its own variable."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    found = [re.fullmatch(r"127\.0\.0\.1:\$\{([A-Z_]+_PORT):-(\d+)\}:\2", port) for port in ports]
    assert all(found), ports
    assert len({match[1] for match in found if match}) == len(ports)


@pytest.mark.parametrize("service", SERVICES)
def test_memory_is_limited(service: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[service]["mem_limit"])


def test_the_collector_refuses_before_it_is_killed() -> None:
    """The Collector's limit leaves a fifth of the container's for memory it does not count."""
    collector = SERVICES["collector"]
    limit = int(collector["mem_limit"].removesuffix("m"))
    assert int(collector["environment"]["COLLECTOR_MEMORY_MIB"]) <= 0.8 * limit


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_checked(service: str) -> None:
    """Each service has a health check, is checked by another, or is waited for until it ends."""
    by_itself = "test" in SERVICES[service].get("healthcheck", {})
    by_another = any(
        urlsplit(word).hostname == service
        for other in SERVICES.values()
        for word in other.get("healthcheck", {}).get("test", ())
    )
    until_it_ended = any(
        other.get("depends_on", {}).get(service, {}).get("condition")
        == "service_completed_successfully"
        for other in SERVICES.values()
    )
    assert by_itself or by_another or until_it_ended


def test_volumes_are_declared_and_used() -> None:
    sources = {
        mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())
    }
    assert {source for source in sources if not source.startswith("./")} == set(COMPOSE["volumes"])


def test_volumes_are_given_to_who_writes_them() -> None:
    """Each prepared volume belongs to a service that waits for the preparation."""
    prepared = {mount.split(":")[0] for mount in SERVICES["prepare"]["volumes"]}
    mounted = {
        mount.split(":")[0]
        for service in SERVICES.values()
        if "prepare" in service.get("depends_on", {})
        for mount in service["volumes"]
    }
    assert prepared == mounted & set(COMPOSE["volumes"])


@pytest.mark.parametrize("target", MOUNTS)
def test_what_is_mounted_is_there_and_parses(target: str) -> None:
    path = MOUNTS[target]
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        match file.suffix:
            case ".json":
                assert json.loads(file.read_text())
            case ".yaml" | ".yml":
                assert load(file)


# The Collector and its clients


def variables_of_layers() -> dict[str, set[str]]:
    """Return the variables of the Collector's configuration with their defaults, or ''."""
    found: dict[str, set[str]] = {}
    for layer in LAYERS.glob("*.yaml"):
        for name, default in re.findall(r"\$\{env:(\w+)(?::-([^}]*))?\}", layer.read_text()):
            found.setdefault(name, set()).add(default)
    return found


def test_the_collector_is_started_with_layers_that_are_there() -> None:
    words = defaults(SERVICES["collector"]["command"]).split()
    assert words[::2] == ["--config"] * (len(words) // 2)
    for layer in words[1::2]:
        assert (MOUNTS[SERVICES["collector"]["working_dir"]] / layer).is_file()


def test_the_collector_gets_the_variables_of_its_layers() -> None:
    """All except ports, which Docker maps, and paths of files that are not mounted."""
    paths = {"FLOWSPAN_DIR", "COLLECTOR_TLS_CERT", "COLLECTOR_TLS_KEY", "COLLECTOR_CLIENT_CA"}
    named = {name for name in variables_of_layers() if not name.endswith("_PORT")}
    assert named - paths <= set(SERVICES["collector"]["environment"])


def test_the_collector_is_asked_where_it_answers() -> None:
    """Ports for OTLP, metrics and health are those of the layers."""
    variables = variables_of_layers()

    def ports(*names: str) -> set[int]:
        return {int(port) for name in names for port in variables[f"COLLECTOR_{name}_PORT"]}

    scraped = {
        urlsplit(f"//{target}").port
        for job in PROMETHEUS["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    }
    assert scraped == ports("METRICS", "PROMETHEUS")
    published = {int(port.rsplit(":", 1)[1]) for port in SERVICES["collector"]["ports"]}
    assert published == ports("GRPC", "HTTP")
    url = SERVICES["collector-health"]["healthcheck"]["test"][-1]
    assert {urlsplit(url).port} == ports("HEALTH")


def test_jaeger_is_wired() -> None:
    """Jaeger listens where the Collector sends, stores traces, and has a health check."""
    extensions = JAEGER["extensions"]
    assert set(JAEGER["service"]["extensions"]) == set(extensions)
    storage, shown = extensions["jaeger_storage"], extensions["jaeger_query"]["storage"]
    assert shown["traces"] in storage["backends"]
    assert shown["metrics"] in storage["metric_backends"]
    assert JAEGER["exporters"]["jaeger_storage_exporter"]["trace_storage"] == shown["traces"]

    sent_to = urlsplit("//" + SERVICES["collector"]["environment"]["JAEGER_ENDPOINT"])
    listens = urlsplit("//" + JAEGER["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])
    assert (sent_to.hostname, sent_to.port) == ("jaeger", listens.port)
    healthy = urlsplit("//" + extensions["healthcheckv2"]["http"]["endpoint"])
    assert urlsplit(SERVICES["jaeger"]["healthcheck"]["test"][-1]).port == healthy.port

    (volume,) = (mount for mount in SERVICES["jaeger"]["volumes"] if mount.startswith("jaeger:"))
    folder = volume.removeprefix("jaeger:") + "/"
    badger = storage["backends"][shown["traces"]]["badger"]
    assert not badger["ephemeral"]
    assert all(path.startswith(folder) for path in badger["directories"].values())


def test_backends_are_asked_where_they_answer() -> None:
    """URLs between the services use a service's name and port."""
    metrics = JAEGER["extensions"]["jaeger_storage"]["metric_backends"]
    urls = [backend["prometheus"]["endpoint"] for backend in metrics.values()]
    urls += [source["url"] for source in DATA_SOURCES.values()]
    for url in urls:
        parts = urlsplit(url)
        assert parts.hostname is not None
        ports = SERVICES[parts.hostname]["ports"]
        assert [port.rsplit(":", 1)[1] for port in ports] == [str(parts.port)]


# flowspan's metrics in Prometheus


def parsed(expression: str) -> Expr:
    """Parse an expression with values in place of Grafana's variables."""
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    return promql_parser.parse(expression)


def nodes(expression: Expr) -> list[Expr]:
    found: list[Expr] = []
    promql_parser.walk(expression, found.append)
    return found


# The rule that adds up counters


def test_the_rule_is_for_all_counters() -> None:
    """Prometheus's label names exactly flowspan's counters."""
    (job,) = (job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "flowspan")
    (relabel,) = job["metric_relabel_configs"]
    assert relabel["target_label"] in LABELS
    internal = escaped(semconv.METRIC_INTERNAL_ERRORS) + "_total"
    custom = escaped(semconv.METRIC_CUSTOM_PREFIX) + "loaded_total"
    for name in METRICS | SPAN_METRICS | {internal, custom}:
        is_named = re.fullmatch(relabel["regex"], name) is not None
        assert is_named == (name in COUNTERS | {internal})


def test_the_steps_of_the_rule_lie_end_to_end() -> None:
    """The rule looks back over exactly the interval between two evaluations."""
    step = GROUP["interval"]
    found = nodes(promql_parser.parse(RULE["expr"]))
    windows = {str(node) for node in found if isinstance(node, MatrixSelector)}
    assert {re.sub(r"^.*(\[\w+\]) offset (\w+)$", r"\1 \2", window) for window in windows} == {
        f"[{step}] 10s",
        "[1h] 40s",
    }
    assert step == "30s"


# The dashboard


def test_panels_are_told_apart() -> None:
    assert len(PANELS) == len(DASHBOARD["panels"])
    for panel in PANELS.values():
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(names)) == len(names)


def test_panels_lie_beside_each_other() -> None:
    """Panels do not overlap, and none is wider than the grid."""
    cells: set[tuple[int, int]] = set()
    for panel in PANELS.values():
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        assert all(x < 24 for x, _ in own)
        cells |= own


def test_data_sources_are_provisioned() -> None:
    asking = [*PANELS.values(), *DASHBOARD["templating"]["list"]]
    asking += [target for panel in PANELS.values() for target in panel.get("targets", ())]
    for one in asking:
        if (wanted := one.get("datasource")) is not None:
            assert DATA_SOURCES[wanted["uid"]]["type"] == wanted["type"]
    for exemplar in DATA_SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]:
        assert DATA_SOURCES[exemplar["datasourceUid"]]["type"] == "jaeger"


def test_traces_and_log_lines_lead_to_each_other() -> None:
    """From a span to the lines of its trace, and from a line to its trace."""
    to_logs = DATA_SOURCES["jaeger"]["jsonData"]["tracesToLogsV2"]
    assert DATA_SOURCES[to_logs["datasourceUid"]]["type"] == VICTORIALOGS_PLUGIN
    assert to_logs["query"].startswith('trace_id:="$${__trace.traceId}" ')
    (to_trace,) = DATA_SOURCES["victorialogs"]["jsonData"]["derivedFields"]
    assert DATA_SOURCES[to_trace["datasourceUid"]]["type"] == "jaeger"
    assert (to_trace["matcherType"], to_trace["matcherRegex"]) == ("label", "trace_id")


def test_the_plugin_for_log_lines_is_installed() -> None:
    """Grafana has none for VictoriaLogs of its own."""
    assert SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL"] == VICTORIALOGS_PLUGIN


def test_victorialogs_is_wired() -> None:
    """VictoriaLogs is fed by default, where it listens, and keeps its lines on its volume."""
    assert "victorialogs.yaml" in SERVICES["collector"]["command"]
    service = SERVICES["victorialogs"]
    (port,) = service["ports"]
    sent_to = urlsplit(SERVICES["collector"]["environment"]["VICTORIALOGS_URL"])
    asked = urlsplit(service["healthcheck"]["test"][-1])
    assert sent_to.hostname == "victorialogs"
    assert {str(sent_to.port), str(asked.port)} == {port.rsplit(":", 1)[1]}
    (volume,) = service["volumes"]
    assert f"-storageDataPath={volume.partition(':')[2]}" in service["command"]
    assert programs.VICTORIALOGS.version in service["image"]


@pytest.mark.parametrize("title", LOG_QUERIES)
def test_log_queries_ask_for_what_flowspan_records(title: str) -> None:
    """The fields of a query are attributes, or parts of a log record in VictoriaLogs."""
    attributes = {value for value in vars(semconv).values() if isinstance(value, str)}
    fields = re.findall(r"([\w.]+):", LOG_QUERIES[title])
    assert fields
    assert {*fields} <= attributes | {"service.name", "severity_number", "trace_id"}


def test_the_dashboard_is_found() -> None:
    """The dashboard is where Grafana looks for dashboards and for its home page."""
    (provider,) = load(PROVISIONING / "dashboards" / "flowspan.yaml")["providers"]
    folder = provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert folder in MOUNTS
    assert (MOUNTS[folder] / Path(home).relative_to(folder)).is_file()


def matchers(selector: VectorSelector) -> dict[str, str]:
    return {matcher.name: matcher.value for matcher in selector.matchers.matchers}


def asks_for_what_there_is(selector: VectorSelector) -> bool:
    asked = matchers(selector)
    if selector.name == NEW:
        return asked["counter"] in COUNTERS and asked.keys() <= LABELS
    return selector.name in (METRICS - COUNTERS) | SPAN_METRICS and asked.keys() <= LABELS


@pytest.mark.parametrize("title", TARGETS)
def test_expressions_ask_for_what_flowspan_measures(title: str) -> None:
    """Expressions parse, use existing metrics and labels, and read counters from the rule."""
    for node in nodes(parsed(TARGETS[title])):
        if isinstance(node, VectorSelector):
            assert asks_for_what_there_is(node)
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= LABELS


def test_variables_ask_for_what_flowspan_measures() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        assert found is not None
        selector = parsed(found[1])
        assert isinstance(selector, VectorSelector)
        assert selector.name == NEW
        assert found[2] in LABELS


def test_every_metric_is_shown() -> None:
    """Every metric is on the dashboard."""

    def instrument(name: str) -> str:
        return re.sub(r"_(bucket|sum|count)$", "", name)

    shown = {
        instrument(matchers(node).get("counter", node.name or ""))
        for expression in TARGETS.values()
        for node in nodes(parsed(expression))
        if isinstance(node, VectorSelector) and node.name not in SPAN_METRICS
    }
    # The table of tasks counts their runs by the durations.
    assert shown | {"prefect_task_runs_total"} == {instrument(name) for name in METRICS}
