"""Flows on the whole pipeline of `tests/repository/test_pipeline.py`: models that are really trained."""

import hashlib
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import yaml

from tests.repository.test_pipeline import ROOT, checkout, dvc, run, set_params
from videomar.evaluation.fingerprint import read_details, why_incomparable

pytestmark = pytest.mark.slow
__all__ = ["checkout"]
CLAIMS = """
base:
  suite: {simulated_clips: 3, real_clips: 2, extra_clips: 0, long_clips: 2, metric_clips: 2, feature_clips: 0}
claims:
  - name: next-frame loss
    about: Two ways to learn, one of which is of the benchmarks alone.
    base:
      model: {residual: false, feed_previous: false, conditions: []}
      train: {objective: single_frame}
    sides:
      one frame: {}
      whole clip: {method: whole_clip}
    statements:
      - {says: Frame after frame is better, better: one frame, than: whole clip}
"""
SWEEP = """
import json, sys
from flows.sweep import sweep
state = sweep(**json.loads(sys.argv[1]), return_state=True)
print(state.name, state.message)
"""


def bytes_of(*places: Path) -> dict[str, str]:
    files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def figures(path: Path) -> dict[str, float]:
    costs = ("seconds", "time_share", "peak_memory_gb")
    return {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith(costs)}


def version_tags(checkout: Path, number: str) -> dict[str, str]:
    store = f"sqlite:///{checkout / '.local/mlflow.db'}"
    client = mlflow.MlflowClient(store, registry_uri=store)  # else a server of another test may be asked
    return dict(client.get_model_version("videomar", number).tags)


def tasks_of(checkout: Path) -> set[str]:
    """Names of all tasks that Prefect has run."""
    with closing(sqlite3.connect(checkout / ".local/prefect/prefect.db")) as database:
        return {name for (name,) in database.execute("SELECT name FROM task_run")}


def test_claims_are_judged_by_a_finished_run_and_nothing_is_made_twice(
    checkout: Path, tmp_path: Path
) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(ROOT / "benchmarks", checkout / "benchmarks", ignore=ignored)
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    claims = [sys.executable, "-m", "benchmarks.claims", "--data", ".", "--params", "params.yaml"]
    claims += ["--claims", tmp_path / "claims.yaml", "--only", "next-frame loss"]
    claims += ["--steps", "4", "--seeds", "2", "--jobs", "2"]
    claims += ["--work", tmp_path / "work", "--results", tmp_path, "--page", tmp_path / "page.md"]
    done = run(checkout, *claims)
    assert done.returncode == 0, done.stdout + done.stderr
    (claim,) = json.loads((tmp_path / "claims.json").read_text())["figures"]["claims"]
    assert {side["steps"] for side in claim["sides"].values()} == {4}
    assert all(statement["lead"] for statement in claim["statements"])
    page = (tmp_path / "page.md").read_text()
    assert all(
        f"| {statement['says']} | **{statement['verdict']}** |" in page for statement in claim["statements"]
    )
    assert (tmp_path / "images/claims_next_frame_loss.webp").is_file()
    store = f"sqlite:///{checkout / '.local/mlflow.db'}"
    client = mlflow.MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "tags.benchmark = 'work' and attributes.status = 'FINISHED'")
    assert len(found) == 2 * 2

    made = bytes_of(tmp_path / "work")
    again = run(checkout, *claims)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "making" not in again.stderr
    assert bytes_of(tmp_path / "work") == made


