"""A cache or a raw folder behind a URL is what it is on a disk; the store is a real server on loopback."""

import contextlib
import dataclasses
import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import pytest
import requests

from stages.stage import path_or_url
from tests.conftest import small_params
from tests.latents.test_encode import Project
from tests.support.caches import write_cache
from tests.support.object_store import object_store, use_store
from videomar.cli import app as cli
from videomar.config import load_params
from videomar.errors import DataError
from videomar.latents.cache import LatentCache
from videomar.latents.dataset import LatentDataset
from videomar.latents.shards import intact_shards, num_bytes, open_latents, read_rows, write_shards
from videomar.sources.bucket import RECIPE, fetch_folder, write_recipe
from videomar.sources.collect import collect_samples
from videomar.storage import (
    ObjectPath,
    StoreError,
    absolute,
    list_files,
    parse_location,
    read_ranges,
    work_folder,
)

ROOT = Path(__file__).parent.parent.parent
FACTS = {"dtype": "float16", "moments": False, "tokenizer": "abc"}
BYTES = ("latents", "text", "shape", "text_shape", "dtype")
_buckets = itertools.count()


@pytest.fixture(scope="module")
def server():
    with object_store() as address:
        yield address


@pytest.fixture
def here(monkeypatch, tmp_path, server):
    """A working folder, and the server as the machine's object store."""
    monkeypatch.chdir(tmp_path)
    use_store(monkeypatch, server)
    return tmp_path


class Bucket:
    """A new bucket, and another way to it than the one under test."""

    def __init__(self) -> None:
        self.name = f"bucket{next(_buckets)}"
        self.client = boto3.client("s3", region_name="us-east-1")
        self.client.create_bucket(Bucket=self.name)
        self.url = f"s3://{self.name}/folder"

    def put(self, name, data):
        self.client.put_object(Bucket=self.name, Key=f"folder/{name}", Body=data)

    def remove(self, name):
        self.client.delete_object(Bucket=self.name, Key=f"folder/{name}")

    def objects(self):
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        keys = [item["Key"] for item in found if not item["Key"].endswith("/")]
        bodies = {key: self.client.get_object(Bucket=self.name, Key=key) for key in keys}
        return {key.removeprefix("folder/"): body["Body"].read() for key, body in bodies.items()}

    def times(self):
        return {entry.name: entry.mtime_ns for entry in list_files(parse_location(self.url))}


@pytest.fixture
def bucket(here):
    return Bucket()


@pytest.fixture
def rows(tmp_path):
    return read_rows(write_cache(tmp_path / "given", clips=40))


@pytest.fixture
def project(tmp_path, params):
    text = dataclasses.replace(params.text, encoder="none")
    encode = dataclasses.replace(params.encode, shard_clips=6)
    return Project(tmp_path, dataclasses.replace(params, text=text, encode=encode))


def encode(where, rows, shard_clips=10):
    """Bring a cache in line with rows as an encode does; the keys that it asked for."""
    with LatentCache(where) as cache:
        asked = [row["key"] for row in rows if row["key"] not in cache]
        for row in rows:
            if row["key"] in asked:
                cache.add(row["key"], "float16", row["shape"], row["latents"])
            if row["text_key"] not in cache:
                cache.add(row["text_key"], "float16", row["text_shape"], row["text"])
        clips = [{name: value for name, value in row.items() if name not in BYTES} for row in rows]
        cache.write(clips, shard_clips, FACTS)
    return asked


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_clips_make_the_same_shards_here_and_in_a_store(here, bucket, rows):
    assert write_shards(here / "disk", rows, 10, FACTS) == write_shards(bucket.url, rows, 10, FACTS) == 4
    assert bucket.objects() == files_of(here / "disk")
    assert read_rows(bucket.url) == read_rows(here / "disk")
    assert num_bytes(bucket.url) == num_bytes(here / "disk") > 0
    assert not list(work_folder(parse_location(bucket.url)).glob("*"))


