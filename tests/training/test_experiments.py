"""`dvc exp run --queue`: two experiments wait, run in copies of the checkout, and are shown together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ENVIRONMENT_AT_START
from tests.training.test_sweep import write_latents, write_params
from videomar import checkpoint
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.environment import apply_settings
from videomar.tracking.mlflow_store import experiment_id, open_client, tracking_uri

ROOT = Path(__file__).parents[2]
STEPS = {"short": 4, "long": 8}
CURRICULUM = "train.curriculum=[{num_latent_frames:0,steps:%d,batch_size:4}]"


def run(folder: Path, *command: str) -> str:
    who = {
        f"GIT_{role}_{what}": "tester@localhost"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    environment = {**ENVIRONMENT_AT_START, **who, "VIRTUAL_ENV": sys.prefix, "DVC_NO_ANALYTICS": "true"}
    # The workers of the queue call `dvc` by its name.
    environment |= {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A commit with the stage `train` alone, as dvc.yaml has it, and what that stage reads."""
    for name in ("videomar", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    (tmp_path / ".gitignore").write_text("/.local/\n__pycache__/\n")
    params = write_params(tmp_path / "params.yaml")
    write_latents(tmp_path / "data/latents", params)
    tokenizer = CausalTokenizer(params.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(tokenizer, tmp_path / "checkpoints/tokenizer")
    (tmp_path / "data/named").mkdir()
    (tmp_path / "data/named/train.json").write_text("{}")  # no weights to start from
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    run(tmp_path, "dvc", "add", "--quiet", "data/latents", "data/named/train.json", "checkpoints/tokenizer")
    run(tmp_path, "git", "add", ".")
    run(tmp_path, "git", "commit", "--quiet", "--message", "start")
    return tmp_path


def test_copy_in_which_dvc_runs_an_experiment_has_the_store_and_the_services_of_its_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC removes such a copy, and all that is below it."""
    copy = tmp_path / ".dvc/tmp/exps/tmpabc"
    copy.mkdir(parents=True)
    for folder in (tmp_path, copy):
        monkeypatch.chdir(folder)
        assert tracking_uri() == f"sqlite:///{tmp_path}/.local/mlflow.db"
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/services.json").write_text('{"tracking_uri": "http://127.0.0.1:5000"}')
    with monkeypatch.context() as changed:
        changed.setenv("MLFLOW_TRACKING_URI", "to be put back")
        del os.environ["MLFLOW_TRACKING_URI"]
        apply_settings()
        assert tracking_uri() == "http://127.0.0.1:5000"


@pytest.mark.slow
def test_queued_experiments_of_other_curricula_are_shown_applied_and_tracked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, steps in STEPS.items():
        run(checkout, "dvc", "exp", "run", "--queue", "--name", name, "--set-param", CURRICULUM % steps)
    run(checkout, "dvc", "exp", "run", "--run-all", "--jobs", "1")
    _, commit = json.loads(run(checkout, "dvc", "exp", "show", "--json"))
    shown = {found["name"]: found["revs"][0]["data"] for found in commit["experiments"]}
    assert set(shown) == set(STEPS)
    for name, steps in STEPS.items():
        figures = shown[name]["metrics"]["metrics/train.json"]["data"]
        assert (figures["steps"], figures["stage_0_end_step"]) == (steps, steps)
        assert shown[name]["params"]["params.yaml"]["data"]["train"]["curriculum"][0]["steps"] == steps
    assert not (checkout / "checkpoints/videomar").exists(), "the checkout itself is as it was"
    run(checkout, "dvc", "exp", "apply", "long")
    assert checkpoint.load(checkout / "checkpoints/videomar").step == STEPS["long"]
    # DVC removes the copies; their runs are in the store of the checkout.
    monkeypatch.chdir(checkout)
    client = open_client()
    found = client.search_runs([experiment_id(client)])
    assert sorted(
        max(m.step for m in client.get_metric_history(one.info.run_id, "loss")) for one in found
    ) == [4, 8]
    assert {one.info.status for one in found} == {"FINISHED"}
