"""Run random flows, one after another, until a file appears: loaded.py NAME SEED COUNT STOP [LIFE].

flowspan records them if DOOMED says so. With a LIFE, the process kills itself after so many
seconds, in whatever runs then.
"""

import random
import sys
import threading
import time
from pathlib import Path

from doomed import die  # this also instruments Prefect, if it should

from random_flows import build, call
from unseen import drawn


def main(name: str, seed: str, count: str, stop: str, life: str | None = None) -> None:
    chosen = random.Random(seed)  # noqa: S311 - reproducible
    if life is not None:
        timer = threading.Timer(float(life), die)
        timer.daemon = True
        timer.start()
    for number, program in enumerate(drawn(int(count), int(seed))):
        if Path(stop).exists():
            return
        call(build(program, name=f"{name}-{number}"))
        time.sleep(chosen.uniform(0, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
