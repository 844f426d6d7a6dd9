"""Kept clips to the latent cache, on Ray: each actor holds one tokenizer and takes whole videos.

What is already in the cache under the same key is kept, so a changed clip costs one clip.

Axes: n clips, F frames, H W rows and columns in pixels, C channels, T latent frames, M caption tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from tqdm import tqdm

from videomar.cluster import ray_cluster
from videomar.config import IngestParams, Params
from videomar.data.decode import read_clips
from videomar.data.latents import read_rows, write_shards
from videomar.data.ledger import kept_clips, read_ledger
from videomar.text import load_text_encoder
from videomar.tokenizer.interface import VideoTokenizer, to_unit_range
from videomar.tokenizer.loading import load_tokenizer

# Raise it when the bytes of a latent change for the same inputs: all clips are then encoded again.
CODE_VERSION = 1
_BATCH = 32


def encode_clips(raw: Path, ledger: Path, tokenizer: Path, out: Path, params: Params) -> dict[str, float]:
    """Bring the cache in `out` in line with the ledger.

    Args:
        raw: folder of the videos.
        ledger: which clips are kept.
        tokenizer: folder of the tokenizer.
        out: folder of the cache; rows with an unchanged key are taken over.
        params: sections `ingest`, `text` and `encode` are used.

    Returns:
        How many clips and captions were encoded and taken over.
    """
    clips = kept_clips(read_ledger(ledger)).sort_values(["video", "start_s"])
    content_hash = load_tokenizer(tokenizer).content_hash()
    clips["key"] = [
        _key(sha, start, pixel_params(params.ingest), content_hash, params.encode.dtype)
        for sha, start in zip(clips["video_sha256"], clips["start_s"], strict=True)
    ]
    known = {row["key"]: row for row in read_rows(out)}
    latents = {key: (row["shape"], row["latents"]) for key, row in known.items()}
    missing = clips[~clips["key"].isin(latents)]
    if len(missing):
        latents |= _encode_on_ray(raw, missing, tokenizer, params)
    texts, num_captions = _encode_captions(clips["caption"], list(known.values()), params)
    rows = [
        _row(clip, latents[clip["key"]], texts[clip["caption"]], params) for clip in clips.to_dict("records")
    ]
    write_shards(out, rows, params.encode.shard_clips)
    return {
        "clips": len(clips),
        "encoded": len(missing),
        "reused": len(clips) - len(missing),
        "captions_encoded": num_captions,
        "megabytes": sum(path.stat().st_size for path in out.glob("*.parquet")) / 1e6,
    }


def pixel_params(params: IngestParams) -> dict[str, Any]:
    """Parameters that change the pixels of a clip; how many processes read it does not."""
    return {key: value for key, value in asdict(params).items() if key in ("size_px", "fps", "num_frames")}


def encode_pictures(tokenizer: VideoTokenizer, pictures: torch.Tensor) -> torch.Tensor:
    """Normalised latents (n, C, T, h, w) of pictures (n, F, H, W, 3) uint8; same bits whatever the batch."""
    return torch.cat([tokenizer.encode(to_unit_range(clip[None])) for clip in pictures])


class _Encoder:
    """Ray actor: one tokenizer on one thread."""

    def __init__(self, tokenizer: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = load_tokenizer(Path(tokenizer))

    def encode(self, video: str, starts_s: Sequence[float], ingest: IngestParams, dtype: str) -> list[Any]:
        """Shape and bytes of the latents of each clip of a video."""
        pictures = torch.from_numpy(read_clips(Path(video), list(starts_s), ingest))
        latents = encode_pictures(self.tokenizer, pictures).numpy().astype(dtype)
        return [(list(clip.shape), clip.tobytes()) for clip in latents]


def _encode_on_ray(raw: Path, clips: pandas.DataFrame, tokenizer: Path, params: Params) -> dict[str, Any]:
    """Shape and bytes of the latents of `clips` by key."""
    import ray
    from ray.util import ActorPool

    workers = params.encode.num_workers
    with ray_cluster(workers):
        actors = [ray.remote(num_cpus=1)(_Encoder).remote(str(tokenizer.resolve())) for _ in range(workers)]
        pool = ActorPool(actors)
        videos = [(str((raw / video).resolve()), rows) for video, rows in clips.groupby("video", sort=True)]
        results = pool.map(
            lambda actor, item: actor.encode.remote(
                item[0], item[1]["start_s"].tolist(), params.ingest, params.encode.dtype
            ),
            videos,
        )
        encoded: dict[str, Any] = {}
        with tqdm(total=len(clips), desc="encoding", unit="clip", disable=None) as bar:
            for (_, rows), latents in zip(videos, results, strict=True):
                encoded |= dict(zip(rows["key"], latents, strict=True))
                bar.update(len(rows))
    return encoded


def _encode_captions(
    captions: pandas.Series, known: Sequence[dict[str, Any]], params: Params
) -> tuple[dict[str, Any], int]:
    """(key, shape, bytes) of the states of each distinct caption, and how many had to be computed."""
    torch.set_num_threads(1)
    encoder = load_text_encoder(params.text)
    keys = {
        caption: _text_key(caption, encoder.content_hash, params.encode.dtype)
        for caption in captions.unique()
    }
    cached = {row["text_key"]: (row["text_shape"], row["text"]) for row in known}
    missing = [caption for caption, key in keys.items() if key not in cached]
    for start in tqdm(range(0, len(missing), _BATCH), desc="encoding captions", unit="batch", disable=None):
        batch = missing[start : start + _BATCH]
        for caption, states in zip(batch, encoder.encode(batch), strict=True):
            array = states.numpy().astype(params.encode.dtype)
            cached[keys[caption]] = (list(array.shape), array.tobytes())
    return {caption: (key, *cached[key]) for caption, key in keys.items()}, len(missing)


def _row(clip: dict[str, Any], latents: Any, text: Any, params: Params) -> dict[str, Any]:
    copied = {name: clip[name] for name in ("clip_id", "key", "caption", "group", "split", "motion")}
    shape, data = latents
    text_key, text_shape, text_data = text
    return copied | {
        "shape": shape,
        "dtype": params.encode.dtype,
        "latents": data,
        "text_key": text_key,
        "text_shape": text_shape,
        "text": text_data,
        "fps": params.ingest.fps,
    }


def _key(video_sha256: str, start_s: float, pixels: dict[str, Any], tokenizer: str, dtype: str) -> str:
    """Hash of everything the latent of a clip depends on; the file's name is not among it."""
    facts = [video_sha256, round(start_s * 1000), pixels, tokenizer, str(np.dtype(dtype)), CODE_VERSION]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _text_key(caption: str, encoder: str, dtype: str) -> str:
    return hashlib.sha256(json.dumps([caption, encoder, dtype]).encode()).hexdigest()
