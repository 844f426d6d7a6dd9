"""Cosmos continuous video tokenizers from a local folder, used as they are.

Two forms: `AutoencoderKLCosmos` of diffusers (config.json and safetensors), and NVIDIA's TorchScript files
(encoder.jit and decoder.jit). Nothing is downloaded.

Source: Cosmos, arXiv 2501.03575, section 4; they are plain autoencoders, so the latent is the posterior's
mode.

Axes: B batch, F frames, H W pixel rows and columns, T latent frames, h w latent rows and columns, C latent
channels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from videomar.compute.torchscript import load_torchscript
from videomar.encoders.diffusers_folder import diffusers_files, load_network
from videomar.encoders.tokenizer import VideoTokenizer
from videomar.errors import CheckpointError
from videomar.files import sha256_of

COSMOS_CLASS = "AutoencoderKLCosmos"
TORCHSCRIPT_FILES = ("encoder.jit", "decoder.jit")
# VideoMAR (arXiv 2506.14168) multiplies Cosmos' latents by 0.5.
_LATENT_MEAN, _LATENT_STD = 0.0, 2.0
# Size of the video that measures the strides of TorchScript files; all strides of Cosmos divide it.
_PROBE_FRAMES, _PROBE_PX = 17, 64
# Reach of a layer that attends to all earlier frames, see `Stream`.
ALL = None


def torchscript_files(folder: Path) -> list[Path]:
    """Return the files of the folder that `TorchScriptCosmos` needs; none if it contains something else."""
    files = [folder / name for name in TORCHSCRIPT_FILES]
    return files if all(file.is_file() for file in files) else []


class _Cosmos(nn.Module, VideoTokenizer):
    """Common base of both forms. Remembers the statistics and the hash of the files."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, files: Sequence[Path], channels: int, time_stride: int, space_stride: int) -> None:
        super().__init__()
        self.channels, self.time_stride, self.space_stride = channels, time_stride, space_stride
        self.register_buffer("latent_mean", torch.full((channels,), _LATENT_MEAN))
        self.register_buffer("latent_std", torch.full((channels,), _LATENT_STD))
        digest = hashlib.sha256(f"{_LATENT_MEAN} {_LATENT_STD}".encode())
        for file in files:
            digest.update(file.name.encode() + bytes.fromhex(sha256_of(file)))
        self._content_hash = digest.hexdigest()

    def content_hash(self) -> str:
        """Return a hash of the files of weights, of the configuration, and of our scale."""
        return self._content_hash


class DiffusersCosmos(_Cosmos):
    """A folder written by `save_pretrained` of diffusers. Works chunk by chunk, exactly.

    Memory per chunk is constant except for attention over time, which keeps its inputs of all latent
    frames: less than the decoded video.
    """

    def __init__(self, folder: Path) -> None:
        model = load_network(folder)
        config = model.config
        super().__init__(
            diffusers_files(folder),
            config.latent_channels,
            config.temporal_compression_ratio,
            config.spatial_compression_ratio,
        )
        self.model = model

    def raw_latents(self, video: Tensor, chunk_frames: int) -> Tensor:
        """(B, 3, F, H, W) -> (B, C, T, h, w)."""
        first, step = self.num_frames(chunk_frames), chunk_frames * self.time_stride
        starts = range(first, video.shape[2], step)
        chunks = [video[:, :, :first], *(video[:, :, start : start + step] for start in starts)]
        with Stream(_reach(self.model.encoder)):
            return torch.cat([self.model.encode(chunk).latent_dist.mode() for chunk in chunks], 2)

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W)."""
        with Stream(_reach(self.model.decoder)):
            return torch.cat([self.model.decode(chunk).sample for chunk in latents.split(chunk_frames, 2)], 2)


class TorchScriptCosmos(_Cosmos):
    """NVIDIA's encoder.jit and decoder.jit. The strides are measured with a small video.

    The layers inside such a file cannot be hooked: video passes in one piece, and `chunk_frames` is ignored.
    """

    def __init__(self, folder: Path) -> None:
        files = torchscript_files(folder)
        encoder, decoder, latents = _load_torchscript(folder)
        _, channels, num_latent_frames, height, _ = latents
        super().__init__(files, channels, (_PROBE_FRAMES - 1) // (num_latent_frames - 1), _PROBE_PX // height)
        self.encoder, self.decoder = encoder, decoder

    def raw_latents(self, video: Tensor, chunk_frames: int) -> Tensor:
        """(B, 3, F, H, W) -> (B, C, T, h, w)."""
        return _run(self.encoder, video)

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W)."""
        return _run(self.decoder, latents)


