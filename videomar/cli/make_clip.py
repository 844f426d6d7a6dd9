"""`videomar generate`: one clip into a file. What cannot work is refused before anybody waits for it."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.errors import DataError

if TYPE_CHECKING:
    from videomar.sampling.generate import GenerationRequest, PartialClip

SUFFIX = ".mp4"
_LONG_S = 10.0
"""An estimate of less is not worth a line."""
_LONGEST_SILENCE_S = 30.0

Report = Callable[[str], None]


def make_clip(
    given: Path, out: Path, model: str, device: str, request: "GenerationRequest", report: Report
) -> None:
    """Generate a clip and write it, whole or not at all.

    Args:
        given: first picture, or a video to continue.
        out: file to write; see `check_files`.
        model: as in `videomar.load`.
        device: `auto`, `cpu` or `cuda`.
        request: the clip.
        report: called with lines about the clip and its progress.

    Raises:
        VideomarError: there is no such model or picture, or the clip cannot be made or written.
    """
    from videomar.hub.find import load
    from videomar.media.mp4 import write_mp4
    from videomar.sampling.forecast import check_memory, seconds_needed, warnings_of

    generator = load(model, device)
    context = generator.pictures(given, lambda line: report(f"note: {given.name}: {line}"), request.size)
    plan = generator.plan(context, request)
    check_memory(generator, plan)
    for line in (*warnings_of(generator, plan), generator.prompt_note(request.prompt)):
        if line:
            report(f"note: {line}")
    with _explain_full_memory():
        seconds = seconds_needed(generator, context, request)
        if seconds is not None and seconds > _LONG_S:
            report(f"about {_in_words(seconds)} on {generator.device.type}, measured on one step")
        clip = _last(generator.partial_clips(context, request), report)
        frames = generator.decode(clip)
    write_mp4(out, frames, generator.fps)


def check_files(given: Path, out: Path) -> None:
    """Refuse names that cannot work.

    Raises:
        DataError: there is nothing to start from, or nothing can be written there.
    """
    if not given.is_file():
        raise DataError(f"{given}: no such file, expected a picture or a video; check the path")
    if out.suffix.lower() != SUFFIX:
        raise DataError(
            f"--out: got {out.name}, expected a name that ends in {SUFFIX}: H.264 is all that is written; "
            "convert it with ffmpeg afterwards"
        )
    folder = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"--out: got {out}, expected a file that can be written; check the path")


def _last(clips: Iterable["PartialClip"], report: Report) -> "PartialClip":
    """Return the whole clip, and show how far it is: a bar on a terminal, else lines."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(unit="frame", leave=False) as bar:
            for clip in clips:
                bar.total = clip.total_frames
                bar.update(clip.num_frames - bar.n)
        return clip
    start = shown = time.monotonic()
    silence_s = 1.0
    for clip in clips:
        now = time.monotonic()
        if now - shown >= silence_s or clip.num_frames == clip.total_frames:
            report(f"{clip.num_frames} of {clip.total_frames} frames, {now - start:.1f} s")
            shown, silence_s = now, min(2 * silence_s, _LONGEST_SILENCE_S)
    return clip


@contextmanager
def _explain_full_memory() -> Iterator[None]:
    """Replace an error of the allocator, where the estimate was too low, by one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own error for a full GPU is a RuntimeError
        line = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "memory" not in line:
            raise
        raise DataError(
            f"clip: got no more memory ({line[:200]}), expected room for it; ask for fewer frames or a "
            "smaller size"
        ) from None


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
