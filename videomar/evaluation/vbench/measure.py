"""VBench-I2V's own dimensions, measured by the public `vbench` package in an environment of its own.

`python -m videomar.evaluation.vbench.measure --python ENVIRONMENT/bin/python --weights FOLDER`, after
sampling. Each dimension is a process of its own, so that a failure costs one dimension. A missing dimension
is named with its reason and makes the score partial, never lower. docs/guide/evaluation.md has the set-up.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from videomar.compute.device import choose_device
from videomar.errors import DataError, VideomarError
from videomar.evaluation.fingerprint import Fingerprint, clips_sha256, with_maker
from videomar.evaluation.generated import Clip, read_generated, read_metadata
from videomar.evaluation.vbench import child as vbench_child
from videomar.evaluation.vbench.dimensions import PartScore, aggregate
from videomar.evaluation.vbench.package_files import (
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
from videomar.files import write_json
from videomar.processes import run_in_group

_LOCAL = ("background_consistency", "aesthetic_quality")
"""Dimensions that would look for CLIP in the home folder, not among the weights, as torch does for DINO."""
_FACTS, _RESULTS = "facts.json", "results"
_ROUNDING = 1e-4
_NOWHERE = "http://127.0.0.1:9"  # the discard port: requests to the network fail at once
_OFFLINE = {
    **{f"{kind}_proxy": _NOWHERE for kind in ("http", "https", "ftp", "all")},
    **{f"{kind}_PROXY": _NOWHERE for kind in ("HTTP", "HTTPS", "FTP", "ALL")},
    **{"no_proxy": "", "NO_PROXY": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
}
_CHILD = "child/vbench_child.py"
_LONGEST = 200
"""Characters of a reason: torch lists every tensor that does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherEnvironment:
    """The environment of the public `vbench` package; what runs in it has no network and a time limit."""

    python: Path
    """The interpreter; not resolved, because in a virtual environment it is a link."""
    weights: Path
    """Used as VBENCH_CACHE_DIR of the package; its folder `torch` is TORCH_HOME."""
    device: str
    limit_s: float
    """Time limit of one dimension, seconds."""

    def __post_init__(self) -> None:
        if not os.access(self.python, os.X_OK) or self.python.is_dir():
            raise DataError(f"--python: got {self.python}, expected an interpreter; name one with vbench")
        if not self.weights.is_dir():
            raise DataError(f"--weights: got {self.weights}, expected a folder; see docs/guide/evaluation.md")

    def run(self, folder: Path, **job: Any) -> None:
        """Run a job in a process of its own, with `folder` as its working folder.

        Raises:
            DataError: it failed or took too long; with the last line of its output.
        """
        log, script = folder / "log", folder / _CHILD
        log.unlink(missing_ok=True)
        script.parent.mkdir(exist_ok=True)
        shutil.copyfile(vbench_child.__file__, script)
        weights = self.weights.resolve()
        settings = {
            **_OFFLINE,
            "VBENCH_CACHE_DIR": str(weights),
            "TORCH_HOME": str(weights / "torch"),
            "PYTHONUNBUFFERED": "1",  # its last line is known however it ends
            "PYTHONDONTWRITEBYTECODE": "1",  # torch.hub runs code from the folder of weights
        }
        words = json.dumps({**job, "device": self.device, "log": str(log)})
        command = ["env", *(f"{name}={value}" for name, value in settings.items())]
        command += [str(self.python.absolute()), str(script), words]
        try:
            code = run_in_group(command, folder, self.limit_s)
        except subprocess.TimeoutExpired:
            raise DataError(f"took over {self.limit_s:g} s, expected less; raise --limit-s") from None
        if code:
            output = log.read_text(errors="replace", encoding="utf-8").split("\n") if log.is_file() else []
            last = next((line for line in reversed(output) if line.strip()), "no output")
            reason = textwrap.shorten(last, _LONGEST)
            raise DataError(f"got code {code} ({reason}), expected scores; check both environment and clips")


