"""``flowspan trends``, as users run it."""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from jaeger_server import jaeger_server
from run_files import ZONE, at, nightly, noise, time_zone, write_days
from span_files import EPOCH, Plan, run, write

from commands import embedded, flowspan

FLOWS = Path(__file__).parents[1] / "flows"


def sixty_days(file: Path) -> None:
    """Write two flows; the load of one takes 1.5 times as long from the thirtieth day on."""
    factor = noise(2)
    with time_zone(ZONE):
        write_days(
            file,
            60,
            lambda day: nightly(
                at(day),
                2 * factor() * (1.5 if day >= 30 else 1),
                rows=1000,
                result="failure" if day in (10, 11) else "success",
            ),
        )
        write_days(file, 3, lambda day: nightly(at(day, 12), flow="weekly"))


def test_each_flow_has_its_table_and_its_answers(tmp_path: Path) -> None:
    """The flow that ran last comes first; if runs are too few, it says how many it needs."""
    sixty_days(embedded(tmp_path))
    done = flowspan("trends", "--target", "0.95", cwd=tmp_path, TZ=ZONE)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "from 2026-09-01 02:00:00 +02:00 to 2026-10-30 02:00:03 +01:00"
    assert lines[2].split() == [
        *("flow", "/", "task", "runs", "success", "median", "over", "time", "change")
    ]
    assert lines[3].startswith("nightly")
    assert "96.6 %" in lines[3]
    assert lines[4].startswith("├─ load")
    assert lines[5].startswith("└─ extract")
    text = " ".join(done.stdout.split())
    assert "a step on Thu 2026-10-01, slower since: " in text
    assert "mostly load" in text
    assert "below the target of 95 % on 2 of 60 days: 2026-09-11 (0 of 1)" in text
    assert "too few yet for a trend (3 of 10 runs that succeeded)" in text
    assert max(map(len, lines)) <= 120


def test_an_output_without_unicode_gets_ascii(tmp_path: Path) -> None:
    """A narrow output loses columns, but not the flow's name."""
    sixty_days(embedded(tmp_path))
    done = flowspan("trends", cwd=tmp_path, PYTHONIOENCODING="ascii", COLUMNS="50")
    assert done.returncode == 0
    assert "?" not in done.stdout
    assert "|- load" in done.stdout
    assert " -> " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 50


def test_json_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    """This holds if a page is written and if a line is broken, which the exit code shows."""
    file = embedded(tmp_path)
    sixty_days(file)
    with file.open("a") as stream:
        stream.write("broken")
    done = flowspan("trends", "--json", "--html", "t.html", "--flow", "nightly", cwd=tmp_path)
    assert done.returncode == 1
    assert "wrote t.html" in done.stderr
    assert "traces.jsonl:64: not JSON" in done.stderr
    document = json.loads(done.stdout)
    assert document["version"] == 1
    (flow,) = document["flows"]
    assert (flow["name"], len(flow["runs"])) == ("nightly", 60)
    assert flow["change"]["kind"] == "step"
    assert (tmp_path / "t.html").read_text().startswith("<!DOCTYPE html>")


