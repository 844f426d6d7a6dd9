"""Whether ingest survives thousands of damaged files, read by its real child processes.

Tiny videos of many formats are mutated: bits flipped, bytes overwritten, cut off, cut out, doubled, spliced
from two files. Undamaged files are mixed in. Nothing may hang, the parent must survive, every file must have
rows, and the undamaged ones must have exactly the clips that they have alone.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks.record import ROOT, available_cores, write_result
from videomar.config import load_params
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.media.mp4 import find_ffmpeg
from videomar.sources.listing import list_videos

_SOURCE = "-f lavfi -i testsrc2=size=96x64:rate=24:duration=1.5,gblur=2"
_TEN_BIT = "-pix_fmt yuv420p10le -color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc"
_SEEDS = {
    "h264.mp4": "-pix_fmt yuv420p",
    "front.mp4": "-pix_fmt yuv420p -movflags faststart -bf 3",
    "parts.mp4": "-pix_fmt yuv420p -movflags frag_keyframe+empty_moov -g 12",
    "hdr.mp4": _TEN_BIT,
    "alpha.mov": "-pix_fmt argb -c:v qtrle",
    "fields.ts": "-c:v mpeg2video -flags +ildct+ilme -top 1",
    "h264.mkv": "-pix_fmt yuv420p",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "mpeg4.avi": "-c:v mpeg4",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p",
    "film.mpg": "-c:v mpeg2video",
    "short.gif": "-r 12",
}
_ALARM_S = 30.0  # no tiny file takes half of this, even on a busy machine


def make_seeds(folder: Path, names: Sequence[str] = tuple(_SEEDS)) -> list[Path]:
    """Write the tiny videos with these names into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        options = _SEEDS[name]
        command = f"-v error -nostdin -y {_SOURCE} {options} -threads 1"
        subprocess.run([str(find_ffmpeg()), *command.split(), str(folder / name)], check=True)
    return [folder / name for name in names]


def mutate(data: bytes, other: bytes, generator: np.random.Generator) -> tuple[str, bytes]:
    """Mutate a file's bytes at random; return the kind of mutation and the result. `other` is spliced in."""
    kinds = ("flip", "overwrite", "truncate", "cut_out", "double", "splice", "header")
    kind = str(generator.choice(kinds))
    start, end = sorted(int(place) for place in generator.integers(0, len(data) + 1, 2))
    changed = np.frombuffer(data, np.uint8).copy()
    if kind in ("flip", "header"):
        reach = len(data) if kind == "flip" else min(len(data), 512)
        places = generator.integers(0, reach, int(generator.integers(1, 60)))
        changed[places] ^= (1 << generator.integers(0, 8, len(places))).astype(np.uint8)
        return kind, changed.tobytes()
    if kind == "overwrite":
        end = min(end, start + 4096)
        changed[start:end] = generator.integers(0, 256, end - start)
        return kind, changed.tobytes()
    if kind == "splice":
        place = int(generator.integers(0, len(other) + 1))
        return kind, data[:start] + other[place:]
    return kind, {
        "truncate": data[:start],
        "cut_out": data[:start] + data[end:],
        "double": data[:end] + data[start:],
    }[kind]


def fill_folder(folder: Path, seeds: list[Path], num_files: int, seed: int) -> Counter[str]:
    """Write the mutated files; return their number by kind."""
    generator = np.random.default_rng(seed)
    kinds: Counter[str] = Counter()
    for number in range(num_files):
        first, second = (seeds[place] for place in generator.integers(0, len(seeds), 2))
        kind, data = mutate(first.read_bytes(), second.read_bytes(), generator)
        (folder / f"{number:05d}_{kind}_{first.name}").write_bytes(data)
        kinds[kind] += 1
    return kinds


def fuzz(
    folder: Path, num_files: int, seed: int, num_workers: int, names: Sequence[str] = tuple(_SEEDS)
) -> dict[str, Any]:
    """Ingest mutated files and count the outcomes; all files are written below `folder`.

    Raises:
        RuntimeError: a file is missing from the candidates, or an undamaged one lost clips.
    """
    shipped = load_params(ROOT / "params.yaml").ingest
    short = {"num_frames": 9, "stride_frames": 4}  # the seeds last a second and a half
    params = replace(shipped, **short, timeout_s=_ALARM_S, memory_gb=1.0, num_workers=num_workers)
    seeds = make_seeds(folder / "seeds", names)
    ingest_videos(folder / "seeds", folder / "alone.parquet", params)
    raw = folder / "raw"
    raw.mkdir()
    kinds = fill_folder(raw, seeds, num_files, seed)
    # Mixed in, so that a process reads them right after a damaged file.
    for number, path in enumerate(seeds):
        shutil.copy(path, raw / f"{num_files * number // len(seeds):05d}_untouched_{path.name}")
    began = time.perf_counter()
    ingest_videos(raw, folder / "candidates.parquet", params)
    took_s = time.perf_counter() - began
    rows, alone = read_candidates(folder / "candidates.parquet"), read_candidates(folder / "alone.parquet")
    _check(raw, rows, alone)
    outcomes = Counter(_outcome(group["reason"]) for _, group in rows.groupby("video"))
    return {
        "mutated_files": num_files,
        "untouched_files": len(seeds),
        "seconds": round(took_s, 1),
        "kinds": dict(sorted(kinds.items())),
        "outcomes": dict(sorted(outcomes.items())),
    }


def _outcome(reasons: pandas.Series) -> str:
    """`clips`, or the reasons in the rows of a file."""
    reasons_found = {str(reason).split(":")[0] for reason in reasons if isinstance(reason, str)}
    return "clips" if reasons.isna().any() else "+".join(sorted(reasons_found))


def _check(raw: Path, rows: pandas.DataFrame, alone: pandas.DataFrame) -> None:
    lost = set(list_videos(raw)) ^ set(rows["video"])
    if lost:
        raise RuntimeError(f"got no rows for {sorted(lost)}, expected every file in the candidates")
    # A mutation that changes nothing has the bytes of the untouched file, which is then its duplicate.
    for sha256, wanted in alone.groupby("video_sha256"):
        got = rows[(rows["video_sha256"] == sha256) & (rows["reason"] != "duplicate_file")]
        if sorted(got["clip_id"].dropna()) != sorted(wanted["clip_id"].dropna()):
            raise RuntimeError(f"{wanted['video'].iloc[0]}: got {len(got)} rows, expected {len(wanted)}")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=available_cores())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = fuzz(Path(folder), options.files, options.seed, options.workers)
    # Files without rows and undamaged ones without their clips have already raised an error.
    hung = figures["outcomes"].get("timeout", 0) / options.files
    write_result("fuzz", figures, {"timeout_share": hung}, ["pebble"])


if __name__ == "__main__":
    main()
