"""Laws of the architecture, measured on the trained weights themselves and not only in tests.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, M caption tokens.
"""

import torch
from torch import Tensor

from videomar.model.frames import Frames
from videomar.model.kv_cache import KVCache
from videomar.model.patchify import patchify, token_grid
from videomar.model.videomar import VideoMAR


@torch.no_grad()
def cache_difference(model: VideoMAR, latents: Tensor, captions: tuple[Tensor, Tensor]) -> float:
    """Largest difference of hidden vectors, frame by frame over a cache against one pass without; about 0.

    Half of the last frame is hidden, as in the midst of generation. In units of the hidden vectors, whose
    deviation is about 1 behind the last normalisation.

    Args:
        model: The network.
        latents: (B, C, T, H, W), normalised.
        captions: States (B, M, E) and mask (B, M).
    """
    tokens, grid = patchify(latents, model.params.patch_size), token_grid(latents, model.params.patch_size)
    hidden = torch.zeros(tokens.shape[:3], dtype=torch.bool)
    hidden[:, -1, ::2] = True
    whole = model.trunk(latents, hidden, *captions)
    num_frames, num_tokens = tokens.shape[1:3]
    cache, memory = KVCache(num_frames * num_tokens), model.trunk.read(*captions)
    worst = 0.0
    for index in range(num_frames):
        now = slice(index, index + 1)
        frame = Frames(tokens[:, now], hidden[:, now], grid, torch.tensor([index]))
        cached = model.trunk.run(frame, memory, cache)
        cache.commit(num_tokens)
        worst = max(worst, float((cached[:, 0] - whole[:, index]).abs().max()))
    return worst


@torch.no_grad()
def causality_leak(model: VideoMAR, latents: Tensor, captions: tuple[Tensor, Tensor]) -> float:
    """Largest change of hidden vectors of all frames but the last when the last one changes; 0 = no leak."""
    hidden = torch.zeros(patchify(latents, model.params.patch_size).shape[:3], dtype=torch.bool)
    changed = latents.clone()
    changed[:, :, -1] += 1
    before, after = (model.trunk(clips, hidden, *captions) for clips in (latents, changed))
    return float((before[:, :-1] - after[:, :-1]).abs().max()) if latents.shape[2] > 1 else 0.0
