"""Many tasks on a Dask cluster; prints the most memory that this process has had, in KiB.

The arguments are ``ADDRESS TASKS recorded``, or ``bare`` to run without flowspan.
"""

import re
import sys
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_dask import DaskTaskRunner


@task(cache_policy=NO_CACHE)
def square(number: int) -> int:
    return number * number


if __name__ == "__main__":
    address, tasks, kind = sys.argv[1:]
    if kind == "recorded":
        from flowspan import instrument

        instrument()

    @flow(task_runner=DaskTaskRunner(address=address))
    def many() -> None:
        futures = [square.submit(number) for number in range(int(tasks))]
        assert [future.result() for future in futures] == [n * n for n in range(int(tasks))]

    many()
    # getrusage() would count what the process that started this one had.
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(peak)
