"""A deployment for a work pool, made and run in the checkout of another machine, as the guide says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import free_port, wait_for
from tests.support.pipeline_outputs import REPOSITORY
from videomar.environment import answers

pytestmark = pytest.mark.slow
PREFECT = (sys.executable, "-m", "prefect")
FLOW = "flows.release_flow.judge_champion"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The other machine's checkout: another folder, with the same code."""
    folder = tmp_path / "there"
    folder.mkdir()
    for name in ("flows", "videomar", "prefect.yaml", "params.yaml"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What programs on the other machine need to reach a Prefect server, which runs."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
    settings = {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": f"{url}/api"}
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=settings, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"{url}/api/health"), "Prefect's server")
        yield settings
    finally:
        server.terminate()
        server.wait()


def test_deployment_for_a_work_pool_runs_in_the_checkout_where_it_was_made(
    there: Path, environment: dict[str, str]
) -> None:
    def prefect(*words: str) -> str:
        made = subprocess.run([*PREFECT, *words], cwd=there, env=environment, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    prefect("work-pool", "create", "gpu", "--type", "process")
    prefect("--no-prompt", "deploy", FLOW, "--name", "judge-there", "--pool", "gpu", "--tag", "gpu")
    # One of prefect.yaml, as it stands.
    prefect("--no-prompt", "deploy", "--name", "nightly", "--pool", "gpu")
    nightly = json.loads(prefect("deployment", "inspect", "retrain/nightly", "-o", "json"))
    assert nightly["work_pool_name"] == "gpu"
    assert set(nightly["tags"]) == {"pipeline", "registry", "scheduled"}
    assert nightly["schedules"][0]["schedule"]["cron"] == "17 3 * * *"

    prefect("deployment", "run", "judge-champion/judge-there")
    prefect("worker", "start", "--pool", "gpu", "--run-once")
    assert (there / ".local/flow.name").read_text() == "judge champion"
    runs = json.loads(prefect("flow-run", "ls", "--flow-name", "judge-champion", "-o", "json"))
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"]
    assert runs[0]["state"]["message"] == "every move of the champion is judged"
