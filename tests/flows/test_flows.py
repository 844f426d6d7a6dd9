import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prefect.logging import disable_run_logger
from prefect.states import Failed

from flows.pipeline import run_command, run_stage
from flows.retrain import use_start
from flows.serve import deployments
from tests.support.pipeline_outputs import REPOSITORY, write_outputs
from videomar.config import load_own_params
from videomar.errors import ParamsError
from videomar.processes import OverTimeError, StageError, StageRefusedError, run_in_group
from videomar.provenance.dvc_repair import read_pipeline
from videomar.provenance.made_with import SUFFIX
from videomar.registry.evaluate_again import command_elsewhere
from videomar.registry.versions import Version


def lives(pid: int) -> bool:
    """Whether a process still computes; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: object, limit_s: float = 10.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)
    return bool(condition())  # type: ignore[operator]


def test_refresh_runs_every_stage_after_those_it_depends_on() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    order = list(read_pipeline(REPOSITORY / "dvc.yaml"))
    assert order == list(stages)
    made: set[str] = set()
    makers = {
        next(iter(out)) if isinstance(out, dict) else out
        for stage in stages.values()
        for out in stage["outs"]
    }
    for name in order:
        assert {dep for dep in stages[name]["deps"] if dep in makers} <= made
        made |= {next(iter(out)) if isinstance(out, dict) else out for out in stages[name]["outs"]}


def test_failed_stage_is_named(tmp_path: Path) -> None:
    with disable_run_logger(), pytest.raises(StageError, match="stage nothing: ended with code"):
        run_stage.fn("nothing", tmp_path)


def test_stage_over_its_time_is_named(tmp_path: Path) -> None:
    with disable_run_logger(), pytest.raises(OverTimeError, match="stage nothing: took over 0 h"):
        run_stage.fn("nothing", tmp_path, hours=0)


def test_stage_elsewhere_over_its_time_is_named() -> None:
    with disable_run_logger(), pytest.raises(OverTimeError, match="stage slow: took over 0 h"):
        run_command.fn("slow", ["sleep", "60"], 0)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StageError("stage train: ended with code 1"), True),
        (OSError("no answer"), True),
        (OverTimeError("24 h"), False),
        (StageRefusedError("stage train: train.seed: got x"), False),
        (ParamsError("train.seed: got x"), False),
    ],
)
def test_stage_is_tried_again_unless_a_person_must_fix_something(error: Exception, again: bool) -> None:
    for stage in (run_stage, run_command):
        assert stage.retry_condition_fn is not None
        assert stage.retry_condition_fn(stage, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_group_over_its_time_is_ended(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 60 & echo $! > child; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        run_in_group(command, tmp_path, limit_s=1.0)
    assert not lives(int((tmp_path / "child").read_text()))


def test_deployments_are_those_of_prefect_yaml() -> None:
    made = {(entry.flow_name, entry.name): entry for entry in deployments(REPOSITORY / "prefect.yaml")}
    flows = {"judge-champion", "refresh", "release", "retrain", "sample_and_evaluate", "sweep"}
    assert {flow for flow, _ in made} == flows
    (schedule,) = made["retrain", "nightly"].schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == (
        "17 3 * * *",
        "UTC",
        True,
    )


def test_choice_of_a_start_is_written_to_params_and_keeps_the_champion_s_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    before = Path("params.yaml").read_text()

    def chosen(start_from: str, best: Version | None) -> object:
        monkeypatch.setattr("flows.retrain.champion", lambda: best)
        monkeypatch.setattr("flows.retrain.get_run_logger", lambda: logging.getLogger("test"))
        use_start.fn(start_from)
        return load_own_params(Path("params.yaml")).train.start_from

    assert chosen("champion", None) is None
    assert Path("params.yaml").read_text() == before
    assert chosen("champion", Version("7", "run", {})) == 7
    assert chosen("champion", Version("12", "run", {})) == 12
    assert chosen("nothing", Version("12", "run", {})) is None
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize("stage", ["encode", "sample", "evaluate"])
def test_stage_elsewhere_writes_nothing_into_the_pipeline(tmp_path: Path, stage: str) -> None:
    entry = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"][stage]
    places = {"checkpoints/videomar": Path("a model")}
    words = command_elsewhere(entry, places, tmp_path)
    outs = [item for kind in ("outs", "plots", "metrics") for item in entry.get(kind, [])]
    for path in (item if isinstance(item, str) else next(iter(item)) for item in outs):
        assert path not in words
        # What an output was made with lies beside it.
        assert str(tmp_path / path).removesuffix(SUFFIX) in words
        assert (tmp_path / path).parent.is_dir()
    assert ("a model" in words) == (stage == "sample")


@pytest.mark.parametrize("code", [0, 3])
def test_group_gives_the_exit_code_and_runs_in_the_folder(tmp_path: Path, code: int) -> None:
    assert run_in_group(["sh", "-c", f"touch here; exit {code}"], tmp_path) == code
    assert (tmp_path / "here").is_file()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_group_ends_with_the_process_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    command = ["sh", "-c", "sleep 60 & echo $! > child.tmp; mv child.tmp child; wait"]
    call = f"run_in_group({command}, Path({str(tmp_path)!r}))"
    # A shell's background job is born ignoring Ctrl-C, and so are its children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from pathlib import Path; from videomar.processes import run_in_group; {call}"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    assert wait_until((tmp_path / "child").is_file)
    grandchild = int((tmp_path / "child").read_text())
    assert lives(grandchild)
    parent.send_signal(how)
    parent.wait(10)
    assert wait_until(lambda: not lives(grandchild))


def test_release_with_nothing_to_do_does_not_import_prefect() -> None:
    code = "import sys, flows.release; sys.exit('prefect' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.slow
def test_release_flow_runs_without_a_server_and_then_does_nothing(tmp_path: Path) -> None:
    write_outputs(tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PREFECT_HOME": str(tmp_path / ".local/prefect"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.release"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    first, again = run(), run()
    last = ["report: reports/index.html", "champion: videomar version 1 (checkpoint step 30)"]
    assert first.stdout.splitlines()[-2:] == last, first.stderr
    assert "gate: promoted" in first.stdout
    assert "verdict: version 1 is promoted. Better: " in first.stdout
    assert again.stdout.splitlines() == last
    (tmp_path / "dvc.lock").write_text("next")
    (tmp_path / "data/ledger.parquet").unlink()
    broken = run()
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1].lower().startswith("release: data/ledger.parquet: no such file")
    assert "Traceback" not in broken.stderr
