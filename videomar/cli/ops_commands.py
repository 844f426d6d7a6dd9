"""Verbs that keep a checkout well: `doctor`, `migrate`, `gc`, `backup`, `restore`, `bom`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
_LOCK = Path("requirements.lock")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Whether dvc.lock, files, MLflow, the alias and services agree; each mismatch with what mends it."""
    from videomar.ops.doctor import examine
    from videomar.registry.trace import Places

    health = examine(Places())
    if as_json:
        found = [asdict(finding) for finding in health.findings]
        typer.echo(json.dumps({"ok": not found, "findings": found, "notes": list(health.notes)}))
    else:
        for finding in health.findings:
            typer.echo(str(finding))
        for note in health.notes:
            typer.echo(f"note: {note}")
        if not health.findings:
            typer.echo("all is well: dvc.lock, files, MLflow, alias and services agree")
    if health.findings:
        raise typer.Exit(1)


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(help="Of parameters, or a preset.")] = Path("params.yaml"),
) -> None:
    """Move keys of params.yaml that an earlier version had elsewhere to their places; comments stay."""
    from videomar.config.migration import migrate as move_keys

    lines = move_keys(file)
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo(f"{file}: nothing to do, every key is in its place")


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only shown.")] = False,
    days: Annotated[
        float, typer.Option(min=0, help="What was touched, or deleted in MLflow, since then stays.")
    ] = 30,
) -> None:
    """Show, or remove, what neither an alias, a version, a git branch or tag, nor the working tree needs."""
    from videomar.ops.gc import find_files, known_versions, remove_all
    from videomar.ops.gc_stores import find_objects, find_runs

    versions = known_versions()
    garbage, notes = [], []
    for found, told in (
        find_files(days, versions),
        find_runs(days, versions),
        find_objects(versions),
    ):
        garbage += found
        notes += told
    for item in garbage:
        typer.echo(f"{item.bytes / 1e6:10.2f} MB  {item.what}  ({item.why})")
    for note in notes:
        typer.echo(f"note: {note}")
    total = sum(item.bytes for item in garbage)
    if not garbage:
        typer.echo("nothing to remove")
    elif yes:
        typer.echo(f"{remove_all(garbage) / 1e6:.2f} MB removed")
    else:
        typer.echo(f"{total / 1e6:.2f} MB could be removed; `videomar gc --yes` does it")


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="The tar file to write.")]) -> None:
    """Write registry, runs and artifacts to one file; MLflow may be in use meanwhile."""
    from videomar.ops.backup import back_up

    for line in back_up(file):
        typer.echo(line)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `videomar backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a registry that is there.")] = False,
) -> None:
    """Put registry, runs and artifacts of a backup in place."""
    from videomar.ops.backup import restore as put_back

    for line in put_back(file, force):
        typer.echo(line)


@app.command()
def bom(
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("docs/BOM.json"),
    advisories: Annotated[
        Path | None, typer.Option("--audit", help="Folder of OSV records to look the pins up in.")
    ] = None,
) -> None:
    """Write the bill of materials: every pinned package with its version and licence (CycloneDX)."""
    from videomar.ops.advisories import audit
    from videomar.ops.materials import read_pins, write_bill

    count, unknown = write_bill(_LOCK, out)
    typer.echo(f"{out}: {count} packages")
    if unknown:
        typer.echo(f"without a stated licence: {', '.join(unknown)}")
    if advisories is not None:
        count, found = audit(advisories, read_pins(_LOCK))
        for name, version, advisory, mended_in in found:
            typer.echo(
                f"{name} {version}: {advisory}, mended in {' or '.join(mended_in) or 'no version yet'}"
            )
        if found:
            raise typer.Exit(1)
        typer.echo(f"{count} advisories read, none is about a pinned version")
