"""A folder of videos, still pictures and animations: from the files to a model that learns from them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from tests.conftest import ROOT
from tests.latents.test_buckets import encode_here, with_ingest
from tests.latents.test_encode import Project
from tests.support.videos import run_ffmpeg
from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage
from videomar.curation.curate import curate_clips
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import kept_clips, read_candidates, read_ledger
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.errors import DataError
from videomar.latents.dataset import BatchSpec, LatentDataset, Splits
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import read_rows
from videomar.media.images import read_picture
from videomar.ops.planning.plan_counts import (
    PlannedClips,
    PlannedStrides,
    cached_shapes,
    fitting_clips,
    read_headers,
    shapes_of_stage,
)
from videomar.report.ledger_sheet import summarise_ledger
from videomar.sampling.sample import sample_held_out
from videomar.training.curriculum import draw_of
from videomar.training.loop import train
from videomar.training.worker import Worker

STILLS = 8


def draw_picture(number, size):
    """A picture of coloured discs, another one for each number."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        left, top, px = (int(rng.integers(0, most)) for most in (*size, 40))
        pen.ellipse((left, top, left + px, top + px), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def write_mixed_folder(raw):
    """Three videos, stills of two shapes with captions, a copy, a copy saved again, a GIF and a WebP."""
    raw.mkdir()
    for name, source in (("a", "testsrc2"), ("b", "mandelbrot"), ("c", "testsrc2=rate=30")):
        picture = f"{source}{':' if '=' in source else '='}size=96x64,fps=8,trim=duration=4,gblur=1"
        hue = f"hue=h={ord(name) * 40}"
        run_ffmpeg(raw, "-f", "lavfi", "-i", f"{picture},{hue}", "-pix_fmt", "yuv420p", f"{name}.mp4")
    for number in range(STILLS):
        suffix = ("png", "jpg", "webp", "avif")[number % 4]
        size = (96, 64) if number % 2 else (64, 96)
        draw_picture(number, size).save(raw / f"still{number}.{suffix}")
        (raw / f"still{number}.txt").write_text(f"discs {number}")
    (raw / "twin.png").write_bytes((raw / "still0.png").read_bytes())
    draw_picture(0, (64, 96)).save(raw / "saved_again.jpg", quality=90)
    for name in ("moving.gif", "moving.webp"):
        first, *rest = (draw_picture(90, (96, 64)).rotate(9 * turn) for turn in range(12))
        first.save(raw / name, save_all=True, append_images=rest, duration=125, lossless=True)


@pytest.fixture(scope="module")
def mixed(params, tmp_path_factory):
    """The mixed folder, ingested, curated and encoded with a tokenizer that it trained."""
    folder = tmp_path_factory.mktemp("stills")
    write_mixed_folder(folder / "raw")
    params = with_ingest(
        params,
        aspect_ratios=("1:1", "3:2", "2:3"),
        num_frames=9,
        stride_frames=4,
        still_pictures=True,
    )
    stages = tuple(
        CurriculumStage(num_latent_frames=frames, steps=4, batch_size=4, size_px=size_px)
        for frames, size_px in ((1, 16), (1, 0), (2, 0), (0, 0))
    )
    params = dataclasses.replace(
        params,
        text=dataclasses.replace(params.text, encoder="none"),
        tokenizer=dataclasses.replace(params.tokenizer, steps=3, batch_size=4),
        encode=dataclasses.replace(params.encode, smaller_sizes_px=(16,)),
        train=dataclasses.replace(params.train, curriculum=stages, validate_every=2, batch_multiplier=1),
        sample=dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=1),
        suite=dataclasses.replace(params.suite, batch_size=4, threads=1, context_frames=(1, 2), seeds=1),
    )
    project = Project(folder, params)
    project.ingested = ingest_videos(folder / "raw", folder / "candidates.parquet", params.ingest)
    paths = folder / "candidates.parquet", ROOT / "takedowns.csv", folder / "ledger.parquet"
    project.curated = curate_clips(*paths, params.curate)
    paths = folder / "raw", folder / "ledger.parquet", folder / "tokenizer", folder / "curve.csv"
    project.reconstructed = train_from_ledger(*paths, params)
    ledger = read_ledger(folder / "ledger.parquet").astype(object)
    project.rows = ledger.where(ledger.notna(), None).to_dict("records")
    project.encode(encode_here)
    return project


