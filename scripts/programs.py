"""Build the programs of the end-to-end tests: Collector, Jaeger, Prometheus, VictoriaLogs.

    python scripts/programs.py                    builds missing programs, prints the paths
    python scripts/programs.py jaeger             builds one program
    python scripts/programs.py --lock collector   rewrites go.mod and go.sum, for other versions

The folder of a program in ``scripts/programs/`` has the versions and checksums of all its modules;
nothing else goes into a build. Programs of one module share a folder. The Collector's components
are those of ``collector/builder.yaml``.

Programs are built in ``$E2E_PROGRAMS``, by default ``~/.cache/flowspan/programs``, in a folder that
is named after the version and a hash of the pins. Go's own caches take a few more gigabytes while
it builds (``go clean -cache -modcache`` frees them).
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


class Unavailable(Exception):  # noqa: N818 - the user must install something
    """A program cannot be built here; the argument says what to do."""


@dataclass(frozen=True)
class Program:
    """One executable, built from Go modules."""

    name: str
    package: str
    """The package to compile; for the Collector, the one that generates its source."""
    version: str
    tags: tuple[str, ...] = ()
    shares: str = ""
    """The program whose pins it shares."""

    @property
    def pins(self) -> Path:
        """The folder with ``go.mod`` and ``go.sum``."""
        return PINS / (self.shares or self.name)

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files that determine the build."""
        return (*pins(self.pins), MANIFEST) if self is COLLECTOR else pins(self.pins)

    @property
    def path(self) -> Path:
        """The path of the executable, even before it is built."""
        digest = hashlib.sha256(" ".join((self.package, *self.tags)).encode())
        for source in self.sources:
            digest.update(source.read_bytes())
        return cache() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}" / self.name


COLLECTOR = Program(
    "collector",
    "go.opentelemetry.io/collector/cmd/builder",
    re.findall(r"^  version: (\S+)$", MANIFEST.read_text(), re.MULTILINE)[0],
)
# This is Jaeger 2.13.0. Its commit has two tags, and Go uses the older numbering.
JAEGER = Program("jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger", "1.76.0")
# This is Prometheus 3.14.0, without the discovery of targets in clouds, which is most of it.
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
VICTORIALOGS = Program(
    "victorialogs", "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs", "1.52.1"
)
PROGRAMS = {
    program.name: program for program in (COLLECTOR, JAEGER, PROMETHEUS, PROMTOOL, VICTORIALOGS)
}


def pins(folder: Path) -> tuple[Path, Path]:
    """Return the two files with the versions and checksums of a build's modules."""
    return folder / "go.mod", folder / "go.sum"


def cache() -> Path:
    """Return the folder of built programs; the first build creates it."""
    named = os.environ.get("E2E_PROGRAMS")
    general = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else general / "flowspan" / "programs"


def find(program: Program) -> Path | None:
    """Return the executable's path, or None if it is not built."""
    return program.path if program.path.exists() else None


def build(program: Program) -> Path:
    """Build the executable if necessary; return its path.

    Raises:
        Unavailable: Go is missing or too old, or the build failed.
    """
    path = program.path
    if path.exists():
        return path
    check_go(program)
    start = time.monotonic()
    print(f"Building {program.name} {program.version}, a few minutes ...", file=sys.stderr)
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
    """Raise `Unavailable` if Go is missing or too old, saying what to install."""
    found = re.search(r"^go (\d+)\.(\d+)", (program.pins / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{program.pins / 'go.mod'} does not name a Go version")
    needed = (int(found[1]), int(found[2]))
    advice = f"install Go {needed[0]}.{needed[1]} or newer (https://go.dev/doc/install)"
    if shutil.which("go") is None:
        raise Unavailable(f"{program.name} is built with Go, which is missing: {advice}")
    answer = subprocess.run(
        ["go", "env", "GOVERSION", "GOTOOLCHAIN"], check=True, capture_output=True, text=True
    )
    version, toolchain = answer.stdout.splitlines()
    here = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    # Go downloads a newer version itself if allowed; before 1.21 there was no such setting.
    if here < needed and toolchain in ("", "local"):
        raise Unavailable(f"{program.name} is built with Go, and {version} is too old: {advice}")


@contextmanager
def work_folder(program: Program) -> Iterator[Path]:
    """Yield a folder with the pins, in the cache, so that a build can be moved in one step."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program.name}-", dir=cache()) as name:
        folder = Path(name)
        for source in program.sources:
            shutil.copy(source, folder)
        yield folder


def write_collector(folder: Path) -> Path:
    """Generate the Collector's source with the builder; return its folder."""
    flags = ("--config=builder.yaml", "--skip-compilation", "--skip-get-modules")
    go("run", COLLECTOR.package, *flags, cwd=folder)
    return folder / "flowspan-collector"


def go(*arguments: str | Path, cwd: Path, **variables: str) -> None:
    """Run Go with low priority; show its output only if it fails."""
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
    """Rewrite ``go.mod`` and ``go.sum`` for the versions named here and in the manifest.

    Go checks each module with the public checksum database. If a proxy has only part of it, set
    GONOSUMDB to the modules to trust; builds then use the recorded checksums.
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
        # Not `go mod tidy`, which also adds everything that the modules' tests need.
        tags = f"-tags={','.join(program.tags)}"
        go("list", "-mod=mod", "-deps", tags, *packages, cwd=folder)
        for pin in pins(folder):
            shutil.copy(pin, program.pins)


def named(name: str) -> Program:
    """Return the program with this name, for the argument parser."""
    if name not in PROGRAMS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PROGRAMS)}")
    return PROGRAMS[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the named programs, or all; print one path per line."""
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
