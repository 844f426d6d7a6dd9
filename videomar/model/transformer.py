"""The trunk: a transformer that is causal over frames and bidirectional inside a frame.

Axes: B batch, T latent frames, L tokens per frame, S = T L tokens, P token channels, D hidden size,
M caption tokens, E caption channels.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.errors import DataError
from videomar.model.attention import token_mask
from videomar.model.blocks import Block, BlockText
from videomar.model.conditions import HISTORY_NOISE, Conditions, ScalarEmbed
from videomar.model.frames import Frames, causal
from videomar.model.kv_cache import KVCache
from videomar.model.linear import Linear
from videomar.model.patchify import patchify, token_grid
from videomar.model.rope import Rotation, grid_positions, rotation_at

FINAL_NORM_EPS = 1e-6


class Conditioning(NamedTuple):
    """Captions and condition embedding, computed once per clip and used by every pass over it."""

    text: list[BlockText]
    """Captions as each block reads them."""
    text_mask: Tensor
    """Real caption tokens (B, 1, 1, M), True = real."""
    embedding: Tensor
    """Sum of the conditions' vectors (B, 1, 1, D), which is added to every token."""

    def first_rows(self, count: int) -> "Conditioning":
        """Return the conditioning of the first `count` clips."""
        text = [
            part[:count] if isinstance(part, Tensor) else (part[0][:count], part[1][:count])
            for part in self.text
        ]
        return Conditioning(text, self.text_mask[:count], self.embedding[:count])


class Trunk(nn.Module):
    """Turns known and hidden tokens into one hidden vector per token. Remembers its weights only."""

    def __init__(
        self, params: ModelParams, token_channels: int, text: tuple[int, int], null_text_tokens: int
    ) -> None:
        """Build it.

        Args:
            params: section `model`.
            token_channels: P.
            text: the longest caption in tokens, M, and its channels, E.
            null_text_tokens: rows of the null text, at most M.
        """
        super().__init__()
        self.params = params
        width = params.hidden_size
        self.max_text_tokens, text_channels = text
        self.z_proj = Linear(token_channels, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        feed = Linear(token_channels, width, bias=False) if params.feed_previous else None
        self.previous_proj: Linear | None = feed
        self.context_embed = Linear(text_channels, width)
        self.null_text = nn.Parameter(torch.zeros(1, null_text_tokens, width))
        self.conditions = nn.ModuleDict({name: ScalarEmbed(name, width) for name in params.conditions})
        self.blocks = nn.ModuleList(Block(params, index) for index in range(params.depth))
        self.norm = nn.LayerNorm(width, FINAL_NORM_EPS)

    def forward(self, latents: Tensor, token_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """The frame-causal pass over whole clips, without a cache; conditions are unknown.

        Args:
            latents: normalised latents (B, C, T, H, W).
            token_mask: hidden tokens (B, T, L), True = hidden.
            text: caption states (B, M, E).
            text_mask: real caption tokens (B, M), True = real; a row without any gets the null text.

        Returns:
            Hidden vectors (B, T, L, D).
        """
        patch_size = self.params.patch_size
        frames = causal(patchify(latents, patch_size), token_mask, token_grid(latents, patch_size))
        return self.forward_tokens(frames, self.encode_text(text, text_mask))

    def encode_text(
        self,
        text: Tensor,
        text_mask: Tensor,
        conditions: Conditions | None = None,
        drop: Tensor | None = None,
        *,
        reused: bool = True,
    ) -> Conditioning:
        """Encode captions and conditions, once for all passes over the clips.

        Args:
            text: caption states (B, M, E); fewer than the network's M are padded.
            text_mask: real caption tokens (B, M), True = real; a row without any gets the null text.
            conditions: numbers by name; those not given are unknown.
            drop: rows (B,) that get the null text, and to which all conditions are unknown.
            reused: make the captions' keys and values of all blocks now, for many passes; else each block
                makes its own when it runs, and keeps them no longer than its other activations.

        Raises:
            DataError: the captions are longer than the network's.
        """
        most, null_tokens = self.max_text_tokens, self.null_text.shape[1]
        if text.shape[1] > most:
            rule = f"at most {most}, the caption length this model was built for"
            raise DataError(f"text: got {text.shape[1]} tokens, expected {rule}; cut it")
        drop = torch.zeros_like(text_mask[:, 0]) if drop is None else drop
        empty = drop | ~text_mask.any(1)
        states = F.pad(self.context_embed(text), (0, 0, 0, most - text.shape[1]))
        null_text = F.pad(self.null_text, (0, 0, 0, most - null_tokens)).to(states.dtype)
        states = torch.where(empty[:, None, None], null_text, states)
        null_mask = F.pad(empty[:, None].expand(-1, null_tokens), (0, most - null_tokens))
        mask = F.pad(text_mask, (0, most - text.shape[1])) | null_mask
        blocks = cast("list[Block]", list(self.blocks))
        embedding = self._embed_conditions(conditions or {}, drop)
        text_by_block: list[BlockText]
        text_by_block = [block.attn2.project_text(states) if reused else states for block in blocks]
        return Conditioning(text_by_block, mask[:, None, None], embedding)

    def _embed_conditions(self, conditions: Conditions, drop: Tensor) -> Tensor:
        """Sum of the vectors of all conditions of a clip that the network was built with, (B, 1, 1, D)."""
        total = torch.zeros(len(drop), self.params.hidden_size, device=drop.device)
        for name, embed in self.conditions.items():
            if name != HISTORY_NOISE:
                values = conditions.get(name, torch.full((1,), torch.nan, device=drop.device))
                unknown = cast("ScalarEmbed", embed).unknown
                total = total + torch.where(drop[:, None], unknown, embed(values))
        return total[:, None, None]

    def rotation_of(self, positions: Tensor, grid: tuple[int, int]) -> Rotation:
        """Return the rotation of all tokens of frames at `positions` (T,)."""
        return rotation_at(grid_positions(positions, grid), self.params.rope_axis_dims)

    def forward_tokens(
        self,
        frames: Frames,
        conditioning: Conditioning,
        cache: KVCache | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Return hidden vectors (B, T, L, D) of frames; the mask token takes the place of hidden tokens.

        With `feed_previous` the token before a hidden one is added to the mask token, after a linear layer.
        With a cache, the frames follow the committed ones and are left there as a draft. `rotation` is that
        of the frames' positions; None = compute it now.
        """
        tokens_per_frame = frames.tokens.shape[2]
        rotation = rotation or self.rotation_of(frames.positions, frames.grid)
        mask = None
        if frames.attn_mask is not None and len(frames.positions) > 1:
            mask = token_mask(frames.attn_mask, tokens_per_frame)
        embedded = self.z_proj(frames.tokens)  # (B, T, L, D)
        mask_token = self.mask_token.to(embedded.dtype)
        if self.previous_proj is not None:
            mask_token = mask_token + self.previous_proj(frames.previous)
        x = torch.where(frames.token_mask[..., None], mask_token, embedded)
        x = x + conditioning.embedding
        if HISTORY_NOISE in self.conditions:
            none = torch.zeros(1, len(frames.positions), device=x.device)
            levels = none if frames.noise_levels is None else frames.noise_levels
            x = x + self.conditions[HISTORY_NOISE](levels)[:, :, None]
        x = rearrange(x, "b t l d -> b (t l) d")
        for block, text in zip(self.blocks, conditioning.text, strict=True):
            x = block(x, rotation, (text, conditioning.text_mask), mask, cache)
        return rearrange(self.norm(x), "b (t l) d -> b t l d", l=tokens_per_frame)
