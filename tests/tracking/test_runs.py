import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from videomar.cli.ops_commands import upload
from videomar.errors import VideomarError
from videomar.files import write_json
from videomar.tracking.mlflow_store import EXPERIMENT, experiment_id, open_client, tracking_uri
from videomar.tracking.run_log import LINES, SENT, RunLog, read_json
from videomar.tracking.runs import open_run, read_run_id, upload_pending
from videomar.tracking.uploader import NAME_TAG
from videomar.tracking.uploader import upload as upload_log

INPUT = {"name": "latents", "digest": "0123456789abcdef", "source_type": "local", "source": "data/latents"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def steps_of(run_id: str | None, key: str) -> list[int]:
    return [metric.step for metric in open_client().get_metric_history(str(run_id), key)]


def runs_named(name: str) -> list[str]:
    client = open_client()
    found = client.search_runs([experiment_id(client)], f"tags.`{NAME_TAG}` = '{name}'")
    return [run.info.run_id for run in found]


def box_of(run_file: Path) -> Path:
    return run_file.parent / "outbox" / read_json(run_file)["name"]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_store_is_in_the_checkout_or_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    assert tracking_uri() == f"sqlite:///{folder}/.local/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri() == "http://127.0.0.1:1"


def test_file_of_another_kind_is_refused_in_the_place_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_text("garbage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(
        VideomarError, match="mlflow.db: got a file of another kind, expected MLflow's SQLite"
    ):
        open_client()


def test_run_keeps_params_figures_inputs_files_and_end(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params = {"train": {"seed": 3}, "depth": 2}
    run = open_run(folder / "a/run.json", params, {"mlflow.runName": "first"}, [INPUT])
    for step in range(120):
        run.log(step, {"loss": 1.0 / (1 + step)})
    (tmp_path / "sheet.png").write_bytes(b"picture")
    run.log_files("previews/step_00000120", [tmp_path / "sheet.png"])
    run.tag({"stage_0": "ended by steps"})
    run.finish()
    client = open_client()
    stored = client.get_run(str(run.run_id))
    assert stored.data.params == {"train.seed": "3", "depth": "2"}
    assert stored.data.tags["stage_0"] == "ended by steps"
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "first"
    assert [data.dataset.digest for data in stored.inputs.dataset_inputs] == [INPUT["digest"]]
    assert [item.path for item in client.list_artifacts(str(run.run_id), "previews/step_00000120")] == [
        "previews/step_00000120/sheet.png"
    ]
    assert client.get_experiment(stored.info.experiment_id).name == EXPERIMENT
    assert steps_of(run.run_id, "loss") == list(range(120))
    assert "INFO" not in capfd.readouterr().err


def test_run_without_a_name_is_named_by_its_parameters(folder: Path, tmp_path: Path) -> None:
    params = {"model": {"depth": 4, "hidden_size": 96}, "train": {"seed": 3, "start_from": None}}
    run = open_run(tmp_path / "run.json", params, {"git_commit": "abc", "git_dirty": "true"})
    run.finish()
    tags = open_client().get_run(str(run.run_id)).data.tags
    assert tags["mlflow.runName"] == "training, 4 layers of 96 channels, seed 3"
    assert tags["mlflow.source.name"] == "stages/train.py"
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["mlflow.user"]
    assert "Stage `train` of dvc.yaml" in tags["mlflow.note.content"]


def test_experiment_opens_in_training_mode_unless_a_person_chose_another(folder: Path) -> None:
    """As the pages of MLflow read it (mlflow/server/js): other kinds hide the models."""
    client = open_client()
    number, kind, about = experiment_id(client), "mlflow.experimentKind", "mlflow.note.content"
    assert client.get_experiment(number).tags[kind] == "custom_model_development"
    for key in (kind, about):  # as in an experiment of before
        client.delete_experiment_tag(number, key)
    experiment_id(client)
    assert client.get_experiment(number).tags[kind] == "custom_model_development"
    assert "champion" in client.get_experiment(number).tags[about]
    client.set_experiment_tag(number, kind, "genai_development")
    experiment_id(client)
    assert client.get_experiment(number).tags[kind] == "genai_development"
    client.set_experiment_tag(number, kind, "custom_model_development")


def test_run_keeps_the_machines_load(folder: Path) -> None:
    run = open_run(folder / "load/run.json", {}, {})
    deadline = time.monotonic() + 60
    step = 0
    while not (keys := [key for key in run._log.last_steps if key.startswith("system/")]):
        assert time.monotonic() < deadline
        run.log(step := step + 1, {"loss": 0.0})
        time.sleep(0.05)
    run.finish()
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= set(keys)
    assert steps_of(run.run_id, "system/cpu_utilization_percentage") == [step]


def test_restarted_run_goes_on_without_repeating_steps(folder: Path) -> None:
    file = folder / "b/run.json"
    first = open_run(file, {"seed": 1}, {})
    for step in range(30):
        first.log(step, {"loss": float(step)})
    first.finish("KILLED")
    run_id = first.run_id
    second = open_run(file, {"seed": 1}, {"git_commit": "later"})
    for step in range(20, 40):  # the checkpoint was at step 20
        second.log(step, {"loss": float(step), "late": 0.0})
    second.finish()
    assert second.run_id == run_id == read_run_id(file)
    assert steps_of(run_id, "loss") == list(range(40))
    assert steps_of(run_id, "late") == list(range(20, 40))
    stored = open_client().get_run(str(run_id))
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["git_commit"] == "later"


@pytest.mark.parametrize("noted", [None, {"run_id": None, "bytes": 0}, {"bytes": 0}])
def test_process_killed_before_it_noted_what_it_sent_repeats_nothing(
    folder: Path, tmp_path: Path, noted: dict[str, object] | None
) -> None:
    """Nothing noted at all, the run's id not noted, or only the lines not."""
    file = tmp_path / "run.json"
    run = open_run(file, {"seed": 1}, {}, [INPUT])
    for step in range(30):
        run.log(step, {"loss": float(step)})
    run.finish()
    sent, run_id = box_of(file) / SENT, run.run_id
    sent.unlink() if noted is None else write_json(sent, {"run_id": run_id, **noted})
    again = open_run(file, {"seed": 1}, {}, [INPUT])
    again.log(30, {"loss": 30.0})
    again.finish()
    assert again.run_id == run_id
    assert runs_named(box_of(file).name) == [run_id]
    assert steps_of(run_id, "loss") == list(range(31))
    assert len(open_client().get_run(str(run_id)).inputs.dataset_inputs) == 1


def test_half_a_line_of_a_killed_process_is_cut_off(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    run = open_run(file, {}, {})
    run.log(1, {"loss": 1.0})
    run.finish()
    with (box_of(file) / LINES).open("a") as lines:
        lines.write('{"kind": "metrics", "step": 2, "val')
    again = open_run(file, {}, {})
    again.log(2, {"loss": 2.0})
    again.finish()
    assert steps_of(run.run_id, "loss") == [1, 2]


def test_store_away_all_the_time_gets_the_run_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    run = open_run(tmp_path / "run.json", {"seed": 1}, {"git_commit": "abc"}, [INPUT])
    for step in range(500):
        run.log(step, {"loss": float(step), "grad_norm": 1.0, "learning_rate": 0.1})
    (tmp_path / "sheet.png").write_bytes(b"picture")
    run.log_files("previews", [tmp_path / "sheet.png"])
    (tmp_path / "sheet.png").unlink()
    start = time.monotonic()
    run.finish()
    assert time.monotonic() - start < 20
    assert run.run_id is None
    assert "`videomar upload" in caplog.text
    with pytest.raises(VideomarError, match="expected an answer"):
        upload(tmp_path.parent)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    upload(tmp_path.parent)
    assert upload_pending(tmp_path)
    run_id = read_run_id(tmp_path / "run.json")
    stored = open_client().get_run(str(run_id))
    assert stored.info.status == "FINISHED"
    assert (stored.data.params, stored.data.tags["git_commit"]) == ({"seed": "1"}, "abc")
    for key in ("loss", "grad_norm", "learning_rate"):
        assert steps_of(run_id, key) == list(range(500))
    assert [item.path for item in open_client().list_artifacts(str(run_id), "previews")] == [
        "previews/sheet.png"
    ]


def test_store_that_never_answers_costs_a_step_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that takes connections and says nothing; the thread waits for it, the steps do not."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = open_run(tmp_path / "run.json", {}, {})
        waits = []
        for step in range(60):
            start = time.monotonic()
            run.log(step, {"loss": 0.0})
            if step % 20 == 0:
                run.flush()
            waits.append(time.monotonic() - start)
            time.sleep(0.02)
        run.finish()
    assert max(waits) < 1.0
    assert sorted(waits)[len(waits) // 2] < 0.01


def test_next_run_uploads_what_the_one_before_could_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    first = open_run(tmp_path / "run.json", {"seed": 1}, {})
    first.log(0, {"loss": 1.0})
    name = box_of(tmp_path / "run.json").name
    first._ended.set()  # as if it had been killed: without a last word
    first.flush()
    first._thread.join()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    second = open_run(tmp_path / "run.json", {"seed": 2}, {})
    second.finish()
    (run_id,) = runs_named(name)
    assert run_id != second.run_id == read_run_id(tmp_path / "run.json")
    assert steps_of(run_id, "loss") == [0]
    assert open_client().get_run(run_id).info.status == "KILLED"


@pytest.mark.parametrize("content", ["", "{}", '{"run_id": "' + "0" * 32 + '"}', '{"run_id": "../x"}'])
def test_run_that_the_store_lacks_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "lost.json"
    file.write_text(content)
    run = open_run(file, {}, {})
    run.finish("KILLED")
    assert read_run_id(file) == run.run_id
    assert open_client().get_run(str(run.run_id)).info.status == "KILLED"


def test_run_that_was_deleted_in_the_store_is_made_again_with_all_it_had(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    first = open_run(file, {"seed": 1}, {})
    first.log(1, {"loss": 1.0})
    first.finish()
    deleted = str(first.run_id)
    open_client().delete_run(deleted)
    second = open_run(file, {"seed": 1}, {})
    second.log(2, {"loss": 2.0})
    second.finish()
    assert second.run_id != deleted
    assert steps_of(second.run_id, "loss") == [1, 2]


def test_run_whose_outbox_is_on_another_machine_goes_on(tmp_path: Path) -> None:
    first = open_run(tmp_path / "here/run.json", {"seed": 1}, {})
    first.log(1, {"loss": 1.0})
    first.finish()
    (tmp_path / "there").mkdir()
    write_json(tmp_path / "there/run.json", {"run_id": first.run_id})
    second = open_run(tmp_path / "there/run.json", {"seed": 1}, {})
    for step in (1, 2):
        second.log(step, {"loss": float(step)})
    second.finish()
    assert second.run_id == first.run_id
    assert steps_of(first.run_id, "loss") == [1, 2]


def test_run_of_other_parameters_is_not_continued(tmp_path: Path) -> None:
    first = open_run(tmp_path / "c/run.json", {"seed": 1}, {})
    first.finish()
    second = open_run(tmp_path / "c/run.json", {"seed": 2}, {})
    second.finish()
    assert second.run_id != first.run_id
    assert read_run_id(tmp_path / "c/run.json") == second.run_id


def test_run_file_that_is_missing_has_no_id(tmp_path: Path) -> None:
    assert read_run_id(tmp_path / "none.json") is None


def test_log_that_another_process_sends_is_left_to_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log")
    log.append("start", params={}, tags={}, inputs=[])
    with FileLock(log.folder / "lock"):
        assert not upload_log(log)
        assert log.run_id is None
    assert upload_log(log)
    assert log.is_sent


class Server:
    """A real MLflow server on SQLite; started and killed by its process id."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with socket.socket() as asking:
            asking.settimeout(1)
            return asking.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.mark.slow
def test_run_survives_a_server_killed_in_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies while the run sends, is away for a while, and comes back: each step is there once."""
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    run = open_run(tmp_path / "run/run.json", {"seed": 1}, {}, [INPUT])
    step = 0

    def go_on(until: float) -> None:
        nonlocal step
        deadline = time.monotonic() + until
        while time.monotonic() < deadline:
            run.log(step := step + 1, {"loss": float(step), "grad_norm": 1.0})
            if step % 10 == 0:
                run.flush()
            time.sleep(0.01)

    try:
        while run.run_id is None or run._log.sent == 0:
            go_on(0.1)
        go_on(1.0)
        server.kill()
        go_on(1.0)
        noted = run._log.sent
        go_on(0.5)
        assert run._log.sent == noted
        server.start()
        go_on(1.0)
        (tmp_path / "sheet.png").write_bytes(b"picture")
        run.log_files("previews", [tmp_path / "sheet.png"])
        run.finish()
        assert steps_of(run.run_id, "loss") == list(range(1, step + 1))
        assert steps_of(run.run_id, "grad_norm") == list(range(1, step + 1))
        assert open_client().get_run(str(run.run_id)).info.status == "FINISHED"
        assert open_client().list_artifacts(str(run.run_id), "previews")
        assert runs_named(box_of(tmp_path / "run/run.json").name) == [run.run_id]
    finally:
        server.kill()
