"""Encode kept clips into the latent cache: computes keys and encodes what the cache lacks.

Latents that the cache has under the same key are kept: after a change of one clip one clip is encoded, and a
killed run continues where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas
import torch
from tqdm import tqdm

from videomar.config import Params
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.encoders.load import load_tokenizer
from videomar.encoders.text import NoText, TransformersText, load_text_encoder
from videomar.encoders.tokenizer import with_moments
from videomar.latents.cache import LatentCache, std_key
from videomar.latents.clip_encoder import Encoded, Video
from videomar.latents.encode_captions import encode_captions
from videomar.latents.encode_ray import encode_on_ray
from videomar.latents.keys import cached_sizes, expected_metadata
from videomar.latents.readable_captions import find_losses, read_captions, warn_of_losses
from videomar.latents.shards import num_bytes
from videomar.latents.views import with_views
from videomar.media.shapes import ClipShape, View, at_sizes, ledger_shapes
from videomar.provenance.code_hash import CAPTIONS, LATENTS, code_hash
from videomar.provenance.made_with import package_versions
from videomar.storage import Location

Encode = Callable[[Sequence[Video], Path, Params], Iterator[list[Encoded]]]
"""Yields the latents of all clips of videos, in any order, some at a time."""


def encode_clips(
    raw: Path, ledger: Path, tokenizer: Path, out: Location, params: Params, encode: Encode | None = None
) -> dict[str, float]:
    """Bring the cache in `out` in line with the ledger.

    Args:
        raw: folder of the videos.
        ledger: which clips are kept.
        tokenizer: folder of the tokenizer.
        out: folder of the cache, or its URL; latents with an unchanged key are kept.
        params: sections `ingest`, `text` and `encode` are used.
        encode: encodes the videos; None means `encode_on_ray`.

    Returns:
        Numbers of clips, of latents (one for each base size) and captions encoded and kept, of shards written
        and rebuilt; `captions` that differ, and those that the text encoder cannot read or cuts.

    Raises:
        DataError: a video or the tokenizer cannot be read, or `encode.moments` is set and it has none.
    """
    kept = kept_clips(read_ledger(ledger, thumbnails=False))
    clips = _at_all_sizes(with_views(kept.sort_values(["video", "start_s"]), params), params)
    torch.set_num_threads(1)
    loaded, text = load_tokenizer(tokenizer), load_text_encoder(params.text, with_weights=False)
    dtype, moments, content_hash = params.encode.dtype, params.encode.moments, loaded.content_hash()
    if moments:
        with_moments(loaded)  # refuse now and not at the first clip
    parts = clips[["video_sha256", "start_s", "clip_shape", "cut"]].itertuples(index=False, name=None)
    clips["key"] = [_key(sha, at, asdict(shape), content_hash, dtype, cut) for sha, at, shape, cut in parts]
    clips["text_key"] = [_text_key(caption, text.content_hash, dtype) for caption in clips["caption"]]
    clips["fps"] = [cut.fps if cut else params.ingest.fps for cut in clips["cut"]]
    metadata = expected_metadata(params) | {
        "tokenizer": content_hash,
        "latent_mean": loaded.latent_mean.tolist(),
        "latent_std": loaded.latent_std.tolist(),
        "text_encoder": text.content_hash,
        "packages": package_versions(),
    }
    del loaded  # the actors hold their own
    columns = ["clip_id", "key", "text_key", "caption", "group", "split", "fps", "motion", "size_px", "view"]
    with LatentCache(out) as cache:
        lacking = [key not in cache or (moments and std_key(key) not in cache) for key in clips["key"]]
        missing = clips[lacking]
        # Captions first: an encoder that cannot be read is then known before hours of encoding clips.
        of_captions = _add_captions(cache, clips, text, params)
        videos = _videos_of(missing.drop_duplicates("key"), raw)
        encoded = (encode or encode_on_ray)(videos, tokenizer, params) if videos else ()
        _add_latents(cache, encoded, len(missing), dtype)
        clips["motion"] = _motions(cache, clips)
        written = cache.write(clips[columns].to_dict("records"), params.encode.shard_clips, metadata)
    return {
        "clips": clips["clip_id"].nunique(),
        "views": len(clips.loc[clips["view"] > 0, ["clip_id", "view"]].drop_duplicates()),
        "encoded": len(missing),
        "reused": len(clips) - len(missing),
        "shards_written": written,
        "shards_damaged": len(cache.damages),
        "megabytes": num_bytes(out) / 1e6,
        **of_captions,
    }


def _at_all_sizes(clips: pandas.DataFrame, params: Params) -> pandas.DataFrame:
    """A row for each clip and each base size `size_px` that it is cached at, with its `clip_shape` there."""
    sizes_px, shapes = cached_sizes(params), ledger_shapes(clips, params.ingest)
    rows = clips.assign(
        size_px=[list(sizes_px)] * len(clips),
        clip_shape=[at_sizes(shape, sizes_px, params.ingest) for shape in shapes],
    )
    return rows.explode(["size_px", "clip_shape"], ignore_index=True)


def _videos_of(clips: pandas.DataFrame, raw: Path) -> list[Video]:
    """Group clips by video and shape: a video is decoded once for all of its clips of a shape."""
    return [
        Video(
            str((raw / video).resolve()),
            rows["start_s"].tolist(),
            rows["key"].tolist(),
            shape,
            _cuts(rows, shape),
        )
        for (video, shape), rows in clips.groupby(["video", "clip_shape"])
    ]


def _cuts(clips: pandas.DataFrame, shape: ClipShape) -> tuple[View, ...]:
    """How each clip of a video is cut; nothing where all are cut as ingest does."""
    if not clips["view"].any():
        return ()
    return tuple(cut or View(shape.fps) for cut in clips["cut"])


def _motions(cache: LatentCache, clips: pandas.DataFrame) -> list[float]:
    """Motion of each row: of a clip as the ledger has it, of a view as measured at its largest size."""
    names = zip(clips["clip_id"], clips["view"], strict=True)
    largest: dict[tuple[str, int], str] = {}
    for name, key in zip(names, clips["key"], strict=True):
        largest.setdefault(name, key)
    views = zip(clips["clip_id"], clips["view"], clips["motion"], strict=True)
    return [cache.motion_of(largest[clip, view]) if view else motion for clip, view, motion in views]


def _add_latents(cache: LatentCache, encoded: Iterable[list[Encoded]], count: int, dtype: str) -> None:
    """Add the latents of `count` clips as they are encoded."""
    with tqdm(total=count, desc="encoding", unit="clip", disable=None) as bar:
        for clips in encoded:
            for clip in clips:
                if clip.std:
                    cache.add(std_key(clip.key), dtype, clip.shape, clip.std, clip.made_on)
                cache.add(clip.key, dtype, clip.shape, clip.data, clip.made_on, clip.motion)
            bar.update(len(clips))


def _add_captions(
    cache: LatentCache, clips: pandas.DataFrame, counter: TransformersText | NoText, params: Params
) -> dict[str, float]:
    """Add the states of each distinct caption that the cache lacks; return the figures of captions."""
    figures = _caption_figures(clips, counter, params)
    keys, dtype, added = dict(zip(clips["caption"], clips["text_key"], strict=True)), params.encode.dtype, 0
    for captions in encode_captions(keys, cache.__contains__, counter, params.text, dtype):
        for caption in captions:
            cache.add(caption.key, dtype, caption.shape, caption.data, caption.made_on)
        added += len(captions)
    return {"captions_encoded": added, **figures}


def _caption_figures(
    clips: pandas.DataFrame, text: TransformersText | NoText, params: Params
) -> dict[str, float]:
    """Count the different captions, and those that are not read whole, which a warning names."""
    captions = sorted(set(clips["caption"]))
    losses = find_losses(captions, read_captions(text, captions), params.text.max_tokens)
    warn_of_losses(losses, params.text.max_tokens)
    counts = {"": losses.num_captions, "_unreadable": len(losses.unreadable), "_cut": len(losses.cut)}
    return {f"captions{name}": float(count) for name, count in counts.items()}


def _key(
    video_sha256: str,
    start_s: float,
    pixels: dict[str, Any],
    tokenizer: str,
    dtype: str,
    cut: View | None = None,
) -> str:
    """Hash everything that the latents of a clip depend on, which the file's name is not part of."""
    parts = [video_sha256, round(start_s * 1000), pixels, tokenizer, dtype, code_hash(LATENTS)]
    parts += [asdict(cut)] if cut else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _text_key(caption: str, encoder: str, dtype: str) -> str:
    return hashlib.sha256(json.dumps([caption, encoder, dtype, code_hash(CAPTIONS)]).encode()).hexdigest()
