"""Train the video tokenizer on the train split, or take a pretrained one; measure it on the test split.

Axes: B batch, F frames, H W rows and columns in pixels, C latent channels.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from videomar.compute.seeding import step_generator
from videomar.config import IngestParams, Params, TokenizerParams
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.encoders.causal import CausalTokenizer, save_tokenizer, start_from_pca
from videomar.encoders.load import copy_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_unit_range
from videomar.errors import DataError
from videomar.files import write_csv
from videomar.media.clip_reader import read_ledger_clips

_PCA_CLIPS = 512
_LOG_EVERY = 20
_WARMUP_STEPS = 50
_STATISTICS_BATCH = 64
# Clips measured at once: few, because a pretrained tokenizer is large.
_MEASURE_BATCH = 8


class TokenizerClips(NamedTuple):
    """Pictures (F, H, W, 3) uint8 of clips by group; shapes may differ, and a group may be empty."""

    simulated: Sequence[Tensor]
    real: Sequence[Tensor]

    def draw(self, batch_size: int, simulated_share: float, generator: torch.Generator) -> list[Tensor]:
        """Draw a batch in parts of one shape each, (b, 3, F, H, W) in [-1, 1]; half of it is mirrored.

        If one group is empty, all clips come from the other one.
        """
        if not len(self.simulated) or not len(self.real):
            share = float(len(self.simulated) > 0)
        else:
            share = simulated_share
        count = round(batch_size * share)
        picked = [
            group[number]
            for group, size in ((self.simulated, count), (self.real, batch_size - count))
            if size
            for number in torch.randint(len(group), (size,), generator=generator).tolist()
        ]
        mirrored = torch.rand(len(picked), generator=generator) < 0.5
        clips = [clip.flip(2) if flip else clip for clip, flip in zip(picked, mirrored, strict=True)]
        return [to_unit_range(part) for part in by_shape(clips)]


def by_shape(clips: Sequence[Tensor]) -> list[Tensor]:
    """Stack clips (F, H, W, 3) of equal shape to (b, F, H, W, 3), in the order of their first clips."""
    parts: dict[torch.Size, list[Tensor]] = {}
    for clip in clips:
        parts.setdefault(clip.shape, []).append(clip)
    return [torch.stack(part) for part in parts.values()]


def train_from_ledger(raw: Path, ledger: Path, out: Path, plot: Path, params: Params) -> dict[str, float]:
    """Train on the kept clips of the train split, save to `out`, and measure on the test split.

    With `tokenizer.pretrained` nothing is trained, and that tokenizer is copied to `out`.

    Returns:
        PSNR of the reconstruction of held-out clips, per group, and that of the linear start of a trained
        tokenizer.
    """
    rows = kept_clips(read_ledger(ledger))
    clips = _read_clips(raw, rows[rows["split"] == "train"], params.ingest)
    if not len(clips.simulated) and not len(clips.real):
        raise DataError(
            f"{ledger}: got no clip in split train, expected some; add videos or lower curate's bars"
        )
    held_out = _read_clips(raw, rows[rows["split"] == "test"], params.ingest)
    torch.set_num_threads(params.tokenizer.threads)
    measured: dict[str, VideoTokenizer]
    if params.tokenizer.pretrained is None:
        trained = train_tokenizer(clips, params.tokenizer, plot)
        shutil.rmtree(out, ignore_errors=True)  # old files could be taken for another kind
        save_tokenizer(trained, out)
        linear = CausalTokenizer(params.tokenizer)
        _start(linear, clips, params.tokenizer)
        measured = {"psnr_db": trained, "pca_psnr_db": linear}
    else:
        measured = {"psnr_db": take_tokenizer(clips, params.tokenizer, out, plot)}
    metrics = {"train_clips": float(len(clips.simulated) + len(clips.real))}
    for group, pictures in (("sim", held_out.simulated), ("real", held_out.real)):
        for name, tokenizer in measured.items():
            if len(pictures):
                metrics[f"{group}_{name}"] = reconstruction_psnr_db(tokenizer, pictures)
    return metrics


def take_tokenizer(clips: TokenizerClips, params: TokenizerParams, out: Path, plot: Path) -> VideoTokenizer:
    """Copy the tokenizer in the folder `pretrained` to `out` and return it.

    In place of a loss curve the CSV file `plot` has one row: the squared error of a batch of `clips`.
    """
    tokenizer = copy_tokenizer(Path(str(params.pretrained)), out)
    parts = clips.draw(_MEASURE_BATCH, params.simulated_share, step_generator(params.seed, 0))
    error = torch.cat([_squared_errors(tokenizer, video) for video in parts]).mean().item()
    write_csv(plot, [{"step": 0, "loss": error, "psnr_db": _psnr_db(error)}])
    return tokenizer


def train_tokenizer(clips: TokenizerClips, params: TokenizerParams, plot: Path) -> CausalTokenizer:
    """Train a tokenizer on `clips`; its loss curve is written to the CSV file `plot`."""
    tokenizer = CausalTokenizer(params).initialise(step_generator(params.seed, -3))
    _start(tokenizer, clips, params)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=params.learning_rate, weight_decay=0.0)
    rows: list[dict[str, float]] = []
    progress = tqdm(range(params.steps), desc="training the tokenizer", unit="step", disable=None)
    for step in progress:
        generator = step_generator(params.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * _learning_rate_share(step, params.steps)
        parts = clips.draw(params.batch_size, params.simulated_share, generator)
        loss, error = batch_loss(tokenizer, params, parts, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if step % _LOG_EVERY == 0 or step == params.steps - 1:
            rows.append({"step": step, "loss": loss.item(), "psnr_db": _psnr_db(error.item())})
            progress.set_postfix(psnr_db=f"{rows[-1]['psnr_db']:.1f}")
    set_latent_statistics(tokenizer, clips, params)
    write_csv(plot, rows)
    return tokenizer.eval().requires_grad_(False)


def batch_loss(
    tokenizer: CausalTokenizer, params: TokenizerParams, parts: list[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return means over clips of `tokenizer_loss`, for a batch in parts (b, 3, F, H, W) of one shape each."""
    losses = [torch.stack(tokenizer_loss(tokenizer, params, part, generator)) * len(part) for part in parts]
    loss, error = torch.stack(losses).sum(0) / sum(map(len, parts))
    return loss, error


