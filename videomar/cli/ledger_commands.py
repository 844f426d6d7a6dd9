"""Commands `videomar ledger ...`: which clips are kept or rejected and why, and videos not to be used."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videomar.cli.options import AsJson

if TYPE_CHECKING:
    from videomar.curation.ledger_diff import Changes

app = typer.Typer(no_args_is_help=True, help="Show which clips are kept or rejected, and why.")

LedgerPath = Annotated[Path, typer.Option(help="Ledger file.")]
TakedownsPath = Annotated[Path, typer.Option(help="List of videos that must not be used.")]
_LEDGER = Path("data/ledger.parquet")
_TAKEDOWNS = Path("takedowns.csv")


@app.command()
def show(
    ledger: LedgerPath = _LEDGER,
    picture: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw clips of every verdict into this PNG file.")
    ] = None,
) -> None:
    """Show counts per verdict and split, and unreadable files."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from videomar.report.ledger_sheet import summarise_ledger

    summary = summarise_ledger(ledger)
    verdicts = Table(
        "verdict", "clips", "share", title=f"{summary.num_clips} clips of {summary.num_videos} videos"
    )
    kept = [(f"kept, {verdict.name}", verdict) for verdict in summary.kept]
    rejected = [(verdict.name, verdict) for verdict in summary.rejected]
    for name, verdict in kept + rejected:
        verdicts.add_row(escape(name), str(verdict.count), f"{100 * verdict.share:.1f} %")
    splits = Table("group", "split", "kept clips")
    for group, split, count in summary.splits:
        splits.add_row(escape(group), escape(split), str(count))
    if picture is not None:
        from videomar.report.ledger_sheet import draw_sheet

        draw_sheet(summary, picture)
    console = Console()
    console.print(verdicts, splits)
    if summary.unreadable:
        files = Table("file", "reason", title=f"{summary.num_unreadable} files could not be read")
        for video, reason in summary.unreadable:
            files.add_row(escape(video), escape(str(reason)))
        console.print(files)


@app.command()
def diff(
    other: Annotated[
        Path, typer.Argument(help="Another ledger, or a params.yaml with another section `curate`.")
    ],
    ledger: LedgerPath = _LEDGER,
    candidates: Annotated[Path, typer.Option(help="Output of stage ingest.")] = Path(
        "data/candidates.parquet"
    ),
    takedowns: TakedownsPath = _TAKEDOWNS,
    as_json: AsJson = False,
) -> None:
    """Show what other limits would keep and reject; nothing is decoded or written."""
    from dataclasses import asdict

    from videomar.curation.ledger import read_ledger
    from videomar.curation.ledger_diff import compare_ledgers, read_policy

    before = read_ledger(ledger, thumbnails=False)
    changes = compare_ledgers(before, read_policy(other, candidates, takedowns))
    if as_json:
        typer.echo(json.dumps(asdict(changes)))
    else:
        _print_changes(changes)


@app.command()
def remove(
    video: Annotated[str, typer.Argument(help="A file, or its path in the ledger.")],
    reason: Annotated[str, typer.Option(help="Why; stored in takedowns.csv and in the ledger.")],
    raw: Annotated[Path, typer.Option(help="Folder of raw videos.")] = Path("data/raw"),
    ledger: LedgerPath = _LEDGER,
    takedowns: TakedownsPath = _TAKEDOWNS,
) -> None:
    """Take a video down: later runs reject it under any name. Lists models trained on it."""
    from videomar.registry.takedown import remove_video

    for line in remove_video(video, reason, raw, ledger, takedowns):
        typer.echo(line)


def _print_changes(changes: "Changes") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "change", "detail", "clips", title=f"{changes.kept_before} kept -> {changes.kept_after} kept"
    )
    parts = {
        "newly kept, was": changes.newly_kept,
        "newly rejected": changes.newly_rejected,
        "other reason": changes.other_reason,
        "split moved": changes.split_moves,
    }
    for change, counts in parts.items():
        for detail, count in counts.items():
            table.add_row(change, escape(detail), str(count))
    for change, count in (("appeared", changes.appeared), ("disappeared", changes.disappeared)):
        if count:
            table.add_row(change, "", str(count))
    Console().print(table if table.row_count else "no clip changes")
