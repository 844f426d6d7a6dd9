"""The same bytes for any number of workers and nodes, dying ones among them; bounded memory; plain errors."""

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import small_params
from tests.support.deadlines import within
from tests.support.ray_nodes import cluster_of_a_node
from tests.support.videos import run_ffmpeg
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError
from videomar.latents.clip_encoder import ClipEncoder, Video
from videomar.latents.encode_ray import encode_on_ray, split_videos
from videomar.media.shapes import ClipShape

STORE_BYTES = 80 * 2**20
DEADLINE_S = 180


class Films:
    """Videos, tokenizers, and what the latents of the clips are, made clip by clip in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, params = folder, small_params()
        self.params = dataclasses.replace(params, encode=dataclasses.replace(params.encode, moments=True))
        for number, name in enumerate(("a.mp4", "b.mp4")):
            picture = f"testsrc2=size=64x64:rate=8:duration=12,hue=h={30 * number}"
            run_ffmpeg(folder, "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "-threads", "1", name)
        self.videos = [
            self.video("a.mp4", 0, 66),
            *(self.video("b.mp4", first, 4) for first in range(0, 32, 4)),
        ]
        # A network that takes some time: there must be work left when workers die.
        network = dataclasses.replace(self.params.tokenizer, space_stride=2, hidden_size=64, depth=2)
        self.small = self.tokenizer("small", network)
        encoder = ClipEncoder(str(self.small), self.params.encode.dtype, moments=True)
        self.expected = {
            key: encoder.encode(video._replace(starts_s=[start], keys=[key]))[0]
            for video in self.videos
            for start, key in zip(video.starts_s, video.keys, strict=True)
        }

    def video(self, name: str, first: int, clips: int, size_px: int = 64) -> Video:
        numbers = range(first, first + clips)
        keys, starts_s = [f"{name} {number}" for number in numbers], [number / 8 for number in numbers]
        return Video(str(self.folder / name), starts_s, keys, ClipShape(size_px, size_px, 8.0, 5))

    def tokenizer(self, name: str, params) -> Path:
        save_tokenizer(CausalTokenizer(params).initialise(step_generator(0, 0)), self.folder / name)
        return self.folder / name

    def with_workers(self, workers: int, dtype: str = "float16"):
        encode = dataclasses.replace(self.params.encode, num_workers=workers, dtype=dtype)
        return dataclasses.replace(self.params, encode=encode)

    def assert_encoded(self, blocks) -> None:
        arrays = [array for block in blocks for array in block]
        assert len(arrays) == len(self.expected)
        assert {array.key: array for array in arrays} == self.expected


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return Films(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def cluster(films):
    """Ray on this machine, one node of two CPUs, found by RAY_ADDRESS."""
    with cluster_of_a_node(films.folder, num_cpus=2, object_store_memory=STORE_BYTES) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def deadline():
    """A run that hangs is a failure."""
    with within(DEADLINE_S):
        yield


def kill_encoders() -> int:
    """SIGKILL the actors of this process's cluster; how many they were."""
    killed = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "Encoder" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
    return killed


@pytest.mark.slow
def test_four_workers_make_the_same_bytes(films, cluster):
    films.assert_encoded(encode_on_ray(films.videos, films.small, films.with_workers(4)))


@pytest.mark.slow
def test_killed_worker_is_replaced_and_nothing_is_lost(films, cluster):
    blocks = encode_on_ray(films.videos, films.small, films.with_workers(2))
    first = next(blocks)
    assert kill_encoders()
    films.assert_encoded([first, *blocks])


def test_worker_that_dies_again_and_again_is_one_clear_error(films, cluster):
    over = threading.Event()

    def kill():
        while not over.wait(0.05):
            kill_encoders()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(
            DataError, match=r"^encode: got a worker that died 5 times.*lower resources.encode.num_workers"
        ):
            list(encode_on_ray(films.videos, films.small, films.with_workers(1)))
    finally:
        over.set()
        killer.join()


def test_unreadable_video_is_told_in_our_words_and_costs_no_other(films, cluster):
    damaged = films.folder / "damaged.mp4"
    damaged.write_bytes(b"no video")
    bad = films.video("damaged.mp4", 0, 1)
    with pytest.raises(DataError) as here:
        ClipEncoder(str(films.small), "float16").encode(bad)
    done = []
    with pytest.raises(DataError) as error:
        done.extend(encode_on_ray([bad, *films.videos], films.small, films.with_workers(1)))
    assert str(error.value) == str(here.value)
    assert str(damaged) in str(error.value)
    films.assert_encoded(done)


