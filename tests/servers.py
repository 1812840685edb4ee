"""Start Prefect servers. This does not import Prefect, which reads its settings at import."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

LONGEST_START = 140.0
"""Seconds that a Prefect server may take to start on a busy machine."""


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A Prefect server, which may be stopped and started again.

    Attributes:
        url: Where its API is.
    """

    def __init__(self, home: Path, port: int, patience: float = LONGEST_START) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self._home = home
        self._port = port
        self._patience = patience
        self._process: subprocess.Popen[bytes]

    def start(self, **variables: str) -> None:
        """Start it; return once it is healthy."""
        log = self._home / "server.log"
        own = {"PREFECT_HOME": str(self._home), **variables}
        env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | own
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(self._port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
            )
        deadline = time.monotonic() + self._patience
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = log.read_text()[-4000:]
                raise RuntimeError(f"Prefect's server did not start:\n{said}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it, if it runs."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:  # noqa: S310
                return bool(response.status == 200)
        except OSError:
            return False