def test_the_page_can_go_to_standard_output(tmp_path: Path) -> None:
    """Nothing else is printed then, and --json is refused."""
    sixty_days(embedded(tmp_path))
    done = flowspan("trends", "--html", "-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert done.stdout.endswith("</html>\n")
    done = flowspan("trends", "--html", "-", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_since_leaves_out_what_ended_before(tmp_path: Path) -> None:
    """By a local date or an age."""
    sixty_days(embedded(tmp_path))
    arguments = ("trends", "--json", "--flow", "nightly", "--since")
    done = flowspan(*arguments, "2026-10-25", cwd=tmp_path, TZ=ZONE)
    (flow,) = json.loads(done.stdout)["flows"]
    assert len(flow["runs"]) == 6
    now = datetime.now(timezone.utc).timestamp() - EPOCH / 1e9
    folder = tmp_path / "now"
    folder.mkdir()
    write(embedded(folder), nightly(now - 3600))
    assert len(json.loads(flowspan(*arguments, "2h", cwd=folder).stdout)["flows"]) == 1
    assert flowspan(*arguments, "30m", cwd=folder).returncode == 1


def test_the_target_is_what_the_flow_promises(tmp_path: Path) -> None:
    """It is in flowspan.toml, by flow name or tag; the option wins."""
    sixty_days(embedded(tmp_path))
    (tmp_path / "flowspan.toml").write_text("[slo.nightly]\nmin_success_rate = 0.9\n")

    def target(*arguments: str) -> list[float | None]:
        done = flowspan("trends", "--json", *arguments, cwd=tmp_path)
        return [flow["target"] for flow in json.loads(done.stdout)["flows"]]

    assert target() == [0.9, None]
    assert target("--target", "0.5") == [0.5, 0.5]
    (tmp_path / "flowspan.toml").write_text("[slo.nightly]\nmin_success_rate = 90\n")
    done = flowspan("trends", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "write 0.9 for 90 %" in done.stderr
    assert "--target" in done.stderr


def test_an_unknown_flow_tells_of_the_known(tmp_path: Path) -> None:
    """Each is listed once, by name."""
    file = embedded(tmp_path)
    sixty_days(file)
    write(file, Plan("GET /health", 0, 1))
    done = flowspan("trends", "--flow", "nigthly", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert ".flowspan holds no run of 'nigthly'. Its flows:" in done.stderr
    assert done.stderr.splitlines()[-3:] == ["  GET /health", "  nightly", "  weekly"]


def test_no_runs_say_what_to_do(tmp_path: Path) -> None:
    """There is no folder, or no run since a date."""
    done = flowspan("trends", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert ".flowspan does not exist." in done.stderr
    assert "instrument()" in done.stderr
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    done = flowspan("trends", "--since", "1d", cwd=tmp_path)
    assert done.returncode == 1
    assert ".flowspan holds no run that ended since " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "neither an age such as 30d or 12h nor a date"),
        (("--since", "9999-01-01"), "is in the future"),
        (("--since", "1969-01-01"), "is before 1970"),
        (("--target", "95"), "--target"),
        (("--jaeger", "localhost"), "no URL"),
        (("--jaeger", "http://127.0.0.1:1", "--file", "."), "one or the other"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Nothing is read before."""
    done = flowspan("trends", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_without_scipy_it_says_how_to_get_it(tmp_path: Path) -> None:
    """All other commands still work."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    code = "import sys; sys.modules['scipy'] = None; from flowspan.cli.main import main; main()"

    def start(command: str) -> "subprocess.CompletedProcess[str]":
        arguments = [sys.executable, "-c", code, command]
        return subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = start("trends")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'flowspan[trends]'" in done.stderr
    assert start("timeline").returncode == 0


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The message names the file and the reason."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    done = flowspan("trends", "--html", "no/such/folder.html", cwd=tmp_path)
    assert done.returncode == 1
    assert "folder.html cannot be written: No such file or directory" in done.stderr


def test_jaeger_answers_with_the_runs_since_a_time(tmp_path: Path) -> None:
    """By default of the last thirty days; flow names are listed too."""
    file = tmp_path / "storage.jsonl"
    now = datetime.now(timezone.utc).timestamp() - EPOCH / 1e9
    for hours in (1, 2, 3, 40 * 24):
        write(file, nightly(now - 3_600 * hours))
    write(file, nightly(now - 9_000, flow="weekly"))
    with jaeger_server(file) as server:
        server.has_search = True

        def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return flowspan("trends", "--json", "--jaeger", server.url, *arguments, cwd=tmp_path)

        def found(*arguments: str) -> dict[str, int]:
            document = json.loads(ask(*arguments).stdout)
            return {flow["name"]: len(flow["runs"]) for flow in document["flows"]}

        assert found() == {"nightly": 3, "weekly": 1}
        assert found("--flow", "nightly", "--since", "150m") == {"nightly": 2}
        unknown = ask("--flow", "x")
        assert unknown.returncode == 1
        assert unknown.stderr.splitlines()[-2:] == ["  nightly", "  weekly"]


def test_real_runs_of_a_real_flow_have_a_trend(prefect_server: str, tmp_path: Path) -> None:
    """Twelve runs, each slower than the last because it has more rows."""
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    subprocess.run(
        [sys.executable, FLOWS / "repeated.py", "12"], cwd=tmp_path, env=environment, check=True
    )
    done = flowspan("trends", "--json", "--since", "1h", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (flow,) = json.loads(done.stdout)["flows"]
    assert (flow["name"], len(flow["runs"]), flow["success_rate"]) == ("growing", 12, 1)
    assert flow["change"]["kind"] == "trend"
    assert flow["change"]["trend"]["slope"] > 0
    assert flow["change"]["task"]["name"] == "load"
    assert flow["tasks"][0]["name"] == "load"
    assert flow["rows"]["follows"]
    assert flow["retries"]["count"] == 0
