"""Presets, parameters and simulated latents for `benchmarks.training`.

Written here and not read from presets/, because bare GPU machines have no YAML parser.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomar.config import CurriculumStage, ModelParams, SearchSpace, TrainParams

if TYPE_CHECKING:
    from videomar.latents.dataset import LatentDataset

FRAMES = 9
PAPER, OURS = "single_frame", "all_frames"
_SHIPPED: dict[str, Any] = {
    "warmup_steps": 100, "weight_decay": 0.02, "betas": (0.9, 0.95), "max_grad_norm": 3.0, "ema_decay": 0.99,
    "batch_multiplier": 4, "time_distribution": "logit_normal", "mask_ratio_min": 0.7, "mask_ratio_mean": 1.0,
    "mask_ratio_std": 0.25, "cond_drop_prob": 0.1, "condition_drop_prob": 0.5, "history_noise": 0.0,
    "start_from": None, "lora": None,
    "simulated_share": 1.0, "draw_latents": False, "accumulation": 1, "memory_gb": 4.0,
    "activation_checkpointing": False, "compile": False,
    "validate_every": 0, "validation_clips": 1, "on_bad_step": "stop", "spike_factor": 0.0,
    "max_skipped_steps": 0, "log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 1, "keep_best": False,
    "num_workers": 1, "sharding": "ddp", "device": "auto", "threads_per_worker": 1, "preview_every": 0,
    "seed": 0,
    "runs": (), "search": SearchSpace(), "num_samples": 1, "select_by": "val_loss", "asha": False,
}  # fmt: skip


class Preset(NamedTuple):
    """The values of a file in presets/ that a step's cost depends on."""

    model: ModelParams
    objective: str
    size_px: int
    space_stride: int
    latent_frames: int
    caption: tuple[int, int]
    """Tokens and channels of a caption."""


def _network(hidden: int, depth: int, heads: int, axes: tuple[int, int, int], **others: Any) -> ModelParams:
    shape = {"hidden_size": hidden, "depth": depth, "num_heads": heads, "rope_axis_dims": axes}
    ours = {"mlp_ratio": 4.0, "patch_size": 1, "residual": True, "feed_previous": True}
    return ModelParams(**{**ours, **shape, **others})


_SMALL = _network(96, 4, 4, (12, 6, 6), head_width=128, head_depth=2, head="flow", conditions=("motion",))
_ALL_CONDITIONS = ("fps", "motion", "history_noise")
_MEDIUM = _network(
    768,
    18,
    12,
    (32, 16, 16),
    patch_size=2,
    head_width=768,
    head_depth=3,
    head="flow",
    conditions=_ALL_CONDITIONS,
)
_PAPER = _network(
    1536,
    36,
    24,
    (32, 16, 16),
    head_width=1024,
    head_depth=3,
    head="ddpm",
    conditions=(),
    residual=False,
    feed_previous=False,
)
PRESETS = {
    "small": Preset(_SMALL, OURS, 32, 8, 5, (24, 384)),
    "medium": Preset(_MEDIUM, OURS, 128, 8, 9, (64, 384)),
    "paper": Preset(_PAPER, PAPER, 256, 16, 5, (300, 1536)),
}


def train_params(objective: str, batch: int, rate: float, precision: str) -> TrainParams:
    """The shipped parameters, but a constant rate after the warm-up: these runs end by the clock."""
    return TrainParams(
        curriculum=(CurriculumStage(num_latent_frames=0, steps=10**9, batch_size=batch),),
        objective=objective,
        learning_rate=rate,
        final_learning_rate_share=1.0,
        precision=precision,
        **_SHIPPED,
    )


def moving_waves(count: int, seed: int) -> NDArray[np.float16]:
    """Simulated latents (count, 16, T, 4, 4) with deviation 1: in each clip waves of one direction and speed.

    Two frames determine a clip; the wave of a channel is the same in all clips.
    """
    waves = np.random.default_rng(1234).uniform(-1.5, 1.5, (16, 2))
    generator = np.random.default_rng(seed)
    speed = generator.uniform(-1, 1, (count, 2))
    phase = generator.uniform(0, 2 * np.pi, (count, 16, 1, 1, 1))
    shift = np.einsum("kd,bd->bk", waves, speed)[:, :, None, None, None]
    rows, columns = (waves[None, :, None, None, None, d] * np.arange(4) for d in range(2))
    time_axis = np.arange(FRAMES)[None, None, :, None, None]
    return (2**0.5 * np.sin(rows.swapaxes(-1, -2) + columns - shift * time_axis + phase)).astype(np.float16)


def write_cache(folder: Path, latents: NDArray[Any], caption: tuple[int, int]) -> "LatentDataset":
    """Write clips (count, C, T, H, W) with empty captions as a latent cache, and open it."""
    # Here: they need pyarrow, which a machine that only samples may not have.
    from videomar.latents.dataset import LatentDataset
    from videomar.latents.shards import write_shards

    row = {"text": np.zeros(caption, np.float16).tobytes(), "text_shape": list(caption), "text_key": "t"}
    row |= {"caption": "", "group": "simulated", "split": "train", "fps": 8.0, "motion": 1.0, "size_px": 0}
    row |= {"view": 0, "dtype": "float16", "shape": list(latents.shape[1:])}
    rows = [
        row | {"clip_id": f"{number:06d}", "key": f"{number}", "latents": clip.astype(np.float16).tobytes()}
        for number, clip in enumerate(latents)
    ]
    write_shards(folder, rows, 64)
    return LatentDataset(folder, "train", caption[0])
