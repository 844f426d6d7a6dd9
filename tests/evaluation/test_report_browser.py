"""The report in a real browser: films play in step, nothing is loaded, nothing is complained about."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import release, sources
from websockets.sync.client import ClientConnection, connect

from tests.pipeline_outputs import write_outputs
from videomar.evaluation.report import write_report

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1200,1600"
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


class Tab:
    """One page under the browser's debugging protocol; remembers requests and complaints."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[Any] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send a command and take in events until its answer comes."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv(timeout=20))).get("id") != self._number:
            self._take(message)
        return message["result"]

    def value(self, code: str) -> Any:
        return self.call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(params)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    root = tmp_path_factory.mktemp("browser")
    write_outputs(root)
    write_report(root / "index.html", sources(root), release())
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={root / 'profile'}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(root / "profile"), max_size=None) as socket:
            page = Tab(socket)
            page.call("Page.navigate", url=(root / "index.html").as_uri())
            time.sleep(1.5)
            yield page
    finally:
        browser.terminate()
        browser.wait(10)


def _address(profile: Path) -> str:
    """Where the first tab listens."""
    import urllib.request

    for _ in range(200):
        if (profile / "DevToolsActivePort").is_file():
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise TimeoutError("the browser did not start")


def _frames(tab: Tab) -> list[str]:
    return tab.value("[...document.querySelectorAll('.reel')].map(r => r.style.getPropertyValue('--frame'))")


def test_visible_reels_play_and_a_button_stops_them(tab: Tab) -> None:
    tab.value("document.querySelector('.reel').scrollIntoView()")
    seen = set()
    for _ in range(8):
        seen.add(_frames(tab)[0])
        time.sleep(0.15)
    assert len(seen) > 2
    tab.value("document.querySelector('.reel .play').click()")
    stopped = _frames(tab)[0]
    time.sleep(0.5)
    assert _frames(tab)[0] == stopped


def test_films_of_one_reel_show_the_same_frame(tab: Tab) -> None:
    places = "[...r.querySelectorAll('.film')].map(f => getComputedStyle(f).backgroundPositionX)"
    step = "r.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    script = f"(() => {{ const r = document.querySelector('.reel'); {step}; return {places}; }})()"
    assert len(set(tab.value(script))) == 1


def test_page_asks_for_nothing_and_complains_of_nothing(tab: Tab) -> None:
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.complaints == []


def test_page_fits_a_phone(tab: Tab) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    assert tab.value("document.documentElement.scrollWidth") <= 360
