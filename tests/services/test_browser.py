"""Prefect's and MLflow's pages in a real browser; screenshots stay in pytest's folder."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.checkout import REPOSITORY, Checkout
from videomar.environment import USER
from videomar.registry.champion import apply_decision
from videomar.registry.champion_history import MODEL
from videomar.registry.versions import record_decision, version_of
from videomar.tracking.mlflow_store import open_client
from videomar.tracking.runs import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
# The deployment's link in the row of the flow `refresh`, which has a link of its own there.
REFRESH = (
    "[...document.querySelectorAll('tr')].find(row => [...row.querySelectorAll('a')].some("
    "link => link.innerText.trim() === 'refresh'))?.querySelector('a[href*=\"/deployments/deployment/\"]')"
)
PASSWORD_FIELD = "document.querySelector('input[type=password]')"
TABS = "[role=tab], .p-tab, .p-tab-navigation-item, button, a"
# Of each curve's drawing: how many points it has.
CURVES = (
    "[...document.querySelectorAll('.js-plotly-plot')].map(e => Math.max(...e.data.map(d => d.y.length)))"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


def press_quick_run(tab: Tab) -> None:
    """Press again where SQLite refuses, because something else is writing (docs/guide/services.md)."""
    answers: list[int] = []
    while not answers or (answers[-1] == 503 and len(answers) < 10):
        tab.click_text("Run")
        tab.click_text("Quick run")
        answers = tab.wait_for_answer("/create_flow_run", after=len(answers))
    assert answers[-1] == 201


def test_prefect_asks_for_the_password_once(checkout: Checkout, tab: Tab) -> None:
    tab.open(f"http://127.0.0.1:{checkout.ports[1]}/deployments")
    tab.click(PASSWORD_FIELD)
    tab.write(f"{USER}:{checkout.password()}")
    tab.click_text("Login", "button")
    tab.wait_for_text("retrain")


def test_every_deployment_is_listed(checkout: Checkout, tab: Tab, pictures: Path) -> None:
    tab.open(f"http://127.0.0.1:{checkout.ports[1]}/deployments")
    names = [
        entry["name"] for entry in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    ]
    for name in names:
        tab.wait_for_text(name)
    assert f"{len(names)} Deployments" in tab.value("document.body.innerText")
    tab.screenshot(pictures / "deployments.png")


def test_run_started_by_the_button_completes_and_shows_its_table(
    checkout: Checkout, tab: Tab, pictures: Path
) -> None:
    tab.open(f"http://127.0.0.1:{checkout.ports[1]}/deployments")
    tab.click(REFRESH)
    tab.wait_for_text("flows.refresh.refresh")
    press_quick_run(tab)
    tab.click("document.querySelector('a[href*=\"/runs/flow-run/\"]')")
    run = tab.wait("location.pathname.match('/runs/flow-run/(.*)')?.[1]")
    assert checkout.end_state(run)["name"] == "Completed"
    assert (checkout.folder / "second.txt").is_file()
    tab.click_text("Artifacts", TABS)
    tab.wait_for_text("Stages of this run")
    tab.wait_for_text("Completed")
    tab.screenshot(pictures / "prefect.png")
    tab.click("document.querySelector('a[href*=\"/artifacts/artifact/\"]')")
    tab.wait_for_text("new results")
    tab.screenshot(pictures / "artifact.png")


def test_model_with_its_alias_and_the_curves_of_its_run_are_shown(
    checkout: Checkout, tab: Tab, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = checkout.sign_in(monkeypatch)
    run = open_run(pictures / "run/run.json", {"train": {"seed": 1}}, {"mlflow.runName": "training"})
    for step in range(60):
        figures = {"loss": 1 / (1 + step / 10) + math.sin(step) / 50, "learning_rate": min(step, 20) * 1e-5}
        run.log(step, figures)
    run.finish()
    client = open_client()
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, "s3://a/b", run.run_id)
    words = ["simulated continuation over repeat-last: +2.1 dB."]
    apply_decision(record_decision(version_of("1"), {"promote": True, "reasons": words, "figures": []}))

    # What the browser adds once its own dialogue, which no page can see, has been filled in.
    tab.call("Network.setExtraHTTPHeaders", headers=checkout.signed())
    tab.open(address)
    tab.wait(
        "[...document.querySelectorAll('nav a')].some(link => link.innerText.trim() === 'Model registry')"
    )
    assert "Ask questions about your" not in tab.value("document.body.innerText")
    tab.screenshot(pictures / "home.png")
    tab.open(f"{address}/#/models/{MODEL}")
    tab.wait_for_text("@ champion")
    tab.wait_for_text("simulated continuation over repeat-last")  # the history of the alias
    tab.screenshot(pictures / "model.png")
    experiment = client.get_run(run.run_id or "").info.experiment_id
    tab.open(f"{address}/#/experiments/{experiment}/runs/{run.run_id}/model-metrics")
    tab.wait(f"{CURVES}.length >= 2")
    assert tab.value(CURVES) == [60, 60]
    tab.wait("document.querySelector('.js-plotly-plot .scatterlayer path.js-line')?.getTotalLength() > 100")
    tab.screenshot(pictures / "mlflow.png")


def test_pages_ask_for_nothing_beyond_this_machine(tab: Tab) -> None:
    """After all pages above."""
    assert len(tab.requests) > 50
    assert tab.foreign_requests() == []
