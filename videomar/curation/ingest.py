"""Stage ingest: every video of a folder is decoded once, split into clips and scored, all in one table.

Axes: F frames, H W rows and columns in pixels.
"""

import errno
import json
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from videomar.config import IngestParams
from videomar.curation.captions.caption_report import CAPTIONER, CaptionReport
from videomar.curation.captions.captioner import DEVICE_VARIABLE, caption_clip, load_captioner
from videomar.curation.captions.find_captions import NONE, FoundCaptions, find_captions, share_captions
from videomar.curation.duplicates import fingerprint
from videomar.curation.learned_scores import load_scorer, score_learned
from videomar.curation.ledger import (
    CHANGED_FRAMES,
    STILL_PICTURE,
    ClipRow,
    read_rows,
    require_sum,
    write_candidates,
)
from videomar.curation.read_files import read_files
from videomar.curation.retries import (
    VideoReading,
    installed_programs,
    is_retryable,
    read_reading,
    refuse_failures,
)
from videomar.curation.sandbox import report_progress
from videomar.curation.scores import score
from videomar.curation.shots import Captions, ClipSpan, clip_id, scan_clips
from videomar.errors import DataError
from videomar.files import sha256_of
from videomar.media.clip_reader import FrameWindow, Need, clip_frames, cover_height, crop_frame
from videomar.media.decode import FrameBlock, open_video
from videomar.media.probe import UnreadableError, VideoInfo, probe
from videomar.media.shapes import ClipShape, clip_size
from videomar.media.timeline import FrameCounts
from videomar.provenance.code_hash import source_hash
from videomar.sources.listing import (
    ARCHIVES,
    UNREADABLE,
    find_source,
    is_sidecar,
    list_files,
    printable,
    walk,
)

