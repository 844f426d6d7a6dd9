"""Training on Ray Train: one plain loop per worker, restarted by Ray when a worker dies.

The loop itself knows nothing of Ray; on a machine without it, call `videomar.training.loop.train`.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from videomar.cluster import compute_device, ray_cluster, refuse_missing_gpus
from videomar.config import Params
from videomar.config.section import fixed_keys, free_keys
from videomar.errors import CheckpointError, VideomarError
from videomar.latents.dataset import LatentDataset
from videomar.model.videomar import VideoMAR
from videomar.storage import Location, absolute
from videomar.tracking.mlflow_store import tracking_uri
from videomar.tracking.runs import RUN_FILE, TrackedRun, open_run
from videomar.training.messages import Retelling, messages_of, noted_in
from videomar.training.progress import Display
from videomar.training.state import run_summary

if TYPE_CHECKING:
    from videomar.training.worker import Worker

MAX_FAILURES = 3
_DIGEST_LENGTH = 36  # MLflow's longest for a dataset
_log = logging.getLogger(__name__)
Report = Callable[[int, dict[str, float]], None]


class Sampler(Protocol):
    """Makes sample clips of a model: what training itself does not do. Is sent to the process that trains."""

    def write(self, model: VideoMAR, folder: Path) -> list[Path]:
        """Files in `folder`; there may be none."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """The run in MLflow, and the sample clips that are recorded with it; a `Tracker` of the loop."""

    run: TrackedRun
    sampler: Sampler | None
    report: Report | None = None

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step."""
        self.run.log(step, figures)
        if self.report:
            self.report(step, figures)

    def tag(self, values: dict[str, str]) -> None:
        """Record facts about the whole run."""
        self.run.tag(values)

    def log_preview(self, step: int, model: VideoMAR) -> None:
        """Record sample clips as artifacts below `previews/step_NNNNNNNN`; the run goes on without them."""
        if self.sampler is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = self.sampler.write(model, Path(folder))
            except (VideomarError, OSError) as error:
                _log.warning("no preview after step %d: %s", step, error)
                return
            if files:
                self.run.log_files(f"previews/step_{step:08d}", files)

    def flush(self) -> None:
        """Have on the disk what was recorded."""
        self.run.flush()


def train_on_ray(
    latents: Location, out: Path, params: Params, tags: dict[str, str], sampler: Sampler | None = None
) -> dict[str, float]:
    """Run the curriculum on the cluster; checkpoints, `log.csv` and the MLflow run's id are in `out`.

    Args:
        latents: folder of the latent cache, or its URL.
        out: folder of the run; training goes on from its newest checkpoint.
        params: sections `text`, `model` and `train` are used.
        tags: lineage for the MLflow run.
        sampler: makes the clips that are recorded every `resources.train.preview_every` steps.

    Raises:
        VideomarError: what the workers refused; or a worker failed more often than Ray may restart it.
    """
    train, told = params.train, Retelling({messages_of(out): ""})
    with ray_cluster(max(2, train.num_workers)), told, Display(out, train):
        refuse_missing_gpus(train.device, train.num_workers)
        fit(run_config(latents, out, params, tags, sampler))
    return run_summary(out)


def run_config(
    latents: Location, out: Path, params: Params, tags: dict[str, str], sampler: Sampler | None
) -> dict[str, Any]:
    """What the processes of a run are told."""
    return {
        "latents": absolute(latents),
        "out": str(out.resolve()),
        "messages": messages_of(out),
        "params": params,
        "tags": tags,
        "sampler": sampler,
        "tracking_uri": tracking_uri(),
    }


def fit(config: dict[str, Any]) -> None:
    """Train one run with workers of its own on the cluster that is connected.

    Raises:
        VideomarError: what the workers refused; or a worker failed more often than Ray may restart it.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    train, storage = config["params"].train, Path(".local/ray").resolve()
    on_gpu = compute_device(train.device) == "cuda"
    storage.mkdir(parents=True, exist_ok=True)
    notes = tempfile.mkdtemp(prefix="refusals-", dir=storage)
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type]  # Ray's types are older than its return values
        train_loop_config={**config, "notes": notes},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if on_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=config.get("name", "videomar"),
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        refusal = trainer.fit().return_value  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as error:
        raise CheckpointError(f"training: a worker failed: {_last_line(error)}") from None
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if refusal:
        raise refusal


def _work(config: dict[str, Any]) -> VideomarError | None:
    """What each worker of Ray Train does; what it refuses is a result."""
    import ray.train
    from ray.train.torch import get_device

    from videomar.training.refusal import refusal_of
    from videomar.training.worker import Worker

    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())
    return refusal_of(lambda: work(config, worker), Path(config["notes"]), worker)


def work(config: dict[str, Any], worker: "Worker", report: Report | None = None) -> None:
    """Train as one worker of a run. Imports are here because Ray sends this function by value.

    Args:
        config: see `run_config`.
        worker: which of the run's workers this process is.
        report: is told, beside MLflow, the figures of the log.
    """
    import torch

    from videomar.training.inputs import read_splits, shape_of
    from videomar.training.loop import train
    from videomar.training.run_folder import claim_run_folder, describe_run

    params: Params = config["params"]
    # A worker may start in another folder, or on another machine, where the default store would be another.
    os.environ["MLFLOW_TRACKING_URI"] = config["tracking_uri"]
    torch.set_num_threads(params.train.threads_per_worker)
    out = Path(config["out"])
    with noted_in(config["messages"], worker.rank):
        data = worker.together(lambda: read_splits(config["latents"], params))
        shape = shape_of(data.train, params)

        def begin() -> TrackedRun | None:
            if worker.rank:
                return None
            claim_run_folder(out, describe_run(shape, data.train, params.train))
            return _open_run(config, data.train)

        run = worker.together(begin)
        recorder = Recorder(run, config["sampler"], report) if run else None
        try:
            train(shape, data, params.train, out, worker, recorder)
        except BaseException:
            if run:
                run.finish("FAILED")
            raise
        if run:
            run.finish()


def _open_run(config: dict[str, Any], dataset: LatentDataset) -> TrackedRun:
    """The run in MLflow."""
    import torch

    out = Path(config["out"])
    sections, free = recorded(config["params"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"data_hash": dataset.content_hash, "torch": torch.__version__, "device": device}
    digest = dataset.content_hash[:_DIGEST_LENGTH]
    latents = {"name": "latents", "digest": digest, "source_type": "local", "source": str(config["latents"])}
    return open_run(out / RUN_FILE, sections, {**config["tags"], **facts, **free}, [latents])


def recorded(params: Params) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What MLflow holds of the parameters of a run: sections, and tags with what may change within a run.

    MLflow lets nobody change a parameter; tags it does.
    """
    sections = {name: fixed_keys(getattr(params, name)) for name in ("text", "model", "train")}
    return sections, {f"train.{name}": str(value) for name, value in free_keys(params.train).items()}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
