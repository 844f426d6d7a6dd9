"""A champion of the samples, then a candidate of own clips: the better one for these clips is promoted."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas
import pytest
import yaml

from tests.support.pipeline_outputs import REPOSITORY, evaluate, working_in, write_generated, write_outputs
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.evaluation.gate import Decision
from videomar.latents.parquet import SCHEMA
from videomar.latents.shards import write_shards
from videomar.registry import decide, release
from videomar.registry.ancestors import describe_parts, trained_clips
from videomar.registry.versions import MODEL, champion, version_of
from videomar.tracking.mlflow_store import open_client

OWN, FIRST, NOISE = 10, 100, 6.0
"""The held-out clips of the user, and how far the candidate is from the truth."""


def run_with(champion_noise: float) -> Callable[[str, Sequence[str]], None]:
    """Runs the stages of an evaluation, with a champion whose clips are as far from the truth."""

    def run(stage: str, command: Sequence[str]) -> None:
        given = dict(zip(command[2::2], command[3::2], strict=True))
        if stage == "sample":
            write_generated(Path(given["--out"]), {"real": OWN}, champion_noise, FIRST)
            Path(given["--metrics"]).write_text("{}")
        else:
            figures = evaluate(Path(given["--generated"]), Path(given["--plot"]))
            Path(given["--metrics"]).write_text(json.dumps(figures))

    return run


def write_own_clips(root: Path) -> None:
    """Outputs of `make run CLIPS=DIR`: real clips alone, of other videos, one of them trained on."""
    generated = root / "data/generated.parquet"
    write_generated(generated, {"real": OWN}, NOISE, FIRST)
    figures = evaluate(generated, root / "plots/quality_by_frame.csv")
    (root / "metrics/evaluate.json").write_text(json.dumps(figures))
    names = {"trained": "train", **{f"real-{FIRST + number:03d}": "test" for number in range(OWN)}}
    clip = {"group": "real", "kept": True, "start_s": 0.0, "end_s": 2.0, "caption": "mine"}
    rows = [
        {**clip, "clip_id": name, "split": split, "video": f"{name}.mp4", "video_sha256": f"sha of {name}"}
        for name, split in names.items()
    ]
    write_ledger(root / "data/ledger.parquet", pandas.DataFrame(rows, columns=LEDGER_SCHEMA.names))
    shutil.rmtree(root / "data/latents")
    row = {**dict.fromkeys(SCHEMA.names), "shape": [1] * 4, "dtype": "float16", "latents": b"12"}
    row |= {
        "text": b"34",
        "text_shape": [1, 1],
        "caption": "mine",
        "group": "real",
        "fps": 8.0,
        "size_px": 32,
        "view": 0,
        "motion": 1.0,
    }
    cached = [
        {**row, "clip_id": name, "key": f"k {name}", "text_key": "t", "split": split}
        for name, split in names.items()
    ]
    write_shards(root / "data/latents", cached, 8, {"tokenizer": "f" * 64})
    (root / "dvc.lock").write_text("after the samples")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, of the samples, is champion; version 2, of the user's clips, is the candidate."""
    root = tmp_path_factory.mktemp("other_clips")
    with working_in(root):
        write_outputs(root)
        stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
        for stage in stages.values():
            stage["deps"] = []
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        assert release.register() == "1"
        assert "promoted" in release.decide("1")
        release.move_alias("1")
        write_own_clips(root)
        assert release.register() == "2"
    return root


