"""Build the programs of the end-to-end tests: Collector, Jaeger, Prometheus and its promtool.

    python scripts/programs.py                    builds what is missing, prints the paths
    python scripts/programs.py jaeger             builds one
    python scripts/programs.py --lock collector   writes go.mod and go.sum anew, for other versions

The folder of a program in ``scripts/programs/`` holds the versions and checksums of all it is made
of; nothing else goes into a build. Programs of one module share a folder. The Collector's
components are those of ``collector/builder.yaml``.

What is built lies in ``$E2E_PROGRAMS``, by default ``~/.cache/flowspan/programs``, in a folder
that is named after the version and a hash of the pins. Go's own caches take some gigabytes more
while it builds (``go clean -cache -modcache`` frees them).
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "scripts" / "programs"
MANIFEST = ROOT / "collector" / "builder.yaml"
GO_FLAGS = ("-trimpath", "-ldflags=-s -w")


class Unavailable(Exception):  # noqa: N818 - what is missing is the user's to install
    """A program cannot be built here; the argument says what to do about it."""


@dataclass(frozen=True)
class Program:
    """One executable, built from modules of Go's registry."""

    name: str
    package: str
    """What is compiled; for the Collector: what writes its source."""
    version: str
    tags: tuple[str, ...] = ()
    shares: str = ""
    """The program whose pins are its own, too."""

    @property
    def pins(self) -> Path:
        """The folder with ``go.mod`` and ``go.sum``."""
        return PINS / (self.shares or self.name)

    @property
    def sources(self) -> tuple[Path, ...]:
        """All that decides what is built."""
        return (*pins(self.pins), MANIFEST) if self is COLLECTOR else pins(self.pins)

    @property
    def path(self) -> Path:
        """Where the executable is, or will be."""
        digest = hashlib.sha256(" ".join((self.package, *self.tags)).encode())
        for source in self.sources:
            digest.update(source.read_bytes())
        return cache() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}" / self.name


COLLECTOR = Program(
    "collector",
    "go.opentelemetry.io/collector/cmd/builder",
    re.findall(r"^  version: (\S+)$", MANIFEST.read_text(), re.MULTILINE)[0],
)
# This is Jaeger 2.13.0, whose commit has two tags: Go knows the module by the older numbering.
JAEGER = Program("jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger", "1.76.0")
# This is Prometheus 3.14.0, less the discovery of targets in clouds, which is most of it.
PROMETHEUS = Program(
    "prometheus",
    "github.com/prometheus/prometheus/cmd/prometheus",
    "0.314.0",
    tags=("remove_all_sd",),
)
PROMTOOL = replace(
    PROMETHEUS,
    name="promtool",
    package="github.com/prometheus/prometheus/cmd/promtool",
    shares=PROMETHEUS.name,
)
PROGRAMS = {program.name: program for program in (COLLECTOR, JAEGER, PROMETHEUS, PROMTOOL)}


def pins(folder: Path) -> tuple[Path, Path]:
    """The two files that say, and prove, which modules a build takes."""
    return folder / "go.mod", folder / "go.sum"


def cache() -> Path:
    """The folder of what is built; it is made by the first build."""
    named = os.environ.get("E2E_PROGRAMS")
    general = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else general / "flowspan" / "programs"


def find(program: Program) -> Path | None:
    """The executable if it has been built."""
    return program.path if program.path.exists() else None


def build(program: Program) -> Path:
    """Build the executable unless it is there.

    Raises:
        Unavailable: Go is missing or too old, or the build failed.
    """
    path = program.path
    if path.exists():
        return path
    check_go(program)
    start = time.monotonic()
    print(f"Building {program.name} {program.version}, some minutes ...", file=sys.stderr)
    with work_folder(program) as folder:
        if program is COLLECTOR:
            source = write_collector(folder)
            for pin in pins(folder):
                shutil.copy(pin, source)
            go("build", *GO_FLAGS, "-o", folder / program.name, ".", cwd=source)
        else:
            tags = (f"-tags={','.join(program.tags)}",) if program.tags else ()
            go("build", *GO_FLAGS, *tags, "-o", folder / program.name, program.package, cwd=folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / program.name).replace(path)
    size = path.stat().st_size / 2**20
    seconds = time.monotonic() - start
    print(
        f"Built {program.name} {program.version} in {seconds:.0f} s, {size:.0f} MiB",
        file=sys.stderr,
    )
    return path


