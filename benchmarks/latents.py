"""Speed of reading shuffled batches of latents, compared with peers, and the cost of one changed clip.

`python -m benchmarks.latents`. All read the same bytes from the page cache into float16 tensors of a batch:
ours, one `numpy.memmap` of all clips (copied), one `.pt` file per clip, and WebDataset's tar shards with its
shuffle buffer, if installed. Rounds are interleaved; figures are medians.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import io
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import psutil
import torch

from benchmarks.record import RESULTS, ROOT, write_result
from videomar.compute.seeding import step_generator
from videomar.config import Params, load_params
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.latents.clip_encoder import Encoded, Video
from videomar.latents.dataset import LatentDataset
from videomar.latents.encode import encode_clips
from videomar.latents.parquet import ByteRange
from videomar.latents.shards import write_shards

SHAPE = (16, 6, 32, 32)  # 192 KiB per clip
CLIPS = 6000
BATCH = 16
BATCHES = 60
ROUNDS = 7
EPOCHS = 10
CLIP_BYTES = 2 * int(np.prod(SHAPE))
SMALL = [16, 5, 4, 4]  # shape of a clip's latents with the shipped parameters
ENCODE_S = 0.02  # seconds per clip of the simulated encoder


def main() -> None:
    """Measure and store the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latents")
    parser.add_argument("--clips", type=int, default=CLIPS, help="in the cache that is read")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="latents-") as name:
        folder = Path(name)
        (folder / "update").mkdir()
        updates = measure_updates(folder / "update")
        (folder / "read").mkdir()
        figures, ratios = measure_reading(folder / "read", options.clips)
    write_result("latents", updates | figures, ratios, ["webdataset", "ray"], options.out)


def measure_reading(folder: Path, clips: int = CLIPS) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes per second of every reader, ours over each peer's, and our memory over epochs."""
    write_all(folder, clips)
    dataset = LatentDataset(folder / "shards", "train", 4)
    start = time.perf_counter()
    for first in range(0, clips, BATCH):  # checksums are compared in the first epoch only
        dataset.stored_latents(range(first, min(first + BATCH, clips)))
    figures = {"clips": float(clips), "clip_bytes": float(CLIP_BYTES), "cache_gb": clips * CLIP_BYTES / 1e9}
    figures["first_epoch_gb_per_s"] = clips * CLIP_BYTES / 1e9 / (time.perf_counter() - start)
    readers = {
        "ours": lambda index: torch.from_numpy(dataset.stored_latents(index)[0]),
        "memmap": memmap_reader(folder / "all.bin", clips),
        "pt_files": lambda index: torch.stack([torch.load(folder / "pt" / f"{i}.pt") for i in index]),
    }
    if importlib.util.find_spec("webdataset"):
        readers["webdataset"] = webdataset_reader(folder / "tar")
    same = np.arange(0, clips, max(1, clips // 5))[:4]
    for name in ("memmap", "pt_files"):
        assert torch.equal(readers["ours"](same), readers[name](same))
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(ROUNDS):
        order = np.random.default_rng(number).permutation(clips)[: BATCH * BATCHES].reshape(-1, BATCH)
        for name, read in readers.items():
            start = time.perf_counter()
            total = sum(read(index).nbytes for index in order)
            speeds[name].append(total / 1e9 / (time.perf_counter() - start))
    figures |= {f"{name}_gb_per_s": statistics.median(values) for name, values in speeds.items()}
    rows_start = time.perf_counter()
    for index in order:
        dataset.rows(index)
    figures["ours_as_float32_with_text_gb_per_s"] = (
        order.size * CLIP_BYTES / 1e9 / (time.perf_counter() - rows_start)
    )
    ratios = {
        f"vs_{name}": statistics.median(
            ours / theirs for ours, theirs in zip(speeds["ours"], values, strict=True)
        )
        for name, values in speeds.items()
        if name != "ours"
    }
    return figures | memory_over_epochs(dataset), ratios


def memory_over_epochs(dataset: LatentDataset) -> dict[str, float]:
    """Resident memory after the first and the last of EPOCHS shuffled epochs, MB."""
    resident = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(dataset))
        for first in range(0, len(order), BATCH):
            dataset.stored_latents(order[first : first + BATCH])
        resident.append(psutil.Process().memory_info().rss / 1e6)
    return {"rss_mb_epoch_1": resident[0], f"rss_mb_epoch_{EPOCHS}": resident[-1]}


def write_all(folder: Path, clips: int) -> None:
    """Write the same clips in every format."""
    (folder / "pt").mkdir()
    (folder / "tar").mkdir()
    clip = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)
    text = np.zeros((2, 8), np.float16).tobytes()
    row = {"text": text, "text_shape": [2, 8], "text_key": "t", "caption": "", "group": "real"}
    row |= {"split": "train", "fps": 8.0, "motion": 0.0, "dtype": "float16", "shape": list(SHAPE)}
    row |= {"size_px": 32, "view": 0}

    def latents_of(number: int) -> np.ndarray[Any, Any]:
        numbered = clip.copy()
        numbered.flat[0] = number
        return numbered

    with (folder / "all.bin").open("wb") as file:
        for number in range(clips):
            file.write(latents_of(number).tobytes())
            torch.save(torch.from_numpy(latents_of(number)), folder / "pt" / f"{number}.pt")
    for first in range(0, clips, 500):
        with tarfile.open(folder / "tar" / f"{first:06d}.tar", "w") as tar:
            for number in range(first, min(first + 500, clips)):
                info = tarfile.TarInfo(f"{number:06d}.bin")
                info.size = CLIP_BYTES
                tar.addfile(info, io.BytesIO(latents_of(number).tobytes()))
    keys = [{"clip_id": f"{number:06d}", "key": f"{number}"} for number in range(clips)]
    where = [ByteRange(folder / "all.bin", number * CLIP_BYTES, CLIP_BYTES) for number in range(clips)]
    rows = [row | key | {"latents": place} for key, place in zip(keys, where, strict=True)]
    write_shards(folder / "shards", rows, 512)


