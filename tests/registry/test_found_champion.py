"""A champion that was made one on MLflow's page: noticed, judged, and recorded or undone."""

import shutil
from pathlib import Path

import pytest

from tests.support.pipeline_outputs import working_in
from videomar.errors import VideomarError
from videomar.ops.check_registry import alias_findings, release_findings
from videomar.registry import release
from videomar.registry.champion import alias_history
from videomar.registry.champion_history import MODEL, read_history
from videomar.registry.local_versions import local_champion_is_settled
from videomar.registry.release import judge_found_champion, promote_version
from videomar.registry.versions import (
    challenger,
    champion,
    find_released,
    mark_released,
    name_challenger,
    version_of,
)
from videomar.tracking.mlflow_store import open_client

PARAMS = Path("params.yaml")


@pytest.fixture(scope="module")
def twins(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with two registered versions of equal scores, of which neither was judged."""
    root = tmp_path_factory.mktemp("found") / "tree"
    shutil.copytree(registered, root)
    with working_in(root):
        (root / "dvc.lock").write_text("stages: {}")
        assert release.register() == "2"
    return root


@pytest.fixture
def root(twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that tree, with artifacts of its own."""
    shutil.copytree(twins, tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


def move_by_hand(number: str) -> None:
    open_client().set_registered_model_alias(MODEL, "champion", number)


def moves() -> list[tuple[str, str | None, str | None, bool]]:
    return [(move.action, move.before, move.after, move.forced) for move in alias_history().moves]


def test_allowed_champion_is_recorded_and_a_refused_one_is_undone(root: Path) -> None:
    move_by_hand("1")
    assert not local_champion_is_settled()
    assert alias_history().unjudged is not None
    assert not local_champion_is_settled()  # recorded, but not judged
    (finding,) = alias_findings()
    assert "the gate has not judged it" in finding.what
    assert finding.fix.endswith("videomar promote 1")
    lines = judge_found_champion(PARAMS)
    assert "made champion without videomar: allowed by the gate" in lines[0]
    assert moves() == [("found", None, "1", False), ("promote", None, "1", False)]
    assert version_of("1").tags["previous_champion"] == "none"
    assert local_champion_is_settled()
    assert alias_findings() == []
    assert judge_found_champion(PARAMS) == []

    move_by_hand("2")
    with pytest.raises(VideomarError, match="refused by the gate: No better"):
        promote_version("2", "", PARAMS)
    assert moves()[2:] == [("found", "1", "2", False), ("rollback", "2", "1", False)]
    assert "undone: " in alias_history().moves[-1].why
    assert read_history(open_client()).alias == "1"
    decision = version_of("2").decision
    assert decision is not None
    assert not decision["promote"]
    assert version_of("2").tags["previous_champion"] == "1"

    move_by_hand("2")
    assert "Forced although the gate refused: we want it" in promote_version("2", "we want it", PARAMS)[0]
    assert moves()[4:] == [("found", "1", "2", False), ("promote", "1", "2", True)]
    move_by_hand("1")
    assert moves()[-1] == ("rollback", "2", "1", False)  # an earlier champion needs no gate
    assert judge_found_champion(PARAMS) == []
    best = champion()
    assert best is not None
    assert best.number == "1"


def test_release_judges_a_found_champion_before_it_compares_with_it(root: Path) -> None:
    open_client().delete_run(version_of("1").run_id)
    move_by_hand("1")
    assert "promoted" in release.decide("2")  # against none: version 1 could not be judged
    assert moves() == [("found", None, "1", False), ("rollback", "1", None, False)]
    assert "cannot be judged" in alias_history().moves[-1].why
    release.move_alias("2")
    assert moves()[-1] == ("promote", None, "2", False)


def test_judgement_that_was_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    move_by_hand("1")
    with monkeypatch.context() as patch:
        patch.setattr(release, "apply_decision", die)
        with pytest.raises(KeyboardInterrupt):
            judge_found_champion(PARAMS)
    decided = version_of("1").tags["decision"]
    judge_found_champion(PARAMS)
    assert version_of("1").tags["decision"] == decided
    assert moves() == [("found", None, "1", False), ("promote", None, "1", False)]


def test_history_is_shown_on_the_pages_of_model_and_run(root: Path) -> None:
    client = open_client()
    client.update_registered_model(MODEL, "Our model.")
    move_by_hand("1")
    judge_found_champion(PARAMS)
    description = client.get_registered_model(MODEL).description
    assert description.startswith("Our model.\n\n## History of the champion\n")
    assert [line.split(" | ")[1] for line in description.splitlines()[6:]] == ["promote", "found"]
    run = client.get_run(version_of("1").run_id)
    assert '"path": "champion_history.json", "type": "table"' in run.data.tags["mlflow.loggedArtifacts"]


def test_candidate_without_its_alias_gets_it_from_the_next_try(root: Path) -> None:
    """A process was killed between version and alias; one of before then finished the release."""
    lock = root / "dvc.lock"
    open_client().delete_registered_model_alias(MODEL, "challenger")
    mark_released(version_of("2"))
    assert find_released(lock) is None
    assert "its release was interrupted" in release_findings(lock, Path("checkpoints/videomar"))[-1].what
    assert release.register() == "2"
    assert challenger() == version_of("2")
    released = find_released(lock)
    assert released is not None
    assert released.number == "2"


def test_older_candidate_does_not_take_the_alias_of_a_newer_one(root: Path) -> None:
    name_challenger(version_of("1"))
    assert challenger() == version_of("2")
