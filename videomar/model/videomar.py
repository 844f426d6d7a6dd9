"""VideoMAR: the trunk, the diffusion head, the training loss and generation in one module.

Source: VideoMAR (arXiv 2506.14168).

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
M caption tokens, E caption channels, D hidden size.
"""

import torch
from torch import Tensor, nn

from videomar.config import ModelParams, SampleParams, TrainParams
from videomar.model import generation
from videomar.model.head import FlowHead
from videomar.model.masking import draw_hidden_counts, draw_target_frames, draw_token_mask
from videomar.model.patchify import patchify
from videomar.model.transformer import Trunk

TOKEN_STD = 0.02


class VideoMAR(nn.Module):
    """Image-to-video model on continuous tokens. Remembers its weights only."""

    def __init__(
        self, params: ModelParams, latent_channels: int, text_channels: int, max_text_tokens: int
    ) -> None:
        super().__init__()
        self.params = params
        token_channels = latent_channels * params.patch_size**2
        self.trunk = Trunk(params, token_channels, text_channels, max_text_tokens)
        self.head = FlowHead(params, token_channels)

    def initialise(self, generator: torch.Generator) -> "VideoMAR":
        """Draw all weights: Xavier-uniform layers, zero biases, normal (0, 0.02) tokens; returns self."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.trunk.mask_token, self.trunk.null_text):
            nn.init.normal_(token, std=TOKEN_STD, generator=generator)
        self.head.zero_init()
        return self

    def loss(
        self,
        latents: Tensor,
        text: Tensor,
        text_mask: Tensor,
        params: TrainParams,
        generator: torch.Generator,
    ) -> Tensor:
        """Next-frame diffusion loss of the paper, a scalar.

        One frame k of each clip is learnt: frames before k are complete, a random share of k's tokens is
        hidden, and the head is trained on the hidden ones. Frames after the last k of the batch are cut off:
        they could not influence anything.

        Args:
            latents: normalised latents (B, C, T, H, W).
            text: caption states (B, M, E).
            text_mask: real caption tokens (B, M), True = real.
            params: mask ratio, condition dropping, batch multiplier.
            generator: source of all randomness.
        """
        batch_size, _, num_frames, rows, columns = latents.shape
        target = draw_target_frames(batch_size, num_frames, generator)
        latents = latents[:, :, : int(target.max()) + 1]
        tokens = patchify(latents, self.params.patch_size)
        tokens_per_frame = tokens.shape[2]
        counts = draw_hidden_counts(
            batch_size, tokens_per_frame, params.mask_ratio_min, params.mask_ratio_std, generator
        )
        token_mask = torch.zeros(tokens.shape[:3], dtype=torch.bool, device=latents.device)
        row = torch.arange(batch_size, device=latents.device)
        token_mask[row, target] = draw_token_mask(counts, tokens_per_frame, generator)
        drop = torch.rand(batch_size, generator=generator, device=latents.device) < params.cond_drop_prob
        grid = (rows // self.params.patch_size, columns // self.params.patch_size)
        hidden = self.trunk.run(tokens, token_mask, grid, self.trunk.read_text(text, text_mask, drop))
        repeats = params.batch_multiplier
        return self.head.loss(
            tokens[token_mask].repeat(repeats, 1), hidden[token_mask].repeat(repeats, 1), generator
        )

    def generate(
        self,
        context: Tensor,
        num_frames: int,
        text: Tensor,
        text_mask: Tensor,
        sampling: SampleParams,
        generator: torch.Generator,
    ) -> Tensor:
        """Continue `context` (B, C, T0, H, W) to `num_frames` latent frames, (B, C, num_frames, H, W)."""
        return generation.generate(self, context, num_frames, text, text_mask, sampling, generator)