class Stream:
    """Context in which causal layers continue in time where their last call ended.

    A video goes through a network chunk by chunk, and the result equals that of the whole video. Each layer
    gets the last frames of its earlier input, as many as it looks back, in front of its next input, and the
    same number of frames is cut from the front of its output:

        layer that looks 2 frames back     chunk 1     chunk 2
        input                              a b c d     [c d] e f g h
        output                             A B C D     [. .] E F G H     as of a b c d e f g h

    This is exact for convolutions that repeat the first frame before the start, for layers that change the
    frame rate and treat the first frame as a still picture (one frame of theirs in, one frame out), and for
    attention over time, which keeps all frames, with a larger mask.

    Axes: B batch, C channels of the layer, T frames of the layer's own rate, H W its rows and columns.
    """

    def __init__(self, reach: Mapping[nn.Module, int | None]) -> None:
        self._reach = reach
        self._past: dict[nn.Module, Tensor] = {}
        self._prepended: dict[nn.Module, int] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Stream":
        for layer in self._reach:
            self._hooks.append(layer.register_forward_pre_hook(self._prepend))
            self._hooks.append(layer.register_forward_hook(self._cut))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _prepend(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put the layer's past before its frames (B, C, T, H, W), and keep the past of the next call."""
        frames = inputs[0]
        past = self._past.get(layer, frames[:, :, :0])
        self._prepended[layer] = past.shape[2]
        joined = torch.cat([past, frames], 2)
        reach = self._reach[layer]
        self._past[layer] = joined if reach is ALL else _last(joined, reach)
        if len(inputs) == 1:
            return (joined,)
        length = joined.shape[2]
        return joined, torch.ones(length, length, dtype=torch.bool, device=joined.device).tril()

    def _cut(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the output (B, C, T, H, W) of the new frames alone."""
        return output[:, :, self._prepended[layer] :]


@torch.no_grad()
def _load_torchscript(folder: Path) -> tuple[nn.Module, nn.Module, torch.Size]:
    """Load encoder and decoder; return them and the shape (B, C, T, h, w) of latents of a small video."""
    probe = torch.zeros(1, 3, _PROBE_FRAMES, _PROBE_PX, _PROBE_PX)
    encoder, decoder = (load_torchscript(file) for file in torchscript_files(folder))
    try:
        latents = _run(encoder, probe)
        video = _run(decoder, latents)
        if latents.dim() == probe.dim() and video.shape == probe.shape:
            return encoder, decoder, latents.shape
        got = f"latents {tuple(latents.shape)} and video {tuple(video.shape)}"
    except RuntimeError as error:
        got = str(error).strip().splitlines()[-1]  # the lines above say where in the file
    rule = f"a continuous video tokenizer that returns video {tuple(probe.shape)}"
    raise CheckpointError(f"{folder}: got {got}, expected {rule}; copy encoder.jit and decoder.jit of one")


def _run(network: nn.Module, frames: Tensor) -> Tensor:
    """First output of the network as float32; inside it computes in the number format of its weights."""
    dtype = next((weight.dtype for weight in network.parameters()), frames.dtype)
    output = network(frames.to(dtype))
    return (output if isinstance(output, Tensor) else output[0]).float()


def _reach(network: nn.Module) -> dict[nn.Module, int | None]:
    """Return how far the layers of an `AutoencoderKLCosmos` look back, in frames of their own rate."""
    from diffusers.models.autoencoders import autoencoder_kl_cosmos as layers

    resamplers = (
        layers.CosmosPatchEmbed3d,
        layers.CosmosUnpatcher3d,
        layers.CosmosDownsample3d,
        layers.CosmosUpsample3d,
    )
    if isinstance(network, resamplers):
        return {network: 1}  # including the layers inside
    if isinstance(network, layers.CosmosCausalConv3d):
        return {network: network.temporal_pad} if network.temporal_pad else {}
    if isinstance(getattr(network, "processor", None), layers.CosmosTemporalAttentionProcessor2_0):
        return {network: ALL}
    found: dict[nn.Module, int | None] = {}
    for layer in network.children():
        found |= _reach(layer)
    return found


def _last(frames: Tensor, count: int) -> Tensor:
    """Return the last frames of (B, C, T, H, W); before the first are copies of it."""
    still = frames[:, :, :1].expand(-1, -1, max(0, count - frames.shape[2]), -1, -1)
    # A copy, because a view would keep the whole chunk in memory.
    return torch.cat([still, frames], 2)[:, :, -count:].clone()
