"""Floating-point operations of what is not training: tokenizers, caption encoders, generation.

Counted are matrix products and convolutions, an addition and a multiplication each; training is counted by
`training.throughput.step_flops`. `tests/ops/test_plan_flops.py` compares with PyTorch's own counter.

Axes: T latent frames, h w latent rows and columns, L tokens per frame, M caption tokens, D hidden size.
"""

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch

from videomar.checkpoint.manifest import ModelShape
from videomar.config import SampleParams, TextParams, TokenizerParams
from videomar.config.models import NAMED_ENCODERS
from videomar.encoders.causal import CausalTokenizer
from videomar.errors import DataError
from videomar.model.generation import hidden_after
from videomar.training.throughput import matrix_weights

# `AutoencoderKLCosmos` of diffusers with 16 x 16 in space: the same number of weights as NVIDIA's files
# (45.5 and 65.4 million, 91 and 131 MB in bfloat16). Counted at 33 frames of 256 x 256 and 512 x 512 pixels.
_COSMOS_PER_PIXEL = (204_000.0, 443_000.0)
COSMOS_WEIGHTS = 110_898_080
_BACKWARD = 2
"""Backward passes cost twice the forward pass."""


class TokenizerFlops(NamedTuple):
    """Operations for one clip."""

    encode: float
    decode: float

    @property
    def training(self) -> float:
        """Both directions forward, and backward."""
        return (1 + _BACKWARD) * (self.encode + self.decode)


def tokenizer_flops(params: TokenizerParams, latent: tuple[int, int, int], pixels: int) -> TokenizerFlops:
    """Return the operations to encode and to decode a clip.

    Args:
        params: section `tokenizer`; with `pretrained`, a Cosmos tokenizer is taken.
        latent: T, h and w of the clip.
        pixels: frames times rows times columns of the clip.
    """
    if params.pretrained is not None:
        return TokenizerFlops(*(each * pixels for each in _COSMOS_PER_PIXEL))
    # Strides are 1 in latent space, so each weight of a convolution is used once at every latent position.
    encoder, decoder = _causal_weights(
        params.channels, params.time_stride, params.space_stride, params.hidden_size, params.depth
    )
    positions = 2 * math.prod(latent)
    return TokenizerFlops(encoder * positions, decoder * positions)


@functools.cache
def _causal_weights(*shape: int) -> tuple[int, int]:
    """Weights of the convolutions of our encoder and decoder."""
    from videomar.encoders.causal import CausalShape

    names = ("channels", "time_stride", "space_stride", "hidden_size", "depth")
    with torch.device("meta"):
        network = CausalTokenizer(CausalShape(**dict(zip(names, shape, strict=True))))

    def count(*parts: torch.nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 5)

    return (
        count(network.encoder, network.linear_encoder),
        count(network.decoder, network.linear_decoder),
    )


class TextSize(NamedTuple):
    """Size of a caption encoder."""

    name: str
    channels: int
    layers: int
    key_channels: int
    """Channels of the keys: fewer than `channels` where several heads share them."""
    feed_forward: int
    gated: bool
    """Whether the feed-forward has a gate, which is a third matrix."""
    vocabulary: int
    assumed: bool = False
    """Whether the files are not there, so that the size is that of the published model."""

    @property
    def layer_weights(self) -> int:
        """Weights of all layers: what every token is multiplied with."""
        attention = 2 * self.channels**2 + 2 * self.channels * self.key_channels
        return self.layers * (attention + (3 if self.gated else 2) * self.channels * self.feed_forward)

    @property
    def weights(self) -> int:
        """All weights."""
        return self.layer_weights + self.vocabulary * self.channels


NO_TEXT = TextSize("none", 1, 0, 0, 0, False, 0)
MINILM = TextSize("all-MiniLM-L6-v2", 384, 6, 384, 1536, False, 30_522)
QWEN2 = TextSize("Qwen2-1.5B", 1536, 28, 256, 8960, True, 151_936)


