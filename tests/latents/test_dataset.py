import dataclasses
import os
import tracemalloc

import numpy as np
import pytest

from tests.support.caches import write_cache
from videomar.errors import DataError
from videomar.latents.dataset import BatchSpec, LatentDataset
from videomar.latents.keys import expected_metadata
from videomar.latents.parquet import open_shard
from videomar.latents.shards import read_rows, write_shards


@pytest.fixture
def dataset(tmp_path):
    return LatentDataset(write_cache(tmp_path / "latents", clips=30), "train", 5)


def test_batches_depend_on_the_step_alone(dataset):
    once = [dataset.index_at(step, 8, 0.5, 0).tolist() for step in range(6)]
    backwards = [dataset.index_at(step, 8, 0.5, 0).tolist() for step in reversed(range(6))]
    assert once == backwards[::-1]
    assert once[0] != once[1]


def test_every_clip_is_seen_once_an_epoch(dataset):
    """20 simulated and 10 real clips: with half of 8 from each, 5 steps hold all 20 simulated ones once."""
    seen = np.concatenate([dataset.index_at(step, 8, 0.5, 0) for step in range(5)])
    simulated = set(np.flatnonzero(dataset.simulated).tolist())
    counts = [list(seen).count(clip) for clip in simulated]
    assert counts == [1] * 20


def test_shares_of_groups_are_kept(dataset):
    simulated = set(np.flatnonzero(dataset.simulated).tolist())
    batch = dataset.index_at(3, 16, 0.75, 0)
    assert sum(clip in simulated for clip in batch) == 12


def test_workers_share_the_same_global_batch(dataset):
    whole = dataset.index_at(2, 8, 0.5, 0)
    parts = [whole[rank::2] for rank in range(2)]
    assert sorted(np.concatenate(parts)) == sorted(whole)


def test_one_group_alone_fills_the_batch(tmp_path):
    rows = [row | {"group": "real"} for row in read_rows(write_cache(tmp_path / "latents", clips=6))]
    write_shards(tmp_path / "latents", rows, 100)
    data = LatentDataset(tmp_path / "latents", "train", 5)
    assert len(data.index_at(0, 4, 0.9, 0)) == 4


def test_short_stage_gets_the_first_latent_frames(dataset):
    whole, short = dataset.rows([0, 1]), dataset.rows([0, 1], 2)
    assert short.latents.shape[2] == 2
    assert np.array_equal(short.latents, whole.latents[:, :, :2])


def test_absent_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="got no clip in split test"):
        LatentDataset(write_cache(tmp_path / "latents"), "test", 5)


def test_caption_longer_than_the_model_reads_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"got 2 tokens, expected at most text\.max_tokens 1"):
        LatentDataset(write_cache(tmp_path / "latents"), "train", 1)


def test_batch_holds_the_stored_values_in_any_type(tmp_path):
    """float16 and bfloat16 become float32 exactly; text is filled up behind its mask."""
    values = np.array([1.0, -2.5, 3.0e-3, 40.0], np.float32)
    bits = {
        "float16": values.astype(np.float16).tobytes(),
        "bfloat16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        "float32": values.tobytes(),
    }
    cut = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    expected = {"float16": values.astype(np.float16), "bfloat16": cut, "float32": values}
    row = read_rows(write_cache(tmp_path / "latents", clips=1))[0]
    shapes = {"shape": [4, 1, 1, 1], "text_shape": [1, 4]}
    for dtype, data in bits.items():
        told = row | shapes | {"dtype": dtype, "latents": data, "text": data}
        write_shards(tmp_path / dtype, [told], 100)
        batch = LatentDataset(tmp_path / dtype, "train", 2).rows([0])
        assert batch.latents.dtype == np.float32
        assert np.array_equal(batch.latents.ravel(), expected[dtype])
        assert np.array_equal(batch.text, np.stack([expected[dtype], np.zeros(4)])[None])
        assert batch.text_mask.tolist() == [[True, False]]


