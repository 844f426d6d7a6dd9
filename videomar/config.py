"""One frozen dataclass per section of params.yaml, and `load_params`, which fills them.

Every number of the pipeline stands in params.yaml and nowhere else; the classes have no defaults, so that
a missing key is found when the file is read and not when the stage that needs it starts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, dataclass_transform

from videomar.errors import ParamsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _section(cls: type[_Class]) -> type[_Class]:
    """A frozen dataclass that refuses keys it does not declare when pydantic fills it."""
    section = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    section.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return section


def _require(condition: bool, where: str, got: object, rule: str) -> None:
    if not condition:
        raise ParamsError(f"{where}: got {got}, expected {rule}")


@_section
class SamplesParams:
    """Where raw clips come from. Section `samples`."""

    source: str
    """Folder of videos to mirror into data/raw; a folder holding SOURCES.yaml is a recipe to make them from."""
    simulated_videos: int
    """Simulated video files to draw (recipe only)."""
    clips_per_video: int
    """Simulated clips in each of these files."""
    simulated_size_px: int
    """Height and width of simulated video, pixels."""
    film_seconds: float
    """Length taken from the start of each packaged film, seconds."""
    seed: int


@_section
class IngestParams:
    """How videos become clips. Section `ingest`."""

    size_px: int
    """Height and width of a clip after scaling to cover and cropping the centre, pixels."""
    fps: float
    """Frame rate of clips, frames a second."""
    num_frames: int
    """Frames in a clip; 1 + a multiple of the tokenizer's time stride."""
    stride_frames: int
    """Frames between the starts of neighbouring clips of one shot."""
    shot_threshold: float
    """Content change that starts a new shot (PySceneDetect's ContentDetector; 27 is its usual value)."""
    timeout_s: float
    """Longest time one file may take, seconds; then it is rejected."""
    num_workers: int
    """Processes that read files side by side."""

    def __post_init__(self) -> None:
        _require(self.fps > 0, "ingest.fps", self.fps, "a rate above 0")
        _require(self.num_frames >= 2, "ingest.num_frames", self.num_frames, "at least 2")
        _require(self.stride_frames >= 1, "ingest.stride_frames", self.stride_frames, "at least 1")


@_section
class CurateParams:
    """Which clips are kept, and in which split they are. Section `curate`."""

    min_size_px: int
    """Shorter side of the source video, pixels."""
    min_motion: float
    """Mean absolute difference of neighbouring frames, of 255."""
    max_motion: float
    min_brightness: float
    """Mean luma of a clip, of 255."""
    max_brightness: float
    min_contrast: float
    """Standard deviation of luma within frames, of 255."""
    min_sharpness: float
    """Variance of the Laplacian of luma, mean over frames."""
    max_frozen_share: float
    """Largest share of frames that repeat the frame before."""
    val_share: float
    """Share of source videos, per group, held out for tuning."""
    test_share: float
    """Share of source videos, per group, held out for the reported figures."""
    seed: int

    def __post_init__(self) -> None:
        held_out = self.val_share + self.test_share
        _require(0 < held_out < 1, "curate.val_share + curate.test_share", held_out, "a sum between 0 and 1")


@_section
class TokenizerParams:
    """The causal video autoencoder and its training. Section `tokenizer`."""

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
    """Share of each batch drawn from simulated clips, where both kinds are there."""
    steps: int
    batch_size: int
    learning_rate: float
    threads: int
    seed: int


@_section
class TextParams:
    """The caption encoder. Section `text`."""

    encoder: str
    """`minilm` (packaged), `none`, or a folder holding a transformers model."""
    max_tokens: int
    """Tokens kept of a caption, N."""


@_section
class EncodeParams:
    """The latent cache. Section `encode`."""

    dtype: str
    """`float16` or `float32`."""
    shard_clips: int
    """Clips in one Parquet file."""
    num_workers: int
    """Ray actors that hold a tokenizer."""

    def __post_init__(self) -> None:
        _require(self.dtype in ("float16", "float32"), "encode.dtype", self.dtype, "float16 or float32")


@_section
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

    @property
    def head_dim(self) -> int:
        """Channels of one attention head, K."""
        return self.hidden_size // self.num_heads

    def __post_init__(self) -> None:
        _require(
            self.hidden_size % self.num_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"a divisor of hidden_size {self.hidden_size}",
        )
        rule = f"even numbers that sum to head_dim {self.head_dim}"
        fits = sum(self.rope_axis_dims) == self.head_dim and not any(dim % 2 for dim in self.rope_axis_dims)
        _require(fits, "model.rope_axis_dims", self.rope_axis_dims, rule)


