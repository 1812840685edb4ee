"""Choose layers of the Collector's configuration, and find out what they need.

A layer is a YAML file that adds pipelines to those of ``base.yaml``; the comment at its top says
what it is for. How the Collector merges layers:
https://opentelemetry.io/docs/collector/configuration/
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

_BUILDER: Final = "builder"  # lists the components of a Collector; not a layer
_VERSION: Final = re.compile(r"^dist:\n(?:[ #].*\n)*?  version: (\S+)", re.MULTILINE)
# Both spellings read the environment, `$$` is a dollar sign, and `:-` precedes the default.
_VARIABLE: Final = re.compile(r"(?<!\$)(?:\$\$)*\$\{(?:env:)?([A-Za-z_]\w*)(:-|\})")


class ChangedFilesError(Exception):
    """Files to be written exist already, with different content."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of the configuration."""

    path: Path

    @property
    def name(self) -> str:
        """The name that users give it."""
        return self.path.stem

    @property
    def purpose(self) -> str:
        """The first sentence of the comment at its top."""
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            text = line.removeprefix("#").strip()
            if not line.startswith("#") or not text:
                break
            lines.append(text)
        return " ".join(lines).partition(". ")[0].rstrip(".")

    @property
    def needs(self) -> tuple[str, ...]:
        """The environment variables that it reads without a default."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        return tuple(dict.fromkeys(name for name, end in _VARIABLE.findall(code) if end == "}"))


def available(folder: Path | None = None) -> dict[str, Layer]:
    """List the layers by name, `BASE` first.

    Args:
        folder: Where they are; by default where flowspan is installed.
    """
    paths = (folder or _folder()).glob("*.yaml")
    layers = [Layer(path) for path in paths if path.stem != _BUILDER]
    ordered = sorted(layers, key=lambda layer: (layer.name != BASE, layer.name))
    return {layer.name: layer for layer in ordered}


def choose(names: Iterable[str], folder: Path | None = None) -> tuple[Layer, ...]:
    """Return the named layers in the given order, each once, with `BASE` first.

    Raises:
        ValueError: A name is unknown, or none is given; the message lists the layers.
    """
    there = available(folder)
    wanted = list(dict.fromkeys((BASE, *names)))
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(f"There is no layer {', '.join(unknown)}. {_listed(there)}")
    if wanted == [BASE]:
        raise ValueError(f"The base alone drops what it receives: name a layer. {_listed(there)}")
    return tuple(there[name] for name in wanted)


def unset(layers: Iterable[Layer], environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Map each variable that still has to be set to the layers that need it."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        for name in layer.needs:
            if not environment.get(name):
                found.setdefault(name, []).append(layer.name)
    return found


def write(layers: Iterable[Layer], folder: Path, *, overwrite: bool = False) -> tuple[Layer, ...]:
    """Copy layers into a folder, which is created if necessary.

    Args:
        layers: The layers to copy.
        folder: The folder to copy to.
        overwrite: Replace files with different content.

    Raises:
        ChangedFilesError: A file there has different content; nothing was written.
        OSError: A file cannot be written.
    """
    copies = {folder / layer.path.name: layer.path.read_bytes() for layer in layers}
    other = [path for path in copies if path.exists() and path.read_bytes() != copies[path]]
    if other and not overwrite:
        raise ChangedFilesError(f"{', '.join(map(str, other))}: already there, but different.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in copies.items():
        path.write_bytes(content)
    return tuple(map(Layer, copies))


def arguments(layers: Sequence[Layer]) -> list[str]:
    """Return the arguments that make a Collector read the layers."""
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
    return "\n".join(["The layers are:", *lines])
