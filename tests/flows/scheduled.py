"""Deploy a flow with a schedule, and make a run of it that is overdue."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Scheduled

if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="scheduled", type="process"))
        source: Any = Flow.from_source(
            source=str(Path(__file__).parent), entrypoint="held.py:quick"
        )
        made = source.deploy(
            "hourly", work_pool_name="scheduled", interval=3600, print_next_steps=False
        )
        due = datetime.now(timezone.utc) - timedelta(hours=1)
        client.create_flow_run_from_deployment(made, state=Scheduled(scheduled_time=due))
