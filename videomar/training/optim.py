"""Optimizer, learning-rate schedule and the moving average of the weights."""

import math

import torch
from torch import nn

from videomar.config import TrainParams
from videomar.model.videomar import VideoMAR
from videomar.training.curriculum import max_steps


def make_optimizer(model: VideoMAR, params: TrainParams) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, and not on the head (MAR's choice)."""
    head = {id(parameter) for parameter in model.head.parameters()}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in head]
    kept = {id(parameter) for parameter in decayed}
    plain = [p for p in model.parameters() if id(p) not in kept]
    groups = [
        {"params": decayed, "weight_decay": params.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=params.betas, fused=True)


def learning_rate_at(step: int, params: TrainParams, since_reset: int | None = None) -> float:
    """Return the rate of a step: linear warm-up, then cosine to `final_learning_rate_share` of the peak.

    Args:
        step: planned step, see `Position.planned`.
        params: section `train`.
        since_reset: steps since the optimizer was made or reset, which warm-up counts; None means `step`.
    """
    share = max(0, step - params.warmup_steps) / max(1, max_steps(params) - params.warmup_steps)
    low = params.final_learning_rate_share
    rate = params.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))
    warm = step if since_reset is None else since_reset
    return rate if warm >= params.warmup_steps else rate * (warm + 1) / params.warmup_steps


def ema_decay_at(step: int, decay: float) -> float:
    """Return the decay of the moving average: short at first, so that the random start is forgotten."""
    return min(decay, (step + 1) / (step + 10))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Ema <- decay ema + (1 - decay) model, in place."""
    averages: list[torch.Tensor] = list(ema.parameters())
    weights: list[torch.Tensor] = list(model.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