def measure(generated: Path, other: OtherEnvironment) -> dict[str, Any]:
    """All dimensions that can be measured, the scores, what was skipped and why, and the fingerprint.

    Raises:
        DataError: the file cannot be read, or has no clip generated from a picture.
    """
    clips, stated = read_generated(generated), read_metadata(generated)
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
            own = _environment_fields(folder, other)
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
    fields = {"split": str(stated.get("split", "not recorded")), "seeds": seeds, "weights": weights}
    fields |= with_maker(own, stated) if own else {}
    return {
        "scores": {part: _as_json(getattr(scores, part)) for part in ("quality", "i2v", "total")},
        "dimensions": values,
        "skipped": skipped,
        "videos": {key: videos_of[key] for key in values},
        "fingerprint": asdict(_fingerprint(judged, made, {**fields, **with_maker(own, stated)}))
        if own
        else None,
        "seconds": seconds,
    }


def _environment_fields(folder: Path, other: OtherEnvironment) -> dict[str, Any]:
    """The fields of a fingerprint that describe the other environment.

    Raises:
        DataError: the package is not installed, or the interpreter is not Python.
    """
    path = folder / _FACTS
    other.run(folder, facts=str(path))
    if not path.is_file():
        raise DataError(f"got no answer from {other.python}, expected Python; name an interpreter")
    own: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return own


def _measured(key: str, videos: int, folder: Path, other: OtherEnvironment) -> float:
    """The benchmark's value of one dimension, 0 to 1.

    Raises:
        DataError: there are no videos, weights are missing, or the result is not valid.
    """
    if not videos:
        raise DataError(f"got no prompt that names a motion, expected one of {', '.join(CAMERA_MOTIONS)}")
    if missing := missing_weights(other.weights, key):
        names = ", ".join(missing)
        raise DataError(f"got no {names} in --weights, expected it; see docs/guide/evaluation.md")
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
        # The mean comes first and the values of videos last; camera motion has a table in between.
        mean, *_, of_videos = json.loads(path.read_text("utf-8"))[key]
        value, judged = float(mean), len(of_videos)
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"got {line}, expected {path.name} of vbench 0.1; install that version") from None
    if judged != videos:
        raise DataError(f"got values of {judged} videos, expected {videos}; look at its version")
    if not -_ROUNDING <= value <= 1 + _ROUNDING:  # NaN fails this, too
        raise DataError(f"got {value}, expected 0 to 1; look at the clips")
    return min(max(value, 0.0), 1.0)


def _fingerprint(
    judged: Sequence[Clip], made: Sequence[Sequence[Clip]], fields: dict[str, Any]
) -> Fingerprint:
    """Like that of the suite, with the code, libraries and weights of the other environment."""
    largest = max(clip.frames.shape for of_clip in made for clip in of_clip)
    return Fingerprint(
        clips=clips_sha256([(clip.clip_id, clip.caption, clip.frames.tobytes()) for clip in judged]),
        num_clips=len(judged),
        num_frames=largest[0],
        context_frames=tuple(sorted({clip.context_frames for of_clip in made for clip in of_clip})),
        size_px=(largest[1], largest[2]),
        fps=judged[0].fps,
        **fields,
    )


def _as_json(score: PartScore) -> dict[str, Any]:
    return asdict(score) | {"partial": score.partial, "text": str(score)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what can be measured, write it and print a summary."""
    parser = argparse.ArgumentParser(prog="python -m videomar.evaluation.vbench.measure", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the other environment")
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights, VBENCH_CACHE_DIR")
    parser.add_argument("--generated", type=Path, default=Path("data/generated.parquet"))
    parser.add_argument("--out", type=Path, help="JSON; vbench.json beside the clips if left out")
    parser.add_argument("--device", default="auto", help="cpu or cuda; auto = cuda if this machine has a GPU")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="time limit of one dimension, seconds")
    options = parser.parse_args(arguments)
    out = options.out or options.generated.with_name("vbench.json")
    try:
        other = OtherEnvironment(
            python=options.python,
            weights=options.weights,
            device=choose_device("auto").type if options.device == "auto" else options.device,
            limit_s=options.limit_s,
        )
        found = measure(options.generated, other)
    except VideomarError as error:
        sys.exit(str(error))
    write_json(out, found)
    lines = [f"{part}: {score['text']}" for part, score in found["scores"].items()]
    lines += [f"skipped: {reason}" for reason in found["skipped"].values()]
    sys.stdout.write("\n".join([*lines, str(out), ""]))


if __name__ == "__main__":
    main()
