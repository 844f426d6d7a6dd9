"""Panels of `videomar --help`, and options that several commands have."""

from typing import Annotated

import typer

DATA, MODELS, REGISTRY, UPKEEP = "Data", "Models", "Registry", "Upkeep"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelName = Annotated[str, typer.Argument(help="`champion`, `challenger` or a version number.")]
ModelOption = Annotated[
    str,
    typer.Option(help="`champion`, `challenger`, a version number or a folder of checkpoints."),
]
