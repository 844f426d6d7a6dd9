"""Clips of several sizes, lengths and aspect ratios, from the file to the figures."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.latents.test_encode import CLIPS, Project, Simulated
from tests.support.videos import run_ffmpeg
from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.errors import DataError, ParamsError
from videomar.evaluation.generated import is_stretched, read_generated
from videomar.evaluation.suite import evaluate_clips
from videomar.latents.clip_encoder import ClipEncoder
from videomar.latents.dataset import BatchSpec, LatentDataset, Splits
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import read_rows
from videomar.report.galleries import GalleryPlan, make_gallery
from videomar.sampling.sample import sample_held_out
from videomar.training.loop import train
from videomar.training.worker import Worker

SIZES = {"wide": "96x64", "tall": "64x96", "square": "80x80"}
SHAPES = {"wide": (3, 5), "tall": (5, 3), "square": (4, 4)}
SMALL_SHAPES = {"wide": (2, 3), "tall": (3, 2), "square": (2, 2)}


@pytest.fixture
def project(tmp_path, params):
    """A cache of simulated latents, see `Project`."""
    text = dataclasses.replace(params.text, encoder="none")
    return Project(tmp_path, dataclasses.replace(params, text=text))


def with_ingest(params, **changes):
    return dataclasses.replace(params, ingest=dataclasses.replace(params.ingest, **changes))


def test_added_aspect_ratio_encodes_only_the_clips_it_concerns(project):
    """What ingest would write: clips of two videos of twelve get another shape, the others keep theirs."""
    project.encode()
    before = {row["clip_id"]: row["key"] for row in read_rows(project.out)}
    project.params = with_ingest(project.params, aspect_ratios=("1:1", "16:9"))
    wide = {row["clip_id"] for row in project.rows[: 2 * CLIPS]}
    for row in project.rows:
        if row["clip_id"] in wide:
            row["clip_width_px"], row["clip_height_px"] = 40, 24
    figures = project.encode()
    after = {row["clip_id"]: row["key"] for row in read_rows(project.out)}
    changed = {clip_id for clip_id in after if after[clip_id] != before[clip_id]}
    assert changed == wide & set(after)
    assert (figures["encoded"], figures["reused"]) == (len(changed), 24 - len(changed))
    project.assert_as_if_fresh()


def test_cache_of_other_aspect_ratios_is_refused(project):
    project.encode()
    other = with_ingest(project.params, aspect_ratios=("1:1", "16:9"))
    with pytest.raises(DataError, match=r"pixels.aspect_ratios is \['1:1'\], expected \['1:1', '16:9'\]"):
        LatentDataset(project.out, "train", 24, expected_metadata(other))


def test_smaller_sizes_add_rows_and_encode_no_clip_again(project):
    project.encode()
    project.params = with_sizes(project.params, 24, 16)
    figures = project.encode()
    assert (figures["clips"], figures["encoded"], figures["reused"]) == (24, 48, 24)
    rows = read_rows(project.out)
    assert len({(row["clip_id"], row["size_px"]) for row in rows}) == len(rows) == 72
    assert {row["size_px"] for row in rows} == {32, 24, 16}
    data = LatentDataset(project.out, "train", 24, expected_metadata(project.params))
    assert {data.sizes_px[number] for number in data.largest.values()} == {32}
    project.assert_as_if_fresh()


def test_clip_at_a_smaller_size_has_the_key_of_a_clip_made_at_it(project, tmp_path):
    """So that a cache at 16 pixels serves a later run that asks for 32 and 16."""
    both, small = Simulated(), Simulated()
    params, project.params = project.params, with_sizes(project.params, 16)
    project.encode(both)
    project.params = with_ingest(params, size_px=16)
    for row in project.rows:
        row["clip_width_px"] = row["clip_height_px"] = 16
    project.encode(small, tmp_path / "small")
    assert set(small.keys) < set(both.keys)


def with_sizes(params, *sizes_px):
    return dataclasses.replace(params, encode=dataclasses.replace(params.encode, smaller_sizes_px=sizes_px))


@pytest.mark.parametrize("sizes", [(32,), (12,), (16, 24), (16, 16)])
def test_smaller_sizes_that_cannot_be_are_refused(params, sizes):
    with pytest.raises(ParamsError, match="encode.smaller_sizes_px: got "):
        with_sizes(params, *sizes)


@pytest.fixture(scope="module")
def mixed(params, tmp_path_factory):
    """Wide, tall and square videos, the first with a short shot, ingested, kept, and encoded at two sizes."""
    folder = tmp_path_factory.mktemp("mixed")
    raw = folder / "raw"
    raw.mkdir()
    for name, size in SIZES.items():
        picture = f"testsrc2=size={size}:rate=8:duration=4,gblur=1"
        run_ffmpeg(raw, "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", f"{name}.mp4")
    (raw / "wide.json").write_text(
        '{"clips": [{"start_s": 0, "end_s": 3.2, "caption": "long"},'
        ' {"start_s": 3.2, "end_s": 4, "caption": "short"}]}'
    )
    params = with_ingest(
        params,
        size_px=32,
        aspect_ratios=("1:1", "3:2", "2:3"),
        num_frames=9,
        shorter_clips=(5,),
        stride_frames=4,
    )
    stages = (
        CurriculumStage(**stage_of(params, num_latent_frames=2, size_px=16)),
        CurriculumStage(**stage_of(params, num_latent_frames=0, size_px=0)),
    )
    params = dataclasses.replace(
        params,
        text=dataclasses.replace(params.text, encoder="none"),
        encode=dataclasses.replace(params.encode, smaller_sizes_px=(16,)),
        train=dataclasses.replace(params.train, curriculum=stages),
        sample=dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=1),
        suite=dataclasses.replace(params.suite, batch_size=3, threads=1),
    )
    ingest_videos(raw, folder / "candidates.parquet", params.ingest)
    project = Project(folder, params)
    rows = read_candidates(folder / "candidates.parquet")
    rows = rows.assign(kept=rows["reason"].isna(), split="train", cluster=None, shot=None)
    rows.loc[rows.groupby("video").tail(2).index, "split"] = "test"
    project.rows = rows.to_dict("records")
    project.encode(encode_here)
    return project


def encode_here(videos, tokenizer, params):
    encoder = ClipEncoder(str(tokenizer), params.encode.dtype)
    return (encoder.encode(video) for video in videos)


def stage_of(params, **changes):
    return dataclasses.asdict(params.train.curriculum[0]) | {"steps": 8} | changes


def test_latents_have_the_shapes_of_their_videos(mixed):
    stored = {(row["video"], row["num_frames"]): row["clip_id"] for row in mixed.rows}
    assert {frames for _, frames in stored} == {5, 9}
    shapes = {(row["clip_id"], row["size_px"]): row["shape"] for row in read_rows(mixed.out)}
    for (video, frames), clip_id in stored.items():
        name = video.removesuffix(".mp4")
        assert tuple(shapes[clip_id, 32][2:]) == SHAPES[name]
        assert tuple(shapes[clip_id, 16][2:]) == SMALL_SHAPES[name]
        assert shapes[clip_id, 32][1] == shapes[clip_id, 16][1] == 1 + (frames - 1) // 4


@pytest.mark.slow
def test_clips_of_many_shapes_are_learnt_generated_and_judged(mixed):
    """Three aspect ratios and two lengths: through a curriculum of two sizes to figures and films."""
    params, folder = mixed.params, mixed.folder
    data = LatentDataset(mixed.out, "train", params.text.max_tokens, expected_metadata(params))
    draw = BatchSpec(batch_size=4, simulated_share=0.5, seed=0)
    assert len({data.batch_at(step, draw).latents.shape for step in range(40)}) == 3
    shape = ModelShape(params.model, data.latent_channels, data.text_channels, params.text.max_tokens)
    figures = train(shape, Splits(data), params.train, folder / "model", Worker(), None)
    assert figures["steps"] == 16
    names = {"raw": "raw", "ledger": "ledger.parquet", "latents": "latents", "tokenizer": "tokenizer"}
    paths = {name: folder / path for name, path in (names | {"model": "model", "out": "made"}).items()}
    assert sample_held_out(SimpleNamespace(**paths), params)["clips_real"] == 6
    clips = read_generated(folder / "made")
    sizes = {kinds["truth"].frames.shape for kinds in clips}
    assert sizes == {(9, 24, 40, 3), (5, 24, 40, 3), (9, 40, 24, 3), (9, 32, 32, 3)}
    short = next(kinds for kinds in clips if len(kinds["truth"].frames) == 5)
    assert not [kind for kind in short if kind.startswith("continuation")]
    assert {"truth", "tokenizer", "image", "image_wrong_prompt", "image_seed1"} <= set(short)
    stretched = [clip for kinds in clips for kind, clip in kinds.items() if is_stretched(kind)]
    assert {clip.frames.shape[1:3] for clip in stretched if clip.kind.endswith("larger")} <= {
        (40, 64),
        (64, 40),
        (48, 48),
    }
    names = {"generated": "made", "sampled": "none", "out": "evaluation.parquet", "plot": "plot.csv"}
    paths = {name: folder / path for name, path in (names | {"details": "evaluation.json"}).items()}
    judged = evaluate_clips(SimpleNamespace(**paths), params.suite)
    assert judged["real_clips"] == 6
    assert np.isfinite([value for name, value in judged.items()]).all()
    gallery = make_gallery(clips, GalleryPlan("", "", "real", "image"))
    assert gallery is not None
    aspects = {round(strip.aspect, 3) for card in gallery.cards for strip in card.strips}
    assert aspects == {round(width / height, 3) for height, width in SHAPES.values()}


def test_tokenizer_learns_from_and_is_measured_on_clips_of_many_shapes(mixed, tmp_path):
    params = dataclasses.replace(mixed.params.tokenizer, steps=2, batch_size=6)
    params = dataclasses.replace(mixed.params, tokenizer=params)
    figures = train_from_ledger(
        mixed.folder / "raw", mixed.folder / "ledger.parquet", tmp_path / "out", tmp_path / "plot.csv", params
    )
    assert torch.isfinite(torch.tensor(list(figures.values()))).all()
    assert figures["real_psnr_db"] > 5
