"""Speed of ingest compared with ffmpeg's decoding and scaling alone.

Ours: `ingest_videos` as the pipeline calls it, on all cores: hashing, probing, decoding, scaling, shots,
scores, thumbnails and rows, with the start of child processes. Theirs: `ffmpeg -i FILE -vf scale=...
-f null -` on the same files and to the same size, one process per core with one thread each
(`ffmpeg_parallel`), and one process at a time with all threads (`ffmpeg_threads`); the faster one counts.

    python -m benchmarks.ingest                   few long files: results/ingest.json, vs_ffmpeg
    python -m benchmarks.ingest --duration 10     32 short ones: results/ingest_10s.json, vs_ffmpeg_10s

`fixed_s` is what each run takes whatever the folder holds: ingest of one small video of 6 s. `..._cpu_s` are
seconds of all processes together: on a busy machine their quotient moves less than that of the speeds.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import av

from benchmarks.record import RESULTS, ROOT, available_cores, write_result
from videomar.config import IngestParams, load_params
from videomar.curation.ingest import ingest_videos
from videomar.media.clip_reader import cover_height
from videomar.media.mp4 import find_ffmpeg
from videomar.media.probe import probe
from videomar.media.shapes import clip_size

CORES = available_cores()
LONG_S = 30
"""Files of this length and longer are long."""
_ENCODED = 8


def make_videos(folder: Path, num_files: int, seconds: int, size: str) -> list[Path]:
    """Write H.264 files with motion, texture and a cut, unless they exist.

    From the ninth on they have the frames of the first ones, but other bytes: encoding all would take longer
    than the benchmark.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{size}_{seconds}s_{number}.mp4" for number in range(num_files)]
    for number, path in enumerate(paths):
        picture = f"mandelbrot=size={size}:rate=24:start_scale={2 + number}"
        other = f"testsrc2=size={size}:rate=24:duration={seconds / 2},rotate=t/3"
        graph = f"{picture},trim=duration={seconds / 2}[a];{other}[b];[a][b]concat,noise=alls=6:allf=t"
        command = f"-f lavfi -i {graph} -pix_fmt yuv420p -c:v libx264 -preset veryfast"
        if number >= _ENCODED:
            command = f"-i {paths[number % _ENCODED]} -c copy -metadata title={number}"
        if not path.exists():
            subprocess.run(
                [str(find_ffmpeg()), *f"-v error -nostdin -y {command}".split(), str(path)], check=True
            )
    return paths


def ours(folder: Path, params: IngestParams) -> float:
    """Seconds that ingest takes for a folder."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        figures = ingest_videos(folder, Path(out) / "candidates.parquet", params)
        took_s = time.perf_counter() - began
    if figures["unreadable"] or not figures["clips"]:
        raise RuntimeError(f"got {figures}, expected clips from every file")
    return took_s


def theirs(paths: list[Path], params: IngestParams, num_processes: int, threads: int) -> float:
    """Seconds that ffmpeg takes for the same files."""

    def run(path: Path) -> None:
        info = probe(path)
        height = min(info.height, cover_height(info, clip_size(info.width, info.height, params)))
        scale = f"scale={round(info.width * height / info.height)}:{height},format=rgb24"
        command = ["-v", "error", "-nostdin", "-threads", str(threads), "-i", str(path), "-an"]
        subprocess.run([str(find_ffmpeg()), *command, "-vf", scale, "-f", "null", "-"], check=True)

    began = time.perf_counter()
    with ThreadPoolExecutor(num_processes) as pool:
        list(pool.map(run, paths))
    return time.perf_counter() - began


def count_frames(path: Path) -> int:
    """Number of frames in a file, by its header."""
    with av.open(str(path)) as container:
        return container.streams.video[0].frames


def measure(paths: list[Path], params: IngestParams, rounds: int) -> tuple[dict[str, float], float]:
    """Measure all ways in turn; return figures, and our speed over the better one of ffmpeg."""
    frames = sum(count_frames(path) for path in paths)
    seconds: dict[str, list[float]] = {"ingest": [], "ffmpeg_parallel": [], "ffmpeg_threads": []}
    cpu_s: dict[str, list[float]] = {name: [] for name in seconds}
    ways: dict[str, Callable[[], float]] = {
        "ingest": partial(ours, paths[0].parent, params),
        "ffmpeg_parallel": partial(theirs, paths, params, CORES, 1),
        "ffmpeg_threads": partial(theirs, paths, params, 1, CORES),
    }
    for _, (name, run) in product(range(rounds), ways.items()):
        before_s = sum(os.times()[:4])
        seconds[name].append(run())
        cpu_s[name].append(sum(os.times()[:4]) - before_s)
    speeds = {
        f"{name}_frames_per_s": round(frames / statistics.median(took), 1) for name, took in seconds.items()
    }
    best = max(speeds["ffmpeg_parallel_frames_per_s"], speeds["ffmpeg_threads_frames_per_s"])
    spread = {f"{name}_spread": round(max(took) / min(took), 3) for name, took in seconds.items()}
    used = {f"{name}_cpu_s": round(statistics.median(took), 2) for name, took in cpu_s.items()}
    figures = {"files": len(paths), "frames": frames, "rounds": rounds, **speeds, **spread, **used}
    return figures, round(speeds["ingest_frames_per_s"] / best, 3)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, help="default: 2 a core of long ones, 32 of short ones")
    parser.add_argument("--duration", "--seconds", type=int, default=45, help="of each file, seconds")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--size-px", type=int, default=0, help="side of clips; 0 = as in params.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args()
    params = dataclasses.replace(load_params(ROOT / "params.yaml").ingest, num_workers=CORES)
    if options.size_px:
        params = dataclasses.replace(params, size_px=options.size_px)
    seconds, is_long = options.duration, options.duration >= LONG_S
    num_files, suffix = options.files or (2 * CORES if is_long else 32), "" if is_long else f"_{seconds}s"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as small:
        paths = make_videos(Path(folder), num_files, seconds, options.size)
        make_videos(Path(small), 1, 6, "64x64")
        fixed_s = statistics.median(ours(Path(small), params) for _ in range(options.rounds))
        figures, ratio = measure(paths, params, options.rounds)
    about = {"video": f"{options.size} H.264, {seconds} s", "clip_size_px": params.size_px}
    figures["fixed_s"] = round(fixed_s, 2)
    write_result(f"ingest{suffix}", about | figures, {f"vs_ffmpeg{suffix}": ratio}, ["pebble"], options.out)


if __name__ == "__main__":
    main()
