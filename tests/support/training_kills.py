"""The kill table: a run that really dies by SIGKILL, at named places or at random moments.

    python -m tests.support.training_kills                named places, with one worker and with two
    python -m tests.support.training_kills --random 50    so many more runs, each killed at random until done

Each line says where a run was killed and whether it ended with the bits of a run that was not: weights,
moving average, optimizer, manifest, log and metrics. Every run is a fork of this process, which has imported
all and computed nothing; what kills it is put in place in the fork, and the library knows nothing of it.
"""

import argparse
import dataclasses
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # which the first step of an optimizer imports: once here, not in every fork  # noqa: F401
import torch.distributed as dist

from tests.conftest import small_params
from tests.support.caches import write_cache
from tests.training.conftest import files_of, spoil
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage, TrainParams
from videomar.latents.dataset import LatentDataset, Splits
from videomar.training.loop import train
from videomar.training.worker import Worker


class Kill(NamedTuple):
    """Dies at the `call`-th call of a function, before or after it."""

    what: str
    function: str
    call: int
    after: bool = False


CHECKPOINT, LOOP = "videomar.checkpoint.folder", "videomar.training.loop"
KILLS = [
    Kill("before the first step", f"{LOOP}:parts_of", 1),
    Kill("epoch boundary", f"{LOOP}:parts_of", 4),
    Kill("mid-step, gradients made, no update", f"{LOOP}:learning_rate_at", 6),
    Kill("mid-step, gradients clipped", f"{LOOP}:check_step", 7),
    Kill("mid-step, weights updated, average not", f"{LOOP}:update_ema", 4),
    Kill("mid-accumulation", "videomar.training.parallelize:Loss.forward", 14),
    Kill("mid-validation", "videomar.training.loop:clips_on", 9),
    Kill("log written, checkpoint not", f"{LOOP}:write_csv", 2, after=True),
    Kill("log half-written", "videomar.files:os.fsync", 2),
    Kill("checkpoint: before the weights", f"{CHECKPOINT}:save_file", 4),
    Kill("checkpoint: weights written", f"{CHECKPOINT}:save_file", 4, after=True),
    Kill("checkpoint: average written", f"{CHECKPOINT}:save_file", 5, after=True),
    Kill("checkpoint: optimizer written", f"{CHECKPOINT}:save_file", 6, after=True),
    Kill("checkpoint: manifest not on disk", f"{CHECKPOINT}:fsync", 9),
    Kill("checkpoint: before rename", f"{CHECKPOINT}:os.replace", 2),
    Kill("checkpoint: renamed", f"{CHECKPOINT}:os.replace", 2, after=True),
    Kill("checkpoint: old ones not removed", "videomar.checkpoint:prune", 3),
    Kill("stage boundary, before its checkpoint", "videomar.training.state:Progress.end_stage", 1),
    Kill("stage boundary, after its checkpoint", f"{LOOP}:save_checkpoint", 2, after=True),
    Kill("stage that ended at its target", "videomar.training.state:Progress.end_stage", 2, after=True),
    Kill("after the last step, before the last save", "videomar.training.state:Progress.end_stage", 3),
    Kill("after the last save, before metrics", f"{LOOP}:summary", 1),
]
FOR_TWO = [
    kill
    for kill in KILLS
    if kill.what.startswith(
        ("epoch", "mid-step, weights", "mid-val", "checkpoint: before rename", "stage that")
    )
]
PARAMS = small_params()


def params_of(num_workers: int) -> TrainParams:
    """Three stages that exercise all that a run remembers; nothing falls together with anything else."""
    return dataclasses.replace(
        PARAMS.train,
        curriculum=(
            CurriculumStage(num_latent_frames=2, steps=5, batch_size=4),
            CurriculumStage(num_latent_frames=1, steps=50, batch_size=8, target_loss=1e3, learning_rate=1e-3),
            CurriculumStage(num_latent_frames=0, steps=7, batch_size=4, ema="reset", optimizer="reset"),
        ),
        accumulation=2 // num_workers,
        num_workers=num_workers,
        log_every=3,
        checkpoint_every=4,
        validate_every=7,
        validation_clips=4,
        on_bad_step="skip",
        max_skipped_steps=50,
    )


