"""Our video tokenizer: a small causal autoencoder between pixels and latents.

Both directions are a linear map (the closed-form PCA of space-time patches) plus a residual network that
starts at zero: training can only improve on PCA.

Source: VAE (arXiv 1312.6114) for moments and the KL term; the causal layout is that of the Cosmos tokenizer
(arXiv 2501.03575). The linear start is ours.

Axes: B batch, F frames, H W pixel rows and columns, T latent frames, h w latent rows and columns, C latent
channels, P pixels of a patch times 3.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videomar.config import TokenizerParams
from videomar.encoders.tokenizer import VariationalTokenizer
from videomar.errors import CheckpointError

COLOURS = 3
WEIGHTS_FILE = "tokenizer.safetensors"
PARAMS_FILE = "tokenizer.json"
# exp(-6 / 2) = 0.05: the noise of an untrained posterior, beside latents of unit variance.
_INITIAL_LOG_VARIANCE = -6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalShape:
    """The numbers of section `tokenizer` that shape the network; stored beside the weights."""

    channels: int
    time_stride: int
    space_stride: int
    hidden_size: int
    depth: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


class CausalBlock(nn.Module):
    """Residual block: a convolution over space, then one over the last two latent frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.space = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(channels, channels, (2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, h, w) -> the same shape."""
        # Normalised by latent frame: over the whole clip, statistics would leak the future.
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        normed = rearrange(self.norm(frames), "(b t) c h w -> b c t h w", b=len(x))
        return x + self.time(F.pad(F.gelu(self.space(normed)), (0, 0, 0, 0, 1, 0)))


def _residual(inputs: int, hidden: int, outputs: int, depth: int) -> nn.Sequential:
    """Build a network on (B, inputs, T, h, w) whose last layer starts at zero."""
    last = nn.Conv3d(hidden, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv3d(inputs, hidden, 1), *(CausalBlock(hidden) for _ in range(depth)), last)


class CausalTokenizer(nn.Module, VariationalTokenizer):
    """Encodes video to normalised latents and back. Remembers weights and the latents' statistics.

    Memory per chunk of a long video is constant: a frame depends on at most `depth` earlier latent frames.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, params: TokenizerParams | CausalShape) -> None:
        super().__init__()
        self.params = CausalShape(
            **{field.name: getattr(params, field.name) for field in fields(CausalShape)}
        )
        self.channels, self.time_stride = params.channels, params.time_stride
        self.space_stride = params.space_stride
        patch = COLOURS * params.time_stride * params.space_stride**2
        self.linear_encoder = nn.Conv3d(patch, params.channels, 1)
        self.encoder = _residual(patch, params.hidden_size, 2 * params.channels, params.depth)
        self.linear_decoder = nn.Conv3d(params.channels, patch, 1)
        self.decoder = _residual(params.channels, params.hidden_size, patch, params.depth)
        self.register_buffer("latent_mean", torch.zeros(params.channels))
        self.register_buffer("latent_std", torch.ones(params.channels))

    def initialise(self, generator: torch.Generator) -> "CausalTokenizer":
        """Draw the residual networks' weights, all but their last layers, which stay zero; returns self."""
        for network in (self.encoder, self.decoder):
            for module in list(network.modules())[:-1]:
                if isinstance(module, nn.Conv3d):
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        return self

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, C, T, h, w) of latents, not normalised, of video (B, 3, F, H, W)."""
        return self._moments_of_patches(self.patches(video))

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Video (B, 3, F, H, W) from latents (B, C, T, h, w) that are not normalised."""
        return self._unpatched(self._decoded_patches(latents))

    def raw_moments(self, video: Tensor, chunk_frames: int) -> tuple[Tensor, Tensor]:
        """Return the same as `moments`, computed a few latent frames at a time."""

        def both(patches: Tensor) -> Tensor:
            return torch.cat(self._moments_of_patches(patches), 1)

        mean, log_variance = self._by_chunks(both, self.patches(video), chunk_frames).chunk(2, 1)
        return mean, log_variance

    def raw_video(self, latents: Tensor, chunk_frames: int) -> Tensor:
        """Video (B, 3, F, H, W) from latents (B, C, T, h, w) that are not normalised."""
        return self._unpatched(self._by_chunks(self._decoded_patches, latents, chunk_frames))

    def patches(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) -> (B, P, T, h, w); the first frame is repeated to fill a whole stride.

        Raises:
            DataError: the strides do not divide the video.
        """
        self.check_video(video)
        first = video[:, :, :1].expand(-1, -1, self.time_stride - 1, -1, -1)
        return rearrange(
            torch.cat([first, video], 2),
            "b c (t f) (h p) (w q) -> b (c f p q) t h w",
            f=self.time_stride,
            p=self.space_stride,
            q=self.space_stride,
        )

    def _unpatched(self, patches: Tensor) -> Tensor:
        """(B, P, T, h, w) -> (B, 3, F, H, W), without the still frames before the first."""
        video = rearrange(
            patches,
            "b (c f p q) t h w -> b c (t f) (h p) (w q)",
            c=COLOURS,
            f=self.time_stride,
            p=self.space_stride,
        )
        return video[:, :, self.time_stride - 1 :]

    def _moments_of_patches(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, T, h, w) -> mean and log-variance (B, C, T, h, w)."""
        residual, log_variance = self.encoder(patches).chunk(2, 1)
        return self.linear_encoder(patches) + residual, log_variance + _INITIAL_LOG_VARIANCE

    def _decoded_patches(self, latents: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, P, T, h, w)."""
        return self.linear_decoder(latents) + self.decoder(latents)

    def _by_chunks(self, network: Callable[[Tensor], Tensor], x: Tensor, chunk_frames: int) -> Tensor:
        """Return `network` of x (B, any, T, h, w), computed a few latent frames at a time.

        Each chunk is preceded by `depth` earlier frames: one for each block, which sees one frame back.
        """
        chunks = []
        for start in range(0, x.shape[2], chunk_frames):
            first = max(0, start - self.params.depth)
            chunks.append(network(x[:, :, first : start + chunk_frames])[:, :, start - first :])
        return torch.cat(chunks, 2)

    def content_hash(self) -> str:
        """Return a hash of the weights, the statistics and the shape."""
        digest = hashlib.sha256(json.dumps(self.params.to_dict(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def start_from_pca(tokenizer: CausalTokenizer, *videos: Tensor) -> None:
    """Set the linear maps to the principal components of patches of `videos`, each (B, 3, F, H, W).

    Each component is scaled to unit variance. Memory holds several copies of all patches; for many videos see
    `start_from_streamed_pca`.
    """
    with torch.no_grad():
        patches = torch.cat([_rows_of_patches(tokenizer, video) for video in videos])
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        _set_linear_maps(tokenizer, mean, covariance)


@torch.no_grad()
def start_from_streamed_pca(tokenizer: CausalTokenizer, videos: Callable[[], Iterable[Tensor]]) -> None:
    """Set the same maps as `start_from_pca`, to rounding, in two passes that hold one video tensor each.

    Args:
        tokenizer: its linear maps are set.
        videos: called once for each pass; yields tensors (B, 3, F, H, W).
    """
    size = tokenizer.linear_encoder.weight.shape[1]
    total = torch.zeros(size, dtype=torch.float64, device=tokenizer.latent_mean.device)
    count = 0
    for video in videos():
        patches = _rows_of_patches(tokenizer, video)
        total += patches.sum(0, dtype=torch.float64)
        count += len(patches)
    mean = (total / count).float()
    covariance = torch.zeros(size, size, dtype=torch.float64, device=total.device)
    for video in videos():
        centred = _rows_of_patches(tokenizer, video) - mean
        covariance += centred.T @ centred
    _set_linear_maps(tokenizer, mean, covariance / count)


def _rows_of_patches(tokenizer: CausalTokenizer, video: Tensor) -> Tensor:
    """(B, 3, F, H, W) -> (B T h w, P)."""
    return rearrange(tokenizer.patches(video), "b p t h w -> (b t h w) p")


def _set_linear_maps(tokenizer: CausalTokenizer, mean: Tensor, covariance: Tensor) -> None:
    """Set the linear maps from the mean (P,) and covariance (P, P) of patches."""
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


def causal_files(folder: Path) -> list[Path]:
    """Return the files of the folder that `load_causal` needs; none if it contains something else."""
    files = [folder / PARAMS_FILE, folder / WEIGHTS_FILE]
    return files if all(file.is_file() for file in files) else []


def save_tokenizer(tokenizer: CausalTokenizer, folder: Path) -> None:
    """Write weights and shape to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tokenizer.state_dict(), folder / WEIGHTS_FILE)
    (folder / PARAMS_FILE).write_text(json.dumps(tokenizer.params.to_dict(), indent=2), encoding="utf-8")


def load_causal(folder: Path) -> CausalTokenizer:
    """Load a tokenizer that `save_tokenizer` wrote, on the CPU, for inference.

    Raises:
        CheckpointError: tokenizer.json lacks a number.
    """
    stored = json.loads((folder / PARAMS_FILE).read_text("utf-8"))
    names = [field.name for field in fields(CausalShape)]
    missing = [name for name in names if name not in stored]
    if missing:
        rule = f"{', '.join(names)}; run `dvc repro train_tokenizer`"
        raise CheckpointError(f"{folder / PARAMS_FILE}: got no {', '.join(missing)}, expected {rule}")
    tokenizer = CausalTokenizer(CausalShape(**{name: stored[name] for name in names}))
    tokenizer.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return tokenizer.eval().requires_grad_(False)
