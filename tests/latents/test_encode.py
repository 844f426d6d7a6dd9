import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest
import torch

from videomar.compute.seeding import step_generator
from videomar.config import Params
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError
from videomar.latents.cache import JOURNAL, Journal
from videomar.latents.clip_encoder import Encoded, stored_bytes
from videomar.latents.dataset import LatentDataset
from videomar.latents.encode import _key, encode_clips
from videomar.latents.encode_ray import encode_on_ray
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import open_latents, read_rows

VIDEOS = 12
CLIPS = 3


class Simulated:
    """An encoder whose latents follow from the key alone. Remembers what it was asked for."""

    def __init__(self, videos_until_end: int | None = None) -> None:
        self.keys: list[str] = []
        self.left = videos_until_end

    def __call__(self, videos, tokenizer, params):
        for video in videos:
            if self.left is not None:
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            self.keys += video.keys
            yield [Encoded(key, [4, 2, 2, 2], latents_of(key, params)) for key in video.keys]


def latents_of(key, params):
    generator = step_generator(int(key[:8], 16), 0)
    return stored_bytes(torch.randn(4, 2, 2, 2, generator=generator), params.encode.dtype)


def ledger_rows():
    return [
        dict.fromkeys(LEDGER_SCHEMA.names)
        | {"video": f"v{video}.mp4", "video_sha256": f"sha{video}", "clip_id": f"id{video}-{clip}"}
        | {"start_s": float(clip), "end_s": clip + 1.0, "caption": f"caption {video}", "group": "real"}
        | {"clip_width_px": 32, "clip_height_px": 32, "num_frames": 17}
        | {"motion": 0.1 * clip, "kept": clip != 1, "split": "train"}
        for video in range(VIDEOS)
        for clip in range(CLIPS)
    ]


class Project:
    """A ledger, a tokenizer and a cache in a folder."""

    def __init__(self, folder, params: Params) -> None:
        self.folder, self.params, self.rows = folder, params, ledger_rows()
        self.out = folder / "latents"
        self.train_tokenizer(0)

    def train_tokenizer(self, seed: int) -> None:
        tokenizer = CausalTokenizer(self.params.tokenizer).initialise(step_generator(seed, 0))
        save_tokenizer(tokenizer, self.folder / "tokenizer")

    def encode(self, encode=None, out=None):
        write_ledger(self.folder / "ledger.parquet", pandas.DataFrame(self.rows))
        paths = [self.folder / name for name in ("raw", "ledger.parquet", "tokenizer")]
        return encode_clips(*paths, out or self.out, self.params, encode or Simulated())

    def files(self):
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def assert_as_if_fresh(self) -> None:
        """The law: the same ledger makes the same bytes whatever was in the folder."""
        self.encode(out=self.folder / "fresh")
        assert {path.name: path.read_bytes() for path in (self.folder / "fresh").iterdir()} == self.files()


@pytest.fixture
def project(tmp_path, params):
    text = dataclasses.replace(params.text, encoder="none")
    encode = dataclasses.replace(params.encode, shard_clips=6, num_workers=2)
    return Project(tmp_path, dataclasses.replace(params, text=text, encode=encode))


def test_captions_that_are_not_read_whole_are_counted_and_named_at_every_run(tmp_path, params, caplog):
    text = dataclasses.replace(params.text, encoder="minilm", max_tokens=8)
    project = Project(tmp_path, dataclasses.replace(params, text=text))
    captions = ["一只红猫向左跑", "a red cat", "", "a red cat runs left and meets a blue dog"]
    for row in project.rows:
        row["caption"] = captions[int(row["video"][1:-4]) % len(captions)]
    first, second = project.encode(), project.encode()
    counts = {"captions": 3.0, "captions_unreadable": 1.0, "captions_cut": 2.0}
    assert counts.items() <= first.items()
    assert counts.items() <= second.items()
    assert second["captions_encoded"] == 0
    unreadable, cut = (record.getMessage() for record in caplog.records[:2])
    assert "1 of 3 captions cannot be read by the text encoder" in unreadable
    assert '"一只红猫向左跑"' in unreadable
    assert "2 of 3 captions are cut" in cut
    assert len(caplog.records) == 4


def test_cache_holds_the_kept_clips_and_nothing_else(project):
    figures = project.encode()
    kept = {row["clip_id"] for row in project.rows if row["kept"]}
    rows = read_rows(project.out)
    assert {row["clip_id"] for row in rows} == kept
    assert figures["clips"] == figures["encoded"] == len(rows) == len(kept) == 24
    for row in rows:
        assert row["latents"] == latents_of(row["key"], project.params)
    assert not (project.out / JOURNAL).exists()


