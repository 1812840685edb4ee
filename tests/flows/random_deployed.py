"""Random flows as deployments: each is an attribute of this module, called like its flow.

python random_deployed.py serve NUMBER
python random_deployed.py deploy NUMBER POOL
"""

import sys
from pathlib import Path
from typing import Any

from flowspan import instrument

instrument()

from prefect import flow, serve  # noqa: E402

from random_flows import build, examples  # noqa: E402

HERE = Path(__file__)
MOST = 12

for position, program in enumerate(examples(MOST)):
    name = f"random_{position}"
    globals()[name] = build(program, name=name)


def flows(number: str) -> list[Any]:
    """Return the first flows, with the place from which another process can load each."""
    return [
        flow.from_source(source=str(HERE.parent), entrypoint=f"{HERE.name}:random_{position}")
        for position in range(int(number))
    ]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*(f.to_deployment("served") for f in flows(sys.argv[2])), pause_on_shutdown=False)
    else:
        for deployed in flows(sys.argv[2]):
            deployed.deploy("worked", work_pool_name=sys.argv[3], print_next_steps=False)
