"""The rules in compose/rules.yml, checked by Prometheus's own tool."""

import subprocess

import pytest

import programs

TESTS = programs.ROOT / "tests" / "rules_test.yml"


def test_the_rule_counts_right() -> None:
    promtool = programs.find(programs.PROMTOOL)
    if promtool is None:
        pytest.skip("there is no promtool: `make e2e` builds it")
    counted = subprocess.run(
        [promtool, "test", "rules", TESTS], capture_output=True, text=True, check=False
    )
    assert counted.returncode == 0, counted.stdout + counted.stderr
