import json
from pathlib import Path

import pytest

from videomar.tracking.runs import EXPERIMENT, open_client, open_run, read_run_id, tracking_uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def steps_of(run_id: str, key: str) -> list[int]:
    return [metric.step for metric in open_client().get_metric_history(run_id, key)]


def test_store_is_below_the_working_folder_unless_told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert tracking_uri() == f"sqlite:///{folder}/.local/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri() == "http://127.0.0.1:1"


def test_run_keeps_params_figures_and_end(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = open_run(folder / "a/run.json", {"train": {"seed": 3}, "depth": 2}, {"mlflow.runName": "first"})
    for step in range(120):
        run.log(step, {"loss": 1.0 / (1 + step)})
    run.finish()
    stored = open_client().get_run(run.run_id)
    assert stored.data.params == {"train.seed": "3", "depth": "2"}
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "first"
    assert open_client().get_experiment(stored.info.experiment_id).name == EXPERIMENT
    assert steps_of(run.run_id, "loss") == list(range(120))
    assert "INFO" not in capfd.readouterr().err


def test_restarted_run_goes_on_without_repeating_steps(folder: Path) -> None:
    file = folder / "b/run.json"
    first = open_run(file, {"seed": 1}, {})
    for step in range(30):
        first.log(step, {"loss": float(step)})
    first.flush()
    second = open_run(file, {"seed": 1}, {})
    for step in range(20, 40):  # the checkpoint was at step 20
        second.log(step, {"loss": float(step), "late": 0.0})
    second.finish()
    assert second.run_id == first.run_id
    assert steps_of(first.run_id, "loss") == list(range(40))
    assert steps_of(first.run_id, "late") == list(range(20, 40))


@pytest.mark.parametrize("content", ["", "{}", '{"run_id": "' + "0" * 32 + '"}', '{"run_id": "../x"}'])
def test_run_that_the_store_lacks_is_replaced(folder: Path, content: str) -> None:
    file = folder / "lost.json"
    file.write_text(content)
    run = open_run(file, {}, {})
    run.finish("KILLED")
    assert json.loads(file.read_text()) == {"run_id": run.run_id}
    assert open_client().get_run(run.run_id).info.status == "KILLED"


def test_run_of_other_parameters_is_not_continued(folder: Path) -> None:
    first = open_run(folder / "c/run.json", {"seed": 1}, {})
    second = open_run(folder / "c/run.json", {"seed": 2}, {})
    assert second.run_id != first.run_id
    assert read_run_id(folder / "c/run.json") == second.run_id


def test_run_file_that_is_missing_has_no_id(folder: Path) -> None:
    assert read_run_id(folder / "none.json") is None
