"""A file that fails beside others is read alone. The children import this module, so it imports little."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.imports import loaded_by
from videomar.config import IngestParams
from videomar.curation.read_files import read_files


def fail_first(file: str) -> str:
    """Does what the name of the file says, the first time."""
    path = Path(file)
    if path.exists():
        path.unlink()
        if "killed" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "no library" in path.name:
            raise ImportError("libx.so: cannot open shared object file")
    if "grows" in path.name:
        np.ones(75_000_000)
    if "hangs" in path.name:
        signal.pause()
    return path.name


@pytest.mark.slow
def test_file_that_failed_beside_others_is_read_alone(tmp_path: Path, ingest_params: IngestParams) -> None:
    """With the memory of all processes; what still fails has the reason of that."""
    names = ["a", "killed", "no library", "grows", "hangs", "z"]
    for name in names:
        (tmp_path / name).touch()
    params = dataclasses.replace(ingest_params, num_workers=2, memory_gb=0.5, timeout_s=4.0)
    results = read_files(fail_first, [str(tmp_path / name) for name in names], params)
    assert results == ["a", "killed", "no library", "grows", "timeout", "z"]


def test_processes_that_read_videos_import_no_slow_library() -> None:
    """Each of them imports the stage, as its main module: what takes long would count for every process."""
    slow = ("pandas", "scipy", "torch", "mlflow", "matplotlib")
    assert loaded_by("import stages.ingest", *slow, "stages.ingest") == ["stages.ingest"]