def work(folder: Path, out: Path, rank: int, num_workers: int, meeting: Path) -> None:
    """One worker's whole life."""
    torch.set_num_threads(1)
    if num_workers > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=num_workers)
    data = Splits(
        LatentDataset(folder / "latents", "train", 5), LatentDataset(folder / "heldout", "train", 5)
    )
    shape = ModelShape(PARAMS.model, 4, 6, 5)
    metrics = train(shape, data, params_of(num_workers), out, Worker(rank, num_workers), None)
    if rank == 0:
        (out / "metrics.json").write_text(json.dumps(metrics))


def arm(kill: Kill) -> None:
    """Make this process die where `kill` says."""
    module, path = kill.function.split(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    real: Callable = getattr(owner, name)
    calls = 0

    def deadly(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == kill.call and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def life(folder: Path, out: Path, num_workers: int, kill: Kill | None, limit_s: float = 0.0) -> bool:
    """One start of all workers; rank 0 carries the kill. True if it was killed; the others die with it."""
    meeting = Path(tempfile.mktemp(dir=folder))
    pids = []
    for rank in range(num_workers):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
                if kill and rank == 0:
                    arm(kill)
                work(folder, out, rank, num_workers, meeting)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    if limit_s:
        time.sleep(limit_s)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    first = os.waitpid(pids[0], 0)[1]
    for pid in pids[1:]:
        if os.WIFSIGNALED(first):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not os.WIFSIGNALED(first) and os.WEXITSTATUS(first):
        raise RuntimeError((folder / "stderr").read_text()[-3000:])
    return os.WIFSIGNALED(first)


def result_of(out: Path) -> dict[str, bytes]:
    return files_of(out) | {"metrics": (out / "metrics.json").read_bytes()}


def table(folder: Path, rounds: int, workers: tuple[int, ...]) -> list[dict[str, object]]:
    """All lines, printed as they come."""
    write_cache(folder / "latents")
    spoil(folder / "latents", 3)
    write_cache(folder / "heldout", clips=5)
    lines: list[dict[str, object]] = []
    for num_workers in workers:
        whole = folder / f"whole{num_workers}"
        start = time.monotonic()
        assert not life(folder, whole, num_workers, None)
        length_s = time.monotonic() - start
        expected = result_of(whole)
        for number, kill in enumerate(KILLS if num_workers == 1 else FOR_TWO):
            out = folder / f"kill{num_workers}.{number}"
            killed = life(folder, out, num_workers, kill)
            again = life(folder, out, num_workers, None)
            equal = killed and not again and result_of(out) == expected
            lines.append({"where": kill.what, "workers": num_workers, "kills": int(killed), "equal": equal})
            show(lines[-1])
        for number in range(rounds):
            out = folder / f"random{num_workers}.{number}"
            kills = 0
            while kills < 9 and life(folder, out, num_workers, None, random.uniform(0, 0.5 * length_s)):
                kills += 1
            life(folder, out, num_workers, None)
            equal = result_of(out) == expected
            lines.append({"where": "at random", "workers": num_workers, "kills": kills, "equal": equal})
            show(lines[-1])
    if len(workers) == 2:
        lines.append({"where": "two workers, and one in two parts", "workers": 2, "kills": 0})
        lines[-1]["largest_difference"] = difference(folder / "whole1", folder / "whole2")
    return lines


def difference(one: Path, two: Path) -> float:
    """Largest difference of a weight of the moving averages: only the order of additions is another."""
    ours, theirs = (checkpoint.load_tensors(checkpoint.latest(out), "ema") for out in (one, two))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def show(line: dict[str, object]) -> None:
    verdict = "bit-equal" if line["equal"] else "DIFFERENT"
    sys.stdout.write(f"{line['where']:<44} workers {line['workers']}  kills {line['kills']}  {verdict}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        lines = table(Path(folder), arguments.random, tuple(arguments.workers))
    sys.stdout.write(json.dumps(lines) + "\n")
    return 0 if all(line.get("equal", True) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
