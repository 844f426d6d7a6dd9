"""Held-out clips from a checkpoint, for the evaluation.

Axes: B batch, F frames, H W rows and columns in pixels, C channels, T latent frames, h w latent rows and
columns, M caption tokens.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from videomar.checkpoint import load, seed_of
from videomar.compute.device import choose_device, device_kind, full_float32, send
from videomar.compute.seeding import step_generator
from videomar.config import Params, SampleParams
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_pictures, to_unit_range
from videomar.files import atomic_write
from videomar.media.cover import cover
from videomar.model.frames import Frames, frames_before
from videomar.model.kv_cache import KVCache
from videomar.model.patchify import patchify, token_grid
from videomar.model.videomar import VideoMAR
from videomar.sampling.carry import carry_detail, decode_pictures
from videomar.sampling.finished_batches import FinishedBatches, hash_of_run
from videomar.sampling.held_out import SPLIT, HeldOut, batches_of_one_shape, read_held_out
from videomar.sampling.tasks import CONTINUATION, IMAGE, Task, extrapolate_latents, tasks_of, window_of

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("group", pa.string()),
        ("kind", pa.string()),
        ("shot", pa.string()),
        ("caption", pa.string()),
        ("prompt", pa.string()),
        ("context_frames", pa.int32()),
        ("fps", pa.float64()),
        ("shape", pa.list_(pa.int32())),
        ("frames", pa.large_binary()),
    ]
)
_LAW_CLIPS = 4
_DECODED_CLIPS = 8
_CARRIED = {"tokenizer_carry": CONTINUATION, "image_tokenizer_carry": IMAGE}
"""Ceilings with `sample.carry`: of clips continued, and of those from one picture."""


class Models(NamedTuple):
    """The trained network, the same network untrained, and the tokenizer."""

    trained: VideoMAR
    untrained: VideoMAR
    tokenizer: VideoTokenizer


class _Run(NamedTuple):
    """What every batch of a run is made from."""

    held_out: HeldOut
    models: Models
    params: Params
    finished: FinishedBatches


def sample_held_out(paths: Any, params: Params) -> dict[str, float]:
    """Generate held-out clips for every task of `tasks_of` and write them together with the truth.

    A run that was killed continues from its finished batches, which are kept beside `out` until that file is
    written, and ends in the same bytes as an unbroken run.

    Args:
        paths: `raw`, `ledger`, `latents`, `model`, `tokenizer` and the output `out`.
        params: sections `ingest`, `text`, `sample` and `suite` are used.

    Returns:
        Clips per group, laws measured on the weights, and seconds that add up to the whole run: of sampling
        (encoding of pictures and decoding of latents included), of those laws, of reading and writing.
    """
    start = time.monotonic()
    torch.set_num_threads(params.suite.threads)
    device = choose_device(params.suite.device, "resources.suite.device")
    loaded = load(paths.model, str(device), weights="ema")
    seed = seed_of(loaded.manifest)
    untrained = loaded.shape.build().initialise(step_generator(seed, -1)).to(device).eval()
    models = Models(loaded.model, untrained, load_tokenizer(paths.tokenizer, device))
    held_out = read_held_out(paths, params)
    run_hash = hash_of_run([models.trained, models.untrained], models.tokenizer.content_hash(), params.sample)
    finished = FinishedBatches(paths.out.with_name(f".{paths.out.name}.parts"), run_hash)
    run = _Run(held_out, models, params, finished)
    rows = [*_reference_rows(run), *_generated_rows(run)]
    _write(rows, paths.out, params, device)
    finished.remove()
    written = time.monotonic()
    laws = _measure_laws(held_out, models.trained)
    law_seconds = time.monotonic() - written
    counts = held_out.rows["group"].value_counts()
    return {
        "clips": len(held_out.rows),
        **{f"clips_{group}": count for group, count in counts.items()},
        "clips_left_out_as_seen": held_out.num_seen,
        "clips_generated": sum("truth" not in row["kind"] and "tokenizer" not in row["kind"] for row in rows),
        "sampling_seconds": finished.seconds,
        "metrics_seconds": law_seconds,
        # Everything else: decoding the truth, reading weights, latents and finished batches, writing clips.
        "io_seconds": written - start - finished.seconds_now,
        **laws,
    }


def _write(rows: list[dict[str, Any]], out: Path, params: Params, device: torch.device) -> None:
    seeds = [params.suite.seed + number for number in range(params.suite.seeds)]
    stated = {"split": SPLIT, "seeds": seeds, "device": device_kind(device)}
    metadata = {"suite": json.dumps(stated)}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    with atomic_write(out) as draft:
        pq.write_table(table, draft, compression="none", use_dictionary=False)


def _reference_rows(run: _Run) -> Iterator[dict[str, Any]]:
    """The truth, and the truth through the tokenizer, the upper limit for any model, also with carry."""
    held_out, params = run.held_out, run.params
    rows = held_out.rows.to_dict("records")
    for batch in batches_of_one_shape(held_out.latents, params.suite.batch_size):
        latents = torch.stack([held_out.latents[number] for number in batch.tolist()])
        first = torch.stack([held_out.pictures[number][:1] for number in batch.tolist()])
        decode = partial(_decode, run.models.tokenizer, latents, first, 0.0)
        name = f"tokenizer {device_kind(run.models.tokenizer.device)}"
        decoded = run.finished.get_or_make(name, [latents], decode)
        for number, pictures in zip(batch.tolist(), decoded, strict=True):
            row = rows[number]
            yield _row(row, "truth", held_out.pictures[number], row["caption"], 0, params)
            yield _row(row, "tokenizer", pictures, row["caption"], 0, params)
            for kind, context in _CARRIED.items() if params.sample.carry else ():
                if latents.shape[2] > context:
                    num_given = run.models.tokenizer.num_frames(context)
                    carried = _carried(pictures, held_out.pictures[number][:num_given], params.sample.carry)
                    yield _row(row, kind, carried, row["caption"], num_given, params)
    for task in (task for task in tasks_of(params.suite) if task.of_worlds):
        for number in held_out.worlds:
            row = rows[number]
            yield _row(row, f"truth_{task.stretch}", _truth_of(task, number, run), row["caption"], 0, params)


def _truth_of(task: Task, number: int, run: _Run) -> Tensor:
    """The truth (F, H, W, 3) of a clip as a longer or larger world."""
    clip, world = run.held_out.pictures[number], run.held_out.worlds[number]
    if task.stretch == "long":
        latent_frames = task.length(run.held_out.latents[number].shape[1])
        drawn = world.frames(run.models.tokenizer.num_frames(latent_frames), (clip.shape[1], clip.shape[2]))
        return torch.cat([clip, drawn[len(clip) :]])
    return world.frames(len(clip), _larger_size(task, clip.shape, run.models))


def _carried(pictures: Tensor, given: Tensor, scale: float) -> Tensor:
    """Decoded pictures (F, H, W, 3) with what is carried from given ones (F0, H, W, 3)."""
    carried = carry_detail(to_unit_range(pictures[None]), to_unit_range(given[None]), scale)
    return to_pictures(carried)[0]


def _generated_rows(run: _Run) -> Iterator[dict[str, Any]]:
    held_out, params = run.held_out, run.params
    plan = [
        (task, batch)
        for task in tasks_of(params.suite)
        for batch in batches_of_one_shape(held_out.latents, params.suite.batch_size, _numbers(task, held_out))
        # Other clips are too short to be continued.
        if held_out.latents[int(batch[0])].shape[1] > task.context
    ]
    records = held_out.rows.to_dict("records")
    with tqdm(
        total=sum(len(batch) for _, batch in plan), desc="generating clips", unit="clip", disable=None
    ) as bar:
        for task, batch in plan:
            prompts = batch if task.right_prompt else torch.tensor(held_out.wrong)[batch]
            made = _generate(task, batch, prompts, run)
            num_context = run.models.tokenizer.num_frames(task.context)
            for clip, prompt, frames in zip(batch.tolist(), prompts.tolist(), made, strict=True):
                caption = records[prompt]["caption"]
                yield _row(records[clip], task.kind, frames, caption, num_context, params)
            bar.update(len(batch))


def _numbers(task: Task, held_out: HeldOut) -> list[int] | None:
    """Indices of the clips that a task is limited to; None = all."""
    if task.of_worlds:
        return list(held_out.worlds)
    return held_out.extra if task.extra else None


def _generate(task: Task, batch: Tensor, prompts: Tensor, run: _Run) -> Tensor:
    """Clips (B, F, H, W, 3) of one task; `batch` and `prompts` are indices (B,) of held-out clips."""
    held_out, models, params, finished = run
    start = time.monotonic()
    context, given, length = _context(task, batch, run)
    finished.add_seconds(time.monotonic() - start)
    captions = held_out.text[prompts], held_out.text_mask[prompts]
    seed = params.suite.seed + task.seed
    trained = held_out.latents[int(batch[0])].shape[1]
    window = window_of(params.sample, length, trained)
    sampling: SampleParams = dataclasses.replace(params.sample, window_frames=window)

    def make() -> Tensor:
        if task.maker == "linear":
            return _decode(models.tokenizer, extrapolate_latents(context, length), given, sampling.carry)
        model = models.trained if task.maker == "trained" else models.untrained
        # One generator per clip: the noise is the same for all tasks and models, whatever the batch.
        noise = [step_generator(seed, clip, device=device) for clip in batch.tolist()]
        inputs = [send(values, device) for values in (context, *captions)]
        made = model.generate(inputs[0], length, inputs[1], inputs[2], sampling, noise)
        return _decode(models.tokenizer, made, given, sampling.carry)

    device = models.tokenizer.device
    name = f"{task.maker} {length} {seed} {params.suite.threads} {device_kind(device)}"
    return finished.get_or_make(name, [batch, context, given, *captions], make)


def _decode(tokenizer: VideoTokenizer, latents: Tensor, given: Tensor, carry: float) -> Tensor:
    """Pictures (B, F, H, W, 3) of latents, in the CPU's memory; on a GPU a few clips at a time.

    `given` are the pictures (B, F0, H, W, 3) of the context; without carry they are not used.
    """
    device = tokenizer.device
    size = _DECODED_CLIPS if device.type == "cuda" else len(latents)
    parts = zip(latents.to(device).split(size), given.split(size), strict=True)
    return torch.cat(
        [
            decode_pictures(tokenizer, part, to_unit_range(send(pictures, device)), carry).cpu()
            for part, pictures in parts
        ]
    )


def _context(task: Task, batch: Tensor, run: _Run) -> tuple[Tensor, Tensor, int]:
    """Context (B, C, T0, h, w), its pictures (B, F0, H, W, 3), and the latent frames to generate up to."""
    held_out, models = run.held_out, run.models
    truth = torch.stack([held_out.latents[number] for number in batch.tolist()])
    length = task.length(truth.shape[2])
    if task.scale == 1:
        num_given = models.tokenizer.num_frames(task.context)
        given = torch.stack([held_out.pictures[number][:num_given] for number in batch.tolist()])
        return truth[:, :, : task.context], given, length
    given = torch.stack([_larger_picture(task, number, run) for number in batch.tolist()])[:, None]
    first = to_unit_range(given).to(models.tokenizer.device)
    return models.tokenizer.encode(first).cpu(), given, length


def _larger_picture(task: Task, number: int, run: _Run) -> Tensor:
    """The first picture (H, W, 3) of a clip at a task's size: drawn, or else enlarged."""
    clip = run.held_out.pictures[number]
    height, width = _larger_size(task, clip.shape, run.models)
    if task.of_worlds:
        return run.held_out.worlds[number].frames(1, (height, width))[0]
    return torch.from_numpy(cover(clip[0].numpy(), (width, height)))


