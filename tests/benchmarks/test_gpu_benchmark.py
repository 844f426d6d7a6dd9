"""The script and the tests for GPU machines work where most libraries are missing, and without a GPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.record import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
# What a bare GPU machine lacks.
MISSING = (
    "PIL", "av", "cv2", "decord", "diffusers", "dvc", "filelock", "gradio", "matplotlib", "mlflow", "pandas",
    "peft", "prefect", "psutil", "pydantic", "pydantic_core", "ray", "rich", "ruamel", "scipy", "tqdm",
    "torchmetrics", "typer", "yaml",
)  # fmt: skip
BARE = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *others):
        return None if name.split(".")[0] in {MISSING} else self.finder.find_spec(name, *others)
sys.meta_path[:] = map(Without, sys.meta_path)
import pytest
from benchmarks import gpu
from videomar.training import throughput
throughput._SECONDS_PER_SIZE = 0.01
collected = pytest.main(["-q", "-m", "gpu", gpu.GPU_TESTS, "-p", "no:cacheprovider"])
gpu.run_tests = lambda collect_only: ({{"tests": int(collected)}}, {{}})
sys.exit(gpu.main(["--dry-run", "--out", sys.argv[1]]))
"""


def test_script_and_tests_run_on_a_bare_machine(tmp_path):
    """Every measurement with tiny networks; the tests are found, and skipped for want of a GPU."""
    settings = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path)],
        cwd=ROOT, env=settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "needs a CUDA device" in done.stdout
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == json.loads((tmp_path / "gpu.json").read_text())
    figures = printed["figures"]
    assert (figures["errors"], figures["tests"], figures["dry_run"]) == ({}, 0, True)
    rate = figures["training_small_step_tflop_per_s"] / figures["matmul_bfloat16_tflop_per_s"]
    assert printed["ratios"]["matmul_share_small"] == pytest.approx(rate)
    seconds = figures["sampling_small_frame_plain_s"] / figures["sampling_small_frame_recorded_s"]
    assert printed["ratios"]["recorded_vs_launches_small"] == pytest.approx(seconds)
    assert printed["ratios"]["memory_vs_formula_small"] > 0
    assert figures["sampling_small_finite"]
    assert figures["sampling_small_bfloat16_difference"] == 0  # a CPU generates in float32
    assert figures["tokenizer_encode_frames_per_s"] > 0


def test_script_says_that_there_is_no_gpu(capsys):
    assert gpu.main([]) == 1
    assert "got no GPU, expected a GPU that PyTorch can use" in capsys.readouterr().err


def test_part_that_fails_is_named_and_the_others_go_on(monkeypatch):
    def broken(found):
        raise RuntimeError("out of\n memory")

    parts = [("first", broken), ("second", lambda found: ({"known": len(found["errors"])}, {"share": 0.5}))]
    monkeypatch.setattr(gpu, "_parts", lambda setting, dry_run: iter(parts))
    setting = gpu.Setting(torch.device("cpu"), 0.0, (), gpu._SMALL_CODER, (9, 32))
    figures, ratios = gpu.measure(setting)
    assert figures["errors"] == {"first": "RuntimeError: out of memory"}
    assert (figures["known"], ratios) == (1, {"share": 0.5})


def test_batch_is_the_largest_that_fits_by_formula():
    preset = gpu.PRESETS["paper"]
    shape = gpu.ModelShape(preset.model, gpu.LATENT_CHANNELS, *reversed(preset.caption))
    params = gpu.train_params(preset.objective, 2, 1e-4, "bfloat16")
    batches = [gpu._fitting_batch(preset, shape, params, size) for size in (0.0, 1.0, 80.0, 1e6)]
    assert batches[0] == 2
    assert batches[1] == 1
    assert 1 < batches[2] < batches[3] == gpu._LARGEST_BATCH

    def needed(batch):
        return gpu.training_memory(shape, gpu._part_of(preset, batch), params).total_gb

    assert needed(batches[2]) <= 80 < needed(2 * batches[2])


@pytest.mark.slow
def test_gpu_tests_pass_on_a_fake_gpu():
    """What they compare is then the CPU with itself, but their own mistakes show."""
    code = "import sys, pytest; from tests.support.fake_cuda import FakeCuda\n"
    code += f"with FakeCuda(): sys.exit(pytest.main(['-q', '-m', 'gpu', '{gpu.GPU_TESTS}']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "needs a CUDA device" not in done.stdout