def test_video_that_a_node_does_not_see_is_named_with_the_node(films, cluster):
    gone = films.video("gone.mp4", 0, 1)
    with pytest.raises(
        DataError, match=r"gone.mp4: got no such file on node .+, expected it at the same path"
    ):
        list(encode_on_ray([gone], films.small, films.with_workers(1)))


@pytest.mark.slow
def test_more_latents_than_the_object_store_holds_flow_through(films, cluster):
    """Four times the store, in clips of 2 MB, to a driver that takes its time."""
    shape = dataclasses.replace(films.params.tokenizer, channels=64, space_stride=2, depth=0)
    videos = [films.video(name, 0, 80, size_px=128) for name in ("a.mp4", "b.mp4")]
    total = 0
    for block in encode_on_ray(videos, films.tokenizer("wide", shape), films.with_workers(2, "float32")):
        total += sum(len(array.data) for array in block)
        time.sleep(0.02)
    assert total == 160 * 64 * 2 * 64 * 64 * 4 >= 4 * STORE_BYTES


@pytest.mark.slow
def test_two_nodes_one_of_which_dies_make_the_same_bytes(films, cluster):
    second = cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)
    films.assert_encoded(encode_on_ray(films.videos, films.small, films.with_workers(2)))
    blocks = encode_on_ray(films.videos, films.small, films.with_workers(2))
    first = next(blocks)
    cluster.remove_node(second, allow_graceful=False)
    films.assert_encoded([first, *blocks])


@pytest.mark.slow
def test_actors_share_the_gpus_of_the_cluster(films, cluster):
    """Ray counts two GPUs; PyTorch here finds none, so that what is computed is as on a processor."""
    import ray

    second = cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=STORE_BYTES)
    try:
        params = films.with_workers(3)
        blocks = encode_on_ray(films.videos, films.small, params)
        first = next(blocks)
        free = ray.available_resources().get("GPU", 0)
        films.assert_encoded([first, *blocks])
        assert free == pytest.approx(0.5)
        wanted = dataclasses.replace(params, encode=dataclasses.replace(params.encode, device="cuda"))
        with pytest.raises(DataError, match=r"^resources\.encode\.device: got cuda, expected a GPU"):
            list(encode_on_ray(films.videos, films.small, wanted))
    finally:
        cluster.remove_node(second)


@pytest.mark.slow
def test_cluster_of_as_many_cpus_as_workers_is_started_and_says_nothing(films):
    script = films.folder / "run.py"
    script.write_text(
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "from videomar.latents.encode_ray import encode_on_ray\n"
        "videos, tokenizer, params = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "sys.exit(0 if sum(map(len, encode_on_ray(videos, tokenizer, params))) == 98 else 1)\n"
    )
    state = films.folder / "state"
    state.write_bytes(pickle.dumps((films.videos, films.small, films.with_workers(2))))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, script, state], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("lengths", [[1], [5, 3], [1000], [5000, 1], [64, 2000, 64, 3]])
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_parts_are_the_same_clips_and_no_part_is_more_than_a_share(lengths, workers):
    shape = ClipShape(32, 32, 8.0, 5)
    videos = [
        Video(
            str(number),
            [float(clip) for clip in range(length)],
            [f"{number} {clip}" for clip in range(length)],
            shape,
        )
        for number, length in enumerate(lengths)
    ]
    parts = split_videos(videos, workers)
    clips = sorted(
        (part.path, *clip) for part in parts for clip in zip(part.starts_s, part.keys, strict=True)
    )
    whole = [(video.path, *clip) for video in videos for clip in zip(video.starts_s, video.keys, strict=True)]
    assert clips == sorted(whole)
    sizes = [len(part.keys) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= max(64, min(1024, -(-sum(lengths) // workers)))


def test_address_where_nobody_is_is_refused(films, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(
        DataError, match="RAY_ADDRESS: got nowhere, expected the address of a running cluster"
    ):
        list(encode_on_ray(films.videos, films.small, films.params))