def _larger_size(task: Task, shape: Sequence[int], models: Models) -> tuple[int, int]:
    """Height and width of a task's pictures, for clips (F, H, W, 3)."""
    step = models.tokenizer.space_stride * models.trained.params.patch_size
    height, width = (step * math.ceil(task.scale * side / step) for side in shape[1:3])
    return height, width


def _row(
    clip: dict[str, Any], kind: str, frames: Tensor, prompt: str, context_frames: int, params: Params
) -> dict[str, Any]:
    return {
        "clip_id": clip["clip_id"],
        "group": clip["group"],
        "kind": kind,
        "shot": clip["shot"] if isinstance(clip["shot"], str) else None,
        "caption": clip["caption"],
        "prompt": prompt,
        "context_frames": context_frames,
        "fps": params.ingest.fps,
        "shape": list(frames.shape),
        "frames": frames.numpy().tobytes(),
    }


def _measure_laws(held_out: HeldOut, model: VideoMAR) -> dict[str, float]:
    """Two laws of the architecture, measured with the trained weights on held-out latents of one shape.

    The tests prove them for small random networks; here they are checked for the network that is released.
    """
    batch = batches_of_one_shape(held_out.latents, _LAW_CLIPS)[0]
    device = model.trunk.mask_token.device
    latents = torch.stack([held_out.latents[number] for number in batch.tolist()]).to(device)
    captions = held_out.text[batch].to(device), held_out.text_mask[batch].to(device)
    with full_float32():
        return {
            "cache_difference": cache_difference(model, latents, captions),
            "causality_leak": causality_leak(model, latents, captions),
        }


