"""Runs side by side: a driver that is killed in the middle and begins again, against the plain loop."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.conftest import ENVIRONMENT_AT_START, small_params
from tests.support.caches import write_cache
from tests.training.conftest import files_of
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.config.params import load_params, variants_of
from videomar.config.schema import set_keys
from videomar.errors import CheckpointError, DataError, ParamsError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import read_rows, write_shards
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.training.launch import RunSpec
from videomar.training.loop import train
from videomar.training.run_folder import archive_path, claim_run_folder
from videomar.training.sweep import _best, _runs, train_runs
from videomar.training.sweep_runs import Run, archive_others, publish
from videomar.training.worker import Worker

ROOT = Path(__file__).parent.parent.parent
LONG = 480
DRIVER = """
import json, sys
from pathlib import Path
from videomar.config.params import load_params
from videomar.training.launch import RunSpec
from videomar.training.sweep import train_runs
params = load_params(Path("params.yaml"))
figures = train_runs(RunSpec(Path("latents").resolve(), Path("checkpoints/videomar").resolve(), params, {}))
Path("figures.json").write_text(json.dumps(figures))
"""


def write_latents(folder: Path, params: Params) -> Path:
    """A small cache whose last clips are held out, made as the parameters ask."""
    rows = list(read_rows(write_cache(folder)))
    rows = [{**row, "split": "val" if row["clip_id"] >= "clip009" else "train"} for row in rows]
    write_shards(folder, rows, 100, expected_metadata(params))
    return folder


def write_params(path: Path, **train: object) -> Params:
    values = json.loads(json.dumps(dataclasses.asdict(small_params())))
    values["train"] |= train
    raw: dict[str, object] = {}
    set_keys(raw, values)
    path.write_text(yaml.safe_dump(raw))
    return load_params(path)


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**ENVIRONMENT_AT_START, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER], cwd=folder, env=environment, stdout=output, stderr=output
        )


def wait_for(path: Path, process: subprocess.Popen[bytes], output: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, output.read_text()[-3000:]
        assert time.monotonic() < until, f"{path} has not come"
        time.sleep(0.05)


def steps_kept(folder: Path) -> dict[str, int]:
    """Checkpoints of a run, each with the time it was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("step_*/checkpoint.json")}


def of_plain_loop(params: Params, latents: Path, out: Path) -> dict[str, bytes]:
    dataset, val = (LatentDataset(latents, split, params.text.max_tokens) for split in ("train", "val"))
    shape = ModelShape(params.model, dataset.latent_channels, dataset.text_channels, params.text.max_tokens)
    torch.set_num_threads(params.train.threads_per_worker)
    train(shape, Splits(dataset, val), params.train, out, Worker(), None)
    return files_of(out)


@pytest.mark.slow
def test_sweep_killed_in_the_middle_repeats_nothing_and_ends_with_the_bits_of_single_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run is done, one has failed and one is under way when the driver dies."""
    long = [{"num_latent_frames": 0, "steps": LONG, "batch_size": 4}]
    params = write_params(
        tmp_path / "params.yaml",
        checkpoint_every=10,
        runs=[
            {"name": "short"},
            {"name": "wild", "train": {"learning_rate": 1e30, "warmup_steps": 1, "max_grad_norm": 1e30}},
            {"name": "long", "train": {"curriculum": long}, "model": {"depth": 1}},
        ],
    )
    latents = write_latents(tmp_path / "latents", params)
    runs = tmp_path / "checkpoints/videomar.runs"
    driver = start(tmp_path)
    wait_for(runs / "short/step_00000012", driver, tmp_path / "output")
    wait_for(runs / "long/step_00000020", driver, tmp_path / "output")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(2)  # its processes notice
    done = steps_kept(runs / "short")
    assert "step_00000012" in done
    cut = max(path.name for path in (runs / "long").glob("step_*"))
    assert cut < f"step_{LONG:08d}"

    assert start(tmp_path).wait(timeout=150) == 0, (tmp_path / "output").read_text()[-3000:]
    output = (tmp_path / "output").read_text()
    assert f"continuing from {runs / 'long'}" in output or steps_kept(runs / "long")
    assert steps_kept(runs / "short") == {"step_00000012": done["step_00000012"]}
    for name, (_, own) in variants_of(params).items():
        if name != "wild":
            alone = of_plain_loop(own, latents, tmp_path / "alone" / name)
            assert files_of(runs / name) == alone, name

    table = pd.read_csv(runs / "runs.csv").set_index("run")
    assert table["state"].to_dict() == {"short": "finished", "wild": "failed", "long": "finished"}
    assert "step" in table.loc["wild", "error"]
    best = table.loc[["short", "long"], "val_loss"].idxmin()
    assert table["best"].to_dict() == {name: int(name == best) for name in table.index}
    assert files_of(tmp_path / "checkpoints/videomar") == files_of(runs / best)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["runs"], figures["runs_failed"]) == (3, 1)
    assert figures["best_run"] == list(table.index).index(best)
    assert checkpoint.load(tmp_path / "checkpoints/videomar").step == table.loc[best, "steps"]
    _check_tracking(tmp_path, monkeypatch)


def _check_tracking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run above three, each there once; the one that was cut off has no step twice."""
    monkeypatch.chdir(folder)
    client = open_client()
    found = client.search_runs([experiment_id(client)])
    below = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    above = [run for run in found if run not in below]
    assert (len(above), len(below)) == (1, 3)
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above[0].info.run_id}
    assert above[0].info.status == "FINISHED"
    assert {run.info.run_name for run in below} == {"short", "wild", "long"}
    assert sorted(run.info.status for run in below) == ["FAILED", "FINISHED", "FINISHED"]
    for run in below:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")]
        assert len(steps) == len(set(steps))
    assert {file.path for file in client.list_artifacts(above[0].info.run_id, "runs")} >= {"runs/curves.png"}


