import dataclasses
import os
import tracemalloc

import numpy as np
import pytest

from tests.caches import write_cache
from videomar.data.dataset import LatentDataset
from videomar.data.facts import key_facts
from videomar.data.latents import read_rows, write_shards
from videomar.data.shard import open_shard
from videomar.errors import DataError


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
    simulated = set(dataset.groups[0].tolist())
    counts = [list(seen).count(clip) for clip in simulated]
    assert counts == [1] * 20


def test_shares_of_groups_are_kept(dataset):
    simulated = set(dataset.groups[0].tolist())
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


def test_damage_is_found_when_its_row_group_is_first_read(tmp_path):
    folder = write_cache(tmp_path / "latents")
    [path] = folder.glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[open_shard(path).stored("latents", 7).offset] ^= 1
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
    write_shards(folder, read_rows(write_cache(folder)), 100, key_facts(params))
    ingest = dataclasses.replace(params.ingest, fps=12.0, num_workers=7)
    text = dataclasses.replace(params.text, prefix="A video of ")
    LatentDataset(folder, "train", 5, key_facts(params))
    with pytest.raises(DataError) as caught:
        LatentDataset(folder, "train", 5, key_facts(dataclasses.replace(params, ingest=ingest, text=text)))
    message = str(caught.value)
    assert "pixels.fps is 8.0, expected 12.0; text.prefix is '', expected 'A video of '" in message
    assert "num_workers" not in message
    assert "size_px" not in message


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
