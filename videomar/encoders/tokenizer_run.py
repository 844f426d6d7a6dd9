"""A training run of the tokenizer on disk: what identifies it, its checkpoints, exact continuation.

A run that was killed anywhere and started again ends with the same bits as one that was not. While it is not
finished, it has a folder beside the tokenizer's:

    checkpoints/tokenizer.work/
        made_with.json      what identifies the run; one of another identity is removed
        clips/              pictures of the clips that it draws, see `clip_store`
        step_00000500/      a checkpoint: weights, state of AdamW, log so far
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import torch

from videomar import checkpoint
from videomar.checkpoint.tensors import each_tensor, optimizer_state, optimizer_tensors
from videomar.config import TokenizerParams
from videomar.config.section import fixed_keys, free_keys
from videomar.encoders.causal import CausalTokenizer
from videomar.errors import CheckpointError
from videomar.files import write_json
from videomar.provenance.code_hash import TOKENIZER, code_hash
from videomar.provenance.made_with import BESIDE, differing_keys, rounding

_IDENTITY_FILE = "made_with.json"
_KEPT_CHECKPOINTS = 2
# What decides the pictures of a clip, and the group that it is drawn from.
_IDENTIFYING = ["video", "video_sha256", "start_s", "clip_width_px", "clip_height_px", "num_frames", "group"]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class TokenizerRun:
    """A run in memory."""

    tokenizer: CausalTokenizer
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """The log so far."""


def describe_tokenizer_run(rows: pandas.DataFrame, fps: float, params: TokenizerParams) -> dict[str, Any]:
    """Return the identity of a run as JSON: parameters, code, and the clips in these rows of the ledger.

    What changes numbers by rounding at most is recorded under the key `BESIDE`, and may change within a run.
    """
    hashes = pandas.util.hash_pandas_object(rows[_IDENTIFYING], index=False).to_numpy()
    clips = hashlib.sha256(hashes.tobytes()).hexdigest()
    run = {"tokenizer": fixed_keys(params), "fps": fps, "clips": clips, "code": code_hash(TOKENIZER)}
    return dict(json.loads(json.dumps(run | {BESIDE: rounding(free_keys(params))})))


def claim_work_folder(work: Path, identity: Mapping[str, Any]) -> None:
    """Make `work` the folder of this run; remove an unfinished run of another identity."""
    try:
        theirs = json.loads((work / _IDENTITY_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        theirs = {}
    different = differing_keys(identity, theirs)
    if work.exists() and different:
        reasons = "; ".join(different[:5])
        _log.warning("%s: removing an unfinished run of another identity (%s)", work, reasons)
        shutil.rmtree(work)
    write_json(work / _IDENTITY_FILE, identity)


def restore_run(run: TokenizerRun, work: Path) -> bool:
    """Load the newest undamaged checkpoint into the run, and return whether there is one."""
    path = checkpoint.newest_intact(work)
    if path is None:
        return False
    manifest = checkpoint.read_manifest(path)
    run.tokenizer.load_state_dict(checkpoint.load_tensors(path, "model"))
    state = optimizer_state(each_tensor(path / "optimizer.safetensors"))
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": state})
    run.step, run.rows = manifest["step"], manifest["progress"]
    _log.warning("continuing from %s", path)
    return True


def save_run(run: TokenizerRun, work: Path, identity: Mapping[str, Any], loss: float) -> None:
    """Write a checkpoint after a step of this loss, and remove the ones before the last.

    Raises:
        CheckpointError: the loss is not finite, or the checkpoint cannot be written.
    """
    if not math.isfinite(loss):
        got = f"step {run.step - 1}: got loss {loss}, expected a finite number"
        raise CheckpointError(f"training the tokenizer: {got}; lower tokenizer.learning_rate")
    tensors = {"model": run.tokenizer.state_dict(), "optimizer": optimizer_tensors(run.optimizer)}
    checkpoint.save(work, run.step, run.tokenizer.params, tensors, identity, run.rows)
    checkpoint.prune(work, _KEPT_CHECKPOINTS)
