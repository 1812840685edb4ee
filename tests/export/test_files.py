"""The embedded files: whole lines, bounded sets, any number of processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowspan.export.files import RotatingStream

WRITER = """
import sys
from pathlib import Path
from flowspan.export.files import RotatingStream

stream = RotatingStream(Path(sys.argv[1]), "traces", max_bytes=2000, max_count=10_000)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    stream.write('{"writer": "%s", "number": %d, "pad": "%s"}\\n' % (sys.argv[2], number, "x" * 90))
"""

HITS_THE_LIMIT = """
import resource, sys
from pathlib import Path
from flowspan.export.files import RotatingStream

stream = RotatingStream(Path(sys.argv[1]), "traces", max_bytes=10**6, max_count=2)
stream.write('{"n": 1}\\n')
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))
try:
    stream.write('{"n": 2}\\n')
except OSError as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
stream.write('{"n": 3}\\n')
"""


def stream_in(folder: Path, *, max_bytes: int = 1000, max_count: int = 4) -> RotatingStream:
    """Return a stream for traces."""
    return RotatingStream(folder, "traces", max_bytes=max_bytes, max_count=max_count)


def files_in(folder: Path) -> list[Path]:
    """Return the files of the set, oldest first, the live one last."""
    return [*sorted(folder.glob("traces-*.jsonl")), *folder.glob("traces.jsonl")]


def lines_in(folder: Path) -> list[str]:
    """Return all lines of the set, oldest file first."""
    return [line for path in files_in(folder) for line in path.read_text().splitlines()]


def test_folder_is_made_by_the_first_write(tmp_path: Path) -> None:
    """Nothing is on disk before the first write; git then ignores the folder."""
    folder = tmp_path / "a" / ".flowspan"
    stream = stream_in(folder)
    assert not folder.exists()
    assert stream.write('{"n": 1}\n') == len('{"n": 1}\n')
    assert (folder / "traces.jsonl").read_text() == '{"n": 1}\n'
    assert (folder / ".gitignore").read_text() == "*\n"


def test_folder_of_the_user_is_left_as_it_is(tmp_path: Path) -> None:
    """An existing folder gets no .gitignore."""
    stream_in(tmp_path).write("{}\n")
    assert not (tmp_path / ".gitignore").exists()


def test_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that changes the working directory does not move the files."""
    monkeypatch.chdir(tmp_path)
    stream = stream_in(Path("here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stream.write("{}\n")
    assert lines_in(tmp_path / "here") == ["{}"]


def test_rotation_keeps_files_below_the_size_and_loses_nothing(tmp_path: Path) -> None:
    """A full file is renamed, with a name that sorts by time, and a new one started."""
    stream = stream_in(tmp_path, max_bytes=100, max_count=100)
    written = [json.dumps({"n": n}) for n in range(100)]
    for line in written:
        stream.write(line + "\n")
    assert lines_in(tmp_path) == written
    assert len(files_in(tmp_path)) > 5
    assert all(path.stat().st_size <= 100 for path in files_in(tmp_path))


@pytest.mark.parametrize("max_count", [1, 3])
def test_oldest_files_are_deleted(tmp_path: Path, max_count: int) -> None:
    """The set never has more files than allowed, and keeps the newest."""
    stream = stream_in(tmp_path, max_bytes=100, max_count=max_count)
    for number in range(200):
        stream.write(json.dumps({"n": number}) + "\n")
        assert len(files_in(tmp_path)) <= max_count
    numbers = [json.loads(line)["n"] for line in lines_in(tmp_path)]
    assert numbers == list(range(numbers[0], 200))
    assert numbers[0] > 100


def test_other_signals_and_other_files_are_left_alone(tmp_path: Path) -> None:
    """Deleting the oldest traces touches neither the logs nor the user's files."""
    names = ("logs.jsonl", "logs-1.jsonl", "my-traces-1.jsonl", "traces-backup.jsonl")
    others = [tmp_path / name for name in names]
    for other in others:
        other.write_text("mine")
    stream = stream_in(tmp_path, max_bytes=10, max_count=1)
    for _ in range(5):
        stream.write('{"n": 1}\n')
    assert all(other.read_text() == "mine" for other in others)


def test_line_longer_than_a_file_is_kept_whole(tmp_path: Path) -> None:
    """A batch larger than the size gets its own file."""
    stream = stream_in(tmp_path, max_bytes=50)
    long = json.dumps({"pad": "é" * 500})
    for line in ("{}", long, "{}"):
        stream.write(line + "\n")
    assert [path.read_text() for path in files_in(tmp_path)] == ["{}\n", long + "\n", "{}\n"]


def test_batch_larger_than_a_file_is_split_between_lines(tmp_path: Path) -> None:
    """A file is never larger than allowed, unless a single line is."""
    written = [json.dumps({"n": n, "pad": "x" * (300 if n == 7 else 9)}) for n in range(20)]
    stream_in(tmp_path, max_bytes=100, max_count=100).write("\n".join(written) + "\n")
    assert lines_in(tmp_path) == written
    sizes = [path.stat().st_size for path in files_in(tmp_path)]
    assert len([size for size in sizes if size > 100]) == 1
    assert len(sizes) < 10


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_only_the_user_can_read_the_files(tmp_path: Path) -> None:
    """The umask does not matter."""
    before = os.umask(0)
    try:
        stream = stream_in(tmp_path / "new", max_bytes=10)
        for _ in range(3):
            stream.write('{"n": 1}\n')
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    files = [*files_in(tmp_path / "new"), tmp_path / "new" / ".lock"]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_folder_of_the_user_decides_who_reads_the_files(tmp_path: Path) -> None:
    """A group that may read the folder may read the files, as far as the umask allows."""
    tmp_path.chmod(0o750)
    stream_in(tmp_path).write("{}\n")
    assert (tmp_path / "traces.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX")
@pytest.mark.parametrize("name", ["traces.jsonl", ".lock"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_only_regular_files_are_written_to(tmp_path: Path, name: str, kind: str) -> None:
    """Anything else in the place of a file is an error, and stays as it is."""
    target, place = tmp_path / "target", tmp_path / "folder" / name
    place.parent.mkdir()
    if kind == "link":
        target.write_text("mine")
    if kind.endswith("link"):
        place.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(OSError, match=name):
        stream_in(place.parent).write('{"n": 1}\n')
    assert (target.read_text() if target.exists() else None) == ("mine" if kind == "link" else None)


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX")
def test_lock_that_is_never_given_up(tmp_path: Path) -> None:
    """Lines are still written, but nothing is rotated: the other process may be doing so."""
    import fcntl

    stream = stream_in(tmp_path, max_bytes=10)
    stream.write('{"n": 1}\n')
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stream.write('{"n": 2}\n')
        assert lines_in(tmp_path) == ['{"n": 1}', '{"n": 2}']
        assert len(files_in(tmp_path)) == 1
    stream.write('{"n": 3}\n')
    assert len(files_in(tmp_path)) == 2


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """Every line of both processes is there, whole, once, in its process's order."""
    count = 400
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    lines = [json.loads(line) for line in lines_in(tmp_path)]
    for name in ("a", "b"):
        assert [line["number"] for line in lines if line["writer"] == name] == list(range(count))
    assert len(lines) == 2 * count
    assert all(path.stat().st_size <= 2000 for path in files_in(tmp_path))
    sizes = [path.stat().st_size for path in files_in(tmp_path)[:-1]]
    assert min(sizes) > 1500, "two processes rotated one file"


def test_torn_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    """After a writer was killed in the middle of a line, the next one starts a new line."""
    (tmp_path / "traces.jsonl").write_text('{"n": 1}\n{"n": 2, "kil')
    stream = stream_in(tmp_path)
    stream.write('{"n": 3}\n')
    stream.write('{"n": 4}\n')
    assert lines_in(tmp_path) == ['{"n": 1}', '{"n": 2, "kil', '{"n": 3}', '{"n": 4}']


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_full_disk_raises_and_is_recovered_from(tmp_path: Path) -> None:
    """If a line is only partly written, write raises OSError, and no part of it stays."""
    ended = subprocess.run(
        [sys.executable, "-c", HITS_THE_LIMIT, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "OSError\n"
    assert lines_in(tmp_path) == ['{"n": 1}', '{"n": 3}']


def test_deleted_folder_is_made_again(tmp_path: Path) -> None:
    """The user may delete the folder at any time."""
    folder = tmp_path / ".flowspan"
    stream = stream_in(folder)
    stream.write('{"n": 1}\n')
    shutil.rmtree(folder)
    stream.write('{"n": 2}\n')
    assert lines_in(folder) == ['{"n": 2}']


def test_rotated_by_another_process(tmp_path: Path) -> None:
    """If its file was renamed, a writer continues in the new live file."""
    stream = stream_in(tmp_path)
    stream.write('{"n": 1}\n')
    (tmp_path / "traces.jsonl").rename(tmp_path / "traces-1.jsonl")
    stream.write('{"n": 2}\n')
    assert (tmp_path / "traces.jsonl").read_text() == '{"n": 2}\n'


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A write raises OSError while the folder cannot be created, and works afterwards."""
    obstacle = tmp_path / "file"
    obstacle.write_text("")
    stream = stream_in(obstacle / ".flowspan")
    with pytest.raises(OSError, match="Not a directory"):
        stream.write("{}\n")
    obstacle.unlink()
    stream.write("{}\n")
    assert lines_in(obstacle / ".flowspan") == ["{}"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_parent_and_forked_child_both_write(tmp_path: Path) -> None:
    """A stream created and used before a fork works in both processes after it."""
    stream = stream_in(tmp_path, max_bytes=50, max_count=1000)
    stream.write('{"by": "before"}\n')
    child = os.fork()
    for _ in range(20):
        stream.write('{"by": "%s"}\n' % ("parent" if child else "child"))
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    by = [json.loads(line)["by"] for line in lines_in(tmp_path)]
    assert sorted(by) == ["before", *["child"] * 20, *["parent"] * 20]


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """No file is open between two lines, so a fork cannot inherit one."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    stream = stream_in(tmp_path, max_bytes=20)
    for _ in range(20):
        stream.write('{"n": 1}\n')
    assert len(list(descriptors.iterdir())) == before
