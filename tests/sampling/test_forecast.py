"""Memory and time that are foretold for a clip, against what it then takes."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_model import write_tiny_model
from videomar.config import Params
from videomar.sampling import forecast
from videomar.sampling.forecast import bytes_needed, free_bytes, seconds_needed
from videomar.sampling.generate import ClipGenerator, GenerationRequest

PICTURE = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
MEASURED = """
import json, sys
import numpy, torch
from pathlib import Path
from videomar.sampling.forecast import bytes_needed
from videomar.sampling.generate import ClipGenerator, GenerationRequest
torch.set_num_threads(1)
model = ClipGenerator(Path(sys.argv[1]), "cpu")
picture = numpy.zeros((1, 64, 64, 3), numpy.uint8)
model(picture[0])
def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
size, frames = json.loads(sys.argv[2])
plan = model.plan(picture, GenerationRequest(num_frames=frames, size=(size, size)))
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
before = kilobytes("VmRSS")
model(picture[0], frames=frames, size=(size, size))
print(json.dumps([(kilobytes("VmHWM") - before) * 1024, bytes_needed(model, plan)]))
"""


@pytest.fixture(scope="module")
def folder(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(params, tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of memory")
@pytest.mark.parametrize(("size", "frames"), [(512, 9), (256, 65)])
def test_memory_is_foretold_within_a_factor_of_two(folder: Path, size: int, frames: int) -> None:
    command = [sys.executable, "-c", MEASURED, str(folder), json.dumps([size, frames])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured, foretold = json.loads(done.stdout)
    assert 0.5 < foretold / measured < 2, (measured, foretold)


def test_memory_grows_with_the_window_and_not_with_the_clip(folder: Path) -> None:
    model = ClipGenerator(folder, "cpu")

    def needed(window: int, frames: int) -> int:
        sample = dataclasses.replace(model.params.sample, window_frames=window)
        model.params = dataclasses.replace(model.params, sample=sample)
        return bytes_needed(model, model.plan(PICTURE, GenerationRequest(num_frames=frames, size=(64, 64))))

    pixels = 64 * 64 * 3 * forecast._BYTES_OF_A_VALUE
    assert needed(3, 801) - needed(3, 401) == 400 * pixels
    assert needed(9, 801) > needed(3, 801)


def test_free_memory_is_some_of_this_machine() -> None:
    free = free_bytes(torch.device("cpu"))
    if Path("/proc/meminfo").is_file():
        assert free is not None
        assert 2**20 < free < 2**50


def test_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(forecast, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) != 600_000


def test_short_clip_is_not_probed(folder: Path) -> None:
    model = ClipGenerator(folder, "cpu")
    assert seconds_needed(model, PICTURE, GenerationRequest()) is None


@pytest.mark.quiet
def test_time_is_foretold_within_a_factor_of_two(folder: Path) -> None:
    model, request = ClipGenerator(folder, "cpu"), GenerationRequest(num_frames=65, size=(128, 128))
    model(PICTURE[0], size=(128, 128))  # warms up
    foretold = seconds_needed(model, PICTURE, request)
    start = time.perf_counter()
    for _ in model.partial_clips(PICTURE, request):
        pass
    measured = time.perf_counter() - start
    assert foretold is not None
    assert 0.5 < foretold / measured < 2, (measured, foretold)
