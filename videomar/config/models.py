"""Sections `tokenizer`, `text`, `encode`, `model`: the networks and the latents."""

from itertools import pairwise
from typing import Annotated

from videomar.config.section import Device, Resource, Rule, at_least, one_of, require, section

HEADS = ("flow", "ddpm")
NAMED_ENCODERS = ("minilm", "none")
"""Text encoders that are known by name; any other is a folder."""
CONDITIONS = ("fps", "motion", "history_noise")
# Frames are read at twice the size of clips: more would show no more.
_ZOOM = Rule("1 (none) to 2", lambda value: 1 <= value <= 2)
_SPEEDS = Rule("two speeds from 0.25 to 4, rising", lambda value: 0.25 <= value[0] <= value[1] <= 4)


@section("tokenizer")
class TokenizerParams:
    """The causal video autoencoder and its training, or a pretrained one. Section `tokenizer`."""

    pretrained: str | None
    """Folder of a tokenizer to use as it is, see docs/guide/tokenizers.md; null = train ours. The next three
    keys then say what the folder has, and the keys after them are not used."""
    channels: int
    """Channels of a latent, C."""
    time_stride: int
    """Frames in one latent frame; the first latent frame holds the first frame alone."""
    space_stride: int
    """Pixels along one side of a latent position."""
    hidden_size: int
    depth: int
    """Residual blocks in the encoder, and again in the decoder."""
    kl_weight: float
    gradient_weight: float
    """Weight of the error of horizontal and vertical pixel differences beside the error of pixels."""
    simulated_share: float
    """Share of each batch drawn from simulated clips, if both kinds exist."""
    steps: int
    batch_size: int
    learning_rate: float
    threads: Resource[int]
    device: Device
    """What trains it and measures it."""
    checkpoint_every: Resource[Annotated[int, at_least(1)]]
    """Steps between two checkpoints; a run that was killed continues from the newest."""
    seed: int


@section("text")
class TextParams:
    """The caption encoder. Section `text`."""

    encoder: str
    """`minilm` (packaged), `none`, or a folder holding a transformers model."""
    prefix: str
    """Put before every caption, for language models that expect an instruction."""
    max_tokens: int
    """Tokens kept of a caption, with those of the prefix, M."""
    num_workers: Resource[Annotated[int, at_least(1)]]
    """Ray actors that hold the encoder, where there are so many captions that starting them saves time."""
    device: Device
    """What runs the encoder: with `cuda`, its actors share the GPUs of the cluster."""


@section("encode")
class EncodeParams:
    """The latent cache. Section `encode`."""

    dtype: Annotated[str, one_of("float16", "bfloat16", "float32")]
    """`float16`, `bfloat16` or `float32`."""
    moments: bool
    """Store the standard deviation of each latent, too, for `train.draw_latents`: twice the bytes, and only
    for a tokenizer whose latents have distributions, as ours."""
    shard_clips: int
    """Approximate clips per Parquet file: the number of files is a power of two; clips are dealt by key."""
    smaller_sizes_px: tuple[int, ...]
    """Each clip is cached at these base sizes, too, falling from below `ingest.size_px`, for stages of the
    curriculum at lower resolution."""
    # Defaults are what files from before these keys mean.
    views: Annotated[int, at_least(0)] = 0
    """Extra views of each real training clip, cached beside it: other crops, zooms, speeds and start times of
    the same shot, see docs/guide/clips.md; 0 = none. Each is a clip of its group to the stage `train`."""
    view_zoom: Annotated[float, _ZOOM] = 1.0
    """Largest zoom of a view: sides of the whole box in sides of the box that it shows."""
    view_speeds: Annotated[tuple[float, float], _SPEEDS] = (1.0, 1.0)
    """Slowest and fastest speed of a view; 2 = twice as fast as its video, so half of `ingest.fps`."""
    view_mirror: bool = False
    """Mirror every other view, unless its caption names left or right."""
    view_seed: int = 0
    num_workers: Resource[int]
    """Ray actors that hold a tokenizer."""
    device: Device
    """What runs the tokenizer: with `cuda`, its actors share the GPUs of the cluster."""
    batch_clips: Resource[Annotated[int, at_least(1)]]
    """Clips of one shape that an actor encodes at once on a GPU; more need more of its memory. On a
    processor an actor encodes one at a time, whose bytes do not depend on other clips."""

    def __post_init__(self) -> None:
        sizes = self.smaller_sizes_px
        falling = all(larger > smaller for larger, smaller in pairwise((*sizes, 0)))
        require(falling, "encode.smaller_sizes_px", list(sizes), "sizes in falling order, above 0")


@section("model")
class ModelParams:
    """Shape of the transformer and its diffusion head. Section `model`."""

    hidden_size: int
    """Width of the residual stream, D."""
    depth: int
    num_heads: int
    """Attention heads, N; divides hidden_size."""
    mlp_ratio: float
    rope_axis_dims: tuple[int, int, int]
    """Channels of each head given to time, row, column; even, sum to head_dim."""
    patch_size: int
    """Latent rows and columns in one token."""
    head_width: int
    """Width of the diffusion head."""
    head_depth: int
    """Residual blocks of the diffusion head."""
    head: Annotated[str, one_of(*HEADS)]
    """`flow` (rectified flow) or `ddpm` (the paper: noise prediction with learned variance)."""
    conditions: tuple[str, ...]
    """Conditions that the network takes besides the caption: any of `fps`, `motion`, `history_noise`."""
    residual: bool
    """The head draws how much a token differs from the one at its place in the frame before, and not the
    token itself. The difference is divided by the root of its deviation in the training clips: between
    deviation 1, which the long tails of a moving body make hard to learn, and that of the change itself."""
    feed_previous: bool
    """A hidden token is shown the one at its place in the frame before."""

    @property
    def head_dim(self) -> int:
        """Channels of one attention head, K."""
        return self.hidden_size // self.num_heads

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"a divisor of hidden_size {self.hidden_size}",
        )
        known = len(set(self.conditions) & set(CONDITIONS)) == len(self.conditions)
        rule = f"different ones of {', '.join(CONDITIONS)}"
        require(known, "model.conditions", list(self.conditions), rule)
        rule = f"even numbers that sum to head_dim {self.head_dim}"
        fits = sum(self.rope_axis_dims) == self.head_dim and not any(dim % 2 for dim in self.rope_axis_dims)
        require(fits, "model.rope_axis_dims", self.rope_axis_dims, rule)
