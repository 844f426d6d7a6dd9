"""Serve the deployments of prefect.yaml: `make up` runs this beside Prefect's server."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.states import Cancelled, Scheduled

from flows.automations import apply_notifications
from flows.watch import start_after_new_files
from videomar.errors import VideomarError
from videomar.services.notifications import read_notifications

_DEPLOYMENTS = Path("prefect.yaml")
_UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
_Parsed = TypeVar("_Parsed")


async def serve(ready: Path) -> None:
    """Run what is scheduled or asked for until the process ends.

    Args:
        ready: File that is created once Prefect's server knows the deployments.
    """
    # Flows hold the lock of the checkout one at a time: of three processes, one works and two wait.
    runner = Runner(name="videomar", limit=3, pause_on_shutdown=False)
    for deployment in deployments(_DEPLOYMENTS):
        await runner.aadd_deployment(deployment)
    await apply_notifications(read_notifications(_DEPLOYMENTS, os.environ))
    await resume_unfinished_runs()
    watches = quiet_times(_DEPLOYMENTS).items()
    watching = [asyncio.create_task(start_after_new_files(name, quiet_s)) for name, quiet_s in watches]
    ready.touch()
    await runner.start()
    for task in watching:
        task.cancel()


async def resume_unfinished_runs() -> None:
    """Schedule runs that ended with an earlier process of this service; cancel those being cancelled."""
    unfinished = {"state": {"type": {"any_": [*_UNFINISHED]}}, "deployment_id": {"is_null_": False}}
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(unfinished)):
            retry: Any = Scheduled(name="AwaitingRetry", message="its service ended")
            state: Any = Cancelled() if run.state_name == "Cancelling" else retry
            await client.set_flow_run_state(run.id, state, force=True)


def deployments(file: Path) -> list[RunnerDeployment]:
    """The deployments that a prefect.yaml describes, in Prefect's own format."""
    return _parse_each(file, _deployment)


def quiet_times(file: Path) -> dict[str, float]:
    """Deployments that new files start, by `flow/name`: seconds for which the files must not have changed."""
    return {name: quiet_s for name, quiet_s in _parse_each(file, _quiet_time) if quiet_s is not None}


def _parse_each(file: Path, parse: Callable[[dict[str, Any]], _Parsed]) -> list[_Parsed]:
    try:
        return [parse(entry) for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]]
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise VideomarError(f"{file}: got {line}, expected deployments of flows; fix the file") from error


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    known = {key: entry[key] for key in ("name", "entrypoint", "description", "parameters") if key in entry}
    schedules = [Schedule(**schedule) for schedule in entry.get("schedules", [])]
    return RunnerDeployment.from_entrypoint(**known, schedules=schedules)


def _quiet_time(entry: dict[str, Any]) -> tuple[str, float | None]:
    """Name and quiet time of a deployment; None if new files do not start it."""
    name = f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}"
    if (trigger := entry.get("new_files")) is None:
        return name, None
    if (
        set(trigger) != {"active", "quiet_s"}
        or type(trigger["active"]) is not bool
        or not trigger["quiet_s"] > 0
    ):
        raise ValueError(f"new_files {trigger}, expected the form {{active: true, quiet_s: 60}}")
    return name, float(trigger["quiet_s"]) if trigger["active"] else None


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except VideomarError as error:
        sys.exit(f"flows: {error}")
