"""Scalar conditions besides the caption: each number becomes one vector that is added to every token.

Source: the sinusoids and two-layer network of diffusion's time embedding (arXiv 2006.11239), here for frame
rate and motion score, as in NOVA (arXiv 2412.14169), and for the noise level of history frames, as in MAGI
(arXiv 2501.12389).

Axes: B batch, D hidden size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from videomar.model.head import SINUSOID_CHANNELS, sinusoid

# A condition of a clip by name: (B,), or (1,) for the same in all rows; NaN = unknown.
Conditions = Mapping[str, Tensor]
HISTORY_NOISE = "history_noise"
# Brings each number into the range of steps of a thousand that the sinusoids were made for.
_SCALES = {"fps": 10.0, "motion": 10.0, HISTORY_NOISE: 1000.0}


class ScalarEmbed(nn.Module):
    """A number as a vector; an unknown number is a learned vector."""

    def __init__(self, name: str, hidden_size: int) -> None:
        super().__init__()
        self.scale = _SCALES[name]
        self.unknown = nn.Parameter(torch.zeros(hidden_size))
        self.layers = nn.Sequential(
            nn.Linear(SINUSOID_CHANNELS, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Numbers of any shape (...) -> (..., D)."""
        waves = sinusoid(values.nan_to_num().flatten() * self.scale).unflatten(0, values.shape)
        return torch.where(values.isnan()[..., None], self.unknown, self.layers(waves))


def drop_conditions(conditions: Conditions, probability: float, generator: torch.Generator) -> Conditions:
    """Make each number of the conditions, each (B,), unknown with this probability, independently."""
    return {
        # Not `torch.where`, which would copy its number from the host and wait for that.
        name: values.masked_fill(
            torch.rand(values.shape, generator=generator, device=values.device) < probability, torch.nan
        )
        for name, values in conditions.items()
    }
