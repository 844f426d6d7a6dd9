"""Where scores may not be compared, versions are judged again; a refusal says why they could not be."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas
import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import small_params
from tests.support.pipeline_outputs import REPOSITORY, working_in, write_outputs
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.cli import app as cli
from videomar.config import load_params
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.encoders.load import tokenizer_files
from videomar.evaluation.gate import Decision
from videomar.hub.find import find_model
from videomar.ops.check_registry import version_findings
from videomar.registry import decide, release
from videomar.registry.evaluate_again import evaluate_again, run_here
from videomar.registry.model_card import card_of
from videomar.registry.trace import trace
from videomar.registry.trace import verify as verify_trace
from videomar.registry.versions import (
    MODEL,
    all_versions,
    challenger,
    download_evidence,
    evaluation_details_of,
    evaluation_of,
    evidence_folder,
    version_of,
)
from videomar.tracking.mlflow_store import open_client
from videomar.training.state import untrained

FACTS = "data/evaluation.json"
OLD_CODE = "0" * 64
SAMPLE = """
import shutil, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
shutil.copy("data/made.parquet", given["--out"])
for name, text in ((given["--metrics"], "{}"), ("started", given["--model"] + "\\n")):
    with open(name, "a") as file:
        file.write(text)
"""
STAGES = {
    "sample": {
        "cmd": f"{sys.executable} sample.py --model checkpoints/videomar --out data/generated.parquet "
        "--metrics metrics/sample.json",
        "deps": ["data/raw", "data/latents", "checkpoints/videomar"],
        "outs": ["data/generated.parquet"],
        "metrics": [{"metrics/sample.json": {"cache": False}}],
    },
    "evaluate": {
        **yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["evaluate"],
        "deps": ["data/generated.parquet"],
    },
}


def set_code(root: Path, code: str) -> None:
    facts = json.loads((root / FACTS).read_text())
    facts["fingerprint"]["code"] = code
    (root / FACTS).write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The champion, version 1, was scored by other code than the same model, version 2, which is newer."""
    root = tmp_path_factory.mktemp("judging")
    with working_in(root):
        write_outputs(root)
        (root / "sample.py").write_text(SAMPLE)
        command = STAGES["evaluate"]["cmd"].replace("./stages/run ", f"{sys.executable} -m stages.")
        stages = {**STAGES, "evaluate": {**STAGES["evaluate"], "cmd": command}}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        few = {"metric_clips": 2, "feature_clips": 1, "extra_clips": 0}
        update_params(root / "params.yaml", {"suite": few})
        (root / "data/generated.parquet").rename(root / "data/made.parquet")
        (root / "data/generated.parquet").symlink_to("made.parquet")
        present = json.loads((root / FACTS).read_text())["fingerprint"]["code"]
        set_code(root, OLD_CODE)
        assert release.register() == "1"
        assert "promoted" in release.decide("1")
        release.move_alias("1")
        set_code(root, present)
        (root / "dvc.lock").write_text("another state")
        assert release.register() == "2"
    return root


