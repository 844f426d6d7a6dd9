import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.pipeline_outputs import REPOSITORY, working_in, write_outputs
from videomar.cli import app as cli
from videomar.config.layout import Layout
from videomar.errors import DataError, VideomarError
from videomar.files import write_json
from videomar.provenance.code_hash import STAGES
from videomar.provenance.made_with import describe, record_of
from videomar.registry import release
from videomar.registry.candidate import devices_of
from videomar.registry.rebuild import Difference, Made, compare, compare_bits, compare_figures, rebuild
from videomar.registry.trace import Trace, trace
from videomar.registry.versions import Version, find_model

RAW = Layout().raw
MADE = Made(
    {"1": "k1", "2": "k2"},
    {"latents/part": "aa", "checkpoint/ema.safetensors": "bb"},
    {
        "evaluate.gain_db": 1.5,
        "evaluate.seconds": 3.0,
        "evaluate.io_time_share": 0.1,
        "encode.encoded": 9.0,
        "samples.videos": 3.0,
    },
)
KIND = {"processor": "AuthenticAMD AVX2", "threads": "train 2"}
KEPT_APART = ("data/ledger.parquet", "data/latents", "checkpoints", "metrics", "data/evaluation.parquet")


def test_equal_results_differ_in_nothing_whatever_they_cost() -> None:
    other = {
        "evaluate.gain_db": 1.5,
        "evaluate.seconds": 4.0,
        "evaluate.io_time_share": 0.2,
        "encode.encoded": 0.0,
    }
    assert compare_bits(MADE, replace(MADE, metrics=other)) == []


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"keys": {"1": "k1", "2": "x"}}, Difference("latent key of clip 2", "k2", "x")),
        ({"keys": {"1": "k1"}}, Difference("latent key of clip 2", "k2", None)),
        (
            {"files": {"latents/part": "aa", "checkpoint/ema.safetensors": "x"}},
            Difference("checkpoint/ema.safetensors", "bb", "x"),
        ),
        (
            {"files": {**MADE.files, "latents/new": "cc"}},
            Difference("latents/new", None, "cc"),
        ),
        ({"metrics": {"evaluate.gain_db": 1.25}}, Difference("metric evaluate.gain_db", "1.5", "1.25")),
    ],
)
def test_each_difference_is_named(changed: dict[str, dict[str, str]], difference: Difference) -> None:
    assert compare_bits(MADE, replace(MADE, **changed)) == [difference]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("then", "by_bits"),
    [
        (KIND, True),
        ({**KIND, "processor": "GenuineIntel AVX512"}, False),
        ({**KIND, "threads": "train 1"}, False),
    ],
)
def test_bits_are_compared_where_the_kinds_of_machine_agree(then: dict[str, str], by_bits: bool) -> None:
    moved = replace(
        MADE,
        keys={"1": "other", "2": "ones"},
        files=dict.fromkeys(MADE.files, "others"),
        metrics={"evaluate.gain_db": 1.9},
    )
    found = compare(MADE, moved, then, KIND)
    assert found.by_bits is by_bits
    assert len(found.differences) == (5 if by_bits else 0)
    assert all(word in found.because for word in {*then.values(), *KIND.values()})


def test_machine_that_was_not_recorded_is_compared_by_bits_first() -> None:
    nothing = dict.fromkeys(KIND, "")
    equal = compare(MADE, MADE, nothing, KIND)
    assert (equal.differences, equal.by_bits) == ([], True)
    assert "all is equal, though recorded on a kind that was not recorded" in equal.because
    moved = compare(MADE, replace(MADE, metrics={"evaluate.gain_db": 1.9}), nothing, KIND)
    assert (moved.differences, moved.by_bits) == ([], False)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"keys": {"1": "k1"}}, "latent of clip 2"),
        ({"files": {"latents/part": "aa"}}, "checkpoint/ema.safetensors"),
        ({"metrics": {"evaluate.gain_db": 3.0}}, "metric evaluate.gain_db (within 1)"),
        (
            {"metrics": {"evaluate.gain_db": 1.5, "evaluate.sim_clips": 8.0}},
            "metric evaluate.sim_clips (within 0)",
        ),
    ],
)
def test_on_another_kind_of_machine_clips_files_and_counts_are_the_same_and_figures_as_good(
    changed: dict[str, dict[str, str]], what: str
) -> None:
    elsewhere = {**KIND, "processor": "arm64"}
    (difference,) = compare(MADE, replace(MADE, **changed), elsewhere, KIND).differences  # type: ignore[arg-type]
    assert difference.what == what


@pytest.mark.parametrize(
    "stage", ["ingest", "curate", "train_tokenizer", "encode", "train", "sample", "evaluate"]
)
def test_every_metric_is_a_cost_or_a_count_or_has_a_tolerance(stage: str) -> None:
    """Else it would be a difference on every other machine."""
    for name, value in json.loads((REPOSITORY / f"metrics/{stage}.json").read_text()).items():
        metric = f"{stage}.{name}"
        moved = replace(MADE, metrics={metric: value + 1e-9}), replace(MADE, metrics={metric: value})
        assert compare_figures(*moved) == [] or value.is_integer(), metric


