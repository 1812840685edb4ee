"""A background task: one process submits it with `.delay()`, another one serves it.

python background_task.py serve     # in one terminal; needs a Prefect server
python background_task.py           # in another
"""

import sys

from prefect import flow, task

from flowspan import instrument

instrument()  # both processes run this file


@task
def send_receipt(order: int) -> str:
    """Send a receipt, whenever a process has time for it."""
    return f"sent the receipt of order {order}"


@flow
def checkout(order: int) -> None:
    """Take an order; do not wait for its receipt."""
    send_receipt.delay(order)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        send_receipt.serve()
    else:
        checkout(42)
