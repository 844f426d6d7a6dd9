"""The report in a real browser: clips play in step, nothing is loaded, nothing is complained about."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_page import opponent, release
from tests.support import browser as browser_tab
from tests.support.browser import CHROMIUM, chromium
from tests.support.pipeline_outputs import write_outputs
from videomar.config.layout import Layout
from videomar.report.page import write_report

COMPLAINTS = (
    "Log.entryAdded",
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Page.javascriptDialogOpening",
)
# Of each shown text of these kinds: its contrast with what is behind it, and what it is; the least first.
CONTRASTS = r"""(() => {
  const kinds = ".lead, h2, .row .value b, .row small, .verdict b, .rank, .flag, .prompt, .id, figcaption";
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const numbers = colour => colour.match(/[\d.]+/g).map(Number);
  const behind = (e) => {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    return colour.length < 4 || colour[3] ? colour : behind(e.parentElement);
  };
  const texts = [...document.querySelectorAll(`${kinds}, .tabs span`)].filter(e => e.offsetParent);
  return texts.map(e => {
    const pair = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
    return [(pair[0] + .05) / (pair[1] + .05), `${e.className} ${e.tagName}`];
  }).sort((a, b) => a[0] - b[0]);
})()"""
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


class Tab(browser_tab.Tab):
    """The report's page; stricter in what counts as a complaint: any word, any dialogue."""

    def press(self, key: str) -> None:
        """A key as the keyboard sends it, to whatever has the focus."""
        text = {"Space": " ", "Enter": "\r"}.get(key, "")
        codes = {"Space": 32, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        event = {"code": key, "key": text or key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def load(self, page: Path, width: int = 1200, *, touch: bool = False, **media: str) -> None:
        """Load a page at a width, in a medium such as `prefers_color_scheme="dark"`."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self.call("Page.navigate", url=page.as_uri())
        for _ in range(200):
            if self.value("document.readyState") == "complete":
                break
            time.sleep(0.05)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message["method"] in COMPLAINTS:
            self.complaints.append(json.dumps(params))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    write_outputs(root)
    write_report(
        root / "index.html", Layout(root), root / "credits.txt", release(opponent=opponent(root, root))
    )
    return root / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    profile = tmp_path_factory.mktemp("browser")
    with chromium(profile, "--window-size=1200,1600") as socket:
        yield Tab(socket)


@pytest.fixture
def tab(browser: Tab, page: Path) -> Tab:
    """The page, freshly loaded; nothing was asked of a network and nobody complained before."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.load(page)
    return browser


def _frames(tab: Tab) -> list[str]:
    return tab.value(
        "[...document.querySelectorAll('.gallery')].map(g => g.style.getPropertyValue('--frame'))"
    )


def _still(tab: Tab, seconds: float = 0.5) -> bool:
    before = _frames(tab)[0]
    time.sleep(seconds)
    return _frames(tab)[0] == before


def _focus_first_gallery(tab: Tab) -> None:
    """By the keyboard alone, from the choice of clips that stands before it."""
    tab.value("document.querySelector('.tabs input:checked').focus()")
    for _ in range(3):  # the folded metrics may stand between
        tab.press("Tab")
        if tab.value("document.activeElement.classList.contains('gallery')"):
            return
    raise AssertionError("no gallery can be reached by the keyboard")


def test_visible_galleries_play_and_a_button_stops_them(tab: Tab) -> None:
    tab.value("document.querySelector('.gallery').scrollIntoView()")
    seen = set()
    for _ in range(8):
        seen.add(_frames(tab)[0])
        time.sleep(0.15)
    assert len(seen) > 2
    tab.value("document.querySelector('.gallery .play').click()")
    assert _still(tab)


def test_galleries_out_of_sight_stand_still(tab: Tab) -> None:
    last = "[...document.querySelectorAll('.gallery')].at(-1).style.getPropertyValue('--frame')"
    before = tab.value(last)
    time.sleep(0.5)
    assert tab.value(last) == before == "0"


def test_strips_of_one_gallery_show_the_same_frame_while_they_play(tab: Tab) -> None:
    tab.value("document.querySelector('.gallery').scrollIntoView()")
    strips = "[...document.querySelector('.gallery').querySelectorAll('.strip')]"
    seen = set()
    for _ in range(6):
        places = tab.value(f"{strips}.map(strip => getComputedStyle(strip).backgroundPositionX)")
        assert len(places) >= 8
        assert len(set(places)) == 1
        seen.add(places[0])
        time.sleep(0.15)
    assert len(seen) > 1


def test_every_clip_has_its_strip(tab: Tab) -> None:
    strips = "[...document.querySelectorAll('.strip')].map(f => getComputedStyle(f).backgroundImage)"
    found = tab.value(strips)
    assert all(strip.startswith('url("data:image/webp') for strip in found)


def test_keyboard_alone_plays_stops_and_steps(tab: Tab) -> None:
    _focus_first_gallery(tab)
    tab.press("Space")
    assert _still(tab)
    tab.press("Home")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    assert _frames(tab)[0] == "2"
    tab.press("ArrowLeft")
    assert _frames(tab)[0] == "1"
    tab.press("End")
    assert _frames(tab)[0] == "8"
    tab.press("ArrowRight")
    assert _frames(tab)[0] == "0"
    tab.press("Space")
    assert not _still(tab, 1.0)


def test_focus_of_a_gallery_and_of_its_button_is_seen(tab: Tab) -> None:
    _focus_first_gallery(tab)
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.value(outline) == "solid"
    tab.press("Tab")
    assert tab.value("document.activeElement.className") == "play"
    assert tab.value(outline) == "solid"
    tab.press("Space")  # the button's own key: once, not twice
    assert tab.value("document.activeElement.getAttribute('aria-pressed')") == "false"


def test_arrow_keys_choose_whose_numbers_are_shown(tab: Tab) -> None:
    shown = "[...document.querySelectorAll('#compare .pane')].map(pane => !pane.hidden)"
    tab.value("document.querySelector('#compare .tabs input').focus()")
    assert tab.value(shown) == [True, False, False, False]
    tab.press("ArrowRight")
    assert tab.value(shown) == [False, True, False, False]


def test_page_asks_for_nothing_and_complains_of_nothing(tab: Tab) -> None:
    tab.value("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    tab.value("document.querySelectorAll('.tabs input').forEach(each => each.click())")
    tab.value("document.getElementById('smooth').click()")
    time.sleep(0.3)
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1
    assert tab.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_page_never_scrolls_sideways(browser: Tab, page: Path, width: int) -> None:
    browser.load(page, width, touch=width < 500)
    browser.value("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    for choice in range(4):
        browser.value(f"document.querySelectorAll('.tabs input[value=\"{choice}\"]').forEach(i => i.click())")
        assert browser.value("document.documentElement.scrollWidth") <= width


def test_page_reads_well_in_light_and_dark(browser: Tab, page: Path) -> None:
    """Contrast of each kind of text with what is behind it, by WCAG 2: 4.5 or more."""
    grounds = []
    for scheme in ("light", "dark"):
        browser.load(page, prefers_color_scheme=scheme)
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        contrasts = browser.value(CONTRASTS)
        assert len(contrasts) > 50
        assert contrasts[0][0] >= 4.5, (scheme, contrasts[0])
    assert grounds[0] != grounds[1]


def test_page_stands_still_for_those_who_ask_for_less_motion(browser: Tab, page: Path) -> None:
    browser.load(page, prefers_reduced_motion="reduce")
    browser.value("document.querySelector('.gallery').scrollIntoView()")
    assert _still(browser)
    browser.value("document.querySelector('.gallery .play').click()")
    assert not _still(browser, 1.0)


def test_page_without_its_script_hides_nothing(browser: Tab, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.load(page)
        shown = "[...document.querySelectorAll('.pane')].every(pane => pane.offsetParent !== null)"
        assert browser.value(shown)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
