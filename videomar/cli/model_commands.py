"""Commands for the registry: release and report, evaluation, the champion, what a model was made from."""

import json
import os
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videomar.cli.console import (
    HERE,
    REGISTRY,
    AsJson,
    DeviceOption,
    ModelName,
    examples,
    print_json,
    print_lines,
    print_table,
    require_pipeline,
)
from videomar.config.layout import Layout
from videomar.errors import VideomarError

if TYPE_CHECKING:
    from videomar.registry.rebuild import Difference
    from videomar.registry.trace import Trace

app = typer.Typer()
_SHOWN = 20
_TRACED = (
    *("git_commit", "git_dirty", "uncommitted", "lock_sha256", "ledger_sha256", "tokenizer_sha256"),
    *("checkpoint_sha256", "weights_sha256", "training_run", "machine", "processor", "devices", "threads"),
)


@app.command(rich_help_panel=REGISTRY, epilog=examples("videomar release"))
def release() -> None:
    """Register what the pipeline made, let the gate judge it, and write the report.

    The last two lines are the report's path and the champion. A step that was done before is not repeated.
    """
    require_pipeline()
    if find_spec("prefect") is None:
        raise ModuleNotFoundError(name="prefect")
    # The flow of that name takes the place of this process: flows use the library, which knows no flow.
    os.execv(sys.executable, [sys.executable, "-m", "flows.release"])


@app.command(rich_help_panel=REGISTRY, epilog=examples("videomar report"))
def report() -> None:
    """Write the report about the last release again."""
    require_pipeline()
    from videomar.registry.release import report as write_page
    from videomar.registry.versions import find_released

    version = find_released(HERE.lock) if HERE.lock.is_file() else None
    if version is None:
        raise VideomarError(f"{HERE.lock}: got no release of it, expected one; run `videomar release`")
    typer.echo(write_page(version.number))


@app.command(
    rich_help_panel=REGISTRY,
    epilog=examples("videomar vbench --python ../vbench/bin/python --weights ../vbench-weights"),
)
def vbench(
    python: Annotated[Path, typer.Option(help="Interpreter of an environment that has `vbench`.")],
    weights: Annotated[Path, typer.Option(help="Folder of its networks' weights, VBENCH_CACHE_DIR.")],
    generated: Annotated[Path, typer.Option(help="Clips, of stage sample.")] = HERE.generated,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; default: vbench.json beside the clips.")
    ] = None,
    device: DeviceOption = "auto",
    limit_s: Annotated[float, typer.Option(min=1, help="Time limit of a dimension, in seconds.")] = 3600,
) -> None:
    """Measure VBench-I2V's own dimensions, with the public package `vbench`."""
    from videomar.evaluation.vbench.measure import main as measure

    words = [f"--python={python}", f"--weights={weights}", f"--generated={generated}"]
    words += [f"--device={device}", f"--limit-s={limit_s}"]
    measure(words if out is None else [*words, f"--out={out}"])


@app.command(
    rich_help_panel=REGISTRY,
    epilog=examples(
        "videomar trace champion", "videomar trace 3 --verify", "videomar trace --forward data/raw/a.mp4"
    ),
)
def trace(
    model: ModelName = "champion",
    as_json: AsJson = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Hash raw files, latents and checkpoint again; exit 1 if one differs."),
    ] = False,
    forward: Annotated[
        str, typer.Option(metavar="VIDEO_OR_SHA", help="List versions trained on this raw file.")
    ] = "",
) -> None:
    """Show what a model was made from, down to each raw file, also of the models that it started from.

    `shipped` is the model that comes with the package.
    """
    from videomar.hub.shipped import SHIPPED

    if model == SHIPPED and not forward:
        _trace_shipped(as_json, verify)
        return
    from videomar.registry.trace import trace as read_trace
    from videomar.registry.trace import verify as verify_trace
    from videomar.registry.versions import find_model

    if forward:
        _print_usage(forward, as_json)
        return
    traced = read_trace(find_model(model))
    found: dict[str, Any] = {}
    if verify:
        changes, notes = verify_trace(traced, HERE)
        found = {"changes": changes, "not_compared": notes}
    if as_json:
        print_json(traced.to_dict() | found)
    else:
        _print_trace(traced)
        _print_changes(found)
    if found.get("changes"):
        raise typer.Exit(1)


