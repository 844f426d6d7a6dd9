"""MLflow's and Prefect's servers on a real PostgreSQL, reached as docs/guide/services.md says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import Checkout
from tests.support.database import PASSWORD, postgres, why_not
from videomar.errors import VideomarError
from videomar.registry.champion import alias_history, apply_decision
from videomar.registry.champion_history import MODEL
from videomar.registry.versions import champion, keep_description, record_decision, version_of
from videomar.services.settings import read_settings
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.runs import open_run

STORE = "MLFLOW_BACKEND_STORE_URI"
needs_server = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
# Far longer than 5000 characters, which is what MLflow's tables hold of some texts.
WORDS = [f"Not worse in metric {number}: a mean with its interval over all clips." for number in range(150)]
FIGURES = [{"name": f"metric {n}", "value": n / 7, "low": -n / 3, "high": n / 3, "n": n} for n in range(50)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    with postgres("mlflow", "prefect") as databases:
        try:
            started = made.services(
                "up",
                MLFLOW_BACKEND_STORE_URI=f"postgresql://{databases['mlflow']}",
                PREFECT_SERVER_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://{databases['prefect']}",
            )
            assert started.returncode == 0, started.stderr
            yield made
        finally:
            made.services("down")


@pytest.fixture
def client(checkout: Checkout, monkeypatch: pytest.MonkeyPatch):
    """As a program of this checkout gets it while the services are up."""
    monkeypatch.chdir(checkout.folder)
    checkout.sign_in(monkeypatch)
    return open_client()


@pytest.mark.slow
@needs_server
def test_databases_are_those_of_postgresql_and_no_file(checkout: Checkout) -> None:
    assert not (checkout.folder / ".local/mlflow.db").exists()
    assert not (checkout.folder / ".local/prefect/prefect.db").exists()
    assert checkout.noted()["tracking_uri"] == f"http://127.0.0.1:{checkout.ports[0]}"


@pytest.mark.slow
@needs_server
def test_run_with_curve_and_file_is_recorded(checkout: Checkout, client, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("words")
    run = open_run(tmp_path / "run.json", {"train": {"seed": 3}}, {"mlflow.runName": "on postgres"})
    for step in range(5):
        run.log(step, {"loss": 1 / (step + 1)})
    run.log_files("notes", [tmp_path / "note.txt"])
    run.finish()
    assert run.run_id is not None
    stored = client.get_run(run.run_id)
    assert (stored.info.status, stored.data.params) == ("FINISHED", {"train.seed": "3"})
    assert [point.value for point in client.get_metric_history(run.run_id, "loss")] == [
        1 / (step + 1) for step in range(5)
    ]
    kept = client.download_artifacts(run.run_id, "notes/note.txt", str(tmp_path))
    assert Path(kept).read_text() == "words"


@pytest.mark.slow
@needs_server
def test_alias_moves_with_a_history_and_a_card_of_any_length(checkout: Checkout, client) -> None:
    """PostgreSQL refuses a value that is longer than its column, where SQLite does not look."""
    run = client.create_run(experiment_id(client))
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, "s3://a/b", run.info.run_id)
    decided = record_decision(version_of("1"), {"promote": True, "reasons": WORDS, "figures": FIGURES})
    keep_description(decided, "card " * 3000, "model_card.md")
    apply_decision(decided)
    best = champion()
    assert best is not None
    assert best.number == "1"
    (move,) = alias_history().moves
    assert (move.why, list(move.figures)) == (" ".join(WORDS), FIGURES)
    description = client.get_model_version(MODEL, "1").description
    assert len(description) == 5000
    assert description.endswith("card c\n\n(cut; the whole is `model_card.md` of the run)\n")


@pytest.mark.slow
@needs_server
def test_flow_completes_and_shows_its_table(checkout: Checkout) -> None:
    run = checkout.start("refresh/refresh")
    assert checkout.end_state(run)["name"] == "Completed"
    (table,) = checkout.prefect("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    assert '"stage": "second", "result": "new results"' in table["data"]


@pytest.mark.slow
@needs_server
def test_password_of_the_database_is_on_no_command_line_and_in_no_file(checkout: Checkout) -> None:
    forms = (PASSWORD, "p%40ss")
    processes = [one for name in checkout.noted()["services"] for one in checkout.processes(name)]
    lines = [" ".join(process.cmdline()) for one in processes if (process := one.process()) is not None]
    assert len(lines) > 2
    files = [
        path.read_text(errors="replace") for path in (checkout.folder / ".local").rglob("*") if path.is_file()
    ]
    assert len(files) > 4
    assert [text for text in lines + files if any(form in text for form in forms)] == []


def test_store_on_postgresql_without_its_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://user:secret@db/mlflow"
    assert read_settings({STORE: url}).store == url
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # as where it is not installed
    with pytest.raises(VideomarError, match="expected its driver too; .*psycopg2-binary") as refusal:
        read_settings({STORE: url})
    assert "secret" not in str(refusal.value)
