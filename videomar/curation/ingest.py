"""From a folder of videos to candidates: every file probed, decoded once, split into clips and scored.

Axes: F frames, H W rows and columns in pixels.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import IngestParams
from videomar.curation.books import count_candidates
from videomar.curation.captions import (
    CaptionsError,
    caption_clip,
    check_table,
    load_captioner,
    read_captions,
)
from videomar.curation.duplicates import fingerprint
from videomar.curation.learned_scores import load_scorer, score_learned
from videomar.curation.ledger import ClipRow, write_candidates
from videomar.curation.sandbox import run_isolated
from videomar.curation.scores import score
from videomar.curation.shots import Clip, clip_id, scan_clips
from videomar.errors import DataError
from videomar.media.clip_reader import clip_frames, cover_height, crop_to_size
from videomar.media.decode import Block, decode_video
from videomar.media.probe import UnreadableError, VideoInfo, probe
from videomar.media.shapes import ClipShape, clip_size
from videomar.provenance.code_hash import source_hash
from videomar.sources.listing import UNREADABLE, find_source, list_videos, printable, walk

_THUMBNAIL_PX = 64


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the raw folder, and all that a child process needs to read it."""

    raw: Path
    video: str
    sha256: str
    params: IngestParams

    def row(self, reason: str | None = None) -> ClipRow:
        """A row about the file as a whole."""
        return ClipRow(
            video=self.video, video_sha256=self.sha256 or None, group=group_of(self.video), reason=reason
        )


def ingest_videos(raw: Path, out: Path, params: IngestParams) -> dict[str, float]:
    """Write the candidates of all videos under a folder; what came of them, in numbers.

    Everything but dotfiles and sidecars (.txt, .json, .csv) is taken for a video. Each is read in a child
    process with a deadline and a memory limit: one that hangs, crashes, grows or cannot be read costs one
    row, which says why.

    Raises:
        DataError: there is no such folder, no file in it, or a table of captions that is none.
    """
    videos, unreadable = (list_videos(raw), _unreadable(raw)) if raw.is_dir() else ([], {})
    if not videos and not unreadable:
        raise DataError(
            f"{raw}: got no files, expected videos; put some there, or run the stage `samples` first"
        )
    _load_learned(params)
    load_scorer.cache_clear()  # the children hold their own
    amiss = check_table(raw, videos)
    rows = [_File(raw, name, "", params).row(f"unreadable: {why}") for name, why in unreadable.items()]
    rows += _ingest(raw, videos, params)
    rows.sort(key=lambda row: (row.video, row.start_s or 0.0, row.end_s or 0.0, row.clip_id or ""))
    figures = count_candidates([*map(printable, videos), *unreadable], rows)
    write_candidates(out, rows)
    return figures | amiss


def learned_parts(params: IngestParams) -> dict[str, Path | str]:
    """What of a user's own makes captions and scores: the function's source, the networks' folders."""
    source = None if params.captioner is None else find_source(params.captioner)
    captioner = {} if source is None else {"captioner": source_hash(source)}
    return {**captioner, **{f"scorers.{name}": Path(folder) for name, folder in params.scorers.items()}}


def _unreadable(raw: Path) -> dict[str, str]:
    """Entries of the folder that nobody can read, here or where its files come from, with the reasons."""
    here = {printable(entry.name): entry.reason for entry in walk(raw) if entry.reason is not None}
    noted = raw / UNREADABLE
    return {**(json.loads(noted.read_text("utf-8")) if noted.is_file() else {}), **here}


def group_of(video: str) -> str:
    """`simulated` or `real`, by the folder that a video lies in."""
    return "simulated" if video.startswith("simulated/") else "real"


