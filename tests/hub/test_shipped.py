"""The model that comes with the package works before anything was trained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import videomar
from videomar.checkpoint import MANIFEST, verify
from videomar.cli import app as cli
from videomar.errors import VideomarError
from videomar.hub import shipped
from videomar.hub.find import find_model
from videomar.report.example_pictures import read_examples

ROOT = Path(videomar.__file__).parents[1]
MOST_BYTES = 16 * 10**6
# What a clip from a picture may not load, with or without a registry: each takes longer than the clip.
SLOW = (
    "mlflow",
    "pandas",
    "transformers",
    "matplotlib",
    "sqlalchemy",
    "ray",
    "prefect",
    "dvc",
    "torch._dynamo",
)
GENERATE = """
import sys
from videomar.cli import main
sys.argv = ["videomar", "generate", "picture.png", "--prompt", "a red circle", "--out", "new/clip.mp4"]
main()
"""
MODULES = GENERATE.replace(
    "main()\n", "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
) + (f"print(*sorted(name for name in {SLOW!r} if name in sys.modules))\n")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture and nothing else; there is no registry."""
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save(tmp_path / "picture.png")
    return tmp_path


def test_shipped_folder_is_small_and_complete() -> None:
    files = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    manifest = verify(shipped.shipped_folder())
    listed = {shipped.FOLDER / name for name in manifest["files"]}
    assert set(files) - listed == {shipped.FOLDER / MANIFEST, shipped.FOLDER / "README.md"}


def test_origin_names_commit_data_and_every_raw_file() -> None:
    origin = shipped.read_origin()
    assert len(origin["git_commit"]) == 40
    assert len(origin["ledger_sha256"]) == 64
    assert {len(row["sha256"]) for row in origin["raw"]} == {64}
    assert set(origin["saw"]) < {row["path"] for row in origin["raw"]}
    assert "sim_psnr_gain_db" in origin["metrics"]
    saw, unseen = origin["saw"][0], origin["held_out"][0]
    digests = {row["path"]: row["sha256"] for row in origin["raw"]}
    assert [shipped.saw_raw_file(digests[path]) for path in (saw, unseen)] == [True, False]
    assert shipped.describe_use("0" * 64) == []
    assert "trained on it" in shipped.describe_use(digests[saw])[0]


def test_readme_names_the_commit_and_the_data() -> None:
    origin, readme = shipped.read_origin(), (ROOT / "README.md").read_text()
    block = readme.partition("<!-- shipped -->")[2].partition("<!-- /shipped -->")[0]
    assert f"`{origin['git_commit'][:12]}`" in block
    assert f"`{origin['ledger_sha256'][:12]}`" in block


def test_examples_are_pictures_that_were_held_out() -> None:
    examples = read_examples(shipped.FOLDER)
    assert len({example.prompt for example in examples}) == len(examples) >= 4
    assert all(Image.open(example.picture).size == (32, 32) for example in examples)


def test_clip_is_made_where_there_is_no_registry_and_nothing_slow_is_loaded(empty: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path, slow = done.stdout.splitlines()
    assert (empty / path).stat().st_size > 1000
    assert slow == ""
    first, *rest = done.stderr.splitlines()
    assert first == "no champion here yet: using the model that comes with the package, `shipped`"
    assert "17 of 17 frames" in rest[-1]
    assert sorted(item.name for item in empty.iterdir()) == ["new", "picture.png"]  # and no store was created


def test_shipped_model_makes_better_clips_than_still_pictures(empty: Path) -> None:
    """Its picture moves as the prompt says: the circle's centre goes left."""
    example = next(
        row for row in read_examples(shipped.FOLDER) if " left " in row.prompt and "moves" in row.prompt
    )
    clip = videomar.load("shipped", device="cpu")(example.picture, example.prompt, seed=0).astype(float)
    ground = np.median(clip, axis=(0, 2), keepdims=True)  # of each row, which may be shaded or striped
    weight = np.abs(clip - ground).sum(3)
    centres = (weight * np.arange(clip.shape[2])).sum((1, 2)) / weight.sum((1, 2))
    assert centres[-1] < centres[0] - 2


def test_trace_tells_the_origin_and_finds_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = shipped.read_origin()["git_commit"]
    done = CliRunner().invoke(cli.app, ["trace", "shipped", "--verify"])
    assert done.exit_code == 0
    assert f"git_commit: {commit}" in done.stdout
    assert "verified" in done.stdout
    copy = shutil.copytree(shipped.FOLDER, tmp_path / "shipped")
    (copy / "params.yaml").write_bytes((copy / "params.yaml").read_bytes().replace(b"17", b"18"))
    monkeypatch.setattr(shipped, "FOLDER", copy)
    done = CliRunner().invoke(cli.app, ["trace", "shipped", "--verify", "--json"])
    assert done.exit_code == 1
    assert "params.yaml: missing or damaged" in json.loads(done.stdout.splitlines()[0])["changes"][0]


def test_package_without_a_model_says_so(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nothing")
    for name in ("champion", "shipped"):
        with pytest.raises(VideomarError, match="got a package without a model .* expected the shipped one"):
            find_model(name)
    assert shipped.saw_raw_file("0" * 64) is None


@pytest.mark.parametrize("name", ["challenger", "3"])
def test_only_the_champion_has_a_stand_in(empty: Path, name: str) -> None:
    with pytest.raises(VideomarError, match=f"got {name}, but there is no registry here"):
        find_model(name)


def test_wheel_and_source_archive_carry_the_model() -> None:
    from setuptools.config.pyprojecttoml import read_configuration

    patterns = read_configuration(ROOT / "pyproject.toml")["tool"]["setuptools"]["package-data"]["videomar"]
    carried = {path for pattern in patterns for path in (ROOT / "videomar").glob(pattern) if path.is_file()}
    assert {path for path in shipped.FOLDER.rglob("*") if path.is_file()} <= carried


def test_server_that_is_away_is_refused_at_once(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(VideomarError, match="got no answer from 127.0.0.1:1, expected the MLflow server"):
        find_model("champion")
    assert find_model("shipped").checkpoint == shipped.FOLDER
