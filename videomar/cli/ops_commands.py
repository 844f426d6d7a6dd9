"""Commands for upkeep: `doctor`, `migrate`, `upload`, `gc`, `backup`, `restore`, `bom`; and `plan`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videomar.cli.console import (
    HERE,
    PIPELINE,
    UPKEEP,
    AsJson,
    complete_preset,
    examples,
    print_json,
    print_lines,
    print_table,
)
from videomar.errors import VideomarError

if TYPE_CHECKING:
    from videomar.config import Params

app = typer.Typer()


@app.command(
    rich_help_panel=PIPELINE, epilog=examples("videomar plan", "videomar plan --gpu h100:8 --preset paper")
)
def plan(
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:COUNT", help="Plan by formulas for GPUs that are not here, such as `h100:8`."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Plan with a preset: `small`, `medium` or `paper`.", autocompletion=complete_preset
        ),
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Plan for so many clips.")] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what the next run costs, stage by stage.

    Sizes are counted; times come from a probe of about a minute on this machine. With `--gpu` nothing is
    measured: times come from published rates, and memory from formulas.
    """
    from videomar.ops.planning.gpus import parse_fleet
    from videomar.ops.planning.plan import Question
    from videomar.ops.planning.plan import plan as estimate

    fleet = None if gpu is None else parse_fleet(gpu)
    found = estimate(_planned_params(preset), HERE, Question(fleet, clips, preset is None))
    if as_json:
        stages = {cost.stage: {k: v for k, v in asdict(cost).items() if k != "stage"} for cost in found.costs}
        print_json({"stages": stages, **{k: v for k, v in asdict(found).items() if k != "costs"}})
        return
    rows = (
        (
            cost.stage.replace("curriculum ", ""),
            _short(cost.clips),
            _short(cost.tokens),
            "-" if cost.bytes is None else f"{cost.bytes / 1e9:.3g} GB",
            "-" if cost.peak_memory_gb is None else f"{cost.peak_memory_gb:.1f} GB",
            "-" if cost.step_s is None else f"{cost.step_s:.3g}",
            "-" if cost.hours is None else f"{cost.hours:.3g}",
        )
        for cost in found.costs
    )
    columns = ("stage", "clips", "tokens", "stored", "memory", "s/step", "hours")
    where = "this machine" if fleet is None else f"{fleet}, memory of one GPU"
    print_table(columns, rows, title=f"the next run on {where}", numbers=True)
    print_lines(found.advice)
    print_lines(f"- {line}" for line in found.assumptions)


def _short(number: int | None) -> str:
    """A count in at most seven characters."""
    if number is None:
        return "-"
    if number < 100_000:
        return f"{number:,}"
    return f"{number / 1e6:.3g} M" if number < 1e9 else f"{number / 1e9:.4g} G"


def _planned_params(preset: str | None) -> "Params":
    """Parameters of this folder; with a preset's values, of the shipped file where there is none."""
    from videomar.cli.project import presets, template
    from videomar.config import load_own_params
    from videomar.config.edit import read_preset, with_changes

    if preset is None:
        return load_own_params(HERE.params)
    values = read_preset(presets(), preset)
    return with_changes(HERE.params if HERE.params.is_file() else template() / "params.yaml", values)


