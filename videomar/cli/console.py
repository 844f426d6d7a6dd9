"""What the commands share: panels of the help, options, paths of the working folder, and printing."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import typer

from videomar.config.layout import Layout

HERE = Layout()
DATA, MODELS, REGISTRY, UPKEEP = "Data", "Models", "Registry", "Upkeep"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelName = Annotated[str, typer.Argument(help="`champion`, `challenger` or a version number.")]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="`champion`, `challenger`, a version number, a model folder, or OWNER/NAME."
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(help="`champion`, `challenger`, a version number, a model folder, or OWNER/NAME on a hub."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto = a GPU if this machine has one.")
]


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
