import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pipeline_outputs import EVIL, REPOSITORY, write_ledger
from videomar.cli import app as cli
from videomar.config import load_params
from videomar.curation.ledger import read_ledger
from videomar.curation.ledger import write_ledger as write_ledger_rows
from videomar.curation.takedowns import read_takedowns
from videomar.tracking.mlflow_store import experiment_id, open_client

GENERATE = ["generate", "a.png", "--prompt", "x", "--out", "b.mp4"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/SOURCES.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of `videomar WORDS`."""
    monkeypatch.setattr(sys, "argv", ["videomar", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_use_clips_keeps_every_other_byte_of_the_parameters(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (here / "params.yaml").read_text()
    (here / "my clips").mkdir()
    (here / "my clips/a.mp4").touch()
    assert run(monkeypatch, "use-clips", str(here / "my clips")) == 0
    assert load_params(here / "params.yaml").samples.source == "my clips"
    assert load_params(here / "params.yaml").train.start_from == "shipped"
    assert run(monkeypatch, "use-clips", "samples") == 0
    assert (here / "params.yaml").read_text() == before


def test_use_clips_outside_of_the_repository_is_stored_absolute(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "deep").mkdir()
    (outside / "deep/a.mp4").touch()
    assert run(monkeypatch, "use-clips", str(outside)) == 0
    assert load_params(here / "params.yaml").samples.source == str(outside)
    assert run(monkeypatch, "use-preset", "small") == 0
    assert run(monkeypatch, "use-clips", str(outside)) == 0
    assert load_params(here / "params.yaml").train.start_from is None, "chosen once, the first time"


def only_what_stands_in(given: Any, loaded: Any) -> Any:
    """Loaded values without those that the file leaves to their defaults."""
    if isinstance(given, dict):
        return {key: only_what_stands_in(given[key], loaded[key]) for key in given}
    if isinstance(given, list):
        return [only_what_stands_in(one, other) for one, other in zip(given, loaded, strict=True)]
    return loaded


@pytest.mark.parametrize("name", ["paper", "medium", "finetune"])
def test_use_preset_sets_its_values_and_small_brings_the_shipped_file_back(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = (here / "params.yaml").read_text()
    assert run(monkeypatch, "use-preset", name) == 0
    params = asdict(load_params(here / "params.yaml"))
    preset = yaml.safe_load((here / f"presets/{name}.yaml").read_text())
    for section, values in preset.items():
        written = json.loads(json.dumps(params[section]))
        assert only_what_stands_in(values, written) == values
    assert run(monkeypatch, "use-preset", "small") == 0
    assert (here / "params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["use-clips", "nowhere"], 1, "videomar: nowhere: no such folder"),
        (["use-clips", "params.yaml"], 1, "params.yaml: no such folder"),
        (["use-clips", "empty"], 1, "empty: got an empty folder"),
        (["ledger", "show"], 1, "data/ledger.parquet: no such file"),
        (["ledger", "show", "--ledger", "params.yaml"], 1, "expected the output of `curate`"),
        (["ledger", "diff", "params.yaml"], 1, "data/ledger.parquet: no such file"),
        (["ledger", "remove", "nowhere.mp4", "--reason", "x"], 1, "nowhere.mp4: got no such video"),
        (["ledger", "remove", "params.yaml", "--reason", " "], 1, "--reason: got nothing"),
        (["ledger", "remove", "params.yaml", "--reason", "x"], 1, "takedowns.csv: no such file"),
        (["promote", "--force"], 2, "--force and --reason go together"),
        (["use-clips"], 2, "Missing argument"),
        (["fly"], 2, "No such command"),
        (
            ["use-preset", "huge"],
            1,
            "preset: got huge, expected base or finetune or medium or paper or small",
        ),
        ([*GENERATE, "--size", "big"], 2, "got big, expected WIDTHx"),
        ([*GENERATE, "--frames", "0"], 2, "greater than or equal to 2"),
        ([*GENERATE, "--motion", "-3"], 2, "greater than or equal to 0"),
        ([*GENERATE, "--model", "nowhere"], 1, "a.png: no such file"),
    ],
)
def test_bad_input_gets_one_clear_message(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    (here / "empty").mkdir()
    (here / "empty/.hidden").touch()
    assert run(monkeypatch, *words) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    if code == 1:
        assert len(error.splitlines()) == 1


def test_damaged_parameters_are_refused_before_they_are_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "params.yaml").write_text("samples: [")
    assert run(monkeypatch, "use-clips", "samples") == 1
    assert (here / "params.yaml").read_text() == "samples: ["


def test_ledger_show_names_reasons_and_files(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(here / "ledger.parquet")
    assert run(monkeypatch, "ledger", "show", "--ledger", "ledger.parquet") == 0
    shown = capsys.readouterr().out
    for text in (
        "kept, simulated",
        "too_dark",
        "train",
        "empty_file",
        EVIL[:10],
        "my.csv",
        "rows whose video is not",
    ):
        assert text in shown


def test_ledger_diff_tells_what_another_policy_keeps(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(here / "ledger.parquet")
    other = read_ledger(here / "ledger.parquet")
    other.loc[0, ["kept", "reason", "split"]] = False, "blurred", None
    write_ledger_rows(here / "other.parquet", other)
    words = ["ledger", "diff", "other.parquet", "--ledger", "ledger.parquet"]
    assert run(monkeypatch, *words) == 0
    assert "blurred" in capsys.readouterr().out
    assert run(monkeypatch, *words, "--json") == 0
    changes = json.loads(capsys.readouterr().out)
    assert (changes["kept_before"], changes["kept_after"]) == (1, 0)
    assert changes["newly_rejected"] == {"blurred": 1}


def test_ledger_remove_tells_which_models_held_the_video(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
    (here / "data/raw").mkdir(parents=True)
    (here / "data/raw/a.mp4").write_bytes(b"bytes of a video")
    digest = hashlib.sha256(b"bytes of a video").hexdigest()
    write_ledger(here / "ledger.parquet")
    held = read_ledger(here / "ledger.parquet").assign(video_sha256=digest)
    client = open_client()
    client.create_registered_model("videomar")
    for version, kept in enumerate(((True, False), (False, False), None), start=1):
        run_id = client.create_run(experiment_id(client)).info.run_id
        key = f"{version:02d}" + "a" * 30
        made = {"path": "data/ledger.parquet", "hash": "md5", "md5": key}
        (here / "dvc.lock").write_text(yaml.safe_dump({"stages": {"curate": {"outs": [made]}}}))
        client.log_artifact(run_id, str(here / "dvc.lock"), "evidence")
        client.create_model_version("videomar", f"runs:/{run_id}/model", run_id)
        if kept is not None:
            cached = here / ".dvc/cache/files/md5" / key[:2] / key[2:]
            write_ledger_rows(cached, held.assign(kept=[*kept, False]))
    words = ["ledger", "remove", "a.mp4", "--reason", "the owner asked"]
    assert run(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "version 1: was made with this video" in shown
    assert "version 2: was made without this video" in shown
    assert "version 3: not known" in shown
    assert read_takedowns(here / "takedowns.csv") == {digest: "the owner asked"}
    assert run(monkeypatch, *words) == 0
    assert "was removed before" in capsys.readouterr().out
