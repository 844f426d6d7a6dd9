"""Batches as on a GPU, computed here: every clip once, whatever happens to its video, and never a hang."""

import dataclasses
import os

import pytest
import torch

from tests.conftest import small_params
from tests.support.deadlines import within
from tests.support.fake_cuda import NAME, FakeCuda
from tests.support.videos import run_ffmpeg
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError, VideomarError
from videomar.latents.clip_encoder import ClipEncoder, Encoded, Video
from videomar.latents.encode_ray import group_videos
from videomar.media.shapes import ClipShape

SHAPE = ClipShape(32, 32, 8.0, 5)
BATCH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for number, name in enumerate(("a.mp4", "b.mp4")):
        picture = f"testsrc2=size=64x64:rate=8:duration=4,hue=h={30 * number}"
        run_ffmpeg(folder, "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "-threads", "1", name)
    (folder / "damaged.mp4").write_bytes(b"no video")
    tokenizer = CausalTokenizer(small_params().tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(tokenizer, folder / "tokenizer")
    return folder


@pytest.fixture
def encoder(folder):
    return ClipEncoder(str(folder / "tokenizer"), "float32", moments=True, batch_clips=BATCH)


@pytest.fixture(autouse=True)
def deadline():
    with within(60):
        yield


def video(folder, name, clips, shape=SHAPE):
    return Video(
        str(folder / name), [0.25 * n for n in range(clips)], [f"{name} {n}" for n in range(clips)], shape
    )


def in_batches(encoder, videos):
    return list(encoder._encode_in_batches(videos, "a GPU"))


def test_batches_hold_what_single_clips_hold(folder, encoder):
    videos = [video(folder, "a.mp4", 5), video(folder, "b.mp4", 6)]  # two batches and three clips
    made = in_batches(encoder, videos)
    alone = [one for each in videos for one in encoder.encode(each)]
    assert [one.key for one in made] == [one.key for one in alone]
    assert {one.made_on for one in made} == {"a GPU"}
    for ours, theirs in zip(made, alone, strict=True):
        assert ours.shape == theirs.shape
        for part in ("data", "std"):
            values = [
                torch.frombuffer(bytearray(getattr(one, part)), dtype=torch.float32) for one in (ours, theirs)
            ]
            assert torch.allclose(*values, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpu_encodes_in_batches_and_waits_once_for_each_copy(folder, dtype):
    clips = video(folder, "a.mp4", 10)
    alone = ClipEncoder(str(folder / "tokenizer"), dtype, moments=True).encode(clips)
    with FakeCuda() as cuda:
        settings = {"moments": True, "device": "auto", "batch_clips": BATCH}
        made = list(ClipEncoder(str(folder / "tokenizer"), dtype, **settings).encode_all([clips]))
        waits = dict(cuda.waits)
    assert {one.made_on for one in made} == {NAME}
    assert [one.key for one in made] == [one.key for one in alone]
    format_ = getattr(torch, dtype)
    for ours, theirs in zip(made, alone, strict=True):
        values = [torch.frombuffer(bytearray(one.data), dtype=format_) for one in (ours, theirs)]
        assert torch.allclose(*values, atol=1e-5 if dtype == "float32" else 2e-2)
    # Of three batches, means and deviations; weights are copied once, without pinned memory.
    assert waits.pop("copy from pageable memory") <= 40
    assert waits == {"synchronize": 6}


def test_every_batch_has_the_same_size(folder, encoder, monkeypatch):
    sizes = []
    tokenizer = encoder._tokenizer
    compute = tokenizer.raw_moments

    def count(clips, chunk_frames):
        sizes.append(len(clips))
        return compute(clips, chunk_frames)

    monkeypatch.setattr(tokenizer, "raw_moments", count)
    in_batches(encoder, [video(folder, "a.mp4", 3), video(folder, "b.mp4", 3)])
    assert sizes == [BATCH, BATCH]


def test_damaged_video_is_an_error_in_its_place_and_costs_no_other(folder, encoder):
    names = ["a.mp4", "damaged.mp4", "gone.mp4", "b.mp4"]
    made = in_batches(encoder, [video(folder, name, 5) for name in names])
    kinds = [type(one) for one in made]
    assert [one.key for one in made if isinstance(one, Encoded)] == [
        f"{n}.mp4 {k}" for n in "ab" for k in range(5)
    ]
    assert kinds.count(Encoded) == 10
    errors = [str(one) for one in made if isinstance(one, VideomarError)]
    assert len(errors) == 2
    assert "damaged.mp4" in errors[0]
    assert "gone.mp4: got no such file on node" in errors[1]


def test_full_memory_of_the_gpu_is_one_clear_error_and_no_hang(folder, encoder, monkeypatch):
    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder._tokenizer, "raw_moments", refuse)
    [error] = in_batches(encoder, [video(folder, "a.mp4", 14), video(folder, "b.mp4", 14)])
    assert str(error).startswith(
        "resources.encode.batch_clips: got 4 clips that do not fit into the GPU's memory"
    )


def test_clips_that_the_tokenizer_refuses_are_one_error(folder, encoder):
    odd = dataclasses.replace(SHAPE, width_px=36)
    [error] = in_batches(encoder, [video(folder, "a.mp4", 14, odd)])
    assert isinstance(error, DataError)
    assert "36" in str(error)


def test_missing_gpu_of_a_node_is_an_error_and_no_exception(folder):
    encoder = ClipEncoder(str(folder / "tokenizer"), "float32", device="cuda")
    [error] = encoder.encode_all([video(folder, "a.mp4", 2)])
    assert str(error).startswith("resources.encode.device: got cuda, expected a GPU")


def test_processor_is_used_clip_by_clip_also_where_auto_finds_no_gpu(folder):
    clip = video(folder, "a.mp4", 3)
    by_clip, chosen = (
        ClipEncoder(str(folder / "tokenizer"), "float16", device=device, batch_clips=BATCH)
        for device in ("cpu", "auto")
    )
    assert by_clip.encode(clip) == list(chosen.encode_all([clip]))


def test_readers_share_the_processors(folder):
    encoders = [ClipEncoder(str(folder), "float32", sharers=sharers) for sharers in (1, 10_000)]
    assert [encoder._readers for encoder in encoders] == [min(8, max(2, os.cpu_count() or 1)), 2]


def test_groups_hold_every_video_once_and_one_shape():
    other = dataclasses.replace(SHAPE, width_px=64)
    videos = [Video(str(n), [0.0] * n, ["key"] * n, other if n % 3 else SHAPE) for n in range(1, 20)]
    groups = group_videos(videos, 16)
    assert sorted(member.path for group in groups for member in group) == sorted(each.path for each in videos)
    for group in groups:
        assert len({member.shape for member in group}) == 1
        assert sum(len(member.keys) for member in group[:-1]) < 16
    assert all(len(group) == 1 for group in group_videos(videos, 1))