@pytest.fixture
def root(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; the champion was not judged on the user's clips yet, and nothing is decided."""
    monkeypatch.chdir(project)
    for key in version_of("1").judged_again:
        open_client().delete_model_version_tag(MODEL, "1", f"judged_again.{key}")
    return project


def judged(champion_noise: float) -> Decision:
    return decide.decide(version_of("2"), Path("params.yaml"), run_with(champion_noise))


@pytest.mark.slow
def test_candidate_that_is_better_for_the_new_clips_is_promoted(root: Path) -> None:
    decision = release.decide("2", run_with(20.0))
    assert decision.startswith("gate: promoted. ")
    assert "over the champion +10." in decision
    assert f"{OWN} clips" in decision
    assert "The champion was trained on other videos (none of the candidate's)" in decision
    assert "The champion was judged again (" in decision
    assert "Not comparable" not in decision
    release.move_alias("2")
    best = champion()
    assert best is not None
    assert best.number == "2"
    new, gain, *_ = release.changed_by_new_clips(best)
    assert new.startswith(f"{OWN + 1} new videos: 1 clip to train on, {OWN} judged. ")
    assert gain.startswith("Real, continued, PSNR over the champion: new videos +1")
    open_client().set_registered_model_alias(MODEL, "champion", "1")
    champion()  # writes down that the alias was moved


@pytest.mark.slow
def test_champion_that_is_better_for_the_new_clips_stays(root: Path) -> None:
    decision = judged(2.0)
    assert not decision.promote
    assert decision.reasons[0].startswith("Not shown to be better: real continuation over the champion -")
    assert any(line.startswith("The champion was trained on other videos") for line in decision.reasons)


@contextmanager
def lineage_of_champion(root: Path, **columns: object):
    path = next((root / ".local/mlartifacts").glob(f"**/{version_of('1').run_id}/**/lineage.parquet"))
    before = path.read_bytes()
    pandas.read_parquet(path).assign(**columns).to_parquet(path)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.slow
def test_new_clips_of_a_video_that_the_champion_was_trained_on_are_left_out_for_both(root: Path) -> None:
    with lineage_of_champion(root, video_sha256=f"sha of real-{FIRST + 3}", start_s=50.0, end_s=52.0):
        decision = judged(20.0)
    assert decision.promote
    assert f"Left out: 1 of {OWN} clips, on which one of the two was trained." in decision.reasons
    assert all(f"{OWN - 1} clips" in reason for reason in decision.reasons if reason.startswith("Better"))


def test_champion_that_cannot_be_judged_here_is_named_with_what_to_do(root: Path) -> None:
    folders = list(root.glob(".local/mlartifacts/**/models/*/artifacts/artifacts"))
    for folder in folders:
        folder.rename(folder.with_name("away"))
    try:
        decision = judged(20.0)
    finally:
        for folder in folders:
            folder.with_name("away").rename(folder)
    assert not decision.promote
    assert (
        "It could not be judged again: videomar version 1 (checkpoint step 30): its files"
        in decision.reasons[0]
    )
    assert '`videomar promote 2 --force --reason "..."` promotes the candidate anyway.' in decision.reasons[0]


def clips(*rows: tuple[str, str, float]) -> pandas.DataFrame:
    table = pandas.DataFrame(rows, columns=["clip_id", "video_sha256", "start_s"])
    return table.assign(end_s=table["start_s"] + 2)


def test_clip_is_held_out_by_its_video_and_by_its_time_where_the_video_is_split_in_time() -> None:
    judged = clips(("a", "whole", 0), ("b", "part", 0), ("c", "part", 10), ("d", "other", 0))
    trained = [clips(("e", "whole", 30), ("f", "part", 11)), clips(("d", "new name", 0))]
    assert trained_clips(judged, trained, ["part"]) == {"a", "c", "d"}
    assert trained_clips(judged, trained, []) == {"a", "b", "c", "d"}
    assert trained_clips(judged, [], ["part"]) == set()


def test_parts_of_a_video_are_joined_where_they_overlap() -> None:
    assert describe_parts([(20.0, 22.0), (0.0, 2.0), (1.0, 3.0), (3.0, 4.0)]) == "0.000-4.000 20.000-22.000"
    assert describe_parts([(0.0, 2.0), (float("nan"), 1.0)]) == "all"
    unknown = clips(("e", "part", float("nan")))
    assert trained_clips(clips(("a", "part", 0)), [unknown], ["part"]) == {"a"}
