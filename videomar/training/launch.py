"""Training on Ray Train: one plain loop per worker, restarted by Ray when a worker dies.

    stages/train -> sweep.train_runs -> launch.run -> [Ray: each worker] launch.work -> loop.train

The loop itself knows nothing of Ray; on a machine without it, call `videomar.training.loop.train`.
"""

import dataclasses
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar import errors
from videomar.compute.cluster import compute_device, ray_cluster, refuse_missing_gpus
from videomar.config import Params, TrainParams
from videomar.config.section import fixed_keys, free_keys
from videomar.errors import CheckpointError, VideomarError
from videomar.files import write_json
from videomar.latents.dataset import LatentDataset
from videomar.model.videomar import VideoMAR
from videomar.storage import Location
from videomar.tracking.mlflow_store import tracking_uri
from videomar.tracking.runs import RUN_FILE, TrackedRun, open_run
from videomar.training.progress import Followed, RunFollower, copy_warnings
from videomar.training.state import run_summary

if TYPE_CHECKING:
    from videomar.checkpoint import ModelParts
    from videomar.training.worker import Worker

MAX_FAILURES = 3
_DIGEST_LENGTH = 36  # MLflow's limit for a dataset's digest
# How long a worker that refuses waits for the others to refuse. Most refusals happen at all in one step.
_PATIENCE_S = 5.0
_POLL_S = 0.05
_log = logging.getLogger(__name__)

Report = Callable[[int, dict[str, float]], None]
WritePreviews = Callable[[VideoMAR, Path], list[Path]]
"""Makes sample clips of a model as files in a folder, and returns these; there may be none."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What the processes of one training run need to know; paths are absolute, as workers start elsewhere."""

    latents: Location
    """Folder of the latent cache, or its URL."""
    out: Path
    """Folder of the run: checkpoints, `log.csv`, and the MLflow run's id. Training continues from its newest
    checkpoint."""
    params: Params
    """Sections `text`, `model` and `train` are used."""
    tags: Mapping[str, str]
    """Lineage, recorded with the MLflow run."""
    tokenizer: Path | None = None
    """Folder of the latents' tokenizer, which every checkpoint then holds, so that it is a whole model."""
    write_previews: WritePreviews | None = None
    """Makes the clips that are recorded every `resources.train.preview_every` steps."""
    starts: Mapping[str, Path] = field(default_factory=dict)
    """Folder of the weights that a name in `train.start_from` stands for; a name that is none is a folder."""
    tracking_uri: str = field(default_factory=tracking_uri)
    """Address of the MLflow store."""
    scratch: Path = field(default_factory=lambda: Path(".local/ray").resolve())
    """Folder for Ray's records and the messages of workers."""

    @property
    def train(self) -> TrainParams:
        """Section `train`, with the folder of the weights to start from in place of their name."""
        name = self.params.train.start_from
        folder = None if name is None else str(self.starts.get(str(name), name))
        return dataclasses.replace(self.params.train, start_from=folder)

    def followed(self, name: str = "") -> Followed:
        """What shows this run on the terminal; the name of one of several precedes its lines."""
        prefix = f"run {name}: " if name else ""
        return Followed(self.out, self.params.train, self.scratch / f"messages-{self.out.name}.txt", prefix)


@dataclass(frozen=True, slots=True)
class Recorder:
    """The loop's `Tracker`: the run in MLflow, and the sample clips that are recorded with it."""

    run: TrackedRun
    write_previews: WritePreviews | None
    report: Report | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of a step."""
        self.run.log(step, metrics)
        if self.report:
            self.report(step, metrics)

    def tag(self, values: dict[str, str]) -> None:
        """Record text about the whole run."""
        self.run.tag(values)

    def log_preview(self, step: int, model: VideoMAR) -> None:
        """Record sample clips as artifacts in `previews/step_NNNNNNNN`; a failure does not stop the run."""
        if self.write_previews is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = self.write_previews(model, Path(folder))
            except (VideomarError, OSError) as error:
                _log.warning("no preview after step %d: %s", step, error)
                return
            if files:
                self.run.log_files(f"previews/step_{step:08d}", files)

    def flush(self) -> None:
        """Return once all that was recorded is on disk."""
        self.run.flush()


def run(spec: RunSpec) -> dict[str, float]:
    """Train one run on the cluster, and show its progress here; return its metrics.

    Raises:
        VideomarError: a worker refused, or failed more often than Ray may restart it.
    """
    train = spec.params.train
    with ray_cluster(max(2, train.fewest_workers)), RunFollower([spec.followed()]):
        refuse_missing_gpus(train.device, train.fewest_workers)
        fit(spec, train.workers_on(compute_device(train.device)))
    return run_summary(spec.out)


def fit(spec: RunSpec, num_workers: int, name: str = "videomar") -> None:
    """Train one run with its own workers on the connected cluster.

    Raises:
        VideomarError: a worker refused, or failed more often than Ray may restart it.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    train = spec.params.train
    on_gpu = compute_device(train.device) == "cuda"
    spec.scratch.mkdir(parents=True, exist_ok=True)
    notes = tempfile.mkdtemp(prefix="refusals-", dir=spec.scratch)
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type]  # Ray's types are older than its return values
        train_loop_config={"spec": spec, "notes": notes},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if on_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(spec.scratch),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        refusal = trainer.fit().return_value  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as error:
        raise CheckpointError(f"training: a worker failed: {last_line(error)}") from None
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if refusal:
        raise refusal


