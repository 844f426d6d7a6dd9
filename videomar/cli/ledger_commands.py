"""Commands `videomar ledger ...`: which clips are kept or rejected and why, and videos not to be used."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videomar.cli.console import HERE, AsJson, examples, print_json, print_lines, print_table
from videomar.errors import BIN

if TYPE_CHECKING:
    from videomar.curation.captions.caption_report import CaptionSummary
    from videomar.curation.ledger_diff import Changes
    from videomar.curation.split_summary import SplitSummary

_EXAMPLES = 5  # of each kind of captions that are not used
_VIDEOS_SHOWN = 40

app = typer.Typer(no_args_is_help=True, help="Show which clips are kept or rejected, and why.")

LedgerPath = Annotated[Path, typer.Option(help="Ledger file.")]
TakedownsPath = Annotated[Path, typer.Option(help="List of videos that must not be used.")]


@app.command(epilog=examples("videomar ledger show", "videomar ledger show --sheet ledger.png"))
def show(
    ledger: LedgerPath = HERE.ledger,
    picture: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw clips of every verdict into this PNG file.")
    ] = None,
) -> None:
    """Show counts per verdict and split, where captions come from, what is not used, and unreadable files."""
    from videomar.report.ledger_sheet import draw_sheet, summarise_ledger

    summary = summarise_ledger(ledger)
    if picture is not None:
        draw_sheet(summary, picture)
    verdicts = [(f"kept, {verdict.name}", verdict) for verdict in summary.kept]
    verdicts += [(verdict.name, verdict) for verdict in summary.rejected]
    print_table(
        ("verdict", "clips", "share"),
        ((name, verdict.count, f"{100 * verdict.share:.1f} %") for name, verdict in verdicts),
        title=f"{summary.num_clips} clips of {summary.num_videos} videos",
    )
    print_table(("group", "split", "kept clips"), summary.splits)
    _print_videos(summary.by_video)
    if summary.stills:
        total = sum(count for _, count in summary.stills)
        parts = ", ".join(f"{count} {split}" for split, count in summary.stills)
        typer.echo(f"{total} of the kept clips are still pictures, clips of one frame: {parts}")
    if summary.unused_stills:
        more = "to train on them set ingest.still_pictures to true"
        typer.echo(f"{summary.unused_stills} files are still pictures, and not used; {more}")
    _print_captions(summary.captions)
    if summary.streams:
        title = f"{summary.num_streams} videos have several video streams; one of each is read"
        print_table(("video", "which"), summary.streams, title)
    if summary.frames:
        title = f"{summary.num_frames_changed} videos have frames that were not in their place"
        print_table(("video", "lost", "invented", "other time"), summary.frames, title)
    if summary.unreadable:
        title = f"{summary.num_unreadable} files could not be read"
        print_table(("file", "reason"), summary.unreadable, title)
    if summary.num_retryable:
        typer.echo(
            f"{summary.num_retryable} of these failed on this machine, whatever is in them; "
            f"`{BIN}dvc repro` reads them again"
        )


@app.command(epilog=examples("videomar ledger diff stricter.yaml"))
def diff(
    other: Annotated[
        Path, typer.Argument(help="Another ledger, or a params.yaml with another section `curate`.")
    ],
    ledger: LedgerPath = HERE.ledger,
    candidates: Annotated[Path, typer.Option(help="Output of stage ingest.")] = HERE.candidates,
    takedowns: TakedownsPath = HERE.takedowns,
    as_json: AsJson = False,
) -> None:
    """Show what other limits would keep and reject; nothing is decoded or written."""
    from videomar.curation.ledger import read_ledger
    from videomar.curation.ledger_diff import compare_ledgers, read_policy

    before = read_ledger(ledger, thumbnails=False)
    changes = compare_ledgers(before, read_policy(other, candidates, takedowns))
    if as_json:
        print_json(asdict(changes))
    else:
        _print_changes(changes)


@app.command(epilog=examples('videomar ledger remove data/raw/a.mp4 --reason "the owner asked"'))
def remove(
    video: Annotated[str, typer.Argument(help="A file, or its path in the ledger.")],
    reason: Annotated[str, typer.Option(help="Why; stored in takedowns.csv and in the ledger.")],
    raw: Annotated[Path, typer.Option(help="Folder of raw videos.")] = HERE.raw,
    ledger: LedgerPath = HERE.ledger,
    takedowns: TakedownsPath = HERE.takedowns,
) -> None:
    """Take a video down: later runs reject it under any name. Lists models trained on it."""
    from videomar.hub.shipped import describe_use
    from videomar.registry.takedown import digest_of, remove_video

    print_lines(remove_video(video, reason, raw, ledger, takedowns))
    print_lines(describe_use(digest_of(video, raw, ledger)))


def _print_captions(captions: "CaptionSummary") -> None:
    """Say where the words of kept clips come from, and what of the caption files is not used."""
    rows = [*captions.sources, *([("no words", captions.num_without)] if captions.num_without else [])]
    if rows:
        print_table(("captions", "kept clips"), rows)
    if captions.unused:
        shown = ((kind.number, kind.what, "\n".join(kind.examples[:_EXAMPLES])) for kind in captions.unused)
        print_table(("number", "captions that are not used as they stand", "for example"), shown)


def _print_videos(splits: "SplitSummary") -> None:
    """Print which video is in which split, those that are judged first, and warnings."""
    judged_first = sorted(
        splits.videos, key=lambda each: (each.group, not each.seconds[2], not each.seconds[1])
    )
    shown = judged_first[:_VIDEOS_SHOWN]
    rest = len(splits.videos) - len(shown)
    train_s, val_s, test_s = splits.seconds
    title = f"seconds of film: {train_s:.0f} train, {val_s:.0f} val, {test_s:.0f} test"
    title += f" ({splits.test_shots} shots of {splits.test_videos} videos)"
    print_table(
        ("video", "split", "seconds", "clips"),
        (
            (each.video, each.split, ", ".join(f"{value:.1f}" for value in each.seconds if value), each.clips)
            for each in shown
        ),
        title=title,
    )
    if rest:
        typer.echo(f"{rest} more videos are listed in the report")
    for line in splits.warnings:
        typer.echo(f"WARNING: {line}")


def _print_changes(changes: "Changes") -> None:
    parts = {
        "newly kept, was": changes.newly_kept,
        "newly rejected": changes.newly_rejected,
        "other reason": changes.other_reason,
        "split moved": changes.split_moves,
        "appeared": {"": changes.appeared},
        "disappeared": {"": changes.disappeared},
    }
    rows = [
        (change, detail, count)
        for change, counts in parts.items()
        for detail, count in counts.items()
        if count
    ]
    if rows:
        title = f"{changes.kept_before} kept -> {changes.kept_after} kept"
        print_table(("change", "detail", "clips"), rows, title)
    else:
        typer.echo("no clip changes")
