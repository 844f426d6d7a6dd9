"""The user's own captioner: asked where no caption is given, refused early, and never fatal."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from videomar.config import IngestParams
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.errors import DataError

MODULE = """
import os
HELD = b"x" * int(os.environ.get("HELD", 0))

def describe(clip):
    assert clip.dtype == "uint8" and clip.shape == (9, 32, 32, 3)
    return f"  seen\\nby {__name__} "

def fail(clip):
    raise ValueError("no words")

def name_device(clip):
    return os.environ["VIDEOMAR_DEVICE"]

def count(clip):
    return 7

SETTING = "text"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of captioners that this process and its children find."""
    folder = tmp_path / "modules"
    folder.mkdir()
    name = f"captioner_{os.getpid()}_{abs(hash(tmp_path))}"
    (folder / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    return name


def test_only_clips_without_words_are_shown_to_the_captioner(
    copied: Callable[..., Path],
    tmp_path: Path,
    ingest_params: IngestParams,
    module: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HELD", "600_000_000")
    raw = copied("plain.mp4", "uneven.mp4")
    spans = [{"start_s": 0, "end_s": 1.2, "caption": "given"}, {"start_s": 1.2, "end_s": 2.4, "caption": ""}]
    (raw / "plain.json").write_text(json.dumps({"clips": [*spans, {"start_s": 2.4, "end_s": 2.6}]}))
    # What the module holds is more than the limit: it does not count.
    params = dataclasses.replace(ingest_params, captioner=f"{module}:describe", memory_gb=0.6)
    figures = ingest_videos(raw, tmp_path / "out.parquet", params)
    rows = read_candidates(tmp_path / "out.parquet").set_index("video")
    assert rows.loc["plain.mp4", "caption"].tolist() == ["given", f"seen by {module}", ""]
    assert set(rows.loc["uneven.mp4", "caption"]) == {f"seen by {module}"}
    assert figures["uncaptioned"] == 0


@pytest.mark.parametrize("function", ["fail", "count"])
def test_captioner_that_fails_leaves_the_caption_empty_and_is_counted(
    function: str, copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, module: str
) -> None:
    params = dataclasses.replace(ingest_params, captioner=f"{module}:{function}")
    figures = ingest_videos(copied("plain.mp4"), tmp_path / "out.parquet", params)
    assert figures["uncaptioned"] == figures["clips"] == 4
    assert set(read_candidates(tmp_path / "out.parquet")["caption"]) == {""}


@pytest.mark.parametrize("name", ["nowhere.at_all:f", "MODULE:missing", "MODULE:SETTING", "MODULE", ""])
def test_captioner_that_cannot_be_imported_is_refused_before_any_file(
    name: str, tmp_path: Path, ingest_params: IngestParams, module: str
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").touch()
    (tmp_path / "raw" / "captions.csv").write_text("no table")  # who reads it says so
    params = dataclasses.replace(ingest_params, captioner=name.replace("MODULE", module))
    with pytest.raises(DataError, match=r"ingest.captioner: got .* expected package.module:function"):
        ingest_videos(tmp_path / "raw", tmp_path / "out.parquet", params)


def test_captioner_finds_the_device_that_was_chosen(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, module: str
) -> None:
    params = dataclasses.replace(ingest_params, captioner=f"{module}:name_device", device="auto")
    ingest_videos(copied("plain.mp4"), tmp_path / "out.parquet", params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert set(rows.loc[rows["reason"].isna(), "caption"]) == {"cuda" if torch.cuda.is_available() else "cpu"}
