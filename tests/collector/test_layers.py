"""Choosing layers of the Collector's configuration."""

from pathlib import Path

import pytest

from flowspan.collector import layers

CHECKOUT = Path(__file__).parents[2] / "collector"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two backends, and a manifest that is not a layer."""
    made = tmp_path / "config"
    made.mkdir()
    (made / "base.yaml").write_text("# Base: receives.\nreceivers: {}\n")
    (made / "zipkin.yaml").write_text(
        "# Zipkin: spans,\n# and no more. It is old.\n#\n# ${env:IN_A_COMMENT}\na: ${env:URL}\n"
    )
    (made / "acme.yaml").write_text("b: ${env:KEY}${env:URL}\n")
    (made / "builder.yaml").write_text("# M\n\ndist:\n  # x\n  name: c\n  version: 1.2.3\n\na: 1\n")
    (made / "README.md").write_text("no layer")
    return made


def names(chosen: tuple[layers.Layer, ...]) -> list[str]:
    """Return the names of the chosen layers."""
    return [layer.name for layer in chosen]


def test_base_is_always_first_and_each_layer_comes_once(folder: Path) -> None:
    """The other layers keep their given order, in which the last one wins."""
    assert names(layers.choose(["zipkin", "acme"], folder)) == ["base", "zipkin", "acme"]
    assert names(layers.choose(["acme", "base", "acme"], folder)) == ["base", "acme"]


@pytest.mark.parametrize("wanted", [["nope"], ["acme", "builder"], ["../base"], [""], [], ["base"]])
def test_what_is_no_backend_is_answered_with_those_there_are(
    folder: Path, wanted: list[str]
) -> None:
    """The message lists the layers with the first sentence of their comment, in order."""
    with pytest.raises(ValueError, match=r"There is no layer|The layers are:") as raised:
        layers.choose(wanted, folder)
    assert str(raised.value).splitlines()[-2:] == [
        "  acme    ",
        "  zipkin  Zipkin: spans, and no more",
    ]


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("a: ${env:A}", ("A",)),
        ("a: ${A}", ("A",)),
        ("a: ${env:A:-}", ()),
        ("a: ${env:A:-1}:${B:-2}", ()),
        ("a: ${env:A}${env:B}\nb: ${env:A}", ("A", "B")),
        ("a: ${env:A:-https://${env:B}.example}", ("B",)),
        ("# ${env:A}\n  # ${env:B}\na: 1", ()),
        ("a: $${env:A} $$${env:B}", ("B",)),
        ("a: ${file:/secret} ${yaml:b} $A ${1}", ()),
        ("", ()),
    ],
)
def test_variables_without_a_default_are_found(
    tmp_path: Path, text: str, needed: tuple[str, ...]
) -> None:
    """In all of the Collector's spellings, but not in comments."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert layers.Layer(path).needs == needed


def test_what_is_not_set_is_told_with_who_needs_it(folder: Path) -> None:
    """An empty variable counts as unset."""
    chosen = layers.choose(["zipkin", "acme"], folder)
    assert layers.unset(chosen, {}) == {"URL": ["zipkin", "acme"], "KEY": ["acme"]}
    assert layers.unset(chosen, {"URL": "x", "KEY": ""}) == {"KEY": ["acme"]}


def test_layers_are_copied_and_what_a_user_changed_is_kept(folder: Path, tmp_path: Path) -> None:
    """All files are written or none, unless told to overwrite."""
    chosen = layers.choose(["acme"], folder)
    there = tmp_path / "a" / "b"
    copies = layers.write(chosen, there)
    assert [layer.path for layer in copies] == [there / "base.yaml", there / "acme.yaml"]
    assert layers.arguments(copies) == [
        *("--config", str(there / "base.yaml")),
        *("--config", str(there / "acme.yaml")),
    ]
    layers.write(chosen, there)
    (there / "base.yaml").unlink()
    (there / "acme.yaml").write_text("mine")
    with pytest.raises(layers.ChangedFilesError, match=r"b/acme\.yaml: already there"):
        layers.write(chosen, there)
    assert sorted(path.name for path in there.iterdir()) == ["acme.yaml"]
    layers.write(chosen, there, overwrite=True)
    assert (there / "acme.yaml").read_text() == chosen[1].path.read_text()


def test_the_version_is_that_of_the_builders_manifest(folder: Path) -> None:
    """The version is only in the builder's manifest."""
    assert layers.collector_version(folder) == "1.2.3"
    (folder / "builder.yaml").write_text("dist:\n  name: c\nother:\n  version: 3\n")
    with pytest.raises(ValueError, match="names no version"):
        layers.collector_version(folder)


@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="a checkout without layers")
def test_the_layers_that_are_installed_are_those_of_the_checkout() -> None:
    """A wheel and an editable installation have all layers, each with a purpose."""
    installed = layers.available()
    files = {path.name: path.read_bytes() for path in CHECKOUT.glob("*.yaml")}
    del files["builder.yaml"]
    assert {layer.path.name: layer.path.read_bytes() for layer in installed.values()} == files
    assert next(iter(installed)) == layers.BASE
    assert all(layer.purpose for layer in installed.values())
    assert installed[layers.BASE].needs == ()
    assert layers.collector_version()[0].isdigit()
