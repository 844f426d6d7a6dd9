"""Finished batches of a sampling run, so that a killed run continues where it stopped.

Each batch is stored under a hash of everything its clips depend on: code, weights, parameters, noise and
inputs. A batch found under its hash is the one that would be made again, and needs no further check.
"""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy, nn

from videomar.config import SampleParams
from videomar.files import atomic_write
from videomar.provenance.code_hash import STAGES, code_hash


class FinishedBatches:
    """The batches of one run. Remembers their folder, the hash of the run, and the time they took."""

    def __init__(self, folder: Path, run_hash: str) -> None:
        self._folder, self._run_hash = folder, run_hash
        self.seconds = 0.0
        """Time to make all clips, including those made by an earlier process."""
        self.seconds_now = 0.0
        """Time to make the clips of this process."""

    def get_or_make(self, name: str, inputs: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """Return the clips (B, F, H, W, 3) of a batch, from the folder or else from `make`.

        Args:
            name: Whatever the clips depend on besides the run and the inputs.
            inputs: Tensors on the CPU.
            make: Called if the batch is missing or damaged.
        """
        path = self._folder / f"{self._key(name, inputs)}.npz"
        stored = _read(path)
        if stored is None:
            start = time.monotonic()
            clips = make()
            stored = clips, time.monotonic() - start
            self.add_seconds(stored[1])
            with atomic_write(path) as draft, draft.open("wb") as file:
                np.savez(file, clips=clips.numpy(), seconds=stored[1])
        else:
            self.seconds += stored[1]
        return stored[0]

    def add_seconds(self, seconds: float) -> None:
        """Count time that this process spent on making or preparing clips."""
        self.seconds += seconds
        self.seconds_now += seconds

    def remove(self) -> None:
        """Delete all batches, once the file that they were made for is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _key(self, name: str, inputs: Sequence[Tensor]) -> str:
        digest = hashlib.sha256(json.dumps([self._run_hash, name]).encode())
        for tensor in inputs:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def hash_of_run(models: Sequence[nn.Module], tokenizer_hash: str, sampling: SampleParams) -> str:
    """Hash of what every batch of a run depends on: code, weights and section `sample`."""
    basis = [code_hash(STAGES["sample"]), tokenizer_hash, asdict(sampling)]
    digest = hashlib.sha256(json.dumps(basis).encode())
    for network in models:
        for name, weight in network.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)}".encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, float] | None:
    """Clips and seconds of a stored batch; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return from_numpy(stored["clips"]), float(stored["seconds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
