"""all-MiniLM-L6-v2 without transformers, for one clip at a time.

Importing transformers takes longer than generating a clip. The model is a plain BERT, which is two functions
below; the library `tokenizers` reads its tokenizer. The states equal those of `TransformersText` up to
rounding; what the pipeline trains on still comes from there.

Source: BERT (arXiv 1810.04805), post-norm; the layout of Hugging Face's `BertModel`.

Axes: M caption tokens, E caption channels, N heads, K head channels.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from videomar.config import TextParams
from videomar.encoders.text import TextEncoder, content_hash_of, load_text_encoder, packaged_minilm
from videomar.errors import DataError

_TOKENIZER, _CONFIG, _WEIGHTS = "tokenizer.json", "config.json", "model.safetensors"
_log = logging.getLogger(__name__)


class MiniLMText:
    """States of captions by all-MiniLM-L6-v2. Remembers the weights and the tokenizer."""

    def __init__(self, folder: Path, max_tokens: int, prefix: str = "") -> None:
        from tokenizers import Tokenizer  # here: a bare GPU machine may lack it

        self.folder, self.max_tokens, self.prefix = folder, max_tokens, prefix
        self._config = json.loads((folder / _CONFIG).read_text("utf-8"))
        self.channels: int = self._config["hidden_size"]
        self._weights = load_file(folder / _WEIGHTS)
        self.tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._check_length()

    @cached_property
    def content_hash(self) -> str:
        """Hash of the files of model and tokenizer, the prefix and the length."""
        return content_hash_of(self.folder, self.max_tokens, self.prefix)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return (M, E) per caption, without padding; a caption of only spaces is (0, E).

        Prefix and caption together are cut after `max_tokens` tokens, including the two special ones; a
        warning says how many the caption has.
        """
        return [
            self._states(self._ids(self.prefix + caption))
            if caption.strip()
            else torch.zeros(0, self.channels)
            for caption in captions
        ]

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text, cut before the last special token."""
        ids = self.tokenizer.encode(text).ids
        if len(ids) <= self.max_tokens:
            return ids
        _log.warning("a caption is cut: it has %d tokens, text.max_tokens is %d", len(ids), self.max_tokens)
        return [*ids[: self.max_tokens - 1], ids[-1]]

    def _states(self, ids: list[int]) -> Tensor:
        """Return the last hidden states (M, E) of the tokens."""
        weights, eps = self._weights, self._config["layer_norm_eps"]
        words, places, kinds = (
            weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = _normed(words[ids] + places[: len(ids)] + kinds[0], weights, "embeddings", eps)
        for number in range(self._config["num_hidden_layers"]):
            x = _layer(x, weights, f"encoder.layer.{number}", self._config["num_attention_heads"], eps)
        return x

    def _check_length(self) -> None:
        taken = len(self.tokenizer.encode(self.prefix).ids)
        positions = self._config["max_position_embeddings"]
        if not taken < self.max_tokens <= positions:
            rule = f"more than the {taken} of prefix and special tokens, and at most {positions}"
            raise DataError(f"text.max_tokens: got {self.max_tokens} tokens, expected {rule}; change it")


def load_prompt_encoder(params: TextParams, device: torch.device | str = "cpu") -> TextEncoder:
    """Load the encoder that section `text` names; the packaged one on the CPU and without transformers.

    Args:
        params: section `text`.
        device: for an encoder of another kind, which may be large.

    Raises:
        DataError: files of the model are missing or cannot be read.
    """
    if params.encoder != "minilm":
        return load_text_encoder(params, device)
    return MiniLMText(packaged_minilm(), params.max_tokens, params.prefix)


def _layer(x: Tensor, weights: Mapping[str, Tensor], name: str, num_heads: int, eps: float) -> Tensor:
    """One layer on states (M, E): attention of all tokens to all, then two linear maps; each normed after."""
    q, k, v = (
        rearrange(_linear(x, weights, f"{name}.attention.self.{part}"), "m (n k) -> n m k", n=num_heads)
        for part in ("query", "key", "value")
    )
    seen = rearrange(F.scaled_dot_product_attention(q, k, v), "n m k -> m (n k)")
    attended = x + _linear(seen, weights, f"{name}.attention.output.dense")
    x = _normed(attended, weights, f"{name}.attention.output", eps)
    inner = F.gelu(_linear(x, weights, f"{name}.intermediate.dense"))
    return _normed(x + _linear(inner, weights, f"{name}.output.dense"), weights, f"{name}.output", eps)


def _linear(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _normed(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    weight, bias = (weights[f"{name}.LayerNorm.{end}"] for end in ("weight", "bias"))
    return F.layer_norm(x, weight.shape, weight, bias, eps)
