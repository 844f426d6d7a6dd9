"""Short measurements of the real code on this machine, in a child process that is killed at the time limit.

Axes: B batch, C channels, T latent frames, h w latent rows and columns.
"""

import dataclasses
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import choose_device
from videomar.compute.seeding import step_generator
from videomar.config import Params, TrainParams
from videomar.config.models import NAMED_ENCODERS
from videomar.encoders.causal import CausalTokenizer
from videomar.encoders.load import load_tokenizer
from videomar.encoders.text import load_text_encoder
from videomar.encoders.tokenizer import VideoTokenizer
from videomar.errors import VideomarError
from videomar.files import LOG_FILE, write_csv
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.shards import write_shards
from videomar.media.clip_reader import cover_height
from videomar.media.decode import open_video
from videomar.media.probe import VideoInfo
from videomar.media.shapes import ClipShape, clip_size
from videomar.model.videomar import VideoMAR
from videomar.ops.planning.plan_counts import LatentShape
from videomar.training.loop import train
from videomar.training.parallelize import DTYPES
from videomar.training.state import untrained
from videomar.training.throughput import matmul_rate, peak_memory_gb
from videomar.training.worker import Worker

REFUSED = "refused"
"""Kind of message: a run would be refused, with the reason."""
STEPS = 6
"""Steps of each curriculum stage: the first warms up, the last is followed by a validation."""
_DECODE_S = 3.0
_CLIPS = 32
_CAPTIONS = 8
_CAPTION_WORDS = 8
Send = Callable[[tuple[Any, ...]], None]


class Subject(NamedTuple):
    """Everything that the measurements need, ready to be sent to the child process."""

    params: Params
    model: ModelShape
    shapes: list[tuple[int, LatentShape]]
    """Base size and latent shape of a sample of the cached clips."""
    val_clips: int
    clip: ClipShape
    """One clip in pixels."""
    tokenizer: Path | None
    video: tuple[Path, VideoInfo] | None


