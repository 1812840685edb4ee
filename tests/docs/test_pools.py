"""The files in docs/pools/: Prefect's server takes them, and each name in them exists."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final
from uuid import uuid4

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import prefect.server.api.collections_data.views as bundled
import pytest
import yaml
from pages import ROOT, check_variable
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError

FILES: Final = ROOT / "docs" / "pools"
DEPLOYED: Final = sorted(FILES.glob("*.yaml"))
KUBERNETES_ENV: Final = FILES / "kubernetes-env.json"

# https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#downwardapi-fieldRef
_DOWNWARD: Final = {
    *("metadata.name", "metadata.namespace", "metadata.uid"),
    *("spec.nodeName", "spec.serviceAccountName"),
    *("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
}


def templates() -> dict[str, Any]:
    """Return the base job template of each type of pool that Prefect ships."""
    file = Path(bundled.__path__[0]) / "aggregate-worker-metadata.json"
    collections = json.loads(file.read_text(encoding="utf-8"))
    return {
        kind: worker["default_base_job_configuration"]
        for workers in collections.values()
        for kind, worker in workers.items()
    }


TEMPLATES: Final = templates()


def conventional() -> frozenset[str]:
    """Return the attributes of OpenTelemetry's semantic conventions."""
    modules = [
        import_module(f"{package.__name__}.{module.name}")
        for package in (stable, incubating)
        for module in iter_modules(package.__path__)
    ]
    return frozenset(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, str) and "." in value
    )


def deployment(file: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    return dict(found)


def variables_of(file: Path) -> dict[str, str]:
    """Return the environment variables that a file sets."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        return dict(deployment(file)["work_pool"]["job_variables"]["env"])
    if file.suffix == ".json":
        return {entry["name"]: entry.get("value", "") for entry in json.loads(text)}
    return dict(re.findall(r"^ENV (\w+)=(\S+)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def deploy(client: SyncPrefectClient, kind: str, template: Any, job_variables: Any) -> None:
    """Create a pool and a deployment in it, as `prefect deploy` does."""
    pool = f"{kind}-{uuid4()}"
    client.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=template))
    flow = client.create_flow_from_name("nightly")
    client.create_deployment(flow, "nightly", work_pool_name=pool, job_variables=job_variables)


@pytest.mark.parametrize("file", DEPLOYED, ids=lambda file: file.stem)
def test_deployment(file: Path, client: SyncPrefectClient) -> None:
    """The server takes the job variables, and the pool's type has each of them."""
    found = deployment(file)
    assert {*found} <= {"name", "entrypoint", "pull", "work_pool"}
    job_variables = found["work_pool"]["job_variables"]
    if file.stem == "managed":  # only Prefect Cloud has its template
        assert {*job_variables} == {"pip_packages", "env"}
        return
    template = TEMPLATES[file.stem]
    assert {*job_variables} <= {*template["variables"]["properties"]}
    deploy(client, file.stem, template, job_variables)
    with pytest.raises(PrefectHTTPStatusError, match="422"):  # it does look at them
        deploy(client, file.stem, template, job_variables | {"env": ["OTEL_SERVICE_NAME"]})


def test_kubernetes_template(client: SyncPrefectClient) -> None:
    """A pool's template takes the downward API's variables, each known and defined before use."""
    template = json.loads(json.dumps(TEMPLATES["kubernetes"]))
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["env"] == "{{ env }}"
    container["env"] = json.loads(KUBERNETES_ENV.read_text(encoding="utf-8"))
    defined: set[str] = set()
    for entry in container["env"]:
        if "valueFrom" in entry:
            assert entry["valueFrom"]["fieldRef"]["fieldPath"] in _DOWNWARD
        assert {*re.findall(r"\$\((\w+)\)", entry.get("value", ""))} <= defined
        defined.add(entry["name"])
    job_variables = deployment(FILES / "kubernetes.yaml")["work_pool"]["job_variables"]
    deploy(client, "kubernetes", template, job_variables)


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_names(file: Path) -> None:
    """A program reads each variable, and OpenTelemetry defines each resource attribute."""
    variables = variables_of(file)
    assert variables
    used = {name for value in variables.values() for name in re.findall(r"\$\((\w+)\)", value)}
    for name in {*variables} - used:
        check_variable(name)
    pairs = filter(None, variables.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    assert {pair.partition("=")[0] for pair in pairs} <= conventional()


def test_dockerfile() -> None:
    """Each line is an instruction; the image has flowspan, and the flow where deployments look."""
    lines = (FILES / "Dockerfile").read_text(encoding="utf-8").splitlines()
    instructions = [shlex.split(line) for line in lines]
    assert {words[0] for words in instructions} == {"FROM", "RUN", "WORKDIR", "COPY", "ENV"}
    assert instructions[0][:2] == ["FROM", "prefecthq/prefect:3-latest"]
    assert ["RUN", "pip", "install", "--no-cache-dir", "flowspan"] in instructions
    (folder,) = (words[1] for words in instructions if words[0] == "WORKDIR")
    for kind in ("docker", "kubernetes", "ecs"):
        (pull,) = deployment(FILES / f"{kind}.yaml")["pull"]
        assert pull == {"prefect.deployments.steps.set_working_directory": {"directory": folder}}


@pytest.mark.parametrize("file", DEPLOYED, ids=lambda file: file.stem)
def test_pull_steps(file: Path) -> None:
    """Prefect has each step that fetches the flow."""
    for step in deployment(file).get("pull", ()):
        for path in step:
            module, _, name = path.rpartition(".")
            assert callable(getattr(import_module(module), name))


def test_every_file_is_on_the_page() -> None:
    """docs/where-it-runs.md includes each file, once."""
    page = (ROOT / "docs/where-it-runs.md").read_text(encoding="utf-8")
    included = re.findall(r"^```\{literalinclude\} pools/(\S+)$", page, re.MULTILINE)
    assert sorted(included) == sorted(file.name for file in FILES.iterdir())