def test_rows_do_not_depend_on_the_shards_or_on_what_was_read_before(tmp_path):
    rows = read_rows(write_cache(tmp_path / "one", clips=30))
    write_shards(tmp_path / "many", rows[::-1], 4)
    one, many = (LatentDataset(tmp_path / name, "train", 5) for name in ("one", "many"))
    many.rows([3, 1])
    index = [29, 0, 7, 7]
    left, right = one.rows(index), many.rows(index)
    assert np.array_equal(left.latents, right.latents)
    assert np.array_equal(left.text, right.text)
    assert left.clip_ids == right.clip_ids
    assert one.content_hash == many.content_hash


# Latent shapes and numbers of simulated and real clips: a large bucket, one without simulated clips, one of a
# single clip, one of long clips.
BUCKETS = {(4, 3, 2, 2): (20, 11), (4, 3, 2, 3): (0, 9), (4, 3, 3, 2): (1, 0), (4, 5, 2, 2): (3, 4)}
DRAW = BatchSpec(batch_size=4, simulated_share=0.5, seed=0)


def write_buckets(folder, buckets=BUCKETS, sizes_px=(32,)):
    """A cache of clips of several shapes, at one or several base sizes; latents hold the clip's number."""
    row = read_rows(write_cache(folder, clips=1))[0]
    kinds = [
        (shape, group)
        for shape, counts in buckets.items()
        for group, count in zip(("simulated", "real"), counts, strict=True)
        for _ in range(count)
    ]
    rows = []
    for number, (shape, group) in enumerate(kinds):
        for size_px in sizes_px:
            stored = [*shape[:2], *(side * size_px // max(sizes_px) for side in shape[2:])]
            latents = np.full(stored, number, "float16").tobytes()
            told = {"clip_id": f"clip{number:03d}", "key": f"{number} {size_px}", "group": group}
            rows.append(row | told | {"shape": stored, "latents": latents, "size_px": size_px})
    write_shards(folder, rows, 100)
    return folder


@pytest.fixture
def mixed(tmp_path):
    return LatentDataset(write_buckets(tmp_path / "latents"), "train", 5)


def test_batches_of_a_cache_of_one_shape_are_those_of_earlier_runs(dataset):
    """The training runs of before, step by step: these numbers were made before there were buckets."""
    assert dataset.index_at(3, 8, 0.5, 0).tolist() == [8, 26, 11, 3, 28, 18, 12, 0]


def test_every_batch_is_of_one_shape(mixed):
    shapes = {mixed.batch_at(step, DRAW).latents.shape for step in range(40)}
    assert shapes == {(4, *shape) for shape in BUCKETS}


@pytest.mark.parametrize("share", [0.5, 0.9, 0.1])
@pytest.mark.parametrize("batch_size", [2, 4, 7, 64])
def test_every_clip_is_seen_in_a_cycle_of_the_buckets(mixed, batch_size, share):
    draw = dataclasses.replace(DRAW, batch_size=batch_size, simulated_share=share)
    cycle = sum(mixed._schedule(draw).repeats)
    for number in range(2):
        seen = {
            clip
            for step in range(2 * number * cycle, (2 * number + 2) * cycle)
            for clip in ids(mixed, step, draw)
        }
        assert seen == set(mixed.clip_ids)
    assert {clip for step in range(cycle) for clip in ids(mixed, step, draw)} == set(mixed.clip_ids)


def ids(data, step, draw):
    return data.batch_at(step, draw).clip_ids


def test_buckets_come_in_proportion_to_their_clips(tmp_path):
    buckets = {(4, 3, 2, 2): (0, 60), (4, 3, 2, 3): (0, 20), (4, 3, 3, 2): (0, 4)}
    data = LatentDataset(write_buckets(tmp_path / "latents", buckets), "train", 5)
    shapes = [data.batch_at(step, DRAW).latents.shape[1:] for step in range(210)]
    assert [shapes.count(shape) for shape in buckets] == [150, 50, 10]
    seen = [clip for step in range(210) for clip in ids(data, step, DRAW)]
    assert {seen.count(clip) for clip in data.clip_ids} == {10}


def test_clips_of_a_bucket_are_seen_equally_often_over_many_cycles(mixed):
    """Nine clips in batches of four: no cycle ends where an epoch of the bucket does."""
    seen = [clip for step in range(400) for clip in ids(mixed, step, DRAW)]
    bucket = [clip for clip, shape in zip(mixed.clip_ids, mixed.latent_shapes, strict=True) if shape[3] == 3]
    counts = [seen.count(clip) for clip in bucket]
    assert len(counts) == 9
    assert max(counts) - min(counts) <= 1
    assert min(counts) > 10


def test_share_of_simulated_clips_holds_over_buckets_that_hold_one_kind_each(tmp_path):
    buckets = {(4, 3, 2, 2): (90, 0), (4, 3, 2, 3): (0, 10)}
    data = LatentDataset(write_buckets(tmp_path / "latents", buckets), "train", 5)
    draw = dataclasses.replace(DRAW, simulated_share=0.8)
    shapes = [data.batch_at(step, draw).latents.shape[1:] for step in range(290)]
    assert shapes.count((4, 3, 2, 2)) / 290 == pytest.approx(0.8, abs=0.02)


def test_single_clip_of_a_shape_fills_its_batch(mixed):
    batches = [mixed.batch_at(step, DRAW) for step in range(40)]
    alone = next(batch for batch in batches if batch.latents.shape[1:] == (4, 3, 3, 2))
    assert alone.clip_ids == alone.clip_ids[:1] * 4


def test_batch_is_the_same_in_any_order_of_steps_and_from_any_object(mixed, tmp_path):
    other = LatentDataset(tmp_path / "latents", "train", 5)
    ahead = [mixed.batch_at(step, DRAW) for step in range(30)]
    for step in reversed(range(30)):
        batch = other.batch_at(step, DRAW)
        assert batch.clip_ids == ahead[step].clip_ids
        assert np.array_equal(batch.latents, ahead[step].latents)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_together_have_the_batch_of_one(mixed, world_size):
    for step in range(30):
        whole = mixed.batch_at(step, DRAW)
        parts = [mixed.batch_at(step, DRAW, rank, world_size) for rank in range(world_size)]
        dealt = [clip for hand in zip(*(part.clip_ids for part in parts), strict=True) for clip in hand]
        assert dealt == whole.clip_ids
        assert {part.latents.shape[1:] for part in parts} == {whole.latents.shape[1:]}


def test_seed_decides_the_order_of_the_buckets(mixed):
    other = dataclasses.replace(DRAW, seed=1)
    assert [ids(mixed, step, DRAW) for step in range(9)] != [ids(mixed, step, other) for step in range(9)]


def test_stage_leaves_out_clips_that_are_shorter_than_its_frames(mixed):
    long = dataclasses.replace(DRAW, num_latent_frames=4)
    batches = [mixed.batch_at(step, long) for step in range(10)]
    assert {batch.latents.shape for batch in batches} == {(4, 4, 4, 2, 2)}
    assert len({clip for batch in batches for clip in batch.clip_ids}) == 7
    short = dataclasses.replace(DRAW, num_latent_frames=1)
    cycle = sum(mixed._schedule(short).repeats)
    assert {clip for step in range(cycle) for clip in ids(mixed, step, short)} == set(mixed.clip_ids)
    with pytest.raises(DataError, match="num_latent_frames: got 6, expected at most 5"):
        mixed.batch_at(0, dataclasses.replace(DRAW, num_latent_frames=6))


def test_stage_at_a_lower_resolution_takes_the_same_clips_at_that_size(tmp_path):
    buckets = {(4, 3, 4, 4): (8, 8), (4, 3, 4, 6): (2, 2)}
    data = LatentDataset(write_buckets(tmp_path / "latents", buckets, (32, 16)), "train", 5)
    low = dataclasses.replace(DRAW, size_px=16)
    for step in range(12):
        large, small = data.batch_at(step, DRAW), data.batch_at(step, low)
        assert small.clip_ids == large.clip_ids
        assert small.latents.shape[3:] == tuple(side // 2 for side in large.latents.shape[3:])
    assert [data.sizes_px[number] for number in data.largest.values()] == [32] * 20
    with pytest.raises(DataError, match=r"size_px: got 64, expected one of \[16, 32\]"):
        data.batch_at(0, dataclasses.replace(DRAW, size_px=64))


def test_damage_is_found_when_its_row_group_is_first_read(tmp_path):
    folder = write_cache(tmp_path / "latents")
    [path] = folder.glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[open_shard(path).byte_range("latents", 7).offset] ^= 1
    dataset = LatentDataset(folder, "train", 5)
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"part-00000-of-00001\.parquet: got a damaged shard \(latents of row"
    ):
        LatentDataset(folder, "train", 5).rows([3])
    with pytest.raises(DataError, match="got a damaged shard"):
        dataset.rows([3])


def test_latents_that_are_not_finite_are_refused_with_their_clip(tmp_path):
    rows = read_rows(write_cache(tmp_path / "latents"))
    rows[2]["latents"] = np.full(48, np.inf, "float16").tobytes()
    write_shards(tmp_path / "latents", rows, 100)
    dataset = LatentDataset(tmp_path / "latents", "train", 5)
    place = dataset.clip_ids.index(rows[2]["clip_id"])
    with pytest.raises(DataError, match=f"{rows[2]['clip_id']}: got latents that are not finite"):
        dataset.rows([place - 1, place])


def test_clips_of_two_shapes_do_not_make_a_batch(tmp_path):
    rows = read_rows(write_cache(tmp_path / "latents", clips=3))
    rows[0]["shape"] = [4, 3, 4, 1]
    write_shards(tmp_path / "latents", rows, 100)
    dataset = LatentDataset(tmp_path / "latents", "train", 5)
    with pytest.raises(DataError, match="expected one shape and type in a batch"):
        dataset.rows([0, 1, 2])


def test_cache_of_other_parameters_is_refused_and_they_are_named(tmp_path, params):
    folder = tmp_path / "latents"
    write_shards(folder, read_rows(write_cache(folder)), 100, expected_metadata(params))
    ingest = dataclasses.replace(params.ingest, fps=12.0, num_workers=7)
    text = dataclasses.replace(params.text, prefix="A video of ")
    LatentDataset(folder, "train", 5, expected_metadata(params))
    with pytest.raises(DataError) as caught:
        LatentDataset(
            folder, "train", 5, expected_metadata(dataclasses.replace(params, ingest=ingest, text=text))
        )
    message = str(caught.value)
    assert "pixels.fps is 8.0, expected 12.0; text.prefix is '', expected 'A video of '" in message
    assert "num_workers" not in message
    assert "sizes_px" not in message


def test_memory_does_not_grow_over_epochs(tmp_path):
    """Neither the cache nor what has been read of it is held: 30 MB on disk, read ten times."""
    row = read_rows(write_cache(tmp_path / "latents", clips=1))[0]
    data = np.ones((16, 4, 40, 40), "float16").tobytes()
    large = row | {"shape": [16, 4, 40, 40], "latents": data}
    write_shards(tmp_path / "latents", [large | {"clip_id": f"{n}", "key": f"{n}"} for n in range(150)], 40)
    dataset = LatentDataset(tmp_path / "latents", "train", 5)
    tracemalloc.start()
    for step in range(15 * 10):
        dataset.rows(dataset.index_at(step, 10, 1.0, 0))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1e6
    assert peak < 20e6  # a batch as stored and as float32, twice, and a little


def test_more_shards_than_files_may_be_open(tmp_path):
    """Shards are opened when they are read, and the longest unused is closed."""
    row = read_rows(write_cache(tmp_path / "latents", clips=1))[0]
    rows = [row | {"clip_id": f"{n:03d}", "key": f"{n}"} for n in range(300)]
    write_shards(tmp_path / "many", rows, 1)
    assert len(list((tmp_path / "many").iterdir())) == 512
    before = len(os.listdir("/proc/self/fd"))
    dataset = LatentDataset(tmp_path / "many", "train", 5)
    latents = dataset.rows(np.arange(300)).latents
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 128
    assert (latents == np.frombuffer(row["latents"], "float16").reshape(row["shape"])).all()