@app.command(
    rich_help_panel=UPKEEP,
    epilog=examples("videomar doctor", "videomar doctor --json", "videomar doctor --fix"),
)
def doctor(
    as_json: AsJson = False,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Take in artifacts that MLflow's store names outside of this checkout, upgrade tables of an "
            "older MLflow, then check. A copy of the store is kept.",
        ),
    ] = False,
) -> None:
    """Check that results, files, MLflow and services agree.

    Prints each mismatch with the command that fixes it; exit 1 if any. Without `--fix` nothing is changed.
    """
    from videomar.ops.doctor import examine

    if fix:
        from videomar.ops.store_repair import repair

        fixed = repair()
        if not as_json:
            print_lines(fixed or ["nothing to fix in MLflow's store"])
    health = examine(HERE)
    if as_json:
        found = [finding.to_dict() for finding in health.findings]
        print_json({"ok": not found, "findings": found, "notes": list(health.notes)})
    else:
        print_lines(health.findings)
        print_lines(f"note: {note}" for note in health.notes)
        if not health.findings:
            typer.echo("all is well: dvc.lock, files, MLflow, alias and services agree")
    if health.findings:
        raise typer.Exit(1)


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar migrate"))
def migrate(
    file: Annotated[Path, typer.Argument(help="Parameter file or preset.")] = HERE.params,
) -> None:
    """Move keys of an older params.yaml to their present places.

    Comments stay.
    """
    from videomar.config.migration import migrate as move_keys

    lines = move_keys(file)
    print_lines(lines)
    if not lines:
        typer.echo(f"{file}: nothing to do, every key is in its place")


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar upload"))
def upload(
    folder: Annotated[Path, typer.Argument(help="Folder of training runs.")] = HERE.checkpoints,
) -> None:
    """Send to MLflow what runs recorded while it was unavailable."""
    from videomar.tracking.mlflow_store import tracking_uri
    from videomar.tracking.runs import upload_pending

    if not upload_pending(folder):
        rule = "an answer; start the server and run this again, nothing is lost"
        raise VideomarError(f"MLFLOW_TRACKING_URI: got none from {tracking_uri()}, expected {rule}")
    typer.echo(f"{folder}: MLflow at {tracking_uri()} has all of the runs")


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar gc", "videomar gc --days 7 --yes"))
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
    days: Annotated[
        float, typer.Option(min=0, help="Keep what was used, or deleted in MLflow, within so many days.")
    ] = 30,
) -> None:
    """List or delete files that nothing needs any more.

    Kept is what an alias, a version, a git branch or tag, or the working tree needs.
    """
    from videomar.ops.gc import find_files, find_objects, known_versions, remove_all
    from videomar.ops.unused_runs import find_registrations, find_runs

    versions = known_versions()
    garbage, notes = find_registrations(days, versions)
    for found, more in (find_files(days, versions), find_runs(days, versions), find_objects(versions)):
        garbage += found
        notes += more
    print_lines(f"{item.bytes / 1e6:10.2f} MB  {item.what}  ({item.why})" for item in garbage)
    print_lines(f"note: {note}" for note in notes)
    if not garbage:
        typer.echo("nothing to remove")
    elif yes:
        typer.echo(f"{remove_all(garbage) / 1e6:.2f} MB removed")
    else:
        total = sum(item.bytes for item in garbage)
        typer.echo(f"{total / 1e6:.2f} MB could be removed; `videomar gc --yes` does it")


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar backup ../monday.tar"))
def backup(file: Annotated[Path, typer.Argument(help="Tar file to write.")]) -> None:
    """Write registry, runs and artifacts to one file.

    MLflow may be in use meanwhile.
    """
    from videomar.ops.backup import back_up

    print_lines(back_up(file))


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar restore ../monday.tar"))
def restore(
    file: Annotated[Path, typer.Argument(help="File that `videomar backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing registry.")] = False,
) -> None:
    """Restore registry, runs and artifacts from a backup."""
    from videomar.ops.backup import restore as put_back

    print_lines(put_back(file, force))


@app.command(rich_help_panel=UPKEEP, epilog=examples("videomar bom", "videomar bom --audit ../osv"))
def bom(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("docs/BOM.json"),
    advisories: Annotated[
        Path | None, typer.Option("--audit", help="Folder of OSV records to check the pins against.")
    ] = None,
) -> None:
    """Write the bill of materials: pinned packages and licences.

    Format: CycloneDX.
    """
    from videomar.ops.sbom import audit, read_pins, write_bill

    count, unknown = write_bill(HERE.pins, out)
    typer.echo(f"{out}: {count} packages")
    if unknown:
        typer.echo(f"without a stated licence: {', '.join(unknown)}")
    if advisories is not None:
        count, found = audit(advisories, read_pins(HERE.pins))
        for name, version, advisory, fixed_in in found:
            typer.echo(f"{name} {version}: {advisory}, fixed in {' or '.join(fixed_in) or 'no version yet'}")
        if found:
            raise typer.Exit(1)
        typer.echo(f"{count} advisories read, none is about a pinned version")
