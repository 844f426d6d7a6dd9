"""The video tokenizer: a small causal autoencoder between pixels and latents.

The first latent frame holds the first picture alone, each later one `time_stride` frames; no latent frame
depends on later pictures, so an image is a one-frame video. Both directions are a linear map (the closed-form
PCA of space-time patches) plus a residual network that starts at zero: training can only improve on PCA.

Source: VAE (arXiv 1312.6114) for moments and the KL term; the causal layout is that of the Cosmos tokenizer
(arXiv 2501.03575). The linear start is ours.

Axes: B batch, F frames, H W pixel rows and columns, T latent frames, h w latent rows and columns, C latent
channels, P pixels of a patch times 3.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videomar.config import TokenizerParams
from videomar.errors import CheckpointError, DataError

COLOURS = 3
WEIGHTS_FILE = "tokenizer.safetensors"
PARAMS_FILE = "tokenizer.json"
# exp(-6 / 2) = 0.05: the noise of an untrained posterior, beside latents of unit variance.
_INITIAL_LOG_VARIANCE = -6.0


class CausalBlock(nn.Module):
    """Residual block: a convolution over space, then one over the last two latent frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.space = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(channels, channels, (2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, h, w) -> the same shape."""
        # The norm looks at one latent frame at a time: over the whole clip it would leak the future.
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        normed = rearrange(self.norm(frames), "(b t) c h w -> b c t h w", b=len(x))
        return x + self.time(F.pad(F.gelu(self.space(normed)), (0, 0, 0, 0, 1, 0)))


def _residual(inputs: int, hidden: int, outputs: int, depth: int) -> nn.Sequential:
    """Network on (B, inputs, T, h, w) whose last layer starts at zero."""
    last = nn.Conv3d(hidden, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv3d(inputs, hidden, 1), *(CausalBlock(hidden) for _ in range(depth)), last)


class CausalTokenizer(nn.Module):
    """Encodes video to normalised latents and back. Remembers weights and the latents' statistics."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, params: TokenizerParams) -> None:
        super().__init__()
        self.params = params
        patch = COLOURS * params.time_stride * params.space_stride**2
        channels = params.channels
        self.linear_encoder = nn.Conv3d(patch, channels, 1)
        self.encoder = _residual(patch, params.hidden_size, 2 * channels, params.depth)
        self.linear_decoder = nn.Conv3d(channels, patch, 1)
        self.decoder = _residual(channels, params.hidden_size, patch, params.depth)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    def initialise(self, generator: torch.Generator) -> "CausalTokenizer":
        """Draw the residual networks' weights, all but their last layers, which stay zero; returns self."""
        for network in (self.encoder, self.decoder):
            for module in list(network.modules())[:-1]:
                if isinstance(module, nn.Conv3d):
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        return self

    def num_latent_frames(self, num_frames: int) -> int:
        """T = 1 + (F - 1) / time_stride.

        Raises:
            DataError: the frames do not fill the last latent frame.
        """
        stride = self.params.time_stride
        if (num_frames - 1) % stride:
            rule = f"1 + a multiple of the time stride {stride}"
            raise DataError(f"tokenizer: got {num_frames} frames, expected {rule}; cut or extend the clip")
        return 1 + (num_frames - 1) // stride

    def num_frames(self, num_latent_frames: int) -> int:
        """F = 1 + (T - 1) time_stride."""
        return 1 + (num_latent_frames - 1) * self.params.time_stride

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, C, T, h, w) of latents, not normalised, of video (B, 3, F, H, W)."""
        patches = self._patches(video)
        residual, log_variance = self.encoder(patches).chunk(2, 1)
        return self.linear_encoder(patches) + residual, log_variance + _INITIAL_LOG_VARIANCE

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Video (B, 3, F, H, W) from latents (B, C, T, h, w) that are not normalised."""
        patches = self.linear_decoder(latents) + self.decoder(latents)
        video = rearrange(
            patches,
            "b (c f p q) t h w -> b c (t f) (h p) (w q)",
            c=COLOURS,
            f=self.params.time_stride,
            p=self.params.space_stride,
        )
        # The first latent frame stands for one picture, held still for a whole stride.
        return video[:, :, self.params.time_stride - 1 :]

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) of video (B, 3, F, H, W) in [-1, 1]."""
        mean, _ = self.moments(video)
        return (mean - self._column(self.latent_mean)) / self._column(self.latent_std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Video (B, 3, F, H, W) in [-1, 1] from normalised latents (B, C, T, h, w)."""
        return self.reconstruct(
            latents * self._column(self.latent_std) + self._column(self.latent_mean)
        ).clamp(-1, 1)

    def _patches(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) -> (B, P, T, h, w); the first frame is held still for a whole stride."""
        stride = self.params.space_stride
        if video.shape[3] % stride or video.shape[4] % stride:
            got = f"{video.shape[4]}x{video.shape[3]} pixels"
            raise DataError(
                f"tokenizer: got {got}, expected multiples of the stride {stride}; choose another size"
            )
        self.num_latent_frames(video.shape[2])
        first = video[:, :, :1].expand(-1, -1, self.params.time_stride - 1, -1, -1)
        return rearrange(
            torch.cat([first, video], 2),
            "b c (t f) (h p) (w q) -> b (c f p q) t h w",
            f=self.params.time_stride,
            p=stride,
            q=stride,
        )

    @staticmethod
    def _column(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1, 1)

    def content_hash(self) -> str:
        """Hash of all weights and parameters: two tokenizers with the same hash make the same latents."""
        digest = hashlib.sha256(json.dumps(asdict(self.params), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def start_from_pca(tokenizer: CausalTokenizer, video: Tensor) -> None:
    """Set the linear maps to the principal components of patches of `video` (B, 3, F, H, W).

    Each component is scaled to unit variance.
    """
    with torch.no_grad():
        patches = rearrange(tokenizer._patches(video), "b p t h w -> (b t h w) p")
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        variance, vectors = torch.linalg.eigh(covariance.double())
        channels = tokenizer.params.channels
        vectors, scale = (
            vectors[:, -channels:].flip(1).float(),
            variance[-channels:].flip(0).clamp_min(1e-8).sqrt().float(),
        )
        to_latents = (vectors / scale).T
        tokenizer.linear_encoder.weight.copy_(to_latents[..., None, None, None])
        tokenizer.linear_encoder.bias.copy_(-to_latents @ mean)  # type: ignore[union-attr]
        tokenizer.linear_decoder.weight.copy_((vectors * scale)[..., None, None, None])
        tokenizer.linear_decoder.bias.copy_(mean)  # type: ignore[union-attr]


def to_unit_range(frames: Tensor) -> Tensor:
    """uint8 pictures (B, F, H, W, 3) -> float video (B, 3, F, H, W) in [-1, 1]."""
    return rearrange(frames, "b f h w c -> b c f h w").float() / 127.5 - 1


def to_pictures(video: Tensor) -> Tensor:
    """Float video (B, 3, F, H, W) in [-1, 1] -> uint8 pictures (B, F, H, W, 3)."""
    return rearrange(video.add(1).mul(127.5).round().clamp(0, 255).byte(), "b c f h w -> b f h w c")


def save_tokenizer(tokenizer: CausalTokenizer, folder: Path) -> None:
    """Write weights and parameters to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tokenizer.state_dict(), folder / WEIGHTS_FILE)
    (folder / PARAMS_FILE).write_text(json.dumps(asdict(tokenizer.params), indent=2))


def load_tokenizer(folder: Path) -> CausalTokenizer:
    """Read a tokenizer that `save_tokenizer` wrote, on the CPU, for inference.

    Raises:
        CheckpointError: files are missing.
    """
    for name in (WEIGHTS_FILE, PARAMS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: no {name}, expected a tokenizer; run `dvc repro train_tokenizer`"
            )
    tokenizer = CausalTokenizer(TokenizerParams(**json.loads((folder / PARAMS_FILE).read_text())))
    tokenizer.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return tokenizer.eval().requires_grad_(False)
