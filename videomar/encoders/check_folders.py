"""Folders of other people's weights, looked at before the first clip is decoded.

A stage that loads them would refuse what is refused here, but hours later. Nothing is loaded: names, sizes,
and the tables at the start of safetensors files.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from videomar.config import Params, TextParams
from videomar.config.models import NAMED_ENCODERS
from videomar.errors import CheckpointError, DataError, VideomarError

_LENGTH_BYTES = 8
_MOST_TABLE_BYTES = 100_000_000
# Names that transformers gives to the width of its models in config.json.
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "shared.weight", "wte.weight")
_COPY = "copy it again; a download that was cut off, or a pointer of git-lfs, looks like that"


def check_folders(params: Params) -> None:
    """Refuse folders of `tokenizer.pretrained` and `text.encoder` that stages could not load.

    Raises:
        CheckpointError: the tokenizer's files are missing or damaged.
        DataError: the text encoder's files are missing or damaged, or do not fit together.
    """
    # Here: reading their lists of files imports torch, which a run without such folders does without.
    if params.tokenizer.pretrained is not None:
        from videomar.encoders.load import tokenizer_files

        for file in tokenizer_files(Path(params.tokenizer.pretrained)):
            _refuse_damaged(file, "tokenizer.pretrained", CheckpointError)
    if params.text.encoder not in NAMED_ENCODERS:
        _check_text_encoder(params.text)


def _check_text_encoder(params: TextParams) -> None:
    from videomar.encoders.text import text_encoder_files

    folder, where = Path(params.encoder), "text.encoder"
    files = text_encoder_files(folder)
    for file in files:
        _refuse_damaged(file, where, DataError)
    _refuse_pieces_alone(folder, [file.name for file in files])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    width = next((config[name] for name in _WIDTHS if isinstance(config.get(name), int)), None)
    shapes = [item for file in files if file.suffix == ".safetensors" for item in table_of(file).items()]
    embedding = next((info for name, info in shapes if name.endswith(_EMBEDDINGS)), None)
    if width is not None and embedding is not None and embedding["shape"][-1] != width:
        got = f"weights of {embedding['shape'][-1]} channels and a config.json of {width}"
        raise DataError(f"{where}: {folder}: got {got}, expected the same; copy both from one model")


def _refuse_pieces_alone(folder: Path, names: Sequence[str]) -> None:
    """Refuse a tokenizer that transformers reads with another package alone, and its error is misleading.

    Raises:
        DataError: there is only a `.model` file of sentencepiece, and that package is not installed.
    """
    pieces = [name for name in names if name.endswith(".model")]
    others = ("tokenizer.json", "vocab.txt", "vocab.json")
    if pieces and not any(name in names for name in others) and find_spec("sentencepiece") is None:
        rule = "tokenizer.json beside it, or the package that reads it"
        remedy = "copy tokenizer.json of the same model there, or run `.venv/bin/pip install sentencepiece`"
        raise DataError(f"text.encoder: {folder}: got {pieces[0]} alone, expected {rule}; {remedy}")


def _refuse_damaged(file: Path, where: str, kind: type[VideomarError]) -> None:
    """Refuse a file whose content cannot be what its name says.

    Raises:
        VideomarError: of that kind; it is empty or cut off.
    """
    try:
        if file.suffix == ".safetensors":
            table_of(file)
        elif file.suffix == ".json":
            if not isinstance(json.loads(file.read_text("utf-8")), dict):
                raise ValueError("no object")
        elif file.suffix == ".jit" and not zipfile.is_zipfile(file):
            raise ValueError("no TorchScript archive")
        elif not file.stat().st_size:
            raise ValueError("an empty file")
    except (ValueError, OSError) as error:
        got = " ".join(str(error).split())[:120]
        raise kind(f"{where}: {file}: got {got}, expected a whole {file.suffix or 'file'}; {_COPY}") from None


def table_of(file: Path) -> Mapping[str, Any]:
    """Return the table of a safetensors file: type, shape and bytes of each tensor by name.

    Source: the format's own description, huggingface.co/docs/safetensors.

    Raises:
        ValueError: the file has no such table, or fewer bytes than it says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(size - _LENGTH_BYTES, _MOST_TABLE_BYTES):
            raise ValueError(f"{size} bytes without the table of a safetensors file")
        table = json.loads(stream.read(length))
    if not isinstance(table, dict):
        raise ValueError("a safetensors file whose table is no object")
    tensors = {name: info for name, info in table.items() if name != "__metadata__"}
    try:
        ends = [int(info["data_offsets"][1]) for info in tensors.values() if info["shape"] is not None]
    except (TypeError, KeyError, IndexError):
        raise ValueError("a safetensors file whose table lacks shapes or offsets") from None
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{size:,} bytes where its table says {expected:,}")
    return tensors
