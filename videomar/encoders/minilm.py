"""all-MiniLM-L6-v2 without transformers, for one clip at a time.

Importing transformers takes longer than generating a clip. The model is a plain BERT: PyTorch has its layer,
and the library `tokenizers` reads its tokenizer. The states equal those of `TransformersText` up to rounding;
what the pipeline trains on still comes from there.

Axes: M caption tokens, E caption channels.
"""

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from videomar.config import TextParams
from videomar.encoders.text import TextEncoder, content_hash_of, load_text_encoder, packaged_minilm
from videomar.errors import DataError

_TOKENIZER, _CONFIG, _WEIGHTS = "tokenizer.json", "config.json", "model.safetensors"
# The names of our module's parts, and those of BERT in the file.
_NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
_log = logging.getLogger(__name__)


class MiniLMText(nn.Module):
    """States of captions by all-MiniLM-L6-v2. Remembers the network and its tokenizer."""

    def __init__(self, folder: Path, max_tokens: int, prefix: str = "") -> None:
        super().__init__()
        self.folder, self.max_tokens, self.prefix = folder, max_tokens, prefix
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        self.channels: int = config["hidden_size"]
        eps, depth = config["layer_norm_eps"], config["num_hidden_layers"]
        with torch.device("meta"):  # the file has every weight, so none is drawn
            layer = nn.TransformerEncoderLayer(
                self.channels,
                config["num_attention_heads"],
                config["intermediate_size"],
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=eps,
                batch_first=True,
            )
            self.words = nn.Embedding(config["vocab_size"], self.channels)
            self.places = nn.Embedding(config["max_position_embeddings"], self.channels)
            self.norm = nn.LayerNorm(self.channels, eps)
            self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.load_state_dict(_renamed(load_file(folder / _WEIGHTS), depth), assign=True)
        self.eval().requires_grad_(False)
        self.tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._check_length(config["max_position_embeddings"])

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
        device = self.norm.weight.device
        states = []
        for caption in captions:
            ids = self._ids(self.prefix + caption) if caption.strip() else []
            if not ids:
                states.append(torch.zeros(0, self.channels, device=device))
                continue
            given = torch.tensor(ids, device=device)
            embedded = self.words(given) + self.places.weight[: len(ids)]
            states.append(self.layers(self.norm(embedded)[None])[0])
        return states

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text, cut before the last special token."""
        ids = self.tokenizer.encode(text).ids
        if len(ids) <= self.max_tokens:
            return ids
        _log.warning("a caption is cut: it has %d tokens, text.max_tokens is %d", len(ids), self.max_tokens)
        return [*ids[: self.max_tokens - 1], ids[-1]]

    def _check_length(self, positions: int) -> None:
        taken = len(self.tokenizer.encode(self.prefix).ids)
        if not taken < self.max_tokens <= positions:
            rule = f"more than the {taken} of prefix and special tokens, and at most {positions}"
            raise DataError(f"text.max_tokens: got {self.max_tokens} tokens, expected {rule}; change it")


def load_prompt_encoder(params: TextParams) -> TextEncoder:
    """Load the encoder that section `text` names, the packaged one without transformers.

    Raises:
        DataError: files of the model are missing or cannot be read.
    """
    if params.encoder != "minilm":
        return load_text_encoder(params)
    return MiniLMText(packaged_minilm(), params.max_tokens, params.prefix)


def _renamed(stored: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Weights of BERT under our names. The token type, the same for all captions, joins the positions."""
    kinds = stored["embeddings.token_type_embeddings.weight"]
    weights = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "places.weight": stored["embeddings.position_embeddings.weight"] + kinds[0],
    }
    for end in ("weight", "bias"):
        weights[f"norm.{end}"] = stored[f"embeddings.LayerNorm.{end}"]
        for number in range(depth):
            ours, theirs = f"layers.layers.{number}", f"encoder.layer.{number}"
            parts = [stored[f"{theirs}.attention.self.{part}.{end}"] for part in ("query", "key", "value")]
            weights[f"{ours}.self_attn.in_proj_{end}"] = torch.cat(parts)
            weights |= {f"{ours}.{name}.{end}": stored[f"{theirs}.{of}.{end}"] for name, of in _NAMES.items()}
    return weights