def run(folder: Path, *command: str) -> None:
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(command, cwd=folder, env={**os.environ, **who}, check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed tree whose one stage takes its results from a folder beside it, registered as version 1."""
    root, ready = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("ready")
    write_outputs(root)
    for name in KEPT_APART:
        (ready / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, ready / name)
    make = f"test -z $MLFLOW_TRACKING_URI && test -f data/raw/simulated/a.mp4 && cp -r {ready}/. ."
    stages = {
        "list_clips": {"cmd": "exit 1", "outs": ["data/clips.json", "data/named"]},
        "samples": {"cmd": "exit 1", "deps": ["data/clips.json"], "outs": ["data/raw"]},
        "evaluate": {
            "cmd": make,
            "deps": ["data/raw", "data/named/ingest.json"],
            "outs": ["data/latents", "checkpoints/videomar"],
        },
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / ".gitignore").write_text("/data\n/checkpoints\n/metrics\n/plots\n/.local\n")
    run(root, "git", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "a state")
    with working_in(root):
        assert release.register() == "1"
    (root / "ready").write_text(str(ready))
    return root


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def traced() -> Trace:
    return trace(find_model("1"))


def tagged(**tags: str) -> Trace:
    found = traced()
    version = found.version
    return replace(found, version=Version(version.number, version.run_id, {**version.tags, **tags}))


@pytest.mark.slow
def test_rebuild_tells_equal_from_different(here: Path, tmp_path: Path) -> None:
    os.rename(here / "data/raw/simulated/a.mp4", here / "data/raw/renamed.mp4")  # found by its bytes
    store = f"sqlite:///{here}/.local/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        same = CliRunner().invoke(cli.app, ["rebuild", "1", "--into", str(tmp_path / "one")])
    assert same.exit_code == 0, same.output
    assert "compared bit by bit: both were made on " in same.stdout
    assert "same latents, same weights, same metrics" in same.stdout

    ready = Path((here / "ready").read_text())
    weights = ready / "checkpoints/videomar/step_00000030/ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    (ready / "metrics/evaluate.json").write_text('{"sim_psnr_gain_db": 0.0, "seconds": 9.0}')
    differing = {row.what for row in rebuild(traced(), tmp_path / "two", RAW).differences}
    assert {"checkpoint/ema.safetensors", "metric evaluate.sim_psnr_gain_db"} <= differing
    assert not {what for what in differing if "seconds" in what or "latent" in what or "model" in what}

    found = rebuild(tagged(processor="AnotherVendor AVX1"), tmp_path / "three", RAW)
    assert not found.by_bits
    assert "recorded on AnotherVendor AVX1; " in found.because
    named = {row.what for row in found.differences}
    assert "metric evaluate.sim_psnr_gain_db (within 1)" in named
    assert not any("safetensors" in what for what in named)


def test_missing_raw_file_is_named_before_anything_is_made(here: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file for 1 of 1 raw files: simulated/a.mp4 \(sha256 "):
        rebuild(traced(), tmp_path / "clone", tmp_path / "raw")
    assert not (tmp_path / "clone").exists()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            {"uncommitted": "videomar/encoders/text.py"},
            r"uncommitted changes when it was registered \(videomar/encoders/text.py\)",
        ),
        ({"git_commit": "0" * 40}, "got commit 0000"),
        ({"git_commit": "none"}, "got commit none"),
    ],
)
def test_version_whose_code_is_not_known_is_refused(
    here: Path, tmp_path: Path, tags: dict[str, str], message: str
) -> None:
    with pytest.raises(VideomarError, match=message):
        rebuild(tagged(**tags), tmp_path / "clone", RAW)


def test_folder_with_files_is_refused(here: Path) -> None:
    with pytest.raises(DataError, match="a folder with files in it"):
        rebuild(traced(), here, RAW)


def test_devices_of_every_stage_are_told_from_its_record(tmp_path: Path) -> None:
    made = Layout(tmp_path)
    assert devices_of(made) == "cpu"
    outputs = {name: getattr(made, name) for name in ("tokenizer", "generated", "evaluation")}
    for path in outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(record_of(path), describe(STAGES["curate"], {}, {}, {}, "cpu"))
    write_json(record_of(made.candidates), {})  # of before: says nothing
    assert devices_of(made) == "cpu"
    write_json(record_of(made.generated), describe(STAGES["curate"], {}, {}, {}, "NVIDIA H200"))
    made.training_run.mkdir()
    write_json(made.training_run / "made_with.json", {"beside": {"device": "NVIDIA H100"}})
    devices = devices_of(made)
    assert devices == "tokenizer cpu, train NVIDIA H100, sample NVIDIA H200, evaluate cpu"
    kind = {**KIND, "devices": devices}
    assert not compare(
        MADE, replace(MADE, keys={"1": "x", "2": "k2"}), {**KIND, "devices": "cpu"}, kind
    ).by_bits
    assert compare(MADE, MADE, kind, kind).by_bits
