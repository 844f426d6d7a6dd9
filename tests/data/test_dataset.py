import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.caches import write_cache
from videomar.data.dataset import LatentDataset
from videomar.data.latents import read_latents, read_rows, write_shards
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


def test_shards_round_trip_every_byte(tmp_path):
    rows = read_rows(write_cache(tmp_path / "latents", clips=7))
    write_shards(tmp_path / "again", rows, 3)
    assert read_rows(tmp_path / "again") == rows
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        f"part-0000{n}.parquet" for n in range(3)
    ]


def test_fewer_rows_leave_no_old_shard(tmp_path):
    rows = read_rows(write_cache(tmp_path / "latents", clips=7))
    write_shards(tmp_path / "again", rows, 3)
    write_shards(tmp_path / "again", rows[:2], 3)
    assert read_rows(tmp_path / "again") == rows[:2]


def test_damaged_shard_is_named(tmp_path):
    folder = write_cache(tmp_path / "latents")
    (folder / "part-00000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"part-00000\.parquet: got a damaged shard"):
        read_latents(folder)


def test_shards_are_stored_plain(tmp_path):
    """Compression and dictionaries make reading latents ten times slower."""
    meta = pq.ParquetFile(write_cache(tmp_path / "latents") / "part-00000.parquet").metadata
    column = meta.row_group(0).column([field.name for field in meta.schema].index("latents"))
    assert column.compression == "UNCOMPRESSED"
    assert "PLAIN_DICTIONARY" not in column.encodings
