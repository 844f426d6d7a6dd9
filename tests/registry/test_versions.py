import subprocess
from pathlib import Path

import pandas as pd
import pytest

from flows import release as flow
from tests.support.pipeline_outputs import write_outputs
from videomar import checkpoint
from videomar.config import load_params
from videomar.errors import VideomarError
from videomar.files import sha256_of
from videomar.provenance.checkout import git_state
from videomar.registry import release
from videomar.registry import versions as registry
from videomar.registry.champion import alias_history
from videomar.registry.release import promote_version
from videomar.tracking.mlflow_store import open_client

REFUSED = {"promote": False, "reasons": ["too bad"], "figures": []}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_outputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_registry_round_trip(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One store for the whole life of two versions, because making its tables takes seconds."""
    lock = root / "dvc.lock"
    assert registry.champion() is None
    assert registry.find_released(lock) is None

    first = release.register()
    assert release.register() == first
    assert registry.challenger() == registry.version_of(first)
    assert "promoted" in release.decide(first)
    card = open_client().get_model_version("videomar", first).description
    assert card.startswith("# videomar version 1\n")
    for fact in ("| simulated | train | 1 |", "simulated continuation over repeat-last", "| loss | 0.5 |"):
        assert fact in card
    release.move_alias(first)
    assert registry.find_released(lock) is None  # the report is still missing
    release.report(first)
    assert registry.find_released(lock) is not None

    version = registry.champion()
    assert version is not None
    assert version.tags["lock_sha256"] == sha256_of(lock)
    assert version.tags["previous_champion"] == "none"
    assert version.step == "30"
    assert registry.evaluation_of(version).equals(pd.read_parquet(root / "data/evaluation.parquet"))
    files = {path.name for path in registry.download_model(version).rglob("*") if path.is_file()}
    assert {"model.safetensors", "ema.safetensors", "tokenizer.json", "params.yaml"} <= files
    assert "optimizer.safetensors" not in files
    assert checkpoint.load(registry.download_model(version) / "checkpoint").step == 30
    stored = registry.download_model(version) / "checkpoint/params.yaml"
    assert load_params(stored).sample == load_params(root / "params.yaml").sample

    report = root / "reports/index.html"
    report.unlink()
    flow.main()
    assert capsys.readouterr().out.splitlines() == [
        "report: reports/index.html",
        "champion: videomar version 1 (checkpoint step 30)",
    ]
    assert report.is_file()

    (root / "dvc.lock").write_text("another state")
    second = release.register()
    assert second != first
    assert "No better: equal" in release.decide(second)
    release.move_alias(second)
    assert registry.champion() == registry.version_of(first)
    release.report(second)
    assert "Clip by clip against videomar version 1 (checkpoint step 30)" in report.read_text()
    assert "challenger&#39;s best" in report.read_text()  # beside the clips that the champion kept
    with pytest.raises(VideomarError, match="refused by the gate: No better"):
        promote_version(second, "", root / "params.yaml")
    assert promote_version(second, "we want it", root / "params.yaml")[0].endswith("we want it")
    forced = registry.champion()
    assert forced is not None
    assert (forced.number, forced.tags["previous_champion"]) == (second, first)
    told = [(move.before, move.after, move.forced) for move in alias_history().moves]
    assert told == [(None, first, False), (first, second, True)]
    assert alias_history().moves[-1].why == "we want it"
    with pytest.raises(VideomarError, match="champion already"):
        promote_version(second, "", root / "params.yaml")
    with pytest.raises(VideomarError, match="got 99"):
        registry.version_of("99")


def test_release_without_a_lock_is_refused_in_one_line(root: Path) -> None:
    (root / "dvc.lock").unlink()
    with pytest.raises(SystemExit, match=r"dvc.lock: no such file, .* run `dvc repro`"):
        flow.main()


def test_lineage_is_not_lost_quietly_in_a_checkout_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert git_state(tmp_path)["git_commit"] == "none"
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    with pytest.raises(VideomarError, match="dubious ownership.*safe.directory '"):
        git_state(tmp_path)


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-b", "main")
    assert git_state(tmp_path) == {"git_commit": "none", "git_dirty": "false"}
    git("commit", "--allow-empty", "-m", "a")
    clean = git_state(tmp_path)
    (tmp_path / "new").touch()
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] == "false"
    assert git_state(tmp_path) == {**clean, "git_dirty": "true"}
