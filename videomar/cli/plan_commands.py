"""Verb `plan`: what the next run would cost."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

PARAMS = Path("params.yaml")
app = typer.Typer()


@app.command()
def plan(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """What the next run would cost by stage, before spending: counted, and timed by a minute's probe here."""
    from videomar.config import load_own_params
    from videomar.ops.plan import Places
    from videomar.ops.plan import plan as estimate

    found = estimate(load_own_params(PARAMS), Places())
    if as_json:
        stages = {cost.stage: {k: v for k, v in asdict(cost).items() if k != "stage"} for cost in found.costs}
        typer.echo(json.dumps({"stages": stages, "assumptions": found.assumptions}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", title="the next run")
    for name in ("clips", "tokens", "latents", "peak memory", "hours"):
        table.add_column(name, justify="right")
    for cost in found.costs:
        table.add_row(
            cost.stage,
            "-" if cost.clips is None else f"{cost.clips:,}",
            "-" if cost.tokens is None else f"{cost.tokens:,}",
            "-" if cost.bytes is None else f"{cost.bytes / 1e6:,.1f} MB",
            "-" if cost.peak_memory_gb is None else f"{cost.peak_memory_gb:.1f} GB",
            "-" if cost.hours is None else f"{cost.hours:.3g}",
        )
    console = Console()
    console.print(table)
    for line in found.assumptions:
        console.print(f"- {line}", markup=False, highlight=False)
