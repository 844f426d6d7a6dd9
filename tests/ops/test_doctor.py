"""Each kind of mismatch is planted, found with its command, and gone after the command."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.support.upkeep_checkout import run
from videomar.cli import app as cli
from videomar.config.layout import Layout
from videomar.errors import Finding
from videomar.files import write_json
from videomar.ops.doctor import examine
from videomar.registry.champion_history import MODEL, Move, move_champion, read_history
from videomar.registry.versions import version_of
from videomar.tracking.mlflow_store import open_client
from videomar.tracking.run_log import RunLog

DEAD = 2**22 + 1
"""A process number that Linux never gives."""
WEIGHTS = "checkpoint/ema.safetensors"


def found() -> list[Finding]:
    return list(examine(Layout()).findings)


def interrupt_a_move() -> None:
    move = Move(action="rollback", before="1", after=None, why="planted")
    value = json.dumps({name: getattr(move, name) for name in Move.__dataclass_fields__})
    number = len(read_history(open_client()).keys) + 1
    open_client().set_registered_model_tag(MODEL, f"history.n{number:08}.planted", value)


def move_the_alias_by_hand() -> None:
    version = open_client().create_model_version(MODEL, "s3://a/b", version_of("1").run_id)
    open_client().set_registered_model_alias(MODEL, "champion", version.version)


def move_the_alias_back_by_hand() -> None:
    """To an earlier champion, from one that the gate judged."""
    client = open_client()
    move_the_alias_by_hand()
    move_champion(client, read_history(client), Move(action="promote", before="1", after="2", why="planted"))
    client.set_registered_model_alias(MODEL, "champion", "1")


def leave_lines_unsent() -> None:
    RunLog(Path("checkpoints/other/outbox/planted")).append("start", params={}, tags={}, inputs=[])


def lose_the_training_run() -> None:
    leave_lines_unsent()
    folder = Path("checkpoints/other/outbox/planted")
    RunLog(folder).mark("f" * 32, (folder / "lines.jsonl").stat().st_size)
    shutil.move(Path("checkpoints/other/outbox"), Path("checkpoints/videomar/outbox"))
    write_json(Path("checkpoints/videomar/run.json"), {"name": "planted", "run_id": "f" * 32})
    run(".venv/bin/dvc commit --force --quiet")  # the run's folder is an output: as if trained so


def leave_a_draft() -> None:
    draft = Path("checkpoints/other/.draft-planted")
    draft.mkdir(parents=True)
    os.utime(draft, (time.time() - 7200,) * 2)


FIXED: dict[str, tuple[str | Callable[[], object], str, str]] = {
    "output missing": ("rm -r data/latents", "data/latents", ".venv/bin/dvc checkout data/latents"),
    "output changed": (
        "echo >> checkpoints/tokenizer/tokenizer.json",
        "checkpoints/tokenizer",
        ".venv/bin/dvc checkout checkpoints/tokenizer",
    ),
    "metric edited": ("echo '{}' > metrics/train.json", "metrics/train.json", ".venv/bin/dvc repro train"),
    "cache lost": (
        "rm -rf .dvc/cache/files",
        "data/ledger.parquet",
        ".venv/bin/dvc commit --force curate",
    ),
    "dependency changed": ("echo >> figures.json", "stage train", ".venv/bin/dvc repro train"),
    "parameter changed": (
        "sed -i 's/min_clips: .*/min_clips: 9/' params.yaml",
        "stage train",
        ".venv/bin/dvc repro train",
    ),
    "move interrupted": (interrupt_a_move, "alias champion of videomar", ".venv/bin/videomar history"),
    "alias deleted": (
        lambda: open_client().delete_registered_model_alias(MODEL, "champion"),
        "alias champion of videomar",
        "set_registered_model_alias",
    ),
    "alias moved back": (
        move_the_alias_back_by_hand,
        "alias champion of videomar",
        ".venv/bin/videomar history",
    ),
    "run deleted": (
        lambda: open_client().delete_run(version_of("1").run_id),
        "videomar version 1 (checkpoint step 30)",
        "mlflow runs restore --run-id",
    ),
    "tag changed": (
        lambda: open_client().set_model_version_tag(MODEL, "1", "checkpoint_sha256", "0" * 64),
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/python -c ",
    ),
    "lock's tag changed": (
        lambda: open_client().set_tag(version_of("1").run_id, "lock_sha256", "0" * 64),
        "run ",
        ".venv/bin/python -c ",
    ),
    "report missing": ("rm -r reports", "reports/index.html", ".venv/bin/videomar release"),
    "report of another": (
        "sed -i 's/<title>VideoMAR: videomar version 1/<title>VideoMAR: videomar 7/' reports/index.html",
        "reports/index.html",
        ".venv/bin/videomar release",
    ),
    "lines unsent": (
        leave_lines_unsent,
        "checkpoints/other/outbox/planted",
        ".venv/bin/videomar upload checkpoints",
    ),
    "training run lost": (
        lose_the_training_run,
        "checkpoints/videomar/run.json",
        ".venv/bin/videomar upload checkpoints/videomar",
    ),
    "draft of a checkpoint": (
        leave_a_draft,
        "checkpoints/other/.draft-planted",
        ".venv/bin/videomar gc --yes",
    ),
    "draft of a file": (
        f"touch reports/.index.html.{DEAD}",
        f"reports/.index.html.{DEAD}",
        ".venv/bin/videomar gc --yes",
    ),
}
NAMED: dict[str, tuple[str | Callable[[], object], str, str]] = {
    "alias moved": (move_the_alias_by_hand, "alias champion of videomar", ".venv/bin/videomar promote 2"),
    "unknown parameter": ("echo 'nonsense: 1' >> params.yaml", "params.yaml", "git diff params.yaml"),
    "champion deleted": (
        lambda: open_client().delete_model_version(MODEL, "1"),
        "alias champion of videomar",
        ".venv/bin/videomar rollback",
    ),
    "no run yet": ("rm dvc.lock", "dvc.lock", "make run"),
    "output nowhere": (
        "rm -rf .dvc/cache/files data/latents",
        "data/latents",
        ".venv/bin/dvc repro encode",
    ),
    "not registered": ("sed -i 's/md5: ./md5: 0/' dvc.lock", "checkpoints/videomar", "make run"),
    "release interrupted": (
        lambda: open_client().delete_model_version_tag(MODEL, "1", "released_at"),
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/videomar release",
    ),
    "registered weights damaged": (
        f"for file in .local/mlartifacts/models/*/artifacts/artifacts/{WEIGHTS}; do echo >> $file; done",
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/videomar rollback",
    ),
    "registered weights gone": (
        "rm -r .local/mlartifacts/models",
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/videomar rollback",
    ),
    "weights of before sums were kept damaged": (
        "rm .local/mlartifacts/*/artifacts/evidence/files.parquet; "
        f"for file in .local/mlartifacts/models/*/artifacts/artifacts/{WEIGHTS}; do echo >> $file; done",
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/videomar rollback",
    ),
    "evidence gone": (
        "rm -r .local/mlartifacts/*/artifacts/evidence",
        "videomar version 1 (checkpoint step 30)",
        ".venv/bin/videomar rollback",
    ),
    "package of another version": (
        "echo numpy==0.1 > requirements.lock",
        "requirements.lock",
        "rm -f .venv/.ready && make setup",
    ),
    "package missing": (
        "echo no-such-package==0.1 > requirements.lock",
        "requirements.lock",
        "rm -f .venv/.ready && make setup",
    ),
    "supervisor dead": (
        lambda: write_json(Path(".local/services.json"), {"supervisor": [DEAD, 0.0], "services": {}}),
        ".local/services.json",
        "make up",
    ),
    "services' note damaged": ("echo '{' > .local/services.json", ".local/services.json", "make up"),
    "service silent": (lambda: note_services([living()]), "service mlflow", "make down && make up"),
    "service dead": (lambda: note_services([]), "service mlflow", "make down && make up"),
    "service dead beside Ray": (
        lambda: note_services([], "ray"),
        "service mlflow",
        "make down && make up RAY=1",
    ),
}


def living() -> list[float]:
    return [os.getpid(), psutil.Process().create_time()]


def note_services(processes: list[list[float]], *others: str) -> None:
    service = {"address": "http://127.0.0.1:9", "ready": True, "deaths": 0, "processes": processes}
    noted = {"supervisor": living(), "prefect_api": "http://127.0.0.1:9/api", "tracking_uri": None}
    alive = {name: {**service, "processes": [living()]} for name in others}
    write_json(Path(".local/services.json"), {**noted, "services": {"mlflow": service, **alive}})


def plant(mismatch: str | Callable[[], object]) -> None:
    if isinstance(mismatch, str):
        run(mismatch)
    else:
        mismatch()


def one_of(findings: list[Finding], where: str, fix: str) -> Finding:
    """The finding about a place with this command."""
    fitting = [item for item in findings if item.where.startswith(where) and fix in item.fix]
    assert fitting, "\n".join(map(str, findings))
    return fitting[0]


def test_healthy_checkout_gets_one_calm_line(root: Path) -> None:
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        [
            "note: champion: videomar version 1 (checkpoint step 30)",
            "all is well: dvc.lock, files, MLflow, alias and services agree",
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIXED)
def test_mismatch_is_found_and_its_command_fixes_it(root: Path, kind: str) -> None:
    mismatch, where, fix = FIXED[kind]
    plant(mismatch)
    finding = one_of(found(), where, fix)
    run(finding.fix)
    assert finding.where not in {item.where for item in found()}


@pytest.mark.parametrize("kind", NAMED)
def test_mismatch_is_found_with_its_command(root: Path, kind: str) -> None:
    mismatch, where, fix = NAMED[kind]
    plant(mismatch)
    assert one_of(found(), where, fix).fix == fix


@pytest.mark.slow
def test_version_that_was_made_champion_by_hand_is_judged_by_the_command_or_undone(root: Path) -> None:
    """The gate refuses this one: it has the figures of the champion."""
    move_the_alias_by_hand()
    finding = one_of(found(), "alias champion", "promote 2")
    run(".venv/bin/videomar history")
    assert one_of(found(), "alias champion", "promote 2").fix == finding.fix
    said = run(f"{finding.fix} 2>&1 || true")
    assert "version 2, made champion without videomar: refused by the gate" in said
    history = read_history(open_client())
    assert history.alias == history.expected == "1"
    assert [move.action for move in history.moves] == ["promote", "found", "rollback"]
    assert "alias champion of videomar" not in {item.where for item in found()}


def test_changed_output_is_kept_when_it_is_replaced(root: Path) -> None:
    (root / "data/ledger.parquet").write_text("by hand")
    run(one_of(found(), "data/ledger.parquet", "dvc checkout").fix)
    (kept,) = root.glob(".local/replaced-*/data/ledger.parquet")
    assert kept.read_text() == "by hand"
    assert found() == []


def test_doctor_carries_out_nothing(root: Path) -> None:
    interrupt_a_move()
    before = read_history(open_client())
    found()
    assert read_history(open_client()) == before


def test_training_that_was_killed_is_taken_up_and_not_thrown_away(root: Path) -> None:
    """Newer checkpoints of other parameters: `dvc checkout` would delete them."""
    run("cp -r checkpoints/videomar/step_00000030 checkpoints/videomar/step_00000031; echo >> figures.json")
    assert {item.fix for item in found() if "checkout" in item.fix} == set()
    one_of(found(), "checkpoints/videomar", ".venv/bin/dvc repro train")


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("http://127.0.0.1:9", "make up"),
        ("sqlite:///{}/none.db", "make run"),
        ("sqlite:///{}/params.yaml", ".venv/bin/videomar restore BACKUP.tar --force"),
    ],
)
def test_store_that_is_away_or_damaged_is_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, uri: str, fix: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(root))
    assert [item.fix for item in found()] == [fix]
    assert not (root / "none.db").exists()


def test_runs_recorded_elsewhere_than_the_services_show_are_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_services([living()])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@host/runs")
    findings = found()
    fix = "unset MLFLOW_TRACKING_URI"
    assert [item.what[:13] for item in findings if item.fix == fix] == ["names another", "names a datab"]
    assert "secret" not in str(findings)


def test_full_disk_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = shutil.disk_usage(root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    one_of(found(), "disk of ", ".venv/bin/videomar gc")


def test_changed_code_is_a_note_and_no_mismatch(root: Path) -> None:
    run("mkdir videomar && echo 1 > videomar/a.py && git add videomar && git commit --quiet -m code")
    (root / "videomar/a.py").write_text("2")
    health = examine(Layout())
    assert not health.findings
    assert any(note.startswith("code: 1 files differ") for note in health.notes)
    assert any("videomar/a.py" in note for note in health.notes)


def test_json_names_each_finding_and_exit_code_is_1(root: Path) -> None:
    (root / "reports/index.html").unlink()
    done = CliRunner().invoke(cli.app, ["doctor", "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 1
    assert not said["ok"]
    assert all(item["mend"] == item["fix"] for item in said["findings"]), "the old name"
    assert [(item["where"], item["fix"]) for item in said["findings"]] == [
        ("reports/index.html", ".venv/bin/videomar release")
    ]


def test_version_of_before_sums_were_kept_is_well(root: Path) -> None:
    run("rm .local/mlartifacts/*/artifacts/evidence/files.parquet")
    assert found() == []
