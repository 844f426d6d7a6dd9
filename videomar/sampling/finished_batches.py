"""Finished batches of a sampling run, so that one that was killed goes on where it stopped.

A part lies under a hash of all that its clips depend on: code, weights, parameters, noise, inputs. One that
is there under the hash that is asked for is the one that would be made again; nothing else is looked at.
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


class Parts:
    """The parts of one run. Remembers their folder, what all depend on, and the time they took."""

    def __init__(self, folder: Path, basis: str) -> None:
        self._folder, self._basis = folder, basis
        self.seconds = 0.0
        """Seconds that making clips took, those of an earlier process included."""
        self.seconds_now = 0.0
        """Those of this process."""

    def part(self, name: str, inputs: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """The clips (B, F, H, W, 3) that `make` gives, from the folder if they are there.

        Args:
            name: All that they depend on besides the basis and the inputs.
            inputs: Tensors on the CPU.
            make: Called if the part is missing or damaged.
        """
        path = self._folder / f"{self._key(name, inputs)}.npz"
        stored = _read(path)
        if stored is None:
            start = time.monotonic()
            clips = make()
            stored = clips, time.monotonic() - start
            self.spend(stored[1])
            with atomic_write(path) as draft, draft.open("wb") as file:
                np.savez(file, clips=clips.numpy(), seconds=stored[1])
        else:
            self.seconds += stored[1]
        return stored[0]

    def spend(self, seconds: float) -> None:
        """Count seconds that this process made clips, or prepared to."""
        self.seconds += seconds
        self.seconds_now += seconds

    def remove(self) -> None:
        """Forget all parts: what they were for is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _key(self, name: str, inputs: Sequence[Tensor]) -> str:
        digest = hashlib.sha256(json.dumps([self._basis, name]).encode())
        for tensor in inputs:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def basis_of(models: Sequence[nn.Module], tokenizer_hash: str, sampling: SampleParams) -> str:
    """Hash of what every part of a run depends on: code, weights and section `sample`."""
    facts = [code_hash(STAGES["sample"]), tokenizer_hash, asdict(sampling)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for network in models:
        for name, weight in network.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)}".encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, float] | None:
    """Clips and seconds of a part; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return from_numpy(stored["clips"]), float(stored["seconds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