def is_still(clip):
    return clip["num_frames"] == 1


def test_each_still_picture_is_a_clip_of_one_frame(mixed):
    rows = {row["video"]: row for row in mixed.rows if row["clip_id"] is None or is_still(row)}
    assert rows["twin.png"]["reason"] == "duplicate_file"
    assert {rows[name]["reason"] for name in ("still0.png", "saved_again.jpg")} == {None, "near_duplicate"}
    assert mixed.ingested["still_pictures"] == STILLS + 1
    assert mixed.curated["kept_still_pictures"] == STILLS
    for number in range(STILLS):
        row = next(row for name, row in rows.items() if name.startswith(f"still{number}."))
        wide = (40, 24) if number % 2 else (24, 40)
        assert row["caption"] == f"discs {number}"
        assert (row["clip_width_px"], row["clip_height_px"]) == wide
        assert row["start_s"] == 0.0
        assert [row["motion"], row["frozen_share"], row["flicker"]] == [None] * 3
        assert min(row["contrast"], row["sharpness"], row["brightness"]) > 0
        assert row["split"] in ("train", "val")


def test_animations_are_clips_with_their_own_times(mixed):
    clips = [row for row in mixed.rows if row["video"].startswith("moving.")]
    assert {row["num_frames"] for row in clips} == {9}
    assert {row["start_s"] for row in clips} == {0.0}
    assert sum(row["reason"] == "near_duplicate" for row in clips) == 1


def test_still_pictures_leave_the_clips_of_videos_as_they_are(mixed, tmp_path, caplog):
    ingest_videos(
        mixed.folder / "raw", tmp_path / "out.parquet", with_ingest(mixed.params, still_pictures=False).ingest
    )
    rows = read_candidates(tmp_path / "out.parquet")
    reasons = rows.set_index("video")["reason"]
    for number in range(STILLS):
        [reason] = reasons[reasons.index.str.startswith(f"still{number}.")]
        assert reason == "still_picture: to train on it set ingest.still_pictures to true"
    before, after = rows["clip_id"].dropna(), {row["clip_id"] for row in mixed.rows if not is_still(row)}
    assert set(before) == after - {None}
    assert f"{STILLS + 1} still pictures are not used" in caplog.text
    paths = tmp_path / "out.parquet", ROOT / "takedowns.csv", tmp_path / "ledger.parquet"
    curate_clips(*paths, mixed.params.curate)
    summary = summarise_ledger(tmp_path / "ledger.parquet")
    assert (summary.unused_stills, summary.stills) == (STILLS + 1, [])
    assert [name for name, _ in summary.unreadable] == ["twin.png"]


def test_a_latent_of_one_frame_shows_the_picture_at_every_size(mixed):
    stored = {(row["clip_id"], row["size_px"]): row for row in read_rows(mixed.out)}
    stills = [row for row in mixed.rows if row["kept"] and is_still(row)]
    assert len(stills) == STILLS
    for row in stills:
        sides = row["clip_height_px"] // 8, row["clip_width_px"] // 8
        assert tuple(stored[row["clip_id"], 32]["shape"]) == (4, 1, *sides)
        assert stored[row["clip_id"], 16]["shape"][1] == 1
        assert np.isnan(stored[row["clip_id"], 32]["motion"])


def test_only_a_stage_of_one_latent_frame_draws_still_pictures(mixed):
    data = dataset_of(mixed)
    train_params = mixed.params.train
    drawn = []
    for stage in train_params.curriculum:
        batches = [data.batch_at(step, draw_of(stage, train_params)) for step in range(40)]
        assert {batch.latents.shape[2] for batch in batches} == {stage.num_latent_frames or 3}
        drawn.append({clip_id for batch in batches for clip_id in batch.clip_ids})
    stills = {
        row["clip_id"] for row in mixed.rows if is_still(row) and row["split"] == "train" and row["kept"]
    }
    moving = {clip_id for clip_id in data.clip_ids} - stills
    assert drawn == [stills | moving, stills | moving, moving, moving]


