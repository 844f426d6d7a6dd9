"""The transformer block.

Axes: B batch, S tokens, D hidden size, N heads, K head channels, M caption tokens.
"""

from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.model.attention import CrossAttention, SelfAttention
from videomar.model.kv_cache import KVCache
from videomar.model.linear import Linear
from videomar.model.rope import Rotation

LAYER_NORM_EPS = 1e-5


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
        by: Rotation,
        text: tuple[tuple[Tensor, Tensor], Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """(B, S, D) -> (B, S, D); `text` holds this block's caption keys and values and their mask."""
        x = x + self.attn1(self.norm1(x), by, mask, cache)
        x = x + self.attn2(x, *text)
        return x + self.ff(self.norm2(x))
