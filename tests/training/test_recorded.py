"""What MLflow holds of a real run, by name: all that a user may ask for after it."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run

import videomar
from tests.conftest import small_params
from tests.training.test_sweep import write_latents
from videomar.compute.seeding import step_generator
from videomar.config import load_generation_params
from videomar.config.section import free_keys
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError
from videomar.latents.dataset import LatentDataset
from videomar.latents.keys import expected_metadata
from videomar.provenance.checkout import made_from
from videomar.sampling.generate import ClipGenerator
from videomar.sampling.previews import FILM, SHEET, Previews
from videomar.tracking.mlflow_store import open_client
from videomar.tracking.runs import read_run_id
from videomar.training.launch import RunSpec, work
from videomar.training.worker import Worker

pytestmark = pytest.mark.slow
STEPS = 12
FIGURES = {
    "loss",
    "val_loss",
    "grad_norm",
    "learning_rate",
    "ema_decay",
    "stage",
    "skipped",
    "tokens_per_s",
    "supervised_tokens_per_s",
    "data_wait_share",
    "mfu",
    "peak_memory_gb",
    "loss/stage_0",
    "loss/stage_1",
    "loss/frame_1",
    "loss/frame_2",
}
MACHINE = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_percentage",
    "system/disk_usage_percentage",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of one worker, as a process of Ray does it, with a store in a SQLite file."""
    folder = tmp_path_factory.mktemp("recorded")
    params = small_params()
    sampling = dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=2)
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, preview_every=STEPS))
    tokenizer = CausalTokenizer(params.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(tokenizer, folder / "tokenizer")
    (folder / "dvc.lock").write_text("a lock")
    previews = Previews(
        latents=write_latents(folder / "latents", params),
        tokenizer=folder / "tokenizer",
        max_text_tokens=params.text.max_tokens,
        sampling=sampling,
        fps=8.0,
    )
    with pytest.MonkeyPatch.context() as changed:
        changed.chdir(folder)
        coder, tags = folder / "tokenizer", made_from(folder)
        spec = RunSpec(folder / "latents", folder / "run", params, tags, coder, previews.write)
        changed.setenv("MLFLOW_TRACKING_URI", spec.tracking_uri)
        work(spec, Worker(), lambda step, figures: _wait_for_load(folder / "run"))
        yield folder


def _wait_for_load(out: Path) -> None:
    """The machine's load is taken every ten seconds, and the first time once the store has the run."""
    until = time.monotonic() + 60
    while not read_run_id(out / "run.json") and time.monotonic() < until:
        time.sleep(0.05)
    if not any("system/" in box.read_text() for box in out.glob("outbox/*/lines.jsonl")):
        time.sleep(1.0)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return open_client().get_run(str(read_run_id(folder / "run/run.json")))


def test_every_checkpoint_of_the_run_is_a_whole_model(folder: Path) -> None:
    for checkpoint in sorted((folder / "run").glob("step_*")):
        assert (checkpoint / "README.md").read_text().startswith("---\nlibrary_name:")
        with pytest.raises(DataError, match="minilm: got caption states of 384 channels, expected 6 as the"):
            videomar.load(checkpoint)  # the captions of this test are drawn
        found = load_generation_params(checkpoint / "params.yaml")
        silent = dataclasses.replace(found, text=dataclasses.replace(found.text, encoder="none"))
        model = ClipGenerator(checkpoint, params=silent)
        picture = np.zeros((16, 16, 3), np.uint8)
        assert model(picture, frames=5, size=(16, 16)).shape == (5, 16, 16, 3)


def test_every_figure_is_there_up_to_the_last_step(run: Run) -> None:
    assert set(run.data.metrics) >= FIGURES | MACHINE
    client = open_client()
    for name in ("loss", "tokens_per_s", "mfu", "loss/frame_1", "loss/stage_1"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps[-1] == STEPS, name
        assert len(steps) == len(set(steps)) > 2, name
    first = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/stage_0")]
    assert max(first) == 6


def test_every_parameter_is_there_and_what_a_restart_may_change_is_a_tag(run: Run) -> None:
    train = {f"train.{field.name}" for field in dataclasses.fields(small_params().train)}
    free = {f"train.{name}" for name in free_keys(small_params().train)}
    assert train - free <= set(run.data.params)
    assert free <= set(run.data.tags)
    assert not free & set(run.data.params)
    assert {"text.encoder", "model.hidden_size", "model.head"} <= set(run.data.params)
    assert run.data.params["train.learning_rate"] == "0.002"
    assert "'steps': 6" in run.data.params["train.curriculum"]


def test_origin_of_the_run_is_there(folder: Path, run: Run) -> None:
    tags = run.data.tags
    assert tags["lock_sha256"] == made_from(folder)["lock_sha256"] != "none"
    assert {"git_commit", "git_dirty", "torch", "device"} <= set(tags)
    params = small_params()
    dataset = LatentDataset(folder / "latents", "train", params.text.max_tokens, expected_metadata(params))
    assert tags["data_hash"] == dataset.content_hash
    (read,) = run.inputs.dataset_inputs
    assert dataset.content_hash.startswith(read.dataset.digest)
    assert (read.dataset.name, read.dataset.source) == ("latents", str(folder / "latents"))


def test_stages_say_their_batch_and_why_they_ended(run: Run) -> None:
    assert run.data.tags["stage_0_batch_size"] == run.data.tags["stage_1_batch_size"] == "4"
    assert run.data.tags["stage_0_ended"] == "after step 6: steps"
    assert run.data.tags["stage_1_ended"] == "after step 12: steps"
    assert run.info.status == "FINISHED"


def test_sample_clips_and_their_contact_sheet_are_artifacts(run: Run) -> None:
    place = f"previews/step_{STEPS:08d}"
    files = {file.path: file.file_size for file in open_client().list_artifacts(run.info.run_id, place)}
    assert set(files) == {f"{place}/{SHEET}", f"{place}/{FILM}"}
    assert min(files.values()) > 500
