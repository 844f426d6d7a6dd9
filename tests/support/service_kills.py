"""The kill table of retraining: one process of ours dies by SIGKILL at a random moment, in every round.

    python -m tests.support.service_kills --rounds 100 --seed 0 --out kills.jsonl

A small checkout (retraining.py) with the services up. A round changes a parameter, starts `retrain`, kills
one process (every tenth round all of them) and, unless that run came to its end, starts `retrain` again.
`--kind "Ray's gcs"` waits for a process of that kind and kills it instead.
Each round is a line of JSON that is added to `--out`: an interrupted script is started again for the rounds
that are missing, with another seed. The table is that of all lines in the file; `--rounds 0` only prints it.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.checkout import wait_for
from tests.support.examination import broken_rules, look
from tests.support.retraining import Retraining

KINDS: dict[str, Callable[[str], bool]] = {
    "supervisor": lambda line: "videomar.services supervise" in line,
    "MLflow server": lambda line: "mlflow" in line and ("server" in line or "uvicorn" in line),
    "Prefect server": lambda line: "prefect" in line and ("server" in line or "uvicorn" in line),
    "flows service": lambda line: "flows.serve" in line,
    "flow": lambda line: "prefect" in line,
    "watcher of a stage": lambda line: "videomar.processes" in line,
    "dvc": lambda line: "-m dvc" in line,
    "stage": lambda line: "-m stages." in line or "stages/run" in line,
    "Ray's gcs": lambda line: "gcs_server" in line,
    "Ray's raylet": lambda line: "raylet/raylet" in line,
    "Ray's worker": lambda line: line.startswith("ray::") or "default_worker.py" in line,
    "Ray's other": lambda line: "/ray/" in line,
}
SERVICES = tuple(KINDS)[:4]
REBOOT = "all at once, as by a reboot"
_REBOOT_EVERY = 10
CHANGES = ("train.seed", "sample.temperature", "sample.temperature")  # more rounds where it need not train
_SERVICE_SHARE = 0.3
_END_S = 400.0
_YOUNG_S = 4.0
_STRAY_S = 60.0


def ours(folder: Path) -> dict[str, list[psutil.Process]]:
    """All living processes that work in the folder, by kind."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                line = " ".join(process.cmdline())
                kind = next((kind for kind, fits in KINDS.items() if fits(line)), f"other: {line}")
                found.setdefault(kind, []).append(process)
    return found


