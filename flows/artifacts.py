"""What the Prefect pages show of a flow's run beside its state: tables, the gate's decision, links."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from videomar.environment import read_services
from videomar.registry.versions import Version, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client


def show_stages(
    seconds: Mapping[str, float], before: Mapping[str, object], after: Mapping[str, object]
) -> None:
    """A table of stages: how long each took, and whether its entry in dvc.lock is another now.

    Args:
        seconds: Of each stage that was started; -1 where it did not come to its end.
        before: Entries of dvc.lock before the run.
        after: The same after it.
    """
    rows = []
    for stage, taken in seconds.items():
        done = "as before" if before.get(stage) == after.get(stage) else "new results"
        ended = taken >= 0
        rows.append(
            {
                "stage": stage,
                "result": done if ended else "did not end",
                "seconds": f"{taken:.1f}" if ended else "",
            }
        )
    create_table_artifact(key="stages", table=rows, description="Stages of this run")


def show_release(number: str, decision: str, champion: str, report: Path) -> None:
    """The gate's decision, the champion, and where to read on."""
    version = version_of(number)
    lines = [f"# {version}", decision, f"**Champion:** {champion}", f"**Report:** `{report.resolve()}`"]
    lines.append(f"**MLflow:** {mlflow_link(version.run_id)}")
    create_markdown_artifact(key="release", markdown="\n\n".join(lines), description=str(version))


def show_figures(version: Version, figures: Mapping[str, float], folder: Path, unlike: Sequence[str]) -> None:
    """A table of a version's figures, where its clips lie, and what forbids a comparison with the present."""
    rows = [{"figure": name, "value": value} for name, value in figures.items()]
    kind = f"not comparable with metrics/evaluate.json: {'; '.join(unlike)}" if unlike else "comparable"
    told = f"{version}; files in {folder.resolve()}; {kind}"
    create_table_artifact(key="evaluation", table=rows, description=told)


def mlflow_link(run_id: str) -> str:
    """Address of a run in the pages of `make up`, or the run's number while they are down."""
    address = read_services().get("services", {}).get("mlflow", {}).get("address")
    if address is None:
        return f"run `{run_id}` (`make up` starts its pages)"
    return f"{address}/#/experiments/{experiment_id(open_client())}/runs/{run_id}"
