"""Which tokens are hidden in training, and how many are revealed in each pass of generation.

Source: MAR (arXiv 2406.11838), sections 3.4 and 4; VideoMAR (arXiv 2506.14168), next-frame masking.

Axes: B batch, T latent frames, L tokens per frame.
"""

import math

import torch
from torch import Tensor


def draw_target_frames(batch_size: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """The frame to be learnt in each clip, (B,): uniform over all but the first; 0 for still images."""
    if num_frames == 1:
        return torch.zeros(batch_size, dtype=torch.long, device=generator.device)
    return torch.randint(1, num_frames, (batch_size,), generator=generator, device=generator.device)


def draw_hidden_counts(
    count: int, tokens_per_frame: int, ratio: tuple[float, float, float], generator: torch.Generator
) -> Tensor:
    """Hidden tokens of each masked frame, (count,): ceil(L r).

    `ratio` holds the smallest r, and mean and deviation of the normal that is truncated to [smallest, 1].
    """
    smallest, mean, std = ratio
    drawn = torch.empty(count, device=generator.device)
    torch.nn.init.trunc_normal_(drawn, mean, std, smallest, 1.0, generator=generator)
    return (drawn * tokens_per_frame).ceil().long()


def draw_token_mask(counts: Tensor, tokens_per_frame: int, generator: torch.Generator) -> Tensor:
    """(B, L), True = hidden: `counts` tokens of each row in random places."""
    order = torch.rand(len(counts), tokens_per_frame, generator=generator, device=counts.device).argsort(1)
    return order.argsort(1) < counts[:, None]


def hidden_after(step: int, num_steps: int, num_tokens: int, hidden: int) -> int:
    """Tokens still hidden after pass `step` of `num_steps`, when `hidden` were before it.

    The cosine schedule of MAR, held between 1 and hidden - 1 so that every pass reveals something; the last
    pass reveals the rest.
    """
    if step == num_steps - 1 or hidden <= 1:
        return 0
    planned = math.floor(num_tokens * math.cos(math.pi / 2 * (step + 1) / num_steps))
    return max(1, min(planned, hidden - 1))