@app.command(rich_help_panel=REGISTRY, epilog=examples("videomar history"))
def history(as_json: AsJson = False) -> None:
    """List every change of the champion: when, by whom, why."""
    from videomar.registry.champion import alias_history

    moves = alias_history().moves
    if as_json:
        print_json([asdict(move) for move in moves])
        return
    print_lines(moves or ["no champion yet"])


@app.command(
    rich_help_panel=REGISTRY,
    epilog=examples("videomar promote 3", 'videomar promote 3 --force --reason "better on film"'),
)
def promote(
    version: Annotated[str, typer.Argument(help="Version number; default: the newest candidate.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Promote even if the gate refuses.")] = False,
    reason: Annotated[str, typer.Option(help="Why; stored with the version.")] = "",
) -> None:
    """Let the gate judge a version; if it passes, make it champion.

    If its scores cannot be compared with the champion's, as after an upgrade, the champion is first evaluated
    again with the present code on the present clips.
    """
    from videomar.registry.release import promote_version

    if force != bool(reason.strip()):
        raise typer.BadParameter("--force and --reason go together")
    print_lines(promote_version(version, reason.strip(), HERE.params))


@app.command(
    rich_help_panel=REGISTRY, epilog=examples('videomar register ../finished --reason "from the lab"')
)
def register(
    folder: Annotated[Path, typer.Argument(help="Model folder, of `videomar export` or `videomar import`.")],
    reason: Annotated[str, typer.Option(help="Why; stored with the version.")] = "",
) -> None:
    """Make a model folder a version of the registry; no alias moves."""
    from videomar.hub.register import register_folder

    print_lines(register_folder(folder, reason.strip()))


@app.command(
    rich_help_panel=REGISTRY, epilog=examples("videomar evaluate champion", "videomar evaluate 3 --json")
)
def evaluate(model: ModelName = "champion", as_json: AsJson = False) -> None:
    """Judge a version again, with the present code on the present held-out clips.

    The scores become part of its evidence, and the gate can compare them.
    """
    from videomar.registry.evaluate_again import evaluate_again, save_scores
    from videomar.registry.versions import find_model

    version = find_model(model)
    folder = evaluate_again(version)
    key = save_scores(version, folder)
    figures = json.loads((Layout(folder).metrics / "evaluate.json").read_text("utf-8"))
    if as_json:
        print_json({"version": version.number, "scores": key, "folder": str(folder), **figures})
        return
    typer.echo(f"{version}: evaluated; scores {key}, clips in {folder}")
    print_lines(f"  {name}: {value:g}" for name, value in sorted(figures.items()) if name.endswith("_db"))


@app.command(rich_help_panel=REGISTRY, epilog=examples('videomar rollback --reason "worse on film"'))
def rollback(
    reason: Annotated[str, typer.Option(help="Why; stored in the history.")] = "",
) -> None:
    """Make the previous champion the champion again."""
    from videomar.registry.champion import roll_back

    print_lines(roll_back(reason.strip()))


@app.command(rich_help_panel=REGISTRY, epilog=examples("videomar rebuild champion --into ../again"))
def rebuild(
    model: ModelName,
    into: Annotated[Path, typer.Option(help="New folder for the clone.")],
) -> None:
    """Make a model again from the same raw files and compare.

    Runs in a clean clone; exit 1 if the model differs. On the same kind of processor with the same threads
    every bit is compared. Elsewhere bits differ, and metrics are compared within tolerances.
    """
    from videomar.registry.rebuild import rebuild as make_again
    from videomar.registry.trace import trace as read_trace
    from videomar.registry.versions import find_model

    traced = read_trace(find_model(model))
    found = make_again(traced, into, HERE.raw)
    how = "bit by bit" if found.by_bits else "within tolerances"
    typer.echo(f"{traced.version}: rebuilt in {into}; compared {how}: {found.because}")
    if found.differences:
        _print_differences(found.differences)
        raise typer.Exit(1)
    equal = "same latents, same weights, same metrics"
    typer.echo(equal if found.by_bits else "same clips, same files, metrics within their tolerances")


