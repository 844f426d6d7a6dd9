"""Serve the deployments of prefect.yaml: `make up` runs it beside Prefect's server."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.states import Cancelled, Scheduled

from videomar.errors import VideomarError

_UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")


def deployments(file: Path) -> list[RunnerDeployment]:
    """The deployments that a prefect.yaml describes, in Prefect's own words."""
    try:
        return [_deployment(entry) for entry in yaml.safe_load(file.read_text())["deployments"]]
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise VideomarError(f"{file}: got {line}, expected deployments of flows; mend it") from error


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    known = {key: entry[key] for key in ("name", "entrypoint", "description", "parameters") if key in entry}
    schedules = [Schedule(**schedule) for schedule in entry.get("schedules", [])]
    return RunnerDeployment.from_entrypoint(**known, schedules=schedules)


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
    for deployment in deployments(Path("prefect.yaml")):
        await runner.aadd_deployment(deployment)
    await take_up_what_was_left()
    ready.touch()
    await runner.start()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except VideomarError as error:
        sys.exit(f"flows: {error}")
