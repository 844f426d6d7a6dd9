"""Load the tokenizer in a folder, whichever it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from videomar.encoders.causal import PARAMS_FILE, WEIGHTS_FILE, causal_files, load_causal
from videomar.encoders.cosmos import TORCHSCRIPT_FILES, TorchScriptCosmos, torchscript_files
from videomar.encoders.diffusers_folder import DIFFUSERS_FILES, diffusers_files
from videomar.encoders.diffusers_video import load_diffusers_video
from videomar.encoders.tokenizer import VideoTokenizer
from videomar.errors import CheckpointError

_KINDS: tuple[tuple[Callable[[Path], list[Path]], Callable[[Path], VideoTokenizer]], ...] = (
    (causal_files, load_causal),
    (diffusers_files, load_diffusers_video),
    (torchscript_files, TorchScriptCosmos),
)


def load_tokenizer(folder: Path, device: torch.device | str = "cpu") -> VideoTokenizer:
    """Load the tokenizer in `folder` for inference: ours, one of diffusers, or TorchScript files.

    Raises:
        CheckpointError: files are missing or do not fit together.
    """
    tokenizer = _kind(folder)[1](folder)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(device)
    return tokenizer


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer in `folder`: all that `load_tokenizer` reads.

    Raises:
        CheckpointError: as `load_tokenizer`.
    """
    return _kind(folder)[0]


def copy_tokenizer(folder: Path, out: Path, device: torch.device | str = "cpu") -> VideoTokenizer:
    """Copy the files of the tokenizer in `folder` to `out`, which is emptied before, and load it from there.

    Raises:
        CheckpointError: files are missing or do not fit together, or both folders are the same.
    """
    if folder.resolve() == out.resolve():
        raise CheckpointError(f"{folder}: got it as source and target, expected two folders; choose another")
    files, _ = _kind(folder)
    shutil.rmtree(out, ignore_errors=True)  # old files could be taken for another kind
    out.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, out / file.name)
    return load_tokenizer(out, device)


def _kind(folder: Path) -> tuple[list[Path], Callable[[Path], VideoTokenizer]]:
    """Return the tokenizer's files in `folder`, and the function that loads them."""
    for files_of, load in _KINDS:
        if files := files_of(folder):
            return files, load
    found = sorted(path.name for path in folder.glob("*"))[:8]
    diffusers = f"{' and '.join(DIFFUSERS_FILES)} (a video autoencoder of diffusers)"
    raise CheckpointError(
        f"{folder}: got {', '.join(found) or 'no file'}, expected {PARAMS_FILE} and {WEIGHTS_FILE} (ours), "
        f"{diffusers}, or {' and '.join(TORCHSCRIPT_FILES)}; "
        "run `dvc repro train_tokenizer`, or let tokenizer.pretrained name a folder with them"
    )