def test_version_of_another_tokenizer_is_judged_on_latents_of_its_own(checkout: Path) -> None:
    """The figures of its release come out again, though the checkout has gone on to another tokenizer."""
    released = run(checkout, sys.executable, "-m", "flows.release")
    assert released.returncode == 0, released.stdout + released.stderr
    first = figures(checkout / "metrics/evaluate.json")
    details = read_details(checkout / "data/evaluation.json")
    tokenizer = checkout / "checkpoints/tokenizer/tokenizer.safetensors"
    before = bytes_of(tokenizer)
    set_params(checkout, {"tokenizer": {"seed": 1}})
    again = run(checkout, sys.executable, "-m", "dvc", "repro", "--single-item", "train_tokenizer")
    assert again.returncode == 0, again.stdout + again.stderr
    assert bytes_of(tokenizer) != before
    kept = [checkout / name for name in ("data", "checkpoints", "metrics", "plots", "dvc.lock")]
    before = bytes_of(*kept)

    done = run(checkout, sys.executable, "-m", "flows.evaluate_version", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    out = checkout / ".local/evaluations/1"
    assert figures(out / "metrics/evaluate.json") == pytest.approx(first, abs=1e-6)
    assert why_incomparable(read_details(out / "data/evaluation.json"), details) == []
    assert list((out / "data/latents").glob("*.parquet")), "encoded by its own tokenizer"
    assert bytes_of(*kept) == before


def test_changed_code_and_suite_have_the_champion_judged_again_and_the_gate_decides_by_numbers(
    checkout: Path,
) -> None:
    """No `--force` but for the first champion, which eight steps of training do not make."""
    promote = [sys.executable, "-m", "videomar.cli", "promote"]
    forced = run(checkout, *promote, "1", "--force", "--reason", "a test")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    with (checkout / "videomar/evaluation/metrics/fidelity.py").open("a") as code:
        code.write("\n\ndef unused() -> int:\n    return 1\n")
    set_params(checkout, {"suite": {"simulated_clips": 2}})
    dvc(checkout, "repro")
    released = run(checkout, sys.executable, "-m", "flows.release")
    assert released.returncode == 0, released.stdout + released.stderr
    assert "videomar version 1 (checkpoint step 8) is judged again" in released.stderr
    decision = version_tags(checkout, "2")["decision"]
    assert "Not comparable" not in decision
    assert "simulated continuation over the champion" in decision
    (key,) = [name for name in version_tags(checkout, "1") if name.startswith("judged_again.")]
    assert json.loads(decision)["champion_evidence"] == f"evidence/{key.replace('.', '/')}"
    assert {"encode", "sample", "evaluate"} <= tasks_of(checkout), "the stages are tasks of the flow"

    again = run(checkout, *promote, "2")
    assert again.returncode == 1
    assert "judged again (" in again.stderr
    assert "is judged again" not in again.stderr, "what is kept is taken"


def test_sweep_is_an_experiment_of_the_best_run_under_one_mlflow_run(checkout: Path) -> None:
    run(checkout, "git", "add", ".")
    assert run(checkout, "git", "commit", "-qm", "first").returncode == 0
    params = (checkout / "params.yaml").read_bytes()
    model = bytes_of(checkout / "checkpoints/videomar")
    runs = [{"name": "base"}, {"name": "wild", "train": {"learning_rate": 1000.0}}]
    arguments = {"runs": runs, "search": {}, "num_samples": 1, "select_by": "loss", "hours_per_stage": 1}
    done = run(checkout, sys.executable, "-c", SWEEP, json.dumps(arguments))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("Completed best of 2 runs: base with loss"), done.stdout + done.stderr
    (name,) = run(checkout, sys.executable, "-m", "dvc", "exp", "list", "--name-only").stdout.split()
    assert f"dvc exp apply {name}" in summary
    assert (checkout / "params.yaml").read_bytes() == params
    assert bytes_of(checkout / "checkpoints/videomar") == model
    client = mlflow.MlflowClient(f"sqlite:///{checkout / '.local/mlflow.db'}")
    experiment = client.get_experiment_by_name("videomar").experiment_id
    (parent,) = client.search_runs([experiment], "tags.best_run = 'base'")
    assert len(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")) == 2

    second = run(checkout, sys.executable, "-c", SWEEP, json.dumps(arguments)).stdout.splitlines()[-1]
    assert second == f"Skipped experiment {name} has exactly these runs"
    applied = run(checkout, sys.executable, "-m", "dvc", "exp", "apply", name)
    assert applied.returncode == 0, applied.stderr
    assert yaml.safe_load((checkout / "params.yaml").read_text())["train"]["runs"] == runs
    status = json.loads(run(checkout, sys.executable, "-m", "dvc", "status", "--json", "train").stdout)
    assert "train" not in status


def test_fine_tuned_version_has_a_parent_and_nothing_is_left_to_do_under_another_name(checkout: Path) -> None:
    """Training on from version 1, with its tokenizer, through `dvc repro` and a release."""
    assert run(checkout, sys.executable, "-m", "flows.release").returncode == 0
    set_params(checkout, {"train": {"start_from": 1, "runs": [], "learning_rate": 1e-4}})
    dvc(checkout, "repro")
    named = json.loads((checkout / "data/named/train.json").read_text())
    sha256 = named["train.start_from"]["weights"]
    parent = version_tags(checkout, "1")
    assert sha256 == parent["weights_sha256"]
    released = run(checkout, sys.executable, "-m", "flows.release")
    assert released.returncode == 0, released.stdout + released.stderr
    store = f"sqlite:///{checkout / '.local/mlflow.db'}"
    client = mlflow.MlflowClient(store, registry_uri=store)
    child = client.get_model_version_by_alias("videomar", "challenger").tags
    assert (child["parent"], child["parent_weights_sha256"]) == ("videomar version 1", sha256)
    assert child["tokenizer_sha256"] == parent["tokenizer_sha256"]
    assert "videomar version 1" in (checkout / "reports/index.html").read_text()
    set_params(checkout, {"train": {"start_from": f"checkpoints/videomar.start/{sha256[:12]}"}})
    again = dvc(checkout, "repro")
    assert "train: nothing that its output depends on has changed" in again
    assert json.loads((checkout / "data/named/train.json").read_text()) == named
