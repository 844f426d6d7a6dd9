"""Self-attention over tokens and cross-attention to the caption, both with normalised queries and keys.

Axes: B batch, S tokens, D hidden size, N heads, K head channels, M caption tokens.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videomar.model.kv_cache import KVCache
from videomar.model.linear import Linear
from videomar.model.rope import Rotation, rotate

QK_NORM_EPS = 1e-6


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

    def forward(self, x: Tensor, by: Rotation, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, S, D) -> (B, S, D). `mask` (S, S) is True where a token may look; a cache goes in front."""
        q, k, v = rearrange(self.wqkv(x), "b s (n three k) -> three b n s k", n=self.num_heads, three=3)
        q, k = rotate(self.q_norm(q), by), rotate(self.k_norm(k), by)
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

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, M, K) of a caption (B, M, D); they serve every pass over its clip."""
        k, v = rearrange(self.wkv(text), "b m (n two k) -> two b n m k", n=self.num_heads, two=2)
        return self.k_norm(k), v

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor], text_mask: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D). `text_mask` (B, 1, 1, M) is True for real caption tokens."""
        q = self.q_norm(rearrange(self.wq(x), "b s (n k) -> b n s k", n=self.num_heads))
        out = F.scaled_dot_product_attention(q, *text, attn_mask=text_mask)
        return self.wo(rearrange(out, "b n s k -> b s (n k)"))
