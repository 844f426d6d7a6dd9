"""Video autoencoders of diffusers as tokenizers: Wan, LTX, CogVideoX, Mochi and others of their kind; Cosmos.

One adapter for all: it asks a network's configuration for strides and normalisation, and tries it on a small
video, because whether it suits is a fact and no name. It must be causal: no latent frame may depend on later
pictures. What differs between classes is how much of a video they take at once:

    class                  encodes and decodes       bound on memory for a long video
    AutoencoderKLCosmos    by chunks, exactly        a chunk, and the inputs of attention over time
    AutoencoderKLWan       a latent frame at a time  a latent frame: the class remembers past inputs itself
    AutoencoderKLCogVideoX a latent frame at a time  the same
    others                 the whole video           none

Source: the classes and pipelines of diffusers: normalised = (latents - mean) * scaling_factor / std.

Axes: B batch, F frames, H W pixel rows and columns, T latent frames, h w latent rows and columns, C latent
channels.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videomar.encoders.causal import COLOURS
from videomar.encoders.cosmos import COSMOS_CLASS, DiffusersCosmos
from videomar.encoders.diffusers_folder import class_of, diffusers_files, load_network
from videomar.encoders.tokenizer import VariationalTokenizer, VideoTokenizer
from videomar.errors import CheckpointError
from videomar.files import sha256_of

# Strides that a configuration does not state are measured with a video that all usual ones divide.
_PROBE_FRAMES, _PROBE_PX = 25, 64
# Latents of equal pictures may differ by rounding: sums of convolutions over longer videos.
_ROUNDING = 1e-3
# As DiagonalGaussianDistribution of diffusers.
_LOG_VARIANCES = -30.0, 20.0
_RULE = "a causal video autoencoder, such as AutoencoderKLWan, -LTXVideo, -CogVideoX, -Cosmos or -Mochi"


class Strides(NamedTuple):
    """Frames and pixels in one latent."""

    time: int
    space: int


class DiffusersVideo(nn.Module, VariationalTokenizer):
    """An autoencoder that takes a video as a whole. Remembers it, its statistics, the hash of its files."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, folder: Path, model: Any) -> None:
        super().__init__()
        self.model = model
        self.time_stride, self.space_stride = stated_strides(model) or self._measured_strides()
        self.channels = self._moments(self._black(1, 2))[0].shape[1]
        mean, std = latent_statistics(model, self.channels)
        self.register_buffer("latent_mean", mean)
        self.register_buffer("latent_std", std)
        digest = hashlib.sha256(f"{type(self).__name__} {mean.tolist()} {std.tolist()}".encode())
        for file in diffusers_files(folder):
            digest.update(file.name.encode() + bytes.fromhex(sha256_of(file)))
        self._content_hash = digest.hexdigest()

    def content_hash(self) -> str:
        """Return a hash of the files of weights and configuration, and of the statistics."""
        return self._content_hash

    def raw_moments(self, video: Tensor, chunk_frames: int) -> tuple[Tensor, Tensor]:
        """Means and log-variances (B, C, T, h, w), not normalised, of video (B, 3, F, H, W)."""
        return self._moments(video)

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W)."""
        return self.model.decode(latents).sample

    def _moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.model.encode(video).latent_dist
        return posterior.mean, posterior.logvar

    def _black(self, num_latent_frames: int, num_latent_rows: int) -> Tensor:
        size_px = num_latent_rows * self.space_stride
        return torch.zeros(1, 3, self.num_frames(num_latent_frames), size_px, size_px)

    def _measured_strides(self) -> Strides:
        latents = self._moments(torch.zeros(1, 3, _PROBE_FRAMES, _PROBE_PX, _PROBE_PX))[0]
        return Strides((_PROBE_FRAMES - 1) // (latents.shape[2] - 1), _PROBE_PX // latents.shape[3])


class LTXVideo(DiffusersVideo):
    """AutoencoderKLLTXVideo. Released decoders look ahead: frames change a little with later latents."""

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W)."""
        if not self.model.config.timestep_conditioning:
            return super().raw_video(latents, chunk_frames)
        # Time 0, at which LTX's pipeline decodes by default: latents without noise.
        return self.model.decode(latents, latents.new_zeros(len(latents))).sample


