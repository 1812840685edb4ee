"""SIGTERM finishes, and does what it did before."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

START = """
import os, signal, sys, threading, time
from flowspan._sigterm import SigtermHandler

lock = threading.Lock()

def finish():
    print("finishing", flush=True)
    with lock:
        print("finished", flush=True)

def kill():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    print("alive", flush=True)

handler = SigtermHandler(finish, timeout=float(sys.argv[1]))
"""


def run(script: str, timeout: float = 60) -> tuple[int, list[str]]:
    """Run the script, and return its exit code and what it printed."""
    command = [sys.executable, "-c", START + script, str(timeout)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.split()


def test_finishes_and_dies() -> None:
    """The process finishes, and dies of the signal."""
    assert run("handler.install(); kill()") == (-signal.SIGTERM, ["finishing", "finished"])


def test_does_not_wait_for_ever() -> None:
    """A process dies though it holds a lock that finishing needs."""
    died = run("handler.install()\nwith lock: kill()", timeout=0.2)
    assert died == (-signal.SIGTERM, ["finishing"])


def test_second_signal_kills_at_once() -> None:
    """A second signal does not wait for what the first one began."""
    script = "handler.install()\nthreading.Timer(0.5, kill).start()\nwith lock: kill()"
    assert run(script) == (-signal.SIGTERM, ["finishing"])


def test_interrupt_meanwhile() -> None:
    """An exception of another handler does not keep the process alive."""
    script = """
handler.install()
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    with lock: kill()
except KeyboardInterrupt:
    print("alive")
"""
    assert run(script) == (-signal.SIGTERM, ["finishing"])


def test_handler_of_the_application() -> None:
    """A handler that the application has set before stays, and one that it sets later wins."""
    for order in ("own(); handler.install()", "handler.install(); own()"):
        script = "def own(): signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        assert run(f"{script}{order}; handler.remove(); kill()") == (3, [])


def test_ignored_signal() -> None:
    """A process that ignores the signal still does."""
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN); handler.install(); kill()"
    assert run(script) == (0, ["alive"])


def test_other_threads() -> None:
    """In another thread, which cannot set handlers, nothing happens."""
    script = "t = threading.Thread(target=handler.install); t.start(); t.join(); kill()"
    assert run(script) == (-signal.SIGTERM, [])


def test_removed() -> None:
    """Once it is removed, the signal kills as if it had never been there."""
    assert run("handler.install(); handler.remove(); kill()") == (-signal.SIGTERM, [])