def measure(subject: Subject, limit_s: float) -> Iterator[tuple[Any, ...]]:
    """Yield the messages of all probes, documented below, as they arrive, until the time limit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, subject), daemon=False)
    process.start()
    theirs.close()
    until = time.monotonic() + limit_s
    try:
        while ours.poll(max(0.0, until - time.monotonic())):
            yield ours.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()


def _measure(results: Connection, subject: Subject) -> None:
    try:
        for probe in PROBES:
            probe(subject, results.send)
    except VideomarError as error:
        results.send((REFUSED, str(error)))


def decode_probe(subject: Subject, send: Send) -> None:
    """Send (`decode`, frames a second)."""
    if subject.video is None:
        return
    path, info = subject.video
    size = clip_size(info.width, info.height, subject.params.ingest)

    start, frames = time.perf_counter(), 0
    for block in open_video(path, info, cover_height(info, size)):
        frames += len(block.times)
        if time.perf_counter() - start > _DECODE_S:
            break
    send(("decode", frames / (time.perf_counter() - start)))


def encode_probe(subject: Subject, send: Send) -> None:
    """Send (`encode`, seconds for a clip on one core, peak memory GB)."""
    own = subject.params.tokenizer
    torch.set_num_threads(1)
    tokenizer: VideoTokenizer
    if subject.tokenizer is not None:
        tokenizer = load_tokenizer(subject.tokenizer)
    elif own.pretrained is None:
        # Untrained weights take as long.
        tokenizer = CausalTokenizer(own).initialise(step_generator(0, 0))
    else:
        return
    clip = subject.clip
    video = torch.zeros(1, 3, clip.num_frames, clip.height_px, clip.width_px)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        tokenizer.encode(video)
        seconds.append(time.perf_counter() - start)
    send(("encode", min(seconds), peak_memory_gb(torch.device("cpu"))))


def captions_probe(subject: Subject, send: Send) -> None:
    """Send (`captions`, seconds for a caption on one core, peak memory GB), if the model is there."""
    params = subject.params.text
    if params.encoder not in NAMED_ENCODERS and not Path(params.encoder).is_dir():
        return
    torch.set_num_threads(1)
    encoder = load_text_encoder(params)
    captions = ["a clip of a thing that moves from here to there"] * _CAPTIONS
    start = time.perf_counter()
    encoder.encode(captions)
    send(("captions", (time.perf_counter() - start) / _CAPTIONS, peak_memory_gb(torch.device("cpu"))))


def rate_probe(subject: Subject, send: Send) -> None:
    """Send (`matmul`, operations a second of all workers' matrix products)."""
    params = subject.params.train
    torch.set_num_threads(params.threads_per_worker)
    device = choose_device(params.device)
    send(("matmul", matmul_rate(device, DTYPES[params.precision]) * params.workers_on(device.type)))


class _Clock:
    """A `Tracker` that sends the time of each row of the log: (`row`, stage, second, validated, peak)."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.flushed = 0.0

    def log(self, step: int, figures: dict[str, float]) -> None:
        peak = figures.get("peak_memory_gb", 0.0)
        self.send(("row", int(figures["stage"]), time.perf_counter(), "val_loss" in figures, peak))

    def tag(self, values: dict[str, str]) -> None:
        """Nothing to record."""

    def log_preview(self, step: int, model: VideoMAR) -> None:
        """Nothing to show."""

    def flush(self) -> None:
        self.flushed = time.perf_counter()


def training_probe(subject: Subject, send: Send) -> None:
    """Run a few steps of every curriculum stage with the real loop on clips of noise.

    Sends rows as `_Clock` does, (`log`, seconds to write a row of the log) and (`keep`, seconds to write a
    checkpoint).
    """
    params = subject.params.train
    torch.set_num_threads(params.threads_per_worker)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_clips(root / "train", subject, max(_CLIPS, 1), "train")
        data = LatentDataset(root / "train", "train", subject.model.max_text_tokens)
        val = None
        if params.validate_every and subject.val_clips:
            _write_clips(root / "val", subject, min(subject.val_clips, params.validation_clips), "val")
            val = LatentDataset(root / "val", "val", subject.model.max_text_tokens)
        rows = [{"step": number, "stage": 0, "loss": 1 / 3, "grad_norm": 1 / 3} for number in range(STEPS)]
        start = time.perf_counter()
        for _ in range(3):
            write_csv(root / LOG_FILE, rows)
        send(("log", (time.perf_counter() - start) / 3))
        clock, worker = _Clock(send), Worker(device=choose_device(params.device))
        train(subject.model, Splits(data, val), _short(params), root / "run", worker, clock)
        send(("keep", time.perf_counter() - clock.flushed))


def _short(params: TrainParams) -> TrainParams:
    """The parameters with a few steps per stage, for one worker, with every step logged."""
    stages = []
    for stage in params.curriculum:
        size = stage.batch_size
        if isinstance(size, int):
            size //= params.workers_on(choose_device(params.device).type)
        stages.append(dataclasses.replace(stage, steps=STEPS, batch_size=size, target_loss=None))
    rare = 10**9
    return dataclasses.replace(
        params,
        curriculum=tuple(stages),
        draw_latents=False,
        sharding="ddp",
        spike_factor=0.0,
        validate_every=rare if params.validate_every else 0,
        log_every=1,
        preview_every=0,
        checkpoint_every=rare,
        num_workers=1,
    )


def sampling_probe(subject: Subject, send: Send) -> None:
    """Send (`sample`, seconds for a batch of clips continued from two latent frames, peak memory GB)."""
    params, model = subject.params, untrained(subject.model, 0).eval()
    torch.set_num_threads(params.suite.threads)
    channels, frames, rows, columns = max((shape for _, shape in subject.shapes), key=math.prod)
    if frames < 2:
        return
    count = params.suite.batch_size
    context = torch.zeros(count, channels, min(2, frames - 1), rows, columns)
    text = torch.zeros(count, subject.model.max_text_tokens, subject.model.text_channels)
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    noise = [step_generator(0, clip) for clip in range(count)]
    start = time.perf_counter()
    model.generate(context, frames, text, mask, params.sample, noise)
    send(("sample", time.perf_counter() - start, peak_memory_gb(torch.device("cpu"))))


PROBES = (decode_probe, captions_probe, encode_probe, rate_probe, training_probe, sampling_probe)


def _write_clips(folder: Path, subject: Subject, count: int, split: str) -> None:
    """Write a latent cache of noise with `count` clips at every size, in the shapes of the subject."""
    generator = step_generator(0, 0)
    rows: list[dict[str, Any]] = []
    by_size: dict[int, list[LatentShape]] = {}
    for size, shape in subject.shapes:
        by_size.setdefault(size, []).append(shape)
    channels = subject.model.text_channels
    words = min(_CAPTION_WORDS, subject.model.max_text_tokens)
    for size, shapes in by_size.items():
        for number in range(count):
            shape = shapes[number % len(shapes)]
            latents = torch.randn(*shape, generator=generator).half().numpy()
            rows.append(
                {"clip_id": f"{number:06d}", "key": f"{size} {number}", "text_key": "t", "caption": ""}
                | {"shape": list(shape), "dtype": "float16", "latents": latents.tobytes()}
                | {"text": bytes(2 * words * channels), "text_shape": [words, channels]}
                | {"group": "real" if number % 2 else "simulated", "split": split, "size_px": size}
                | {"fps": subject.params.ingest.fps, "motion": 1.0, "view": 0}
            )
    write_shards(folder, rows, len(rows))


def spread(shapes: Sequence[tuple[int, LatentShape]], count: int) -> list[tuple[int, LatentShape]]:
    """Return about `count` of them, evenly spaced."""
    return list(shapes[:: max(1, len(shapes) // count)])
