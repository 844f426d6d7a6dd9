"""Weights to start from by name, and the lineage of what was trained from them."""

import json
import shutil
from pathlib import Path

import pandas
import pytest
import yaml

from tests.conftest import small_params
from tests.support.pipeline_outputs import working_in, write_outputs
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.transfer import start_origin, start_sha256
from videomar.config import load_params
from videomar.config.edit import update_params
from videomar.config.layout import SEEN, UNKNOWN, Layout
from videomar.curation.ledger import read_ledger, write_ledger
from videomar.errors import CheckpointError, ParamsError
from videomar.evaluation.gate import Evidence
from videomar.files import sha256_of
from videomar.hub.start import named_starts, refuse_other_encoders, starts_of, with_start_tokenizer
from videomar.latents.shards import read_rows, write_shards
from videomar.ops.gc import find_files
from videomar.ops.unused_runs import find_runs
from videomar.registry import decide, release
from videomar.registry.ancestors import kept_start, parts_of_split, write_evidence_of_shipped
from videomar.registry.evidence import CLIP_COLUMNS, LINEAGE, read_lineage
from videomar.registry.model_card import card_of
from videomar.registry.takedown import describe_usage, find_usage
from videomar.registry.trace import trace, verify
from videomar.registry.versions import MODEL, find_model
from videomar.sampling.held_out import read_seen
from videomar.sources.listing import changed_named, write_named
from videomar.tracking.mlflow_store import open_client
from videomar.training.state import untrained

HERE = Layout()
VIDEO = "data/raw/simulated/a.mp4"


def start_from(name: str | int | None) -> None:
    update_params(HERE.params, {"train": {"start_from": name}})


