"""The `videomar` command: each verb reads the command line and calls the library, which it imports late."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videomar.errors import DataError, VideomarError

if TYPE_CHECKING:
    from videomar.config import Params

PARAMS = Path("params.yaml")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a folder of clips to a model: curation, promotion, generation.",
)
ledger_app = typer.Typer(no_args_is_help=True, help="What was kept, what was rejected, and why.")
app.add_typer(ledger_app, name="ledger")


@app.command("use-clips")
def use_clips(
    folder: Annotated[Path, typer.Argument(help="Folder of videos; `samples` goes back to ours.")],
) -> None:
    """Let the pipeline start from a folder of videos: writes samples.source in params.yaml."""
    from ruamel.yaml import YAML

    from videomar.config import load_params

    load_params(PARAMS)  # refuses a missing or damaged file in words
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one that holds videos; check the path")
    if not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        raise DataError(f"{folder}: got an empty folder, expected at least one video; put your clips there")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(PARAMS.read_text())
    content["samples"]["source"] = _portable(folder)
    temporary = PARAMS.with_name(f".{PARAMS.name}.new")
    with temporary.open("w") as file:
        yaml.dump(content, file)
    temporary.replace(PARAMS)
    print(f"params.yaml: samples.source is now {content['samples']['source']}; `dvc repro` starts from there")


@ledger_app.command("show")
def ledger_show(
    ledger: Annotated[Path, typer.Option(help="The ledger.")] = Path("data/ledger.parquet"),
) -> None:
    """Counts per verdict and split, and the files that could not be read."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from videomar.evaluation.contents import read_contents

    contents = read_contents(ledger)
    verdicts = Table(
        "verdict", "clips", "share", title=f"{contents.num_clips} clips of {contents.num_videos} videos"
    )
    kept = [(f"kept, {sheet.verdict}", sheet) for sheet in contents.kept]
    rejected = [(sheet.verdict, sheet) for sheet in contents.rejected]
    for verdict, sheet in kept + rejected:
        verdicts.add_row(escape(verdict), str(sheet.count), f"{100 * sheet.share:.1f} %")
    splits = Table("group", "split", "kept clips")
    for group, split, count in contents.splits:
        splits.add_row(escape(group), escape(split), str(count))
    console = Console()
    console.print(verdicts, splits)
    if contents.unreadable:
        files = Table("file", "reason", title=f"{contents.num_unreadable} files could not be read")
        for video, reason in contents.unreadable:
            files.add_row(escape(video), escape(str(reason)))
        console.print(files)


@app.command()
def promote(
    version: Annotated[
        str, typer.Argument(help="A version's number; the newest candidate if left out.")
    ] = "",
    force: Annotated[bool, typer.Option(help="Promote although the gate refuses.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the version for ever.")] = "",
) -> None:
    """Run the gate on a registered version and move the alias `champion` if it allows."""
    from videomar.promotion import promote_version

    if force != bool(reason):
        raise typer.BadParameter("--force and --reason go together")
    for line in promote_version(version, reason, PARAMS):
        print(line)


@app.command()
def generate(
    image: Annotated[Path, typer.Argument(help="The first picture.")],
    prompt: Annotated[str, typer.Option(help="What shall happen.")],
    out: Annotated[Path, typer.Option(help="The video to write, .mp4.")],
    model: Annotated[str, typer.Option(help="`champion`, or a folder of checkpoints.")] = "champion",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal clips.")] = 0,
) -> None:
    """Animate one picture as the prompt says."""
    from videomar.data.mp4 import write_mp4
    from videomar.data.pictures import read_picture
    from videomar.sampling.clips import animate

    picture = read_picture(image)
    checkpoint, tokenizer, params = _model_files(model)
    frames = animate(checkpoint, tokenizer, picture, prompt, params, seed)
    write_mp4(out, frames, params.ingest.fps)
    print(out)


def main() -> None:
    """Entry point: a problem that the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except (VideomarError, OSError) as error:
        print(f"videomar: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _portable(folder: Path) -> str:
    """Relative below the working folder, so that it means the same in every clone; else absolute."""
    absolute = folder.resolve()
    here = Path.cwd().resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _model_files(model: str) -> tuple[Path, Path, "Params"]:
    """Checkpoint, tokenizer and parameters of the champion, or of a folder of checkpoints made here."""
    from videomar.config import load_params
    from videomar.tracking.registry import champion, download_model

    if model != "champion":
        return Path(model), Path("checkpoints/tokenizer"), load_params(PARAMS)
    best = champion()
    if best is None:
        raise VideomarError("model: got champion, but there is none yet; run `make run`, or give a folder")
    files = download_model(best)
    return files / "checkpoint", files / "tokenizer", load_params(files / "params.yaml")


if __name__ == "__main__":
    main()
