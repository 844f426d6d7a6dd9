"""Held-out clips from a checkpoint, for the evaluation.

Axes: B batch, F frames, H W rows and columns in pixels, C channels, T latent frames, h w latent rows and
columns.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from videomar.checkpoint.folder import load
from videomar.config import Params, SampleParams
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_pictures, to_unit_range
from videomar.files import atomic_write
from videomar.model.videomar import VideoMAR
from videomar.sampling.finished_batches import Parts, basis_of
from videomar.sampling.generate import cover
from videomar.sampling.held_out import SPLIT, HeldOut, batches_of_one_shape, read_held_out
from videomar.sampling.invariants import cache_difference, causality_leak
from videomar.sampling.tasks import Task, extrapolate_latents, tasks_of
from videomar.seeding import step_generator

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("group", pa.string()),
        ("kind", pa.string()),
        ("caption", pa.string()),
        ("prompt", pa.string()),
        ("context_frames", pa.int32()),
        ("fps", pa.float64()),
        ("shape", pa.list_(pa.int32())),
        ("frames", pa.large_binary()),
    ]
)
LARGER = 1.5
_SOUNDNESS_CLIPS = 4


class Models(NamedTuple):
    """What makes clips: the trained network, the same untrained, and the tokenizer."""

    trained: VideoMAR
    untrained: VideoMAR
    tokenizer: VideoTokenizer


def sample_held_out(paths: Any, params: Params) -> dict[str, float]:
    """Generate held-out clips in every way of `tasks_of` and write them beside the truth.

    A run that was killed goes on from its finished batches, which lie beside `out` until that is written, and
    ends in the same bytes as one that was not.

    Args:
        paths: `raw`, `ledger`, `latents`, `model`, `tokenizer` and the output `out`.
        params: sections `ingest`, `text`, `sample` and `suite` are used.

    Returns:
        Clips per group, laws measured on the weights, and seconds, none left out: of sampling (pictures
        encoded and latents decoded included), of those laws, of reading and writing.
    """
    start = time.monotonic()
    torch.set_num_threads(params.suite.threads)
    loaded = load(paths.model, weights="ema")
    seed = loaded.manifest["made_with"]["train"]["seed"]
    untrained = loaded.shape.build().initialise(step_generator(seed, -1)).eval()
    models = Models(loaded.model, untrained, load_tokenizer(paths.tokenizer))
    held_out = read_held_out(paths, params)
    basis = basis_of([models.trained, models.untrained], models.tokenizer.content_hash(), params.sample)
    parts = Parts(paths.out.with_name(f".{paths.out.name}.parts"), basis)
    rows = [*_reference_rows(held_out, models.tokenizer, params, parts)]
    rows += _generated_rows(held_out, models, params, parts)
    _write(rows, paths.out, params)
    parts.remove()
    written = time.monotonic()
    laws = _soundness(held_out, models.trained)
    law_seconds = time.monotonic() - written
    counts = held_out.rows["group"].value_counts()
    return {
        "clips": len(held_out.rows),
        **{f"clips_{group}": count for group, count in counts.items()},
        "clips_generated": sum(row["kind"] not in ("truth", "tokenizer") for row in rows),
        "sampling_seconds": parts.seconds,
        "metrics_seconds": law_seconds,
        # All else: the truth decoded, weights and latents read, finished parts and clips written.
        "io_seconds": written - start - parts.seconds_now,
        **laws,
    }


def _write(rows: list[dict[str, Any]], out: Path, params: Params) -> None:
    seeds = [params.suite.seed + number for number in range(params.suite.seeds)]
    facts = {"suite": json.dumps({"split": SPLIT, "seeds": seeds})}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(facts))
    with atomic_write(out) as draft:
        pq.write_table(table, draft, compression="none", use_dictionary=False)


def _soundness(held_out: HeldOut, model: VideoMAR) -> dict[str, float]:
    """The cache's error and the leak from the future, on held-out latents of one shape."""
    batch = batches_of_one_shape(held_out.latents, _SOUNDNESS_CLIPS)[0]
    latents = torch.stack([held_out.latents[number] for number in batch.tolist()])
    captions = held_out.text[batch], held_out.text_mask[batch]
    return {
        "cache_difference": cache_difference(model, latents, captions),
        "causality_leak": causality_leak(model, latents, captions),
    }