def memmap_reader(path: Path, clips: int) -> Callable[[Any], torch.Tensor]:
    """Reader that copies clips from one memory-mapped array."""
    array = np.memmap(path, np.float16, "r", shape=(clips, *SHAPE))
    return lambda index: torch.from_numpy(array[index])


def webdataset_reader(folder: Path) -> Callable[[Any], torch.Tensor]:
    """Reader of batches in WebDataset's own order: shuffled shards and a shuffle buffer of 1,000 clips."""
    import webdataset

    def clip(data: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.float16).reshape(SHAPE)

    shards = sorted(str(path) for path in folder.iterdir())
    stream = webdataset.WebDataset(shards, shardshuffle=100, seed=0).repeat().shuffle(1000)
    clips = iter(stream.map(lambda item: clip(item["bin"])))
    return lambda index: torch.stack([next(clips) for _ in index])


class Project:
    """A ledger of simulated clips, four per video, and their latent cache."""

    def __init__(self, folder: Path) -> None:
        shipped = load_params(ROOT / "params.yaml")
        text = dataclasses.replace(shipped.text, encoder="none")
        # Each view of a real clip is one more encoding; here an update is that of one.
        encode = dataclasses.replace(shipped.encode, views=0)
        self.folder, self.params = folder, dataclasses.replace(shipped, text=text, encode=encode)
        small = dataclasses.replace(shipped.tokenizer, hidden_size=8, depth=1)
        tokenizer = CausalTokenizer(small).initialise(step_generator(0, 0))
        save_tokenizer(tokenizer, folder / "tokenizer")

    def encode(self, clips: int, seconds_per_clip: float, changed: int = 0) -> float:
        """Seconds to update the cache to a ledger with `changed` new clips."""
        rows = [
            dict.fromkeys(LEDGER_SCHEMA.names)
            | {"video": f"{n // 4}.mp4", "video_sha256": f"{n // 4}", "clip_id": f"{n}", "kept": True}
            | {"start_s": n % 4 + 0.5 * (n < changed), "end_s": 9.0, "caption": f"caption {n}"}
            | {"group": "real", "split": "train", "motion": 0.5}
            | {"clip_width_px": 32, "clip_height_px": 32, "num_frames": 17}
            for n in range(clips)
        ]
        write_ledger(self.folder / "ledger.parquet", pandas.DataFrame(rows))

        def encode(videos: Sequence[Video], _: Path, __: Params) -> Iterator[list[Encoded]]:
            for video in videos:
                time.sleep(seconds_per_clip * len(video.keys))
                yield [Encoded(key, SMALL, _small_latents(key)) for key in video.keys]

        paths = [self.folder / name for name in ("raw", "ledger.parquet", "tokenizer", "latents")]
        start = time.perf_counter()
        encode_clips(*paths, self.params, encode)
        return time.perf_counter() - start


def measure_updates(folder: Path) -> dict[str, float]:
    """Seconds for one changed clip of 1,000 and for whole caches, with a simulated encoder."""
    project = Project(folder)
    figures = {"simulated_encoder_s_per_clip": ENCODE_S, "one_clip_alone_s": project.encode(1, ENCODE_S)}
    project.encode(1000, 0.0)
    figures["one_changed_of_1000_s"] = project.encode(1000, ENCODE_S, changed=1)
    for clips in (100, 1000, 10000):
        shutil.rmtree(folder / "latents")
        figures[f"bookkeeping_{clips}_clips_s"] = project.encode(clips, 0.0)
        figures[f"rss_mb_after_{clips}_clips"] = psutil.Process().memory_info().rss / 1e6
    return figures


def _small_latents(key: str) -> bytes:
    digest = hashlib.shake_256(key.encode()).digest(int(np.prod(SMALL)))
    return np.frombuffer(digest, np.uint8).astype(np.float16).tobytes()


if __name__ == "__main__":
    main()
