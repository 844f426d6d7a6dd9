"""Where every file of a pipeline folder is: the paths that dvc.yaml gives to the stages, once for all others.

Stages take their paths from the command line in dvc.yaml, so that they can be run on other files. The code
around them (registry, report, doctor, plan, flows) reads from here what they wrote. A test compares the two.

    data/raw -> candidates -> ledger -> latents -> checkpoints/videomar -> generated -> evaluation -> report
                                           ^ checkpoints/tokenizer
"""

from dataclasses import dataclass
from pathlib import Path

SEEN, UNKNOWN = "seen by ancestors", "ancestors with unknown clips"
"""Entries of `named/sample.json`: videos, by sha256, that the model of `train.start_from`, or one before it,
was trained on; and such models of which that is not known."""

AVERAGED = "ema.safetensors"
"""File of a checkpoint with the averaged weights, which generation uses and runs start from."""
WEIGHTS = ("model.safetensors", AVERAGED)
"""Files of weights in a checkpoint; one of training has the optimizer's state in addition."""


class _Below:
    """Attribute of `Layout`: this path below its root."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, layout: "Layout", _owner: type) -> Path:
        return layout.root / self._path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of a pipeline below its root. `Layout()` is that of the working folder, with relative paths."""

    root: Path = Path()

    params = _Below("params.yaml")
    pipeline = _Below("dvc.yaml")
    lock = _Below("dvc.lock")
    """What the stages read and wrote when they ran last, each with its MD5."""
    takedowns = _Below("takedowns.csv")
    pins = _Below("requirements.lock")

    raw = _Below("data/raw")
    """Videos as received, never changed."""
    listing = _Below("data/clips.json")
    """Listing of the folder of clips, `samples.source`."""
    named = _Below("data/named")
    """Contents of the functions, files and folders that parameters name; see `listing.write_named`."""
    candidates = _Below("data/candidates.parquet")
    ledger = _Below("data/ledger.parquet")
    latents = _Below("data/latents")
    generated = _Below("data/generated.parquet")
    evaluation = _Below("data/evaluation.parquet")
    """Scores by clip and kind."""
    evaluation_details = _Below("data/evaluation.json")
    """Metrics of whole sets of clips, costs, and the fingerprint of the scores."""

    checkpoints = _Below("checkpoints")
    tokenizer = _Below("checkpoints/tokenizer")
    training_run = _Below("checkpoints/videomar")
    """Checkpoints `step_...` of the chosen training run, its log and `run.json`."""
    sweep_runs = _Below("checkpoints/videomar.runs")

    metrics = _Below("metrics")
    """One flat JSON file per stage."""
    plots = _Below("plots")
    report = _Below("reports/index.html")

    local = _Below(".local")
    """State of this machine: MLflow's store, services, locks; not in git."""
    cache = _Below(".dvc/cache/files/md5")
    """DVC's copies of outputs, earlier ones too, by MD5."""