def text_size(params: TextParams) -> TextSize:
    """Return the size of the encoder that section `text` names, from its config.json if that is there.

    Raises:
        DataError: config.json lacks a number.
    """
    if params.encoder in NAMED_ENCODERS:
        return NO_TEXT if params.encoder == "none" else MINILM
    config = Path(params.encoder) / "config.json"
    if not config.is_file():
        return QWEN2._replace(assumed=True)
    try:
        raw = json.loads(config.read_text(encoding="utf-8"))
        channels, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        keys = channels * int(raw.get("num_key_value_heads", heads)) // heads
        return TextSize(
            str(raw.get("model_type", Path(params.encoder).name)),
            channels,
            int(raw["num_hidden_layers"]),
            keys,
            int(raw["intermediate_size"]),
            str(raw.get("hidden_act", "")) in ("silu", "swiglu"),
            int(raw["vocab_size"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "sizes of a BERT- or Qwen2-class model; copy the model's own config.json there"
        raise DataError(f"text.encoder: {config}: got no {error}, expected {rule}") from None


def caption_flops(size: TextSize, tokens: int) -> float:
    """Return the operations to encode a caption of so many tokens."""
    attention = 2 * 2 * size.layers * size.channels * tokens
    return tokens * (2 * size.layer_weights + attention)


class Generation(NamedTuple):
    """What it takes to generate one clip."""

    flops: float
    passes: int
    """Passes through the trunk, one after the other."""
    head_steps: int
    """Evaluations of the head, one after the other."""


def generation_cost(
    model: ModelShape, sampling: SampleParams, tokens_per_frame: int, frames: int, context: int
) -> Generation:
    """Return the cost of continuing one clip of `context` latent frames to `frames`.

    Args:
        model: shape of the network.
        sampling: section `sample`.
        tokens_per_frame: L.
        frames: latent frames of the result.
        context: given latent frames.
    """
    weights, shape = matrix_weights(model), model.params
    guided = sampling.cfg_scale != 1
    flops, passes, head_steps = 0.0, 0, 0
    each_step, once = _head_weights(model)

    def trunk(index: int, rows: int) -> float:
        seen = min(index + 1, sampling.window_frames or index + 1) * tokens_per_frame
        attention = 4 * shape.depth * shape.hidden_size * (seen + model.max_text_tokens)
        return rows * tokens_per_frame * (2 * weights.tokens + attention)

    for index in range(frames):
        if index >= context:
            left = tokens_per_frame
            for step in range(sampling.num_unmask_steps):
                if not left:
                    break
                after = hidden_after(step, sampling.num_unmask_steps, tokens_per_frame, left)
                steps = _head_steps(sampling, step)
                rows = 2 if guided and 1 - after / tokens_per_frame >= sampling.cfg_from else 1
                flops += trunk(index, rows) + rows * (left - after) * 2 * (steps * each_step + once)
                passes, head_steps, left = passes + 1, head_steps + steps, after
        if index < frames - 1:
            flops += trunk(index, 2 if guided else 1)
            passes += 1
    captions = (2 if guided else 1) * model.max_text_tokens * 2 * weights.captions
    return Generation(flops + captions, passes, head_steps)


@functools.cache
def _head_weights(model: ModelShape) -> tuple[int, int]:
    """Weights of the head that a token is multiplied with in every step, and once before all steps.

    All tokens of a step are at the same time, whose embedding is not counted.
    """
    with torch.device("meta"):
        network = model.build().head.net
    time, once = (
        sum(p.numel() for p in part.parameters() if p.ndim == 2)
        for part in (network.time_embed, network.cond_embed)
    )
    return matrix_weights(model).head - time - once, once


def _head_steps(sampling: SampleParams, step: int) -> int:
    share = step / max(1, sampling.num_unmask_steps - 1)
    first, last = sampling.num_diffusion_steps, sampling.final_diffusion_steps
    return round(first + (last - first) * share)
