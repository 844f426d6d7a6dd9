"""Interface of video tokenizers, and their common parts: checks, statistics of latents, pictures.

The first latent frame holds the first picture alone, each later one `time_stride` frames; no latent frame
depends on later pictures, so an image is a one-frame video.

Axes: B batch, F frames, H W pixel rows and columns, T latent frames, h w latent rows and columns, C latent
channels.
"""

from abc import abstractmethod
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from videomar.errors import DataError

# Latent frames in a chunk.
CHUNK_FRAMES = 8


class VideoTokenizer(Protocol):
    """Encodes video to normalised latents and back. Remembers its weights and the latents' statistics.

    A tokenizer derives from this class and adds `raw_latents`, `raw_video` and `content_hash`.
    """

    channels: int
    """Channels of a latent, C."""
    time_stride: int
    """Frames in one latent frame after the first."""
    space_stride: int
    """Pixels along one side of a latent position."""
    latent_mean: Tensor
    """(C,): mean of the latents as the network computes them."""
    latent_std: Tensor
    """(C,): deviation of the same."""

    @property
    def device(self) -> torch.device:
        """Where it computes: what it encodes and decodes must be there, too."""
        return self.latent_mean.device

    def num_latent_frames(self, num_frames: int) -> int:
        """T = 1 + (F - 1) / time_stride.

        Raises:
            DataError: the frames do not fill the last latent frame.
        """
        if (num_frames - 1) % self.time_stride:
            rule = f"1 + a multiple of the time stride {self.time_stride}"
            raise DataError(f"tokenizer: got {num_frames} frames, expected {rule}; cut or extend the clip")
        return 1 + (num_frames - 1) // self.time_stride

    def num_frames(self, num_latent_frames: int) -> int:
        """F = 1 + (T - 1) time_stride."""
        return 1 + (num_latent_frames - 1) * self.time_stride

    def check_video(self, video: Tensor) -> None:
        """Refuse video (B, 3, F, H, W) whose size is no multiple of the strides.

        Raises:
            DataError: its pixels or its frames do not fill the latents.
        """
        if video.shape[3] % self.space_stride or video.shape[4] % self.space_stride:
            got = f"{video.shape[4]}x{video.shape[3]} pixels"
            rule = f"multiples of the stride {self.space_stride}"
            raise DataError(f"tokenizer: got {got}, expected {rule}; choose another size")
        self.num_latent_frames(video.shape[2])

    @torch.no_grad()
    def encode(self, video: Tensor, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Normalised latents (B, C, T, h, w) of video (B, 3, F, H, W) in [-1, 1].

        Args:
            video: pictures in time.
            chunk_frames: latent frames that are encoded at once: the fewer, the less memory for a long video.

        Raises:
            DataError: the strides do not divide the video.
        """
        self.check_video(video)
        return (self.raw_latents(video, chunk_frames) - _column(self.latent_mean)) / _column(self.latent_std)

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Video (B, 3, F, H, W) in [-1, 1] from normalised latents (B, C, T, h, w).

        Args:
            latents: as returned by `encode`.
            chunk_frames: latent frames that are decoded at once: the fewer, the less memory for a long video.

        Raises:
            DataError: the latents come from another tokenizer.
        """
        if latents.shape[1] != self.channels:
            got = f"latents of {latents.shape[1]} channels"
            rule = f"{self.channels} channels; use the tokenizer that the model was trained with"
            raise DataError(f"tokenizer: got {got}, expected {rule}")
        raw = latents * _column(self.latent_std) + _column(self.latent_mean)
        return self.raw_video(raw, chunk_frames).clamp(-1, 1)

    def raw_latents(self, video: Tensor, chunk_frames: int) -> Tensor:
        """Latents (B, C, T, h, w), not normalised, of video (B, 3, F, H, W) that fits the strides."""
        ...

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """Video (B, 3, F, H, W), not clamped, from latents (B, C, T, h, w) that are not normalised."""
        ...

    def content_hash(self) -> str:
        """Return a hash of all that decides the latents: tokenizers with equal hashes encode equally."""
        ...


class VariationalTokenizer(VideoTokenizer):
    """A tokenizer whose latents are means of normal distributions with known deviations.

    A class that derives from this one adds `raw_moments` in place of `raw_latents`.
    """

    @torch.no_grad()
    def encode_moments(self, video: Tensor, chunk_frames: int = CHUNK_FRAMES) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, C, T, h, w) of normalised latents of video (B, 3, F, H, W) in [-1, 1].

        Args:
            video: pictures in time.
            chunk_frames: as for `encode`, which returns the same means.

        Raises:
            DataError: the strides do not divide the video.
        """
        self.check_video(video)
        mean, log_variance = self.raw_moments(video, chunk_frames)
        scale = _column(self.latent_std)
        return (mean - _column(self.latent_mean)) / scale, (log_variance / 2).exp() / scale

    def raw_latents(self, video: Tensor, chunk_frames: int) -> Tensor:
        """Means (B, C, T, h, w) of latents of video (B, 3, F, H, W)."""
        return self.raw_moments(video, chunk_frames)[0]

    @abstractmethod
    def raw_moments(self, video: Tensor, chunk_frames: int) -> tuple[Tensor, Tensor]:
        """Means and log-variances (B, C, T, h, w), not normalised, of video that fits the strides."""


def with_moments(tokenizer: VideoTokenizer) -> VariationalTokenizer:
    """Return the tokenizer if its latents have distributions.

    Raises:
        DataError: they have none.
    """
    if isinstance(tokenizer, VariationalTokenizer):
        return tokenizer
    got = f"true and {type(tokenizer).__name__}, a plain autoencoder"
    rule = "a tokenizer whose latents have distributions; set it to false, or train ours"
    raise DataError(f"encode.moments: got {got}, expected {rule}")


def to_unit_range(frames: Tensor) -> Tensor:
    """uint8 pictures (B, F, H, W, 3) -> float video (B, 3, F, H, W) in [-1, 1]."""
    return rearrange(frames, "b f h w c -> b c f h w").float() / 127.5 - 1


def to_pictures(video: Tensor) -> Tensor:
    """Float video (B, 3, F, H, W) in [-1, 1] -> uint8 pictures (B, F, H, W, 3)."""
    return rearrange(video.add(1).mul(127.5).round().clamp(0, 255).byte(), "b c f h w -> b f h w c")


def _column(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1, 1)."""
    return values.view(1, -1, 1, 1, 1)
