import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.pipeline_outputs import EVIL, write_outputs
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.curation.ledger import read_ledger, write_ledger
from videomar.errors import DataError
from videomar.evaluation.generated import read_generated
from videomar.report import page as report
from videomar.report.charts import Line, line_chart, smooth
from videomar.report.galleries import (
    PLANS,
    Opponent,
    example_galleries,
    gain_over_repeat,
    pick_examples,
)
from videomar.report.kept_clips import read_kept_clips, write_kept_clips
from videomar.report.new_clips import ClipsSince
from videomar.report.page import Release, write_report
from videomar.report.strips import strip_address, strip_bytes
from videomar.report.tables import caption_lines

FIGURE = {"name": "simulated gain", "value": 5.0, "low": 4.0, "high": 6.0, "n": 10}
DECISION = {"promote": False, "reasons": [f"Not shown to be better: {EVIL}"], "figures": [FIGURE]}


class Page(HTMLParser):
    """Ids, tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def release(decision: dict[str, Any] | None = DECISION, opponent: Opponent | None = None) -> Release:
    lineage = {"git_commit": "abc", "lock_sha256": EVIL}
    return Release(
        candidate="videomar version 1",
        champion="none",
        decision=decision,
        lineage=lineage,
        opponent=opponent,
    )


def opponent(root: Path, folder: Path, worse_by: float = 1.0) -> Opponent:
    """A champion that made the same clips, each worse by as much."""
    write_kept_clips(root / "data/generated.parquet", folder / "shown.parquet")
    rows = pd.read_parquet(root / "data/evaluation.parquet")
    rows["psnr_db"] -= worse_by
    return Opponent(f"videomar {EVIL}", rows, folder / "shown.parquet", root / "data/evaluation.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_outputs(folder)
    (folder / "credits.txt").write_text("(c) somebody\n")
    return folder


@pytest.fixture(scope="module")
def html(root: Path) -> str:
    write_report(root / "reports/index.html", Layout(root), root / "credits.txt", release())
    return (root / "reports/index.html").read_text()


def test_captions_that_the_text_encoder_cannot_read_are_named_as_long_as_its_files_are_there(
    root: Path, tmp_path: Path
) -> None:
    layout = Layout(shutil.copytree(root, tmp_path / "copy"))
    ledger = read_ledger(layout.ledger)
    write_ledger(layout.ledger, ledger.assign(caption="一只红猫 <b>向左跑</b>"))
    counts = {"encode": {"captions": 1.0, "captions_unreadable": 1.0, "captions_cut": 0.0}}
    (layout.metrics / "encode.json").write_text(json.dumps(counts["encode"]))
    write_report(layout.report, layout, root / "credits.txt", release())
    page = layout.report.read_text()
    assert "1 of 1 captions cannot be read by the text encoder" in page
    assert "一只红猫 &lt;b&gt;向左跑&lt;/b&gt;" in page
    update_params(layout.params, {"text": {"encoder": str(tmp_path / "gone")}})
    assert caption_lines(counts, layout) == ["The text encoder could not read 1 of 1 captions, and cut 0."]
    assert caption_lines({"encode": {"captions": 1.0}}, layout) == []


def test_report_has_every_section(html: str) -> None:
    page = Page(html)
    sections = [
        "figures",
        "gate",
        "compare",
        "clips",
        "metrics",
        "quality",
        "failures",
        "tokenizer",
        "training",
        "contents",
        "cost",
        "versions",
    ]
    assert [name for name in page.ids if name in sections] == sections
    for text in (
        "wrong prompt",
        "repeat last",
        "against the baselines",
        "Worst by PSNR",
        "higher is better",
        "too few to rank",
        "Fingerprint of the scores",
        "too dark",
        "Refused",
        "(c) somebody",
        "1 from my.csv, 0 without words",
        "rows whose video is not here: 1",
        f"my.csv line 3: {EVIL}",
    ):
        assert text in page.text
    for text in ("best", "median", "worst", "torch", "abc"):
        assert text in page.text


def test_report_loads_nothing_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"https?:|@import|url\((?!data:)", html)


def test_report_escapes_captions_names_and_reasons(html: str) -> None:
    page = Page(html)
    assert page.tags.count("script") == 1
    assert EVIL in page.text
    assert EVIL not in html


def test_report_keeps_all_data_out_of_its_script(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    own = (Path(report.__file__).parent / "templates/report.js.jinja").read_text()
    assert script.strip() == own.strip()


def test_report_holds_a_strip_once_however_often_it_is_shown(html: str) -> None:
    addresses = re.findall(r"--strip: url\((data:[^)]+)\)", html)
    assert len(addresses) == len(set(addresses))
    assert all(html.count(address) == 1 for address in addresses[:5])


def test_report_shows_champion_and_challenger_side_by_side(root: Path, tmp_path: Path) -> None:
    write_report(
        tmp_path / "index.html",
        Layout(root),
        root / "credits.txt",
        release(opponent=opponent(root, tmp_path)),
    )
    html = (tmp_path / "index.html").read_text()
    page = Page(html)
    assert f"against videomar {EVIL}" in page.text
    assert EVIL not in html
    for text in ("champion", "challenger", "challenger's best", "+1.00", "10 of 10 better"):
        assert text in page.text


def test_report_says_what_new_clips_changed(root: Path, tmp_path: Path) -> None:
    clips = [kinds["truth"].clip_id for kinds in read_generated(root / "data/generated.parquet")]
    own = pd.DataFrame({"clip_id": clips, "video_sha256": clips, "split": "test"})
    before = own.iloc[: len(own) // 2]
    since = ClipsSince(own, before, [clips[0]])
    other = replace(opponent(root, tmp_path), since=since)
    write_report(tmp_path / "index.html", Layout(root), root / "credits.txt", release(opponent=other))
    html = (tmp_path / "index.html").read_text()
    page = Page(html)
    assert "new-clips" in page.ids
    for text in ("What the new clips changed", "On clips of new videos", "On clips of old videos"):
        assert text in page.text
    assert f"{len(own) - len(before)} new videos: 0 clips to train on" in page.text
    assert EVIL not in html
    unlike = replace(other, details=tmp_path / "details.json")
    details = json.loads((root / "data/evaluation.json").read_text())
    details["fingerprint"]["split"] = EVIL
    unlike.details.write_text(json.dumps(details))
    found = report.changed_since_champion(Layout(root), unlike)
    assert found is not None
    assert "No clip was judged for both models" in found.lines[-1]
    assert report.changed_since_champion(Layout(root), None) is None


def test_report_refuses_to_compare_what_was_evaluated_otherwise(root: Path, tmp_path: Path) -> None:
    details = json.loads((root / "data/evaluation.json").read_text())
    details["fingerprint"]["split"] = EVIL
    (tmp_path / "details.json").write_text(json.dumps(details))
    other = replace(opponent(root, tmp_path), details=tmp_path / "details.json")
    write_report(tmp_path / "index.html", Layout(root), root / "credits.txt", release(opponent=other))
    html = (tmp_path / "index.html").read_text()
    text = Page(html).text
    assert "Not compared" in text
    assert f"against {EVIL}" in text
    assert EVIL not in html
    assert "10 of 10 better" not in text


def test_report_shows_a_champion_without_kept_clips_by_its_numbers(root: Path, tmp_path: Path) -> None:
    other = replace(opponent(root, tmp_path), kept_clips=tmp_path / "none", details=tmp_path / "none")
    write_report(tmp_path / "index.html", Layout(root), root / "credits.txt", release(opponent=other))
    text = Page((tmp_path / "index.html").read_text()).text
    assert "10 of 10 better" in text
    assert "challenger's best" not in text


def test_report_shows_each_clip_beside_the_truth(html: str) -> None:
    assert html.count('class="strip ') >= 4 * 6 * 3
    assert len(html) < 15e6


@pytest.mark.parametrize("decision", [None, {**DECISION, "promote": True}, {**DECISION, "figures": []}])
def test_report_is_written_for_every_decision(
    root: Path, tmp_path: Path, decision: dict[str, Any] | None
) -> None:
    write_report(tmp_path / "index.html", Layout(root), root / "credits.txt", release(decision))
    assert (tmp_path / "index.html").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_report_names_the_file_that_is_missing(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy/data/ledger.parquet").unlink()
    with pytest.raises(DataError, match=r"ledger.parquet: no such file"):
        write_report(tmp_path / "index.html", Layout(tmp_path / "copy"), tmp_path / "none", release())
    assert not (tmp_path / "index.html").exists()


def test_strip_address_keeps_every_pixel() -> None:
    import base64
    import io

    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    content = base64.b64decode(strip_address(frames).split(",")[1])
    strip = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(strip.reshape(6, 5, 7, 3).transpose(1, 0, 2, 3), frames)


def test_strip_address_of_a_long_large_clip_fits_the_format() -> None:
    assert strip_address(np.zeros((300, 130, 200, 3), np.uint8)).startswith("data:image/webp")


def test_real_clips_come_first_beside_truth_ceiling_and_repeat(root: Path) -> None:
    clips = read_generated(root / "data/generated.parquet")
    galleries = example_galleries(clips, PLANS)
    for gallery, kind in zip(galleries, ("continuation", "image"), strict=False):
        assert [card.rank for card in gallery.cards] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
        gains = [gain_over_repeat(kinds, kind) for kinds in clips if kinds["truth"].group == "real"]
        assert gallery.cards[0].score == f"{max(gains):+.1f} dB".replace("-", "−")
        for card in gallery.cards:
            assert card.clip_id.startswith("real")
            assert [strip.label for strip in card.strips] == ["truth", "model", "tokenizer", "repeat last"]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 50])
def test_examples_are_distinct_and_ordered(count: int) -> None:
    chosen = pick_examples({str(index): float(index) for index in range(count)})
    scores = [float(clip_id) for _, clip_id in chosen]
    assert scores == sorted(set(scores), reverse=True)
    assert max(scores) == count - 1
    assert min(scores) == 0


def test_chart_leaves_out_what_is_not_finite() -> None:
    chart = str(line_chart([Line("a", "image", [0, 1, 2], [1.0, float("nan"), 3.0])], "step", "loss"))
    assert "nan" not in chart.lower().replace("name", "")
    assert "no values" in str(line_chart([Line("a", "image", [], [])], "step", "loss"))


def test_smooth_keeps_a_constant_and_the_length() -> None:
    assert smooth([2.0] * 40, 0.2) == pytest.approx([2.0] * 40)


def test_chart_draws_a_band_behind_its_curve() -> None:
    line = Line("a", "model", [0, 1, 2], [1.0, 2.0, 3.0], [0.5, 1.5, float("nan")], [1.5, 2.5, 3.5])
    chart = str(line_chart([line], "frame", "dB"))
    assert chart.index("<polygon") < chart.index("<polyline")
    (points,) = re.findall(r'<polygon[^>]*points="([^"]+)"', chart)
    corners = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(corners) == 4  # there and back over the two frames that are finite
    assert corners[0][1] < corners[-1][1]  # up is small


def test_kept_clips_are_small_and_as_they_were(root: Path, tmp_path: Path) -> None:
    generated = root / "data/generated.parquet"
    write_kept_clips(generated, tmp_path / "shown.parquet")
    assert (tmp_path / "shown.parquet").stat().st_size < 2e6
    kept = read_kept_clips(tmp_path / "shown.parquet")
    assert len(kept) == 2 * (10 + 9)
    for kinds in read_generated(generated):
        for kind in ("continuation", "image"):
            assert np.array_equal(kept[kinds[kind].clip_id, kind].frames, kinds[kind].frames)


def test_kept_clips_stay_small_when_the_pictures_are_large_and_noisy() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (17, 128, 128, 3), dtype=np.uint8)
    assert len(strip_bytes(noise, 10**9)) > 500_000
    assert len(strip_bytes(noise, 150_000)) <= 150_000
    assert len(strip_address(noise)) < 70_000  # 200 of them in a page of 15 MB


def test_kept_clips_that_are_damaged_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shown.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"shown.parquet: got .*, expected kept clips"):
        read_kept_clips(tmp_path / "shown.parquet")