@pytest.mark.slow
def test_asha_ends_worse_runs_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The worse run is also the slower one: who comes second to a decision is judged by who was there. A busy
    # machine may start it first: so the good one is better at the first decision already.
    quick, slow = ([{"num_latent_frames": 0, "steps": 64, "batch_size": size}] for size in (16, 64))
    params = write_params(
        tmp_path / "params.yaml",
        curriculum=quick,
        validate_every=16,
        checkpoint_every=40,
        asha=True,
        learning_rate=0.02,
        runs=[{"name": "good"}, {"name": "idle", "train": {"learning_rate": 1e-12, "curriculum": slow}}],
    )
    latents = write_latents(tmp_path / "latents", params)
    figures = train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    table = pd.read_csv(tmp_path / "out.runs/runs.csv").set_index("run")
    assert table["state"].to_dict() == {"good": "finished", "idle": "stopped early"}
    assert (figures["best_run"], figures["runs_stopped"], figures["steps"]) == (0, 1, 64)
    before = steps_kept(tmp_path / "out.runs/idle")
    train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    assert steps_kept(tmp_path / "out.runs/idle") == before


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"runs": [{"name": "a", "train": {"lerning_rate": 1.0}}]}, "run a: train.lerning_rate: unknown key"),
        ({"runs": [{"name": "a", "model": {"depth": 1.5}}]}, "run a: model.depth: got 1.5"),
        ({"runs": [{"name": "a", "model": {"num_heads": 5}}]}, "run a: model.num_heads: got 5"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "run a: got two runs of this name"),
        ({"runs": [{"name": "a", "train": {"runs": []}}]}, "run a: got train.runs"),
        ({"runs": [{"name": "../a"}]}, "got '../a', expected letters"),
        ({"asha": True, "num_workers": 2}, "train.asha: got true, expected false"),
        ({"search": {"train": {"seed": []}}}, "train.search.train.seed: got no value"),
        ({"search": {"model": {"dpth": [1]}}}, "run search_000: model.dpth: unknown key"),
        ({"search": {"train": {"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}}, "above 0"),
    ],
)
def test_wrong_run_is_refused_with_its_name_when_the_parameters_are_read(
    tmp_path: Path, train: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        write_params(tmp_path / "params.yaml", **train)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_search_of_lists_is_every_combination(tmp_path: Path) -> None:
    search = {"train": {"learning_rate": [0.1, 0.2]}, "model": {"depth": [1, 2, 3]}}
    variants = variants_of(write_params(tmp_path / "params.yaml", search=search))
    got = [(own.train.learning_rate, own.model.depth) for _, own in variants.values()]
    assert got == [(rate, depth) for rate in (0.1, 0.2) for depth in (1, 2, 3)]


def test_search_with_a_range_draws_samples_of_the_seed(tmp_path: Path) -> None:
    rate = {"low": 1e-5, "high": 1e-1, "log": True}
    search = {"train": {"learning_rate": rate, "ema_decay": [0.5, 0.9]}}
    search["model"] = {"depth": {"low": 1, "high": 3}}
    asked = {"search": search, "num_samples": 60}
    params = write_params(tmp_path / "params.yaml", **asked)
    drawn = [variant.overrides for variant, _ in variants_of(params).values()]
    assert drawn == [variant.overrides for variant, _ in variants_of(params).values()]
    other = write_params(tmp_path / "params.yaml", **asked, seed=1)
    assert drawn != [variant.overrides for variant, _ in variants_of(other).values()]
    assert len(drawn) == 60
    assert {own["model.depth"] for own in drawn} == {1, 2, 3}
    assert {own["train.ema_decay"] for own in drawn} == {0.5, 0.9}
    rates = [own["train.learning_rate"] for own in drawn]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    assert 15 < sum(rate < 1e-3 for rate in rates) < 45  # the middle of the logarithm


def test_selection_by_validation_without_held_out_clips_is_refused_before_training(tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", runs=[{"name": "a"}])
    latents = write_latents(tmp_path / "latents", params)
    rows = [{**row, "split": "train"} for row in read_rows(latents)]
    write_shards(latents, rows, 100, expected_metadata(params))
    with pytest.raises(DataError, match=r"train\.select_by: got val_loss"):
        train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    assert not (tmp_path / "out").exists()


def ended(name: str, state: str, error: str = "", **metrics: float) -> Run:
    spec = RunSpec("latents", Path(name), small_params(), {})
    return Run(name, spec, {}, {}, state, metrics, error)


def test_best_is_the_lowest_of_those_that_came_to_their_end() -> None:
    runs = [
        ended("a", "finished", loss=2.0),
        ended("b", "stopped early", loss=0.1),
        ended("c", "finished", loss=float("nan")),
        ended("d", "failed", "boom"),
        ended("e", "finished", loss=1.0),
    ]
    assert _best(runs, "loss") == 4
    with pytest.raises(CheckpointError, match=r"train\.select_by: got fid, expected .*\(loss\)"):
        _best(runs, "fid")


def test_no_run_at_its_end_is_one_line_that_says_why_of_each() -> None:
    with pytest.raises(CheckpointError) as caught:
        _best([ended("a", "failed", "boom"), ended("b", "failed", "bang")], "loss")
    assert "(a: boom; b: bang)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_published_run_takes_the_place_of_another_which_is_archived(tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", runs=[{"name": "a"}, {"name": "b", "train": {"seed": 5}}])
    latents = write_latents(tmp_path / "latents", params)
    runs = _runs(RunSpec(latents, tmp_path / "out", params, {}), variants_of(params))
    files = [of_plain_loop(run.spec.params, latents, run.spec.out) for run in runs]
    assert all(run.is_finished() for run in runs)
    for number in (0, 1, 0):
        publish(runs[number], tmp_path / "out")
        assert files_of(tmp_path / "out") == files[number]
    assert len(list((tmp_path / "out.aside").iterdir())) == 1
    (runs[1].spec.out / "step_00000012/ema.safetensors").write_bytes(b"")
    assert not runs[1].is_finished()


def test_run_that_is_no_longer_in_the_parameters_is_archived_and_restored(tmp_path: Path) -> None:
    """`videomar gc` finds and deletes only what is archived."""
    params = write_params(tmp_path / "params.yaml", runs=[{"name": "a"}, {"name": "b", "train": {"seed": 5}}])
    latents = write_latents(tmp_path / "latents", params)
    runs = _runs(RunSpec(latents, tmp_path / "out", params, {}), variants_of(params))
    for run in runs:
        claim_run_folder(run.spec.out, run.identity)
        (run.spec.out / "mark").touch()
    for _ in range(2):
        archive_others(tmp_path / "out.runs", ["a"])
        assert (runs[0].spec.out / "mark").exists()
        assert not runs[1].spec.out.exists()
        assert archive_path(runs[1].spec.out, runs[1].identity).is_dir()
    claim_run_folder(runs[1].spec.out, runs[1].identity)
    assert (runs[1].spec.out / "mark").exists()
    archive_others(tmp_path / "nowhere", [])


def test_parameters_that_dvc_has_rewritten_read_the_same(tmp_path: Path) -> None:
    """As `dvc exp run --set-param` does: it drops the quotes around `1:1`, which is 61 in YAML 1.1."""
    text = (ROOT / "params.yaml").read_text()
    assert '"1:1"' in text
    (tmp_path / "params.yaml").write_text(text.replace('"1:1"', "1:1"))
    assert load_params(tmp_path / "params.yaml") == load_params(ROOT / "params.yaml")