@pytest.fixture
def root(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def fresh(root: Path) -> Path:
    """The working folder; neither version was judged again yet."""
    for number in "12":
        for key in version_of(number).judged_again:
            open_client().delete_model_version_tag(MODEL, number, f"judged_again.{key}")
    (root / "started").write_text("")
    return root


def started(root: Path) -> int:
    """How often clips were made of a version."""
    return len((root / "started").read_text().splitlines())


def judged(number: str = "2") -> Decision:
    return decide.decide(version_of(number), Path("params.yaml"))


@pytest.mark.slow
def test_champion_scored_by_other_code_is_judged_again_once_and_compared_by_numbers(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = judged()
    told = capfd.readouterr().err
    assert "videomar version 1 (checkpoint step 30) is judged again" in told
    assert "against 000000000000)" in told
    assert first.reasons[0] == "No better: equal to the champion on all 10 common clips."
    assert sum(line.startswith("The champion was judged again (") for line in first.reasons) == 1
    assert started(fresh) == 1

    champion, candidate = version_of("1"), version_of("2")
    (key,) = champion.judged_again
    assert first.champion_evidence == evidence_folder(key)
    assert first.candidate_evidence == evidence_folder()
    assert (
        evaluation_details_of(champion, evidence_folder(key))["fingerprint"]
        == evaluation_details_of(candidate)["fingerprint"]
    )
    assert evaluation_details_of(champion)["fingerprint"]["code"] == OLD_CODE
    assert candidate.judged_again == {}
    assert evaluation_of(champion, evidence_folder(key)).equals(evaluation_of(champion))

    assert judged() == first
    assert started(fresh) == 1


@pytest.mark.slow
def test_promote_judges_the_champion_again_and_the_report_shows_what_was_compared(
    fresh: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(cli.app, ["promote", "2"])
    assert "refused by the gate: No better: equal" in str(done.exception)
    decision = version_of("2").decision or {}
    assert decision["champion_evidence"] == evidence_folder(*version_of("1").judged_again)
    assert (
        download_evidence(version_of("1"), tmp_path, decision["champion_evidence"]) / "shown.parquet"
    ).is_file()
    release.report("2")
    assert "Clip by clip against videomar version 1" in (fresh / "reports/index.html").read_text()
    assert started(fresh) == 1


def test_clips_that_the_champion_was_trained_on_are_left_out(root: Path) -> None:
    path = next((root / ".local/mlartifacts").glob(f"**/{version_of('1').run_id}/**/lineage.parquet"))
    before = path.read_bytes()
    pandas.read_parquet(path).assign(clip_id="simulated-000").to_parquet(path)
    try:
        decision = judged()
    finally:
        path.write_bytes(before)
    assert decision.reasons[0] == "No better: equal to the champion on all 9 common clips."
    assert decision.reasons[-1] == "Left out: 1 of 19 clips, on which one of the two was trained."


@pytest.mark.slow
def test_version_older_than_champion_and_code_is_judged_again_itself(fresh: Path) -> None:
    sides = decide._find_sides(version_of("1"), version_of("2"), run_here)
    assert sides.candidate.again
    assert not sides.champion.again
    assert sides.candidate.fingerprint == sides.champion.fingerprint
    assert started(fresh) == 1


def test_fingerprint_that_this_code_cannot_read_is_no_end_of_comparisons(root: Path) -> None:
    path = next(
        (root / ".local/mlartifacts").rglob(f"{version_of('1').run_id}/artifacts/{evidence_folder()}")
    )
    facts = path / "evaluation.json"
    before = facts.read_text()
    facts.write_text('{"fingerprint": {"code": "x", "colour": 1}}')
    try:
        assert judged().reasons[0].startswith("No better: equal")
    finally:
        facts.write_text(before)


def test_what_an_earlier_judging_left_is_not_taken_for_its_result(root: Path) -> None:
    """A stage may keep an output that it finds, which would have the fingerprint of before an upgrade."""
    left = root / ".local/evaluations/1" / FACTS
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("{}")

    def run(stage: str, command: Sequence[str]) -> None:
        """Only `sample` leaves something."""
        if stage == "sample":
            Path(command[command.index("--out") + 1]).write_text("clips")

    evaluate_again(version_of("1"), run)
    assert not left.exists()


def without(path: str) -> Callable[[Path], Callable[[], None]]:
    """A change: a file or folder is gone meanwhile."""

    def take(root: Path) -> Callable[[], None]:
        found = list(root.glob(path))
        assert found
        for there in found:
            there.rename(there.with_name("away"))

        def put_back() -> None:
            for there in found:
                there.with_name("away").rename(there)

        return put_back

    return take


def another_size(root: Path) -> Callable[[], None]:
    update_params(root / "params.yaml", {"ingest": {"size_px": 64}})
    return lambda: update_params(root / "params.yaml", {"ingest": {"size_px": 32}})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without(".local/mlartifacts/**/models/*/artifacts/artifacts"), "its files"),
        (without("dvc.yaml"), "dvc.yaml: no such file"),
        (without("data/raw"), "data/raw: no such file or folder, expected what stage sample reads"),
        (without("data/made.parquet"), "stage sample: ended with code 1"),
        (another_size, r"made for clips of another shape (ingest.size_px 32, not 64)"),
    ],
)
def test_refusal_says_what_differs_and_why_the_champion_could_not_be_judged_again(
    fresh: Path, change: Callable[[Path], Callable[[], None]], why: str
) -> None:
    put_back = change(fresh)
    try:
        decision = judged()
    finally:
        put_back()
    assert not decision.promote
    assert decision.reasons[0].startswith("Not comparable with the champion: code ")
    assert ". It could not be judged again: " in decision.reasons[0]
    assert why in decision.reasons[0]
    assert '`videomar promote 2 --force --reason "..."` promotes the candidate anyway.' in decision.reasons[0]
    assert version_of("1").judged_again == {}