def make_child(root: Path, start: str) -> None:
    """Outputs as of a run on another video that started from these weights."""
    (root / VIDEO).rename(root / "data/raw/simulated/b.mp4")
    new = root / "data/raw/simulated/b.mp4"
    new.write_bytes(b"bytes of another video")
    ledger = read_ledger(HERE.ledger)
    ledger.loc[ledger["clip_id"] == "1", ["clip_id", "video", "video_sha256"]] = [
        "3",
        "simulated/b.mp4",
        sha256_of(new),
    ]
    write_ledger(HERE.ledger, ledger)
    rows = [{**row, "clip_id": "3"} for row in read_rows(root / "data/latents")]
    shutil.rmtree(root / "data/latents")
    write_shards(root / "data/latents", rows, 8, {"tokenizer": "f" * 64})
    weights = untrained(ModelShape(small_params().model, 4, 6, 5), 1).state_dict()
    made_with = {"start": start, "beside": {"start": start_origin(kept_start(start))}}
    shape = ModelShape(small_params().model, 4, 6, 5)
    checkpoint.save(root / "checkpoints/videomar", 40, shape, {"model": weights, "ema": weights}, made_with)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    sample = {"clips_left_out_as_seen": 2.0}
    (root / "metrics/sample.json").write_text(json.dumps(sample))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with version 1, the champion, and version 2, whose weights come from it."""
    root = tmp_path_factory.mktemp("family")
    with working_in(root):
        write_outputs(root)
        (root / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
        assert release.register() == "1"
        open_client().set_registered_model_alias(MODEL, "challenger", "1")
        start_from("challenger")
        [folder] = starts_of(load_params(HERE.params)).values()
        make_child(root, start_sha256(folder))
        assert release.register() == "2"
    return root


@pytest.fixture
def root(family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(family)
    return family


def test_every_name_of_the_same_weights_is_the_same_folder(root):
    start_from(1)
    [by_number] = starts_of(load_params(HERE.params)).values()
    start_from(str(by_number))
    [by_folder] = starts_of(load_params(HERE.params)).values()
    assert by_number == by_folder == kept_start(start_sha256(by_number)).resolve()
    assert start_origin(by_number)["name"] == "videomar version 1"
    assert {path.name for path in by_number.iterdir()} == {
        *("checkpoint.json", "ema.safetensors", "origin.json", "params.yaml", "parents", "tokenizer")
    }


def test_damaged_copy_is_made_again(root):
    start_from(1)
    [folder] = starts_of(load_params(HERE.params)).values()
    whole = (folder / "ema.safetensors").read_bytes()
    (folder / "ema.safetensors").write_bytes(whole[:100])
    assert starts_of(load_params(HERE.params)) == {"1": folder}
    assert (folder / "ema.safetensors").read_bytes() == whole


def test_listing_holds_contents_and_never_the_name(root, tmp_path):
    start_from(1)
    one = named_starts(load_params(HERE.params))
    start_from(str(starts_of(load_params(HERE.params))["1"]))
    assert named_starts(load_params(HERE.params)) == one
    clip = trace(find_model("1")).clips.iloc[0]
    seconds = f"{clip['start_s']:.3f}-{clip['end_s']:.3f}" if clip["end_s"] == clip["end_s"] else "all"
    assert one["sample"] == {SEEN: {clip["video_sha256"]: seconds}, UNKNOWN: {}}
    write_named(load_params(HERE.params), tmp_path, one)
    assert read_seen(tmp_path / "sample.json") == one["sample"][SEEN]
    start_from("challenger")  # version 2 now: other weights, with videos of both
    two = named_starts(load_params(HERE.params))
    assert len(two["sample"][SEEN]) == 2
    changed = changed_named(load_params(HERE.params), tmp_path, two)
    assert changed["train"] == ["train.start_from"]
    assert changed["sample"] == [SEEN]
    start_from(None)
    write_named(load_params(HERE.params), tmp_path, {})
    assert json.loads((tmp_path / "train.json").read_text()) == {}


def test_its_tokenizer_comes_with_it_and_another_is_refused(root, tmp_path):
    start_from(1)
    params = load_params(HERE.params)
    starts = starts_of(params)
    own = with_start_tokenizer(params).tokenizer.pretrained
    assert own == str(starts["1"] / "tokenizer")
    refuse_other_encoders(starts, HERE.tokenizer, params)
    other = tmp_path / "tokenizer"
    other.mkdir()
    (other / "tokenizer.json").write_text('{"channels": 9}')
    with pytest.raises(CheckpointError):
        refuse_other_encoders(starts, other, params)
    text = {"encoder": "none", "prefix": ""}
    update_params(HERE.params, {"text": {"encoder": "none"}})
    with pytest.raises(CheckpointError, match="trained with text.encoder 'minilm', expected .* 'none'"):
        refuse_other_encoders(starts, HERE.tokenizer, load_params(HERE.params))
    update_params(HERE.params, {"text": {**text, "encoder": "minilm"}})


def test_names_that_stand_for_nothing_are_refused(root, tmp_path, monkeypatch):
    for name, words in (
        (9, "got 9"),
        ("nowhere", "train.start_from: .*got nowhere"),
        ("champion", "none yet"),
    ):
        start_from(name)
        with pytest.raises(ParamsError, match=words):
            starts_of(load_params(HERE.params))
    start_from(1)
    params = load_params(HERE.params)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="there is no registry here yet"):
        starts_of(params)
    monkeypatch.chdir(root)
    with pytest.raises(ParamsError, match="got 0, expected a name"):
        start_from(0)


def test_trace_goes_down_to_the_raw_files_of_the_ancestor(root):
    traced = trace(find_model("2"))
    details = traced.to_dict()
    [parent] = details["parents"]
    assert parent["model"] == "videomar version 1"
    assert parent["run_id"] == find_model("1").run_id
    assert parent["saw"] == ["simulated/a.mp4"]
    assert details["saw"] == ["simulated/b.mp4"]
    assert {row["path"] for row in parent["raw"]} == {"simulated/a.mp4"}
    assert (
        details["parent_weights_sha256"] == parent["weights_sha256"] == find_model("1").tags["weights_sha256"]
    )
    assert details["parent_version"] == "1"
    changes, notes = verify(traced, HERE)
    assert changes == []
    assert "videomar version 1: 0 of its 1 raw files are here, as they were; 1 are not here any more" in notes


def test_removed_video_counts_against_the_child_of_a_model_that_saw_it(root):
    digest = next(iter(trace(find_model("1")).raw_files.values()))
    assert [usage.trained for usage in find_usage(digest)] == [True, True]
    assert describe_usage(digest)[1] == (
        "videomar version 2: was made without this video; it started from weights of videomar version 1, "
        "which was trained on it"
    )
    assert [usage.trained for usage in find_usage("0" * 64)] == [False, False]


def test_run_of_a_parent_stays(root):
    client = open_client()
    client.delete_run(find_model("1").run_id)
    parent = find_model("2").tags["parent_run"]
    kept = [version for version in [find_model("2")] if version.tags["parent_run"] == parent]
    try:
        garbage, notes = find_runs(-1.0, kept)
        assert garbage == []
        assert f"MLflow run {parent}: kept, a registered version is from it" in notes
        assert trace(find_model("2")).ancestors[0].trained_videos, "the record is in its own run"
    finally:
        client.restore_run(parent)


def test_weights_that_a_version_started_from_are_no_garbage(root):
    unused = kept_start("0" * 64)
    unused.mkdir(parents=True)
    try:
        garbage, _ = find_files(-1.0, [find_model("1"), find_model("2")])
    finally:
        unused.rmdir()
    starts = [item.what for item in garbage if ".start/" in item.what]
    assert str(unused) in starts
    assert str(kept_start(find_model("2").tags["parent_weights_sha256"])) not in starts


def test_clips_that_the_parent_was_trained_on_are_left_out_of_the_gate_s_comparison(root):
    rows = pandas.DataFrame({"clip_id": ["1", "3", "other"]})
    sides = decide._Sides(Evidence(rows), Evidence(rows))
    left, notes = decide._leave_out_trained(sides, [trace(find_model("2"))])
    assert list(left.candidate.rows["clip_id"]) == list(left.champion.rows["clip_id"]) == ["other"]
    assert notes == [
        "Left out: 2 of 3 clips, on which one of the two, or a model that it started from, was trained."
    ]


def test_card_and_gate_name_the_parent(root):
    card = card_of(find_model("2"))
    assert "- videomar version 1" in card
    assert find_model("1").tags["weights_sha256"] in card
    assert decide._seen_notes(find_model("2")) == [
        "Not judged: 2 clips of videos that a model which it started from was trained on."
    ]


def test_weights_alone_start_a_run_whose_ancestors_are_not_known(root, tmp_path):
    shape = ModelShape(small_params().model, 4, 6, 5)
    weights = untrained(shape, 5).state_dict()
    saved = checkpoint.save(tmp_path, 3, shape, {"ema": weights}, {"imported": {"file": "released.pth"}})
    start_from(str(saved))
    params = load_params(HERE.params)
    named = named_starts(params)
    assert named["sample"] == {SEEN: {}, UNKNOWN: {str(saved): start_sha256(saved)}}
    assert "train_tokenizer" not in named
    assert with_start_tokenizer(params) == params
    assert yaml.safe_load((kept_start(start_sha256(saved)) / "origin.json").read_text())["imported"]


def test_seconds_that_the_shipped_model_has_seen_come_from_its_table_of_clips(tmp_path: Path) -> None:
    columns = [*CLIP_COLUMNS, "key"]
    clips = [
        ("a", "film.mp4", "f" * 64, 0.0, 2.0, "real", "train", "k"),
        ("b", "film.mp4", "f" * 64, 1.0, 3.0, "real", "train", "k"),
        ("c", "film.mp4", "f" * 64, 8.0, 10.0, "real", "test", "k"),
    ]
    (tmp_path / "shipped").mkdir()
    (tmp_path / "evidence").mkdir()
    before = {"raw": [{"path": "old.mp4", "sha256": "e" * 64}], "saw": ["old.mp4"]}
    raw = [{"path": "film.mp4", "sha256": "f" * 64}]
    origin = tmp_path / "shipped/origin.json"
    origin.write_text(json.dumps({"raw": raw, "saw": ["film.mp4"], "parents": [before]}))
    pandas.DataFrame(clips, columns=columns).to_parquet(origin.with_name(LINEAGE))
    write_evidence_of_shipped(origin, tmp_path / "evidence")
    found = read_lineage(tmp_path / "evidence" / LINEAGE)
    assert parts_of_split([found], "train") == {"f" * 64: "0.000-3.000", "e" * 64: "all"}
    assert parts_of_split([found], "test") == {"f" * 64: "8.000-10.000"}