_log = logging.getLogger(__name__)
_THUMBNAIL_PX = 64
# Errors of a file system that say something about a file; all others, as a full table of files, do not.
_ABOUT_FILES = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_THUMBNAIL, _SHOWN, _SQUARE = range(3)  # pictures of one frame


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the raw folder, as a task for a child process."""

    raw: Path
    video: str
    sha256: str
    params: IngestParams
    found: FoundCaptions = NONE

    def row(self, reason: str | None = None) -> ClipRow:
        """Return a row about the file as a whole."""
        return ClipRow(
            video=self.video, video_sha256=self.sha256 or None, group=group_of(self.video), reason=reason
        )


def ingest_videos(raw: Path, out: Path, params: IngestParams, keep: bool = False) -> dict[str, float]:
    """Write the rows of all videos in a folder, with their clips and scores; return counts of them.

    Every file is taken for a video except dotfiles, captions and notes (see `is_sidecar`). Each is read
    in a child process that must go on, within a memory limit: one that hangs, crashes, grows or cannot be
    read becomes one row with the reason.

    Args:
        raw: The folder.
        out: The table of rows.
        params: Section `ingest`.
        keep: Read only those files again that failed on this machine last time, see `retries`; the rows of
            the others, which are in `out`, were made from the same files, parameters and code.

    Raises:
        DataError: the folder is missing or empty, its table of captions cannot be understood, the decoders do
            not work here, or most files fail for other reasons than their own.
    """
    files, unreadable = (list_files(raw), _unreadable(raw)) if raw.is_dir() else ([], {})
    videos = [name for name in files if not is_sidecar(name)]
    broken = {name: why for name, why in unreadable.items() if not is_sidecar(name)}
    if not videos and not broken:
        raise DataError(
            f"{raw}: got no files, expected videos; put some there, or run the stage `samples` first"
        )
    params = _load_learned_here(params)
    found, report = find_captions(raw, videos, sorted({*files} - {*videos}))
    for name in sorted({*unreadable} - {*broken}):
        report.add("unreadable", f"{name}: {unreadable[name]}")
    rows = [_File(raw, name, "", params).row(f"unreadable: {why}") for name, why in broken.items()]
    before, known = read_reading(out), read_rows(out) if keep else []
    listed = [_File(raw, name, "", params, found[name]) for name in videos]
    rows += _ingest(listed, params, report, [row for row in known if not is_retryable(row.reason)])
    rows.sort(key=lambda row: (row.video, row.start_s or 0.0, row.end_s or 0.0, row.clip_id or ""))
    figures = count_candidates([*map(printable, videos), *broken], rows)
    failed = [f"{row.video} ({row.reason})" for row in rows if is_retryable(row.reason)]
    refuse_failures(raw, failed, len(videos) + len(broken))
    attempt = before.attempt + (before.unfinished > 0)
    reading = VideoReading(programs=installed_programs(), unfinished=len(failed), attempt=attempt)
    write_candidates(out, rows, report.to_json(), reading)
    if unused := sum(row.reason == STILL_PICTURE for row in rows):
        _log.warning(
            "%d still pictures are not used; to train on them set ingest.still_pictures to true", unused
        )
    if "lost_frames" in figures:
        _log.warning("%d frames could not be decoded: `videomar ledger show`", figures["lost_frames"])
    if figures["uncaptioned"]:
        _log.warning("captions: %d of %d clips have no words", figures["uncaptioned"], figures["clips"])
    return figures | report.figures()


def count_candidates(videos: Sequence[str], rows: Sequence[ClipRow]) -> dict[str, float]:
    """Count what ingest made of the files of a folder.

    Args:
        videos: Every listed file, by its name in the rows.
        rows: All rows of ingest.

    Returns:
        `videos` = `read` + `unreadable`: files; a duplicate counts as unreadable.
        `retryable`: of `unreadable`, those that failed here, see `retries`; absent if there are none.
        `clips_considered` = `clips` + `too_short` (+ `rejected_...`, if ingest gets other reasons).
        `still_pictures`: of `clips`, those of one frame; absent if there are none.
        `uncaptioned`: of `clips`, those with an empty caption.
        `lost_frames`, `invented_frames`, `retimed_frames`: sums over the videos; absent if there are none.

    Raises:
        DataError: a file has no row, a row no file, or the counts do not add up.
    """
    lost = sorted(set(videos) ^ {row.video for row in rows})
    if lost:
        raise DataError(
            f"ingest: got {len(lost)} files without a row or rows without a file ({lost[0]!r}), "
            "expected every file among the candidates; this is a bug, please report it"
        )
    found = [row for row in rows if row.clip_id is not None]
    clips = [row for row in found if row.reason is None]
    stills = sum(row.num_frames == 1 for row in clips)
    retryable = sum(is_retryable(row.reason) for row in rows)
    rejected = Counter(str(row.reason).split(":")[0] for row in found if row.reason is not None)
    figures: dict[str, float] = {
        "videos": len(videos),
        "read": len({row.video for row in found}),
        "unreadable": sum(row.clip_id is None and row.reason is not None for row in rows),
        **({"retryable": retryable} if retryable else {}),
        "clips_considered": len(found),
        "clips": len(clips),
        "too_short": rejected.pop("too_short", 0),
        **({"still_pictures": stills} if stills else {}),
        **{f"rejected_{code}": count for code, count in sorted(rejected.items())},
        "uncaptioned": sum(not row.caption for row in clips),
        **_count_frames(found),
    }
    require_sum("ingest", figures, "videos", ["read", "unreadable"])
    return figures


def _count_frames(rows: Sequence[ClipRow]) -> dict[str, int]:
    """Sums over the videos, as far as there are any."""
    videos = {row.video: row for row in rows}.values()  # each row has its whole video's
    sums = {name: sum(getattr(row, name) or 0 for row in videos) for name in CHANGED_FRAMES}
    return {name: count for name, count in sums.items() if count}


def learned_parts(params: IngestParams) -> dict[str, Path | str]:
    """Return what a user adds to make captions and scores: the function's source, the networks' folders."""
    source = None if params.captioner is None else find_source(params.captioner)
    captioner = {} if source is None else {"captioner": source_hash(source)}
    return {**captioner, **{f"scorers.{name}": Path(folder) for name, folder in params.scorers.items()}}


def _unreadable(raw: Path) -> dict[str, str]:
    """Entries that cannot be read, here or in the folder that the files come from, with the reasons."""
    here = {printable(entry.name): entry.reason for entry in walk(raw) if entry.reason is not None}
    noted = raw / UNREADABLE
    return {**(json.loads(noted.read_text("utf-8")) if noted.is_file() else {}), **here}


def group_of(video: str) -> str:
    """Return `simulated` or `real`, by the folder that holds the video."""
    return "simulated" if video.startswith("simulated/") else "real"


def _ingest(
    files: list[_File], params: IngestParams, report: CaptionReport, known: Sequence[ClipRow]
) -> Iterator[ClipRow]:
    """Yield the rows of all files; of files with equal bytes only the first is read, unless it is known."""
    of_known: dict[tuple[str, str | None], list[ClipRow]] = defaultdict(list)
    for row in known:
        of_known[row.video, row.video_sha256].append(row)
    readable = [file for file in files if printable(file.video) == file.video]
    for file in files:
        if printable(file.video) != file.video:
            named = replace(file, video=printable(file.video))
            yield named.row("unreadable: the file name is not UTF-8")
    first: dict[str, _File] = {}
    copies: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(params.num_workers) as pool:
        digests = pool.map(_sha256, (file.raw / file.video for file in readable))
        for file, digest in zip(readable, digests, strict=True):
            if isinstance(digest, OSError):
                ours = digest.errno not in _ABOUT_FILES
                yield file.row(f"{'failed' if ours else 'unreadable'}: {digest.strerror}")
                continue
            file = replace(file, sha256=digest)
            if digest in first:
                copies[first[digest].video].append(file.video)
                yield file.row("duplicate_file")
            elif Path(file.video).suffix.lower() in ARCHIVES:
                yield file.row("archive: unpack it, so that its videos can be read")
            else:
                first[digest] = file
    found = {file.video: file.found for file in readable}
    share_captions(found, copies, report)
    tasks = [replace(file, found=found[file.video]) for file in first.values()]
    _say_captions(tasks, params, report)
    new = [file for file in tasks if (file.video, file.sha256) not in of_known]
    prepare = partial(_load_learned, params) if params.captioner is not None or params.scorers else None
    read = dict(zip((file.video for file in new), read_files(ingest_file, new, params, prepare), strict=True))
    for file in tasks:
        result = read.get(file.video, of_known.get((file.video, file.sha256), []))
        yield from [file.row(result)] if isinstance(result, str) else result


def _load_learned_here(params: IngestParams) -> IngestParams:
    """Load the user's networks and captioner to refuse early; return the section with a device to use."""
    if not params.scorers and params.captioner is None:
        return params
    from videomar.compute.device import choose_device  # torch takes a second

    chosen = choose_device(params.device, "resources.ingest.device").type
    _load_learned(replace(params, device="cpu"))
    load_scorer.cache_clear()  # the children hold their own
    return replace(params, device=chosen)