def check_go(program: Program) -> None:
    """Say what to install if there is no Go that can build it."""
    found = re.search(r"^go (\d+)\.(\d+)", (program.pins / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{program.pins / 'go.mod'} names no version of Go")
    needed = (int(found[1]), int(found[2]))
    advice = f"install Go {needed[0]}.{needed[1]} or newer (https://go.dev/doc/install)"
    if shutil.which("go") is None:
        raise Unavailable(f"{program.name} is built with Go, which is missing: {advice}")
    answer = subprocess.run(
        ["go", "env", "GOVERSION", "GOTOOLCHAIN"], check=True, capture_output=True, text=True
    )
    version, toolchain = answer.stdout.splitlines()
    here = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    # A Go that may fetch a newer one does so by itself; before 1.21 it has no such setting.
    if here < needed and toolchain in ("", "local"):
        raise Unavailable(f"{program.name} is built with Go, and {version} is too old: {advice}")


@contextmanager
def work_folder(program: Program) -> Iterator[Path]:
    """A folder with the pins, in the cache, so that a build can be moved from it in one step."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program.name}-", dir=cache()) as name:
        folder = Path(name)
        for source in program.sources:
            shutil.copy(source, folder)
        yield folder


def write_collector(folder: Path) -> Path:
    """Have the builder write the Collector's source; return its folder."""
    flags = ("--config=builder.yaml", "--skip-compilation", "--skip-get-modules")
    go("run", COLLECTOR.package, *flags, cwd=folder)
    return folder / "flowspan-collector"


def go(*arguments: str | Path, cwd: Path, **variables: str) -> None:
    """Run Go out of other work's way; show what it prints only if it fails."""
    command = [*(("nice",) if shutil.which("nice") else ()), "go", *map(str, arguments)]
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env={**os.environ, "GOFLAGS": "-buildvcs=false", "GOWORK": "off", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


def lock(program: Program) -> None:
    """Write ``go.mod`` and ``go.sum`` anew, for the versions named here and in the manifest.

    Go asks the public checksum database about each module. Behind a mirror that holds only part of
    it, GONOSUMDB names the modules to take on trust; builds then hold to what was taken.
    """
    program.pins.mkdir(parents=True, exist_ok=True)
    packages = [each.package for each in PROGRAMS.values() if each.pins == program.pins]
    tools = [f"{package}@v{program.version}" for package in packages]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(MANIFEST, folder)
        go("mod", "init", f"flowspan/{program.name}", cwd=folder)
        go("get", "-tool", *tools, cwd=folder)
        if program is COLLECTOR:
            folder = write_collector(folder)
            go("get", "-tool", *tools, cwd=folder)
            packages.append(".")
        # Not `go mod tidy`: it wants what the tests of all the modules need, too.
        tags = f"-tags={','.join(program.tags)}"
        go("list", "-mod=mod", "-deps", tags, *packages, cwd=folder)
        for pin in pins(folder):
            shutil.copy(pin, program.pins)


def named(name: str) -> Program:
    """The program of this name, as an argument."""
    if name not in PROGRAMS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PROGRAMS)}")
    return PROGRAMS[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is named, or everything; print one path a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("programs", nargs="*", type=named, metavar="PROGRAM")
    parser.add_argument("--lock", action="store_true", help="write the pins instead")
    options = parser.parse_args(arguments)
    try:
        for program in options.programs or PROGRAMS.values():
            if options.lock:
                lock(program)
            else:
                print(build(program))
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
