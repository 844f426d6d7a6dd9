import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.caches import write_cache
from videomar.errors import DataError
from videomar.latents import parquet as shard_file
from videomar.latents.dataset import LatentDataset
from videomar.latents.parquet import GROUP_BYTES, SCHEMA, DamagedShardError, open_shard
from videomar.latents.shards import intact_shards, open_latents, read_rows, write_shards


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_id(rows):
    return {row["clip_id"]: row for row in rows}


@pytest.fixture
def rows(tmp_path):
    return read_rows(write_cache(tmp_path / "given", clips=40))


@pytest.fixture
def moments(tmp_path):
    """Rows that have the deviations of their latents, too."""
    return read_rows(write_cache(tmp_path / "moments", clips=40, moments=True))


@pytest.mark.parametrize("given", ["rows", "moments"])
def test_shards_round_trip_every_byte(tmp_path, given, request):
    rows = request.getfixturevalue(given)
    assert {row["latents_std"] is None for row in rows} == {given == "rows"}
    assert write_shards(tmp_path / "again", rows, 10) == 4
    assert by_id(read_rows(tmp_path / "again")) == by_id(rows)
    assert sorted(files_of(tmp_path / "again")) == [f"part-0000{n}-of-00004.parquet" for n in range(4)]


def test_same_clips_make_the_same_files_whatever_was_there(tmp_path, rows):
    write_shards(tmp_path / "straight", rows, 10)
    write_shards(tmp_path / "other", rows[:3], 10)
    write_shards(tmp_path / "other", [row | {"key": "x" + row["key"]} for row in rows], 4)
    write_shards(tmp_path / "other", rows[::-1], 10, None, intact_shards(tmp_path / "other")[0])
    assert files_of(tmp_path / "other") == files_of(tmp_path / "straight")


def test_one_changed_clip_rewrites_at_most_two_shards(tmp_path, rows):
    write_shards(tmp_path / "shards", rows, 5)
    before = files_of(tmp_path / "shards")
    changed = [rows[0] | {"key": "another"}, *rows[1:]]
    assert write_shards(tmp_path / "shards", changed, 5, None, open_latents(tmp_path / "shards")) in (1, 2)
    after = files_of(tmp_path / "shards")
    assert 1 <= sum(before[name] != after[name] for name in before) <= 2
    assert by_id(read_rows(tmp_path / "shards")) == by_id(changed)


def test_fewer_rows_leave_no_old_shard(tmp_path, rows):
    write_shards(tmp_path / "again", rows, 3)
    write_shards(tmp_path / "again", rows[:2], 3)
    assert by_id(read_rows(tmp_path / "again")) == by_id(rows[:2])
    assert list(files_of(tmp_path / "again")) == ["part-00000-of-00001.parquet"]


def test_row_groups_are_cut_by_bytes_and_stored_plain(tmp_path, rows):
    """Compression and dictionaries make reading latents ten times slower."""
    side = 1024
    data = np.zeros((2, 1, side, side), "float16").tobytes()
    large = [row | {"latents": data, "shape": [2, 1, side, side]} for row in rows[:9]]
    write_shards(tmp_path / "large", large, 100)
    path = tmp_path / "large" / "part-00000-of-00001.parquet"
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [3, 3, 3]
    for group in groups:
        assert GROUP_BYTES / 2 < group.total_byte_size < GROUP_BYTES + 1e5
        for name in ("latents", "text"):
            column = group.column(metadata.schema.names.index(name))
            assert column.compression == "UNCOMPRESSED"
            assert column.statistics is None
            assert "PLAIN_DICTIONARY" not in column.encodings


def test_other_readers_see_the_bytes_that_are_read_by_offset(tmp_path, moments):
    write_shards(tmp_path / "shards", moments, 100)
    path = tmp_path / "shards" / "part-00000-of-00001.parquet"
    table = pq.read_table(path).to_pylist()
    shard = open_shard(path)
    for number, row in enumerate(table):
        assert shard.byte_range("latents", number).read() == row["latents"]
        assert shard.byte_range("text", number).read() == row["text"]
        assert shard.byte_range("latents_std", number).read() == row["latents_std"]


