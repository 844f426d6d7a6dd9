"""Kept clips to the latent cache, on Ray: each actor holds one tokenizer and takes whole videos.

What is already in the cache under the same key is kept, so a changed clip costs one clip, and what a killed
run had finished is kept, too.

Axes: n clips, F frames, H W rows and columns in pixels, C channels, T latent frames, M caption tokens.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import torch
from tqdm import tqdm

from videomar.cluster import ray_cluster
from videomar.config import IngestParams, Params
from videomar.data.cache import LatentCache
from videomar.data.decode import read_clips
from videomar.data.facts import CODE_VERSION, key_facts, pixel_params
from videomar.data.ledger import kept_clips, read_ledger
from videomar.text import TextEncoder, load_text_encoder
from videomar.tokenizer.interface import VideoTokenizer, to_unit_range
from videomar.tokenizer.loading import load_tokenizer

_BATCH = 32


class Video(NamedTuple):
    """Clips of one video that are to be encoded."""

    path: str
    starts_s: list[float]
    keys: list[str]


class Encoded(NamedTuple):
    """An array as it is stored."""

    key: str
    shape: list[int]
    data: bytes


# Gives the latents of the clips of each video, in any order of the videos, and whole videos at a time.
EncodeVideos = Callable[[Sequence[Video], Path, Params], Iterator[list[Encoded]]]


def encode_clips(
    raw: Path, ledger: Path, tokenizer: Path, out: Path, params: Params, encode: EncodeVideos | None = None
) -> dict[str, float]:
    """Bring the cache in `out` in line with the ledger.

    Args:
        raw: folder of the videos.
        ledger: which clips are kept.
        tokenizer: folder of the tokenizer.
        out: folder of the cache; rows with an unchanged key are taken over.
        params: sections `ingest`, `text` and `encode` are used.
        encode: what encodes; None means `encode_on_ray`.

    Returns:
        How many clips and captions were encoded and taken over, shards written, damaged shards rebuilt.
    """
    clips = kept_clips(read_ledger(ledger)).sort_values(["video", "start_s"])
    torch.set_num_threads(1)
    loaded, text = load_tokenizer(tokenizer), load_text_encoder(params.text)
    dtype, content_hash = params.encode.dtype, loaded.content_hash()
    clips["key"] = [
        _key(sha, start, pixel_params(params.ingest), content_hash, dtype)
        for sha, start in zip(clips["video_sha256"], clips["start_s"], strict=True)
    ]
    clips["text_key"] = [_text_key(caption, text.content_hash, dtype) for caption in clips["caption"]]
    clips["fps"] = params.ingest.fps
    facts = key_facts(params) | {
        "tokenizer": content_hash,
        "latent_mean": loaded.latent_mean.tolist(),
        "latent_std": loaded.latent_std.tolist(),
        "text_encoder": text.content_hash,
    }
    del loaded  # the actors hold their own
    columns = ["clip_id", "key", "text_key", "caption", "group", "split", "fps", "motion"]
    with LatentCache(out) as cache:
        missing = clips[[key not in cache for key in clips["key"]]]
        videos = [
            Video(str((raw / video).resolve()), rows["start_s"].tolist(), rows["key"].tolist())
            for video, rows in missing.drop_duplicates("key").groupby("video", sort=True)
        ]
        with tqdm(total=len(missing), desc="encoding", unit="clip", disable=None) as bar:
            for video in (encode or encode_on_ray)(videos, tokenizer, params) if videos else ():
                for array in video:
                    cache.add(array.key, dtype, array.shape, array.data)
                bar.update(len(video))
        num_captions = _add_captions(cache, clips, text, dtype)
        written = cache.write(clips[columns].to_dict("records"), params.encode.shard_clips, facts)
    return {
        "clips": len(clips),
        "encoded": len(missing),
        "reused": len(clips) - len(missing),
        "captions_encoded": num_captions,
        "shards_written": written,
        "shards_damaged": len(cache.damages),
        "megabytes": sum(path.stat().st_size for path in out.glob("*.parquet")) / 1e6,
    }


def encode_pictures(tokenizer: VideoTokenizer, pictures: torch.Tensor) -> torch.Tensor:
    """Normalised latents (n, C, T, h, w) of pictures (n, F, H, W, 3) uint8; same bits whatever the batch."""
    return torch.cat([tokenizer.encode(to_unit_range(clip[None])) for clip in pictures])


class Encoder:
    """One tokenizer on one thread; on Ray, an actor."""

    def __init__(self, tokenizer: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = load_tokenizer(Path(tokenizer))

    def encode(self, video: Video, ingest: IngestParams, dtype: str) -> list[Encoded]:
        """The latents of each clip of a video."""
        pictures = torch.from_numpy(read_clips(Path(video.path), video.starts_s, ingest))
        latents = encode_pictures(self.tokenizer, pictures)
        return [
            Encoded(key, list(clip.shape), stored_bytes(clip, dtype))
            for key, clip in zip(video.keys, latents, strict=True)
        ]


def encode_on_ray(videos: Sequence[Video], tokenizer: Path, params: Params) -> Iterator[list[Encoded]]:
    """Encode videos on the cluster, as many at once as `encode.num_workers`; each as soon as it is done."""
    import ray
    from ray.util import ActorPool

    workers = min(params.encode.num_workers, len(videos))
    with ray_cluster(workers):
        actors = [ray.remote(num_cpus=1)(Encoder).remote(str(tokenizer.resolve())) for _ in range(workers)]
        pool: Any = ActorPool(actors)
        # A pool hands out a video when a result is taken: no more results than actors are in memory.
        yield from pool.map_unordered(
            lambda actor, video: actor.encode.remote(video, params.ingest, params.encode.dtype), list(videos)
        )


def stored_bytes(values: torch.Tensor, dtype: str) -> bytes:
    """Bytes of float32 values as `dtype`, rounded to nearest."""
    if dtype == "bfloat16":
        return values.to(torch.bfloat16).contiguous().view(torch.uint16).numpy().tobytes()
    return values.numpy().astype(dtype).tobytes()


def _add_captions(cache: LatentCache, clips: pandas.DataFrame, encoder: TextEncoder, dtype: str) -> int:
    """Add the states of each distinct caption that the cache lacks; how many these are."""
    keys = dict(zip(clips["caption"], clips["text_key"], strict=True))
    missing = [caption for caption, key in keys.items() if key not in cache]
    for start in tqdm(range(0, len(missing), _BATCH), desc="encoding captions", unit="batch", disable=None):
        batch = missing[start : start + _BATCH]
        for caption, states in zip(batch, encoder.encode(batch), strict=True):
            cache.add(keys[caption], dtype, list(states.shape), stored_bytes(states, dtype))
    return len(missing)


def _key(video_sha256: str, start_s: float, pixels: dict[str, Any], tokenizer: str, dtype: str) -> str:
    """Hash of everything the latent of a clip depends on; the file's name is not among it."""
    facts = [video_sha256, round(start_s * 1000), pixels, tokenizer, dtype, CODE_VERSION]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _text_key(caption: str, encoder: str, dtype: str) -> str:
    return hashlib.sha256(json.dumps([caption, encoder, dtype]).encode()).hexdigest()