def kill_first(checkout: Retraining, kind: str) -> str:
    """Kill the first process of a kind, if there still is one."""
    for process in ours(checkout.folder).get(kind, ()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            return kind
    return f"{kind}, too late"


def kill_one(checkout: Retraining, chance: random.Random) -> str:
    """Kill one process of those that live now; gives its kind. What computes is chosen more often."""
    living = ours(checkout.folder)
    if "flow" in living and not {"dvc", "stage", "watcher of a stage"} & set(living):
        living["flow, between stages or releasing"] = living.pop("flow")
    kinds = [kind for kind in living if not kind.startswith("other: ")]
    computing = [kind for kind in kinds if kind not in SERVICES]
    service = not computing or chance.random() < _SERVICE_SHARE
    kind = chance.choice([kind for kind in kinds if kind in SERVICES] if service else computing)
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended in these milliseconds
        chance.choice(living[kind]).kill()
    return kind


def kill_all(checkout: Retraining) -> str:
    """What the loss of the machine's power does to processes."""
    for process in [one for processes in ours(checkout.folder).values() for one in processes]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return REBOOT


def start(checkout: Retraining) -> str:
    """Start `retrain` once the services answer, as the schedule does."""
    wait_for(lambda: all(service["ready"] for service in checkout.noted()["services"].values()), "services")
    return checkout.patiently(lambda: checkout.start("retrain/nightly"))


def end_of(checkout: Retraining, run: str) -> str:
    """Name of the state in which a run ended."""
    last = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    return str(
        wait_for(
            lambda: (
                state["name"]
                if (state := checkout.patiently(lambda: checkout.state(run)))["type"] in last
                else None
            ),
            f"end of run {run}",
            _END_S,
        )
    )


def play(
    checkout: Retraining, number: int, chance: random.Random, typical_s: float, wanted: str | None
) -> dict[str, Any]:
    """One round; its line of the table."""
    began = time.monotonic()
    change = CHANGES[0] if wanted else chance.choice(CHANGES)
    value = number if change == "train.seed" else 0.2 * 0.97**number  # less noise: the gate likes it
    section, key = change.split(".")
    checkout.set_params({section: {key: value}})
    stages, before = checkout.stages(), look(checkout.folder)
    run = start(checkout)
    if wanted:
        wait_for(lambda: ours(checkout.folder).get(wanted), wanted, _END_S)
    longest_s = _YOUNG_S if wanted else typical_s * (1.0 if section == "train" else 0.6)
    at_s = chance.uniform(0, longest_s)
    time.sleep(at_s)
    finished = [name for name, entry in checkout.stages().items() if entry != stages.get(name)]
    seen = len(checkout.started())
    if wanted:
        kind = kill_first(checkout, wanted)
    else:
        kind = kill_all(checkout) if number % _REBOOT_EVERY == 1 else kill_one(checkout, chance)
    struck = look(checkout.folder)
    if kind in ("supervisor", REBOOT):
        assert checkout.services("up").returncode == 0
    ends = [end_of(checkout, run)]
    if ends[0] != "Completed":
        ends.append(end_of(checkout, start(checkout)))
    after = look(checkout.folder)
    line = {"number": number, "change": change, "killed": kind, "at_s": round(at_s, 1), "ends": ends}
    line["completed"] = ends[-1] == "Completed" or ends == ["Crashed", "Skipped"]
    line["again"] = ends[0] != "Completed"
    line["repeated"] = [stage for stage in checkout.started()[seen:] if stage in finished]
    line["champion_loads"] = struck.champion_works and after.champion_works
    line["alias_moved"] = before.alias != after.alias
    line["broken"] = broken_rules(before, struck, after)
    line["strays"] = strays(checkout)
    line["seconds"] = round(time.monotonic() - began, 1)
    return line


def strays(checkout: Retraining) -> list[str]:
    """Processes left when no flow runs that are no service's; waits a while for them to end."""
    end = time.monotonic() + _STRAY_S
    while True:
        noted = {
            identity.pid for name in checkout.noted()["services"] for identity in checkout.processes(name)
        }
        left = [
            f"{kind} {process.pid}"
            for kind, processes in ours(checkout.folder).items()
            if kind != "supervisor"
            for process in processes
            if process.pid not in noted
        ]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


def is_good(line: dict[str, Any]) -> bool:
    """Whether a round went as it must."""
    return bool(
        line["completed"]
        and line["champion_loads"]
        and not line["repeated"]
        and not line["broken"]
        and not line["strays"]
    )


def table(lines: list[dict[str, Any]]) -> str:
    """All rounds by the kind of process that was killed."""
    heads = ("rounds", "run went on", "completed", "repeated", "champion", "half moved", "left over")
    rows = ["| killed | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    kinds = sorted({line["killed"] for line in lines})
    for kind in (*kinds, "all"):
        chosen = [line for line in lines if kind in (line["killed"], "all")]
        counts = (
            len(chosen),
            sum(not line["again"] for line in chosen),
            sum(line["completed"] for line in chosen),
            sum(len(line["repeated"]) for line in chosen),
            sum(line["champion_loads"] for line in chosen),
            sum(bool(line["broken"]) for line in chosen),
            sum(len(line["strays"]) for line in chosen),
        )
        rows.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    moved = sum(line["alias_moved"] for line in lines)
    return "\n".join([*rows, f"{moved} moves of the alias, {sum(line['seconds'] for line in lines):.0f} s"])


def main() -> int:
    """Play the rounds, print the table; 1 if a round did not go as it must."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help="kill one of this kind in every round")
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    if arguments.rounds:
        with tempfile.TemporaryDirectory() as folder, Retraining(Path(folder)).up() as checkout:
            began = time.monotonic()
            assert end_of(checkout, start(checkout)) == "Completed"  # the first champion
            typical_s = time.monotonic() - began
            for number in range(1, arguments.rounds + 1):
                line = {"seed": arguments.seed, **play(checkout, number, chance, typical_s, arguments.kind)}
                with arguments.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                sys.stdout.write(f"{'' if is_good(line) else 'BAD: '}{json.dumps(line)}\n")
                sys.stdout.flush()
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    sys.stdout.write(table(lines) + "\n")
    return 0 if all(is_good(line) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
