"""Runs side by side that have several workers each, and GPUs that are not there."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support.deadlines import within
from tests.support.two_workers import on_two_workers
from tests.training.conftest import files_of
from tests.training.test_sweep import write_latents, write_params
from videomar.checkpoint.manifest import ModelShape
from videomar.config.params import variants_of
from videomar.errors import DataError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.training.launch import RunSpec
from videomar.training.loop import train
from videomar.training.sweep import train_runs
from videomar.training.worker import Worker

pytestmark = pytest.mark.slow
DEADLINE_S = 480


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder and a store of its own; a run that hangs is a failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with within(DEADLINE_S):
        yield


def test_runs_of_two_workers_each_end_with_the_bits_of_two_processes(tmp_path: Path) -> None:
    """On Ray Tune every run starts a TorchTrainer of its own; one of them refuses, and the others go on."""
    wild = {"learning_rate": 1e30, "warmup_steps": 1, "max_grad_norm": 1e30}
    runs = [{"name": "base"}, {"name": "wild", "train": wild}, {"name": "thin", "model": {"depth": 1}}]
    params = write_params(tmp_path / "params.yaml", num_workers=2, runs=runs)
    latents = write_latents(tmp_path / "latents", params)
    figures = train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    table = pd.read_csv(tmp_path / "out.runs/runs.csv").set_index("run")
    assert table["state"].to_dict() == {"base": "finished", "wild": "failed", "thin": "finished"}
    assert "training: step" in table.loc["wild", "error"]
    assert (figures["runs"], figures["runs_failed"], figures["steps"]) == (3, 1, 12)
    for name in ("base", "thin"):
        own = variants_of(params)[name][1]

        def plain(worker: Worker, name: str = name, own=own) -> None:
            data, val = (LatentDataset(latents, split, own.text.max_tokens) for split in ("train", "val"))
            shape = ModelShape(own.model, data.latent_channels, data.text_channels, own.text.max_tokens)
            train(shape, Splits(data, val), own.train, tmp_path / "plain" / name, worker, None)

        assert on_two_workers(plain) == [None, None]
        assert files_of(tmp_path / "out.runs" / name) == files_of(tmp_path / "plain" / name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("runs", [[], [{"name": "a"}]])
def test_gpu_that_is_not_there_is_refused_instead_of_waited_for(tmp_path: Path, runs: list[object]) -> None:
    params = write_params(tmp_path / "params.yaml", device="cuda", runs=runs)
    latents = write_latents(tmp_path / "latents", params)
    with pytest.raises(
        DataError, match=r"resources\.train\.device: got cuda and 0 GPUs for 1 worker"
    ) as refused:
        train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    assert "\n" not in str(refused.value)