def test_mixed_folder_is_learnt_and_only_videos_are_continued(mixed):
    data = Splits(dataset_of(mixed), dataset_of(mixed, "val"))
    shape = ModelShape(
        mixed.params.model, data.train.latent_channels, data.train.text_channels, mixed.params.text.max_tokens
    )
    figures = train(shape, data, mixed.params.train, mixed.folder / "model", Worker(), None)
    assert figures["steps"] == 16
    assert np.isfinite(list(figures.values())).all()
    names = {"raw": "raw", "ledger": "ledger.parquet", "latents": "latents", "tokenizer": "tokenizer"}
    names |= {"model": "model", "out": "made"}
    paths = SimpleNamespace(**{name: mixed.folder / path for name, path in names.items()})
    held_out = kept_clips(read_ledger(paths.ledger), "test")
    assert sample_held_out(paths, mixed.params)["clips_real"] == (held_out["num_frames"] > 1).sum() > 0
    assert np.isfinite(mixed.reconstructed["real_psnr_db"])


def test_still_pictures_alone_are_refused_with_what_to_add(mixed, tmp_path):
    candidates = mixed.folder / "candidates.parquet"
    pq.write_table(pq.read_table(candidates, filters=[("num_frames", "=", 1)]), tmp_path / "stills.parquet")
    with pytest.raises(
        DataError, match=rf"got still pictures alone \({STILLS} kept\), expected clips of videos"
    ):
        curate_clips(
            tmp_path / "stills.parquet", ROOT / "takedowns.csv", tmp_path / "out", mixed.params.curate
        )


def test_unused_still_pictures_are_named_at_the_start_of_training(mixed, tmp_path, caplog):
    data = dataset_of(mixed)
    settings = dataclasses.replace(mixed.params.train, curriculum=mixed.params.train.curriculum[3:])
    shape = ModelShape(
        mixed.params.model, data.latent_channels, data.text_channels, mixed.params.text.max_tokens
    )
    train(shape, Splits(data), settings, tmp_path / "run", Worker(), None)
    assert any("no stage draws the" in record.getMessage() for record in caplog.records)
    wanted = BatchSpec(batch_size=2, simulated_share=0.5, seed=0, num_latent_frames=4)
    with pytest.raises(DataError, match="num_latent_frames: got 4, expected at most 3"):
        data.batch_at(0, wanted)


def test_plan_counts_each_still_picture_as_a_clip_where_they_are_asked_for(mixed):
    videos = read_headers(mixed.folder / "raw")
    asked = fitting_clips(videos, mixed.params).shapes
    unasked = fitting_clips(videos, with_ingest(mixed.params, still_pictures=False)).shapes
    assert [shape.num_frames for shape in asked].count(1) == STILLS + 2  # neither is opened for duplicates
    assert {shape.num_frames for shape in unasked} == {9}
    strides = PlannedStrides(4, 4, 8)
    shapes = cached_shapes(PlannedClips(asked, False), mixed.params, strides)
    first, *_, last = mixed.params.train.curriculum
    assert {shape[1] for shape in shapes_of_stage(shapes, first)} == {1, 3}
    assert {shape[1] for shape in shapes_of_stage(shapes, last)} == {3}


def test_generation_begins_with_the_pixels_that_training_saw(mixed):
    row = next(row for row in mixed.rows if row["video"] == "still0.png")
    picture = read_picture(mixed.folder / "raw/still0.png")
    assert picture.shape[:2] == (row["height"], row["width"])


def dataset_of(project, split="train"):
    expected = expected_metadata(project.params)
    return LatentDataset(project.out, split, project.params.text.max_tokens, expected)
