"""What the commands share: panels and examples of the help, options, the working folder, and printing."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import typer

from videomar.config.layout import Layout
from videomar.errors import DataError

HERE = Layout()
PIPELINE, MODELS, REGISTRY, SERVICES, UPKEEP = "Pipeline", "Models", "Registry", "Services", "Upkeep"
_REGISTERED = ("champion", "challenger")


def complete_with(*names: str) -> Callable[[str], list[str]]:
    """Return what a shell's completion asks for: those of the names that begin as the word does."""

    def matching(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return matching


def complete_preset(incomplete: str) -> list[str]:
    """Names of the presets that begin as the word does."""
    from videomar.cli.project import presets

    return complete_with(*sorted(path.stem for path in presets().glob("*.yaml")))(incomplete)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelName = Annotated[
    str,
    typer.Argument(
        help="`champion`, `challenger` or a version number.", autocompletion=complete_with(*_REGISTERED)
    ),
]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="`champion`, `challenger`, `shipped`, a version number, a model folder, or OWNER/NAME.",
        autocompletion=complete_with(*_REGISTERED, "shipped"),
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="`champion`, `challenger`, `shipped`, a version number, a model folder, or OWNER/NAME on a hub.",
        autocompletion=complete_with(*_REGISTERED, "shipped"),
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto = a GPU if this machine has one.")
]


def examples(*commands: str) -> str:
    """Return the end of a command's help: lines to copy, each a whole command."""
    return "\n".join([f"Example{'s' if len(commands) > 1 else ''}:", "", "```sh", *commands, "```"])


def require_pipeline() -> None:
    """Refuse a working folder that is no pipeline's.

    Raises:
        DataError: it holds no dvc.yaml.
    """
    if not HERE.pipeline.is_file():
        rule = "the folder of a pipeline; change to one, or make one with `videomar init FOLDER`"
        raise DataError(f"{HERE.pipeline}: no such file, expected {rule}")


def print_lines(lines: Iterable[object]) -> None:
    """Print one line for each item."""
    for line in lines:
        typer.echo(str(line))


def print_json(content: object) -> None:
    """Print JSON on one line."""
    typer.echo(json.dumps(content))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, numbers: bool = False
) -> None:
    """Print a table as wide as the terminal allows.

    Args:
        columns: Headings.
        rows: Cells of each row.
        title: Line above the table.
        numbers: Align all columns but the first to the right.
    """
    from rich.console import Console  # here: a third of the time that `videomar --help` takes
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for number, name in enumerate(columns):
        # Names are shown whole, on several lines if need be: they are what a reader looks for.
        table.add_column(name, justify="right" if numbers and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console().print(table)
