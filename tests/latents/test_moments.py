"""Distributions of latents, from the tokenizer through the cache to the draws of training."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.encoders.conftest import redraw, write_tokenizer
from tests.latents.test_encode import Project, Simulated
from tests.support.caches import write_cache
from tests.support.videos import run_ffmpeg
from tests.training.conftest import files_of, with_train
from tests.training.test_loop import Bomb, Interrupted
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.encoders.tokenizer import to_unit_range
from videomar.errors import DataError, ParamsError
from videomar.latents.clip_encoder import ClipEncoder, Encoded, Video, stored_bytes
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.encode_ray import EncoderActor, as_item
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import open_latents, read_rows
from videomar.media.clip_reader import map_clips
from videomar.media.shapes import ClipShape
from videomar.training.curriculum import draw_of
from videomar.training.loop import train
from videomar.training.micro_batches import draw_latents, parts_of
from videomar.training.worker import Worker

SHAPE = ClipShape(32, 32, 8.0, 5)


class WithMoments(Simulated):
    """Deviations follow from the key, as the latents do."""

    def __call__(self, videos, tokenizer, params):
        for clips in super().__call__(videos, tokenizer, params):
            yield [clip._replace(std=std_of(clip.key, params)) for clip in clips]


def std_of(key, params):
    return stored_bytes(
        torch.rand(4, 2, 2, 2, generator=step_generator(int(key[:8], 16), 1)), params.encode.dtype
    )


def asking(params, moments=True, **changes):
    return dataclasses.replace(params, encode=dataclasses.replace(params.encode, moments=moments, **changes))


@pytest.fixture
def project(tmp_path, params):
    text = dataclasses.replace(params.text, encoder="none")
    return Project(tmp_path, dataclasses.replace(asking(params, shard_clips=6), text=text))


def assert_as_if_fresh(project, encoder):
    project.encode(encoder, out=project.folder / "fresh")
    assert {path.name: path.read_bytes() for path in (project.folder / "fresh").iterdir()} == project.files()


def test_cache_holds_the_deviations_of_every_clip(project):
    project.encode(WithMoments())
    rows = read_rows(project.out)
    assert len(rows) == 24
    assert all(row["latents_std"] == std_of(row["key"], project.params) for row in rows)
    figures = project.encode(WithMoments())
    assert (figures["encoded"], figures["shards_written"]) == (0, 0)


def test_asking_for_moments_encodes_again_and_no_longer_asking_encodes_nothing(project):
    """Latents have the same key and bytes either way; the last cache is as if they were never asked for."""
    moments, project.params = project.params, asking(project.params, moments=False)
    project.encode()
    before, latents = project.files(), {row["key"]: row["latents"] for row in read_rows(project.out)}
    project.params = moments
    assert project.encode(WithMoments())["encoded"] == 24
    assert {row["key"]: row["latents"] for row in read_rows(project.out)} == latents
    assert_as_if_fresh(project, WithMoments())
    project.params = asking(project.params, moments=False)
    assert project.encode()["encoded"] == 0
    assert project.files() == before


def test_changed_clip_alone_is_encoded_again(project):
    project.encode(WithMoments())
    project.rows[0]["start_s"] = 0.25
    assert project.encode(WithMoments())["encoded"] == 1
    assert_as_if_fresh(project, WithMoments())


def test_damaged_deviations_are_rebuilt(project):
    project.encode(WithMoments())
    whole, shard = project.files(), max(open_latents(project.out), key=lambda shard: len(shard.rows))
    data = bytearray(shard.path.read_bytes())
    data[shard.byte_range("latents_std", len(shard.rows) - 1).offset] ^= 1
    shard.path.write_bytes(data)
    figures = project.encode(WithMoments())
    assert (figures["shards_damaged"], figures["encoded"]) == (1, len(shard.rows))
    assert project.files() == whole


def test_interrupted_run_goes_on_where_it_was(project):
    with pytest.raises(KeyboardInterrupt):
        project.encode(WithMoments(5))
    rest = WithMoments()
    project.encode(rest)
    assert len(rest.keys) == 24 - 10
    assert_as_if_fresh(project, WithMoments())


def test_clip_whose_latents_alone_are_known_is_encoded_again(project):
    """As a kill between the two leaves it, or a run that did not ask for moments."""
    with pytest.raises(KeyboardInterrupt):
        project.encode(Simulated(5))
    rest = WithMoments()
    project.encode(rest)
    assert len(rest.keys) == 24
    assert_as_if_fresh(project, WithMoments())


def test_deviations_that_are_not_finite_are_refused(project):
    def overflow(*arguments):
        for clips in Simulated()(*arguments):
            yield [clip._replace(std=np.full(32, np.inf, np.float16).tobytes()) for clip in clips]

    with pytest.raises(DataError, match="got values that are not finite"):
        project.encode(overflow)


def test_tokenizer_without_distributions_is_refused_before_anything_is_encoded(project):
    write_tokenizer("torchscript", project.folder / "plain")
    (project.folder / "tokenizer").rename(project.folder / "ours")
    (project.folder / "plain").rename(project.folder / "tokenizer")
    asked = WithMoments()
    with pytest.raises(DataError, match="encode.moments: got true and TorchScriptCosmos"):
        project.encode(asked)
    assert asked.keys == []
    assert not project.out.exists()
    project.params = asking(project.params, moments=False)
    assert project.encode()["encoded"] == 24


@pytest.fixture(scope="module")
def film(params, tmp_path_factory):
    """A video, and a folder with a tokenizer whose weights and statistics are not trivial."""
    folder = tmp_path_factory.mktemp("film")
    picture = "testsrc2=size=32x32:rate=8:duration=3"
    run_ffmpeg(folder, "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "a.mp4")
    tokenizer = redraw(CausalTokenizer(params.tokenizer))
    tokenizer.latent_mean += torch.arange(4.0)
    tokenizer.latent_std *= 1 + torch.arange(4.0)
    save_tokenizer(tokenizer, folder / "tokenizer")
    starts_s = [0.0, 0.5, 1.25]
    video = Video(str(folder / "a.mp4"), starts_s, [str(start) for start in starts_s], SHAPE)
    return folder, tokenizer, video


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_stored_deviations_are_those_of_the_tokenizer(film, dtype):
    """Against the moments in float64, rounded once: exp(log variance / 2) / latent_std."""
    folder, tokenizer, video = film
    made = ClipEncoder(str(folder / "tokenizer"), dtype, moments=True).encode(video)
    plain = ClipEncoder(str(folder / "tokenizer"), dtype).encode(video)
    assert [clip._replace(std=b"") for clip in made] == plain
    pictures = map_clips(folder / "a.mp4", video.starts_s, SHAPE, lambda clip: clip)
    for number, clip in enumerate(made):
        log_variance = tokenizer.moments(to_unit_range(torch.from_numpy(pictures[number])[None]))[1][0]
        expected = (log_variance.double() / 2).exp() / tokenizer.latent_std.double()[:, None, None, None]
        kept = torch.frombuffer(bytearray(clip.std), dtype=getattr(torch, dtype)).reshape(clip.shape)
        rounding = torch.finfo(kept.dtype).eps / 2
        assert ((kept.double() - expected).abs() <= (rounding + 1e-6) * expected).all()


def test_same_bits_clip_by_clip_and_as_rows_of_an_actor(film):
    folder, _, video = film
    encoder, actor = (
        kind(str(folder / "tokenizer"), "float16", moments=True) for kind in (ClipEncoder, EncoderActor)
    )
    whole = encoder.encode(video)
    alone = [
        encoder.encode(video._replace(starts_s=[start], keys=[key]))[0]
        for start, key in zip(video.starts_s, video.keys, strict=True)
    ]
    rows = [Encoded(*(made[name] for name in Encoded._fields)) for made in actor(as_item([video]))]
    assert whole == alone == rows
    assert all(len(clip.std) == len(clip.data) for clip in whole)


@pytest.fixture
def dataset(tmp_path):
    return LatentDataset(write_cache(tmp_path / "latents", moments=True), "train", 5)


@pytest.fixture
def drawing(params):
    """Parameters that draw latents."""
    return with_train(params, draw_latents=True)


def whole_draw(params):
    return draw_of(params.curriculum[-1], params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_deviations_come_back_as_they_were_stored(project, dtype):
    project.params = asking(project.params, dtype=dtype)
    project.encode(WithMoments())
    data = LatentDataset(project.out, "train", 5, expected_metadata(project.params))
    draw = dataclasses.replace(whole_draw(project.params.train), moments=True)
    keys = {row["clip_id"]: row["key"] for row in read_rows(project.out)}
    for step in range(3):
        batch = data.batch_at(step, draw)
        for clip_id, std in zip(batch.clip_ids, batch.latents_std, strict=True):
            values = torch.rand(4, 2, 2, 2, generator=step_generator(int(keys[clip_id][:8], 16), 1))
            assert torch.equal(torch.from_numpy(std), values.to(getattr(torch, dtype)).float())
    short = data.batch_at(0, dataclasses.replace(draw, num_latent_frames=1))
    assert short.latents_std.shape == short.latents.shape == (draw.batch_size, 4, 1, 2, 2)


def test_drawn_latents_have_the_distribution_of_the_moments():
    """20,000 draws against their mean and deviation, within five standard errors."""
    generator, count = step_generator(0, 0), 20_000
    mean = torch.linspace(-2, 2, 12).reshape(1, 3, 1, 2, 2)
    std = torch.linspace(0, 3, 12).reshape(1, 3, 1, 2, 2)
    drawn = draw_latents(mean.expand(count, -1, -1, -1, -1), std.expand(count, -1, -1, -1, -1), generator)
    assert ((drawn.mean(0) - mean[0]).abs() <= 5 * std[0] / count**0.5 + 1e-6).all()
    assert ((drawn.std(0) - std[0]).abs() <= 5 * std[0] / (2 * count) ** 0.5 + 1e-6).all()
    flat = ((drawn - mean) / std.clamp_min(1e-9)).flatten(1)[:, 1:]
    assert (torch.corrcoef(flat.T) - torch.eye(11)).abs().max() <= 5 / count**0.5


def test_draws_differ_from_step_to_step_and_follow_from_the_step(dataset, drawing):
    def latents_at(step):
        return [part.clips.latents for part in parts_of(step, dataset, whole_draw(drawing), 2, Worker())]

    assert all(torch.equal(a, b) for a, b in zip(latents_at(5), latents_at(5), strict=True))
    means = dataclasses.replace(whole_draw(drawing), moments=False)
    seen = {}
    for step in range(12):
        for part, plain in zip(
            parts_of(step, dataset, whole_draw(drawing), 1, Worker()),
            parts_of(step, dataset, means, 1, Worker()),
            strict=True,
        ):
            noise = part.clips.latents - plain.clips.latents
            assert part.clip_ids == plain.clip_ids
            for clip_id, clip in zip(part.clip_ids, noise, strict=True):
                seen.setdefault(clip_id, []).append(clip)
    again = [noises for noises in seen.values() if len(noises) > 1]
    assert again
    assert all(not torch.equal(noises[0], noises[1]) for noises in again)


def test_draws_are_dealt_alike_to_workers_and_micro_batches(dataset, drawing):
    draw = whole_draw(drawing)
    alone = parts_of(3, dataset, draw, 2, Worker())
    apart = [parts_of(3, dataset, draw, 1, Worker(rank, 2))[0] for rank in range(2)]
    for one, other in zip(alone, apart, strict=True):
        assert torch.equal(one.clips.latents, other.clips.latents)
        assert torch.equal(one.generator.get_state(), other.generator.get_state())


def test_without_draws_latents_are_means_and_no_number_is_drawn(dataset, params):
    [part] = parts_of(3, dataset, whole_draw(params.train), 1, Worker())
    assert torch.equal(part.generator.get_state(), step_generator(params.train.seed, 3, 0).get_state())
    place = [dataset.clip_ids.index(clip_id) for clip_id in part.clip_ids]
    assert torch.equal(part.clips.latents, torch.from_numpy(dataset.rows(place).latents))


def test_resumed_run_that_draws_ends_with_the_bits_of_an_uninterrupted_one(
    dataset, params, drawing, tmp_path
):
    shape, data = ModelShape(params.model, 4, 6, 5), Splits(dataset, dataset)
    train(shape, data, drawing, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, data, drawing, tmp_path / "cut", Worker(), Bomb(6))
    train(shape, data, drawing, tmp_path / "cut", Worker(), None)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    train(shape, data, params.train, tmp_path / "means", Worker(), None)
    assert files_of(tmp_path / "means") != files_of(tmp_path / "whole")


def test_draws_without_moments_are_refused_before_the_first_step(params, drawing, tmp_path):
    with pytest.raises(ParamsError, match="train.draw_latents: got true, and encode.moments false"):
        dataclasses.replace(params, train=drawing)
    data = Splits(LatentDataset(write_cache(tmp_path / "means"), "train", 5))
    with pytest.raises(DataError, match="draw_latents: got a cache of latents alone"):
        train(ModelShape(params.model, 4, 6, 5), data, drawing, tmp_path / "run", Worker(), Bomb(0))


def test_cache_without_moments_is_refused_where_parameters_ask_for_them(project):
    project.params = asking(project.params, moments=False)
    project.encode()
    with pytest.raises(DataError, match="moments is False, expected True"):
        LatentDataset(project.out, "train", 5, expected_metadata(asking(project.params)))