@_section
class CurriculumStage:
    """One stretch of training. An entry of `train.curriculum`."""

    num_latent_frames: int
    """Latent frames of each clip that are used, T; 0 = all."""
    steps: int
    batch_size: int
    """Clips in one step, over all workers."""


@_section
class TrainParams:
    """Optimisation and curriculum. Section `train`."""

    curriculum: tuple[CurriculumStage, ...]
    """Stages in order; the last has the full length."""
    learning_rate: float
    """Highest learning rate of AdamW."""
    final_learning_rate_share: float
    """Share of it that is left at the last step (cosine decay)."""
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    ema_decay: float
    batch_multiplier: int
    """Independent draws of time and noise for each hidden token."""
    mask_ratio_min: float
    """Smallest share of the target frame that is hidden; drawn from a normal (1, mask_ratio_std), truncated."""
    mask_ratio_std: float
    cond_drop_prob: float
    """Probability that a clip is trained with the null text."""
    simulated_share: float
    """Share of each batch drawn from simulated clips, where both kinds are there."""
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    num_workers: int
    """Ray Train workers; they share each batch."""
    threads_per_worker: int
    seed: int

    @property
    def max_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.curriculum)

    def __post_init__(self) -> None:
        _require(len(self.curriculum) > 0, "train.curriculum", "no stage", "at least one stage")
        last = self.curriculum[-1].num_latent_frames
        _require(
            last == 0, "train.curriculum", f"a last stage of {last} latent frames", "the full length (0)"
        )
        for stage in self.curriculum:
            rule = f"a multiple of num_workers {self.num_workers}"
            _require(
                stage.batch_size % self.num_workers == 0,
                "train.curriculum.batch_size",
                stage.batch_size,
                rule,
            )


@_section
class SampleParams:
    """How a clip is generated. Section `sample`."""

    num_unmask_steps: int
    """Trunk passes per frame."""
    num_diffusion_steps: int
    """Head steps per token."""
    cfg_scale: float
    """Guidance weight once all tokens are revealed; 1 = off."""
    temperature: float
    """Scale of the head's starting noise in the first generated frame; 1 = as trained."""
    final_temperature: float
    """The same in the last frame; between them it changes linearly."""
    clamp: float
    """Largest magnitude of a token after the first generated frame."""

    def __post_init__(self) -> None:
        _require(self.num_unmask_steps >= 1, "sample.num_unmask_steps", self.num_unmask_steps, "at least 1")
        _require(
            self.num_diffusion_steps >= 1,
            "sample.num_diffusion_steps",
            self.num_diffusion_steps,
            "at least 1",
        )


@_section
class SuiteParams:
    """Which held-out clips are generated and judged. Section `suite`."""

    simulated_clips: int
    real_clips: int
    batch_size: int
    threads: int
    seed: int


@_section
class GateParams:
    """When a candidate becomes champion. Section `gate`."""

    min_clips: int
    """Fewer judged clips than this are too few to rank."""
    confidence: float
    """Level of the bootstrap intervals."""
    margin_db: float
    """How much worse than the champion a secondary figure may be, decibels."""
    seed: int


@_section
class Params:
    """The whole of params.yaml."""

    samples: SamplesParams
    ingest: IngestParams
    curate: CurateParams
    tokenizer: TokenizerParams
    text: TextParams
    encode: EncodeParams
    model: ModelParams
    train: TrainParams
    sample: SampleParams
    suite: SuiteParams
    gate: GateParams


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing, no YAML, or wrong; all problems are named at once.
    """
    import yaml  # here, because a bare GPU machine runs the model without yaml and pydantic
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = yaml.safe_load(path.read_text())
        return TypeAdapter(Params).validate_json(json.dumps(raw), strict=True)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file, expected the parameters; run from the repository root"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ParamsError(f"{path}: " + "; ".join(_problem(item) for item in error.errors())) from None


def _problem(item: "ErrorDetails") -> str:
    """One of pydantic's findings in the house's words: where, got, rule."""
    where = ".".join(str(part) for part in item["loc"]) or "file"
    match item["type"]:
        case "missing":
            return f"{where}: missing, expected a value; take it from the file in git"
        case "unexpected_keyword_argument":
            return f"{where}: unknown key; check its spelling against videomar/config.py"
        case "value_error":
            return str(item["ctx"]["error"])
        case "float_type" if isinstance(item["input"], str):
            return f"{where}: got the text {item['input']!r}, expected a number; YAML wants 1.0e-4, not 1e-4"
        case _:
            return f"{where}: got {item['input']!r}, expected: {item['msg']}"