def _load_learned(params: IngestParams) -> None:
    """Load the user's networks and the captioner, which finds the device in DEVICE_VARIABLE."""
    for name, folder in params.scorers.items():
        load_scorer(name, folder, params.device)
    if params.captioner is not None:
        os.environ[DEVICE_VARIABLE] = params.device
        load_captioner(params.captioner)


def _say_captions(tasks: Sequence[_File], params: IngestParams, report: CaptionReport) -> None:
    """Warn before the long work starts, if videos lack captions or captions are not used."""
    for file in tasks:
        report.count_source(file.found.source)
    if report.is_worth_a_warning():
        _log.warning("%s", "\n  ".join(report.lines(params.captioner is not None)))


def ingest_file(file: _File) -> list[ClipRow]:
    """Return the rows of one video; the work of a child process."""
    cv2.setNumThreads(1)
    path = file.raw / file.video
    try:
        info = probe(path)
        if info.still and not file.params.still_pictures:
            return [file.row(STILL_PICTURE)]
        if file.found.error is not None:
            return [file.row(f"unreadable_captions: {file.found.error}"[:200])]
        size = clip_size(info.width, info.height, file.params)
        take = partial(_row_of_clip, file, info)
        counts = deque[FrameCounts](maxlen=1)
        blocks = _counted(open_video(path, info, cover_height(info, size)), counts)
        reduce = partial(_reduce, size, file.params.size_px)
        captions = file.found.captions
        if info.still:
            found = _take_still(FrameWindow(path, reduce), blocks, captions, file.params, take)
        else:
            found = scan_clips(path, blocks, captions, file.params, take, reduce)
    except UnreadableError as error:
        return [file.row(error.reason)]
    [whole] = counts
    return [
        replace(row, lost_frames=whole.lost, invented_frames=whole.invented, retimed_frames=whole.retimed)
        for row in found
    ] or [file.row("unreadable_captions: all clips begin after the end of the video")]


