"""A page in Chromium, driven by the browser's debugging protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --no-proxy-server"
)
_COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown")
_START_S = 30.0
# Middle of an element that has stood still for a while with nothing in front of it.
_PLACE = """(async () => {
  const element = ELEMENT;
  if (!element) return null;
  element.scrollIntoView({block: "center"});
  const middle = () => {
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const before = middle();
  await new Promise(done => setTimeout(done, 200));
  const now = middle();
  const hit = document.elementFromPoint(...now);
  return hit && element.contains(hit) && before.join() === now.join() ? now : null;
})()"""


class Tab:
    """One page. Remembers what it asked of a network, what was answered and what it complained of."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.requests: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send a command; events that come before its answer are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            self._note(message)
        assert "result" in message, message
        return message["result"]

    def value(self, code: str) -> Any:
        """What JavaScript gives, as plain values; None where it fails."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def open(self, url: str, size: tuple[int, int] = (1280, 900)) -> None:
        """Go to an address in a window of a size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=url)

    def wait(self, code: str, limit_s: float = 60.0) -> Any:
        """What JavaScript gives once that is true."""
        end = time.monotonic() + limit_s
        while not (found := self.value(code)):
            seen = self.value("document.body.innerText") or ""
            said = f"the page says: {seen[:2000]}; the browser complains of: {self.complaints[-5:]}"
            assert time.monotonic() < end, f"not within {limit_s} s: {code}; {said}"
            time.sleep(0.1)
        return found

    def wait_for_answer(self, ending: str, after: int = 0) -> list[int]:
        """Status of each answer from addresses that end so, once there are more than `after`."""
        end = time.monotonic() + 60
        while len(found := [status for url, status in self.answers if url.endswith(ending)]) <= after:
            assert time.monotonic() < end, f"no further answer from {ending}: {self.complaints[-5:]}"
            self.value("new Promise(done => setTimeout(done, 100))")  # takes in the events that wait
        return found

    def wait_for_text(self, text: str, limit_s: float = 60.0) -> None:
        """Wait until the page shows a text; any white space in it counts as a blank."""
        shown = "(document.body?.innerText ?? '').replace(/\\s+/g, ' ')"
        self.wait(f"{shown}.includes({json.dumps(text)})", limit_s)

    def click(self, element: str) -> None:
        """Press the mouse on an element, which JavaScript gives, once it is there and at rest."""
        place = self.wait(_PLACE.replace("ELEMENT", element))
        mouse = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        self.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)

    def click_text(self, text: str, among: str = "a, button, [role=menuitem]") -> None:
        """The same for the first element that shows exactly this text."""
        fits = f"e => e.innerText.trim() === {json.dumps(text)} && e.getBoundingClientRect().width"
        self.click(f"[...document.querySelectorAll({json.dumps(among)})].find({fits})")

    def write(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def give_files(self, selector: str, *files: Path) -> None:
        """Choose files in an input, as the dialogue does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    def screenshot(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def foreign_requests(self) -> list[str]:
        """Addresses asked for that are not on this machine."""
        self.value("0")  # takes in the events that wait
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob", "about")
            and urlsplit(url).hostname not in ("127.0.0.1", "localhost")
        ]

    def _note(self, message: dict[str, Any]) -> None:
        params, method = message.get("params", {}), message["method"]
        if method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.requests.append(params.get("url") or params["request"]["url"])
        if method == "Network.responseReceived":
            self.answers.append((params["response"]["url"], params["response"]["status"]))
        spoken = method == "Runtime.consoleAPICalled" and params["type"] == "error"
        if (method in _COMPLAINTS and params.get("entry", {}).get("level", "error") == "error") or spoken:
            self.complaints.append(json.dumps(params))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Chromium with one tab and a fresh profile; ends with the context."""
    with chromium(profile) as socket:
        yield Tab(socket)


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[ClientConnection]:
    """The first tab of a browser that ends with the context, as what one speaks to it through."""
    command = [str(CHROMIUM), *_FLAGS.split(), *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_first_tab(profile), max_size=None, proxy=None) as socket:
            yield socket
    finally:
        process.terminate()
        process.wait(20)


def _first_tab(profile: Path) -> str:
    """Where the first tab listens."""
    direct, port_file = (
        urllib.request.build_opener(urllib.request.ProxyHandler({})),
        profile / "DevToolsActivePort",
    )
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if port_file.is_file() and (words := port_file.read_text().split()):
            with direct.open(f"http://127.0.0.1:{words[0]}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise TimeoutError("the browser did not start")
