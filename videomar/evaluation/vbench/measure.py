"""VBench-I2V's own dimensions, measured by the public `vbench` package in an environment of its own.

`python -m videomar.evaluation.vbench.measure --python ENVIRONMENT/bin/python --weights FOLDER`, once there
are clips. Each dimension is a process of its own: one that fails costs one. What is missing is named with its
reason and makes the score partial, never lower; docs/guide/evaluation.md says what goes where.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from videomar.errors import DataError, VideomarError
from videomar.evaluation.fingerprint import Fingerprint, clips_sha256
from videomar.evaluation.generated import Clip, read_facts, read_generated
from videomar.evaluation.vbench.dimensions import PartScore, aggregate
from videomar.evaluation.vbench.inputs import (
    CAMERA_MOTIONS,
    CLIPS_PER_PICTURE,
    FULL_INFO,
    HUB,
    RESOLUTION,
    VIDEOS,
    clips_to_judge,
    missing_weights,
    weights_sha256,
    write_inputs,
)
from videomar.evaluation.vbench.other_environment import OtherEnvironment
from videomar.files import write_json

_LOCAL = ("background_consistency", "aesthetic_quality")
"""Dimensions whose CLIP would be sought at home, not among the weights; torch finds DINO there by itself."""
_FACTS, _RESULTS = "facts.json", "results"
_ROUNDING = 1e-4


def measure(generated: Path, other: OtherEnvironment) -> dict[str, Any]:
    """Every dimension that can be measured, the scores, what was skipped and why, and the fingerprint.

    Raises:
        DataError: the file of generated clips is none, or holds no clip made from a picture.
    """
    clips, stated = read_generated(generated), read_facts(generated)
    seeds = tuple(stated.get("seeds", ()))[:CLIPS_PER_PICTURE]
    made = clips_to_judge(clips, max(1, len(seeds)))
    if not made:
        raise DataError(f"{generated}: got no clip of kind image, expected some; run `dvc repro sample`")
    skipped: dict[str, str] = {}
    values, seconds, own = {}, {}, None
    with TemporaryDirectory(prefix="vbench-") as name:
        folder = Path(name).resolve()
        videos_of = write_inputs(clips, made, folder)
        try:
            own = _facts(folder, other)
        except DataError as error:
            skipped = {key: f"vbench: {error}" for key in videos_of}
        for key in tqdm([*videos_of] if own else [], desc="VBench-I2V", unit="dimension", disable=None):
            start = time.monotonic()
            try:
                values[key] = _measured(key, videos_of[key], folder, other)
            except DataError as error:
                skipped[key] = f"{key}: {error}"
            seconds[key] = time.monotonic() - start
    scores = aggregate(values)
    weights = weights_sha256(other.weights, [*values])
    truths = {kinds["truth"].clip_id: kinds["truth"] for kinds in clips}
    judged = [truths[of_clip[0].clip_id] for of_clip in made]
    facts = {"split": str(stated.get("split", "not recorded")), "seeds": seeds, "weights": weights}
    return {
        "scores": {part: _told(getattr(scores, part)) for part in ("quality", "i2v", "total")},
        "dimensions": values,
        "skipped": skipped,
        "videos": {key: videos_of[key] for key in values},
        "fingerprint": asdict(_fingerprint(judged, made, {**facts, **own})) if own else None,
        "seconds": seconds,
    }


def _facts(folder: Path, other: OtherEnvironment) -> dict[str, Any]:
    """The other environment's fields of a fingerprint.

    Raises:
        DataError: the package is not there, or the interpreter is none.
    """
    path = folder / _FACTS
    other.run(folder, facts=str(path))
    if not path.is_file():
        raise DataError(f"got no answer of {other.python}, expected Python; name an interpreter")
    own: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return own


def _measured(key: str, videos: int, folder: Path, other: OtherEnvironment) -> float:
    """The benchmark's value of one dimension, 0 to 1.

    Raises:
        DataError: there is nothing to judge, a weight is missing, or no sound value came back.
    """
    if not videos:
        raise DataError(f"got no prompt that names a motion, expected one of {', '.join(CAMERA_MOTIONS)}")
    if missing := missing_weights(other.weights, key):
        told = ", ".join(missing)
        raise DataError(f"got no {told} in --weights, expected it; see docs/guide/evaluation.md")
    other.run(
        folder,
        dimension=key,
        full_info=str(folder / FULL_INFO),
        videos=str(folder / VIDEOS),
        results=str(folder / _RESULTS),
        local=key in _LOCAL,
        resolution=RESOLUTION,
        hub=str(other.weights.resolve() / HUB),
    )
    path = folder / _RESULTS / f"{key}_eval_results.json"
    try:
        # The mean comes first and the videos' own values last; the camera's motion has a table between.
        mean, *_, of_videos = json.loads(path.read_text("utf-8"))[key]
        value, judged = float(mean), len(of_videos)
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"got {line}, expected {path.name} of vbench 0.1; install that version") from None
    if judged != videos:
        raise DataError(f"got values of {judged} videos, expected {videos}; look at its version")
    if not -_ROUNDING <= value <= 1 + _ROUNDING:  # what is no number fails this, too
        raise DataError(f"got {value}, expected 0 to 1; look at the clips")
    return min(max(value, 0.0), 1.0)


def _fingerprint(
    judged: Sequence[Clip], made: Sequence[Sequence[Clip]], facts: dict[str, Any]
) -> Fingerprint:
    """Like the suite's, with the code, libraries and weights of the other environment."""
    largest = max(clip.frames.shape for of_clip in made for clip in of_clip)
    return Fingerprint(
        clips=clips_sha256([(clip.clip_id, clip.caption, clip.frames.tobytes()) for clip in judged]),
        num_clips=len(judged),
        num_frames=largest[0],
        context_frames=tuple(sorted({clip.context_frames for of_clip in made for clip in of_clip})),
        size_px=(largest[1], largest[2]),
        fps=judged[0].fps,
        **facts,
    )


def _told(score: PartScore) -> dict[str, Any]:
    return asdict(score) | {"partial": score.partial, "text": str(score)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what can be measured, write it, and say it."""
    parser = argparse.ArgumentParser(prog="python -m videomar.evaluation.vbench.measure", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the other environment")
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights, VBENCH_CACHE_DIR")
    parser.add_argument("--generated", type=Path, default=Path("data/generated.parquet"))
    parser.add_argument("--out", type=Path, help="JSON; vbench.json beside the clips if left out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="seconds of one dimension")
    given = parser.parse_args(arguments)
    out = given.out or given.generated.with_name("vbench.json")
    try:
        other = OtherEnvironment(
            python=given.python, weights=given.weights, device=given.device, limit_s=given.limit_s
        )
        found = measure(given.generated, other)
    except VideomarError as error:
        sys.exit(str(error))
    write_json(out, found)
    lines = [f"{part}: {score['text']}" for part, score in found["scores"].items()]
    lines += [f"skipped: {reason}" for reason in found["skipped"].values()]
    sys.stdout.write("\n".join([*lines, str(out), ""]))


if __name__ == "__main__":
    main()
