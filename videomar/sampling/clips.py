"""Held-out clips from a checkpoint, for the evaluation.

Axes: B batch, F frames, H W rows and columns in pixels, C channels, T latent frames.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from videomar.checkpoint import load
from videomar.config import Params, SuiteParams
from videomar.data.dataset import LatentDataset
from videomar.data.decode import read_ledger_clips
from videomar.data.ledger import kept_clips, read_ledger
from videomar.errors import DataError
from videomar.model.videomar import VideoMAR
from videomar.runtime import step_generator
from videomar.tokenizer.interface import VideoTokenizer, to_pictures
from videomar.tokenizer.loading import load_tokenizer

SPLIT = "test"
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


class Task(NamedTuple):
    """One way of making each held-out clip."""

    kind: str
    context: int
    """Latent frames given."""
    trained: bool
    right_prompt: bool


TASKS = (
    Task("continuation", 2, True, True),
    Task("continuation_untrained", 2, False, True),
    Task("image", 1, True, True),
    Task("image_wrong_prompt", 1, True, False),
)


class Models(NamedTuple):
    """What makes clips: the trained network, the same untrained, and the tokenizer."""

    trained: VideoMAR
    untrained: VideoMAR
    tokenizer: VideoTokenizer


class HeldOut(NamedTuple):
    """Held-out clips in memory, and for each of them another one whose caption is a wrong prompt for it.

    `pictures` (F, H, W, 3) and `latents` (C, T, h, w) are of many shapes; text has one row a clip.
    """

    rows: pandas.DataFrame
    pictures: list[Tensor]
    latents: list[Tensor]
    text: Tensor
    text_mask: Tensor
    wrong: list[int]


def sample_held_out(paths: Any, params: Params) -> dict[str, float]:
    """Generate held-out clips in every way of TASKS and write them beside the truth.

    Args:
        paths: `raw`, `ledger`, `latents`, `model`, `tokenizer` and the output `out`.
        params: sections `ingest`, `text`, `sample` and `suite` are used.

    Returns:
        Clips per group.
    """
    torch.set_num_threads(params.suite.threads)
    loaded = load(paths.model, weights="ema")
    seed = loaded.manifest["made_with"]["train"]["seed"]
    untrained = loaded.shape.build().initialise(step_generator(seed, -1)).eval()
    models = Models(loaded.model, untrained, load_tokenizer(paths.tokenizer))
    held_out = read_held_out(paths, params)
    rows = list(_reference_rows(held_out, models.tokenizer, params))
    rows += _generated_rows(held_out, models, params)
    draft = paths.out.with_name(f".{paths.out.name}")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft, compression="none", use_dictionary=False)
    os.replace(draft, paths.out)
    counts = held_out.rows["group"].value_counts()
    return {"clips": len(held_out.rows), **{f"clips_{group}": count for group, count in counts.items()}}


def read_held_out(paths: Any, params: Params) -> HeldOut:
    """The clips that section `suite` asks for, from the test split.

    Raises:
        DataError: the split is empty.
    """
    rows = choose_clips(kept_clips(read_ledger(paths.ledger), split=SPLIT), params.suite)
    if rows.empty:
        raise DataError(
            f"{paths.ledger}: got no clip in split {SPLIT}, expected some; add videos or lower curate's bars"
        )
    cache = LatentDataset(paths.latents, SPLIT, params.text.max_tokens)
    place = cache.largest
    stored = [cache.rows([place[clip_id]]) for clip_id in rows["clip_id"]]
    pictures = [torch.from_numpy(clip) for clip in read_ledger_clips(paths.raw, rows, params.ingest)]
    latents = [torch.from_numpy(clip.latents[0]) for clip in stored]
    text, text_mask = (
        torch.from_numpy(np.concatenate(arrays))
        for arrays in ([clip.text for clip in stored], [clip.text_mask for clip in stored])
    )
    return HeldOut(rows, pictures, latents, text, text_mask, wrong_prompts(rows))


def batches_of_one_shape(latents: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """Numbers (b,) of the clips in batches, each of clips whose latents (C, T, h, w) are of one shape."""
    members: dict[torch.Size, list[int]] = {}
    for number, clip in enumerate(latents):
        members.setdefault(clip.shape, []).append(number)
    return [batch for numbers in members.values() for batch in torch.tensor(numbers).split(batch_size)]


def choose_clips(rows: pandas.DataFrame, suite: SuiteParams) -> pandas.DataFrame:
    """At most the stated number of clips of each group, drawn by the suite's seed, in a fixed order."""
    chosen = []
    for group, count in (("simulated", suite.simulated_clips), ("real", suite.real_clips)):
        members = rows[rows["group"] == group].sort_values("clip_id")
        picked = np.random.default_rng(suite.seed).permutation(len(members))[:count]
        chosen.append(members.iloc[np.sort(picked)])
    return pandas.concat(chosen, ignore_index=True)


def wrong_prompts(rows: pandas.DataFrame) -> list[int]:
    """For each clip the next one of its group with another caption; itself where there is none."""
    wrong = []
    for number, row in enumerate(rows.itertuples()):
        later = [*range(number + 1, len(rows)), *range(number)]
        others = (n for n in later if rows["group"][n] == row.group and rows["caption"][n] != row.caption)
        wrong.append(next(others, number))
    return wrong


def _reference_rows(held_out: HeldOut, tokenizer: VideoTokenizer, params: Params) -> Iterator[dict[str, Any]]:
    """The truth, and the truth through the tokenizer: the ceiling of what any model can reach."""
    rows = held_out.rows.to_dict("records")
    for batch in batches_of_one_shape(held_out.latents, params.suite.batch_size):
        decoded = to_pictures(tokenizer.decode(torch.stack([held_out.latents[n] for n in batch.tolist()])))
        for number, pictures in zip(batch.tolist(), decoded, strict=True):
            row = rows[number]
            yield _row(row, "truth", held_out.pictures[number], row["caption"], 0, params)
            yield _row(row, "tokenizer", pictures, row["caption"], 0, params)


def _generated_rows(held_out: HeldOut, models: Models, params: Params) -> list[dict[str, Any]]:
    batches = batches_of_one_shape(held_out.latents, params.suite.batch_size)
    rows = []
    with tqdm(
        total=len(TASKS) * len(held_out.rows), desc="generating clips", unit="clip", disable=None
    ) as bar:
        for task in TASKS:
            model = models.trained if task.trained else models.untrained
            for batch in batches:
                prompts = batch if task.right_prompt else torch.tensor(held_out.wrong)[batch]
                truth = torch.stack([held_out.latents[clip] for clip in batch.tolist()])
                if truth.shape[2] <= task.context:
                    bar.update(len(batch))
                    continue  # these clips are too short to be continued
                latents = model.generate(
                    truth[:, :, : task.context],
                    truth.shape[2],
                    held_out.text[prompts],
                    held_out.text_mask[prompts],
                    params.sample,
                    # The same noise for every way and every model, whatever the batch.
                    [step_generator(params.suite.seed, clip) for clip in batch.tolist()],
                )
                given = models.tokenizer.num_frames(task.context)
                for clip, prompt, frames in zip(
                    batch.tolist(),
                    prompts.tolist(),
                    to_pictures(models.tokenizer.decode(latents)),
                    strict=True,
                ):
                    said = held_out.rows["caption"][prompt]
                    rows.append(
                        _row(held_out.rows.iloc[clip].to_dict(), task.kind, frames, said, given, params)
                    )
                bar.update(len(batch))
    return rows


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
