"""Commands for the services, `up` and `down`; and `status`, which shows them beside the pipeline's state."""

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from videomar.cli.console import (
    HERE,
    PIPELINE,
    SERVICES,
    AsJson,
    examples,
    print_json,
    print_lines,
    require_pipeline,
)
from videomar.environment import read_services
from videomar.errors import BIN

app = typer.Typer()
_LONGEST = 300


@app.command(rich_help_panel=SERVICES, epilog=examples("videomar up", "videomar up --ray"))
def up(
    ray: Annotated[bool, typer.Option("--ray", help="With a Ray head that the stages use.")] = False,
) -> None:
    """Start MLflow, Prefect and the scheduled flows in the background.

    Prints their addresses once they answer. What runs already is not started again.
    """
    require_pipeline()
    from videomar.services.__main__ import up as start

    if ray:
        os.environ["VIDEOMAR_RAY"] = "1"
    start()


@app.command(rich_help_panel=SERVICES, epilog=examples("videomar down"))
def down() -> None:
    """Stop the services that `videomar up` started in this folder, and no others."""
    from videomar.services.__main__ import down as stop

    stop()


@app.command(rich_help_panel=PIPELINE, epilog=examples("videomar status", "videomar status --json"))
def status(as_json: AsJson = False) -> None:
    """Show services, what has changed since the last run, champion and report.

    Only looks; whether all records agree is checked by `videomar doctor`.
    """
    require_pipeline()
    state = _state()
    if as_json:
        print_json(state)
    else:
        print_lines(_lines(state))


def _state() -> dict[str, Any]:
    """What `status --json` prints; None stands for what there is not, or what could not be read."""
    import yaml

    from videomar.ops.check_machine import service_findings
    from videomar.ops.check_pipeline import pipeline_status
    from videomar.ops.check_registry import store_findings

    state: dict[str, Any] = {
        "services": {
            name: {"address": service["address"], "ready": service["ready"]}
            for name, service in read_services().get("services", {}).items()
        },
        "has_run": HERE.lock.is_file(),
        **dict.fromkeys(("changed", "released", "champion", "challenger")),
        "report": str(HERE.report) if HERE.report.is_file() else None,
    }
    findings, unread = service_findings(), store_findings()
    if state["has_run"]:  # before the first run there is no store
        findings += unread
    state["problems"] = [f"{finding.where}: {finding.what}; fix: {finding.fix}" for finding in findings]
    if state["has_run"]:
        with _noted_in(state["problems"]):
            changed = pipeline_status()
            stages = yaml.safe_load(HERE.pipeline.read_text(encoding="utf-8"))["stages"]
            state["changed"] = [name for name in stages if name in changed]
    if not unread:
        with _noted_in(state["problems"]):
            state |= _registered()
    return state


def _registered() -> dict[str, str | None]:
    """Numbers of the champion, the newest candidate and the version of the last run; changes nothing."""
    from videomar.registry.champion_history import read_history
    from videomar.registry.versions import challenger, find_released
    from videomar.tracking.mlflow_store import open_client

    newest, released = challenger(), find_released(HERE.lock) if HERE.lock.is_file() else None
    return {
        "champion": read_history(open_client()).alias,
        "challenger": None if newest is None else newest.number,
        "released": None if released is None else released.number,
    }


@contextlib.contextmanager
def _noted_in(problems: list[str]) -> Iterator[None]:
    """Note an error as a problem, so that the rest is shown."""
    try:
        yield
    except Exception as error:  # MLflow, its database and DVC raise more than they document
        problems.append(" ".join(str(error).split())[:_LONGEST] or type(error).__name__)


def _lines(state: dict[str, Any]) -> Iterator[str]:
    """The state for a reader."""
    if not state["services"]:
        yield f"services: none are up; `{BIN}videomar up` starts them"
    for name, service in state["services"].items():
        yield f"{name}: {service['address'] or 'no page'}{'' if service['ready'] else ', not ready yet'}"
    if not state["has_run"]:
        yield "pipeline: has not run yet; `make run` runs it"
    elif state["changed"]:
        yield f"pipeline: changed since the last run: {', '.join(state['changed'])}; `make run` goes on there"
    elif state["changed"] is not None:
        yield "pipeline: nothing changed since the last run"
    if state["released"] is not None:
        yield f"last run: released as version {state['released']}"
    elif state["has_run"] and not state["problems"]:
        yield f"last run: not released; `{BIN}videomar release` does it"
    for name in ("champion", "challenger"):
        yield f"{name}: {'none' if state[name] is None else f'version {state[name]}'}"
    yield f"report: {state['report'] or 'none'}"
    yield from (f"problem: {problem}" for problem in state["problems"])
