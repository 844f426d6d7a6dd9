"""Serve the deployments of prefect.yaml: `make up` runs this beside Prefect's server."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectException
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.states import Cancelled, Scheduled
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.automations import apply_notifications
from flows.watch import judge_after_moves, start_after_new_files
from videomar.errors import VideomarError
from videomar.services.notifications import read_notifications

_DEPLOYMENTS = Path("prefect.yaml")
_UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
# Keys of prefect.yaml. Prefect knows more, which would be ignored here, so they are refused.
_IN_FILE = ("name", "prefect-version", "deployments", "notifications")
_PASSED_ON = ("name", "entrypoint", "description", "tags", "paused", "parameters")
_OURS = ("schedules", "new_files")
_KINDS = ("cron", "interval", "rrule")
_MISTAKES = (ImportError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError, PrefectException)
_Parsed = TypeVar("_Parsed")


async def serve(ready: Path) -> None:
    """Run what is scheduled or asked for until the process ends.

    Args:
        ready: File that is created once Prefect's server knows the deployments.
    """
    # Flows hold the lock of the checkout one at a time: of three processes, one works and two wait.
    runner = Runner(name="videomar", limit=3, pause_on_shutdown=False)
    served = deployments(_DEPLOYMENTS)
    for deployment in served:
        await runner.aadd_deployment(deployment)
    await apply_notifications(read_notifications(_DEPLOYMENTS, os.environ))
    await resume_unfinished_runs()
    watches = quiet_times(_DEPLOYMENTS).items()
    watching = [asyncio.create_task(start_after_new_files(name, quiet_s)) for name, quiet_s in watches]
    judges = [f"{known.flow_name}/{known.name}" for known in served if known.flow_name == "judge-champion"]
    watching += [asyncio.create_task(judge_after_moves(name)) for name in judges[:1]]
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
    """The deployments that a prefect.yaml describes, in Prefect's own format.

    Raises:
        VideomarError: it has a key that is not read, or parameters that the flow would refuse at night.
    """
    return _parse_each(file, _deployment)


def quiet_times(file: Path) -> dict[str, float]:
    """Deployments that new files start, by `flow/name`: seconds for which the files must not have changed."""
    return {name: quiet_s for name, quiet_s in _parse_each(file, _quiet_time) if quiet_s is not None}


def _parse_each(file: Path, parse: Callable[[dict[str, Any]], _Parsed]) -> list[_Parsed]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        _refuse_others(content, _IN_FILE, "the file")
        names = [f"{entry['entrypoint']} {entry['name']}" for entry in content["deployments"]]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two deployments {', '.join(twice)}, expected names of their own")
        return [parse(entry) for entry in content["deployments"]]
    except _MISTAKES as error:
        line = " ".join(str(error).split())
        rule = "" if ", expected " in line else ", expected deployments of flows"
        raise VideomarError(f"{file}: got {line}{rule}; fix the file") from error


def _refuse_others(mapping: dict[str, Any], known: Sequence[str], where: str) -> None:
    if others := [key for key in mapping if key not in known]:
        raise ValueError(f"{', '.join(others)} in {where}, expected only {', '.join(known)}")


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    where = f"deployment {entry['name']}"
    _refuse_others(entry, (*_PASSED_ON, *_OURS), where)
    schedules = [Schedule(**schedule) for schedule in entry.get("schedules", [])]
    if any(not any(getattr(schedule, kind) for kind in _KINDS) for schedule in schedules):
        raise ValueError(f"a schedule without a time in {where}, expected one of {', '.join(_KINDS)}")
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    # Runs that no person starts must have all parameters; for others the page asks for what is missing.
    given = entry.get("parameters", {})
    unattended = [{**given, **schedule.parameters} for schedule in schedules]
    unattended += [given] if "new_files" in entry else []
    for parameters in unattended or [given]:
        _refuse_impossible(flow, parameters, where, is_complete=bool(unattended))
    known = {key: entry[key] for key in _PASSED_ON if key in entry}
    return RunnerDeployment.from_entrypoint(**known, schedules=schedules)


def _refuse_impossible(
    flow: Flow[..., Any], parameters: dict[str, Any], where: str, *, is_complete: bool
) -> None:
    """Check parameters as Prefect's pages do before they create a run."""
    schema: Any = flow.parameters.model_dump()
    _refuse_others(parameters, list(schema["properties"]), f"parameters of {where}")
    try:
        validate(parameters, schema, raise_on_error=True, ignore_required=not is_complete)
    except ValidationError as error:
        reason = str(error).partition("Failure reason: ")[2] or str(error)
        field = str(error).partition("for field ")[2].partition(".")[0]
        name = f"{field}: " if field else ""
        raise ValueError(
            f"{name}{reason} in parameters of {where}, expected what {flow.name} takes"
        ) from None


def _quiet_time(entry: dict[str, Any]) -> tuple[str, float | None]:
    """Name and quiet time of a deployment; None if new files do not start it."""
    name = f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}"
    if (trigger := entry.get("new_files")) is None or entry.get("paused"):
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
