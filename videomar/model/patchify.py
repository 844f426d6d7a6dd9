"""Latents to tokens and back.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels.
"""

from einops import rearrange
from torch import Tensor

from videomar.errors import DataError


def token_grid(latents: Tensor, patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens in a frame of latents (B, C, T, H, W).

    Raises:
        DataError: the patches do not fill the frame.
    """
    rows, columns = latents.shape[3:]
    if rows % patch_size or columns % patch_size:
        rule = f"multiples of model.patch_size {patch_size}"
        raise DataError(f"latents: got {columns}x{rows} positions, expected {rule}; choose another size")
    return rows // patch_size, columns // patch_size


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """(B, C, T, H, W) -> (B, T, L, P): tokens row by row, each flattened as (channel, row, column)."""
    return rearrange(latents, "b c t (h p) (w q) -> b t (h w) (c p q)", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """(B, T, L, P) -> (B, C, T, H, W); `grid` holds the rows and columns of tokens."""
    rows, columns = grid
    return rearrange(
        tokens, "b t (h w) (c p q) -> b c t (h p) (w q)", h=rows, w=columns, p=patch_size, q=patch_size
    )
