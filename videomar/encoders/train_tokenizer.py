"""Train the video tokenizer on the train split, or take a pretrained one; measure it on the test split.

Memory does not grow with the number of clips: those that training draws are on disk (`clip_store`), and
held-out ones are measured as they are decoded. A pretrained tokenizer needs no clip of the train split.

Axes: B batch, F frames, H W rows and columns in pixels, C latent channels.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from videomar.compute.device import autocast, choose_device, full_float32, repeat_exactly
from videomar.compute.seeding import step_generator
from videomar.config import Params, TokenizerParams
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.encoders.causal import (
    CausalTokenizer,
    save_tokenizer,
    start_from_pca,
    start_from_streamed_pca,
)
from videomar.encoders.clip_store import ClipStore
from videomar.encoders.drawn_clips import Draw, Draws, batches, load_videos
from videomar.encoders.load import copy_tokenizer, load_tokenizer
from videomar.encoders.pretrained import facts_of, refuse_misfit
from videomar.encoders.reconstruction import decibels, psnr_db, reconstruction_errors
from videomar.encoders.tokenizer import VideoTokenizer
from videomar.encoders.tokenizer_run import (
    TokenizerRun,
    claim_work_folder,
    describe_tokenizer_run,
    restore_run,
    save_run,
)
from videomar.errors import DataError
from videomar.files import write_csv

_LOG_EVERY = 20
_WARMUP_STEPS = 50
# Most bytes of drawn videos, as float32, that are in memory at once for the linear start and the statistics.
_CHUNK_BYTES = 2**27


def train_from_ledger(raw: Path, ledger: Path, out: Path, plot: Path, params: Params) -> dict[str, float]:
    """Train on the kept clips of the train split, save to `out`, and measure on the test split.

    A run that was killed continues, see `tokenizer_run`. With `tokenizer.pretrained` nothing is trained, and
    that tokenizer is copied to `out`. The loss curve is written to the CSV file `plot`; of a pretrained
    tokenizer it has one row, the error of the held-out clips.

    Returns:
        PSNR of the reconstruction of held-out clips, per group, and that of the linear start of a trained
        tokenizer.

    Raises:
        DataError: the train split is empty, the disk has no room for its clips, or clips and strides differ.
        CheckpointError: the pretrained tokenizer cannot be loaded, or the loss is not finite.
        ParamsError: parameters do not fit the pretrained tokenizer.
    """
    rows = kept_clips(read_ledger(ledger, thumbnails=False))
    train, held_out = (rows[rows["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    held_out = held_out[held_out["num_frames"] > 1].reset_index(drop=True)  # its figures are of video alone
    if not len(train):
        raise DataError(
            f"{ledger}: got no clip in split train, expected some; add videos or lower curate's bars"
        )
    torch.set_num_threads(params.tokenizer.threads)
    device = choose_device(params.tokenizer.device, "resources.tokenizer.device")
    work = out.with_name(f"{out.name}.work")
    tokenizers: dict[str, VideoTokenizer]
    if params.tokenizer.pretrained is None:
        trained, linear, curve = train_tokenizer(raw, train, params, work, device)
        _replace_tokenizer(trained, out)
        tokenizers = {"psnr_db": trained, "pca_psnr_db": linear}
    else:
        folder = Path(params.tokenizer.pretrained)
        refuse_misfit(facts_of(load_tokenizer(folder)), folder, params)  # before `out` is emptied
        tokenizers, curve = {"psnr_db": copy_tokenizer(folder, out, device)}, []
    errors = reconstruction_errors(raw, held_out, params.ingest, tokenizers, device)
    if not curve:
        error = torch.cat([*errors.values(), torch.zeros(0)]).mean().item()
        curve = [{"step": 0, "loss": error, "psnr_db": decibels(error)}] if errors else [{"step": 0}]
    write_csv(plot, curve)
    shutil.rmtree(work, ignore_errors=True)
    figures = {f"{group}_{name}": psnr_db(each) for (group, name), each in errors.items()}
    return {"train_clips": float(len(train)), **dict(sorted(figures.items(), reverse=True))}


def train_tokenizer(
    raw: Path, rows: pandas.DataFrame, params: Params, work: Path, device: torch.device
) -> tuple[CausalTokenizer, CausalTokenizer, list[dict[str, float]]]:
    """Train a tokenizer on rows of the ledger, from the newest checkpoint in `work` if this run has one.

    Returns:
        The tokenizer, its linear start, and the loss curve.
    """
    own = params.tokenizer
    repeat_exactly(device)
    identity = describe_tokenizer_run(rows, params.ingest.fps, own)
    claim_work_folder(work, identity)
    draws = Draws(rows, own)
    with ClipStore(work / "clips", rows, draws.all_rows(), params.ingest) as store:
        store.fill(raw)
        tokenizer = CausalTokenizer(own).initialise(step_generator(own.seed, -3)).to(device)
        optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=own.learning_rate, weight_decay=0.0)
        run = TokenizerRun(tokenizer, optimizer)
        if not restore_run(run, work):
            set_linear_start(tokenizer, draws, store)
        progress = tqdm(
            batches(draws, store, own, run.step, device),
            desc="training the tokenizer",
            unit="step",
            total=own.steps,
            initial=run.step,
            disable=None,
        )
        for step, parts, generator in progress:
            for group in run.optimizer.param_groups:
                group["lr"] = own.learning_rate * _learning_rate_share(step, own.steps)
            with autocast(device):
                loss, error = batch_loss(tokenizer, own, parts, generator)
            run.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
            run.optimizer.step()
            run.step = step + 1
            if step % _LOG_EVERY == 0 or run.step == own.steps:
                run.rows.append({"step": step, "loss": loss.item(), "psnr_db": decibels(error.item())})
                progress.set_postfix(psnr_db=f"{run.rows[-1]['psnr_db']:.1f}")
            if run.step % own.checkpoint_every == 0 or run.step == own.steps:
                save_run(run, work, identity, loss.item())
        set_latent_statistics(tokenizer, draws, store)
        linear = CausalTokenizer(own).to(device)
        set_linear_start(linear, draws, store)
    return tokenizer.eval().requires_grad_(False), linear, run.rows


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

    Squared error of pixels and of their horizontal and vertical differences, and the KL term. The generator
    is on the device of the video.
    """
    # Convolutions may compute in bfloat16; sums of squares do not.
    mean, log_variance = (moment.float() for moment in tokenizer.moments(video))
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    output = tokenizer.reconstruct(mean + (log_variance / 2).exp() * noise).float()
    error = F.mse_loss(output, video)
    difference = output - video
    gradients = difference.diff(dim=3).square().mean() + difference.diff(dim=4).square().mean()
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    return error + params.gradient_weight * gradients + params.kl_weight * kl, error


