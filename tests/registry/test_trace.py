import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas
import pytest
import yaml
from typer.testing import CliRunner

from tests.registry.conftest import OUTPUTS
from videomar.cli import app as cli
from videomar.config.layout import Layout
from videomar.environment import processor_kind
from videomar.errors import DataError, VideomarError
from videomar.files import sha256_of
from videomar.ops.check_registry import version_findings
from videomar.provenance.checkout import outputs_of, uncommitted_changes
from videomar.registry.takedown import digest_of, find_usage
from videomar.registry.trace import Trace, clips_of, trace, verify
from videomar.registry.versions import download_model, find_model

HERE = Layout()
RAW = "data/raw/simulated/a.mp4"


@pytest.fixture
def root(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(registered)
    return registered


def traced(name: str = "challenger") -> Trace:
    return trace(find_model(name))


@contextmanager
def flipped(path: Path, offset: int = -1) -> Iterator[None]:
    """One bit of a file is another one meanwhile."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[offset] ^= 1
    path.write_bytes(damaged)
    yield
    path.write_bytes(before)


def test_trace_goes_down_to_the_raw_bytes(root: Path) -> None:
    facts = traced().to_dict()
    digest = sha256_of(root / RAW)
    assert facts["aliases"] == ["challenger"]
    assert facts["lock_sha256"] == sha256_of(root / "dvc.lock")
    assert facts["params"] == yaml.safe_load((root / "params.yaml").read_text())
    assert facts["outputs_md5"] == outputs_of((root / "dvc.lock").read_text())
    assert facts["tokenizer_sha256"] == "f" * 64
    assert facts["processor"] == processor_kind()
    assert facts["threads"] == "tokenizer 2, train 1, suite 1"
    assert facts["devices"] == "cpu"
    clip = {"clip_id": "1", "video": "simulated/a.mp4", "video_sha256": digest, "split": "train"}
    assert facts["latents"] == [{"key": "k1", **clip, "saw": True}]
    assert facts["saw"] == ["simulated/a.mp4"]
    caption = sha256_of(root / "data/raw/simulated/a.txt")
    assert facts["raw"] == [
        {"path": "simulated/a.mp4", "sha256": digest},
        {"path": "simulated/a.txt", "sha256": caption},
    ]
    json.dumps(facts)


def test_nothing_differs_in_a_tree_that_nobody_touched(root: Path) -> None:
    assert verify(traced(), HERE) == ([], [])


@pytest.mark.parametrize(
    "path",
    [
        RAW,
        "data/raw/simulated/a.txt",
        "data/latents/part-00000-of-00001.parquet",
        "checkpoints/videomar/step_00000030/ema.safetensors",
        "checkpoints/tokenizer/tokenizer.json",
    ],
)
def test_one_flipped_bit_is_found_and_the_file_named(root: Path, path: str) -> None:
    with flipped(root / path):
        changes, _ = verify(traced(), HERE)
    assert [(change["file"], change["problem"]) for change in changes] == [(path, "differs")]


def test_flipped_bit_of_the_registered_weights_is_found(root: Path) -> None:
    weights = download_model(find_model("1")) / "checkpoint/model.safetensors"
    stored = next(root.rglob(".local/mlartifacts/**/checkpoint/model.safetensors"))
    with flipped(stored):
        changes, _ = verify(traced("1"), HERE)
    assert [(Path(change["file"]).name, change["problem"]) for change in changes] == [
        (weights.name, "differs")
    ]


@pytest.mark.parametrize("name", ["pyfunc.py", "MLmodel", "code/videomar/serving.py", "requirements.txt"])
def test_replaced_code_of_a_registered_version_is_found_before_anything_runs_it(
    root: Path, name: str
) -> None:
    (model,) = root.glob(".local/mlartifacts/**/MLmodel")
    with flipped(model.parent / name):
        changes, _ = verify(traced("1"), HERE)
        found = [finding.what for finding in version_findings(root / "dvc.lock")]
    stored = str(model.parent / name)
    assert [(change["file"], change["problem"]) for change in changes] == [(stored, "differs")]
    assert found == [f"{stored} differs, expected as registered"]


def test_module_added_to_the_code_of_a_registered_version_is_found(root: Path) -> None:
    """It would be imported instead of the installed one; what Python and MLflow leave there is no code."""
    (model,) = root.glob(".local/mlartifacts/**/MLmodel")
    (model.parent / "registered_model_meta").touch()
    assert verify(traced("1"), HERE) == ([], [])
    added = model.parent / "code/numpy.py"
    added.touch()
    changes, _ = verify(traced("1"), HERE)
    added.unlink()
    assert [(Path(change["file"]), change["problem"]) for change in changes] == [(added, "is new")]


def test_missing_raw_file_is_named_and_what_moved_on_is_not_compared(root: Path, tmp_path: Path) -> None:
    """The evidence holds when the working tree has nothing of it left."""
    found = trace(find_model("1"))
    changes, notes = verify(found, Layout(tmp_path))
    assert [(Path(change["file"]).name, change["problem"]) for change in changes] == [
        ("a.mp4", "missing"),
        ("a.txt", "missing"),
    ]
    assert [note.split(":")[0] for note in notes] == [*OUTPUTS[:3]]
    assert found.to_dict() == traced("1").to_dict()


def test_forward_from_a_raw_file_to_the_versions_trained_on_it(root: Path) -> None:
    digest = digest_of(RAW, HERE.raw, HERE.ledger)
    for name in ("simulated/a.mp4", digest):
        assert digest_of(name, HERE.raw, HERE.ledger) == digest
    assert [(found.clips, found.trained) for found in find_usage(digest)] == [({"train": 1}, True)]
    assert [found.trained for found in find_usage("0" * 64)] == [False]
    with pytest.raises(DataError, match="nobody.mp4: got no such video"):
        digest_of("nobody.mp4", HERE.raw, HERE.ledger)


def test_command_verifies_and_exits_with_1_if_a_byte_differs(root: Path) -> None:
    command = CliRunner().invoke
    clean = command(cli.app, ["trace", "1", "--verify"])
    assert (clean.exit_code, clean.stderr) == (0, "")
    assert sha256_of(root / RAW) in clean.stdout
    with flipped(root / RAW):
        words = command(cli.app, ["trace", "1", "--verify"])
        as_json = command(cli.app, ["trace", "1", "--verify", "--json"])
    assert words.exit_code == as_json.exit_code == 1
    assert words.stderr.startswith(f"{RAW}: differs, expected sha256 ")
    assert [change["file"] for change in json.loads(as_json.stdout)["changes"]] == [RAW]


def test_command_looks_forward(root: Path) -> None:
    done = CliRunner().invoke(cli.app, ["trace", "--forward", RAW])
    assert "version 1: was made with this video, trained on it (clips: 1 in train)" in done.stdout
    as_json = CliRunner().invoke(cli.app, ["trace", "--forward", RAW, "--json"])
    assert json.loads(as_json.stdout)["versions"] == [
        {"version": "1", "clips": {"train": 1}, "trained": True}
    ]


@pytest.mark.parametrize(
    ("name", "message"), [("champion", "got champion, but there is none"), ("7", "got 7")]
)
def test_model_that_is_not_there_is_refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(VideomarError, match=message):
        traced(name)


def test_changes_that_nothing_records_are_named(root: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        import subprocess

        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    shutil.copy(root / "dvc.lock", tmp_path)
    (tmp_path / "metrics").mkdir()
    for name in ("params.yaml", "code.py", "metrics/train.json"):
        (tmp_path / name).write_text("before")
    assert uncommitted_changes(tmp_path, ["params.yaml"], tmp_path / "dvc.lock") is None
    git("init")
    git("add", "-A")
    git("commit", "-m", "a")
    for name in ("params.yaml", "metrics/train.json", "a new file.py"):
        (tmp_path / name).write_text("after")
    changes = uncommitted_changes(tmp_path, ["params.yaml"], tmp_path / "dvc.lock")
    assert changes == ["a new file.py"]


def test_version_without_a_record_is_traced_by_the_ledger_of_its_lock(root: Path, tmp_path: Path) -> None:
    lock = yaml.safe_dump(
        {"stages": {"curate": {"outs": [{"path": "data/ledger.parquet", "md5": "ab" + "0" * 30}]}}}
    )
    (tmp_path / "dvc.lock").write_text(lock)
    assert clips_of(tmp_path) is None
    cached = HERE.cache / "ab" / ("0" * 30)
    cached.parent.mkdir(parents=True)
    shutil.copy(root / "data/ledger.parquet", cached)
    clips = clips_of(tmp_path)
    assert isinstance(clips, pandas.DataFrame)
    assert clips["video"].tolist() == ["simulated/a.mp4"]
