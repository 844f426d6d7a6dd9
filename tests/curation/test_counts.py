"""No file and no clip is lost between the stages; counts that do not add up are refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.latents.test_encode import Simulated
from tests.support.videos import run_ffmpeg
from videomar.compute.seeding import step_generator
from videomar.config import Params
from videomar.curation.curate import curate_clips
from videomar.curation.ingest import count_candidates, ingest_videos
from videomar.curation.ledger import ClipRow
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError
from videomar.latents.encode import encode_clips

CLIP = ClipRow(video="a", clip_id="a 0", start_s=0.0, end_s=1.0, group="real")
BAD = ClipRow(video="b", group="real", reason="empty_file")


def test_files_and_clips_add_up() -> None:
    short = dataclasses.replace(CLIP, clip_id="a 1", reason="too_short")
    named = dataclasses.replace(CLIP, clip_id="a 2", caption="a hill")
    figures = count_candidates(["a", "b"], [CLIP, short, named, BAD])
    assert figures["videos"] == figures["read"] + figures["unreadable"] == 2
    assert figures["clips_considered"] == figures["clips"] + figures["too_short"] == 3
    assert figures["uncaptioned"] == 1


@pytest.mark.parametrize(
    ("videos", "rows", "message"),
    [
        (["a", "b", "c"], [CLIP, BAD], "'c'.*every file among the candidates"),
        (["a"], [CLIP, BAD], "'b'.*every file among the candidates"),
        (["a", "b"], [CLIP, BAD, BAD], "2 videos, 1 read, 2 unreadable"),
        (["a"], [CLIP, dataclasses.replace(BAD, video="a")], "1 videos, 1 read, 1 unreadable"),
    ],
)
def test_counts_that_do_not_add_up_are_a_bug(videos: list[str], rows: list[ClipRow], message: str) -> None:
    with pytest.raises(DataError, match=message):
        count_candidates(videos, rows)


def test_what_one_stage_hands_on_the_next_considers(
    copied: Callable[..., Path], tmp_path: Path, params: Params
) -> None:
    raw = copied("plain.mp4", "long_gop.mp4", "uneven.mp4", "truncated.mp4", "empty.mp4", "sound.mp4")
    run_ffmpeg(raw, "-f", "lavfi", "-i", "color=gray:size=64x64:rate=8:duration=4", "still.mp4")
    run_ffmpeg(raw, "-ss", "2", "-i", "plain.mp4", "short.mp4")
    candidates, ledger, tokenizer = (tmp_path / name for name in ("candidates", "ledger", "tokenizer"))
    text = dataclasses.replace(params.text, encoder="none")
    params = dataclasses.replace(params, text=text)
    save_tokenizer(CausalTokenizer(params.tokenizer).initialise(step_generator(0, 0)), tokenizer)
    (tmp_path / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")

    found = ingest_videos(raw, candidates, params.ingest)
    judged = curate_clips(candidates, tmp_path / "takedowns.csv", ledger, params.curate)
    encoded = encode_clips(raw, ledger, tokenizer, tmp_path / "latents", params, Simulated())

    assert found["videos"] == found["read"] + found["unreadable"] == 8
    assert found["clips_considered"] == found["clips"] + found["too_short"]
    assert judged["considered"] == found["clips_considered"] + found["unreadable"]
    assert judged["considered"] == judged["kept"] + judged["rejected"]
    assert judged["kept"] == sum(judged[f"kept_{split}"] for split in ("train", "val", "test"))
    assert judged["rejected"] == sum(count for name, count in judged.items() if name.startswith("rejected_"))
    assert encoded["clips"] == judged["kept"] == encoded["encoded"] + encoded["reused"]
    # None of the sums is trivial.
    assert min(found["unreadable"], found["too_short"], judged["kept"], judged["rejected_too_static"]) > 0