def tokenizer_loss(
    tokenizer: CausalTokenizer, params: TokenizerParams, video: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the training loss and the mean squared error of the reconstruction of video (B, 3, F, H, W).

    Squared error of pixels and of their horizontal and vertical differences, and the KL term.
    """
    mean, log_variance = tokenizer.moments(video)
    noise = torch.randn(mean.shape, generator=generator)
    output = tokenizer.reconstruct(mean + (log_variance / 2).exp() * noise)
    error = F.mse_loss(output, video)
    difference = output - video
    gradients = difference.diff(dim=3).square().mean() + difference.diff(dim=4).square().mean()
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    return error + params.gradient_weight * gradients + params.kl_weight * kl, error


@torch.no_grad()
def set_latent_statistics(tokenizer: CausalTokenizer, clips: TokenizerClips, params: TokenizerParams) -> None:
    """Measure mean and deviation of each latent channel over batches drawn as in training."""
    generator = step_generator(params.seed, -2)
    batches = [clips.draw(_STATISTICS_BATCH, params.simulated_share, generator) for _ in range(8)]
    latents = torch.cat(
        [tokenizer.moments(video)[0].transpose(0, 1).flatten(1) for parts in batches for video in parts], 1
    )
    tokenizer.latent_mean.copy_(latents.mean(1))
    tokenizer.latent_std.copy_(latents.std(1))


def reconstruction_psnr_db(tokenizer: VideoTokenizer, pictures: Sequence[Tensor]) -> float:
    """Mean over clips (F, H, W, 3) of any shapes of the PSNR of decode(encode(clip)), decibels."""
    batches = (batch for part in by_shape(pictures) for batch in part.split(_MEASURE_BATCH))
    errors = [_squared_errors(tokenizer, to_unit_range(batch)) for batch in batches]
    return (10 * torch.log10(4 / torch.cat(errors).clamp_min(1e-6))).mean().item()


def _squared_errors(tokenizer: VideoTokenizer, video: Tensor) -> Tensor:
    """(B,): mean squared error of the reconstruction of each clip of video (B, 3, F, H, W)."""
    return (tokenizer.decode(tokenizer.encode(video)) - video).square().mean((1, 2, 3, 4))


def _psnr_db(error: float) -> float:
    """Decibels of a mean squared error of values in [-1, 1]."""
    return 10 * math.log10(4 / max(error, 1e-6))


def _start(tokenizer: CausalTokenizer, clips: TokenizerClips, params: TokenizerParams) -> None:
    start_from_pca(
        tokenizer, *clips.draw(_PCA_CLIPS, params.simulated_share, step_generator(params.seed, -1))
    )


def _read_clips(raw: Path, rows: pandas.DataFrame, ingest: IngestParams) -> TokenizerClips:
    pictures = [torch.from_numpy(clip) for clip in read_ledger_clips(raw, rows, ingest)]
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for clip, group in zip(pictures, rows["group"], strict=True):
        groups[group == "simulated"].append(clip)
    return TokenizerClips(groups[True], groups[False])


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
