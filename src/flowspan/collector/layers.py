"""Choose layers of the Collector's configuration, and tell what they need.

A layer is a YAML file that adds pipelines to those of ``base.yaml``; its head comment says what it
is for. How the Collector merges them: https://opentelemetry.io/docs/collector/configuration/
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BASE: Final = "base"
"""The layer that all others build on."""

# A wheel holds a copy of the checkout's folder; an editable installation reads the folder itself.
_INSTALLED: Final = Path(__file__).parent / "config"
_CHECKOUT: Final = Path(__file__).parents[3] / "collector"

_BUILDER: Final = "builder"  # says what a Collector is made of, and is no layer
_VERSION: Final = re.compile(r"^dist:\n(?:[ #].*\n)*?  version: (\S+)", re.MULTILINE)
# Both spellings mean the environment, `$$` is a dollar, and what follows `:-` is the default.
_VARIABLE: Final = re.compile(r"(?<!\$)(?:\$\$)*\$\{(?:env:)?([A-Za-z_]\w*)(:-|\})")


class ChangedFilesError(Exception):
    """Files that are to be written are there, and hold something else."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of the configuration."""

    path: Path

    @property
    def name(self) -> str:
        """What users call it."""
        return self.path.stem

    @property
    def purpose(self) -> str:
        """The first sentence of its head comment."""
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            text = line.removeprefix("#").strip()
            if not line.startswith("#") or not text:
                break
            lines.append(text)
        return " ".join(lines).partition(". ")[0].rstrip(".")

    @property
    def needs(self) -> tuple[str, ...]:
        """The environment variables that it reads and has no default for."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        return tuple(dict.fromkeys(name for name, end in _VARIABLE.findall(code) if end == "}"))


def available(folder: Path | None = None) -> dict[str, Layer]:
    """List the layers by name, `BASE` first.

    Args:
        folder: Where they are, by default where flowspan is installed.
    """
    paths = (folder or _folder()).glob("*.yaml")
    layers = [Layer(path) for path in paths if path.stem != _BUILDER]
    ordered = sorted(layers, key=lambda layer: (layer.name != BASE, layer.name))
    return {layer.name: layer for layer in ordered}


def choose(names: Iterable[str], folder: Path | None = None) -> tuple[Layer, ...]:
    """Choose layers in the order of their names, each once, `BASE` before them all.

    Raises:
        ValueError: There is no layer of a name, or none is named; the message lists what there is.
    """
    there = available(folder)
    wanted = list(dict.fromkeys((BASE, *names)))
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(f"There is no layer {', '.join(unknown)}. {_listed(there)}")
    if wanted == [BASE]:
        raise ValueError(f"By itself the base drops what it receives: name one. {_listed(there)}")
    return tuple(there[name] for name in wanted)


def unset(layers: Iterable[Layer], environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Tell which variables still have to be set, and of each which layers need it."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        for name in layer.needs:
            if not environment.get(name):
                found.setdefault(name, []).append(layer.name)
    return found


def write(layers: Iterable[Layer], folder: Path, *, overwrite: bool = False) -> tuple[Layer, ...]:
    """Copy layers into a folder, which is made if it is not there.

    Args:
        layers: What to copy.
        folder: Where to.
        overwrite: Replace files that hold something else.

    Raises:
        ChangedFilesError: A file there holds something else; nothing was written.
        OSError: It cannot be written.
    """
    copies = {folder / layer.path.name: layer.path.read_bytes() for layer in layers}
    other = [path for path in copies if path.exists() and path.read_bytes() != copies[path]]
    if other and not overwrite:
        raise ChangedFilesError(f"{', '.join(map(str, other))}: there already, and not the same.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in copies.items():
        path.write_bytes(content)
    return tuple(map(Layer, copies))


def arguments(layers: Sequence[Layer]) -> list[str]:
    """Return what tells a Collector to read the layers."""
    return [argument for layer in layers for argument in ("--config", str(layer.path))]


def collector_version(folder: Path | None = None) -> str:
    """Return the version of the Collector that the layers are written for."""
    manifest = ((folder or _folder()) / f"{_BUILDER}.yaml").read_text(encoding="utf-8")
    found = _VERSION.search(manifest)
    if found is None:
        raise ValueError(f"{_BUILDER}.yaml names no version.")
    return found[1]


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def _listed(there: Mapping[str, Layer]) -> str:
    width = max((len(name) for name in there), default=0)
    lines = [f"  {n:{width}}  {layer.purpose}" for n, layer in there.items() if n != BASE]
    return "\n".join(["There are:", *lines])
