"""End-to-end tests run with the real programs; without them they say what to do."""

import pytest

import programs


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    missing = [name for name, program in programs.PROGRAMS.items() if not program.path.exists()]
    if missing:
        pytest.skip(f"not built here: {', '.join(missing)}. `make e2e` builds them.")