def test_second_run_encodes_and_writes_nothing(project):
    project.encode()
    figures = project.encode()
    assert (figures["encoded"], figures["captions_encoded"], figures["shards_written"]) == (0, 0, 0)
    assert figures["reused"] == 24


def test_run_with_nothing_to_encode_needs_no_cluster(project, monkeypatch):
    project.encode()
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert project.encode(encode_on_ray)["encoded"] == 0
    project.train_tokenizer(1)
    with pytest.raises(DataError, match="got nowhere"):
        project.encode(encode_on_ray)


def test_changed_clip_alone_is_encoded_again(project):
    project.encode()
    project.rows[0]["start_s"] = 0.25
    figures = project.encode()
    assert (figures["encoded"], figures["reused"]) == (1, 23)
    assert figures["shards_written"] in (1, 2)
    project.assert_as_if_fresh()


def test_cache_says_what_its_latents_were_made_on(project):
    """Kept ones count, also from the journal of a killed run; those that are gone do not."""

    def on(kind, videos_until_end=None):
        simulated = Simulated(videos_until_end)

        def encode(*arguments):
            for clips in simulated(*arguments):
                yield [clip._replace(made_on=kind) for clip in clips]

        return encode

    def devices():
        return open_latents(project.out)[0].metadata["made_on"]

    with pytest.raises(KeyboardInterrupt):
        project.encode(on("a GPU", 3))
    project.encode()
    assert devices() == {"captions": ["cpu"], "clips": ["a GPU", "cpu"]}
    project.rows[0]["start_s"] = 0.25
    project.encode(on("another GPU"))
    assert devices()["clips"] == ["a GPU", "another GPU", "cpu"]
    project.train_tokenizer(1)
    project.encode(on("another GPU"))
    assert devices()["clips"] == ["another GPU"]


def test_renamed_video_is_not_encoded_again(project):
    project.encode()
    for row in project.rows:
        row["video"] = f"renamed/{row['video']}"
    assert project.encode()["encoded"] == 0
    project.assert_as_if_fresh()


def test_edited_caption_encodes_no_video(project):
    project.encode()
    project.rows[0]["caption"] = "another"
    figures = project.encode()
    assert (figures["encoded"], figures["captions_encoded"], figures["shards_written"]) == (0, 1, 1)
    assert "another" in {row["caption"] for row in read_rows(project.out)}
    project.assert_as_if_fresh()


def test_new_tokenizer_encodes_everything_again(project):
    project.encode()
    project.train_tokenizer(1)
    assert project.encode()["encoded"] == 24
    project.assert_as_if_fresh()


def test_deleted_video_disappears(project):
    project.encode()
    gone = next(row["latents"] for row in read_rows(project.out) if row["clip_id"] == "id3-0")
    project.rows = [row for row in project.rows if row["video"] != "v3.mp4"]
    assert project.encode()["encoded"] == 0
    assert all(gone not in data for data in project.files().values())
    project.assert_as_if_fresh()


@pytest.mark.parametrize("damage", ["flip", "truncate", "foreign"])
def test_damaged_shard_is_rebuilt_and_nothing_else_is_encoded(project, damage, caplog):
    project.encode()
    whole = project.files()
    path = sorted(project.out.iterdir())[1]
    [shard] = [shard for shard in open_latents(project.out) if shard.path == path]
    data = bytearray(path.read_bytes())
    data[shard.byte_range("latents", 0).offset] ^= 4
    path.write_bytes({"flip": data, "truncate": data[:-20], "foreign": b"no Parquet"}[damage])
    encoder = Simulated()
    figures = project.encode(encoder)
    assert figures["shards_damaged"] == 1
    assert path.name in caplog.text
    assert sorted(encoder.keys) == sorted(row["key"] for row in shard.rows)
    assert project.files() == whole


@pytest.mark.parametrize("videos", [0, 1, 5, 11])
def test_interrupted_run_goes_on_where_it_was(project, videos):
    with pytest.raises(KeyboardInterrupt):
        project.encode(Simulated(videos))
    rest = Simulated()
    project.encode(rest)
    assert len(rest.keys) == 2 * (VIDEOS - videos)
    project.assert_as_if_fresh()


@pytest.mark.parametrize("torn", [1, 40, 100, 300])
def test_torn_journal_loses_only_its_last_record(project, torn):
    with pytest.raises(KeyboardInterrupt):
        project.encode(Simulated(5))
    path = project.out / JOURNAL
    path.write_bytes(path.read_bytes()[:-torn])
    rest = Simulated()
    project.encode(rest)
    lost = 2 if torn == 300 else 1
    assert len(rest.keys) == 2 * (VIDEOS - 5) + lost
    project.assert_as_if_fresh()


def test_draft_of_a_killed_run_is_neither_read_nor_left(project):
    project.encode()
    whole = project.files()
    path = sorted(project.out.iterdir())[1]
    path.rename(path.with_name(f".{path.name}"))
    project.encode()
    assert project.files() == whole


