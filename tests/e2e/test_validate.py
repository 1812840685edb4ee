"""The Collector accepts base.yaml with every subset of the layers, in any order.

Each layer alone, each pair and all together are always tried; `make e2e-all` tries every subset.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest
import yaml

import programs
from flowspan import semconv
from flowspan.recording.instruments import DURATION_BUCKETS

FOLDER = programs.ROOT / "collector"
BASE = "base"
LAYERS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in (BASE, "builder"))
AFTER_BASE = "cloudwatch-otlp"  # the one layer that replaces an array of base.yaml
SUBSETS = {size: [*combinations(LAYERS, size)] for size in range(len(LAYERS) + 1)}
QUICK = {0, 1, 2, len(LAYERS)}  # two are enough for layers to disturb each other

# Variables without a default
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
    "AWS_SECRET_ACCESS_KEY": "none",
    "COLLECTOR_TLS_CERT": "cert.pem",
    "COLLECTOR_TLS_KEY": "key.pem",
    "COLLECTOR_TOKEN": "none",
    "DD_API_KEY": "0" * 32,
}
NEEDED = {
    "datadog": ["DD_API_KEY"],
    "gateway": ["COLLECTOR_TLS_CERT", "COLLECTOR_TLS_KEY", "COLLECTOR_TOKEN"],
}


@pytest.fixture(scope="module")
def collector() -> Path:
    path = programs.find(programs.COLLECTOR)
    if path is None:
        pytest.skip("no Collector here: build it with `python scripts/programs.py collector`")
    return path


def complaint(collector: Path, names: Sequence[str], variables: dict[str, str]) -> str:
    """Return the complaint of `validate` about these files, in this order, or an empty text."""
    configs = (f"--config={FOLDER / name}.yaml" for name in names)
    command = [str(collector), "validate", *configs]
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=60
    )
    return f"{' '.join(names)}: {done.stderr}" if done.returncode else ""


def orders(subset: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield (BASE, *subset)
    yield (BASE, *reversed(subset))
    if AFTER_BASE not in subset:
        yield (*subset, BASE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=() if size in QUICK else pytest.mark.exhaustive) for size in SUBSETS],
)
def test_every_subset_in_several_orders(collector: Path, size: int) -> None:
    """`validate` accepts all subsets of this size."""
    cases = {order for subset in SUBSETS[size] for order in orders(subset)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = pool.map(lambda order: complaint(collector, order, VARIABLES), cases)
    assert [text for text in complaints if text] == []


@pytest.mark.parametrize(("layer", "name"), [(k, v) for k, names in NEEDED.items() for v in names])
def test_what_has_no_default_is_asked_for(collector: Path, layer: str, name: str) -> None:
    """A layer without its key, token or certificate is refused, not run unprotected or in vain."""
    variables = {key: value for key, value in VARIABLES.items() if key != name}
    assert complaint(collector, (BASE, layer), variables) != ""
    assert complaint(collector, (layer, BASE), variables) != ""


def read(name: str) -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(
        (FOLDER / f"{name}.yaml").read_text()
    )
    return found


def arrays(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield all lists in nested mappings, with the keys that lead to them."""
    if isinstance(tree, list):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from arrays(value, (*path, str(key)))


@pytest.mark.parametrize("pair", list(combinations([BASE, *LAYERS], 2)), ids="+".join)
def test_no_layer_replaces_an_array_of_another(pair: tuple[str, str]) -> None:
    """Merging would silently drop one of them; but cloudwatch-otlp repeats base's extensions."""
    first, second = (dict(arrays(read(name))) for name in pair)
    shared = first.keys() & second.keys()
    if pair == (BASE, AFTER_BASE):
        extensions = ("service", "extensions")
        shared -= {extensions}
        repeated = second[extensions]
        assert isinstance(repeated, list)
        own = [name for name in repeated if name.startswith("sigv4auth/")]
        assert repeated == [*read(BASE)["service"]["extensions"], *own]
    assert {path for path in shared if first[path] != second[path]} == set()


def test_span_metrics_have_the_buckets_of_flowspans_histograms() -> None:
    """One dashboard shows both."""
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    base = yaml.safe_load((FOLDER / "base.yaml").read_text())
    buckets = base["connectors"]["spanmetrics"]["histogram"]["explicit"]["buckets"]
    split = [(text.rstrip("smh"), text.lstrip("0123456789")) for text in buckets]
    assert [float(n) * seconds[unit] for n, unit in split] == pytest.approx(DURATION_BUCKETS)


def test_what_the_redaction_skips_is_flowspans_own() -> None:
    """A renamed attribute would only make the Collector slower, which nobody would notice."""
    base = yaml.safe_load((FOLDER / "base.yaml").read_text())
    own = {value for value in vars(semconv).values() if isinstance(value, str)}
    assert set(base["processors"]["redaction"]["ignored_keys"]) <= own
