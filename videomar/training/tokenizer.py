"""The video tokenizer of a run: trained on the train split, or a ready one.

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
from videomar.runtime import step_generator
from videomar.tokenizer.causal import CausalTokenizer, save_tokenizer, start_from_pca
from videomar.tokenizer.interface import VideoTokenizer, to_unit_range
from videomar.tokenizer.loading import copy_tokenizer
from videomar.training.log import write_rows

_PCA_CLIPS = 512
_LOG_EVERY = 20
_WARMUP_STEPS = 50
_STATISTICS_BATCH = 64
# Clips that are measured at once: few, because a ready tokenizer is large.
_MEASURE_BATCH = 8


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

    With `tokenizer.pretrained` nothing is trained: `out` gets a copy of that tokenizer.

    Returns:
        PSNR of the reconstruction of held-out clips, per group, and what the linear start of a trained
        tokenizer alone reaches.
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
        save_tokenizer(trained, out)
        linear = CausalTokenizer(params.tokenizer)
        _start(linear, clips, params.tokenizer)
        measured = {"psnr_db": trained, "pca_psnr_db": linear}
    else:
        measured = {"psnr_db": take_tokenizer(clips, params.tokenizer, out, plot)}
    figures = {"train_clips": float(len(clips.simulated) + len(clips.real))}
    for group, pictures in (("sim", held_out.simulated), ("real", held_out.real)):
        for name, tokenizer in measured.items():
            if len(pictures):
                figures[f"{group}_{name}"] = reconstruction_psnr_db(tokenizer, pictures)
    return figures


def take_tokenizer(clips: Clips, params: TokenizerParams, out: Path, plot: Path) -> VideoTokenizer:
    """The tokenizer in the folder `pretrained`, copied to `out`.

    Instead of a loss curve the CSV file `plot` gets one row: the squared error of a batch of `clips`.
    """
    tokenizer = copy_tokenizer(Path(str(params.pretrained)), out)
    video = clips.draw(_MEASURE_BATCH, params.simulated_share, step_generator(params.seed, 0))
    error = _squared_errors(tokenizer, video).mean().item()
    write_rows(plot, [{"step": 0, "loss": error, "psnr_db": _psnr_db(error)}])
    return tokenizer


def train_tokenizer(clips: Clips, params: TokenizerParams, plot: Path) -> CausalTokenizer:
    """A tokenizer trained on `clips`; its loss curve goes to the CSV file `plot`."""
    tokenizer = CausalTokenizer(params).initialise(step_generator(params.seed, -3))
    _start(tokenizer, clips, params)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=params.learning_rate, weight_decay=0.0)
    rows: list[dict[str, float]] = []
    progress = tqdm(range(params.steps), desc="training the tokenizer", unit="step", disable=None)
    for step in progress:
        generator = step_generator(params.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * _learning_rate_share(step, params.steps)
        video = clips.draw(params.batch_size, params.simulated_share, generator)
        loss, error = tokenizer_loss(tokenizer, params, video, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if step % _LOG_EVERY == 0 or step == params.steps - 1:
            rows.append({"step": step, "loss": loss.item(), "psnr_db": _psnr_db(error.item())})
            progress.set_postfix(psnr_db=f"{rows[-1]['psnr_db']:.1f}")
    set_latent_statistics(tokenizer, clips, params)
    write_rows(plot, rows)
    return tokenizer.eval().requires_grad_(False)


def tokenizer_loss(
    tokenizer: CausalTokenizer, params: TokenizerParams, video: Tensor, generator: torch.Generator
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
    return error + params.gradient_weight * gradients + params.kl_weight * kl, error


@torch.no_grad()
def set_latent_statistics(tokenizer: CausalTokenizer, clips: Clips, params: TokenizerParams) -> None:
    """Measure mean and deviation of each latent channel over batches drawn as in training."""
    generator = step_generator(params.seed, -2)
    batches = [clips.draw(_STATISTICS_BATCH, params.simulated_share, generator) for _ in range(8)]
    latents = torch.cat([tokenizer.moments(video)[0] for video in batches])
    tokenizer.latent_mean.copy_(latents.mean((0, 2, 3, 4)))
    tokenizer.latent_std.copy_(latents.std((0, 2, 3, 4)))


def reconstruction_psnr_db(tokenizer: VideoTokenizer, pictures: Tensor) -> float:
    """Mean over clips (n, F, H, W, 3) of the PSNR of decode(encode(clip)), decibels."""
    errors = [_squared_errors(tokenizer, to_unit_range(batch)) for batch in pictures.split(_MEASURE_BATCH)]
    return (10 * torch.log10(4 / torch.cat(errors).clamp_min(1e-6))).mean().item()


def _squared_errors(tokenizer: VideoTokenizer, video: Tensor) -> Tensor:
    """(B,): mean squared error of the reconstruction of each clip of video (B, 3, F, H, W)."""
    return (tokenizer.decode(tokenizer.encode(video)) - video).square().mean((1, 2, 3, 4))


def _psnr_db(error: float) -> float:
    """Decibels of a mean squared error of values in [-1, 1]."""
    return 10 * math.log10(4 / max(error, 1e-6))


def _start(tokenizer: CausalTokenizer, clips: Clips, params: TokenizerParams) -> None:
    start_from_pca(tokenizer, clips.draw(_PCA_CLIPS, params.simulated_share, step_generator(params.seed, -1)))


def _read_clips(raw: Path, rows: pandas.DataFrame, ingest: IngestParams) -> Clips:
    pictures = torch.from_numpy(read_ledger_clips(raw, rows, ingest))
    simulated = torch.tensor((rows["group"] == "simulated").tolist(), dtype=torch.bool)
    return Clips(pictures[simulated], pictures[~simulated])


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
