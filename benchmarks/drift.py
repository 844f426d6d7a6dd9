"""What becomes of long simulated clips, frame by frame."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from videomar.errors import DataError
from videomar.evaluation.generated import ClipKinds, psnr_by_frame, read_generated, repeat_last, truth_kind
from videomar.evaluation.metrics.bodies import bodies_lost
from videomar.files import write_json

DRIFT_FILE = "drift.json"
_LONG = "image_long"
_EVERY = 4
"""Frames from row to row."""

Drift = list[dict[str, float]]


def write_drift(clips: Path, out: Path) -> None:
    """Follow the long clips of generated.parquet, and write the rows; none if there are no such clips."""
    write_json(out, drift_of(read_generated(clips)))


def drift_of(clips: Sequence[ClipKinds]) -> Drift:
    """Return a row for every four frames of the long clips: `frames` so far, `gain_db` and `lost`.

    `gain_db` is the mean over the four frames of how much nearer to the truth each is than the given picture,
    in decibels; `lost` the share of bodies that are lost by then. Clips without a body in their first picture
    are left out.
    """
    rows: Drift = []
    pairs = [(kinds[_LONG], kinds[truth_kind(_LONG)]) for kinds in clips if _LONG in kinds]
    length = min((len(truth.frames) for _, truth in pairs), default=0)
    for end in range(1 + _EVERY, length + 1, _EVERY):
        gains, lost = [], []
        for clip, truth in pairs:
            try:
                lost.append(bodies_lost(clip.frames[:end], truth.frames[:end], clip.fps))
            except DataError:
                continue
            last = slice(end - _EVERY, end)
            repeated = repeat_last(truth.frames, clip.context_frames)
            own, other = (psnr_by_frame(each[last], truth.frames[last]) for each in (clip.frames, repeated))
            gains.append(float((own - other).mean()))
        if gains:
            rows.append({"frames": end, "gain_db": statistics.mean(gains), "lost": statistics.mean(lost)})
    return rows


def mean_drift(folders: Sequence[Path]) -> Drift:
    """Return the means of what was written in several folders, one for each training."""
    seeds = [json.loads((folder / DRIFT_FILE).read_text("utf-8")) for folder in folders]
    return [
        {name: round(statistics.mean(row[name] for row in rows), 4) for name in rows[0]}
        for rows in zip(*seeds, strict=True)
    ]
