"""The whole pipeline on a handful of clips: raw files to a report, as a user runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import mlflow
import pandas
import pytest
import yaml
from PIL import Image

from tests.conftest import ENVIRONMENT_AT_START
from videomar.config import SamplesParams
from videomar.config.edit import update_params
from videomar.config.schema import set_keys
from videomar.media.mp4 import find_ffmpeg
from videomar.sources.simulate import draw_simulated

ROOT = Path(__file__).parents[2]
NAME, MAIL = "A Tester", "tester@localhost"
ENVIRONMENT = {
    **ENVIRONMENT_AT_START,
    "VIRTUAL_ENV": sys.prefix,
    "OMP_NUM_THREADS": "1",
    "GIT_AUTHOR_NAME": NAME,
    "GIT_AUTHOR_EMAIL": MAIL,
    "GIT_COMMITTER_NAME": NAME,
    "GIT_COMMITTER_EMAIL": MAIL,
}
SMALL = {
    "samples": {"source": "clips"},
    "tokenizer": {"steps": 10, "hidden_size": 8, "depth": 1, "batch_size": 4, "threads": 1},
    "encode": {"num_workers": 1},
    "model": {"hidden_size": 32, "depth": 1, "num_heads": 2, "rope_axis_dims": [8, 4, 4], "head_width": 16},
    "train": {
        "curriculum": [
            {"num_latent_frames": 2, "steps": 4, "batch_size": 4},
            {"num_latent_frames": 0, "steps": 4, "batch_size": 4},
        ],
        "warmup_steps": 2,
        "log_every": 2,
        "checkpoint_every": 4,
        "num_workers": 2,
        "threads_per_worker": 1,
    },
    "sample": {"num_unmask_steps": 2, "num_diffusion_steps": 2},
    "suite": {"simulated_clips": 3, "real_clips": 2, "threads": 1},
    "gate": {"min_clips": 2},
}

pytestmark = pytest.mark.slow


def run(folder, *command):
    # Longer than any command takes beside other tests: what hangs is a failure.
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


def dvc(folder, *arguments):
    done = run(folder, sys.executable, "-m", "dvc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stages_run(output):
    """Stages that DVC ran, but for the one that lists the folder of clips every time."""
    names = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [name for name in names if name != "list_clips"]


def set_params(folder, changes):
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    set_keys(params, changes)
    path.write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A clone with four simulated videos, three of them twice as "real" ones, and a file that is no video."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("videomar", "stages", "flows", "samples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "takedowns.csv", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    set_params(folder, SMALL)
    drawing = SamplesParams(
        source="",
        simulated_videos=7,
        clips_per_video=3,
        simulated_size_px=64,
        film_seconds=0.0,
        ffmpeg="packaged",
        seed=0,
    )
    draw_simulated(folder / "clips", drawing, find_ffmpeg())
    for number in range(3):
        (folder / "clips" / f"mine {number}.mp4").write_bytes(
            (folder / "clips" / "simulated" / f"sim_{number:04d}.mp4").read_bytes()
        )
        (folder / "clips" / "simulated" / f"sim_{number:04d}.mp4").unlink()
    (folder / "clips" / "no video.mp4").write_text("plain text")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        assert run(folder, *command).returncode == 0
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    dvc(folder, "config", "core.analytics", "false")
    dvc(folder, "repro")
    return folder


def test_every_stage_leaves_its_metrics(checkout):
    stages = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]
    for stage in stages.keys() - {"list_clips"}:
        metrics = json.loads((checkout / "metrics" / f"{stage}.json").read_text())
        assert metrics["seconds"] > 0
        assert all(isinstance(value, float) for value in metrics.values())
    figures = json.loads((checkout / "metrics" / "evaluate.json").read_text())
    wanted = "psnr_gain_db", "psnr_gain_untrained_db", "i2v_psnr_gain_db", "prompt_margin_db"
    assert {f"sim_{name}" for name in wanted} <= set(figures)
    assert "real_psnr_gain_db" in figures


def test_considered_is_kept_and_rejected_and_the_bad_file_has_its_row(checkout):
    ledger = pandas.read_parquet(checkout / "data" / "ledger.parquet")
    metrics = json.loads((checkout / "metrics" / "curate.json").read_text())
    assert metrics["considered"] == len(ledger) == metrics["kept"] + metrics["rejected"]
    bad = ledger[ledger["video"] == "no video.mp4"]
    assert bad["reason"].notna().all()
    assert not bad["kept"].any()


def test_second_run_does_nothing(checkout):
    assert stages_run(dvc(checkout, "repro")) == []


def test_training_continues_the_mlflow_run_and_repeats_no_step(checkout):
    run_id = json.loads((checkout / "checkpoints" / "videomar" / "run.json").read_text())["run_id"]
    client = mlflow.MlflowClient(f"sqlite:///{checkout / '.local' / 'mlflow.db'}")
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    assert steps == [2, 4, 6, 8]


def test_release_registers_and_reports_and_then_has_nothing_to_do(checkout):
    first = run(checkout, sys.executable, "-m", "flows.release")
    assert first.returncode == 0, first.stdout + first.stderr
    report, champion = first.stdout.splitlines()[-2:]
    assert report == "report: reports/index.html"
    # Eight steps of training cannot beat repeating the last frame, and the gate must say so.
    assert champion.startswith("champion: none (the gate refused")
    said = dict(line.split(": ", 1) for line in first.stdout.splitlines() if ": " in line)
    assert "could not be read" in said["clips"]
    assert "there is no champion yet" in said["verdict"]
    done = run(checkout, "sh", "-c", said["try"])
    assert done.returncode == 0, done.stderr
    assert "no champion here yet: using the newest candidate, version 1" in done.stderr
    (checkout / "clip.mp4").unlink()
    page = (checkout / "reports" / "index.html").read_text()
    assert "no video.mp4" in page or "unreadable" in page
    again = run(checkout, sys.executable, "-m", "flows.release")
    assert again.stdout.splitlines()[-2:] == [report, champion]
    assert "gate:" not in again.stdout


@pytest.mark.parametrize("model", ["checkpoints/videomar", "champion"])
def test_generate_makes_a_playable_clip(checkout, model):
    videomar = Path(sys.executable).parent / "videomar"
    if model == "champion":
        forced = run(checkout, videomar, "promote", "--force", "--reason", "a test of the path")
        assert forced.returncode == 0, forced.stderr
    Image.new("RGB", (80, 60), "teal").save(checkout / "start.png")
    command = [videomar, "generate", "start.png", "--out", "clip.mp4", "--prompt", "a red circle moves left"]
    done = run(checkout, *command, "--model", model)
    assert done.returncode == 0, done.stdout + done.stderr
    with av.open(str(checkout / "clip.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 17


def test_registered_version_is_sampled_and_evaluated_again_with_the_same_figures(checkout):
    done = run(checkout, sys.executable, "-m", "flows.evaluate_version", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    now = json.loads((checkout / ".local" / "evaluations" / "1" / "metrics" / "evaluate.json").read_text())
    then = json.loads((checkout / "metrics" / "evaluate.json").read_text())
    assert {key: now[key] for key in then if key.endswith("_db")} == pytest.approx(
        {key: then[key] for key in then if key.endswith("_db")}
    )


def test_changed_sampling_parameter_runs_sample_and_evaluate_only(checkout):
    set_params(checkout, {"sample": {"temperature": 0.9}})
    out = dvc(checkout, "repro")
    assert stages_run(out) == ["sample", "evaluate"]


def test_experiment_changes_a_parameter_and_metrics_diff_shows_it(checkout):
    for command in (["add", "-A"], ["commit", "-qm", "a state"]):
        assert run(checkout, "git", *command).returncode == 0
    dvc(checkout, "exp", "run", "-S", "sample.temperature=0.7")
    changed = json.loads(dvc(checkout, "params", "diff", "--json"))["params.yaml"]
    assert changed == {"sample.temperature": {"old": 0.9, "new": 0.7, "diff": pytest.approx(-0.2)}}
    assert "metrics/sample.json" in json.loads(dvc(checkout, "metrics", "diff", "--json"))
    page = dvc(checkout, "plots", "diff", "HEAD").strip().removeprefix("file://")
    assert "quality_by_frame" in Path(page).read_text()


def test_refresh_flow_finds_nothing_to_do(checkout):
    done = run(checkout, sys.executable, "-m", "flows.refresh")
    assert done.returncode == 0, done.stderr
    assert stages_run(done.stdout) == []


def test_changed_caption_encodes_no_video_again(checkout):
    (checkout / "clips" / "mine 0.txt").write_text("a caption of my own")
    dvc(checkout, "repro", "encode")
    metrics = json.loads((checkout / "metrics" / "encode.json").read_text())
    assert metrics["encoded"] == 0
    assert metrics["captions_encoded"] >= 1


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"num_heads": 5}, "model.num_heads: got 5"),
        ("train", {"learning_rate": "fast"}, "train.learning_rate"),
    ],
)
def test_bad_parameter_is_one_line(checkout, section, values, message):
    before = (checkout / "params.yaml").read_text()
    set_params(checkout, {section: values})
    paths = ["--candidates", "w", "--takedowns", "x", "--out", "y", "--metrics", "z"]
    done = run(checkout, "./stages/run", "curate", *paths)
    (checkout / "params.yaml").write_text(before)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_full_disk_is_one_line_and_loses_nothing(checkout):
    """A limit on the size of files stands in for a full disk: the write fails half-way."""
    before = (checkout / "data" / "ledger.parquet").read_bytes()
    paths = "--candidates data/candidates.parquet --takedowns takedowns.csv --out data/ledger.parquet"
    done = run(checkout, "bash", "-c", f"ulimit -f 1; ./stages/run curate {paths} --metrics m.json")
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (checkout / "data" / "ledger.parquet").read_bytes() == before


def test_missing_clips_folder_is_one_line(checkout):
    shutil.copy(ROOT / "params.yaml", checkout / "other.yaml")
    update_params(checkout / "other.yaml", {"samples": {"source": "nowhere"}})
    paths = ["--raw", "data/raw", "--out", "clips.json", "--named", "named", "--params", "other.yaml"]
    done = run(checkout, "./stages/run", "list_clips", *paths)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def finished(checkout):
    """The checkout with every stage up to date, in git; edits of a test are taken back."""
    dvc(checkout, "repro")
    for command in (["add", "-A"], ["commit", "-qm", "finished", "--allow-empty"]):
        assert run(checkout, "git", *command).returncode == 0
    yield checkout
    assert run(checkout, "git", "checkout", "--quiet", "--", ".").returncode == 0


def edit(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def weights(folder):
    return {
        path.name: path.read_bytes()
        for path in (folder / "checkpoints/videomar").glob("step_*/*.safetensors")
    }


def woken(folder):
    """Stages that DVC would run, but for the one that runs every time."""
    return set(json.loads(dvc(folder, "status", "--json"))) - {"list_clips"}


def test_comment_in_every_file_makes_nothing_again(finished):
    before, metrics = weights(finished), (finished / "metrics/train.json").read_bytes()
    for path in [*(finished / "videomar").rglob("*.py"), *(finished / "stages").glob("*.py")]:
        path.write_text(f"{path.read_text()}\n# A comment.\n")
    assert "train" in woken(finished)
    output = dvc(finished, "repro")
    kept = {line.split(":")[0] for line in output.splitlines() if "the output is kept" in line}
    assert kept == {"ingest", "train_tokenizer", "train", "sample", "evaluate"}
    assert ": made again: " not in output
    assert json.loads((finished / "metrics/encode.json").read_text())["encoded"] == 0
    assert weights(finished) == before
    assert (finished / "metrics/train.json").read_bytes() == metrics


def test_changed_choice_of_batches_trains_again(finished):
    before = weights(finished)
    edit(finished, "videomar/latents/buckets.py", "default_rng([", "default_rng([1, ")
    assert {"train", "sample"} <= woken(finished)
    output = dvc(finished, "repro", "--single-item", "train")
    assert "train: made again: code: " in output
    assert weights(finished) != before


def test_changed_noise_is_noticed_where_it_is_drawn(finished):
    edit(finished, "videomar/compute/seeding.py", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17")
    assert {"train_tokenizer", "train", "sample"} <= woken(finished)


def test_resources_and_words_of_progress_wake_nothing(finished):
    edit(finished, "videomar/training/progress.py", '"""', '"""Reworded. ')
    (finished / "videomar/evaluation/added.py").write_text("ADDED = 1\n")
    edit(finished, "params.yaml", "num_workers: 2", "num_workers: 3")
    assert woken(finished) == set()


def test_edited_captioner_reads_clips_again(finished):
    own = finished / "own.py"
    own.write_text('def caption(clip):\n    """One."""\n    return "one"\n')
    update_params(finished / "params.yaml", {"ingest": {"captioner": "own:caption"}})
    dvc(finished, "repro", "ingest")
    own.write_text(own.read_text().replace("One.", "Other words."))
    assert "ingest: nothing that its output depends on has changed" in dvc(finished, "repro", "ingest")
    own.write_text(own.read_text().replace('"one"', '"two"'))
    assert "ingest: made again: inputs.captioner: " in dvc(finished, "repro", "ingest")
    ledger = pandas.read_parquet(finished / "data/candidates.parquet")
    assert "two" in set(ledger["caption"])
    own.unlink()
