"""Simulated videos drawn again with more frames of each scene, for clips longer than the samples'."""

import json
import shutil
from pathlib import Path

import numpy as np

from videomar.errors import DataError
from videomar.media.mp4 import encode, find_ffmpeg
from videomar.sources.simulate import FPS, render, scene_of


def draw_longer(raw: Path, out: Path, num_frames: int, size_px: int) -> int:
    """Copy a folder of videos, but draw the simulated ones with other numbers of frames; how many scenes.

    Args:
        raw: folder whose `simulated` has videos with a JSON file of scenes each.
        out: folder of the copy; what a run before was killed at is written again.
        num_frames: frames of each scene.
        size_px: side of the drawn videos.

    Raises:
        DataError: a file names no scene.
    """
    simulated = raw / "simulated"
    shutil.copytree(
        raw, out, ignore=lambda folder, names: names if Path(folder) == simulated else (), dirs_exist_ok=True
    )
    count, program = 0, find_ffmpeg()
    for path in sorted(simulated.glob("*.json")):
        spans, drawn = json.loads(path.read_text("utf-8"))["clips"], []
        for number, span in enumerate(spans):
            found = scene_of(path.with_suffix(".mp4"), span["start_s"])
            if found is None:
                raise DataError(f"{path}: got no scene at {span['start_s']} s, expected one; draw it again")
            drawn.append(render(found[0], size_px, num_frames))
            span |= {"start_s": number * num_frames / FPS, "end_s": (number + 1) * num_frames / FPS}
        video = out / "simulated" / path.with_suffix(".mp4").name
        encode(video, np.concatenate(drawn), FPS, program, crf=10, preset="veryfast")
        video.with_suffix(".json").write_text(json.dumps({"clips": spans}), "utf-8")
        count += len(spans)
    return count
