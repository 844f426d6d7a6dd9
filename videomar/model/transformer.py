"""The trunk: a transformer that is causal over frames and bidirectional inside a frame.

Axes: B batch, T latent frames, L tokens per frame, S = T L tokens, P token channels, D hidden size,
M caption tokens, E caption channels.
"""

from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.model.blocks import Block
from videomar.model.cache import KVCache
from videomar.model.patchify import patchify
from videomar.model.rope import grid_positions, rotation

FINAL_NORM_EPS = 1e-6


class TextMemory(NamedTuple):
    """A caption as every block sees it: keys and values (B, N, M, K) per block, and the mask (B, 1, 1, M)."""

    blocks: list[tuple[Tensor, Tensor]]
    mask: Tensor


class Trunk(nn.Module):
    """Turns known and hidden tokens into one hidden vector per token. Remembers its weights only."""

    def __init__(
        self, params: ModelParams, token_channels: int, text_channels: int, max_text_tokens: int
    ) -> None:
        super().__init__()
        self.params = params
        width = params.hidden_size
        self.z_proj = nn.Linear(token_channels, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.context_embed = nn.Linear(text_channels, width)
        self.null_text = nn.Parameter(torch.zeros(1, max_text_tokens, width))
        self.blocks = nn.ModuleList(Block(params, index) for index in range(params.depth))
        self.norm = nn.LayerNorm(width, FINAL_NORM_EPS)

    def forward(self, latents: Tensor, token_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """The frame-causal pass over whole clips, without a cache.

        Args:
            latents: normalised latents (B, C, T, H, W).
            token_mask: hidden tokens (B, T, L), True = hidden.
            text: caption states (B, M, E).
            text_mask: real caption tokens (B, M), True = real; a row without any gets the null text.

        Returns:
            Hidden vectors (B, T, L, D).
        """
        grid = (latents.shape[3] // self.params.patch_size, latents.shape[4] // self.params.patch_size)
        tokens = patchify(latents, self.params.patch_size)
        return self.run(tokens, token_mask, grid, self.read_text(text, text_mask))

    def read_text(self, text: Tensor, text_mask: Tensor, drop: Tensor | None = None) -> TextMemory:
        """Caption keys and values of every block, computed once for all passes over a clip.

        `drop` (B,) is True for rows that get the learned null text; so do rows whose caption is empty.
        """
        drop = ~text_mask.any(1) if drop is None else drop | ~text_mask.any(1)
        null = self.null_text[:, : text.shape[1]]
        states = torch.where(drop[:, None, None], null, self.context_embed(text))
        mask = text_mask | drop[:, None]
        blocks = cast("list[Block]", list(self.blocks))
        return TextMemory([block.attn2.read(states) for block in blocks], mask[:, None, None])

    def run(
        self,
        tokens: Tensor,
        token_mask: Tensor,
        grid: tuple[int, int],
        memory: TextMemory,
        cache: KVCache | None = None,
    ) -> Tensor:
        """One pass over tokens (B, T, L, P) with hidden places (B, T, L) replaced by the mask token.

        With a cache, the T = 1 frame given follows the committed ones and is left there as a draft.
        """
        num_frames, tokens_per_frame = tokens.shape[1:3]
        first = 0 if cache is None else cache.length // tokens_per_frame
        positions = grid_positions(range(first, first + num_frames), grid, tokens.device)
        by = rotation(positions, self.params.rope_axis_dims)
        mask = frame_causal_mask(num_frames, tokens_per_frame, tokens.device) if num_frames > 1 else None
        x = torch.where(token_mask[..., None], self.mask_token, self.z_proj(tokens))
        x = rearrange(x, "b t l d -> b (t l) d")
        for block, text in zip(self.blocks, memory.blocks, strict=True):
            x = block(x, by, (text, memory.mask), mask, cache)
        return rearrange(self.norm(x), "b (t l) d -> b t l d", t=num_frames)


def frame_causal_mask(num_frames: int, tokens_per_frame: int, device: torch.device) -> Tensor:
    """(S, S), True where the row's token may look at the column's: same frame or an earlier one."""
    frame = torch.arange(num_frames, device=device).repeat_interleave(tokens_per_frame)
    return frame[:, None] >= frame[None, :]