def test_full_disk_keeps_what_is_finished(project):
    """A limit on the size of files stands for a full disk; it is met in the middle of the journal."""

    def fill(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        yield from Simulated()(*arguments)

    child = os.fork()
    if not child:
        try:
            project.encode(fill)
        except DataError as error:
            os._exit(3 if "free some and run again" in str(error) else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    rest = Simulated()
    project.encode(rest)
    assert 0 < len(rest.keys) < 24
    project.assert_as_if_fresh()


def test_second_encode_at_once_is_refused(project):
    with Journal(project.out), pytest.raises(DataError, match="got a journal in use"):
        project.encode()


def test_values_that_are_not_finite_are_refused(project):
    def overflow(videos, tokenizer, params):
        for video in videos:
            yield [Encoded(key, [1, 1, 1, 1], np.float16(np.inf).tobytes()) for key in video.keys]

    with pytest.raises(DataError, match="got values that are not finite, expected finite float16"):
        project.encode(overflow)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_cache_in_another_type_holds_the_rounded_latents(project, dtype):
    encode = dataclasses.replace(project.params.encode, dtype=dtype)
    project.params = dataclasses.replace(project.params, encode=encode)
    project.encode()
    dataset = LatentDataset(project.out, "train", 5, expected_metadata(project.params))
    keys = {row["clip_id"]: row["key"] for row in read_rows(project.out)}
    batch = dataset.rows([4, 0])
    for clip_id, latents in zip(batch.clip_ids, batch.latents, strict=True):
        values = torch.randn(4, 2, 2, 2, generator=step_generator(int(keys[clip_id][:8], 16), 0))
        assert torch.equal(torch.from_numpy(latents), values.to(getattr(torch, dtype)).float())


def test_keys_and_bytes_are_those_of_earlier_caches(monkeypatch):
    """A clip whose latent other code does not change keeps its key and its float16 bytes."""
    monkeypatch.setattr("videomar.latents.encode.code_hash", lambda _: "the same code")
    key = _key("ab", 1.5, {"height_px": 32, "width_px": 32, "fps": 8.0, "num_frames": 17}, "cd", "float16")
    assert key == "010033d3edd4c79b248c51bcf2720dade9331649b6b731a31367a36a9333a3e5"
    values = torch.tensor([0.1, -3.3, 2049.0])
    assert stored_bytes(values, "float16") == values.numpy().astype(np.float16).tobytes()


@pytest.mark.slow
def test_killed_encode_ends_with_the_bytes_of_an_uninterrupted_one(project):
    """SIGKILL in the middle of encoding, three times; each run goes on from the one before."""
    project.encode()
    whole = project.files()
    shutil.rmtree(project.out)
    script = project.folder / "run.py"
    script.write_text(
        "import pickle, sys, time\n"
        "from pathlib import Path\n"
        "from tests.latents.test_encode import Project, Simulated\n"
        "project = Project.__new__(Project)\n"
        "project.__dict__ = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "def slow(*arguments):\n"
        "    for video in Simulated()(*arguments):\n"
        "        yield video\n"
        "        time.sleep(0.1)\n"
        "project.encode(slow)\n"
    )
    (project.folder / "state").write_bytes(pickle.dumps(project.__dict__))
    done = 0
    for _ in range(3):
        run = subprocess.Popen([sys.executable, script, project.folder / "state"], env=environment())
        journal = project.out / JOURNAL
        while run.poll() is None and journal_records(journal) < done + 4:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        records = journal_records(journal)
        assert records >= done
        done = records
    rest = Simulated()
    project.encode(rest)
    finished = done - VIDEOS  # each has a caption, and captions come first
    assert 0 < len(rest.keys) <= 24 - finished + 1 < 24
    assert project.files() == whole


@pytest.mark.slow
def test_encode_killed_at_fifty_random_moments_ends_with_the_same_bytes(project):
    """From a full cache of another tokenizer: journal, drafts, new names and old files are all under way."""
    project.train_tokenizer(1)
    project.encode()
    before = project.folder / "before"
    shutil.copytree(project.out, before)
    project.train_tokenizer(0)
    start = time.monotonic()
    project.encode()
    whole, seconds = project.files(), time.monotonic() - start
    killed = set()
    for delay in np.random.default_rng(0).uniform(0, 1.2 * seconds, 50):
        shutil.rmtree(project.out)
        shutil.copytree(before, project.out)
        child = os.fork()
        if not child:
            try:
                project.encode()
            finally:
                os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        killed.add(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
        project.encode()
        assert project.files() == whole, delay
    assert True in killed


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}


def journal_records(path):
    if not path.exists():
        return 0
    return path.read_bytes().count(json.dumps({"key": ""})[:-3].encode())