@torch.no_grad()
def cache_difference(model: VideoMAR, latents: Tensor, captions: tuple[Tensor, Tensor]) -> float:
    """Largest difference of hidden vectors between frame by frame with a cache and one pass without; about 0.

    Half of the last frame is hidden, as in the middle of generation. The unit is that of the hidden vectors,
    whose standard deviation is about 1 after the last normalisation.

    Args:
        model: The network.
        latents: (B, C, T, H, W), normalised.
        captions: States (B, M, E) and mask (B, M).
    """
    tokens, grid = patchify(latents, model.params.patch_size), token_grid(latents, model.params.patch_size)
    hidden = torch.zeros(tokens.shape[:3], dtype=torch.bool, device=latents.device)
    hidden[:, -1, ::2] = True
    whole = model.trunk(latents, hidden, *captions)
    num_frames, num_tokens = tokens.shape[1:3]
    cache, conditioning = KVCache(num_frames * num_tokens), model.trunk.encode_text(*captions)
    worst, positions = [], torch.arange(num_frames, device=latents.device)
    previous = frames_before(tokens)
    for index in range(num_frames):
        now = slice(index, index + 1)
        frame = Frames(tokens[:, now], hidden[:, now], previous[:, now], grid, positions[now])
        cached = model.trunk.forward_tokens(frame, conditioning, cache)
        cache.commit(num_tokens)
        worst.append((cached[:, 0] - whole[:, index]).abs().max())
    return float(torch.stack(worst).max())


@torch.no_grad()
def causality_leak(model: VideoMAR, latents: Tensor, captions: tuple[Tensor, Tensor]) -> float:
    """Largest change in the hidden vectors of earlier frames when the last frame changes; 0 = no leak."""
    shape = patchify(latents, model.params.patch_size).shape[:3]
    hidden = torch.zeros(shape, dtype=torch.bool, device=latents.device)
    changed = latents.clone()
    changed[:, :, -1] += 1
    before, after = (model.trunk(clips, hidden, *captions) for clips in (latents, changed))
    return float((before[:, :-1] - after[:, :-1]).abs().max()) if latents.shape[2] > 1 else 0.0