def test_changed_clip_in_a_store_is_encoded_alone_and_rewrites_two_shards(here, bucket, rows):
    assert len(encode(bucket.url, rows)) == 40
    before = bucket.objects()
    changed = [rows[0] | {"key": "another"}, *rows[2:]]
    assert encode(bucket.url, changed) == ["another"]
    after = bucket.objects()
    assert 1 <= sum(before[name] != after[name] for name in before) <= 3
    encode(here / "fresh", changed)
    assert after == files_of(here / "fresh")
    times = bucket.times()
    assert encode(bucket.url, changed) == []
    assert bucket.times() == times


def test_stage_encodes_into_a_store_what_it_encodes_into_a_folder(bucket, project):
    near, far = project.encode(), project.encode(out=bucket.url)
    assert (far["encoded"], far["megabytes"]) == (near["encoded"], near["megabytes"])
    assert bucket.objects() == files_of(project.out)
    assert project.encode(out=bucket.url)["encoded"] == 0


def test_dealing_a_store_anew_copies_all_and_leaves_no_old_shard(here, bucket, rows):
    encode(bucket.url, rows, 3)
    assert encode(bucket.url, rows, 20) == []
    encode(here / "fresh", rows, 20)
    assert bucket.objects() == files_of(here / "fresh")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_shard_in_a_store_is_named_and_rebuilt(here, bucket, rows, damage):
    encode(bucket.url, rows)
    whole = bucket.objects()
    name = "part-00002-of-00004.parquet"
    data = bytearray(whole[name])
    data[open_latents(bucket.url)[2].byte_range("latents", 3).offset] ^= 1
    bucket.put(name, {"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[damage])
    intact, [found] = intact_shards(bucket.url)
    assert len(intact) == 3
    assert str(found).startswith(f"{bucket.url}/{name}: got a damaged shard")
    with pytest.raises(DataError, match=f"{name}: got a damaged shard"):
        LatentDataset(bucket.url, "train", 5).rows(range(40))
    asked = encode(bucket.url, rows)
    assert 0 < len(asked) < 40
    assert bucket.objects() == whole


def test_batches_from_a_store_are_those_from_a_disk(here, bucket, rows):
    for where in (bucket.url, here / "disk"):
        write_shards(where, rows, 10)
    far, near = LatentDataset(bucket.url, "train", 5), LatentDataset(here / "disk", "train", 5)
    assert (far.clip_ids, far.content_hash) == (near.clip_ids, near.content_hash)
    for step in range(3):
        index = near.index_at(step, 8, 0.5, 0)
        assert (far.index_at(step, 8, 0.5, 0) == index).all()
        one, other = far.rows(index), near.rows(index)
        for name in ("latents", "text", "text_mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_run_killed_before_its_shards_are_in_the_store_loses_nothing(here, bucket, rows):
    """The run ends in the middle, then for want of its bucket; the third encodes nothing and stores all."""
    with contextlib.suppress(KeyboardInterrupt), LatentCache(bucket.url) as cache:
        for row in rows:
            cache.add(row["key"], "float16", row["shape"], row["latents"])
        raise KeyboardInterrupt
    with LatentCache(bucket.url) as cache:
        assert all(row["key"] in cache for row in rows)
    bucket.client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(StoreError, match="got no bucket"):
        encode(bucket.url, rows)
    bucket.client.create_bucket(Bucket=bucket.name)
    assert encode(bucket.url, rows) == []
    encode(here / "fresh", rows)
    assert bucket.objects() == files_of(here / "fresh")
    assert not list(work_folder(parse_location(bucket.url)).glob("*"))


def test_store_that_refuses_the_shards_keeps_what_is_finished(here, bucket, rows, server):
    with LatentCache(bucket.url) as cache:
        for row in rows:
            cache.add(row["key"], "float16", row["shape"], row["latents"])
            cache.add(row["text_key"], "float16", row["text_shape"], row["text"])
        clips = [{name: value for name, value in row.items() if name not in BYTES} for row in rows]
        requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=5)
        try:
            with pytest.raises(StoreError, match="expected access; check AWS_ACCESS_KEY_ID.*are kept"):
                cache.write(clips, 10, FACTS)
        finally:
            requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=5)
    assert encode(bucket.url, rows) == []


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.3])
def test_killed_upload_leaves_the_old_object_or_the_new(here, bucket, wait_s):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from videomar.storage import parse_location\n"
        "from videomar.storage import publish\n"
        "draft = Path('draft')\n"
        "draft.write_bytes(b'new' * 2**24)\n"
        "print('begin', flush=True)\n"
        "publish(draft, parse_location(sys.argv[1]) / 'file')\n"
    )
    bucket.put("file", b"old")
    child = subprocess.Popen([sys.executable, "-c", code, bucket.url], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begin\n"
    time.sleep(wait_s)
    child.kill()
    child.communicate()
    assert bucket.objects()["file"] in (b"old", b"new" * 2**24)


def test_two_encodes_of_one_url_at_once_are_refused(here, bucket):
    with LatentCache(bucket.url), pytest.raises(DataError, match="got a journal in use"):
        LatentCache(bucket.url).__enter__()


def test_store_that_is_away_is_one_clear_line_and_soon(here, rows, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        open_latents("s3://bucket/folder")
    assert time.monotonic() - start < 20
    said = str(caught.value)
    assert said.startswith("s3://bucket/folder: got NETWORK_CONNECTION")
    assert "check the network and AWS_ENDPOINT_URL" in said
    assert "\n" not in said


def test_store_that_goes_away_is_no_damaged_shard(here, bucket, rows, server):
    write_shards(bucket.url, rows, 10)
    requests.post(f"{server}/moto-api/reset-auth", data=b"1", timeout=5)
    try:
        with pytest.raises(StoreError, match="expected access"):
            intact_shards(bucket.url)
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=5)


def test_missing_bucket_and_missing_credentials_are_clear(bucket, monkeypatch, server):
    with pytest.raises(StoreError, match="got no bucket nowhere, expected one; create it"):
        open_latents("s3://nowhere/folder")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=5)
    try:
        # Another region than the other tests': a connection keeps the credentials that it has found.
        with pytest.raises(StoreError, match="expected access; check AWS_ACCESS_KEY_ID"):
            open_latents(f"{bucket.url}?region=eu-west-1")
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=5)