def _counted(blocks: Iterator[FrameBlock], counts: deque[FrameCounts]) -> Iterator[FrameBlock]:
    """The blocks, each of which is progress; the counts of the last are left in `counts`."""
    for block in blocks:
        report_progress()
        counts.append(block.counts)
        yield block


def _take_still(
    window: FrameWindow,
    blocks: Iterable[FrameBlock],
    captions: Captions,
    params: IngestParams,
    take: Callable[[ClipSpan, FrameWindow], ClipRow],
) -> list[ClipRow]:
    """The only frame of a still picture as a clip, which counts as long as one frame."""
    caption = captions.whole or next((shot.caption for shot in captions.spans), "")
    clip = ClipSpan(0.0, round(1 / params.fps, 3), caption, None, 1)
    for block in blocks:
        window.append(block, lambda begins, _: np.full(len(begins), Need.WHOLE))
    return [take(clip, window)]


def _row_of_clip(file: _File, info: VideoInfo, clip: ClipSpan, around: FrameWindow) -> ClipRow:
    report_progress()  # a captioner may take longer than all frames
    size, times = clip_size(info.width, info.height, file.params), around.times
    if clip.reason is None:
        chosen = clip_frames(
            times, clip.start_s, ClipShape(size[1], size[0], file.params.fps, clip.num_frames)
        )
    else:
        shown_s = clip.start_s + (clip.end_s - clip.start_s) * np.array([0.1, 0.5, 0.9])
        chosen = np.searchsorted(times, shown_s, side="right") - 1
    frames = [around.frames[index] for index in chosen]
    three = [frames[0], frames[len(frames) // 2], frames[-1]]
    words, source = clip.caption, file.found.source if clip.caption else None
    scored: dict[str, Any] = {}
    if clip.reason is None:
        scored = {"clip_width_px": size[0], "clip_height_px": size[1], "num_frames": clip.num_frames}
        shown = np.stack([frame[_SHOWN] for frame in frames])
        scored |= score(shown) | {"learned": score_learned(shown, file.params.scorers, file.params.device)}
        if not words and (words := caption_clip(shown, file.params.captioner)):
            source = f"{CAPTIONER}{file.params.captioner}"
        scored["fingerprint"] = fingerprint(np.stack([frame[_SQUARE] for frame in three]))
    return ClipRow(
        video=file.video,
        video_sha256=file.sha256,
        clip_id=clip_id(file.sha256, clip.start_s, clip.end_s),
        start_s=clip.start_s,
        end_s=clip.end_s,
        shot_s=clip.shot_s,
        group=group_of(file.video),
        width=info.width,
        height=info.height,
        stream=info.stream,
        caption=words,
        caption_from=source,
        reason=clip.reason,
        thumbnail=_thumbnail([frame[_THUMBNAIL] for frame in three[: clip.num_frames or None]]),
        **scored,
    )


def _reduce(
    size: tuple[int, int], size_px: int, frame: NDArray[np.uint8], need: Need
) -> tuple[NDArray[np.uint8], ...]:
    """What a row needs of a frame: pictures at `_THUMBNAIL`, `_SHOWN` and `_SQUARE`, or the first alone."""
    thumbnail = crop_frame(frame, (max(1, round(_THUMBNAIL_PX * size[0] / size[1])), _THUMBNAIL_PX))
    if need == Need.GLANCE:
        return (thumbnail,)
    shown, square = crop_frame(frame, size), (size_px, size_px)
    # Fingerprints are of a square, so that clips of several shapes can be compared.
    return thumbnail, shown, shown if size == square else crop_frame(frame, square)


def _thumbnail(three: list[NDArray[np.uint8]]) -> bytes:
    """Small frames (H, W, 3) side by side as a JPEG."""
    _, jpeg = cv2.imencode(".jpg", np.hstack(three)[..., ::-1])
    return jpeg.tobytes()


def _sha256(path: Path) -> str | OSError:
    try:
        return sha256_of(path)
    except OSError as error:
        return error
