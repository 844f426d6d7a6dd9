"""What prefect.yaml says is served: deployments, their schedules, and which of them start on new files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Schedule

from videomar.errors import VideomarError

_Made = TypeVar("_Made")


def deployments(file: Path) -> list[RunnerDeployment]:
    """The deployments that a prefect.yaml describes, in Prefect's own words."""
    return _each(file, _deployment)


def quiet_times(file: Path) -> dict[str, float]:
    """Deployments that start on new files, `flow/name`: how long those must not have changed before, s."""
    return {name: quiet_s for name, quiet_s in _each(file, _quiet_time) if quiet_s is not None}


def _each(file: Path, made_of: Callable[[dict[str, Any]], _Made]) -> list[_Made]:
    try:
        return [made_of(entry) for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]]
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise VideomarError(f"{file}: got {line}, expected deployments of flows; mend it") from error


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    known = {key: entry[key] for key in ("name", "entrypoint", "description", "parameters") if key in entry}
    schedules = [Schedule(**schedule) for schedule in entry.get("schedules", [])]
    return RunnerDeployment.from_entrypoint(**known, schedules=schedules)


def _quiet_time(entry: dict[str, Any]) -> tuple[str, float | None]:
    """Name of a deployment and its quiet time; None where new files do not start it."""
    name = f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}"
    if (wish := entry.get("new_files")) is None:
        return name, None
    if set(wish) != {"active", "quiet_s"} or type(wish["active"]) is not bool or not wish["quiet_s"] > 0:
        raise ValueError(f"new_files {wish}, whose form is {{active: true, quiet_s: 60}}")
    return name, float(wish["quiet_s"]) if wish["active"] else None