def _work(config: dict[str, Any]) -> VideomarError | None:
    """Run one worker of Ray Train; what it refuses is its result."""
    import ray.train
    from ray.train.torch import get_device

    from videomar.training.worker import Worker

    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())
    return refusal_of(lambda: work(config["spec"], worker), Path(config["notes"]), worker)


def work(spec: RunSpec, worker: "Worker", report: Report | None = None) -> None:
    """Train as one worker of a run. Imports are here because Ray sends this function by value.

    Args:
        spec: the run.
        worker: which of the run's workers this process is.
        report: called with every logged row, in addition to MLflow.
    """
    import torch

    from videomar.compute.device import device_kind
    from videomar.latents.dataset import read_splits, shape_of
    from videomar.training.loop import train
    from videomar.training.run_folder import claim_run_folder, describe_run

    params, out = spec.params, spec.out
    # A worker may start in another folder, or on another machine, where the default store would be another.
    os.environ["MLFLOW_TRACKING_URI"] = spec.tracking_uri
    torch.set_num_threads(params.train.threads_per_worker)
    with copy_warnings(spec.followed().messages, worker.rank):
        data = worker.together(lambda: read_splits(spec.latents, params))
        shape, kind = shape_of(data.train, params), device_kind(worker.device)
        # The worker that writes checkpoints: the others may be on machines without the tokenizer's folder.
        parts = worker.together(lambda: None if worker.rank else _parts(spec))

        def begin() -> TrackedRun | None:
            if worker.rank:
                return None
            claim_run_folder(out, describe_run(shape, data.train, spec.train, kind))
            return _open_run(spec, data.train, kind, worker.world_size)

        tracked = worker.together(begin)
        recorder = Recorder(tracked, spec.write_previews, report) if tracked else None
        try:
            train(shape, data, spec.train, out, worker, recorder, parts)
        except BaseException:
            if tracked:
                tracked.finish("FAILED")
            raise
        if tracked:
            tracked.finish()


def _parts(spec: RunSpec) -> "ModelParts | None":
    """What makes a checkpoint of the run a whole model."""
    from videomar.checkpoint import read_parts
    from videomar.encoders.load import tokenizer_files
    from videomar.provenance.card import CardFacts, model_card

    if spec.tokenizer is None:
        return None
    # Nothing of this checkout and this day: equal runs write equal bytes. The registered version has lineage.
    card = model_card(CardFacts(name="videomar, a checkpoint of training"))
    return read_parts(tokenizer_files(spec.tokenizer), spec.params, card)


def refusal_of(action: Callable[[], None], notes: Path, worker: "Worker") -> VideomarError | None:
    """Run a worker's action; return the error if it, or another worker in an earlier start, refused.

    `Worker.together` spreads an error among workers that all reach it. This is for errors elsewhere in the
    loop. Ray Train restarts a run whose worker raised, whatever it raised, but no restart helps after a
    refusal. So a worker that refuses writes a note and returns. If the others wait for it instead of
    refusing, it raises: Ray then ends and restarts them all, and they find the note.

    Args:
        action: this worker's part of the run.
        notes: folder that all workers of this launch see, and no other launch.
        worker: which of them this process is.

    Raises:
        VideomarError: this worker refuses, and others do not within a few seconds.
    """
    note = notes / f"{worker.rank}.json"
    for path in sorted(notes.glob("[!.]*.json")):
        found = json.loads(path.read_text("utf-8"))
        write_json(note, found)  # the worker that refused may be waiting for all notes
        return getattr(errors, found["kind"])(found["words"])
    try:
        action()
    except VideomarError as error:
        write_json(note, {"kind": type(error).__name__, "words": str(error)})
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(notes.glob("[!.]*.json"))) < worker.world_size:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        return error
    return None


def _open_run(spec: RunSpec, dataset: LatentDataset, device: str, num_workers: int) -> TrackedRun:
    """Open the run in MLflow."""
    import torch

    sections, free = recorded(spec.params)
    metadata = {"data_hash": dataset.content_hash, "torch": torch.__version__, "device": device}
    metadata["workers"] = str(num_workers)
    digest = dataset.content_hash[:_DIGEST_LENGTH]
    latents = {"name": "latents", "digest": digest, "source_type": "local", "source": str(spec.latents)}
    return open_run(spec.out / RUN_FILE, sections, {**spec.tags, **metadata, **free}, [latents])


def recorded(params: Params) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what MLflow records of the parameters: sections, and tags for what may change within a run.

    MLflow's parameters can never change; its tags can.
    """
    sections = {name: fixed_keys(getattr(params, name)) for name in ("text", "model", "train")}
    return sections, {f"train.{name}": str(value) for name, value in free_keys(params.train).items()}


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, where Ray puts the cause, or the type if it has no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
