"""Hosts with names, addresses and clocks of their own: network namespaces, joined by a bridge."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from late_clock import shifted_clock

HUB = "10.77.0.1"
"""The address of what runs on no host."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Host:
    """A host; processes that are started with `command` are on it."""

    name: str
    address: str
    pid: int

    def command(self, *command: str, clock: int = 0) -> tuple[str, ...]:
        """Return a command that runs another one here, with a clock that is `clock` ns ahead."""
        there = ("nsenter", "--target", str(self.pid), "--net", "--uts")
        if not clock:
            return (*there, *command)
        variables = (f"{name}={value}" for name, value in shifted_clock(clock).items())
        return (*there, "env", *variables, *command)


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Give this thread, and the processes that it starts, a network that hosts are connected to.

    Nothing of the machine's own network is reachable from there, or changed.
    """
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in ("ip", "nsenter")):
        pytest.skip("network namespaces need root, ip and nsenter")
    with ExitStack() as stack:
        stack.enter_context(_network_of_its_own())
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "bridge", "type", "bridge")
        _run("ip", "address", "add", f"{HUB}/24", "dev", "bridge")
        _run("ip", "link", "set", "bridge", "up")
        yield [
            stack.enter_context(_host(name, f"10.77.0.{number}"))
            for number, name in enumerate(names, 2)
        ]


@contextmanager
def _network_of_its_own() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespaces here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)


@contextmanager
def _host(name: str, address: str) -> Iterator[Host]:
    # A namespace lasts as long as a process in it.
    holder = subprocess.Popen(["unshare", "--net", "--uts", "sleep", "600"])
    try:
        host = Host(name, address, holder.pid)
        own = Path("/proc/thread-self/ns/net").readlink()
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
            time.sleep(0.01)
        _run("ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(host.pid))
        _run("ip", "link", "set", name, "master", "bridge", "up")
        _run(*host.command("hostname", name))
        _run(*host.command("ip", "address", "add", f"{address}/24", "dev", "eth0"))
        for device in ("lo", "eth0"):
            _run(*host.command("ip", "link", "set", device, "up"))
        yield host
    finally:
        holder.kill()
        holder.wait()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
