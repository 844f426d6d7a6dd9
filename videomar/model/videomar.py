"""VideoMAR: the trunk, the diffusion head, the training loss and generation in one module.

Source: VideoMAR (arXiv 2506.14168).

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
M caption tokens, E caption channels, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videomar.compute.seeding import on_host
from videomar.config import ModelParams, SampleParams, TrainParams
from videomar.model.conditions import ScalarEmbed, drop_conditions
from videomar.model.ddpm import DDPMHead
from videomar.model.generation import generate_frames
from videomar.model.head import DiffusionHead, FlowHead
from videomar.model.objective import (
    Clips,
    FrameLosses,
    Hidden,
    draw_dropped,
    draw_frames,
    draw_hidden,
    frame_losses,
)
from videomar.model.patchify import patchify, token_grid, unpatchify
from videomar.model.transformer import Trunk

TOKEN_STD = 0.02
_HEADS = {"flow": FlowHead, "ddpm": DDPMHead}


class VideoMAR(nn.Module):
    """Image-to-video model on continuous tokens. Remembers its weights only."""

    def __init__(
        self,
        params: ModelParams,
        latent_channels: int,
        text_channels: int,
        max_text_tokens: int,
        null_text_tokens: int | None = None,
    ) -> None:
        """Build it with the channels of latents and captions, and the longest caption in tokens.

        A network that was trained with shorter captions before keeps a null text of that length,
        `null_text_tokens`; None = `max_text_tokens`.
        """
        super().__init__()
        self.params = params
        token_channels = latent_channels * params.patch_size**2
        null_tokens = max_text_tokens if null_text_tokens is None else null_text_tokens
        self.trunk = Trunk(params, token_channels, (max_text_tokens, text_channels), null_tokens)
        self.head: DiffusionHead = _HEADS[params.head](params, token_channels)

    def initialise(self, generator: torch.Generator) -> "VideoMAR":
        """Draw all weights: Xavier-uniform layers, zero biases, normal (0, 0.02) tokens; returns self."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        embeds = [module for module in self.modules() if isinstance(module, ScalarEmbed)]
        for token in (self.trunk.mask_token, self.trunk.null_text, *(embed.unknown for embed in embeds)):
            nn.init.normal_(token, std=TOKEN_STD, generator=generator)
        self.head.net.zero_init()
        return self

    def loss(self, clips: Clips, params: TrainParams, generator: torch.Generator) -> Tensor:
        """Mean of `losses`, a scalar."""
        return self.losses(clips, params, generator).mean

    def losses(
        self, clips: Clips, params: TrainParams, generator: torch.Generator, hidden: Hidden | None = None
    ) -> FrameLosses:
        """Next-frame diffusion loss: the head is trained on the hidden tokens of masked frames.

        Nothing here waits for the device, but for the number of hidden tokens it would have to.

        Args:
            clips: latents, captions and conditions.
            params: objective, mask ratio, condition dropping, batch multiplier.
            generator: source of all randomness.
            hidden: the tokens to learn, see `draw_hidden`, on the device; None = draw them now.
        """
        patch_size = self.params.patch_size
        tokens, grid = patchify(clips.latents, patch_size), token_grid(clips.latents, patch_size)
        if hidden is None:
            hidden = draw_hidden(tokens.shape, params, on_host(generator)).to(tokens.device)
        frames = draw_frames(tokens, grid, params, generator, hidden)
        drop = draw_dropped(clips, params, generator)
        conditions = drop_conditions(clips.conditions, params.condition_drop_prob, generator)
        conditioning = self.trunk.encode_text(clips.text, clips.text_mask, conditions, drop, reused=False)
        vectors = self.trunk.forward_tokens(frames, conditioning)
        learnt, previous, vectors = (
            values.flatten(0, 2).index_select(0, hidden.places)
            for values in (frames.tokens, frames.previous, vectors)
        )
        repeats = params.batch_multiplier
        errors = self.head.losses(
            self.head.to_drawn(learnt, previous).repeat(repeats, 1),
            vectors.repeat(repeats, 1),
            params.time_distribution,
            generator,
        )
        place_in_clip = hidden.places // tokens.shape[2] % len(frames.positions)
        index = frames.positions.index_select(0, place_in_clip)
        return frame_losses(errors, index, tokens.shape[1])

    def generate(
        self,
        context: Tensor,
        num_frames: int,
        text: Tensor,
        text_mask: Tensor,
        sampling: SampleParams,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> Tensor:
        """Continue `context` (B, C, T0, H, W) to `num_frames` latent frames, (B, C, num_frames, H, W).

        Args:
            context: normalised latents of the given frames, any number of them.
            num_frames: latent frames of the result, the given ones included.
            text: caption states (B, M, E).
            text_mask: real caption tokens (B, M), True = real; a row without any gets the null text.
            sampling: section `sample`.
            generator: one for each row, or one from which theirs are seeded. On the CPU a row with a
                generator of its own comes out in the same bits whatever else is in the batch.

        Raises:
            DataError: the context is no shorter than the clip asked for, holds no frame, or is not finite; or
                `sampling` has conditions that the network does not know.
        """
        made = generate_frames(
            self.trunk, self.head, context, num_frames, (text, text_mask), sampling, generator
        )
        # Joined as tokens: a decoder's last bits depend on the memory layout of the latents.
        patch_size = self.params.patch_size
        tokens = [patchify(frame, patch_size) for frame in (context, *made)]
        return unpatchify(torch.cat(tokens, 1), patch_size, token_grid(context, patch_size))