def test_means_alone_take_the_bytes_of_means_alone(tmp_path, rows, moments):
    """Deviations that are not stored cost no more than the name of their column."""
    for name, given in (("rows", rows), ("moments", moments)):
        write_shards(tmp_path / name, given, 100)
    [alone], [both] = (list((tmp_path / name).iterdir()) for name in ("rows", "moments"))
    assert "latents_std" not in open_shard(alone).offsets
    assert both.stat().st_size - alone.stat().st_size > sum(len(row["latents_std"]) for row in moments)
    nulls = pq.ParquetFile(alone).metadata.row_group(0).column(SCHEMA.names.index("latents_std"))
    assert nulls.total_compressed_size < 100


def test_facts_are_in_every_footer(tmp_path, rows):
    write_shards(tmp_path / "shards", rows, 10, {"tokenizer": "abc", "latent_mean": [0.5, -1.0]})
    for shard in open_latents(tmp_path / "shards"):
        assert shard.metadata["tokenizer"] == "abc"
        assert shard.metadata["latent_mean"] == [0.5, -1.0]
        assert shard.metadata["schema_version"] == shard_file.SCHEMA_VERSION


@pytest.mark.parametrize("given", ["rows", "moments"])
def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path, given, request):
    """Whatever byte of a shard flips: the rows are as written, or the shard is named as damaged."""
    rows = request.getfixturevalue(given)
    write_shards(tmp_path / "shards", rows, 100)
    path = tmp_path / "shards" / "part-00000-of-00001.parquet"
    whole, told = path.read_bytes(), read_rows(tmp_path / "shards")
    rng = np.random.default_rng(0)
    named = []
    for place in rng.integers(0, len(whole), 400):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_rows(tmp_path / "shards") == told, place
        except DamagedShardError as error:
            named.append(path.name in str(error))
    assert len(named) > 200
    assert all(named)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_shard_is_named_and_refused(tmp_path, rows, kept):
    write_shards(tmp_path / "shards", rows, 10)
    path = tmp_path / "shards" / "part-00002-of-00004.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=r"part-00002-of-00004\.parquet: got a damaged shard"):
        LatentDataset(tmp_path / "shards", "train", 5)
    intact, [damage] = intact_shards(tmp_path / "shards")
    assert len(intact) == 3
    assert "part-00002" in str(damage)


def test_absent_shard_is_noticed(tmp_path, rows):
    write_shards(tmp_path / "shards", rows, 10)
    (tmp_path / "shards" / "part-00001-of-00004.parquet").unlink()
    with pytest.raises(DataError, match="expected all parts of one cache"):
        LatentDataset(tmp_path / "shards", "train", 5)


def test_shards_of_two_runs_are_not_mixed(tmp_path, rows):
    write_shards(tmp_path / "shards", rows, 20, {"tokenizer": "a"})
    write_shards(tmp_path / "other", rows, 20, {"tokenizer": "b"})
    name = "part-00001-of-00002.parquet"
    os.replace(tmp_path / "other" / name, tmp_path / "shards" / name)
    with pytest.raises(DataError, match="part-00001-of-00002.parquet: got other metadata"):
        LatentDataset(tmp_path / "shards", "train", 5)


def test_full_disk_is_one_clear_error_and_leaves_the_cache_as_it_was(tmp_path, rows):
    """A limit on the size of files stands for a full disk."""
    folder = tmp_path / "shards"
    write_shards(folder, rows[:20], 10)
    before = files_of(folder)
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from videomar.latents.shards import read_rows, write_shards\n"
        "from videomar.errors import DataError\n"
        f"rows = read_rows(Path({str(tmp_path / 'given')!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try:\n"
        f"    write_shards(Path({str(folder)!r}), rows, 10)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "expected room for the new shards" in done.stdout
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert files_of(folder) == before