class CogVideoX(DiffusersVideo):
    """AutoencoderKLCogVideoX, a latent frame at a time.

    Its norms are over all frames that it is given at once, so more than one would mix the future into the
    past. diffusers gives it two (three at first); its latents differ from these a little.
    """

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W)."""
        past: Any = None
        frames = []
        for number, latent in enumerate(latents.split(1, 2)):
            with _doubling_frames(self.model.decoder, after_first=number > 0):
                frame, past = self.model.decoder(_by(self.model.post_quant_conv, latent), conv_cache=past)
            frames.append(frame)
        return torch.cat(frames, 2)

    def _moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        past: Any = None
        parts = []
        for pictures in (video[:, :, :1], *video[:, :, 1:].split(self.time_stride, 2)):
            if pictures.shape[2]:
                part, past = self.model.encoder(pictures, conv_cache=past)
                parts.append(_by(self.model.quant_conv, part))
        mean, log_variance = torch.cat(parts, 2).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCES)


_ADAPTERS: Mapping[str, Callable[[Path, Any], DiffusersVideo]] = {
    "AutoencoderKLLTXVideo": LTXVideo,
    "AutoencoderKLCogVideoX": CogVideoX,
}


def load_diffusers_video(folder: Path) -> VideoTokenizer:
    """Load the video autoencoder in a folder that has `diffusers_files`, on the CPU, for inference.

    Raises:
        CheckpointError: tensors are missing or do not fit, or it is no causal video autoencoder.
    """
    name = str(class_of(folder))
    if name == COSMOS_CLASS:
        return DiffusersCosmos(folder)
    model = load_network(folder)
    if any(model.config.get("decoder_inject_noise") or ()):
        rule = "a decoder that draws no noise (decoder_inject_noise); take another release of it"
        raise CheckpointError(f"{folder}: got {name} that draws noise, expected {rule}")
    try:
        tokenizer = _ADAPTERS.get(name, DiffusersVideo)(folder, model)
        problem = unfit(tokenizer)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    if problem:
        raise CheckpointError(f"{folder}: got {name}: {problem}; expected {_RULE}; take another autoencoder")
    return tokenizer


def stated_strides(model: Any) -> Strides | None:
    """Return the strides that a network or its configuration states; None if it does not state both."""
    found = {**model.config, **vars(model)}
    time = found.get("temporal_compression_ratio") or found.get("scale_factor_temporal")
    space = found.get("spatial_compression_ratio") or found.get("scale_factor_spatial")
    if not space and (widths := found.get("block_out_channels")):
        space = 2 ** (len(widths) - 1)
    return Strides(int(time), int(space)) if time and space else None


def latent_statistics(model: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (C,) of latents, by a network's buffers or its configuration."""
    found = {**model.config, **dict(model.named_buffers(recurse=False))}
    mean, std = found.get("latents_mean"), found.get("latents_std")
    mean = torch.zeros(channels) + (found.get("shift_factor") or 0.0) if mean is None else mean
    std = torch.ones(channels) if std is None else std
    mean, std = (torch.as_tensor(values, dtype=torch.float32).clone() for values in (mean, std))
    if mean.shape != (channels,) or std.shape != (channels,):
        raise ValueError(f"statistics of {len(mean)} and {len(std)} channels for latents of {channels}")
    return mean, std / (found.get("scaling_factor") or 1.0)


@torch.no_grad()
def unfit(tokenizer: VideoTokenizer) -> str | None:
    """Return why a tokenizer does not suit, tried on a small video; None if it does.

    Shapes follow from its strides, an image is encoded as the first frame of a video, and later pictures do
    not change it.
    """
    size_px = 2 * tokenizer.space_stride
    shape = 1, COLOURS, tokenizer.num_frames(2), size_px, size_px
    video = torch.arange(float(math.prod(shape))).view(shape).sin()
    later = video.clone()
    later[:, :, 1:] *= -1
    latents, other, image = (tokenizer.encode(each) for each in (video, later, video[:, :, :1]))
    if latents.shape != (1, tokenizer.channels, 2, 2, 2):
        strides = f"{tokenizer.time_stride} frames and {tokenizer.space_stride} pixels"
        return f"latents {tuple(latents.shape)} of video {shape}, by strides of {strides}"
    first = latents[:, :, :1]
    if not max((first - other[:, :, :1]).abs().max(), (first - image).abs().max()) <= _ROUNDING * first.std():
        return "latents of the first picture that depend on later ones"
    decoded = tokenizer.decode(latents).shape
    return None if decoded == shape else f"decoded video {tuple(decoded)} of video {shape}"


def _by(network: nn.Module | None, frames: Tensor) -> Tensor:
    return frames if network is None else network(frames)


@contextlib.contextmanager
def _doubling_frames(decoder: nn.Module, *, after_first: bool) -> Iterator[None]:
    """Make a decoder of CogVideoX double all frames in time, also single ones, after the first of a video.

    Its upsamplers take a single frame for the first of the video, which they do not double.
    """
    from diffusers.models.upsampling import CogVideoXUpsample3D

    layers = [
        layer for layer in decoder.modules() if isinstance(layer, CogVideoXUpsample3D) and layer.compress_time
    ]
    hooks = []
    if after_first:
        for layer in layers:
            layer.compress_time = False  # then it doubles rows and columns alone
            hooks.append(layer.register_forward_pre_hook(_repeat_frames))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.compress_time = True


def _repeat_frames(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (inputs[0].repeat_interleave(2, 2),)