def _ingest(raw: Path, videos: list[str], params: IngestParams) -> Iterator[ClipRow]:
    """Rows of all files; of files with equal bytes only the first is read."""
    files: dict[str, _File] = {}
    readable = [video for video in videos if printable(video) == video]
    for video in sorted(set(videos) - set(readable)):
        yield _File(raw, printable(video), "", params).row("unreadable: the file name is not UTF-8")
    videos = readable
    with ThreadPoolExecutor(params.num_workers) as pool:
        for video, digest in zip(videos, pool.map(_sha256, (raw / video for video in videos)), strict=True):
            file = _File(raw, video, digest if isinstance(digest, str) else "", params)
            if isinstance(digest, OSError):
                yield file.row(f"unreadable: {digest.strerror}")
            elif digest in files:
                yield file.row("duplicate_file")
            else:
                files[digest] = file
    tasks = list(files.values())
    prepare = partial(_load_learned, params) if params.captioner is not None or params.scorers else None
    results = run_isolated(
        ingest_file, tasks, params.timeout_s, params.num_workers, params.memory_gb, prepare
    )
    bar = tqdm(results, total=len(tasks), desc="reading videos", unit="video", disable=None)
    for file, result in zip(tasks, bar, strict=True):
        if isinstance(result, str):
            yield file.row(result)
        else:
            yield from result


def _load_learned(params: IngestParams) -> None:
    """Refuse what cannot be loaded before any file is read; in a child, load it before its first file."""
    for name, folder in params.scorers.items():
        load_scorer(name, folder)
    if params.captioner is not None:
        load_captioner(params.captioner)


def ingest_file(file: _File) -> list[ClipRow]:
    """Rows of one video; the work of a child process."""
    cv2.setNumThreads(1)
    path = file.raw / file.video
    try:
        captions = read_captions(path, file.raw)
        info = probe(path)
        height_px = cover_height(info, clip_size(info.width, info.height, file.params))
        take = partial(_candidate, file, info)
        found = decode_video(
            path, info, height_px, lambda blocks: scan_clips(path, blocks, captions, file.params, take)
        )
    except UnreadableError as error:
        return [file.row(error.reason)]
    except CaptionsError as error:
        return [file.row(f"unreadable_captions: {error}"[:200])]
    return found or [file.row("unreadable_captions: all clips begin after the end of the video")]


def _candidate(file: _File, info: VideoInfo, clip: Clip, around: Block) -> ClipRow:
    frames, times = around
    size = clip_size(info.width, info.height, file.params)
    if clip.reason is None:
        chosen = clip_frames(
            times, clip.start_s, ClipShape(size[1], size[0], file.params.fps, clip.num_frames)
        )
    else:
        shown_s = clip.start_s + (clip.end_s - clip.start_s) * np.array([0.1, 0.5, 0.9])
        chosen = np.searchsorted(times, shown_s, side="right") - 1
    pixels = frames[chosen]
    three = pixels[[0, len(pixels) // 2, -1]]
    found: dict[str, Any] = {"caption": clip.caption}
    if clip.reason is None:
        found = {"clip_width_px": size[0], "clip_height_px": size[1], "num_frames": clip.num_frames}
        shown = crop_to_size(pixels, size)
        found |= score(shown) | {"learned": score_learned(shown, file.params.scorers)}
        found["caption"] = clip.caption or caption_clip(shown, file.params.captioner)
        # Of one square, so that videos of several shapes can be compared.
        found["fingerprint"] = fingerprint(crop_to_size(three, (file.params.size_px,) * 2))
    return ClipRow(
        video=file.video,
        video_sha256=file.sha256,
        clip_id=clip_id(file.sha256, clip.start_s, clip.end_s),
        start_s=clip.start_s,
        end_s=clip.end_s,
        group=group_of(file.video),
        width=info.width,
        height=info.height,
        reason=clip.reason,
        thumbnail=_thumbnail(three, size),
        **found,
    )


def _thumbnail(three: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Frames (3, H, W, 3) side by side as a JPEG, cropped to the proportions of `size` (width, height)."""
    width = max(1, round(_THUMBNAIL_PX * size[0] / size[1]))
    _, jpeg = cv2.imencode(".jpg", np.hstack(list(crop_to_size(three, (width, _THUMBNAIL_PX))))[..., ::-1])
    return jpeg.tobytes()


def _sha256(path: Path) -> str | OSError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error