@pytest.fixture(scope="module")
def brought(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder from elsewhere: other weights beside the tokenizer of here."""
    shape = ModelShape(small_params().model, 4, 6, 5)
    weights = untrained(shape, 1).state_dict()
    parts = checkpoint.read_parts(
        tokenizer_files(project / "checkpoints/tokenizer"),
        load_params(project / "params.yaml"),
        "# elsewhere\n",
    )
    origin = {"imported": {"file": "released.pth", "sha256": "a" * 64}}
    tensors = {"model": weights, "ema": weights}
    return checkpoint.save(tmp_path_factory.mktemp("brought"), 0, shape, tensors, origin, parts=parts)


@pytest.mark.slow
def test_model_from_elsewhere_is_registered_once_judged_and_promoted_with_a_word_about_what_it_saw(
    fresh: Path, brought: Path
) -> None:
    before = [version.number for version in all_versions()]
    cli_runs = CliRunner()
    done = cli_runs.invoke(cli.app, ["register", str(brought), "--reason", "to compare"])
    assert done.exit_code == 0, done.output
    assert (
        "videomar version 3 (checkpoint step 0): registered; what it was trained on is not rec" in done.output
    )
    again = cli_runs.invoke(cli.app, ["register", str(brought)])
    assert "videomar version 3 (checkpoint step 0): is registered already" in again.output
    assert [version.number for version in all_versions()] == [*before, "3"]
    assert challenger().number == "2"

    shown = cli_runs.invoke(cli.app, ["trace", "3"])
    assert "imported from released.pth, sha256 aaaa" in shown.output
    assert "what it was trained on is not recorded" in shown.output
    traced = trace(version_of("3"))
    assert traced.to_dict()["origin"]["reason"] == "to compare"
    assert verify_trace(traced, Layout())[0] == []

    scored = cli_runs.invoke(cli.app, ["evaluate", "3", "--json"])
    assert scored.exit_code == 0, scored.output
    found = json.loads(scored.output.splitlines()[-1])
    assert found["version"] == "3"
    assert list(version_of("3").judged_again) == [found["scores"]]
    decision = judged("3")
    assert started(fresh) == 2  # of the version itself, and of the champion
    assert "What videomar version 3 (checkpoint step 0) was trained on is not recorded: it may have seen" in (
        " ".join(decision.reasons)
    )
    assert checkpoint.load(find_model("3").checkpoint).step == 0
    done = cli_runs.invoke(cli.app, ["rebuild", "3", "--into", str(fresh / "again")])
    assert "was registered from a folder, expected one that a pipeline made" in str(done.exception)
    assert [finding for finding in version_findings(Path("dvc.lock")) if "version 3" in str(finding)] == []
    assert "released.pth, sha256 aaaa" in card_of(version_of("3"))


@pytest.mark.slow
def test_model_from_elsewhere_without_scores_is_judged_before_the_gate_decides(fresh: Path) -> None:
    judged("3")
    assert set(version_of("3").judged_again) == set(version_of("1").judged_again)