def _reference_rows(
    held_out: HeldOut, tokenizer: VideoTokenizer, params: Params, parts: Parts
) -> Iterator[dict[str, Any]]:
    """The truth, and the truth through the tokenizer: the ceiling of what any model can reach."""
    rows = held_out.rows.to_dict("records")
    for batch in batches_of_one_shape(held_out.latents, params.suite.batch_size):
        latents = torch.stack([held_out.latents[number] for number in batch.tolist()])
        decoded = parts.part("tokenizer", [latents], partial(_decode, tokenizer, latents))
        for number, pictures in zip(batch.tolist(), decoded, strict=True):
            row = rows[number]
            yield _row(row, "truth", held_out.pictures[number], row["caption"], 0, params)
            yield _row(row, "tokenizer", pictures, row["caption"], 0, params)


def _generated_rows(
    held_out: HeldOut, models: Models, params: Params, parts: Parts
) -> Iterator[dict[str, Any]]:
    plan = [
        (task, batch)
        for task in tasks_of(params.suite)
        for batch in batches_of_one_shape(
            held_out.latents, params.suite.batch_size, held_out.extra if task.extra else None
        )
        # Other clips are too short to be continued.
        if held_out.latents[int(batch[0])].shape[1] > task.context
    ]
    records = held_out.rows.to_dict("records")
    with tqdm(
        total=sum(len(batch) for _, batch in plan), desc="generating clips", unit="clip", disable=None
    ) as bar:
        for task, batch in plan:
            prompts = batch if task.right_prompt else torch.tensor(held_out.wrong)[batch]
            made = _make(task, batch, prompts, (held_out, models, params, parts))
            given = models.tokenizer.num_frames(task.context)
            for clip, prompt, frames in zip(batch.tolist(), prompts.tolist(), made, strict=True):
                yield _row(records[clip], task.kind, frames, records[prompt]["caption"], given, params)
            bar.update(len(batch))


def _make(
    task: Task, batch: Tensor, prompts: Tensor, of_run: tuple[HeldOut, Models, Params, Parts]
) -> Tensor:
    """Clips (B, F, H, W, 3) of one task; clips and prompts are numbers (B,) of held-out clips."""
    held_out, models, params, parts = of_run
    begun = time.monotonic()
    context, length = _given(task, batch, held_out, models)
    parts.spend(time.monotonic() - begun)
    captions = held_out.text[prompts], held_out.text_mask[prompts]
    seed = params.suite.seed + task.seed
    trained = held_out.latents[int(batch[0])].shape[1]
    window = params.sample.window_frames or (trained if length > trained else 0)
    sampling: SampleParams = dataclasses.replace(params.sample, window_frames=window)

    def generate() -> Tensor:
        if task.maker == "linear":
            return _decode(models.tokenizer, extrapolate_latents(context, length))
        model = models.trained if task.maker == "trained" else models.untrained
        # The same noise for every way and every model, whatever the batch.
        noise = [step_generator(seed, clip) for clip in batch.tolist()]
        return _decode(models.tokenizer, model.generate(context, length, *captions, sampling, noise))

    name = f"{task.maker} {length} {seed} {params.suite.threads}"
    return parts.part(name, [batch, context, *captions], generate)


def _decode(tokenizer: VideoTokenizer, latents: Tensor) -> Tensor:
    return to_pictures(tokenizer.decode(latents))


def _given(task: Task, batch: Tensor, held_out: HeldOut, models: Models) -> tuple[Tensor, int]:
    """Latents given (B, C, T0, h, w), and latent frames asked for."""
    truth = torch.stack([held_out.latents[number] for number in batch.tolist()])
    length = truth.shape[2]
    if task.stretch != "larger":
        return truth[:, :, : task.context], 2 * length - 1 if task.stretch == "longer" else length
    step = models.tokenizer.space_stride * models.trained.params.patch_size
    height, width = (
        step * math.ceil(LARGER * side / step) for side in held_out.pictures[int(batch[0])].shape[1:3]
    )
    pictures = [cover(held_out.pictures[number][0].numpy(), (width, height)) for number in batch.tolist()]
    return models.tokenizer.encode(to_unit_range(torch.from_numpy(np.stack(pictures))[:, None])), length


def _row(
    clip: dict[str, Any], kind: str, frames: Tensor, prompt: str, context_frames: int, params: Params
) -> dict[str, Any]:
    return {
        "clip_id": clip["clip_id"],
        "group": clip["group"],
        "kind": kind,
        "caption": clip["caption"],
        "prompt": prompt,
        "context_frames": context_frames,
        "fps": params.ingest.fps,
        "shape": list(frames.shape),
        "frames": frames.numpy().tobytes(),
    }
