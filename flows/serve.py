"""Serve the deployments of prefect.yaml: `make up` runs it beside Prefect's server."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.runner import Runner
from prefect.states import Cancelled, Scheduled

from flows.deployments import deployments, quiet_times
from flows.watch import start_after_new_files
from videomar.errors import VideomarError

_DEPLOYMENTS = Path("prefect.yaml")
_UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")


async def take_up_what_was_left() -> None:
    """Runs that died with the process before us start again; those that were to be cancelled are."""
    left = {"state": {"type": {"any_": [*_UNFINISHED]}}, "deployment_id": {"is_null_": False}}
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(left)):
            again: Any = Scheduled(name="AwaitingRetry", message="its service ended")
            state: Any = Cancelled() if run.state_name == "Cancelling" else again
            await client.set_flow_run_state(run.id, state, force=True)


async def serve(ready: Path) -> None:
    """Run what is scheduled or asked for, until the process ends; `ready` says that Prefect knows of us."""
    runner = Runner(name="videomar", limit=3, pause_on_shutdown=False)  # one works, two wait for their turn
    for deployment in deployments(_DEPLOYMENTS):
        await runner.aadd_deployment(deployment)
    await take_up_what_was_left()
    watches = quiet_times(_DEPLOYMENTS).items()
    watching = [asyncio.create_task(start_after_new_files(name, quiet_s)) for name, quiet_s in watches]
    ready.touch()
    await runner.start()
    for task in watching:
        task.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except VideomarError as error:
        sys.exit(f"flows: {error}")
