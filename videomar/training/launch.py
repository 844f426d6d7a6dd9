"""Training on Ray Train: one plain loop per worker, restarted by Ray when a worker dies.

The loop itself knows nothing of Ray; on a machine without it, call `videomar.training.loop.train`.
"""

import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videomar import checkpoint
from videomar.checkpoint import ModelShape
from videomar.cluster import ray_cluster
from videomar.config import Params, TrainParams
from videomar.data.dataset import LatentDataset
from videomar.data.facts import key_facts
from videomar.errors import CheckpointError
from videomar.tracking.runs import tracking_uri
from videomar.training.log import read_log, summary

RUN_FILE = "run.json"
_MAX_FAILURES = 3
_POLL_S = 1.0


def train_on_ray(latents: Path, out: Path, params: Params, tags: dict[str, str]) -> dict[str, float]:
    """Run the curriculum on the cluster; checkpoints, `log.csv` and the MLflow run's id are in `out`.

    Args:
        latents: folder of the latent cache.
        out: folder of the run; training goes on from its newest checkpoint.
        params: sections `text`, `model` and `train` are used.
        tags: lineage for the MLflow run.

    Raises:
        CheckpointError: a worker failed more often than Ray may restart it; its own words are in the message.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    train = params.train
    config: dict[str, Any] = {
        "latents": str(latents.resolve()),
        "out": str(out.resolve()),
        "params": params,
        "tags": tags,
    }
    config["tracking_uri"] = tracking_uri()
    with ray_cluster(max(2, train.num_workers)), _progress(out, train):
        trainer = TorchTrainer(
            _work,
            train_loop_config=config,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=train.num_workers, resources_per_worker={"CPU": 1}
            ),
            run_config=ray.train.RunConfig(
                name="videomar",
                storage_path=str(Path(".local/ray").resolve()),
                failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise CheckpointError(f"training: a worker failed: {_last_line(error)}") from None
    return summary(read_log(out))


def _work(config: dict[str, Any]) -> None:
    """What each worker does. Imports are here because Ray sends this function by value."""
    import ray.train
    import torch

    from videomar.tracking.runs import open_run
    from videomar.training.loop import Worker, describe_run, discard_other_run, train

    params: Params = config["params"]
    # A worker may start in another folder, or on another machine, where the default store would be another.
    os.environ["MLFLOW_TRACKING_URI"] = config["tracking_uri"]
    torch.set_num_threads(params.train.threads_per_worker)
    context = ray.train.get_context()
    out = Path(config["out"])
    latents, max_tokens = Path(config["latents"]), params.text.max_tokens
    dataset = LatentDataset(latents, "train", max_tokens, key_facts(params))
    shape = ModelShape(params.model, dataset.latent_channels, dataset.text_channels, max_tokens)
    rank = context.get_world_rank()
    run = None
    if rank == 0:
        discard_other_run(out, describe_run(shape, dataset, params.train))
        sections: dict[str, object] = {
            name: asdict(getattr(params, name)) for name in ("text", "model", "train")
        }
        run = open_run(out / RUN_FILE, sections, config["tags"])
    try:
        train(shape, dataset, params.train, out, Worker(rank, context.get_world_size()), run)
    except BaseException:
        if run:
            run.finish("FAILED")
        raise
    if run:
        run.finish()


class _progress:  # noqa: N801 - reads as a verb at its one place of use
    """A bar that follows the run's log, which the workers write elsewhere."""

    def __init__(self, out: Path, params: TrainParams) -> None:
        self.out, self.params = out, params
        self.ended = threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _follow(self) -> None:
        done = _last_step(self.out)
        with tqdm(
            total=self.params.max_steps, initial=done, desc="training", unit="step", disable=None
        ) as bar:
            while not self.ended.wait(_POLL_S):
                rows = read_log(self.out)
                if rows:
                    bar.set_postfix(
                        stage=int(rows[-1]["stage"]), loss=f"{rows[-1]['loss']:.3f}", refresh=False
                    )
                    bar.update(int(rows[-1]["step"]) - bar.n)


def _last_step(out: Path) -> int:
    newest = checkpoint.latest(out)
    return int(checkpoint.read_manifest(newest)["step"]) if newest else 0


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
