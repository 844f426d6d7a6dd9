"""The transformer block: self-attention over tokens, cross-attention to the caption, feed-forward.

Axes: B batch, S tokens, D hidden size, N heads, K head channels, M caption tokens.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.model.kv_cache import KVCache
from videomar.model.linear import Linear
from videomar.model.rope import Rotation, rotate

QK_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5


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

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, S, D) -> (B, S, D). `mask` (S, S), True where the row's token attends to the column's.

        With a cache, the tokens also attend to the committed ones, and are left there as a draft.
        """
        q, k, v = rearrange(self.wqkv(x), "b s (n three k) -> three b n s k", n=self.num_heads, three=3)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        if cache is not None:
            k, v = cache.write(self.block, k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
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
        """Return keys and values (B, N, M, K) of captions (B, M, D); every pass over the clips uses them."""
        k, v = rearrange(self.wkv(text), "b m (n two k) -> two b n m k", n=self.num_heads, two=2)
        return self.k_norm(k), v

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor], text_mask: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D). `text_mask` (B, 1, 1, M) is True for real caption tokens."""
        q = self.q_norm(rearrange(self.wq(x), "b s (n k) -> b n s k", n=self.num_heads))
        out = F.scaled_dot_product_attention(q, *text, attn_mask=text_mask)
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
        text: tuple[tuple[Tensor, Tensor], Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """(B, S, D) -> (B, S, D); `text` holds this block's caption keys and values and their mask."""
        x = x + self.attn1(self.norm1(x), rotation, mask, cache)
        x = x + self.attn2(x, *text)
        return x + self.ff(self.norm2(x))