def test_empty_folder_of_a_store_has_no_latents(bucket):
    with pytest.raises(DataError, match="got no latents"):
        open_latents(bucket.url)


def test_any_ranges_of_an_object_are_its_bytes(bucket):
    data = np.random.default_rng(0).bytes(3 * 2**20)
    bucket.put("file", data)
    rng = np.random.default_rng(1)
    offsets = rng.integers(0, len(data), 60).tolist()
    for order in (sorted(offsets), offsets):
        ranges = [(offset, int(rng.integers(0, 5000))) for offset in order]
        read = list(read_ranges(parse_location(bucket.url) / "file", ranges))
        assert read == [data[offset : offset + length] for offset, length in ranges]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:hidden@bucket/folder", "s3://bucket: got credentials, expected a bucket alone"),
        ("ftp://bucket/folder", "got another URL, expected s3://BUCKET/FOLDER"),
        ("s3:///folder", "got another URL"),
        (
            "s3://bucket/folder?secret_key=hidden",
            "s3://bucket/folder: got secret_key, expected endpoint_over",
        ),
    ],
)
def test_wrong_url_is_refused_without_its_secrets(url, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_location(url)
    assert "hidden" not in str(caught.value)


def test_url_keeps_its_slashes_and_its_options():
    url = "s3://bucket/deep/folder?endpoint_override=http://host:9000&region=eu-west-1"
    assert path_or_url(url) == absolute(url) == str(parse_location(url)) == url
    assert parse_location("s3://bucket//deep/") == ObjectPath("bucket/deep")
    assert path_or_url("data/latents") == parse_location("data/latents") == Path("data/latents")
    assert absolute("data/latents") == str(Path.cwd() / "data/latents")


def test_endpoint_of_the_url_goes_before_that_of_the_environment(bucket, rows, server, monkeypatch):
    write_shards(bucket.url, rows, 10)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert len(read_rows(f"{bucket.url}?endpoint_override={server}")) == 40


def state(folder):
    """Which file, in which version, is where."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.read_bytes()) for path in paths}


def test_raw_folder_follows_a_store_and_fetches_only_what_changed(here, bucket):
    for name in ("a.mp4", "a.txt", "trip/b c é.mp4", ".hidden", "trip/.hidden/c.mp4"):
        bucket.put(name, name.encode())
    params = small_params().samples
    raw = here / "raw"
    time.sleep(3)
    assert collect_samples(bucket.url, raw, params)["videos"] == 2
    names = {"a.mp4", "a.txt", "trip/b c é.mp4"}
    assert {name: data.decode() for name, (_, data) in state(raw).items() if name in names} == {
        name: name for name in names
    }
    assert set(state(raw)) == names | {".collected.json"}
    mirror = fetch_folder(parse_location(bucket.url))
    before = state(mirror)
    assert set(before) == names
    collect_samples(bucket.url, raw, params)
    assert state(mirror) == before
    bucket.put("a.mp4", b"A.mp4")
    bucket.remove("trip/b c é.mp4")
    collect_samples(bucket.url, raw, params)
    assert set(state(raw)) == {"a.mp4", "a.txt", ".collected.json"}
    assert (raw / "a.mp4").read_bytes() == b"A.mp4"
    assert state(mirror)["a.txt"] == before["a.txt"]
    assert not (mirror / "trip").exists()


def test_file_that_changes_within_a_second_is_fetched_again(here, bucket):
    for data in (b"one", b"two", b"six"):
        bucket.put("a.mp4", data)
        assert (fetch_folder(parse_location(bucket.url)) / "a.mp4").read_bytes() == data


def test_killed_mirror_keeps_whole_files_and_goes_on(here, bucket):
    for name in ("a.mp4", "b.mp4"):
        bucket.put(name, b"x" * 1000)
    time.sleep(3)
    mirror = fetch_folder(parse_location(bucket.url))
    kept = state(mirror)["a.mp4"]
    (mirror / "b.mp4").unlink()
    (mirror / ".b.mp4.4194304").write_bytes(b"half")
    fetch_folder(parse_location(bucket.url))
    assert state(mirror)["a.mp4"] == kept
    assert state(mirror)["b.mp4"][1] == b"x" * 1000
    assert set(state(mirror)) == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize("name", ["../evil.mp4", "trip/../../evil.mp4", "trip//evil.mp4", "./evil.mp4"])
def test_name_that_leads_out_of_the_folder_is_refused(here, bucket, name):
    client = boto3.client("s3", region_name="us-east-1")
    client.put_object(Bucket=bucket.name, Key=f"folder/{name}", Body=b"x")
    with pytest.raises(DataError, match="got the name .*expected names without empty parts"):
        collect_samples(bucket.url, here / "raw", small_params().samples)
    assert not [path for path in here.rglob("*") if path.name == "evil.mp4"]


def test_file_that_is_a_folder_too_is_refused(here, bucket):
    bucket.put("trip", b"x")
    bucket.put("trip/a.mp4", b"x")
    with pytest.raises(DataError, match="got 'trip' as a file and as a folder"):
        collect_samples(bucket.url, here / "raw", small_params().samples)


def test_clips_by_url_are_a_folder_that_tells_of_changes(here, bucket, monkeypatch):
    """What data version control looks at changes if the files in the store do, and only then."""
    shutil.copy(ROOT / "params.yaml", here)
    bucket.put("a.mp4", b"x")

    def use_clips():
        monkeypatch.setattr("sys.argv", ["videomar", "use-clips", bucket.url])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        source = load_params(here / "params.yaml").samples.source
        assert source == f"sources/{bucket.name}-folder"
        return source, (here / source / RECIPE).read_text()

    source, first = use_clips()
    assert first.splitlines()[0] == bucket.url
    assert use_clips() == (source, first)
    bucket.put("b.mp4", b"x")
    assert use_clips()[1] != first
    assert collect_samples(here / source, here / "raw", small_params().samples)["videos"] == 2


def test_clips_by_url_without_files_are_refused(here, bucket):
    with pytest.raises(DataError, match="got no files, expected videos"):
        write_recipe(bucket.url)
