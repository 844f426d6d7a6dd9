"""The transformer block: self-attention over tokens, cross-attention to the caption, feed-forward.

Axes: B batch, S tokens, D hidden size, N heads, K head channels, M caption tokens.
"""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.model.attention import attend
from videomar.model.kv_cache import KVCache
from videomar.model.linear import Linear
from videomar.model.rope import Rotation, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

QK_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5

BlockText = Tensor | tuple[Tensor, Tensor]
"""Captions as a block reads them: their states (B, M, D), or keys and values (B, N, M, K) made before."""


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    # In the format of its weight; PyTorch has no fused kernel for two formats.
    return norm(x.to(norm.weight.dtype))


class SelfAttention(nn.Module):
    """Attention of tokens to tokens. The fused projection is laid out per head as [q, k, v]; no biases."""

    def __init__(self, hidden_size: int, num_heads: int, block: int) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.block = block
        self.wqkv = Linear(hidden_size, 3 * hidden_size, bias=False)
        self.wo = Linear(hidden_size, hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, QK_NORM_EPS)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: "Tensor | BlockMask | None", cache: KVCache | None
    ) -> Tensor:
        """(B, S, D) -> (B, S, D). `mask` says which tokens attend to which, see `attention.token_mask`.

        With a cache, the tokens also attend to the committed ones, and are left there as a draft.
        """
        q, k, v = rearrange(self.wqkv(x), "b s (n three k) -> three b n s k", n=self.num_heads, three=3)
        q, k = _normed(self.q_norm, q), _normed(self.k_norm, k)
        # Under autocast norms and rotation are float32; products, and the cache, have the format of v.
        q, k = rotate(q, rotation).to(v.dtype), rotate(k, rotation).to(v.dtype)
        if cache is not None:
            k, v = cache.write(self.block, k, v)
        out = attend(q, k, v, mask)
        return self.wo(rearrange(out, "b n s k -> b s (n k)"))


class CrossAttention(nn.Module):
    """Attention of tokens to the caption. Keys and values are laid out per head as [k, v]; no biases."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.wq = Linear(hidden_size, hidden_size, bias=False)
        self.wkv = Linear(hidden_size, 2 * hidden_size, bias=False)
        self.wo = Linear(hidden_size, hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, QK_NORM_EPS)

    def project_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, N, M, K) of captions (B, M, D)."""
        k, v = rearrange(self.wkv(text), "b m (n two k) -> two b n m k", n=self.num_heads, two=2)
        return _normed(self.k_norm, k).to(v.dtype), v

    def forward(self, x: Tensor, text: BlockText, text_mask: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D). `text_mask` (B, 1, 1, M) is True for real caption tokens."""
        k, v = self.project_text(text) if isinstance(text, Tensor) else text
        q = _normed(self.q_norm, rearrange(self.wq(x), "b s (n k) -> b n s k", n=self.num_heads))
        out = F.scaled_dot_product_attention(q.to(v.dtype), k, v, attn_mask=text_mask)
        return self.wo(rearrange(out, "b n s k -> b s (n k)"))


class FeedForward(nn.Sequential):
    """Two linear layers without biases around a tanh-approximated GELU, (B, S, D) -> (B, S, D)."""

    def __init__(self, hidden_size: int, mlp_ratio: float) -> None:
        width = int(hidden_size * mlp_ratio)
        super().__init__(
            Linear(hidden_size, width, bias=False),
            nn.GELU(approximate="tanh"),
            Linear(width, hidden_size, bias=False),
        )


class Block(nn.Module):
    """Self-attention, cross-attention to the caption (query not normed), feed-forward; all residual."""

    def __init__(self, params: ModelParams, index: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(params.hidden_size, LAYER_NORM_EPS)
        self.attn1 = SelfAttention(params.hidden_size, params.num_heads, index)
        self.attn2 = CrossAttention(params.hidden_size, params.num_heads)
        self.norm2 = nn.LayerNorm(params.hidden_size, LAYER_NORM_EPS)
        self.ff = FeedForward(params.hidden_size, params.mlp_ratio)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        text: tuple[BlockText, Tensor],
        mask: "Tensor | BlockMask | None",
        cache: KVCache | None,
    ) -> Tensor:
        """(B, S, D) -> (B, S, D); `text` holds the captions and their mask."""
        x = x + self.attn1(self.norm1(x), rotation, mask, cache)
        x = x + self.attn2(x, *text)
        return x + self.ff(self.norm2(x))
