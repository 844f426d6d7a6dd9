"""Training of the video tokenizer on the train split.

Axes: B batch, F frames, H W rows and columns in pixels, C latent channels.
"""

import math
from pathlib import Path
from typing import NamedTuple

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from videomar.config import IngestParams, Params, TokenizerParams
from videomar.data.decode import read_ledger_clips
from videomar.data.ledger import kept_clips, read_ledger
from videomar.errors import DataError
from videomar.tokenizer.causal import CausalTokenizer, save_tokenizer, start_from_pca, to_unit_range
from videomar.runtime import step_generator
from videomar.training.log import write_rows

_PCA_CLIPS = 512
_LOG_EVERY = 20
_WARMUP_STEPS = 50
_STATISTICS_BATCH = 64


class Clips(NamedTuple):
    """Pictures (n, F, H, W, 3) uint8 by group; either may hold no clip."""

    simulated: Tensor
    real: Tensor

    def draw(self, batch_size: int, simulated_share: float, generator: torch.Generator) -> Tensor:
        """A batch (B, 3, F, H, W) in [-1, 1], half of it mirrored, with that share of simulated clips."""
        if not len(self.simulated) or not len(self.real):
            share = float(len(self.simulated) > 0)
        else:
            share = simulated_share
        count = round(batch_size * share)
        picked = [
            group[torch.randint(len(group), (size,), generator=generator)]
            for group, size in ((self.simulated, count), (self.real, batch_size - count))
            if size
        ]
        video = to_unit_range(torch.cat(picked))
        mirrored = torch.rand(len(video), generator=generator) < 0.5
        return torch.where(mirrored[:, None, None, None, None], video.flip(-1), video)


def train_from_ledger(raw: Path, ledger: Path, out: Path, plot: Path, params: Params) -> dict[str, float]:
    """Train on the kept clips of the train split, save to `out`, and measure on the test split.

    Returns:
        PSNR of the reconstruction of held-out clips, per group, and what the linear start alone reaches.
    """
    rows = kept_clips(read_ledger(ledger))
    clips = _read_clips(raw, rows[rows["split"] == "train"], params.ingest)
    if not len(clips.simulated) and not len(clips.real):
        raise DataError(
            f"{ledger}: got no clip in split train, expected some; add videos or lower curate's bars"
        )
    held_out = _read_clips(raw, rows[rows["split"] == "test"], params.ingest)
    tokenizer = train_tokenizer(clips, params.tokenizer, plot)
    save_tokenizer(tokenizer, out)
    linear = CausalTokenizer(params.tokenizer)
    _start(linear, clips)
    figures = {"train_clips": float(len(clips.simulated) + len(clips.real))}
    for name, pictures in (("sim", held_out.simulated), ("real", held_out.real)):
        if len(pictures):
            figures[f"{name}_psnr_db"] = reconstruction_psnr_db(tokenizer, pictures)
            figures[f"{name}_pca_psnr_db"] = reconstruction_psnr_db(linear, pictures)
    return figures


def train_tokenizer(clips: Clips, params: TokenizerParams, plot: Path) -> CausalTokenizer:
    """A tokenizer trained on `clips`; its loss curve goes to the CSV file `plot`."""
    torch.set_num_threads(params.threads)
    tokenizer = CausalTokenizer(params).initialise(step_generator(params.seed, -3))
    _start(tokenizer, clips)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=params.learning_rate, weight_decay=0.0)
    rows: list[dict[str, float]] = []
    progress = tqdm(range(params.steps), desc="training the tokenizer", unit="step", disable=None)
    for step in progress:
        generator = step_generator(params.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * _learning_rate_share(step, params.steps)
        video = clips.draw(params.batch_size, params.simulated_share, generator)
        loss, error = tokenizer_loss(tokenizer, video, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if step % _LOG_EVERY == 0 or step == params.steps - 1:
            rows.append({"step": step, "loss": loss.item(), "psnr_db": 10 * math.log10(4 / error.item())})
            progress.set_postfix(psnr_db=f"{rows[-1]['psnr_db']:.1f}")
    set_latent_statistics(tokenizer, clips, params)
    write_rows(plot, rows)
    return tokenizer.eval().requires_grad_(False)


def tokenizer_loss(
    tokenizer: CausalTokenizer, video: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error of the reconstruction of video (B, 3, F, H, W).

    Squared error of pixels and of their horizontal and vertical differences, and the KL term.
    """
    mean, log_variance = tokenizer.moments(video)
    noise = torch.randn(mean.shape, generator=generator)
    output = tokenizer.reconstruct(mean + (log_variance / 2).exp() * noise)
    error = F.mse_loss(output, video)
    difference = output - video
    gradients = difference.diff(dim=3).square().mean() + difference.diff(dim=4).square().mean()
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    params = tokenizer.params
    return error + params.gradient_weight * gradients + params.kl_weight * kl, error


@torch.no_grad()
def set_latent_statistics(tokenizer: CausalTokenizer, clips: Clips, params: TokenizerParams) -> None:
    """Measure mean and deviation of each latent channel over batches drawn as in training."""
    generator = step_generator(params.seed, -2)
    batches = [clips.draw(_STATISTICS_BATCH, params.simulated_share, generator) for _ in range(8)]
    latents = torch.cat([tokenizer.moments(video)[0] for video in batches])
    tokenizer.latent_mean.copy_(latents.mean((0, 2, 3, 4)))
    tokenizer.latent_std.copy_(latents.std((0, 2, 3, 4)))


def reconstruction_psnr_db(tokenizer: CausalTokenizer, pictures: Tensor) -> float:
    """Mean over clips (n, F, H, W, 3) of the PSNR of decode(encode(clip)), decibels."""
    values = []
    for batch in pictures.split(_STATISTICS_BATCH):
        video = to_unit_range(batch)
        error = (tokenizer.decode(tokenizer.encode(video)) - video).square().mean((1, 2, 3, 4))
        values.append(10 * torch.log10(4 / error.clamp_min(1e-6)))
    return torch.cat(values).mean().item()


def _start(tokenizer: CausalTokenizer, clips: Clips) -> None:
    params = tokenizer.params
    start_from_pca(tokenizer, clips.draw(_PCA_CLIPS, params.simulated_share, step_generator(params.seed, -1)))


def _read_clips(raw: Path, rows: pandas.DataFrame, ingest: IngestParams) -> Clips:
    pictures = torch.from_numpy(read_ledger_clips(raw, rows, ingest))
    simulated = torch.tensor((rows["group"] == "simulated").tolist(), dtype=torch.bool)
    return Clips(pictures[simulated], pictures[~simulated])


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