@torch.no_grad()
def set_latent_statistics(tokenizer: CausalTokenizer, draws: Draws, store: ClipStore) -> None:
    """Measure mean and deviation of each latent channel over batches drawn as in training."""
    device = tokenizer.latent_mean.device
    latents = [
        tokenizer.moments(video)[0].transpose(0, 1).flatten(1)
        for drawn in draws.for_statistics()
        for chunk in _chunks(drawn, store)
        for video in load_videos(store, chunk, device)
    ]
    joined = torch.cat(latents, 1)
    tokenizer.latent_mean.copy_(joined.mean(1))
    tokenizer.latent_std.copy_(joined.std(1))


def set_linear_start(tokenizer: CausalTokenizer, draws: Draws, store: ClipStore) -> None:
    """Start the linear maps from the principal components of drawn clips, in float32."""
    device, chunks = tokenizer.latent_mean.device, _chunks(draws.for_pca(), store)
    with full_float32():
        if len(chunks) == 1:
            start_from_pca(tokenizer, *load_videos(store, chunks[0], device))
        else:
            start_from_streamed_pca(
                tokenizer, lambda: (video for chunk in chunks for video in load_videos(store, chunk, device))
            )


def _chunks(draws: Sequence[Draw], store: ClipStore) -> list[list[Draw]]:
    """Split draws into parts that fit into memory."""
    chunks: list[list[Draw]] = [[]]
    size = 0
    for draw in draws:
        num_bytes = 4 * store.num_bytes(draw.row)
        if chunks[-1] and size + num_bytes > _CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(draw)
        size += num_bytes
    return chunks


def _replace_tokenizer(tokenizer: CausalTokenizer, out: Path) -> None:
    """Write a tokenizer to `out`, which is emptied: old files could be taken for another kind."""
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_tokenizer(tokenizer, draft)
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