def _trace_shipped(as_json: bool, verify: bool) -> None:
    """Print the origin of the model that comes with the package, and what differs from its checksums."""
    from videomar.hub.shipped import damaged_files, describe_origin, read_origin

    origin, damaged = read_origin(), damaged_files() if verify else []
    if as_json:
        print_json(origin | ({"changes": damaged} if verify else {}))
    else:
        print_lines(describe_origin(origin))
    if damaged:
        print_lines(damaged)
        raise typer.Exit(1)
    if verify and not as_json:
        typer.echo("verified: every file of the shipped model is as it was recorded")


def _print_usage(video: str, as_json: bool) -> None:
    from videomar.hub.shipped import describe_use, saw_raw_file
    from videomar.registry.takedown import describe_usage, digest_of, find_usage

    digest = digest_of(video, HERE.raw, HERE.ledger)
    if as_json:
        usage = [
            {"version": found.version.number, "clips": found.clips, "trained": found.trained}
            for found in find_usage(digest)
        ]
        shipped = {"trained": saw_raw_file(digest)}
        print_json({"video_sha256": digest, "versions": usage, "shipped": shipped})
        return
    typer.echo(f"sha256 {digest}")
    print_lines([*describe_usage(digest), *describe_use(digest)])


def _print_trace(traced: "Trace") -> None:
    details = traced.to_dict()
    aliases = f" ({', '.join(traced.aliases)})" if traced.aliases else ""
    typer.echo(f"{traced.version}{aliases}, run {traced.version.run_id}")
    print_lines(f"  {name}: {details[name] or '-'}" for name in _TRACED)
    if origin := details["origin"]:
        of = origin["imported"]
        imported = f", imported from {of['file']}, sha256 {of['sha256']}" if of else ""
        why = f" ({origin['reason']})" if origin["reason"] else ""
        typer.echo(f"  registered from the folder {origin['folder']}{imported}{why}")
        typer.echo("  what it was trained on is not recorded")
    for path, md5 in details["outputs_md5"].items():
        if path.startswith(("data/", "checkpoints/")):
            typer.echo(f"  {path}: md5 {md5}")
    for section, values in traced.params.items():
        typer.echo(f"  params.{section}: {json.dumps(values)}")
    if not details["origin"]:
        typer.echo(f"  latents: {details['num_latents']} (each with its clip and video: --json)")
        _print_raw(details["raw"], set(details["saw"]))
    for parent in details["parents"]:
        typer.echo(f"started from weights of {parent['model']}, run {parent['run_id'] or '-'}")
        typer.echo(f"  weights_sha256: {parent['weights_sha256']}")
        if parent["clips_known"]:
            _print_raw(parent["raw"], set(parent["saw"]))
        else:
            typer.echo("  raw files: not known")


def _print_raw(raw: list[dict[str, str]], saw: set[str]) -> None:
    typer.echo(f"  raw files: {len(raw)}; {len(saw)} videos were trained on")
    for row in raw[:_SHOWN]:
        typer.echo(f"    {row['sha256']}  {row['path']}{'  (train)' if row['path'] in saw else ''}")
    if len(raw) > _SHOWN:
        typer.echo(f"    ... and {len(raw) - _SHOWN} more (--json)")


def _print_differences(differences: "list[Difference]") -> None:
    rows = [
        (row.what, (row.recorded or "none")[:20], (row.rebuilt or "none")[:20])
        for row in differences[:_SHOWN]
    ]
    print_table(("what", "recorded", "rebuilt"), rows, title=f"{len(differences)} differences")
    if len(differences) > _SHOWN:
        typer.echo(f"... and {len(differences) - _SHOWN} more")


def _print_changes(found: dict[str, Any]) -> None:
    print_lines(f"note: {note}" for note in found.get("not_compared", []))
    for change in found.get("changes", []):
        got = "" if change["got"] is None else f", got {change['got']}"
        typer.echo(
            f"{change['file']}: {change['problem']}, expected sha256 {change['expected']}{got}", err=True
        )
    if found and not found["changes"]:
        typer.echo("verified: every file compared is as it was recorded")
